"""A whole search by simulation: the code of a real search decides and proposes, while trials are curves and the clock is a number.

Nothing is trained and no process is started, so that a search of hundreds of trials takes seconds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.grid import Grid
from harness.plan import PlannedTrial
from harness.search.decide import Candidate, VariantSearch
from harness.search.proposer import Proposer
from harness.search.space import Space
from harness.trials import Planner
from harness.waves import Wave

Config = Mapping[str, Any]
Curve = Callable[[Config, int], Sequence[float]]
"""(config, seed) -> the study's metric after each epoch of the whole training."""


def proposer_of(grid: Grid, planner: Planner) -> Callable[[], Proposer]:
    """What makes the proposer of a grid's first variant, as a launch makes it."""
    search, variant = grid.search, grid.variants[0]
    assert search and grid.tune
    space = Space(grid.tune, grid.config_values(variant), requirements=grid.requirements, defaults={})
    return lambda: Proposer(space, algorithm=search.algorithm, seed=search.seed, trials=search.trials, wave=search.wave,
                            key=lambda values: planner.key(variant, values))


@dataclass
class Simulation:
    """The search of a grid's first variant, on as many virtual workers as it may run configs at once.

    Args:
        pace: config -> how long an epoch of it takes, in any unit.
        proposer: makes what proposes, in place of the grid's algorithm.
    """

    grid: Grid
    curve: Curve
    pace: Callable[[Config], float] = lambda config: 1.0
    proposer: Callable[[], Any] | None = None
    watch: Callable[["Simulation"], object] = lambda simulation: None
    """Called whenever a trial has come to rest."""
    epochs: float = 0.0
    """What all trials together have been trained so far, with the parts of those that are under way."""
    waves: list[Wave] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.grid.search
        planner = Planner(self.grid)
        self.search = VariantSearch(self.grid, 0, planner, self.proposer or proposer_of(self.grid, planner), list)
        self.trials: dict[str, PlannedTrial] = {}
        self._workers = self.grid.search.running
        self._status: dict[str, str] = {}
        self._curves: dict[str, Sequence[float]] = {}
        self._done: dict[str, int] = {}
        """trial -> epochs that it rests at."""

    def measured(self, trial: str, budget: int | None) -> float | None:
        """See `harness.search.decide.Measured`."""
        curve = self._curves[trial]
        epochs = len(curve) if budget is None else budget
        if self._done.get(trial, 0) < epochs:
            return None
        if self.grid.select == "last":
            return curve[epochs - 1]
        return (max if self.grid.mode == "max" else min)(curve[:epochs])

    def leading(self) -> Candidate | None:
        """The config that the search would choose if it ended now: the best of those that have got furthest."""
        sign, found = -1 if self.grid.mode == "max" else 1, []
        for candidate in self.search.candidates:
            for rung in range(candidate.rung, -1, -1):
                value = self.search.value(candidate, rung, self.measured)
                if value is not None:
                    found.append((len(candidate.ladder) - rung, sign * value, candidate.number))
                    break
        return self.search.candidates[min(found)[2]] if found else None

    def run(self) -> None:
        """Runs the search to its end, [confirm] included."""
        waiting: deque[PlannedTrial] = deque()
        running: list[tuple[float, int, str, float]] = []  # (end, order, trial, epochs per unit of time)
        now, order = 0.0, 0
        while True:
            while wave := self.search.next(self._status, self.measured):
                self.search.take(wave)
                self.waves.append(wave)
                for trial in wave.trials:
                    self.trials[trial.id], self._status[trial.id] = trial, "pending"
                    if trial.id not in self._curves:
                        self._curves[trial.id] = self.curve(trial.config, trial.seed)
                waiting.extend(wave.trials)
            while waiting and len(running) < self._workers:
                trial, order = waiting.popleft(), order + 1
                pace = self.pace(trial.config)
                heapq.heappush(running, (now + pace * (self._granted(trial) - self._done.get(trial.id, 0)), order, trial.id, 1 / pace))
            if not running:
                return
            end, _, name, _ = running[0]
            self.epochs += (end - now) * sum(speed for *_, speed in running)
            heapq.heappop(running)
            now = end
            self._done[name] = self._granted(self.trials[name])
            self._status[name] = "done" if self.trials[name].budget is None else "pruned"
            self.watch(self)

    def _granted(self, trial: PlannedTrial) -> int:
        return len(self._curves[trial.id]) if trial.budget is None else trial.budget
