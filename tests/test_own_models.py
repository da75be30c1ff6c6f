"""A network of the user's own, `model = "package.module:function"`: what the function has to be, and a study on its own copy of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from studies import ROOT
from torch import nn

from harness.errors import UsageError
from harness.grid import parse_grid
from harness.needs import own_functions
from harness.snapshot import Source
from jobs import models, registry
from jobs.config import Config, ConfigError

SOURCE = '''
"""Networks of a user's own."""
import numpy as np
from jobs.layers import Infeasible
from torch import nn


def build(config, *, classes, channels, size):
    """Computes with numpy and random numbers while it is built, as such functions do."""
    if config.filters > 100:
        raise Infeasible("more than 100 filters are too many for me")
    width = int(np.ceil(config.filters * (1 + 0 * np.random.rand())))
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Dropout(config.dropout), nn.Linear(width, classes))


class Reads(nn.Module):
    """Looks at the numbers in its forward pass, which no network without memory can."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.body = nn.Flatten()
        self.last = nn.Linear(inputs, classes)

    def forward(self, x):
        if x.abs().max().item() > 1e6:
            raise RuntimeError("these are no pixels")
        return self.last(self.body(x))


def reads(config, *, classes, channels, size):
    return Reads(channels * size * size, classes)


def number(config, **sizes):
    return 3


def three(config, *, classes, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, 3))


def large(config, *, classes, channels, size):
    return nn.Sequential(nn.Conv2d(channels, 4, 9), nn.Flatten(), nn.LazyLinear(classes))


def broken(config, **sizes):
    raise KeyError("my own mistake")
'''


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the package `my_nets`, which is in no other test's process."""
    package = tmp_path / "on the path" / "my_nets"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "small.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(package.parent))
    yield package.parent
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_nets"]:
        del sys.modules[name]


def build(config: Config, **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return models.build(config, **{"classes": 10, "channels": 1, "size": 8, **sizes})


def own(function: str, **values: object) -> Config:
    return Config.from_dict({"model": f"my_nets.small:{function}", **values})


def test_a_function_builds_the_network(nets: Path) -> None:
    network = build(own("build", filters=6, dropout=0.5), classes=4, channels=3)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    torch.manual_seed(0)
    direct = sys.modules["my_nets.small"].build(own("build", filters=6), classes=4, channels=3, size=8)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), direct.parameters(), strict=True)), "the seed's own first draws"
    assert models.parts(network)["classifier"] == ["6.weight", "6.bias"]


