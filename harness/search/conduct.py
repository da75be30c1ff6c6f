"""Carries out what `harness.search.decide` decides: reads what trials have come to, and writes the next waves down."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.errors import StudyError
from harness.grid import Grid, parse_grid
from harness.grid_draft import DEFAULTS
from harness.search.decide import OpenedBefore, VariantSearch, test_wave
from harness.search.earlier import best_of_study
from harness.search.proposer import Proposer
from harness.search.space import Space
from harness.store import Store
from harness.trials import Planner
from harness.waves import Wave
from jobs.config import Value


class Conductor:
    """The search of a study.

    Args:
        planner: makes trials.
        again: evaluates the test split once more, though it was opened before.
        note: is told what there is to say.
    """

    def __init__(self, store: Store, grid: Grid, planner: Planner, *, again: bool = False, note: Callable[[str], object] = print):
        assert grid.tune and grid.search
        self.store, self.grid, self.planner, self.note = store, grid, planner, note
        self._again = again
        self._opened_before = False
        self._said: set[str] = set()
        self._rows: dict[tuple[str, int | None], tuple[str, list[float | None]]] = {}
        self.searches = [VariantSearch(grid, index, planner, self._proposer_of(index), partial(self._first, index))
                         for index in range(len(grid.variants))]
        for wave in store.waves():
            if wave.variant is not None:
                self.searches[wave.variant].take(wave)
        self.trials = {trial.id: trial for trial in store.trials()}
        last = max((trial.opening for trial in self.trials.values()), default=0)
        opened = [trial for trial in self.trials.values() if last and trial.opening == last]
        self._cut_short = {trial.id for trial in opened} if any(store.reached(trial) is None for trial in opened) else set()
        """What the test split was last opened for, when that has not come to its end: to go on with it is no new opening."""

    def _space(self, index: int) -> Space:
        grid = self.grid
        return Space(grid.tune or (), grid.config_values(grid.variants[index]), requirements=grid.requirements,
                     defaults={} if grid.job else DEFAULTS)

    def _proposer_of(self, index: int) -> Callable[[], Proposer]:
        """What makes the proposer of a variant; all of them have the same seed, so that equal spaces are searched from equal starts."""
        search, variant = self.grid.search, self.grid.variants[index]
        assert search
        return lambda: Proposer(self._space(index), algorithm=search.algorithm, seed=search.seed, trials=search.trials, wave=search.wave,
                                key=lambda values: self.planner.key(variant, values))

    def _first(self, index: int) -> list[dict[str, Value]]:
        """What is proposed before anything else: the grid's settings to try, then what an earlier study found to be best."""
        search, space = self.grid.search, self._space(index)
        assert search
        first = [space.complete(values) for values in search.tries]
        if search.warm_start:
            best = best_of_study(Store(self.store.root.parent / search.warm_start.removeprefix("study:")), self.grid.variants[index].name)
            inside = {name: value for name, value in best.items() if any(dim.name == name and dim.holds(value) for dim in space.dims)}
            first.append(space.complete(inside))
        different: dict[str, dict[str, Value]] = {}
        for values in first:
            if (key := self.planner.key(self.grid.variants[index], values)) and space.allows(values):
                different.setdefault(key, values)
        return list(different.values())[:search.trials]

    # --- looking --------------------------------------------------------------------------------------------------------------

    def measured(self, trial: str, epochs: int | None) -> float | None:
        """See `harness.search.decide.Measured`."""
        if (trial, epochs) not in self._rows:
            result = self.store.result(trial, budget=epochs)
            if result is None:
                return None
            self._rows[trial, epochs] = result["status"], [row.get(self.grid.metric) for row in result["rows"]]
        status, rows = self._rows[trial, epochs]
        if status == "infeasible" and (epochs is None or len(rows) < epochs):
            return None
        values = rows[:epochs][-1:] if self.grid.select == "last" else rows[:epochs]
        known = [value for value in values if value is not None and math.isfinite(value)]
        return (max(known) if self.grid.mode == "max" else min(known)) if known else None

    def _seen(self, status: Mapping[str, str]) -> dict[str, str]:
        """The statuses as deciding sees them: what the test split was opened for has been trained, whatever became of its evaluation."""
        return {trial: "done" if self.trials[trial].opening else one for trial, one in status.items()}

    def unfinished(self, status: Mapping[str, str]) -> bool:
        """Whether something is still to be decided, now or once more has come in. Proposes nothing."""
        seen, searches = self._seen(status), self._wanted()
        return any(not search.over(seen) or search.unconfirmed(self.measured) or not search.confirmed(seen) for search in searches) \
            or self._test(searches, seen) is not None

    def _wanted(self) -> list[VariantSearch]:
        """The searches that nobody has ended."""
        ended = self.store.ended_searches()
        return [search for search in self.searches if search.variant.name not in ended]

    # --- deciding -------------------------------------------------------------------------------------------------------------

    def advance(self, status: Mapping[str, str]) -> bool:
        """Decides all that can be decided now; whether there is anything new to train.

        Args:
            status: of every trial so far.
        """
        seen, decided = self._seen(status), 0
        for search in (searches := self._wanted()):
            while wave := search.next(seen, self.measured):
                self.store.write_wave(wave)
                search.take(wave)
                seen |= {trial.id: "pending" for trial in wave.trials}
                decided += 1
                self._warn(search)
                if wave.exhausted:
                    self.note(f"{search.variant.name}: all {len(search.candidates)} configs that the search space has are tried; "
                              f"[search] trials = {search.search.trials} asked for more")
        if all(search.over(seen) and search.confirmed(seen) for search in searches) and (wave := self._test(searches, seen)):
            self._again = False
            self.store.write_wave(wave)
            decided += 1
            self.note(f"the test split is opened for {len(wave.trials)} trials of the configs that were chosen on validation"
                      + (f", for the {wave.number}. time" if wave.number > 1 else ""))
        if decided:
            self.trials = {trial.id: trial for trial in self.store.trials()}
        return decided > 0

    def _warn(self, search: VariantSearch) -> None:
        """Says once what the proposer complains of."""
        for text in [text for text in search.trouble() if text not in self._said]:
            self._said.add(text)
            self.note(f"{search.search.algorithm}: {text}")

    def _test(self, searches: Sequence[VariantSearch], seen: Mapping[str, str]) -> Wave | None:
        if self.grid.test != "confirmed" or not self.grid.confirm:
            return None
        try:
            wave = test_wave(searches, self.trials, seen, self.measured, again=self._again)
            return None if wave and self._cut_short == {trial.id for trial in wave.trials} else wave
        except OpenedBefore as error:
            if not self._opened_before:
                self.note(f"the test split was opened {error.args[0]} times for configs that were best then; others are best now. --again "
                          "opens it for them too, and the tables say so")
            self._opened_before = True
            return None


def check_continues(frozen: str, grid: Grid) -> None:
    """Raises StudyError when a search cannot go on with a changed grid, because what it has tried would not belong to it any more."""
    def fixed(of: Grid) -> dict[str, Any]:
        identity = of.identity()
        search = identity.pop("search") or {}
        return {**identity, "confirm": None, "variants": None,
                "search": {name: value for name, value in search.items() if name not in ("trials", "wave", "running")}}

    old = parse_grid(frozen, name="grid.toml")
    before, now = (list(of.identity()["variants"].items()) for of in (old, grid))
    if fixed(old) != fixed(grid) or now[:len(before)] != before:
        raise StudyError("a search goes on with more trials, another wave, another [confirm] or more variants after those it has; what "
                         "else changed would make it another search: begin it anew with --study-dir DIR")
