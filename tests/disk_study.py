"""Writes a study folder as launchers and workers leave it, attempt by attempt, and calls the verbs on it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness import main, processes
from harness.grid import parse_grid
from harness.plan import Batch
from harness.store import Store
from harness.trials import Planner, request_of
from harness.waves import Wave

GRID = """
[study]
name = "told"
metric = "score"
seeds = [0, 1]
[job]
run = "toy_job:train"
metrics = ["score"]
[fixed]
epochs = 4
[compare]
width = [1, 2]
lr = [0.1, 0.5]
"""
NONCE = "0123456789abcdef"
ELSEWHERE = {"host": "n1", "boot": "another boot", "pid": 7, "pid_started": "1"}


class DiskStudy:
    """A study whose trials have ended, or have not, as told. Trials go by the name of their variant and seed: ("width=1 lr=0.1", 0)."""

    def __init__(self, root: Path, grid: str = GRID):
        self.store = Store(root)
        self.grid = parse_grid(grid)
        self.store.create_folders()
        self.store.freeze_grid(self.grid.text)
        self.store.write_environment({"nonce": NONCE, "code": "c0de"})
        trials = Planner(self.grid).trials()
        self.store.write_wave(Wave(trials=tuple(trials)))
        self.trials = {(trial.variant, trial.seed): trial for trial in trials}

    def batch(self, *trials: tuple[str, int], executor: str = "slurm", job_id: str | None = "17", share: int = 1, **settings: Any) -> int:
        """A batch of one worker for each `share` trials, or whose workers share all of them (0); returns its number."""
        number = len(list(self.store.root.glob("submit/[0-9][0-9][0-9].json")))
        shares = {"slurm": {"cpus_per_task": 2, "gpus_per_job": 0, "ranks": 1}, "local": {"ranks": 1, "gpus": []}}[executor]
        self.store.write_batch(Batch(number=number, workers=-(-len(trials) // (share or 1)), share=share, settings={
            "executor": executor, "profile": "site" if executor == "slurm" else "", "device": "cpu", **shares, **settings},
            trials=[(self.trials[trial].id, len(list(self.store.attempts(self.trials[trial].id)))) for trial in trials]))
        if job_id and executor == "slurm":
            self.store.submitted(number, job_id)
        return number

    def claim(self, worker: str, **who: Any) -> None:
        """Takes a worker's place: a process of another machine unless told otherwise."""
        batch, place = map(int, worker.split("-"))
        self.store.claim_place(batch, place, {**ELSEWHERE, "worker": worker, "job_id": f"17_{place}", **who})

    def attempt(self, trial: tuple[str, int], worker: str, *, epochs: int = 0, began: float | None = None, each_s: float = 60.0,
                end: dict[str, Any] | None = None, log: str = "", **start: Any) -> str:
        """An attempt that finished so many epochs, a minute each; `end` is its last event. Returns the trial's name."""
        planned = self.trials[trial]
        number = len(list(self.store.attempts(planned.id)))
        began = time.time() - 3600 if began is None else began
        handle = self.store.begin_attempt(planned, number, request_of(self.grid))
        assert handle
        handle.write({"event": "start", "attempt": number, "time": began, "ranks": 1, "device": "cpu", **ELSEWHERE, "worker": worker,
                      "job_id": f"17_{worker.partition('-')[2]}", **start})
        for epoch in range(1, epochs + 1):
            handle.write({"event": "epoch", "epoch": epoch, "score": 0.5, "time": began + each_s * epoch})
        if end:
            handle.write({"event": "end", "time": began + each_s * (epochs + 1), **end})
        handle.close()
        self.store.attempt_log(planned.id, number).write_text(log)
        return planned.id

    def done(self, trial: tuple[str, int], worker: str, score: float, **more: Any) -> str:
        """An attempt of four epochs, five minutes in all, that leads to a result."""
        name = self.attempt(trial, worker, epochs=4, end={"cause": "done"}, **more)
        rows = [{"epoch": epoch, "score": score - 4 + epoch} for epoch in range(1, 5)]
        self.store.publish_result(name, {"trial": name, "status": "done", "reason": None, "epoch": 4, "rows": rows, "test": {}})
        return name

    def infeasible(self, trial: tuple[str, int], worker: str, reason: str) -> str:
        """A trial that ended as infeasible."""
        name = self.attempt(trial, worker, end={"cause": "infeasible"})
        self.store.publish_result(name, {"trial": name, "status": "infeasible", "reason": reason, "epoch": None, "rows": [], "test": {}})
        return name

    def launched(self, *, alive: bool, number: int = 1, since: float = 0.0, **who: Any) -> None:
        """A launcher: this very process, or one that has ended."""
        self.store.take_over(number, {**processes.this_process(), "since": since or time.time(), "gone": [], "job_id": "", **who})
        self.store.beat(number, "1" if alive else "ended")


def verb(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """(exit status, standard output, errors) of `harness VERB ...`."""
    capsys.readouterr()
    status = main.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """The document that a verb prints; it must print nothing else."""
    status, said, errors = verb(capsys, *words, "--json")
    assert status == 0 and not errors, errors
    document: dict[str, Any] = json.loads(said)
    return document


def listing(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: size, time of the last change, content."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        state = path.stat()
        found[str(path)] = (state.st_mode, state.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found
