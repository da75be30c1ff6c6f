"""What one rank of an attempt does in its process: joins the others, calls the job, tells the worker how it goes. And what the process
does that trains several trials as one program."""

import contextlib
import dataclasses
import importlib
import json
import math
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness.files import is_full
from harness.plan import PlannedTrial
from harness.store import Store
from jobs.config import Trial
from jobs.contract import Context, Interrupted, Outcome, Superseded
from jobs.failpoint import failpoint


def run_rank(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], rank: int, local_rank: int, address: str,
             send: Callable[[bytes], None], stop_signal: int = signal.SIGTERM) -> bool:
    """Runs one rank to its end in this process, which is its own; whether that end is no mistake.

    Args:
        local_rank: which of the GPUs that this process sees is its own.
        address: where the ranks meet, as `jobs.ranks.joined` takes it.
        send: takes what the worker is to be told, one JSON object without newlines.
        stop_signal: asks the rank to keep its progress and end; SIGTERM does so in any case.
    """
    stop = _StopFlag(stop_signal)
    _redirect_output(store.attempt_log(trial.id, attempt), rank)

    def tell(message: dict[str, Any]) -> None:
        send(json.dumps(message, ensure_ascii=False).encode(errors="replace"))  # short: see _rank_main

    tell({"event": "listening"})
    try:
        came = _run(store, trial, attempt=attempt, settings=settings, rank=rank, local_rank=local_rank, address=address, stop=stop,
                    tell=tell)
        if rank == 0 and trial.opening:
            tell({"event": "tested", "metrics": _as_metrics(came)})
        elif rank == 0:
            tell({"event": "outcome", "outcome": _as_json(came, settings["request"]["metric"])})
    except Interrupted:
        tell({"event": "end", "cause": "interrupted"})
    except Superseded:
        tell({"event": "end", "cause": "superseded"})
    except Exception as error:
        traceback.print_exc()
        tell(_failure(error, of=f"rank {rank}: " if settings["ranks"] > 1 else ""))
        return False
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # as deaf to SIGTERM as we are, so that Slurm's does not end it before the progress is kept
    return True


def run_fused(store: Store, begun: Sequence[tuple[PlannedTrial, int]], *, settings: dict[str, Any], probe: bool,
              send: Callable[[bytes], None]) -> bool:
    """Trains several trials, each with the attempt that was begun at it, as one program in this process; whether that ends without a
    mistake. Every message has a `member`: the place of the trial that it is about.

    Args:
        probe: whether the job is asked first if that is faster than one after the other; when it is not, nothing more is done.
        send: as in `run_rank`.
    """
    stop = _StopFlag(signal.SIGTERM)
    _redirect_output(store.attempt_log(begun[0][0].id, begun[0][1]), 0)
    left, superseded = set(range(len(begun))), set[int]()

    def tell(member: int, message: dict[str, Any]) -> None:
        send(json.dumps({**message, "member": member}, ensure_ascii=False).encode(errors="replace"))

    def ended(member: int, outcome: Outcome) -> None:
        tell(member, {"event": "outcome", "outcome": _as_json(outcome, settings["request"]["metric"])})
        left.remove(member)

    try:
        module = importlib.import_module(settings["run"].partition(":")[0])
        trials = [asked(trial, settings) for trial, _ in begun]
        contexts = [_context(store, trial, attempt=attempt, settings=settings, stop=stop, tell=partial(tell, member),
                             superseded=partial(superseded.add, member)) for member, (trial, attempt) in enumerate(begun)]
        if probe:
            faster = bool(module.fused_is_faster(trials, contexts))
            tell(0, {"event": "probed", "faster": faster})
            if not faster:
                return True
        for trial, attempt in begun[1:]:
            with store.attempt_log(trial.id, attempt).open("a") as log:
                log.write(f"trained as one program with {begun[0][0].id}, whose attempt {begun[0][1]} has what both print\n")
        module.run_fused(trials, contexts, ended)
        if left:
            raise RuntimeError(f"run_fused came back and never called `ended` for {', '.join(begun[member][0].id for member in left)}")
    except (Interrupted, Superseded):
        for member in left:
            tell(member, {"event": "end", "cause": "superseded" if member in superseded else "interrupted"})
    except Exception as error:
        traceback.print_exc()
        for member in left:
            tell(member, _failure(error, of=f"one program of {len(begun)} trials: "))
        return False
    finally:
        for child in multiprocessing.active_children():
            child.kill()
    return True


def asked(trial: PlannedTrial, settings: dict[str, Any]) -> Trial:
    """A planned trial as its job gets it."""
    return Trial(config=trial.config, seed=trial.seed, budget=trial.budget, **settings["request"])


