"""What became of the studies that `tests.chaos` disturbed: what was promised, counted; and how much training was done twice."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from chaos_studies import ChaosStudy

from harness.files import read_log

NOTED_S = 1.0
"""An attempt may have written its end so long before its fault is noted."""


class Fault(Protocol):
    """See `tests.chaos.Hit`."""

    kind: str
    when: float
    attempts: frozenset[tuple[str, str, int]]


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What was promised, counted over all studies; everything but `batches`, `trials` and `training_s` is to be zero or empty."""

    trials: int = 0
    batches: int = 0
    lost: list[str] = field(default_factory=list)
    """Trials without a result, or whose status in the table is not that of the undisturbed run."""
    again: list[str] = field(default_factory=list)
    """Attempts that began after their trial's result was there."""
    twice: list[str] = field(default_factory=list)
    """Batches that have more than one job."""
    different: list[str] = field(default_factory=list)
    """Tables that are not byte for byte those of the undisturbed run."""

    @property
    def good(self) -> bool:
        """Whether all is as promised."""
        return not (self.lost or self.again or self.twice or self.different)


def judge(studies: Sequence[ChaosStudy], submissions: Sequence[dict[str, set[str]]], jobs: dict[str, set[str]]) -> Verdict:
    """Counts.

    Args:
        submissions: of each study, name of a batch -> the jobs that had it by the accounting.
        jobs: the same of all studies, by the queue whenever it was looked at.
    """
    found = Verdict()
    for study, known in zip(studies, submissions, strict=True):
        found.trials += len(study.trials)
        found.batches += len(study.store.batches())
        found.lost += [f"{study.name}/{trial}" for trial in study.trials if study.store.result(trial) is None]
        for trial in study.trials:
            found.again += [f"{study.name}/{trial} attempt {number}" for number in begun_again(study, trial)]
        both = {name: ids | jobs.get(name, set()) for name, ids in known.items()}
        found.twice += [f"{study.name}/{name}: {sorted(ids)}" for name, ids in both.items() if len(ids) > 1]
        for table in ("trials", "epochs"):
            if _bytes(study.store.table_file(table)) != _bytes(study.twin.table_file(table)):
                found.different.append(f"{study.name}/{table}.parquet")
    return found


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def begun_again(study: ChaosStudy, trial: str) -> list[int]:
    """Attempts of a trial that began after its result was published: their first event is later than the result's file, or they were not
    there when the result was first seen. All nodes share one clock here."""
    if study.store.result(trial) is None:
        return []
    published = (study.store.trial_folder(trial) / "result.json").stat().st_mtime
    logs = sorted(study.store.trial_folder(trial).glob("a*.jsonl"))
    late = {number for number, log in enumerate(logs) if (events := read_log(log)) and events[0]["time"] > published}
    return sorted(late | set(range(study.attempts_at_result.get(trial, len(logs)), len(logs))))


# --- training done twice -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Training of an attempt that no later one could go on from."""

    attempt: tuple[str, str, int]
    seconds: float
    kind: str
    """The kind of fault that ended the attempt; "(cause)" where none was aimed at it."""


def losses(studies: Sequence[ChaosStudy], hits: Sequence[Fault]) -> tuple[list[Loss], float]:
    """(the loss of every attempt that did not bring the result, seconds of training of all attempts together).

    An attempt that ends without a result has lost what it did since the last checkpoint that a later attempt went on from: from that
    event, or from its start, to its end. Its end is what its worker says, else the fault that hit it, else its last event. What stood in
    the part of a log that was torn off counts as lost, though it was not.
    """
    found, total = [], 0.0
    for study in studies:
        for trial in study.trials:
            logs = list(study.store.attempts(trial))
            brought = next((number for number, events in enumerate(logs) if any(e.get("cause") == "done" for e in events)), len(logs) - 1)
            for number, events in enumerate(logs):
                name = (study.name, trial, number)
                began, ended, kind = _span(events, [hit for hit in hits if name in hit.attempts])
                total += ended - began
                if number != brought:
                    seconds = ended - (began if number > brought else _saved(events, logs[number + 1:], began))
                    found.append(Loss(attempt=name, seconds=max(0.0, seconds), kind=kind))
    return found, total


def _span(events: Sequence[dict[str, Any]], hits: Sequence[Fault]) -> tuple[float, float, str]:
    """When an attempt began and ended, and what ended it."""
    times = [event["time"] for event in events if "time" in event]
    if not times:  # torn at its very beginning: the fault is all that is known of it
        return (hits[-1].when, hits[-1].when, hits[-1].kind) if hits else (0.0, 0.0, "(unknown)")
    end = next((event for event in events if event["event"] == "end"), {})
    last = max((hit for hit in hits if hit.when <= end.get("time", math.inf) + NOTED_S), key=lambda hit: hit.when, default=None)
    ended = end.get("time") or max(times[-1], last.when if last else 0.0)
    cause = end.get("cause") or "killed"
    kind = "job preempted" if cause == "preempted" else last.kind if last else f"({cause})"  # that takes effect seconds later
    return times[0], ended, kind


def _saved(events: Sequence[dict[str, Any]], later: Sequence[Sequence[dict[str, Any]]], began: float) -> float:
    """When an attempt wrote the last checkpoint that later attempts went on from; its beginning when there is none."""
    first = min((event["epoch"] for log in later for event in log if event["event"] == "epoch"), default=None)
    redone = min((event["time"] for event in events if event["event"] == "epoch" and first is not None and event["epoch"] >= first),
                 default=float("inf"))
    return max((event["time"] for event in events if event["event"] == "checkpoint" and event["time"] < redone), default=began)


def loss_lines(found: Sequence[Loss], hits: Sequence[Fault], missed: Counter[str], total_s: float) -> list[str]:
    """The table of faults by kind, with what each kind cost."""
    counts, lines = Counter(hit.kind for hit in hits), []
    lines.append(f"{'fault':<24}{'hit':>6}{'ended attempts':>16}{'s lost: median':>16}{'most':>8}{'total':>9}{'per fault':>11}")
    for kind in [*counts, *sorted({loss.kind for loss in found} - counts.keys())]:
        lost = [loss.seconds for loss in found if loss.kind == kind]
        lines.append(f"{kind:<24}{counts[kind] or '':>6}{len(lost) or '':>16}" + (
            f"{statistics.median(lost):>16.2f}{max(lost):>8.2f}{sum(lost):>9.1f}" if lost else f"{'':>33}")
            + (f"{sum(lost) / counts[kind]:>11.2f}" if counts[kind] else ""))
    lost_s = sum(loss.seconds for loss in found)
    lines.append(f"training done twice: {lost_s:.0f} s of {total_s:.0f} s ({lost_s / max(total_s, 1e-9):.1%}); "
                 f"{lost_s / max(len(hits), 1):.2f} s a fault, median of the {len(found)} attempts that were ended "
                 f"{statistics.median([loss.seconds for loss in found] or [0.0]):.2f} s")
    if missed:
        lines.append("found nothing to hit, and others took their place: " + ", ".join(f"{n} {kind}" for kind, n in missed.items()))
    return lines
