"""Networks of timm: their names, their weights from staging to a trial, the images they take, their parts, and several ranks.

The weights are made here: timm's own download is replaced, by one that hands out a network's state as the hub would.
"""

import copy
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import stage
from harness.errors import GridError
from harness.grid import parse_grid
from harness.needs import needed_configs
from jobs import models, registry
from jobs.batch_norm import GlobalBatchNorm, across_ranks
from jobs.config import Config, ConfigError

timm = pytest.importorskip("timm")

RESNET = Config(model="timm:test_resnet")
PRETRAINED = dataclasses.replace(RESNET, weights="imagenet")


def build(config: Config, *, weights_file: Path | None = None, classes: int = 10, channels: int = 3, size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return models.build(config, classes=classes, channels=channels, size=size, weights_file=weights_file)


# -------------------------------------------------------------------------------------------------------------------- names


def test_the_names_in_timms_source_are_those_it_lists() -> None:
    assert registry.timm_models() == {f"timm:{name}" for name in timm.list_models()}


@pytest.mark.parametrize(("model", "message"), [
    ("timm:resnet19", r'unknown model "timm:resnet19" for the timm that is installed; did you mean `timm:resnet18`\?'),
    ("timm:", 'unknown model "timm:"'),
    ("timm:../../resnet18", "unknown model"),
])
def test_unknown_names(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict({"model": model})


def test_a_grid_with_an_unknown_name_shows_where_it_stands() -> None:
    with pytest.raises(GridError) as found:
        parse_grid('[study]\nname = "x"\n[compare]\nmodel = ["timm:resnet18", "timm:resnet19"]\n', name="x.toml")
    assert "did you mean `timm:resnet18`" in str(found.value) and "x.toml:4:27" in str(found.value) and "^^^" in str(found.value)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "timm", None)
    registry.timm_models.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r'"timm:resnet18" needs timm, which is not installed here: `pip install .\[timm\]`'):
            Config.from_dict({"model": "timm:resnet18"})
        with pytest.raises(ConfigError, match=r"needs timm, which cannot be imported here .*`pip install .\[timm\]`"):
            build(RESNET)
    finally:
        registry.timm_models.cache_clear()


def test_a_tag_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"Invalid pretrained tag \(nope\).*did you mean `timm:test_resnet.r160_in1k`"):
        build(Config.from_dict({"model": "timm:test_resnet.nope"}))


def test_what_a_grid_may_say() -> None:
    """`dropout` is read and other networks' parameters are not; "imagenet" is the only name of weights."""
    config = Config.from_dict({"model": "timm:test_resnet.r160_in1k", "dropout": 0.1, "weights": "imagenet"})
    assert "dropout" not in config.inactive() and {"depth", "filters", "hidden"} <= config.inactive()
    with pytest.raises(ConfigError, match='model timm:test_resnet has no weights "IMAGENET1K_V1"'):
        Config.from_dict({"model": "timm:test_resnet", "weights": "IMAGENET1K_V1"})
    path = registry.weights_path("timm:test_resnet.r160_in1k", "imagenet", Path("data"))
    assert path == Path("data/weights/timm-test_resnet.r160_in1k.pt")
    assert registry.weights_path("timm:test_resnet", "none", Path("data")) is None


# ------------------------------------------------------------------------------------------------------------------ networks


def test_grey_images_are_taken_three_times_and_dropout_is_passed_on() -> None:
    network = build(dataclasses.replace(RESNET, dropout=0.25), channels=1).eval()
    x_BCHW = torch.rand(2, 1, 32, 32)
    assert network(x_BCHW).shape == (2, 10)
    assert torch.equal(network(x_BCHW), network(x_BCHW.repeat(1, 3, 1, 1)))
    assert network.drop_rate == 0.25


