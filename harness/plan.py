"""What to do next, decided from what is on disk and who is alive. Pure: no file, no process, no clock.

A trial is done when it has a result, cancelled when somebody said so, running while the worker of its last attempt lives, queued while a
living worker may still make its next attempt, failed or lost when it was tried as often as the policy for its way to end allows, and
pending otherwise: then its next attempt is submitted.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

RAISED = ("exception", "out_of_memory")
"""Causes that would come again: all attempts that ended so count, however far they got."""
GOES_ON = ("interrupted", "time_limit", "preempted")
"""Causes after which Slurm may start the worker's job again."""
TAKEN_AWAY = ("preempted", "node_failure", "cancelled")
"""Causes that say nothing of what a worker was doing."""
FUSED_FAILED = (*RAISED, "killed", "disk_full")
"""Causes after which a trial that was one of several in a program is trained alone; that attempt does not count against it."""
FAILED = (*RAISED, "time_limit")
"""Causes after which a trial that is given up is called failed; after the others it is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """One line of a wave: everything a worker must know of a trial."""

    id: str
    variant: str
    seed: int
    wave: int
    """Of its variant's waves, the one that it came with."""
    config: dict[str, Any]
    phase: str = "compare"
    """Why it is trained: "compare" in a grid without [tune], else "search" or "confirm"."""
    number: int = 0
    """Of its config among those that its variant has tried."""
    budget: int | None = None
    """Epochs granted to it so far; None is all of them."""
    opening: int = 0
    """Which opening of the test split it is evaluated at, counted from 1; 0: at none, or while it is trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at running a trial, as its file tells it."""

    worker: str = ""
    """The worker that makes it, "<batch>-<place>"."""
    cause: str | None = None
    """How it ended; None while it runs, or when its worker died and nobody has said how."""
    error: str | None = None
    where: str | None = None
    """Where in the code an exception came from: the same text for the same mistake."""
    progress: int = 0
    """Epochs it finished and checkpoints it wrote."""
    fused: int = 1
    """How many trials were trained as one program, this one of them."""

    @property
    def failed_fused(self) -> bool:
        """Whether it was made together with others and ended in a way that may be theirs, or that of training them together."""
        return self.fused > 1 and self.cause in FUSED_FAILED


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
    share: int = 0
    """How many of the trials belong to each worker, in order; 0: all workers take from all of them."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the workers are told besides: code snapshot, ranks, request."""
    claims: list[dict[str, Any] | None] = field(default_factory=list)
    """Who took each place; None while nobody has."""
    job_id: str | None = None
    """Slurm's number of the batch, once it is known to be submitted."""

    def worker(self, place: int) -> str:
        """The name of the worker that takes a place: "<batch>-<place>"."""
        return f"{self.number:03d}-{place}"

    def trials_of(self, place: int) -> list[tuple[str, int]]:
        """The trials that the worker of a place may take."""
        return self.trials[place * self.share:(place + 1) * self.share] if self.share else self.trials

    @staticmethod
    def place(worker: str) -> int:
        """The place of a worker, from its name."""
        return int(worker.rpartition("-")[2])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Where every trial stands, and what to submit."""

    status: dict[str, str]
    """trial -> done | infeasible | pruned | failed | lost | cancelled | running | queued | pending. A pruned one rests at its rung."""
    submit: list[tuple[str, int]]
    """Pending trials with the attempt to make, as many as may be submitted now."""
    open: list[tuple[str, int]] = field(default_factory=list)
    """Queued trials that nobody has begun and any worker of a batch may begin, so that a worker more would be of use."""
    accumulate: dict[str, int] = field(default_factory=dict)
    """trial -> pieces its batches are to be cut into because they did not fit into memory; of those to submit, and open ones."""
    alone: frozenset[str] = frozenset()
    """Of the same, those that are not to be trained as one program with others, because that failed."""
    more: bool = False
    """Whether a search has still something to decide."""

    def count(self, *statuses: str) -> int:
        """How many trials have one of these statuses."""
        return sum(status in statuses for status in self.status.values())

    @property
    def ended(self) -> dict[str, str]:
        """trial -> status, of those that ended without a result."""
        return {trial: status for trial, status in self.status.items() if status in ("failed", "lost", "cancelled")}

    @property
    def over(self) -> bool:
        """Nothing runs, nothing waits, nothing is left to submit."""
        return not self.more and self.count("running", "queued", "pending") == 0


def plan(trials: Sequence[str], states: Mapping[str, TrialState], *, living: Mapping[str, Batch], retry: Mapping[str, int],
         forgiven: Mapping[str, int] | None = None, cancelled: Mapping[str, int] | None = None) -> Plan:
    """Decides.

    Args:
        trials: all trials in order.
        states: what the disk says of each.
        living: the workers that are alive or may yet come, "<batch>-<place>" -> their batch.
        retry: cause -> how often a trial that ended so is tried again without having got anywhere in between; -1: for ever.
        forgiven: trial -> how many of its first attempts do not count against it any more.
        cancelled: trial -> how many attempts it had when somebody cancelled it; a later attempt means that it is wanted again.
    """
    promised = {pair for worker, batch in living.items() for pair in batch.trials_of(batch.place(worker))}
    status = {}
    for trial in dict.fromkeys(trials):  # two variants may have a config in common
        gone = len(states[trial].attempts) <= (cancelled or {}).get(trial, -1)
        status[trial] = _status(trial, states[trial], living, promised, retry, (forgiven or {}).get(trial, 0), gone)
    submit = [(trial, len(states[trial].attempts)) for trial in status if status[trial] == "pending"]
    shared = {pair for batch in {id(batch): batch for batch in living.values() if not batch.share}.values() for pair in batch.trials}
    left_open = [pair for trial in status if status[trial] == "queued" and (pair := (trial, len(states[trial].attempts))) in shared]
    begins = [trial for trial, _ in (*submit, *left_open)]
    pieces = {trial: 2 ** count for trial in begins
              if (count := sum(attempt.cause == "out_of_memory" and not attempt.failed_fused for attempt in states[trial].attempts))}
    alone = frozenset(trial for trial in begins if to_be_alone(states[trial]))
    return Plan(status=status, submit=submit, open=left_open, accumulate=pieces, alone=alone)


def to_be_alone(state: TrialState) -> bool:
    """Whether a trial is not to be trained as one program with others any more."""
    return any(attempt.failed_fused for attempt in state.attempts)


def _status(trial: str, state: TrialState, living: Mapping[str, Any], promised: set[tuple[str, int]], retry: Mapping[str, int],
            forgiven: int, cancelled: bool) -> str:
    if state.result:
        return state.result
    last = state.attempts[-1] if state.attempts else Attempt(cause="none")
    begun_only = not last.worker and (trial, len(state.attempts) - 1) in promised  # its file is there, its first line is not
    if last.cause is None and (last.worker in living or begun_only):
        return "running"
    if cancelled:
        return "cancelled"
    if (trial, len(state.attempts)) in promised or (last.cause in GOES_ON and last.worker in living):
        return "queued"  # the second: its job is on its way back into the queue, or about to end
    if (attempts := state.attempts[forgiven:]) and _tried_enough(attempts, retry):
        return "failed" if last.cause in FAILED else "lost"
    return "pending"


def _tried_enough(attempts: Sequence[Attempt], retry: Mapping[str, int]) -> bool:
    """Whether the policy for the cause of the last attempt allows no other."""
    attempts = [attempt for attempt in attempts if not attempt.failed_fused]
    if not attempts:
        return False
    cause = attempts[-1].cause or "killed"
    allowed = retry.get(cause, -1)
    if allowed < 0:
        return False
    tried = 0
    for attempt in reversed(attempts):
        if attempt.progress and cause not in RAISED:
            break
        tried += (attempt.cause or "killed") == cause
    return tried > allowed


def canaries(plan: Plan, states: Mapping[str, TrialState], kind: Callable[[str], object], *, above: int) -> Plan:
    """The plan with what must wait taken out of `submit`: of every kind of trial that has `above` or more left and of which none has
    finished an epoch yet, only the first goes, and the others follow when it has.

    Args:
        kind: trial -> what it has in common with trials that would fail in the same way.
        above: 0 lets everything go at once.
    """
    if not above:
        return plan
    proven = {kind(trial) for trial, state in states.items() if state.result or any(attempt.progress for attempt in state.attempts)}
    under_way = {kind(trial) for trial, status in plan.status.items() if status in ("running", "queued")}
    many = {name for name, count in Counter(kind(trial) for trial, _ in plan.submit).items() if count >= above}
    submit, first = [], set(under_way)
    for trial, attempt in plan.submit:
        name = kind(trial)
        if name in many and name not in proven:
            if name in first:
                continue
            first.add(name)
        submit.append((trial, attempt))
    return replace(plan, submit=submit)


def same_error(states: Mapping[str, TrialState], failed: Iterable[str], *, at_least: int) -> list[str]:
    """The trials that died of one and the same error, when they are `at_least` so many and more than those that have a result; else
    none. Errors are the same when they were raised at the same place in the code, whatever values their texts name.

    Args:
        failed: trials that failed since the launch began.
        at_least: 0 never finds any.
    """
    if not at_least:
        return []
    groups: dict[str, list[str]] = {}
    for trial in failed:
        last = states[trial].attempts[-1]
        if last.cause == "exception":
            groups.setdefault(last.where or last.error or "", []).append(trial)
    most = max(groups.values(), key=len, default=[])
    finished = sum(state.result is not None for state in states.values())
    return most if len(most) >= at_least and len(most) > finished else []


def disk_full(states: Mapping[str, TrialState], at_start: Mapping[str, TrialState]) -> str | None:
    """What an attempt said that met a full disk since the launch began."""
    for trial, state in states.items():
        met, before = ([a for a in s.attempts if a.cause == "disk_full"] for s in (state, at_start.get(trial, TrialState())))
        if len(met) > len(before):
            return met[-1].error
    return None


def within_budget(plan: Plan, *, gpus: float, spent_h: float, promised_h: float, budget_h: float,
                  hours_of: Callable[[str], float]) -> Collection[tuple[str, int]]:
    """As much of `plan.submit`, in order, as the GPU-hours that are left pay for.

    Args:
        gpus: GPUs of one trial; without any there is no budget to keep to.
        spent_h, promised_h: GPU-hours used, and expected of what is running or queued.
        budget_h: all that may be used; 0 sets no limit.
        hours_of: trial -> hours it is expected to take.
    """
    if not budget_h or not gpus:
        return plan.submit
    left, paid = budget_h - spent_h - promised_h, []
    for pair in plan.submit:
        left -= gpus * hours_of(pair[0])
        if left < 0:
            break
        paid.append(pair)
    return paid
