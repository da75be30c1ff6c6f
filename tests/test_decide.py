"""What a search does next, from statuses and values made up by hand: no process, no file, and a proposer that counts."""

import json
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from harness.grid import Grid, parse_grid
from harness.search.decide import OpenedBefore, VariantSearch
from harness.search.decide import test_wave as opening
from harness.search.rungs import most_at, most_trials
from harness.trials import Planner
from harness.waves import Told, Wave, as_content, from_content


def grid(*, trials: int, wave: int, running: int = 0, first: int = 0, factor: int = 3, epochs: int | list[int] = 9,
         seeds: Iterable[int] = (0,), mode: str = "min", confirm: tuple[int, int] | None = None, tries: int = 0) -> Grid:
    """A grid that tunes `x`, and `epochs` where there is a list of them; with `first` it has halving."""
    return parse_grid(f"""
        [study]
        name = "decide"
        metric = "score"
        mode = "{mode}"
        seeds = {list(seeds)}
        [job]
        run = "made.up:job"
        metrics = ["score"]
        [fixed]
        unused = 1
        {'' if isinstance(epochs, list) else f'epochs = {epochs}'}
        [tune]
        x = {{ low = 0, high = 100000 }}
        {f'epochs = {epochs}' if isinstance(epochs, list) else ''}
        [search]
        trials = {trials}
        wave = {wave}
        {f'running = {running}' if running else ''}
        {f'[search.halving]{chr(10)}first = {first}{chr(10)}factor = {factor}' if first else ''}
        {''.join(f'[[search.try]]{chr(10)}x = {1000 + n}{chr(10)}' for n in range(tries))}
        {f'[confirm]{chr(10)}top = {confirm[0]}{chr(10)}seeds = {confirm[1]}' if confirm else ''}
        """)


class Stub:
    """Proposes x = its number, or what `propose` makes of everything that it was told and asked; remembers all of it."""

    def __init__(self, most: int = 10**6, propose: Callable[[list[Any], int], dict[str, Any]] = lambda log, number: {"x": number}):
        self.log: list[Any] = []
        self._most, self._propose, self._number = most, propose, 0

    def known(self, values: dict[str, Any]) -> None:
        self.log.append(("known", values))
        self._number += 1

    def ask(self, n: int) -> list[dict[str, Any]]:
        n = min(n, self._most - self._number)
        answers = [self._propose(self.log, self._number + k) for k in range(n)]
        self.again(answers)
        return answers

    def again(self, recorded: list[dict[str, Any]]) -> None:
        self.log.append(("asked", recorded))
        self._number += len(recorded)

    def tell(self, number: int, loss: float | None, share: float = 1.0) -> None:
        self.log.append((number, loss, share))

    @property
    def told(self) -> list[Any]:
        return [entry for entry in self.log if not isinstance(entry[0], str)]


class Made:
    """A search whose trials come to rest when a test says so."""

    def __init__(self, of: Grid, value: Callable[[int, int | None, int], float | None] = lambda number, epochs, seed: float(number),
                 stub: Stub | None = None):
        self.grid, self.stub, self._value = of, stub or Stub(), value
        self.status: dict[str, str] = {}
        self.trials: dict[str, Any] = {}
        self.reached: dict[str, float] = {}
        """trial -> epochs that it has been trained."""
        self.search = self.another()

    def another(self) -> VariantSearch:
        """A search of the same grid that has decided nothing yet."""
        stub, self_tries = self.stub, self.grid.search.tries
        return VariantSearch(self.grid, 0, Planner(self.grid), lambda: stub, lambda: list(self_tries))

    def measured(self, trial: str, epochs: int | None) -> float | None:
        if self.reached.get(trial, 0) < (epochs or math.inf):
            return None
        return self._value(self.trials[trial].number, epochs, self.trials[trial].seed)

    def decide(self) -> list[Wave]:
        """All that is decided now, taken over."""
        waves = []
        while wave := self.search.next(self.status, self.measured):
            self.take(wave)
            waves.append(wave)
        return waves

    def take(self, wave: Wave) -> None:
        self.search.take(wave)
        for trial in wave.trials:
            self.trials[trial.id], self.status[trial.id] = trial, "pending"

    def rest(self, *numbers: int, status: str = "", seed: int | None = None) -> None:
        """What these configs were granted is trained, or has ended as `status` says."""
        for trial in self.trials.values():
            if trial.number in numbers and self.status[trial.id] == "pending" and seed in (None, trial.seed):
                self.status[trial.id] = status or ("done" if trial.budget is None else "pruned")
                self.reached[trial.id] = self.reached.get(trial.id, 0) if status else trial.budget or math.inf

    def waiting(self) -> list[str]:
        return [trial for trial, status in self.status.items() if status == "pending"]


