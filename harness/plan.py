"""What to do next, decided from what is on disk and who is alive. Pure: no file, no process, no clock.

A trial is done when it has a result, failed when an attempt ended with an exception, lost when attempts keep dying without getting
anywhere, running while the worker of its last attempt lives, queued while a living batch may still make its next attempt, and
pending otherwise: then its next attempt is submitted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

GIVE_UP_AFTER = 5
"""Attempts in a row that died without getting anywhere, to an epoch or a checkpoint; then the trial is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """One line of a wave: everything a worker must know of a trial."""

    id: str
    variant: str
    seed: int
    wave: int
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at running a trial, as its file tells it."""

    worker: str = ""
    """The worker that makes it, "<batch>-<place>"."""
    cause: str | None = None
    """How it ended; None while it runs, or when its worker died."""
    error: str | None = None
    progress: int = 0
    """Epochs it finished and checkpoints it wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialState:
    """What the disk says of a trial."""

    result: str | None = None
    """Status of the published result."""
    attempts: tuple[Attempt, ...] = ()


@dataclass(kw_only=True, slots=True)
class Batch:
    """Trials submitted together, and the workers that take them one after the other."""

    number: int
    workers: int
    trials: list[tuple[str, int]]
    """(trial, attempt it may make), in order; a worker takes the next one whose attempt nobody has begun."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the workers are told besides: code snapshot, ranks, request."""
    claims: list[dict[str, Any] | None] = field(default_factory=list)
    """Who took each place; None while nobody has."""

    def worker(self, place: int) -> str:
        """The name of the worker that takes a place: "<batch>-<place>"."""
        return f"{self.number:03d}-{place}"

    @staticmethod
    def place(worker: str) -> int:
        """The place of a worker, from its name."""
        return int(worker.rpartition("-")[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where every trial stands, and what to submit."""

    status: dict[str, str]
    """trial -> done | infeasible | failed | lost | running | queued | pending."""
    submit: list[tuple[str, int]]
    """Pending trials with the attempt to make."""
    workers: int
    """How many workers to start for them."""

    def count(self, *statuses: str) -> int:
        """How many trials have one of these statuses."""
        return sum(status in statuses for status in self.status.values())

    @property
    def over(self) -> bool:
        """Nothing runs, nothing waits, nothing is left to submit."""
        return self.count("running", "queued", "pending") == 0


def plan(trials: Sequence[str], states: Mapping[str, TrialState], *, living: Mapping[str, Batch], slots: int,
         forgiven: Mapping[str, int] | None = None) -> Plan:
    """Decides.

    Args:
        trials: all trials in order.
        states: what the disk says of each.
        living: the workers that are alive or may yet come, "<batch>-<place>" -> their batch.
        slots: how many workers may run at once.
        forgiven: trial -> how many of its first attempts do not count against it any more.
    """
    promised = {pair for batch in {b.number: b for b in living.values()}.values() for pair in batch.trials}
    status = {trial: _status(trial, states[trial], living, promised, (forgiven or {}).get(trial, 0)) for trial in trials}
    submit = [(trial, len(states[trial].attempts)) for trial in trials if status[trial] == "pending"]
    return Plan(status=status, submit=submit, workers=max(0, min(slots - len(living), len(submit))))


def _status(trial: str, state: TrialState, living: Mapping[str, Any], promised: set[tuple[str, int]], forgiven: int) -> str:
    if state.result:
        return state.result
    attempts = state.attempts[forgiven:]
    last = attempts[-1] if attempts else Attempt(cause="none")
    if last.cause in ("exception", "out_of_memory"):
        return "failed"
    begun_only = not last.worker and (trial, len(state.attempts) - 1) in promised  # its file is there, its first line is not
    if last.cause is None and (last.worker in living or begun_only):
        return "running"
    if (trial, len(state.attempts)) in promised:
        return "queued"
    recent = attempts[-GIVE_UP_AFTER:]
    died = [a for a in recent if a.cause in (None, "killed") and not a.progress]
    return "lost" if len(died) == GIVE_UP_AFTER else "pending"
