"""Every study that comes with the repository, launched for real on two ranks, on a small stand-in of its data in the same format.

What makes them small stands in `STAND_INS` and in `smaller`: one epoch, few images, small ones where the grid's own networks allow, few
configs. Precisions that only GPUs have are taken out. ImageNet weights are files of the right form with random numbers in them; as
torchvision's file names begin with their digests, the launcher runs from a copy of the source whose catalogue has theirs.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import image_fixtures
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
    "cifar100_bayes": StandIn(settings=("image_size=8", "tune.epochs=[1,2]", "tune.batch_size=[16,32]"),
                              write=lambda root: image_fixtures.write_cifar100(root, per_class=5)),
    "cifar100_resnet34": StandIn(variants=3, settings=("image_size=8",), published=("resnet34",),
                                 write=lambda root: image_fixtures.write_cifar100(root, per_class=5)),
    "digits": StandIn(variants=3, settings=("train_images=320",)),
    "digits_pretrain": StandIn(settings=("train_images=160",)),
    "digits_search": StandIn(variants=2, settings=("train_images=160", "search.halving.first=1", "epochs=4")),
    "digits_transfer": StandIn(variants=3, earlier="digits_pretrain"),
    "fashion_cnn": StandIn(variants=6, settings=("tune.filters=[16,24]", "tune.depth=[1,5,10]"),
                           write=image_fixtures.write_fashion_mnist),
    "small_cnn": StandIn(variants=2, settings=("train_images=60",), published=("resnet18",), write=image_fixtures.write_cifar10),
}


def smaller(text: str, *, epochs: int = 1) -> str:
    """A grid's text with so many epochs (one more where it has 20, as variants may differ by that alone), batches of 16, images of 32
    pixels where it has 224, one seed and no precision of its own."""
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


def launch(name: str, stand_in: StandIn, folder: Path, *, epochs: int = 1, more: tuple[str, ...] = ()) -> Path:
    """Launches a grid, made smaller, from `folder`, beside studies launched before; it must succeed. Returns the study's folder.

    Args:
        epochs: of each trial, one more where the grid has 20.
        more: settings that count more than those that make it small.
    """
    grid, study = folder / f"{name}.toml", folder / "runs" / name
    grid.write_text(smaller((ROOT / "grids" / grid.name).read_text(), epochs=epochs))
    settings = ["local.ranks=2", "local.cpus_per_trial=2", *stand_in.settings]
    if "[search]" in grid.read_text():
        settings += ["search.trials=2", "search.wave=2", "confirm.top=1", "confirm.seeds=1"]
    settings += more
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
        check(launch(each, STAND_INS[each], tmp_path), variants=STAND_INS[each].variants)


def check(study: Path, *, variants: int) -> None:
    """All trials are over, on two ranks; every variant has a test result, and no trial of the search has one."""
    trials = pq.read_table(study / "trials.parquet").to_pylist()
    names = {row["variant"] for row in trials}
    assert len(names) == variants and {row["status"] for row in trials} <= {"done", "pruned"}, trials
    searched = Counter(row["variant"] for row in trials if row["phase"] == "search")
    assert set(searched.values()) <= {2}
    tested = [row for row in trials if row["test_acc"] is not None]
    assert {row["variant"] for row in tested} == names and all(0 <= row["test_acc"] <= 1 for row in tested)
    assert not [row for row in tested if row["phase"] == "search"]
    assert {row["ranks"] for row in pq.read_table(study / "attempts.parquet").to_pylist()} == {2}
