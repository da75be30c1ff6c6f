"""Every study that comes with the repository, launched for real on two ranks, on a small stand-in of its data in the same format; then
the picture of each of the five hand-made ones, by the command of docs/figures.md.

What makes them small stands in `STAND_INS` and in `smaller`: one epoch, few images, small ones where the grid's own networks allow, few
configs. Precisions that only GPUs have are taken out. ImageNet weights are files of the right form with random numbers in them; as
torchvision's file names begin with their digests, the launcher runs from a copy of the source whose catalogue has theirs.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import image_fixtures
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from studies import ROOT

from jobs.registry import torchvision_models


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """What a grid is tried on."""

    variants: int = 1
    epochs: int = 1
    """Of each trial, one more where the grid has 20, as variants may differ by that alone. A learning rate takes two to change."""
    trials: int = 2
    """Configs of each variant, where there is a search. Associations take eight of all variants."""
    settings: tuple[str, ...] = ()
    """What --set changes besides."""
    write: Callable[[Path], object] | None = None
    """Writes its data; None where they come with scikit-learn."""
    published: tuple[str, ...] = ()
    """The models whose ImageNet weights it starts from."""
    earlier: str = ""
    """The grid that it starts from."""


STAND_INS = {
    "caltech_transfer": StandIn(variants=9, settings=("image_size=64", "batch_size=8"), published=("alexnet", "resnet50"),
                                write=image_fixtures.write_caltech101),
    "cifar100_bayes": StandIn(trials=3, settings=("image_size=8", "tune.epochs=[1,2]", "tune.batch_size=[16,32]"),
                              write=lambda root: image_fixtures.write_cifar100(root, per_class=5)),
    "cifar100_resnet34": StandIn(variants=3, epochs=2, settings=("image_size=8",), published=("resnet34",),
                                 write=lambda root: image_fixtures.write_cifar100(root, per_class=5)),
    "digits": StandIn(variants=3, settings=("train_images=320",)),
    "digits_pretrain": StandIn(settings=("train_images=160",)),
    "digits_search": StandIn(variants=2, settings=("train_images=160", "search.halving.first=1", "epochs=4")),
    "digits_transfer": StandIn(variants=3, earlier="digits_pretrain"),
    "fashion_cnn": StandIn(variants=6, settings=("tune.filters=[16,24]", "tune.depth=[1,5,10]"),
                           write=image_fixtures.write_fashion_mnist),
    "small_cnn": StandIn(variants=2, trials=5, settings=("train_images=60",), published=("resnet18",), write=image_fixtures.write_cifar10),
}


def smaller(text: str, *, epochs: int) -> str:
    """A grid's text with so many epochs (one more where it has 20), batches of 16, images of 32 pixels where it has 224, one seed and no
    precision of its own."""
    for key, was, becomes in (("epochs", r"(?!20)\d+", f"{epochs}"), ("epochs", "20", f"{epochs + 1}"), ("batch_size", r"\d+", "16"),
                              ("image_size", "224", "32"), ("train_images", r"\d+", "60"), ("seeds", r"\[.*\]", "[0]"),
                              ("precision", ".*", '"fp32"')):
        text = re.sub(rf"^({key} *)= {was}", rf"\1= {becomes}", text, flags=re.MULTILINE)
    return text


def source_with_weights(folder: Path, data: Path, models: tuple[str, ...]) -> Path:
    """A copy of the source that takes files in the data folder, made here, for the published weights of some models."""
    catalogue = {name: {**entry} for name, entry in torchvision_models().items()}
    (data / "weights").mkdir(parents=True, exist_ok=True)
    for model in models:
        torch.manual_seed(0)
        made = data / "weights" / "made.pth"
        torch.save(torchvision.models.get_model(model).state_dict(), made)
        path = made.rename(made.with_name(f"{model}-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"))
        catalogue[model]["weights"] = {"IMAGENET1K_V1": f"https://nowhere.example/{path.name}"}
    for package in ("harness", "jobs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "jobs" / "torchvision_models.json").write_text(json.dumps(catalogue))
    return folder


def launch(name: str, stand_in: StandIn, folder: Path) -> Path:
    """Launches a grid, made smaller, from `folder`, beside studies launched before; it must succeed. Returns the study's folder."""
    grid, study = folder / f"{name}.toml", folder / "runs" / name
    grid.write_text(smaller((ROOT / "grids" / grid.name).read_text(), epochs=stand_in.epochs))
    settings = ["local.ranks=2", "local.cpus_per_trial=2", *stand_in.settings]
    if "[search]" in grid.read_text():
        settings += [f"search.trials={stand_in.trials}", f"search.wave={stand_in.trials}", "confirm.top=1", "confirm.seeds=1"]
    options = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run([sys.executable, "-m", "harness.launch", str(grid), "--local", "--study-dir", str(study), *options], text=True,
                          cwd=folder / "source" if stand_in.published else ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False, timeout=300, env={**os.environ, "HARNESS_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout
    return study


def test_no_grid_is_left_out() -> None:
    assert set(STAND_INS) == {path.stem for path in (ROOT / "grids").glob("*.toml")}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [name for name in STAND_INS if name not in {stand_in.earlier for stand_in in STAND_INS.values()}])
def test_a_study_on_a_small_stand_in(name: str, tmp_path: Path) -> None:
    stand_in = STAND_INS[name]
    if stand_in.write:
        stand_in.write(tmp_path / "data")
    if stand_in.published:
        source_with_weights(tmp_path / "source", tmp_path / "data", stand_in.published)
    for each in filter(None, (stand_in.earlier, name)):
        study = launch(each, STAND_INS[each], tmp_path)
        check(study, STAND_INS[each])
        plots(str(study), "--out", str(tmp_path / "all"))
    if name in (given := commands()):
        draw(study, given[name])


def check(study: Path, stand_in: StandIn) -> None:
    """All trials are over, on two ranks; every variant has a test result, and no trial of the search has one."""
    trials = pq.read_table(study / "trials.parquet").to_pylist()
    names = {row["variant"] for row in trials}
    assert len(names) == stand_in.variants and {row["status"] for row in trials} <= {"done", "pruned"}, trials
    searched = Counter(row["variant"] for row in trials if row["phase"] == "search")
    assert set(searched.values()) <= {stand_in.trials}
    tested = [row for row in trials if row["test_acc"] is not None]
    assert {row["variant"] for row in tested} == names and all(0 <= row["test_acc"] <= 1 for row in tested)
    assert not [row for row in tested if row["phase"] == "search"]
    assert {row["ranks"] for row in pq.read_table(study / "attempts.parquet").to_pylist()} == {2}


def commands() -> dict[str, list[str]]:
    """Study -> the words of the command for its picture, in the table of docs/figures.md."""
    text = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(python -m analysis\.plots [^`]*)`", text, re.MULTILINE)
    return {study: shlex.split(command) for study, command in rows}


def test_the_five_studies_have_a_command_for_their_picture() -> None:
    assert set(commands()) == {"small_cnn", "caltech_transfer", "fashion_cnn", "cifar100_bayes", "cifar100_resnet34"}
    assert all(words[3] == study for study, words in commands().items())


def draw(study: Path, words: list[str]) -> None:
    """Gives the command; each figure that it names, or the table, is there and shows something."""
    plots(*words[3:], "--runs", str(study.parent))
    figures = words[words.index("--only") + 1].split(",") if "--only" in words else ["comparison", "curves"]
    for figure in figures:
        assert {path.suffix for path in (study / "figures").glob(f"{figure}.*")} == {".png", ".pdf", ".svg", ".csv"}
        assert len(pd.read_csv(study / "figures" / f"{figure}.csv"))
    if "--only" not in words:
        table = (study / "figures" / "results.tex").read_text()
        assert table.count("\\\\") > STAND_INS[study.name].variants and r"\toprule" in table


def plots(*options: str) -> None:
    """Gives the command that draws; no figure may be left out for any reason but that the study has nothing of the kind."""
    done = subprocess.run([sys.executable, "-m", "analysis.plots", *options], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "left out" not in done.stderr, done.stdout + done.stderr
