"""The simulated searches behind two benchmarks count what they say they count."""

import numpy as np
import pytest

from benchmarks import confirm, halving, halving_digits
from benchmarks.search_simulation import Simulation
from harness.grid import parse_grid
from harness.search.space import Space


def simulation(search: str, **more: object) -> Simulation:
    """A search of x in 1 to 9, each config taking x units of time for an epoch; the loss after epoch e is x / e."""
    grid = parse_grid(f"""
        [study]
        name = "simulated"
        metric = "loss"
        [job]
        run = "made.up:job"
        metrics = ["loss"]
        [fixed]
        epochs = 9
        [tune]
        x = {{ low = 1, high = 9 }}
        [search]
        {search}
        """)

    class InOrder:
        def __init__(self) -> None:
            self.x = 0

        def ask(self, n: int) -> list[dict[str, int]]:
            self.x += n
            return [{"x": x} for x in range(self.x - n + 1, self.x + 1)]

        def tell(self, number: int, loss: float | None, share: float = 1.0) -> None:
            pass

    return Simulation(grid, lambda config, seed: [config["x"] / epoch for epoch in range(1, 10)], pace=lambda config: config["x"],
                      proposer=InOrder, **more)  # type: ignore[arg-type]


def test_epochs_are_counted_as_time_goes_by_those_under_way_too() -> None:
    seen: list[tuple[float, int | None]] = []

    def watch(it: Simulation) -> None:
        leading = it.leading()
        seen.append((round(it.epochs, 6), leading.number if leading else None))

    simulation("trials = 3\nwave = 3", watch=watch).run()
    # x = 1, 2, 3 side by side: the first is through after 9 units, when the others have 4.5 and 3 epochs; the second after 18
    assert seen == [(16.5, 0), (24.0, 0), (27.0, 0)]


def test_halving_is_simulated_with_its_rungs() -> None:
    done = simulation("trials = 9\nwave = 9\n[search.halving]\nfirst = 1\nfactor = 3")
    done.run()
    assert [wave.kind for wave in done.waves] == ["propose", "promote", "promote", "promote", "promote"]
    assert done.epochs == pytest.approx(9 * 1 + 3 * 2 + 1 * 6)
    assert [c.rung for c in done.search.candidates] == [2, 1, 1, 0, 0, 0, 0, 0, 0]
    assert done.leading() is done.search.candidates[0]
    assert done.measured(done.search.candidates[1].trials[0], 3) == pytest.approx(2 / 3)
    assert done.measured(done.search.candidates[1].trials[0], None) is None


def test_expected_epochs_are_those_of_a_search() -> None:
    setting = halving._synthetic(epochs=27, configs=9, seeds=3)
    # rungs 3, 9, 27 with 1, 2 and 3 seeds: 9 * 3, then 3 * (6 + 9), then 1 * (2 * 18 + 27)
    assert halving.expected_epochs(setting, 9) == 27 + 45 + 63
    assert halving.configs_for(setting, 135) == 9 and halving.configs_for(setting, 134) == 8
    grid = halving.grid_of(setting, algorithm="auto", configs=9, halving=True, seed=0)
    done = Simulation(grid, lambda config, seed: setting.curve(config, seed, 0), pace=setting.pace,
                      proposer=lambda: confirm.Drawn(Space(grid.tune or (), {}, defaults={}), 0))
    done.run()
    assert done.epochs == pytest.approx(135)


def test_the_moment_when_the_median_of_searches_is_as_good() -> None:
    courses = [[(1.0, 5.0), (4.0, 1.0)], [(2.0, 3.0), (6.0, 2.0)], [(3.0, 4.0)]]
    assert halving.reached(courses, 4.0) == 3.0  # 5, 3 and 4 by then
    assert halving.reached(courses, 3.0) == 4.0
    assert halving.reached(courses, 2.0) == 6.0
    assert halving.reached(courses, 1.9) == float("inf")


def test_the_kept_curves_are_whole() -> None:
    table = halving_digits.read()
    assert len(table) == len(halving_digits.configs()) * len(halving_digits.SEEDS) == 672
    assert all(0 <= min(curve) <= max(curve) <= 1 and len(curve) == 27 for curve in table.values())


def test_a_report_from_the_seeds_that_were_left_out() -> None:
    # without the first seed the second config is better, 3 against 1; without the second or the third the first, 9 against 2 and 1
    assert confirm.left_out(np.array([[9.0, 0.5, 0.5], [0.0, 1.0, 2.0]])) == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert confirm.left_out(np.array([[1.0, 0.0, 3.0], [2.0, 1.0, 4.0]])) == pytest.approx((2 + 1 + 4) / 3)  # one is always better


def test_bias_of_one_study_is_what_it_says_less_the_truth() -> None:
    kind = confirm.Kind(configs=8, seeds=1, noise=0.0)
    outcome = confirm.study(kind, confirm.grid_of(kind), 0)
    assert [getattr(outcome, name) for name in confirm.Outcome.__slots__] == pytest.approx([0, 0, 0, 0], abs=1e-12)
