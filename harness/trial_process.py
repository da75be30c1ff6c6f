"""The processes of one attempt: forks the ranks, listens to them, ends all when one dies."""

import ctypes
import dataclasses
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from multiprocessing import connection
from pathlib import Path
from typing import Any

from harness.store import PlannedTrial, Store
from jobs.config import Trial
from jobs.contract import Context, Interrupted, Outcome, Superseded
from jobs.failpoint import failpoint

LISTEN_S = 0.2
"""How long one look at the pipe may last; a request to stop is passed on within this time."""
_fork = multiprocessing.get_context("fork")


class TrialProcesses:
    """The running ranks of one attempt."""

    def __init__(self, store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any]):
        self._folder = store.trial_folder(trial.id)
        self._meeting = Path(tempfile.mkdtemp(prefix="harness-"))  # 0700: nobody else can join the process group
        self._pipe, told = _fork.Pipe(duplex=False)
        self._ended = False
        self._ranks = []
        for rank in range(settings["ranks"]):
            process = _fork.Process(target=_rank_main, args=(store, trial), kwargs={
                "attempt": attempt, "settings": settings, "rank": rank, "address": f"file://{self._meeting}/ranks",
                "pipe": told, "parent": os.getpid()})
            process.start()
            self._ranks.append(process)
        told.close()

    def next_message(self) -> dict[str, Any] | None:
        """What a rank says, {"event": "nothing"} when it is silent for a moment, None when all ranks have ended."""
        if self._ended:
            return None
        ready = connection.wait([self._pipe, *(p.sentinel for p in self._ranks if p.is_alive())], timeout=LISTEN_S)
        if self._pipe in ready:
            try:
                return json.loads(self._pipe.recv_bytes())  # type: ignore[no-any-return]
            except (EOFError, ValueError):
                self._ended = True
                return None
        if any(process.exitcode not in (None, 0) for process in self._ranks):
            self._end_all()  # the others would wait for the dead one until their time-out
        return {"event": "nothing"}

    def stop(self) -> None:
        """Asks all ranks to keep their progress and end."""
        for process in self._ranks:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def collect(self) -> str:
        """Waits for all ranks and says how they ended."""
        self._end_all(wait_s=10)
        shutil.rmtree(self._meeting, ignore_errors=True)
        self._pipe.close()
        return ", ".join(f"rank {rank}: {_exit_name(process.exitcode)}" for rank, process in enumerate(self._ranks))

    def clear_checkpoints(self) -> None:
        """Drops what only an unfinished trial needs."""
        for path in self._folder.glob("checkpoint-*.pt*"):
            path.unlink(missing_ok=True)

    def _end_all(self, *, wait_s: float = 1) -> None:
        for process in self._ranks:
            process.join(wait_s)
            if process.is_alive():
                process.kill()
                process.join()


def _exit_name(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit {code}"


def _rank_main(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], rank: int, address: str,
               pipe: connection.Connection, parent: int) -> None:
    """Runs in the forked process of one rank; tells the worker how it went, and always ends quietly."""
    _die_with(parent)
    stop = _StopFlag()
    _redirect_output(store.attempt_log(trial.id, attempt), rank)

    def tell(message: dict[str, Any]) -> None:  # the ranks share the pipe: a write below 4096 bytes is never torn, pipe(7)
        pipe.send_bytes(json.dumps(message).encode())

    try:
        outcome = _run(store, trial, attempt=attempt, settings=settings, rank=rank, address=address, stop=stop,
                       report=lambda row: tell({"event": "epoch", **row}))
        if rank == 0:
            tell({"event": "outcome", "outcome": dataclasses.asdict(outcome)})
    except Interrupted:
        tell({"event": "end", "cause": "interrupted"})
    except Superseded:
        tell({"event": "end", "cause": "superseded"})
    except Exception as error:
        traceback.print_exc()
        tell({"event": "end", "cause": "out_of_memory" if _is_out_of_memory(error) else "exception",
              "error": f"{f'rank {rank}: ' if settings['ranks'] > 1 else ''}{type(error).__name__}: {error}"[:500]})
        sys.exit(1)


def _run(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], rank: int, address: str, stop: "_StopFlag",
         report: Any) -> Outcome:
    from jobs.ranks import joined

    module, _, function = settings["run"].partition(":")
    run = getattr(importlib.import_module(module), function)
    device = f"cuda:{rank}" if settings["origin"]["device"] == "cuda" else "cpu"  # CUDA_VISIBLE_DEVICES holds this worker's own

    def fence() -> None:
        if store.newer_attempt(trial.id, attempt):
            raise Superseded
        failpoint("fence.passed")

    weights = settings["weights_files"].get(trial.id)
    context = Context(folder=store.trial_folder(trial.id), data=Path(settings["data"]), weights_file=Path(weights) if weights else None,
                      report=report, stop=stop, fence=fence, rank=rank, ranks=settings["ranks"], device=device,
                      checkpoint_s=settings["checkpoint_s"])
    with joined(rank, settings["ranks"], address=address, device=device):
        return run(Trial(config=trial.config, seed=trial.seed, **settings["request"]), context)  # type: ignore[no-any-return]


class _StopFlag:
    """Becomes true when the worker asks the trial to stop."""

    def __init__(self) -> None:
        self._set = False
        signal.signal(signal.SIGTERM, self._on_signal)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):  # meant for the worker, which passes them on
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._set = True

    def __call__(self) -> bool:
        return self._set


def _die_with(parent: int) -> None:
    """Ends this process when the worker does, so that a trial never trains on for nobody (Linux; elsewhere the closed pipe does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of prctl(2)
    if os.getppid() != parent:
        os._exit(1)


def _redirect_output(path: Path, rank: int) -> None:
    """Sends what the trial prints to its own log; the ranks after the first say who they are by their file."""
    log = os.open(path if rank == 0 else path.with_suffix(f".rank{rank}.log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error)