def granted(wave: Wave) -> list[tuple[int, int, int | None]]:
    """(config, seed, epochs) of each trial."""
    return [(trial.number, trial.seed, trial.budget) for trial in wave.trials]


# --- waves ----------------------------------------------------------------------------------------------------------------------------


def test_with_a_barrier_a_wave_waits_for_all_of_the_one_before() -> None:
    made = Made(grid(trials=5, wave=2))
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, None), (1, 0, None)]]
    made.rest(1)
    assert made.decide() == []
    made.rest(0)
    (wave,) = made.decide()
    assert granted(wave) == [(2, 0, None), (3, 0, None)] and wave.name == "v000-001"
    assert wave.told == (Told(number=0, value=0.0), Told(number=1, value=1.0))
    made.rest(2, 3)
    assert [granted(wave) for wave in made.decide()] == [[(4, 0, None)]]  # what is left of the five
    made.rest(4)
    assert made.decide() == [] and made.search.over(made.status)


def test_without_a_barrier_a_wave_is_proposed_as_soon_as_there_is_room_for_all_of_it() -> None:
    made = Made(grid(trials=100, wave=2, running=5))
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, None), (1, 0, None)], [(2, 0, None), (3, 0, None)]]
    made.rest(3)
    (wave,) = made.decide()
    assert granted(wave) == [(4, 0, None), (5, 0, None)] and wave.told == (Told(number=3, value=3.0),)
    made.rest(1)
    assert made.decide() == []  # four are active: no room for two more
    made.rest(0)
    assert made.decide()[0].told == (Told(number=0, value=0.0), Told(number=1, value=1.0))  # in the order of the configs


def test_every_config_is_trained_with_all_seeds_and_told_once_as_their_mean() -> None:
    made = Made(grid(trials=2, wave=1, seeds=(3, 5)), lambda number, epochs, seed: 10.0 * number + seed)
    assert granted(made.decide()[0]) == [(0, 3, None), (0, 5, None)]
    made.rest(0, seed=3)
    assert made.decide() == []
    made.rest(0, seed=5)
    assert made.decide()[0].told == (Told(number=0, value=4.0),)
    assert made.stub.told == [(0, 4.0, 1.0)]


def test_more_is_better_is_told_as_a_loss() -> None:
    made = Made(grid(trials=2, wave=1, mode="max"), lambda number, epochs, seed: 0.75)
    made.decide()
    made.rest(0)
    assert made.decide()[0].told == (Told(number=0, value=0.75),) and made.stub.told == [(0, -0.75, 1.0)]


@pytest.mark.parametrize(("status", "told"), [
    ("failed", [(0, None, 1.0), (1, 1.0, 1.0)]), ("infeasible", [(0, None, 1.0), (1, 1.0, 1.0)]),
    ("lost", [(1, 1.0, 1.0)]), ("cancelled", [(1, 1.0, 1.0)]),
])
def test_what_failed_is_told_as_such_and_what_is_gone_says_nothing(status: str, told: list[Any]) -> None:
    made = Made(grid(trials=4, wave=2))
    made.decide()
    made.rest(0, status=status)
    made.rest(1)
    made.decide()
    assert made.stub.told == told


