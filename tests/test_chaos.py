"""A short chaos: 30 random faults on a real Slurm. `make chaos` deals out 300; `tests/chaos.py` says what they are and what must hold.
And the verdict itself: it must see what it is there to see."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chaos import Hit
from chaos_verdict import begun_again, judge, losses
from launching import ctrl_c
from slurm_fixture import until
from studies import ROOT

from harness.store import Store


def chaos(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """The program, running."""
    return subprocess.Popen([sys.executable, "-m", "tests.chaos", "--folder", str(folder), *options], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


@pytest.mark.slurm
@pytest.mark.timeout(1000)
def test_thirty_faults(tmp_path: Path) -> None:
    running = chaos(tmp_path / "chaos", "--faults", "30", "--trials", "24", "--seed", "60", "--limit-s", "800")
    try:
        said, _ = running.communicate(timeout=960)
    finally:
        running.terminate()  # it takes down what it has brought up
    print(said)  # what the faults cost is worth reading in a log, too
    assert running.returncode == 0, said
    for promised in ("0 trials lost", "0 finished trials run again", "0 batches submitted twice", "0 tables that differ"):
        assert f" {promised}" in said


@pytest.mark.slurm
def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    running = chaos(folder, "--faults", "60", "--trials", "8", "--seed", "1")
    try:
        until("a worker", lambda: list(folder.glob("*/study/submit/*-0.json")))
        ctrl_c(running)
        said, _ = running.communicate(timeout=240)
    finally:
        running.terminate()
    assert running.returncode == 130, said
    cluster = re.search(r"the cluster in (\S+)", said)
    assert cluster and not Path(cluster[1]).exists(), said
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(folder).encode() in _read(path)], said


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- the verdict -------------------------------------------------------------------------------------------------------------------------


ATTEMPTS = [
    [("start", 100.0), (1, 101.0), ("checkpoint", 101.0), (2, 102.0)],
    [("start", 110.0), (2, 111.0), (3, 112.0), ("checkpoint", 112.0), ("cancelled", 112.2)],
    [("start", 120.0), (4, 121.0), ("done", 121.5)]]
"""Epochs, checkpoints and ends of a trial, each with its second: a rank was killed at 102.5, then its job was cancelled."""
HITS = [Hit(kind="rank killed", when=102.5, what="", attempts=frozenset({("made-up", "t-s0", 0)})),
        Hit(kind="running job cancelled", when=112.1, what="", attempts=frozenset({("made-up", "t-s0", 1)}))]


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """A study of one trial, whose result was published at 121.4, and its undisturbed twin."""
    store, twin = Store(tmp_path / "study"), Store(tmp_path / "twin")
    for made in (store, twin):
        made.create_folders()
        for table in ("trials", "epochs"):
            made.table_file(table).write_bytes(b"table")
    folder = store.trial_folder("t-s0")
    folder.mkdir()
    for number, events in enumerate(ATTEMPTS):
        store.attempt_file("t-s0", number).write_text("".join(json.dumps(_event(*event)) + "\n" for event in events))
    store.publish_result("t-s0", {"status": "done"})
    os.utime(folder / "result.json", (121.4, 121.4))
    return SimpleNamespace(name="made-up", store=store, twin=twin, trials=["t-s0"], attempts_at_result={"t-s0": 3})


def _event(what: int | str, when: float) -> dict[str, Any]:
    if isinstance(what, int):
        return {"event": "epoch", "epoch": what, "time": when}
    return {"event": what, "time": when} if what in ("start", "checkpoint") else {"event": "end", "cause": what, "time": when}


def test_what_an_ended_attempt_lost(study: Any) -> None:
    found, total_s = losses([study], HITS)
    assert [(loss.kind, round(loss.seconds, 6)) for loss in found] == [("rank killed", 1.5), ("running job cancelled", 0.2)]
    assert total_s == pytest.approx(2.5 + 2.2 + 1.5)


def test_a_torn_checkpoint_loses_what_came_before_it_too(study: Any) -> None:
    again = [_event(*event) for event in [("start", 110.0), (1, 111.0), (2, 112.0), (3, 113.0), ("cancelled", 113.0)]]
    study.store.attempt_file("t-s0", 1).write_text("".join(json.dumps(event) + "\n" for event in again))  # epoch 1 once more
    found, _ = losses([study], HITS)
    assert [round(loss.seconds, 6) for loss in found] == [2.5, 3.0]  # the checkpoint of 101.0 was after epoch 1, so it was of no use


def test_the_verdict_sees_each_broken_promise(study: Any) -> None:
    once = {"h-0-000": {"7"}}
    assert judge([study], [once], {"h-0-000": {"7"}}).good
    assert judge([study], [once], {"h-0-000": {"8"}}).twice  # seen in the queue with another number than in the accounting
    study.twin.table_file("epochs").write_bytes(b"another")
    assert judge([study], [once], {}).different == ["made-up/epochs.parquet"]
    study.store.attempt_file("t-s0", 3).write_text(json.dumps(_event("start", 130.0)) + "\n")
    assert begun_again(study, "t-s0") == [3]
    study.store.attempt_file("t-s0", 3).write_text("")  # it has not got to its first line, but it was not there before
    assert begun_again(study, "t-s0") == [3]
    (study.store.trial_folder("t-s0") / "result.json").unlink()
    assert judge([study], [once], {}).lost == ["made-up/t-s0"]
