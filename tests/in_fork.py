"""Runs the built-in job in forked processes that a test may kill at a chosen step, for real."""

import dataclasses
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import jobs.train
import jobs.training
from jobs.config import Config, Trial
from jobs.contract import Context
from jobs.ranks import joined

_fork = multiprocessing.get_context("fork")
jobs.train.warm_up([Config().as_dict()])


def train(trial: Trial, folder: Path, data: Path, *, ranks: int = 1, accumulate: int = 1, kill: tuple[int, int] | None = None,
          every_step: bool = True, job: str = "run") -> dict[str, Any] | None:
    """The outcome of a trial, or None when its processes were killed. That they opened the test split is told by a file `opened`.

    Args:
        job: "run", or "test" for the numbers of the test split of a trial that is over.
        every_step: whether a checkpoint is written after every step, however long that takes.
        kill: (rank, n): that rank is killed with SIGKILL when it asks for the n-th time whether to stop, which it does at every step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "outcome.json"
    out.unlink(missing_ok=True)
    meeting = folder / f"meeting-{os.getpid()}-{len(list(folder.iterdir()))}"
    processes = [_fork.Process(target=_rank, args=(trial, folder, data, out), kwargs={
        "rank": rank, "ranks": ranks, "accumulate": accumulate, "job": job, "address": f"file://{meeting}",
        "kill_at": kill[1] if kill and kill[0] == rank else 0, "every_step": every_step}) for rank in range(ranks)]
    for process in processes:
        process.start()
    if kill:
        processes[kill[0]].join(600)
    for process in processes if not kill or processes[kill[0]].exitcode == 0 else []:  # who came too late to be killed waits for the others
        process.join(600)
    for process in processes:
        process.kill()
        process.join()
    return json.loads(out.read_text()) if out.exists() else None


def _rank(trial: Trial, folder: Path, data: Path, out: Path, *, rank: int, ranks: int, accumulate: int, address: str,
          kill_at: int, every_step: bool, job: str) -> None:
    asked = 0
    if every_step:
        jobs.training.SAVE_SHARE = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    with joined(rank, ranks, address=address, device="cpu"):
        context = Context(folder=folder, data=data, stop=stop, rank=rank, ranks=ranks, accumulate=accumulate,
                          opening_test=(folder / "opened").touch, checkpoint_s=0 if every_step else 5)
        outcome = getattr(jobs.train, job)(trial, context)
    if rank == 0:
        out.write_text(json.dumps(outcome if job == "test" else dataclasses.asdict(outcome)))