def test_a_config_with_one_failed_seed_has_no_value() -> None:
    made = Made(grid(trials=2, wave=1, seeds=(0, 1)))
    made.decide()
    made.rest(0, seed=0)
    made.rest(0, seed=1, status="failed")
    assert made.decide()[0].told == (Told(number=0, value=None),)
    assert made.search.ranking(made.measured) == []


def test_a_lost_config_that_is_tried_again_is_told_when_it_has_a_value() -> None:
    made = Made(grid(trials=6, wave=2))
    made.decide()
    made.rest(0, status="lost")
    made.rest(1)
    made.decide()
    made.status[next(t.id for t in made.trials.values() if t.number == 0)] = "pending"
    made.rest(0, 2, 3)
    made.decide()
    assert [number for number, *_ in made.stub.told] == [1, 0, 2, 3]


def test_settings_to_try_come_first_over_as_many_waves_as_they_need() -> None:
    made = Made(grid(trials=5, wave=2, running=6, tries=3))
    waves = made.decide()
    assert [[t.config["x"] for t in wave.trials] for wave in waves] == [[1000, 1001], [1002, 3], [4]]
    assert [wave.known for wave in waves] == [2, 1, 0]
    assert made.stub.log == [("known", {"x": 1000}), ("known", {"x": 1001}), ("known", {"x": 1002}), ("asked", [{"x": 3}]),
                             ("asked", [{"x": 4}])]


@pytest.mark.parametrize("most", [4, 5])
def test_a_space_with_fewer_configs_ends_the_search(most: int) -> None:
    made = Made(grid(trials=100, wave=4), stub=Stub(most))
    made.decide()
    made.rest(0, 1, 2, 3)
    (wave,) = made.decide()
    assert len(wave.trials) == most - 4 and wave.exhausted
    made.rest(4)
    assert made.decide() == [] and made.search.over(made.status)


# --- halving --------------------------------------------------------------------------------------------------------------------------


def test_the_best_third_goes_on_while_others_still_run() -> None:
    made = Made(grid(trials=100, wave=4, running=8, first=1, factor=3, epochs=9), lambda number, epochs, seed: -float(number))
    assert [granted(wave)[0] for wave in made.decide()] == [(0, 0, 1), (4, 0, 1)]
    made.rest(0, 1)
    assert made.decide() == []
    made.rest(2)
    (wave,) = made.decide()
    assert wave.kind == "promote" and granted(wave) == [(2, 0, 3)]  # of 0, 1 and 2 the lowest
    made.rest(3)
    assert made.decide() == []  # 3 is the best by now, but of four one may go on, and one went
    made.rest(4, 7)
    assert granted(made.decide()[0]) == [(7, 0, 3)]


def test_there_is_room_for_new_configs_where_others_rest_on_a_rung() -> None:
    made = Made(grid(trials=100, wave=2, running=4, first=1, factor=3, epochs=9))
    made.decide()
    made.rest(3)
    assert made.decide() == []
    made.rest(2)
    (wave,) = made.decide()
    assert wave.kind == "propose" and wave.told == (Told(number=2, value=2.0, share=1 / 9), Told(number=3, value=3.0, share=1 / 9))
    made.rest(0, 1)
    assert [(wave.kind, granted(wave)) for wave in made.decide()] == [("promote", [(0, 0, 3)])]  # which leaves no room for two


def test_at_the_end_at_least_the_best_of_each_rung_goes_on() -> None:
    made = Made(grid(trials=2, wave=2, first=1, factor=3, epochs=9))
    made.decide()
    made.rest(1)
    assert made.decide() == []
    made.rest(0)
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, 3)]]
    made.rest(0)
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, None)]]
    made.rest(0)
    assert made.decide() == [] and made.search.over(made.status)
    assert [c.number for c in made.search.ranking(made.measured)] == [0, 1]


