"""The benchmark commands run to their verdict at tiny sizes (whatever it says there), and what they share counts right."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report

ROOT = Path(__file__).parent.parent
NAMES = ("loader", "throughput", "start", "launch", "search", "halving", "confirm", "barrier", "analysis")


def bench(name: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs one benchmark as its users do."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HARNESS_DATA", "OMP_NUM_THREADS")}
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=900, check=False)


@pytest.mark.slow
@pytest.mark.timeout(960)
@pytest.mark.parametrize(("name", "options"), [
    ("loader", []), ("search", []), ("halving", []), ("confirm", []), ("start", ["--no-slurm"]),
    pytest.param("launch", [], marks=pytest.mark.slurm), pytest.param("start", [], marks=[pytest.mark.slurm, pytest.mark.exhaustive]),
    *(pytest.param(name, [], marks=pytest.mark.exhaustive) for name in ("throughput", "barrier", "analysis"))])
def test_a_quick_run_ends_with_its_verdict(name: str, options: list[str]) -> None:
    done = bench(name, "--rounds", "1", "--quick", *options)
    last = done.stdout.rstrip().splitlines()[-1]
    assert re.match(rf"(PASS|FAIL) {name}\b.*n=1", last), done.stdout + done.stderr
    assert done.returncode == (0 if last.startswith("PASS") else 1)
    assert "OMP_NUM_THREADS=1" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_the_exit_status_means(name: str) -> None:
    done = bench(name, "--help")
    assert done.returncode == 0
    assert "--rounds" in done.stdout and "exit status: 0 when" in done.stdout


def test_arms_take_turns() -> None:
    seen: list[str] = []

    def arm(name: str) -> report.Sample:
        seen.append(name)
        return {"order": len(seen)}

    samples = report.interleave({"A": lambda: arm("A"), "B": lambda: arm("B")}, rounds=2)
    assert seen == ["A", "B", "A", "B"]
    assert samples == {"A": [{"order": 1}, {"order": 3}], "B": [{"order": 2}, {"order": 4}]}


def test_ratios_are_taken_pair_by_pair() -> None:
    spread = report.ratios([{"s": 10.0}, {"s": 60.0}, {"s": 9.0}], [{"s": 5.0}, {"s": 20.0}, {"s": 1.0}], "s")
    assert (spread.n, spread.low, spread.median, spread.high) == (3, 2.0, 3.0, 9.0)
    assert spread.text() == "3 (2 to 9)"


def test_a_missed_aim_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    reached, missed = report.Aim(text="17x (aim 15x)", met=True), report.Aim(text="0.4 s (aim below 0.3 s)", met=False)
    assert report.verdict("both", [reached, missed]) == 1
    assert report.verdict("one", [reached]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [
        "FAIL both: 17x (aim 15x); MISSED 0.4 s (aim below 0.3 s)", "PASS one: 17x (aim 15x)"]
