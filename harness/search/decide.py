"""What a search does next, decided from its waves so far and from what has come of their trials. Pure: no file, no process, no clock.

Every variant has a proposer of its own and the same budget. Its configs rest when all their trials have got as far as was granted to
them. Then, in this order: the best of a rung are promoted as soon as enough others have reached it, new configs are proposed as soon as
there is room for a wave of them, and when nothing is left to search the best are confirmed on fresh seeds. When all variants are
confirmed, the winner of each, by its validation metric on the fresh seeds alone, is evaluated on the test split, once.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.grid import Grid
from harness.plan import PlannedTrial
from harness.search.proposer import Proposer
from harness.search.rungs import rungs, seeds_at
from harness.trials import Planner
from harness.waves import Told, Wave
from jobs.config import Value

Status = Mapping[str, str]
"""trial -> where it stands, as `harness.plan.Plan.status` has it."""
Measured = Callable[[str, int | None], float | None]
"""(trial, epochs) -> the study's metric at the epoch that counts among the first so many (None: among all); None when the trial has not
got so far, or was found infeasible before."""
RESTS = ("done", "infeasible", "pruned", "failed", "lost", "cancelled")
GONE = ("lost", "cancelled")
"""What says nothing of a config."""


class OpenedBefore(Exception):
    """The test split was opened before, for other trials than are chosen now; the argument says how often."""


@dataclass(kw_only=True)
class Candidate:
    """One config of a variant."""

    number: int
    values: dict[str, Value]
    """Of its tuned parameters, as far as they are active."""
    ladder: tuple[int | None, ...]
    """Epochs of each rung, the last one being all (None)."""
    epochs: int
    rung: int = 0
    trials: dict[int, str] = field(default_factory=dict)
    """seed -> trial."""
    confirms: dict[int, str] = field(default_factory=dict)
    """Fresh seed -> trial."""


class VariantSearch:
    """The search of one variant.

    Args:
        variant: which of the grid's, counted from 0.
        planner: makes trials.
        proposer: makes the variant's proposer, when it is first asked; it takes seconds to load.
        first: gives the values of tuned parameters that are proposed before any others.
    """

    def __init__(self, grid: Grid, variant: int, planner: Planner, proposer: Callable[[], Proposer],
                 first: Callable[[], Sequence[Mapping[str, Value]]]):
        assert grid.search and grid.tune
        self.grid, self.search, self.planner = grid, grid.search, planner
        self.index, self.variant = variant, grid.variants[variant]
        self.candidates: list[Candidate] = []
        self.waves: list[Wave] = []
        self.exhausted = False
        self._make_proposer, self._make_first, self._replayed = proposer, first, 0
        self._proposer: Proposer | None = None
        self._told: set[tuple[int, float]] = set()
        self._names = {tuned.name for tuned in grid.tune}

    # --- what was decided -----------------------------------------------------------------------------------------------------

    def take(self, wave: Wave) -> None:
        """Takes over a decision that is written down."""
        self.waves.append(wave)
        self.exhausted = self.exhausted or wave.exhausted
        self._told |= {(told.number, told.share) for told in wave.told}
        for trial in wave.trials:
            if trial.number == len(self.candidates):
                self.candidates.append(self._candidate(trial))
            candidate = self.candidates[trial.number]
            (candidate.confirms if trial.phase == "confirm" else candidate.trials)[trial.seed] = trial.id
            if trial.phase == "search":
                candidate.rung = max(candidate.rung, candidate.ladder.index(trial.budget))

    def _candidate(self, trial: PlannedTrial) -> Candidate:
        return Candidate(number=trial.number, ladder=self._ladder(trial.config), epochs=int(trial.config.get("epochs", 1)),
                         values={name: value for name, value in trial.config.items() if name in self._names})

    def _ladder(self, config: Mapping[str, Any]) -> tuple[int | None, ...]:
        """The epochs of each rung of a config, all of them being None."""
        halving = self.search.halving
        return (*rungs(halving.first, halving.factor, int(config["epochs"]))[:-1], None) if halving else (None,)

    def _seeds(self, rung: int, ladder: Sequence[int | None]) -> tuple[int, ...]:
        """The seeds that a config has on a rung."""
        return self.grid.seeds[:seeds_at(rung, len(ladder), len(self.grid.seeds))]

    # --- where it stands ------------------------------------------------------------------------------------------------------

    def rests(self, candidate: Candidate, status: Status) -> bool:
        """Whether nothing of a config is still to come, unless more is granted to it."""
        return all(status[trial] in RESTS for trial in candidate.trials.values())

    def value(self, candidate: Candidate, rung: int, measured: Measured) -> float | None:
        """A config's mean over the seeds of a rung; None when one of them failed, is infeasible or gone."""
        trials = [candidate.trials[seed] for seed in self._seeds(rung, candidate.ladder)]
        return self._mean(trials, candidate.ladder[rung], measured)

    @staticmethod
    def _mean(trials: Iterable[str], budget: int | None, measured: Measured) -> float | None:
        values = [measured(trial, budget) for trial in trials]
        known = [value for value in values if value is not None and math.isfinite(value)]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def over(self, status: Status) -> bool:
        """Whether the search itself has come to its end."""
        return (len(self.candidates) >= self.search.trials or self.exhausted) and all(self.rests(c, status) for c in self.candidates)

    def ranking(self, measured: Measured) -> list[Candidate]:
        """The configs that have a value, the best first: those of a higher rung before the others."""
        sign = -1 if self.grid.mode == "max" else 1
        values = {c.number: value for c in self.candidates if (value := self.value(c, c.rung, measured)) is not None}
        return sorted((c for c in self.candidates if c.number in values),
                      key=lambda c: (c.rung < len(c.ladder) - 1, -c.rung, sign * values[c.number], c.number))

    def winner(self, measured: Measured) -> Candidate | None:
        """The best of the confirmed configs by its mean over the fresh seeds; None when there is none."""
        sign = -1 if self.grid.mode == "max" else 1
        means = {c.number: mean for c in self.candidates if c.confirms
                 and (mean := self._mean(c.confirms.values(), None, measured)) is not None}
        return min((c for c in self.candidates if c.number in means), key=lambda c: (sign * means[c.number], c.number), default=None)

    @property
    def reference(self) -> list[Candidate]:
        """The first config, where it was known before the search: what the others are to be better than."""
        return self.candidates[:1] if any(wave.known for wave in self.waves[:1]) else []

    # --- what comes next ------------------------------------------------------------------------------------------------------

    def next(self, status: Status, measured: Measured) -> Wave | None:
        """The next decision, None when there is none to make yet, or ever."""
        wave = self._promote(status, measured) or self._propose(status, measured)
        if wave or not self.over(status):
            return wave
        return self._confirm(measured)

    def trouble(self) -> list[str]:
        """What the proposer complains of."""
        if not (proposer := self._proposer):
            return []
        other = "it would propose other configs by now than the waves have (another version of Nevergrad?); the waves count"
        failed = f"it raised {proposer.trouble}; where it gave no config, one was drawn at random"
        return [text for text, is_so in ((failed, proposer.trouble), (other, proposer.differs)) if is_so]

    def _wave(self, kind: str, trials: Iterable[PlannedTrial], **more: object) -> Wave:
        return Wave(number=len(self.waves), kind=kind, variant=self.index, trials=tuple(trials), **more)  # type: ignore[arg-type]

    def _trials(self, number: int, values: Mapping[str, Value], seeds: Iterable[int], **more: object) -> list[PlannedTrial]:
        return [self.planner.trial(self.variant, seed, values, number=number, wave=len(self.waves), **more) for seed in seeds]

    def _promote(self, status: Status, measured: Measured) -> Wave | None:
        """The best of each rung, as many as 1/factor of those that have come to it by now allow. When nobody else can reach a rung, at
        least its best goes on.

        Asynchronous successive halving (Li et al. 2020), with one difference: there, whoever is among the best 1/factor goes on, however
        many went before. While proposals get better that was half as many epochs again (benchmarks/halving.py), for the same result.
        """
        if not self.search.halving:
            return None
        chosen: list[Candidate] = []
        complete = len(self.candidates) >= self.search.trials or self.exhausted
        for rung in range(max((len(c.ladder) for c in self.candidates), default=1) - 1):
            here = [c for c in self.candidates if c.rung >= rung]
            complete = complete and not chosen and all(c.rung > rung or self.rests(c, status) for c in here)
            arrived = [c for c in here if (c.rung > rung or self.rests(c, status)) and not self._is_gone(c, status)]
            values = {c.number: value for c in arrived if c.rung == rung < len(c.ladder) - 1
                      and (value := self.value(c, rung, measured)) is not None}
            allowed = max(complete, len(arrived) // self.search.halving.factor)
            allowed -= sum(c.rung > rung and not self._failed(c, status, measured) for c in arrived)
            sign = -1 if self.grid.mode == "max" else 1
            best = sorted(values, key=lambda number: (sign * values[number], number))[:max(0, allowed)]
            chosen += [self.candidates[number] for number in best]
        trials = []
        for c in sorted(chosen, key=lambda c: (-c.rung, c.number)):
            seeds, budget = self._seeds(c.rung + 1, c.ladder), c.ladder[c.rung + 1]
            trials += self._trials(c.number, c.values, seeds, phase="search", budget=budget)
        return self._wave("promote", trials) if trials else None

    def _failed(self, candidate: Candidate, status: Status, measured: Measured) -> bool:
        """Whether nothing came of a config where it rests; it then takes no place among those that went on."""
        return self.rests(candidate, status) and self.value(candidate, candidate.rung, measured) is None

    def _is_gone(self, candidate: Candidate, status: Status) -> bool:
        return any(status[trial] in GONE for trial in candidate.trials.values())

    def _propose(self, status: Status, measured: Measured) -> Wave | None:
        """A wave of new configs, as soon as there is room for a whole one."""
        number, search = len(self.candidates), self.search
        active = sum(not self.rests(c, status) for c in self.candidates)
        if number >= search.trials or self.exhausted or active + search.wave > search.running:
            return None
        told = self._news(status, measured)
        proposer = self._ready_proposer()
        self._tell(proposer, told)
        wanted = min(search.wave, search.trials - number)
        most = len(search.tries) + bool(search.warm_start)
        known = self._make_first()[number:number + wanted] if number < most else []
        for values in known:
            proposer.known(dict(values))
        proposed = [*known, *(proposer.ask(wanted - len(known)) if wanted > len(known) else [])]
        self._replayed += 1
        trials = []
        for offset, values in enumerate(proposed, number):
            ladder = self._ladder(self.planner.trial(self.variant, self.grid.seeds[0], values).config)
            trials += self._trials(offset, values, self._seeds(0, ladder), phase="search", budget=ladder[0])
        return self._wave("propose", trials, told=told, known=len(known), exhausted=len(proposed) < wanted)

    def _news(self, status: Status, measured: Measured) -> tuple[Told, ...]:
        """What the proposer has not been told yet, in the order of the configs; what is gone is never told."""
        news = []
        for c in self.candidates:
            for rung in range(c.rung + self.rests(c, status)):
                share = 1.0 if c.ladder[rung] is None else float(c.ladder[rung] or 0) / c.epochs
                if (c.number, share) not in self._told and not self._is_gone(c, status):
                    news.append(Told(number=c.number, value=self.value(c, rung, measured), share=share))
        return tuple(news)

    def _tell(self, proposer: Proposer, told: Iterable[Told]) -> None:
        sign = -1.0 if self.grid.mode == "max" else 1.0
        for news in told:
            proposer.tell(news.number, None if news.value is None else sign * news.value, share=news.share)

    def _ready_proposer(self) -> Proposer:
        """The proposer, with all that it was told and asked in the waves so far."""
        proposer = self._proposer = self._proposer or self._make_proposer()
        asked = [wave for wave in self.waves if wave.kind == "propose"]
        for wave in asked[self._replayed:]:
            self._tell(proposer, wave.told)
            numbers = sorted({trial.number for trial in wave.trials})
            for number in numbers[:wave.known]:
                proposer.known(self.candidates[number].values)
            if len(numbers) > wave.known:
                proposer.again([self.candidates[number].values for number in numbers[wave.known:]])
        self._replayed = len(asked)
        return proposer

    def unconfirmed(self, measured: Measured) -> bool:
        """Whether configs are still to be confirmed, the search being over."""
        return self._confirm(measured) is not None

    def _confirm(self, measured: Measured) -> Wave | None:
        """The best configs, and the first of those that were known before, on seeds that no search has seen."""
        if not self.grid.confirm:
            return None
        chosen = self.ranking(measured)[:self.grid.confirm.top]
        chosen += [c for c in self.reference if c not in chosen]
        trials = []
        for c in chosen:
            trials += self._trials(c.number, c.values, [s for s in self.grid.fresh_seeds() if s not in c.confirms], phase="confirm")
        return self._wave("confirm", trials) if trials else None

    def confirmed(self, status: Status) -> bool:
        """Whether all that is to be confirmed has been."""
        return all(status[trial] in RESTS for c in self.candidates for trial in c.confirms.values())


def test_wave(searches: Sequence[VariantSearch], trials: Mapping[str, PlannedTrial], status: Status, measured: Measured, *,
              again: bool) -> Wave | None:
    """The trials to evaluate on the test split, when all variants are confirmed: those of each winner, and of the first known config to
    compare with. None when it has been opened for all of them.

    Args:
        trials: all trials as they were granted so far.
        again: opens it for all of them once more.

    Raises:
        OpenedBefore: it was opened, and others are chosen now.
    """
    chosen: list[str] = []
    for search in searches:
        winner = search.winner(measured)
        for c in dict.fromkeys(c.number for c in [*([winner] if winner else []), *search.reference]):
            chosen += [trial for trial in search.candidates[c].confirms.values() if status[trial] == "done"]
    last = max((trial.opening for trial in trials.values()), default=0)
    if not chosen or (not again and all(trials[trial].opening for trial in chosen)):
        return None
    if last and not again:
        raise OpenedBefore(last)
    return Wave(number=last + 1, kind="test", trials=tuple(dataclasses.replace(trials[trial], opening=last + 1) for trial in chosen))