def test_the_end_of_a_rung_waits_for_those_that_may_still_reach_it() -> None:
    """Seven configs: two go on from the first rung; one goes on from the second only when both have come."""
    made = Made(grid(trials=7, wave=7, first=1, factor=3, epochs=9))
    made.decide()
    made.rest(*range(7))
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, 3), (1, 0, 3)]]
    made.rest(1)
    assert made.decide() == []
    made.rest(0)
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, None)]]


def test_who_comes_early_to_a_rung_waits_for_those_that_go_on_to_it_now() -> None:
    made = Made(grid(trials=6, wave=3, running=6, first=1, factor=3, epochs=9), lambda number, epochs, seed: -float(number))
    made.decide()
    made.rest(0, 1, 2)
    made.decide()
    made.rest(2)  # on the second rung, alone
    made.rest(3, 4, 5)
    assert [granted(wave) for wave in made.decide()] == [[(5, 0, 3)]]
    made.rest(5)
    assert [granted(wave) for wave in made.decide()] == [[(5, 0, None)]]


def test_failed_configs_count_on_their_rung_and_lost_ones_do_not() -> None:
    for status, expected in (("failed", [(2, 0, 3)]), ("infeasible", [(2, 0, 3)]), ("lost", []), ("cancelled", [])):
        made = Made(grid(trials=100, wave=4, first=1, factor=3, epochs=9))
        made.decide()
        made.rest(0, 1, status=status)
        made.rest(2)
        assert [line for wave in made.decide() for line in granted(wave)] == expected, status


def test_nothing_goes_on_where_all_failed() -> None:
    made = Made(grid(trials=3, wave=3, first=1, factor=3, epochs=9))
    made.decide()
    made.rest(0, 1, 2, status="failed")
    assert made.decide() == [] and made.search.over(made.status)


def test_one_that_fails_on_a_higher_rung_gives_its_place_to_the_next() -> None:
    made = Made(grid(trials=3, wave=3, first=1, factor=3, epochs=9))
    made.decide()
    made.rest(0, 1, 2)
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, 3)]]
    made.rest(0, status="failed")
    assert [granted(wave) for wave in made.decide()] == [[(1, 0, 3)]]
    made.rest(1)
    assert [granted(wave) for wave in made.decide()] == [[(1, 0, None)]]
    made.rest(1, status="infeasible")
    assert [granted(wave) for wave in made.decide()] == [[(2, 0, 3)]]
    made.rest(2, status="lost")
    assert made.decide() == [] and made.search.over(made.status)
    assert made.search.ranking(made.measured) == []


def test_the_earlier_of_equal_configs_goes_on() -> None:
    made = Made(grid(trials=100, wave=6, first=1, factor=3, epochs=9), lambda number, epochs, seed: 0.5)
    made.decide()
    made.rest(5, 4, 3)
    assert granted(made.decide()[0]) == [(3, 0, 3)]
    made.rest(2, 1, 0)
    assert granted(made.decide()[0]) == [(0, 0, 3)]


def test_seeds_are_added_on_the_way_and_only_their_mean_counts() -> None:
    """With rungs of 1, 3 and all 9 epochs and three seeds a config has 1, 2 and 3 of them."""
    made = Made(grid(trials=3, wave=3, first=1, factor=3, epochs=9, seeds=(7, 8, 9)), lambda number, epochs, seed: number + (seed - 7) / 10)
    assert granted(made.decide()[0]) == [(0, 7, 1), (1, 7, 1), (2, 7, 1)]
    made.rest(0, 1, 2)
    assert [granted(wave) for wave in made.decide()] == [[(0, 7, 3), (0, 8, 3)]]
    made.rest(0, seed=8)
    assert made.decide() == []
    made.rest(0, seed=7)
    assert made.search.value(made.search.candidates[0], 1, made.measured) == pytest.approx(0.05)
    assert [granted(wave) for wave in made.decide()] == [[(0, 7, None), (0, 8, None), (0, 9, None)]]


