"""The ladder of successive halving: epochs, configs and seeds of each rung. Arithmetic only; rungs are counted from 0.

A config begins on rung 0 with one seed. The best 1/factor of a rung go on to the next, with more epochs and more seeds, so that the
last rung has all seeds of the grid. After Jamieson and Talwalkar (2016), "Non-stochastic best arm identification and hyperparameter
optimization", and Li et al. (2020), "A system for massively parallel hyperparameter tuning" (ASHA); the growing seeds are our own.
"""


def rungs(first: int, factor: int, epochs: int) -> tuple[int, ...]:
    """The epochs of each rung: `first`, then `factor` times as many again and again, then `epochs`, rising strictly.

    A rung from which the whole training is less than the root of `factor` away is left out, unless it is the first: 3, 9 and 30 for 30
    epochs, since choosing at 27 would spare next to nothing. `first` is at least 1 and `factor` at least 2, as the grid checks them. With
    `first` at or above `epochs` there is one rung.
    """
    ladder = [first] if first < epochs else []
    budget = first * factor
    while budget * budget * factor <= epochs * epochs:
        ladder.append(budget)
        budget *= factor
    return (*ladder, epochs)


def seeds_at(rung: int, rungs: int, seeds: int) -> int:
    """How many of the grid's `seeds` a config has on a rung: 1 on the first of `rungs`, all on the last, evenly in between."""
    return seeds if rung >= rungs - 1 else 1 + round((seeds - 1) * rung / (rungs - 1))


def most_at(rung: int, trials: int, factor: int) -> int:
    """How many of `trials` configs reach a rung: all the first, then the whole part of 1/factor of the rung below, and never none.

    What is promoted before all are there may turn out not to have been among the best, so that a search can have a few more.
    """
    return max(1, trials // int(factor ** rung))


def most_trials(trials: int, factor: int, rungs: int, seeds: int) -> int:
    """How many trials (config and seed) the search of one variant has over all its `rungs`, when `most_at` of them reach each."""
    total = trials * seeds_at(0, rungs, seeds)
    for rung in range(1, rungs):
        total += most_at(rung, trials, factor) * (seeds_at(rung, rungs, seeds) - seeds_at(rung - 1, rungs, seeds))
    return total
