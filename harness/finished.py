"""What finished trials have come to, read from the study's tables where they have it: a hundred thousand small files take a minute.

A finished trial never changes, so the tables are as good as its files. Of a trial that is not finished they say nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from harness.events import began, members
from harness.store import Store

CACHE_FROM = 1000
"""With fewer trials reading their files is quicker than loading what reads Parquet."""
FINISHED = ("done", "infeasible")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One attempt, as much of it as the sums need."""

    worker: str
    host: str
    seconds: float
    """From its first to its last sign of life."""
    fused: int = 1
    """How many trials were trained as one program, this one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A trial with a result."""

    status: str
    reason: str
    """Why it is infeasible."""
    value: float | None
    """The metric that decides, of the selected epoch; None when it is infeasible."""
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """Of all its attempts."""
        return sum(run.seconds for run in self.runs)


def read_finished(store: Store, metric: str, trial_ids: Collection[str]) -> dict[str, Finished]:
    """Those of the trials that the tables know to be finished; none where there are few trials, or the tables are absent or damaged.

    Args:
        metric: what decides.
    """
    if len(trial_ids) < CACHE_FROM or not store.table_file("trials").exists():
        return {}
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        trials = pq.read_table(store.table_file("trials"), columns=["trial_id", "status", "reason", metric])
        attempts = pq.read_table(store.table_file("attempts"), columns=["trial_id", "cause", "worker", "host", "fused", "started", "ended"])
        spans = pc.subtract(attempts["ended"].cast(pa.int64()), attempts["started"].cast(pa.int64())).to_pylist()
        columns = zip(*(attempts[name].to_pylist() for name in ("trial_id", "cause", "worker", "host", "fused")), spans, strict=True)
        runs: dict[str, list[tuple[str | None, Run | None]]] = {}
        for trial, cause, worker, host, fused, span in columns:
            run = None if span is None else Run(worker=worker or "", host=host or "", seconds=span / 1e6, fused=fused)
            runs.setdefault(trial, []).append((cause, run))
        rows = zip(*(trials[name].to_pylist() for name in ("trial_id", "status", "reason", metric)), strict=True)
        wanted = set(trial_ids)
        return {trial: Finished(status=status, reason=reason or "", value=value if status == "done" else None, runs=tuple(whole))
                for trial, status, reason, value in rows if trial in wanted and status in FINISHED and (whole := _whole(runs.get(trial)))}
    except (OSError, KeyError, TypeError, pa.ArrowException):
        return {}


def _whole(runs: list[tuple[str | None, Run | None]] | None) -> list[Run]:
    """The attempts of a trial; none when the table was written before the last of them ended, or knows too little of one."""
    if not runs or runs[-1][0] not in FINISHED:
        return []
    known = [run for _, run in runs if run]
    return known if len(known) == len(runs) else []


def finished(result: dict[str, Any], metric: str, attempts: list[list[dict[str, Any]]]) -> Finished:
    """A finished trial from its files.

    Args:
        result: its result.json.
        attempts: the events of each attempt.
    """
    row = result["rows"][result["epoch"] - 1] if result["status"] != "infeasible" and result["epoch"] else {}
    return Finished(status=result["status"], reason=result.get("reason") or "", value=row.get(metric), runs=tuple(map(run_of, attempts)))


def run_of(events: list[dict[str, Any]]) -> Run:
    """An attempt from its events."""
    times = [event["time"] for event in events if "time" in event]
    start = next((event for event in events if event["event"] == "start"), {})
    first = began(events)
    return Run(worker=start.get("worker", ""), host=start.get("host", ""), fused=members(events),
               seconds=0.0 if first is None else max(times) - first)