def test_what_was_measured_on_each_rung_is_told_with_its_share_of_the_epochs() -> None:
    made = Made(grid(trials=8, wave=4, running=4, first=1, factor=4, epochs=8), lambda number, epochs, seed: number + 1 / (epochs or 8))
    made.decide()
    made.rest(0, 1, 2, 3)
    assert [wave.kind for wave in made.decide()] == ["promote"]  # of one config; three places are no room for four
    made.rest(0)
    (wave,) = made.decide()
    assert wave.told == tuple(Told(number=number, value=number + 1 / share, share=share / 8)
                              for number, share in ((0, 1), (0, 4), (1, 1), (2, 1), (3, 1)))


def test_shorter_trainings_have_fewer_rungs() -> None:
    """Epochs of 3 and 9 are tuned: rungs of 1 and 3, and of 1, 3 and 9."""
    made = Made(grid(trials=6, wave=6, first=1, factor=2, epochs=[4, 16]),
                stub=Stub(propose=lambda log, number: {"x": number, "epochs": 4 if number % 2 == 0 else 16}))
    made.decide()
    made.rest(*range(6))
    assert [granted(wave) for wave in made.decide()] == [[(0, 0, 2), (1, 0, 2), (2, 0, 2)]]
    made.rest(0, 1, 2)
    (wave,) = made.decide()
    assert granted(wave) == [(0, 0, None)]
    made.rest(0)
    assert [granted(wave) for wave in made.decide()] == []


def test_halving_is_told_apart_by_mode() -> None:
    made = Made(grid(trials=100, wave=3, first=1, factor=3, epochs=9, mode="max"))
    made.decide()
    made.rest(0, 1, 2)
    assert granted(made.decide()[0]) == [(2, 0, 3)]


def test_as_many_go_on_as_rungs_say_in_whatever_order_they_come() -> None:
    for case in range(30):
        rng = random.Random(case)
        trials, factor, seeds = rng.randint(1, 30), rng.randint(2, 4), rng.randint(1, 4)
        better = rng.choice([-1, 0, 1])
        made = Made(grid(trials=trials, wave=rng.randint(1, min(5, trials)), running=20, first=1, factor=factor, epochs=factor**3,
                         seeds=range(seeds)), lambda number, epochs, seed, better=better: float(number * better + seed))
        while made.decide() or made.waiting():
            for trial in rng.sample(made.waiting(), rng.randint(0, len(made.waiting()))):
                made.rest(made.trials[trial].number, seed=made.trials[trial].seed)
        rungs = [sum(c.rung >= rung for c in made.search.candidates) for rung in range(4)]
        assert rungs == [most_at(rung, trials, factor) for rung in range(4)], case
        assert len(made.trials) == most_trials(trials, factor, 4, seeds)


# --- confirming -----------------------------------------------------------------------------------------------------------------------


def test_the_best_are_confirmed_on_seeds_that_nobody_has_seen() -> None:
    made = Made(grid(trials=3, wave=3, seeds=(4, 9), confirm=(2, 2)))
    made.decide()
    made.rest(0, 1, 2)
    assert made.search.unconfirmed(made.measured)
    (wave,) = made.decide()
    assert wave.kind == "confirm" and granted(wave) == [(0, 10, None), (0, 11, None), (1, 10, None), (1, 11, None)]
    assert {trial.phase for trial in wave.trials} == {"confirm"}
    assert not made.search.confirmed(made.status) and made.decide() == []
    made.rest(0, 1)
    assert made.search.confirmed(made.status) and not made.search.unconfirmed(made.measured)


