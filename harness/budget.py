"""[limits]: how many GPU-hours a study has used, and what of its trials the rest pays for."""

from collections.abc import Hashable, Mapping

from harness.events import began, members
from harness.grid import Grid
from harness.plan import Plan, PlannedTrial, within_budget
from harness.store import Store


class Budget:
    """The GPU-hours of a study, a trial having `gpus` of them, which is less than one where it shares one; the time of trials that were
    trained as one program is divided among them. Without a limit nothing is read and everything is paid for."""

    def __init__(self, store: Store, grid: Grid, trials: list[PlannedTrial], kinds: Mapping[str, Hashable], *, gpus: float):
        self.store, self.grid, self.kinds = store, grid, kinds
        self.limit_h = float(grid.limits.gpu_hours)
        self.gpus = gpus
        self.trials = [trial.id for trial in trials]
        self._settled: dict[str, float] = {}
        self._by_kind: dict[Hashable, tuple[float, int]] = {}
        self.spent_h = 0.0
        """GPU-hours of all attempts so far, those that run counted up to their last sign of life."""
        self._refused = 0

    @property
    def overdrawn(self) -> bool:
        """Whether more has been used than there was; looks at the disk."""
        if not self.limit_h or not self.gpus:
            return False
        self._look()
        return self.spent_h >= self.limit_h

    @property
    def used_up(self) -> str:
        """What to say when trials are left that the budget does not pay for, "" when there are none."""
        if not self.limit_h or not self.gpus or (not self._refused and self.spent_h < self.limit_h):
            return ""
        return (f"the budget of {self.limit_h:g} GPU-hours ([limits] gpu_hours) pays for no more trials: {self.spent_h:.2f} are used; "
                "raise it and give the same command again to go on")

    def pays_for(self, now: Plan) -> list[tuple[str, int]]:
        """As much of what is to be submitted as the budget pays for, in order."""
        if not self.limit_h or not self.gpus:
            return now.submit
        self._look()
        expected = [self._hours_of(trial) for trial, status in now.status.items() if status in ("running", "queued")]
        paid = list(within_budget(now, gpus=self.gpus, spent_h=self.spent_h, promised_h=self.gpus * sum(expected), budget_h=self.limit_h,
                                  hours_of=self._hours_of))
        self._refused = len(now.submit) - len(paid)
        return paid

    def _look(self) -> None:
        """Adds up the attempts; a trial that has ended is read once."""
        spent = 0.0
        for trial in self.trials:
            if trial in self._settled:
                spent += self._settled[trial]
                continue
            hours, ended = 0.0, False
            for events in self.store.attempts(trial):
                last = max((event["time"] for event in events if "time" in event), default=None)
                first = began(events)
                hours += (last - first) / members(events) / 3600 if first is not None and last is not None else 0.0
                ended = any(event["event"] == "end" and event["cause"] in ("done", "infeasible") for event in events)
            if ended:
                self._settled[trial] = hours
                before, count = self._by_kind.get(self.kinds[trial], (0.0, 0))
                self._by_kind[self.kinds[trial]] = before + hours, count + 1
            spent += hours
        self.spent_h = self.gpus * spent

    def _hours_of(self, trial: str) -> float:
        """Hours a trial is expected to take: the mean of those of its kind that are finished, else a job's time limit."""
        hours, count = self._by_kind.get(self.kinds[trial], (0.0, 0))
        return hours / count if count else self.grid.slurm.time_min / 60

