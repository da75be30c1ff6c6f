"""The tuned studies that come with the repository, launched for real on small stand-ins of their data in the same formats."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import image_fixtures
import pyarrow.parquet as pq
import pytest
from studies import ROOT

SMALLER = ("search.trials=2", "search.wave=2", "confirm.top=1", "confirm.seeds=2", "local.running=2")
FILES: dict[str, Any] = {
    "cifar100_bayes": (
        lambda root: image_fixtures.write_cifar100(root, per_class=5), {"epochs     = 30": "epochs     = 2"}, ("tune.epochs=[1,2]",)),
    "fashion_cnn": (
        lambda root: image_fixtures.write_fashion_mnist(root, per_class=10),
        {"epochs     = 20": "epochs     = 2", "epochs           = 20": "epochs           = 2", "epochs     = 3": "epochs     = 1"},
        ("batch_size=16", "tune.filters=[16,24]", "tune.depth=[1,5,10]")),
    "small_cnn": (
        lambda root: image_fixtures.write_cifar10(root, per_class=10),
        {'"imagenet"': '"none"', "image_size = 224": "image_size = 32"}, ("train_images=60", "batch_size=16", "epochs=1")),
    "digits_search": (lambda root: None, {"first  = 2": "first  = 1"}, ("train_images=160", "epochs=4")),
}
"""Grid -> what writes its data, what is changed in the file itself (no --set reaches into a list of tables), what else is set."""


def launch(grid: Path, data: Path, *options: str) -> str:
    """What the launcher prints; it must succeed."""
    done = subprocess.run([sys.executable, "-m", "harness.launch", str(grid), "--local", *options], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
                          env={**os.environ, "HARNESS_DATA": str(data), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", FILES)
def test_a_study_on_a_small_stand_in(name: str, tmp_path: Path) -> None:
    write, changes, settings = FILES[name]
    write(tmp_path / "data")
    text = (ROOT / "grids" / f"{name}.toml").read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    grid = tmp_path / f"{name}.toml"
    grid.write_text(text)
    launch(grid, tmp_path / "data", "--study-dir", str(tmp_path / "study"), *(word for s in (*SMALLER, *settings) for word in ("--set", s)))
    trials = pq.read_table(tmp_path / "study" / "trials.parquet").to_pylist()
    variants = Counter(row["variant"] for row in trials if row["phase"] == "search")
    assert all(count == 2 for count in variants.values()) and len(variants) == {"fashion_cnn": 6, "cifar100_bayes": 1}.get(name, 2)
    for variant in variants:
        confirmed = [row for row in trials if row["variant"] == variant and row["phase"] == "confirm" and row["status"] == "done"]
        assert confirmed and all(0 <= row["test_acc"] <= 1 and row["test_opening"] == 1 for row in confirmed), variant
    assert all(row["test_acc"] is None for row in trials if row["phase"] == "search")
    assert {row["status"] for row in trials} <= {"done", "pruned", "infeasible"}