def test_the_winner_is_the_best_on_the_fresh_seeds_whatever_it_was_before() -> None:
    made = Made(grid(trials=3, wave=3, confirm=(2, 2)), lambda number, epochs, seed: float(number) if seed == 0 else -float(number))
    made.decide()
    made.rest(0, 1, 2)
    made.decide()
    assert made.search.winner(made.measured) is None
    made.rest(0, 1)
    winner = made.search.winner(made.measured)
    assert winner is not None and winner.number == 1


def test_a_confirmed_config_with_a_failed_seed_cannot_win() -> None:
    made = Made(grid(trials=3, wave=3, confirm=(2, 2)))
    made.decide()
    made.rest(0, 1, 2)
    made.decide()
    made.rest(0, seed=1)
    made.rest(0, seed=2, status="failed")
    made.rest(1)
    winner = made.search.winner(made.measured)
    assert winner is not None and winner.number == 1


def test_the_reference_is_confirmed_too_and_no_config_of_a_lower_rung_before_one_of_a_higher() -> None:
    made = Made(grid(trials=4, wave=4, first=1, factor=3, epochs=9, tries=1, confirm=(2, 1)),
                lambda number, epochs, seed: {0: 9.0, 1: 1.0, 2: 2.0, 3: 3.0}[number] + (50 if number == 1 and epochs != 1 else 0))
    made.decide()
    made.rest(0, 1, 2, 3)
    made.decide()
    made.rest(1)
    made.decide()
    made.rest(1)  # all of its epochs, and it is the worst by far
    assert [c.number for c in made.search.ranking(made.measured)] == [1, 2, 3, 0]
    (wave,) = made.decide()
    assert granted(wave) == [(1, 1, None), (2, 1, None), (0, 1, None)]


# --- the test split -------------------------------------------------------------------------------------------------------------------


def confirmed(**more: Any) -> Made:
    made = Made(grid(trials=3, wave=3, tries=1, confirm=(2, 2)), **more)
    made.decide()
    made.rest(0, 1, 2)
    made.decide()
    made.rest(0, 1)
    return made


def open_test(made: Made, *, again: bool = False) -> Wave | None:
    return opening([made.search], made.trials, made.status, made.measured, again=again)


def test_the_test_split_is_opened_once_for_the_winner_and_the_reference() -> None:
    made = confirmed(value=lambda number, epochs, seed: -float(number) if number < 2 else 5.0)
    wave = open_test(made)
    assert wave is not None and (wave.kind, wave.name, wave.variant) == ("test", "test-001", None)
    assert [(t.number, t.seed, t.opening) for t in wave.trials] == [(1, 1, 1), (1, 2, 1), (0, 1, 1), (0, 2, 1)]
    made.trials.update({t.id: t for t in wave.trials})
    assert open_test(made) is None
    again = open_test(made, again=True)
    assert again is not None and again.name == "test-002" and {t.opening for t in again.trials} == {2}


def test_another_winner_opens_it_only_when_asked_again() -> None:
    made = confirmed(value=lambda number, epochs, seed: float(number))
    wave = open_test(made)
    assert wave is not None and {t.number for t in wave.trials} == {0}
    made.trials.update({t.id: t for t in wave.trials})
    made._value = lambda number, epochs, seed: -float(number)
    with pytest.raises(OpenedBefore) as raised:
        open_test(made)
    assert raised.value.args == (1,)
    again = open_test(made, again=True)
    assert again is not None and [(t.number, t.opening) for t in again.trials] == [(1, 2), (1, 2), (0, 2), (0, 2)]


def test_only_what_was_trained_to_its_end_is_tested_and_nothing_when_nothing_was() -> None:
    made = confirmed()
    made.status = {trial: "failed" if made.trials[trial].phase == "confirm" else status for trial, status in made.status.items()}
    assert open_test(made) is None


# --- whatever happens -----------------------------------------------------------------------------------------------------------------


def from_history(log: list[Any], number: int) -> dict[str, Any]:
    """Values that differ when anything that was told or asked before differs."""
    return {"x": zlib.crc32(repr((log, number)).encode()) % 100_000, "epochs": 4 + number % 3 * 6}


