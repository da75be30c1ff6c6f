"""The benchmarks of training run to their verdict at tiny sizes, and what they share measures and fails as it says."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, made_data, report
from jobs import data
from jobs.config import Config

ROOT = Path(__file__).parent.parent


def bench(name: str, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if key not in ("HARNESS_DATA", "OMP_NUM_THREADS")}
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("training", []), ("trials", ["--sides", "hand"]), ("gpu", ["--cpu"])])
def test_a_quick_run_measures_everything_and_ends_with_its_verdict(name: str, options: list[str]) -> None:
    done = bench(name, "--rounds", "1", "--quick", *options)
    last = done.stdout.rstrip().splitlines()[-1]
    assert re.match(rf"(PASS|FAIL) {name}\b.*n=1", last), done.stdout + done.stderr
    assert done.returncode == (0 if last.startswith("PASS") else 1)
    assert "OMP_NUM_THREADS=1" in done.stdout
    assert "\nnot measured:" not in done.stdout


@pytest.mark.parametrize("name", ["training", "trials", "gpu"])
def test_help_says_what_the_exit_status_means(name: str) -> None:
    done = bench(name, "--help")
    assert done.returncode == 0
    assert "--rounds" in done.stdout and "exit status: 0 when" in done.stdout


def test_a_gap_within_three_standard_errors_is_allowed() -> None:
    gap, allowed = report.gap([0.9, 0.8, 0.7], [0.6, 0.6, 0.6], slack=0.01)
    assert gap == pytest.approx(0.2)
    assert allowed == pytest.approx(3 * 0.1 / 3**0.5)  # the others' deviation is 0.1, ours 0
    assert report.gap([0.9], [0.8], slack=0.02)[1] == 0.02


def _spoil(value: int) -> int:
    os.environ["BENCH_SPOILED"] = "1"
    return value + 1


def _fail() -> None:
    print("what was said before")
    raise ValueError("this is why")


def _hang() -> None:
    subprocess.run(["sleep", "1000"], check=False)


def test_a_fork_gives_its_result_and_keeps_its_changes_to_itself(tmp_path: Path) -> None:
    assert report.in_fork(_spoil, 1, log=tmp_path / "log") == 2
    assert "BENCH_SPOILED" not in os.environ


def test_a_fork_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)what was said before.*this is why"):
        report.in_fork(_fail, log=tmp_path / "log")


def test_a_fork_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        report.in_fork(_hang, log=tmp_path / "log", limit_s=0.2)
    assert time.monotonic() - began < 100


def test_made_data_sets_are_read_as_the_real_ones(tmp_path: Path) -> None:
    made_data.fashion_mnist(tmp_path, train=100, test=20)
    made_data.cifar10(tmp_path, train=100, test=20)
    made_data.caltech101(tmp_path, count=60)
    for dataset, images in (("fashion_mnist", 120), ("cifar10", 120), ("caltech101", 60)):
        splits = data.load(Config(dataset=dataset, image_size=32, batch_size=8), tmp_path)
        assert len(splits.images) == images and splits.classes == 10
        assert len(np.unique(splits.images[0])) > 50  # no flat picture


def test_the_roofline_is_the_lower_of_its_two_sides(tmp_path: Path) -> None:
    class Options:
        cpu, quick, minutes, workers = True, True, 1.0, 0

    found = gpu.Bench(tmp_path, Options(), None)  # type: ignore[arg-type]
    found._found = {("hardware",): {"name": "NVIDIA H200", "tflop_per_s": 1.0, "tb_per_s": 1.0, "memory_gb": 1, "cuda": "", "cpus": 1},
                    ("cost", gpu.SMALL_28): {"gflop": 1.0, "mb": 8.0}}
    assert found._bound(gpu.SMALL_28) == pytest.approx(4.8e12 / 8e6)  # by the data sheet's 989 TFLOP/s it would be 989,000
    found._found["cost", gpu.SMALL_28] = {"gflop": 100.0, "mb": 8.0}
    assert found._bound(gpu.SMALL_28) == pytest.approx(9890)
    assert all(not aim.met for aim in found.aims())  # what was not measured is missed