def test_building_draws_from_torchs_seed_alone() -> None:
    """vit's parameters are drawn by functions of timm's own, some of them even where no memory is given to them."""
    config = Config(model="timm:vit_small_patch16_rope_mixed_224")
    first = models._without_memory(config, classes=10, channels=3, size=64)
    assert {p.device.type for p in first.parameters()} == {"meta"}
    before = torch.get_rng_state()
    models._without_memory(config, classes=10, channels=3, size=64)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("config", "size", "reason"), [
    (Config(model="timm:inception_v3"), 32, "its input is 288x1x1, too small for kernel 3"),
    (Config(model="timm:test_vit"), 8, "cannot be built for 8x8 images|8x8"),
])
def test_images_that_do_not_fit(config: Config, size: int, reason: str) -> None:
    with pytest.raises(models.Infeasible, match=reason):
        build(config, size=size)


def test_a_network_that_is_no_classifier() -> None:
    with pytest.raises(ConfigError, match="timm:gemma4_vit_167m_enc is no classifier of images"):
        build(Config(model="timm:gemma4_vit_167m_enc"), size=64)


def test_the_classifier_is_the_one_that_timm_names() -> None:
    """In a ConvNeXt the head's norm belongs to the backbone; its dropout, which has no parameters, to neither part."""
    network = build(dataclasses.replace(Config(model="timm:test_convnext"), dropout=0.5), size=64)
    assert models.parts(network)["classifier"] == ["head.fc.weight", "head.fc.bias"]
    assert models.classifier(network) is network.get_classifier()  # type: ignore[operator]
    models.freeze(network, "backbone")
    models.set_train(network, "backbone")
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"head.fc.weight", "head.fc.bias"}
    in_training = {name for name, module in network.named_modules() if module.training and name}
    assert {"head", "head.fc", "head.drop"} <= in_training and not {"head.norm", "stem", "stages"} & in_training
    models.set_train(network, "classifier")
    assert network.head.norm.training and not network.head.fc.training  # type: ignore[union-attr]


def test_both_heads_of_a_network_with_two() -> None:
    network = models._without_memory(Config(model="timm:deit_tiny_distilled_patch16_224"), classes=10, channels=3, size=32)
    assert {name.partition(".")[0] for name in models.parts(network)["classifier"]} == {"head", "head_dist"}


# ------------------------------------------------------------------------------------------------------------------- weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Tensor]]:
    """Makes timm's download give out the state of a network of timm's own, and returns that state."""
    def publish(name: str, **options: Any) -> dict[str, Tensor]:
        torch.manual_seed(7)
        state: dict[str, Tensor] = timm.create_model(name, **options).state_dict()

        def download(*args: object, **kwargs: object) -> dict[str, Tensor]:
            assert kwargs.get("weights_only", True)
            return copy.deepcopy(state)

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
        return state
    return publish


def staged(data: Path, model: str = "timm:test_resnet") -> tuple[int, Path]:
    """The exit status of staging a grid with this model, and where its weights then are."""
    grid = parse_grid(f'[study]\nname = "x"\n[fixed]\nmodel = "{model}"\nweights = "imagenet"\n', name="x.toml")
    path = registry.weights_path(model, "imagenet", data)
    assert path is not None and [c.model for c in needed_configs(grid)] == [model]
    return stage.stage([(data / "x.toml", grid)], data, runs=data / "runs"), path


def test_weights_are_staged_once_and_all_but_the_head_is_taken(hub: Callable[..., dict[str, Tensor]], tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    state = hub("test_resnet")
    status, path = staged(tmp_path)
    assert status == 0 and "fetched test_resnet.r160_in1k of timm" in capsys.readouterr().out
    assert list(path.parent.iterdir()) == [path], "nothing else is left there"
    assert staged(tmp_path)[0] == 0 and "already there" in capsys.readouterr().out
    network, fresh = build(PRETRAINED, weights_file=path).state_dict(), build(RESNET).state_dict()
    for name, value in network.items():
        assert torch.equal(value, (fresh if name.startswith("fc.") else state)[name]), name
    same_classes = build(PRETRAINED, weights_file=path, classes=1000)
    assert not torch.equal(same_classes.fc.weight, state["fc.weight"]), "the head is new even with as many classes"  # type: ignore[union-attr, arg-type]


def test_a_damaged_file_is_refused_and_fetched_again(hub: Callable[..., dict[str, Tensor]], tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    hub("test_resnet")
    path = staged(tmp_path)[1]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:1000], b""):
        path.write_bytes(damaged)
        with pytest.raises(models.WeightsError, match=r"timm-test_resnet.pt .*run `python -m harness.stage GRID` where there is internet"):
            build(PRETRAINED, weights_file=path)
        assert staged(tmp_path)[0] == 0 and "fetching it again" in capsys.readouterr().out
        build(PRETRAINED, weights_file=path)


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no route\nto the hub")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    status, path = staged(tmp_path)
    err = capsys.readouterr().err
    assert status == 1 and "FAILED  weights imagenet of timm:test_resnet: timm cannot fetch them: RuntimeError: no route to the hub" in err
    assert str(path) in err and list(path.parent.iterdir()) == []


