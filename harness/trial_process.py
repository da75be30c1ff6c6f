"""The processes of one attempt: forks the ranks, listens to them, ends all when one dies."""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

from harness.files import is_full
from harness.plan import PlannedTrial
from harness.store import Store
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
        several = settings["ranks"] > 1
        self._meeting = tempfile.mkdtemp(prefix="harness-") if several else ""  # 0700: nobody else can join the process group
        self._pipe, told = _fork.Pipe(duplex=False)
        self._ended = False
        self._ended_by_us: set[int] = set()
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
        if not any(process.is_alive() for process in self._ranks) and not self._pipe.poll():
            self._ended = True  # what a trial has started may outlive it and keep the pipe open
            return None
        if any(process.exitcode not in (None, 0) for process in self._ranks):
            self._end_all()  # the others would wait for the dead one until their time-out
        return {"event": "nothing"}

    def stop(self) -> None:
        """Asks all ranks to keep their progress and end."""
        for process in self._ranks:
            if process.is_alive():
                process.terminate()  # SIGTERM

    def collect(self) -> str:
        """Waits for all ranks and says how they ended."""
        self._end_all(wait_s=10)
        if self._meeting:
            shutil.rmtree(self._meeting, ignore_errors=True)
        self._pipe.close()
        return ", ".join(f"rank {rank}: {_exit_name(process.exitcode)}" for rank, process in enumerate(self._ranks))

    @property
    def killed(self) -> bool:
        """Whether a signal that was not ours ended a rank; an exception of another rank is then only its echo."""
        return any((process.exitcode or 0) < 0 and rank not in self._ended_by_us for rank, process in enumerate(self._ranks))

    def clear_checkpoints(self) -> None:
        """Drops what only an unfinished trial needs."""
        for pattern in ("checkpoint-*.pt*", ".checkpoint-*.tmp"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _end_all(self, *, wait_s: float = 1) -> None:
        for rank, process in enumerate(self._ranks):
            process.join(wait_s)
            if process.is_alive():
                self._ended_by_us.add(rank)
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
        outcome = _run(store, trial, attempt=attempt, settings=settings, rank=rank, address=address, stop=stop, tell=tell)
        if rank == 0:
            tell({"event": "outcome", "outcome": _as_json(outcome, settings["request"]["metric"])})
    except Interrupted:
        tell({"event": "end", "cause": "interrupted"})
    except Superseded:
        tell({"event": "end", "cause": "superseded"})
    except Exception as error:
        traceback.print_exc()
        tell({"event": "end", "cause": "disk_full" if is_full(error) else "out_of_memory" if _is_out_of_memory(error) else "exception",
              "error": f"{f'rank {rank}: ' if settings['ranks'] > 1 else ''}{type(error).__name__}: {error}"[:500]})
        sys.exit(1)


def _run(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], rank: int, address: str, stop: "_StopFlag",
         tell: Callable[[dict[str, Any]], None]) -> Outcome:
    module, _, function = settings["run"].partition(":")
    run = getattr(importlib.import_module(module), function)
    device = f"cuda:{rank}" if settings["device"] == "cuda" else "cpu"  # CUDA_VISIBLE_DEVICES holds this worker's own

    def report(row: dict[str, Any]) -> None:
        if type(row.get("epoch")) is not int:
            raise TypeError(f"context.report needs a row with a whole number \"epoch\", not {row}")
        tell({**row, "event": "epoch"})

    def fence() -> None:
        if store.newer_attempt(trial.id, attempt):
            raise Superseded
        failpoint("fence.passed")
        tell({"event": "checkpoint"})  # a trial that writes gets on, however long its epochs are

    def opening_test() -> None:
        tell({"event": "test"})

    weights = settings["weights_files"].get(trial.id)
    context = Context(folder=store.trial_folder(trial.id), data=Path(settings["data"]), weights_file=Path(weights) if weights else None,
                      report=report, opening_test=opening_test, stop=stop, fence=fence, rank=rank, ranks=settings["ranks"], device=device)
    with _joined(rank, settings["ranks"], address=address, device=device):
        return run(Trial(config=trial.config, seed=trial.seed, **settings["request"]), context)  # type: ignore[no-any-return]


def _joined(rank: int, ranks: int, *, address: str, device: str) -> contextlib.AbstractContextManager[None]:
    """`jobs.ranks.joined`; without several ranks torch need not be imported, which a job of the user's own may do without."""
    if ranks == 1:
        return contextlib.nullcontext()
    from jobs.ranks import joined

    return joined(rank, ranks, address=address, device=device)


def _as_json(outcome: object, metric: str) -> dict[str, Any]:
    """An outcome as JSON values; what is not finite becomes None, as JSON and the tables have no better word for it.

    Raises:
        TypeError, ValueError: a job of the user's own returned something the tables cannot hold.
    """
    if not isinstance(outcome, Outcome):
        raise TypeError(f"a job returns a jobs.contract.Outcome, not {type(outcome).__name__}")
    if outcome.status not in ("done", "infeasible"):
        raise ValueError(f'an outcome is "done" or "infeasible", not {outcome.status!r}')
    if [row.get("epoch") for row in outcome.rows] != list(range(1, len(outcome.rows) + 1)):
        raise ValueError('the rows of an outcome have "epoch" 1, 2, 3, ... in this order')
    if outcome.epoch is None and outcome.status == "done" or outcome.epoch is not None and not 1 <= outcome.epoch <= len(outcome.rows):
        raise ValueError(f"the outcome's epoch is one of its rows, 1 to {len(outcome.rows)}, not {outcome.epoch}")
    value = outcome.rows[outcome.epoch - 1].get(metric) if outcome.epoch else 0.0
    if outcome.status == "done" and not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"the selected row's {metric}, which the grid decides by, is {value!r}, not a finite number")

    def finite(row: dict[str, Any]) -> dict[str, Any]:
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}

    return {**dataclasses.asdict(outcome), "rows": [finite(row) for row in outcome.rows], "test": finite(outcome.test)}


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
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)