def made_at_random(rng: random.Random) -> Made:
    trials = rng.randint(1, 14)
    wave = rng.randint(1, min(trials, 5))
    tuned = rng.random() < 0.3
    first = rng.choice([0, 1, 1, 2, 3])
    of = grid(trials=trials, wave=wave, running=rng.randint(wave, 3 * wave), first=first, factor=rng.randint(2, 4),
              epochs=[4, 10, 16] if tuned else rng.randint(first + 1, 30), seeds=range(rng.randint(1, 4)), mode=rng.choice(["min", "max"]),
              tries=0 if tuned else rng.randint(0, min(trials, 2)), confirm=(1, 2) if rng.random() < 0.5 else None)
    worth = {number: rng.choice([rng.random(), 0.5, None]) for number in range(trials)}  # equal values, and none

    def value(number: int, epochs: int | None, seed: int) -> float | None:
        basis = worth[number]
        return None if basis is None else round(basis + random.Random(f"{number} {epochs} {seed}").uniform(-0.2, 0.2), 1)

    most = rng.choice([10**6, rng.randint(max(1, len(of.search.tries)), trials)])
    made = Made(of, value, Stub(most))
    made.propose = from_history if tuned else lambda log, number: {"x": from_history(log, number)["x"]}
    made.most = most
    made.search = anew(made)
    return made


def anew(made: Made) -> VariantSearch:
    """The search of another launcher: a proposer in its first state, and no memory but the waves, as their files have them."""
    search, stub = made.search, Stub(made.most, made.propose)
    again = VariantSearch(made.grid, 0, search.planner, lambda: stub, lambda: list(made.grid.search.tries))
    for wave in search.waves:
        again.take(from_content(json.loads(json.dumps(as_content(wave)))))
    return again


@pytest.mark.parametrize("block", range(4))
def test_another_launcher_decides_the_same_and_every_search_ends(block: int) -> None:
    for case in range(25):
        rng = random.Random(f"{block} {case}")
        made, taken_over = made_at_random(rng), rng.random() < 0.5
        trials, factor = made.grid.search.trials, made.grid.search.halving
        for _ in range(2000):
            if taken_over and rng.random() < 0.3:
                made.search = anew(made)
            other = anew(made) if rng.random() < 0.3 else None
            wave = made.search.next(made.status, made.measured)
            if other:
                assert other.next(made.status, made.measured) == wave, (block, case)
            if wave:
                made.take(wave)
                continue
            waiting = made.waiting()
            if not waiting:
                break
            for trial in rng.sample(waiting, rng.randint(1, len(waiting))):
                planned = made.trials[trial]
                made.rest(planned.number, seed=planned.seed, status=rng.choice([""] * 12 + ["failed", "infeasible", "lost"]))
        else:
            pytest.fail(f"{block} {case}: the search does not end")
        search = made.search
        assert search.over(made.status) and search.confirmed(made.status) and not search.unconfirmed(made.measured)
        assert len(search.candidates) == min(trials, made.most)
        assert search.exhausted == (made.most < trials)
        grants = Counter((t.id, t.budget) for w in search.waves for t in w.trials)
        assert max(grants.values()) == 1, (block, case)  # nothing is granted twice
        numbers = [t.number for w in search.waves if w.kind == "propose" for t in w.trials if t.seed == made.grid.seeds[0]]
        assert numbers == list(range(len(numbers)))
        steps = Counter((t.number, t.budget) for w in search.waves if w.kind != "confirm" for t in w.trials)
        by_config = {c.number: [b for n, b in steps if n == c.number] for c in search.candidates}
        assert all(tuple(by_config[c.number]) == c.ladder[:c.rung + 1] for c in search.candidates)  # rung by rung, none left out
        assert factor or all(c.rung == 0 for c in search.candidates)
        told = [(t.number, t.share) for w in search.waves for t in w.told]
        assert len(told) == len(set(told))
