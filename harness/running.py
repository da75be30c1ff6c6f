"""What a worker has running: one program of it, which makes one attempt, or several whose trials are trained together.

The worker hears of all its programs in one loop without threads, because it forks for each of them. It writes the attempt files: what a
program tells, and, when it dies without a word, how.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harness import processes
from harness.files import is_full
from harness.plan import Batch, PlannedTrial
from harness.rank import run_fused, run_rank
from harness.step import TrialStep
from harness.store import AttemptLog, Store
from harness.trial_process import TrialProcesses
from jobs.failpoint import failpoint


@dataclass(kw_only=True, slots=True)
class Begun:
    """An attempt that this worker has begun."""

    trial: PlannedTrial
    attempt: int
    log: AttemptLog
    end: dict[str, Any] = field(default_factory=dict)
    """The `end` event, as far as it is known."""
    cancelled: bool = False
    """Whether somebody does not want the trial any more."""
    over: bool = False
    """Whether its end is written."""

    def write_end(self) -> None:
        """Writes how it ended, the last word of its file."""
        self.log.write({"event": "end", "time": time.time(), **self.end}, durable=True)
        failpoint("attempt.ended")
        self.log.close()
        self.over = True

    def look_up(self, unwanted: Mapping[str, int]) -> None:
        """Sees whether the trial was cancelled; `unwanted` is what `Store.cancelled` says."""
        self.cancelled = self.cancelled or unwanted.get(self.trial.id, -1) > self.attempt


class Running:
    """A program that runs.

    Args:
        members: the attempts that it makes; when there are several, their trials are trained as one program.
        probe: whether several are first asked if that is faster; when it is not, the program ends and none of its attempts is over.
    """

    def __init__(self, store: Store, batch: Batch, members: Sequence[Begun], *, probe: bool = False):
        self.store, self.members = store, members
        self.began = time.time()
        self.got_on = False
        """Whether it has reached a new epoch or checkpoint."""
        self.faster: bool | None = None
        """What the probe said; None when there was none, or it is not through."""
        self.memory_kills = processes.out_of_memory_kills()
        """How many processes of this control group had been ended for want of memory, none of them ours."""
        self._told = False
        self._ranks: TrialProcesses | TrialStep | None = None
        try:
            self._ranks = _start(store, batch, members, probe=probe)
        except OSError as error:  # the worker itself could not fork, or make the folder in which ranks meet
            for member in members:
                member.end = {"cause": "disk_full" if is_full(error) else "exception", "error": f"{type(error).__name__}: {error}"}

    @property
    def cancelled(self) -> bool:
        """Whether a trial of it is not wanted any more."""
        return any(member.cancelled and not member.over for member in self.members)

    @property
    def left(self) -> list[Begun]:
        """The attempts that are not over."""
        return [member for member in self.members if not member.over]

    def waits_for(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to be given."""
        return self._ranks.waits_for() if self._ranks else []

    def listen(self, *, stop: bool) -> bool:
        """Takes in what has been told since; false when the program has ended. With `stop`, or a trial that is not wanted any more, asks
        it to keep the progress and end."""
        if self._ranks is None:
            return False
        if stop or self.cancelled:
            self._told = True
            self._ranks.stop()  # again and again: a rank that has just been started does not listen yet
        while (message := self._ranks.next_message()) is not None:
            if message["event"] == "nothing":
                return True
            self._take(self.members[message.pop("member", 0)], message)
        return False

    def _take(self, member: Begun, message: dict[str, Any]) -> None:
        """Acts on what the program tells of one of its attempts."""
        if message["event"] in ("epoch", "checkpoint", "test"):
            self.got_on = True
            member.log.write({**message, "time": time.time()}, durable=message["event"] == "test")
        elif message["event"] == "outcome":
            member.end = self._published(member.trial, message["outcome"])
            if len(self.members) > 1:
                member.write_end()  # the others may train for long
        elif message["event"] == "tested":
            publish = partial(self.store.publish_test, member.trial.id, member.trial.opening, message["metrics"])
            member.end = _write(publish) or {"cause": "tested"}
        elif message["event"] == "probed":
            self.faster = message["faster"]
        elif message["event"] == "end" and not member.end:  # the first rank that fails tells the cause, the others only suffer from it
            member.end = {key: value for key, value in message.items() if key != "event"}

    def finish(self, why: str) -> bool:
        """Writes how the attempts ended that are not over; of several that are to be trained one by one, none is. Whether the program
        was ended because the kernel had run out of memory.

        Args:
            why: why the worker is to end; "" when it is not.
        """
        exits = self._ranks.collect() if self._ranks else ""
        full = False
        for member in self.left:
            if self.faster is False and not member.end:
                continue
            if self._ranks and (not member.end or (member.end["cause"] == "exception" and self._ranks.killed)):
                full = processes.out_of_memory_kills() > self.memory_kills
                told = bool(why) or self._told  # to end, and killed meanwhile
                member.end = {"cause": "out_of_memory" if full else "interrupted" if told else "killed",
                              "error": f"the trial's process ended with {exits}"
                              + (", the kernel having run out of the memory this job may use" if full else "")}
            if member.end["cause"] == "interrupted":
                member.end["cause"] = "cancelled" if member.cancelled else why or "interrupted"
            member.write_end()
        return full

    @property
    def told_by_others(self) -> bool:
        """Whether it ended as asked, and nobody here had asked it."""
        return not self._told and any(member.end.get("cause") == "interrupted" for member in self.members)

    def _published(self, trial: PlannedTrial, outcome: dict[str, Any]) -> dict[str, Any]:
        """Makes an outcome the trial's result, or its result at the rung where it rests; returns the `end` event."""
        if not outcome.pop("finished") and trial.budget:
            result = {"trial": trial.id, **outcome, "status": "pruned"}
            return _write(partial(self.store.publish_rung, trial.id, trial.budget, result)) or {"cause": "pruned"}
        if failed := _write(partial(self.store.publish_result, trial.id, {"trial": trial.id, **outcome})):
            return failed
        for pattern in ("checkpoint-*.pt*", ".checkpoint-*.tmp"):  # what only an unfinished trial needs
            for path in self.store.trial_folder(trial.id).glob(pattern):
                path.unlink(missing_ok=True)
        return {"cause": outcome["status"]}


def _write(publish: Callable[[], bool]) -> dict[str, Any]:
    """Publishes something; the `end` event when that fails, {} when it does not."""
    try:
        publish()
    except OSError as error:
        return {"cause": "disk_full" if is_full(error) else "exception", "error": f"the result could not be written: {error}"}
    return {}


def _start(store: Store, batch: Batch, members: Sequence[Begun], *, probe: bool) -> TrialProcesses | TrialStep:
    """The processes of a program, started: forked here, or over several nodes as a step of the job."""
    settings, first = batch.settings, members[0]
    if len(members) > 1:
        begun = [(member.trial, member.attempt) for member in members]

        def fused(*, send: Callable[[bytes], None], **alone: Any) -> bool:
            return run_fused(store, begun, settings=settings, probe=probe, send=send)

        return TrialProcesses(fused, ranks=1)
    if settings.get("nodes", 1) > 1:
        return TrialStep(store, first.trial, attempt=first.attempt, batch=batch.number, settings=settings)
    return TrialProcesses(partial(run_rank, store, first.trial, attempt=first.attempt, settings=settings), ranks=settings["ranks"])