def test_weights_that_timm_does_not_publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = next(name for name in timm.list_models() if name not in timm.list_models(pretrained=True)
                   and not (timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).has_weights)
    assert staged(tmp_path, f"timm:{without}")[0] == 1
    assert f"timm publishes no weights of timm:{without}" in capsys.readouterr().err


def test_positions_are_resampled_for_images_of_another_size(hub: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    """As timm itself does when it is asked for such a network; all the rest is taken as it is."""
    state = hub("test_vit")
    path = staged(tmp_path, "timm:test_vit")[1]
    network = build(Config(model="timm:test_vit", weights="imagenet"), weights_file=path, size=64).state_dict()
    assert network["pos_embed"].shape != state["pos_embed"].shape
    theirs = timm.create_model("test_vit", pretrained=True, img_size=64, num_classes=10).state_dict()
    for name, value in network.items():
        assert name.startswith("head.") or torch.equal(value, theirs[name]), name


def test_weights_of_another_network(hub: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    hub("test_resnet")
    path = staged(tmp_path)[1]
    with pytest.raises(models.WeightsError, match="is a checkpoint of another model than timm:test_vit"):
        build(Config(model="timm:test_vit", weights="imagenet"), weights_file=path, size=64)
    kept = torch.load(path, weights_only=True)
    kept["model"]["conv1.0.weight"] = kept["model"].pop("conv1.0.weight")[:, :2]
    torch.save(kept, path)
    with pytest.raises(models.WeightsError, match="does not fit|another model than timm:test_resnet"):
        build(PRETRAINED, weights_file=path)


def test_an_earlier_study_with_a_network_of_timm(tmp_path: Path) -> None:
    earlier = build(RESNET, classes=5)
    torch.save({"model": dict(earlier.state_dict())}, tmp_path / "selected.pt")
    network = build(dataclasses.replace(RESNET, weights="study:first"), weights_file=tmp_path / "selected.pt")
    assert torch.equal(network.conv1[0].weight, earlier.conv1[0].weight)  # type: ignore[index, union-attr, operator]
    assert network.fc.weight.shape[0] == 10  # type: ignore[union-attr, index]


def test_describe_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"model": "timm:test_resnet", "dataset": "cifar10", "freeze": "backbone"}}))
    assert models.main(["--describe", str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    trained = sum(p.numel() for p in build(RESNET).fc.parameters())  # type: ignore[union-attr, operator]
    assert f" {trained:,} trained, " in out[-1]


# --------------------------------------------------------------------------------------------------------------------- ranks


def test_an_activation_inside_a_batch_norm_outlives_sharing_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums over ranks are tested in test_batch_norm.py; here, that timm's norm is one that is known there."""
    torch.manual_seed(0)
    norm = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU)
    theirs = nn.Sequential(nn.Conv2d(2, 4, 3), norm)
    x_BCHW = torch.randn(6, 2, 6, 6)
    expected = copy.deepcopy(theirs)(x_BCHW)
    with monkeypatch.context() as patched:
        patched.setattr("jobs.batch_norm.ranks", lambda: 2)
        patched.setattr("torch.distributed.get_backend", lambda: "gloo")
        ours = across_ranks(theirs)
    assert isinstance(ours[1], GlobalBatchNorm) and list(ours.state_dict()) == list(theirs.state_dict())  # type: ignore[index]
    assert torch.equal(ours(x_BCHW), expected)
