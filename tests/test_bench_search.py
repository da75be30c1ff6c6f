"""The benchmark of searches: its tasks have the optimum they claim, ranks and tests are right on made-up results, files are read again."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import search, search_digits
from benchmarks.search_rivals import CANDIDATES, OURS, RANDOM, active
from benchmarks.search_tasks import TASKS
from harness.search.space import Space


@pytest.mark.parametrize("name", TASKS)
def test_no_config_of_a_task_is_better_than_its_best(name: str) -> None:
    task = TASKS[name]()
    space, rng = Space(task.tuned, {}, defaults={}), np.random.default_rng(1)
    drawn = [space.decode(point) for point in rng.random((2000, len(task.tuned)))]
    near = [space.decode(np.clip(space.encode(task.best) + rng.normal(0, 0.02, len(task.tuned)), 0, 1)) for _ in range(500)]
    found = space.decode(space.encode(task.best))
    assert set(found) == set(task.best) and task.loss(found) == pytest.approx(task.optimum, abs=1e-7)  # it is in the space
    assert min(task.loss(values) for values in drawn + near) >= task.optimum - 1e-7
    assert task.fingerprint() == TASKS[name]().fingerprint()


def test_known_minima() -> None:
    """Of Branin's and Hartmann's functions, as published."""
    assert TASKS["branin_mix"]().optimum == pytest.approx(0.397887, abs=1e-6)
    assert TASKS["hartmann6"]().optimum == pytest.approx(-3.32237, abs=1e-5)


def test_a_noisy_task_shows_the_truth_with_noise() -> None:
    task = TASKS["train9 noisy"]()
    seen = [task.seen(task.best, 3, number) - task.optimum for number in range(400)]
    assert abs(np.mean(seen)) < 0.004 and np.std(seen) == pytest.approx(0.02, rel=0.15)
    assert task.seen(task.best, 3, 7) == seen[7] + task.optimum  # the same trial of the same search, the same noise


def test_the_kept_table_has_every_config() -> None:
    table = search_digits.read()
    assert len(table) == 1008 and {search_digits.key(config) for config in search_digits.configs()} == set(table)
    assert all(len(row) == 3 and 0 <= min(row) <= max(row) <= 1 for row in table.values())


def test_values_of_conditions_that_do_not_hold_are_left_out() -> None:
    tuned = TASKS["lr3"]().tuned
    assert active(tuned, {"lr": 0.1, "optimizer": "adam", "momentum": 0.9}) == {"lr": 0.1, "optimizer": "adam"}
    assert active(tuned, {"lr": 0.1, "optimizer": "sgd", "momentum": 0.9}) == {"lr": 0.1, "optimizer": "sgd", "momentum": 0.9}


def made_up(regrets: dict[str, list[float]], task: str = "disc7") -> list[search.Result]:
    """Results at 8/4, one for each seed."""
    return [search.Result(candidate=name, task=task, budget=8, wave=4, seed=seed, regret=regret, cpu_ms=1.0, made_by="x", task_id="t")
            for name, values in regrets.items() for seed, regret in enumerate(values)]


def test_ranks_share_ties_and_count_common_seeds() -> None:
    results = made_up({OURS: [0.1, 0.1, 0.0], RANDOM: [0.2, 0.1, 0.3], "Optuna TPE": [0.3, 0.3]})
    # seed 0: 0, .5, 1; seed 1: .25, .25, 1; seed 2 is not everybody's
    ranks = search.mean_ranks(results, [OURS, RANDOM, "Optuna TPE"], [(8, 4)])
    assert ranks == pytest.approx({OURS: 0.125, RANDOM: 0.375, "Optuna TPE": 1})
    assert search.mean_ranks(results, [OURS, RANDOM], [(8, 4)], of_medians=True) == {OURS: 0, RANDOM: 1}
    assert search.mean_ranks(results, [OURS], [(8, 4)]) == {}


def test_worse_than_random_is_found_and_told_from_noise() -> None:
    worse = [(task, p < 0.001) for task, _, p in search.worse_than_random(
        made_up({OURS: [2.0 + n for n in range(20)], RANDOM: [0.01 * n for n in range(20)]})
        + made_up({OURS: [1.0, 4.0, 3.1], RANDOM: [2.0, 3.0, 5.0]}, task="lr3")
        + made_up({OURS: [0.0, 0.1], RANDOM: [1.0, 2.0]}, task="train9"), OURS, [(8, 4)])]
    assert worse == [("lr3", False), ("disc7", True)]


def test_an_interrupted_file_is_completed_and_what_another_version_found_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    kept: dict[tuple[str, str, int, int, int], search.Result] = {}
    search._run(kept, [RANDOM], [(8, 4)], range(2), path)
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 1 + 2 * len(TASKS)
    stale = lines[2].replace(CANDIDATES[RANDOM].made_by(), "numpy of last year").replace(lines[2].split(",")[5], "9.0", 1)
    path.write_text("".join([lines[0], lines[1], stale, *lines[3:-2], lines[-2][:20]]))
    again = {result.key: result for result in search.read(path)}
    assert len(again) == 2 * len(TASKS) - 2
    search._run(again, [RANDOM], [(8, 4)], range(2), path)
    untimed = [[(r.key, r.regret, r.made_by, r.task_id) for r in results] for results in (kept.values(), search.read(path))]
    assert sorted(untimed[0]) == sorted(untimed[1])