def test_its_forward_pass_may_look_at_numbers(nets: Path) -> None:
    assert build(own("reads"))(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert [layer.name for layer in models.describe(own("reads"))] == ["body", "last"]


def test_every_parameter_of_a_model_is_its_to_read() -> None:
    inactive = Config.from_dict({"model": "anything:goes"}).inactive()
    assert not inactive & {name for reads in registry.OUR_MODELS.values() for name in reads} and "gamma" in inactive
    assert "depth" in Config.from_dict({"model": "resnet18"}).inactive()


@pytest.mark.parametrize(("function", "message"), [
    ("my_nets.small:bild", r"small.py has no function `bild`; did you mean `build`\?"),
    ("my_nets.smal:build", "the module my_nets.smal cannot be imported .*; the folder that holds it must be the working directory or on"),
    ("no_such_package:build", "the module no_such_package cannot be imported"),
    ("my_nets.small:number", "my_nets.small:number returned a int, and a torch.nn.Module is meant"),
    ("my_nets.small:three", "a tensor of shape 2x3 of a batch of 2 images, and 2x10 logits are meant, one for each of 10 classes"),
])
def test_what_is_no_network_is_refused_before_training(nets: Path, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Config.from_dict({"model": function}))


def test_infeasible_parameters_and_images(nets: Path) -> None:
    with pytest.raises(models.Infeasible, match="more than 100 filters are too many for me"):
        build(own("build", filters=101))
    with pytest.raises(models.Infeasible, match=r"0 \(Conv2d\): its input is 1x8x8, too small for kernel 9"):
        build(own("large"))


def test_a_mistake_inside_it_is_raised_as_it_is_and_stops_no_worker(nets: Path) -> None:
    with pytest.raises(KeyError, match="my own mistake"):
        build(own("broken"))
    models.warm_up(own("broken"))
    models.warm_up(Config.from_dict({"model": "no_such_package:build"}))


@pytest.mark.parametrize("model", ["package.module", "package.module:", ":function", "a b:c", "a:b:c", "../x:y", "-m:x"])
def test_what_names_no_function(model: str) -> None:
    with pytest.raises(ConfigError, match="unknown model"):
        Config.from_dict({"model": model})


def test_it_has_no_published_weights() -> None:
    with pytest.raises(ConfigError, match='model my_nets.small:build has no weights "imagenet"'):
        own("build", weights="imagenet")
    assert own("build", weights="study:first").weights == "study:first"


def test_describe_on_the_command_line(nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"model": "my_nets.small:build", "filters": 6, "freeze": "backbone"}}))
    assert models.main(["--describe", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "142 parameters: 70 trained, 72 frozen"
    path.write_text(json.dumps({"config": {"model": "my_nets.small:bild"}}))
    assert models.main(["--describe", str(path)]) == 2


# --------------------------------------------------------------------------------------------------------------- in a study


GRID = """
[study]
name = "own"
[fixed]
model = "my_nets.small:build"
train_images = 160
batch_size = 32
epochs = 1
[compare]
filters = [4, 101]
[local]
ranks = 2
"""


def test_a_study_knows_whose_code_it_runs(nets: Path) -> None:
    """Fixed, compared, of a variant or tuned: every function's package is part of the source, whose digest changes with it."""
    grid = parse_grid(GRID, name="x.toml")
    assert own_functions(grid) == ["my_nets.small:build"]
    tuned = GRID.replace('model = "my_nets.small:build"', "").replace("[compare]\nfilters = [4, 101]", """
[tune]
model = ["my_nets.small:build", "plain_cnn", "my_nets.small:reads", "timm:resnet18"]
[search]
trials = 2""")
    assert own_functions(parse_grid(tuned, name="x.toml")) == ["my_nets.small:build", "my_nets.small:reads"]
    before = Source.of_this_process("my_nets.small:build", "my_nets.small:reads")
    assert before.files["my_nets/small.py"].decode() == SOURCE
    (nets / "my_nets" / "small.py").write_text(SOURCE + "# changed\n")
    assert Source.of_this_process("my_nets.small:build").digest != before.digest
    with pytest.raises(UsageError, match="there is no Python package or module `no_such_package` to run"):
        Source.of_this_process("no_such_package:build")


@pytest.mark.slow
def test_a_study_with_a_network_of_ones_own_on_two_ranks(nets: Path, tmp_path: Path) -> None:
    grid, study = tmp_path / "own.toml", tmp_path / "runs" / "own"
    grid.write_text(GRID)

    def launch() -> str:
        done = subprocess.run([sys.executable, "-m", "harness.launch", str(grid), "--local", "--study-dir", str(study)], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240,
                              env={**os.environ, "HARNESS_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(nets)})
        assert done.returncode == 0, done.stdout
        return done.stdout

    launch()
    rows = {row["param_filters"]: row for row in pq.read_table(study / "trials.parquet").to_pylist()}
    assert rows[4]["status"] == "done" and 0 <= rows[4]["test_acc"] <= 1
    assert rows[101]["status"] == "infeasible" and rows[101]["reason"] == "more than 100 filters are too many for me"
    copies = list((study / "code").glob("*/my_nets/small.py"))
    assert [copy.read_text() for copy in copies] == [SOURCE]
    (nets / "my_nets" / "small.py").write_text(SOURCE.replace("def build(", "def gone("))
    shutil.rmtree(study / "trials" / rows[4]["trial_id"])
    assert "the code has changed since this study began" in launch(), "and it trains with its own copy"
    assert pq.read_table(study / "trials.parquet").to_pylist()[0]["test_acc"] == rows[4]["test_acc"]