def _failure(error: Exception, *, of: str) -> dict[str, Any]:
    """The `end` message of an exception."""
    return {"event": "end", "cause": "disk_full" if is_full(error) else "out_of_memory" if _is_out_of_memory(error) else "exception",
            "error": f"{of}{type(error).__name__}: {error}"[:500], "where": _where(error)}


def _run(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], rank: int, local_rank: int, address: str,
         stop: "_StopFlag", tell: Callable[[dict[str, Any]], None]) -> object:
    """What the job returns: of a trial that the test split is opened for, its metrics there, and else the outcome of training it."""
    module, _, function = settings["run"].partition(":")
    imported = importlib.import_module(module)
    run = getattr(imported, "test", lambda trial, context: {}) if trial.opening else getattr(imported, function)
    context = _context(store, trial, attempt=attempt, settings=settings, stop=stop, tell=tell, rank=rank, local_rank=local_rank)
    with _joined(rank, settings["ranks"], address=address, device=context.device):
        return run(asked(trial, settings), context)


def _context(store: Store, trial: PlannedTrial, *, attempt: int, settings: dict[str, Any], stop: "_StopFlag",
             tell: Callable[[dict[str, Any]], None], rank: int = 0, local_rank: int = 0,
             superseded: Callable[[], None] = lambda: None) -> Context:
    """Where a rank of a trial runs, and whom it tells; `superseded` hears that another attempt has taken over."""
    def report(row: dict[str, Any]) -> None:
        if type(row.get("epoch")) is not int:
            raise TypeError(f"context.report needs a row with a whole number \"epoch\", not {row}")
        tell({**row, "event": "epoch"})

    def fence() -> None:
        if store.newer_attempt(trial.id, attempt):
            superseded()
            raise Superseded
        failpoint("fence.passed")
        tell({"event": "checkpoint"})  # a trial that writes gets on, however long its epochs are

    def opening_test() -> None:
        tell({"event": "test"})

    weights = settings["weights_files"].get(trial.id)
    device = f"cuda:{local_rank}" if settings["device"] == "cuda" else "cpu"  # CUDA_VISIBLE_DEVICES holds this worker's own
    return Context(folder=store.trial_folder(trial.id), data=Path(settings["data"]), weights_file=Path(weights) if weights else None,
                   report=report, opening_test=opening_test, stop=stop, fence=fence, rank=rank, ranks=settings["ranks"], device=device,
                   accumulate=settings.get("accumulate", {}).get(trial.id, 1))


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

    return {**dataclasses.asdict(outcome), "rows": [_finite(row) for row in outcome.rows], "test": _finite(outcome.test)}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}


def _as_metrics(metrics: object) -> dict[str, Any]:
    """What a job's `test` returned, as JSON values.

    Raises:
        TypeError: no dictionary of numbers.
    """
    if not isinstance(metrics, dict) or not all(isinstance(name, str) and isinstance(v, (int, float)) for name, v in metrics.items()):
        raise TypeError(f"a job's `test` returns a dictionary of numbers, not {str(metrics)[:80]}")
    return _finite(metrics)


class _StopFlag:
    """Becomes true when the worker asks the trial to stop."""

    def __init__(self, stop_signal: int) -> None:
        self._set = False
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):  # meant for the worker, which passes them on
            signal.signal(number, signal.SIG_IGN)
        for wanted in {int(signal.SIGTERM), stop_signal}:
            signal.signal(wanted, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._set = True

    def __call__(self) -> bool:
        return self._set


def _redirect_output(path: Path, rank: int) -> None:
    """Sends what the trial prints to its own log; the ranks after the first say who they are by their file."""
    log = os.open(path if rank == 0 else path.with_suffix(f".rank{rank}.log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)


def _where(error: Exception) -> str:
    """The innermost frames of an exception, such as "jobs/train.py:214 in _step < jobs/train.py:180 in run": the same text wherever the
    same line fails, to tell whether trials died of one mistake, so without values and without the folders that code is installed in."""
    frames = [(_importable(Path(frame.f_code.co_filename)), line, frame.f_code.co_name)
              for frame, line in list(traceback.walk_tb(error.__traceback__))[-4:]]
    return " < ".join(f"{file}:{line} in {function}" for file, line, function in reversed(frames))[:400]


def _importable(file: Path) -> str:
    """A source file as seen from the folder it is imported from: the study's copy of the code, site-packages, Python's own."""
    roots = [root for entry in sys.path if file.is_relative_to(root := Path(entry))]
    return file.relative_to(max(roots, key=lambda root: len(root.parts))).as_posix() if roots else file.name


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)
