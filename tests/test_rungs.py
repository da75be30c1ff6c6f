"""The arithmetic of successive halving, against ladders worked out by hand."""

import pytest

from harness.search.rungs import most_at, most_trials, rungs, seeds_at


@pytest.mark.parametrize(("first", "factor", "epochs", "expected"), [
    (3, 3, 81, (3, 9, 27, 81)),       # the last multiple is the whole training itself
    (3, 3, 50, (3, 9, 27, 50)),       # 27 * 1.73 is below 50
    (3, 3, 46, (3, 9, 46)),           # and above 46: choosing at 27 would spare little
    (3, 3, 30, (3, 9, 30)),
    (3, 3, 27, (3, 9, 27)),
    (1, 2, 10, (1, 2, 4, 10)),
    (1, 2, 12, (1, 2, 4, 8, 12)),
    (1, 4, 8, (1, 4, 8)),             # 4 * 2 is 8, just enough
    (1, 4, 7, (1, 7)),
    (8, 3, 10, (8, 10)),              # what the grid names as the first is a rung
    (9, 3, 10, (9, 10)),
    (10, 3, 10, (10,)),
    (12, 3, 10, (10,)),               # a grid refuses this; a config alone would still be trained whole
    (1, 100, 100_000, (1, 100, 10_000, 100_000)),
])
def test_rungs_rise_by_the_factor_and_end_with_the_whole_training(first, factor, epochs, expected):
    assert rungs(first, factor, epochs) == expected


@pytest.mark.parametrize(("ladder", "seeds", "expected"), [
    (4, 1, [1, 1, 1, 1]), (4, 4, [1, 2, 3, 4]), (2, 5, [1, 5]), (1, 5, [5]), (3, 5, [1, 3, 5]), (4, 3, [1, 2, 2, 3]),
    (5, 2, [1, 1, 1, 2, 2]),
])
def test_seeds_are_added_from_one_to_all(ladder, seeds, expected):
    assert [seeds_at(rung, ladder, seeds) for rung in range(ladder)] == expected


def test_the_best_part_of_a_rung_goes_on_and_never_none():
    assert [most_at(rung, 64, 3) for rung in range(5)] == [64, 21, 7, 2, 1]
    assert [most_at(rung, 2, 3) for rung in range(3)] == [2, 1, 1]
    for trials in range(1, 200):
        for factor in range(2, 8):
            for rung in range(1, 6):
                assert most_at(rung, trials, factor) == max(1, most_at(rung - 1, trials, factor) // factor)


def test_trials_are_the_configs_and_the_seeds_that_promotions_add():
    assert most_trials(64, 3, 4, 1) == 64
    assert most_trials(64, 3, 4, 4) == 64 + 21 + 7 + 2       # one more seed on every rung
    assert most_trials(9, 3, 3, 5) == 9 + 3 * 2 + 1 * 2      # seeds 1, 3, 5
    assert most_trials(9, 3, 1, 5) == 9 * 5
