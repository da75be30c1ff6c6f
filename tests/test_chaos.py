"""A short chaos: 60 random faults on a real Slurm. `make chaos` deals out 300; `tests/chaos.py` says what they are and what must hold."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from studies import ROOT

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(420)]


def chaos(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """The program, running."""
    return subprocess.Popen([sys.executable, "-m", "tests.chaos", "--folder", str(folder), *options], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def test_sixty_faults(tmp_path: Path) -> None:
    running = chaos(tmp_path / "chaos", "--faults", "60", "--trials", "40", "--seed", "60", "--limit-s", "360")
    said, _ = running.communicate()
    print(said)  # the counts are worth reading in a log, too
    assert running.returncode == 0, said
    for promised in ("0 trials lost", "0 finished trials run again", "0 batches submitted twice", "0 tables that differ"):
        assert f" {promised}" in said


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    running = chaos(folder, "--faults", "60", "--trials", "8", "--seed", "1")
    try:
        until("the first fault", (folder / "faults.log").exists, timeout_s=120)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert not processes_naming(str(folder)), said
