"""What proposes configs: never twice the same, nothing that is not allowed, and the same again in a new process, for every algorithm."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.grid_draft import Tuned
from harness.search.algorithms import ALGORITHMS
from harness.search.proposer import Proposer
from harness.search.require import parse_requirement
from harness.search.space import Space

SGD = ("optimizer", "sgd")
MIXED = [Tuned(name="lr", kind="float", low=1e-4, high=1.0, log=True),
         Tuned(name="optimizer", kind="str", choices=("sgd", "adam", "adamw")),
         Tuned(name="momentum", kind="float", low=0.5, high=0.99, when=(SGD,)), Tuned(name="depth", kind="int", low=1, high=5),
         Tuned(name="batch", kind="int", choices=(16, 32, 64, 128), ordered=True),
         Tuned(name="width", kind="int", low=8, high=512, log=True)]
DISCRETE = [Tuned(name="n", kind="int", low=1, high=5), Tuned(name="s", kind="float", low=0.0, high=0.75, step=0.25),
            Tuned(name="c", kind="str", choices=("a", "b", "c"))]


def by_values(values):
    return tuple(sorted(values.items()))


def proposer(tuned, *, algorithm="auto", seed=0, trials=40, wave=4, key=by_values, requirements=()) -> Proposer:
    space = Space(tuned, {}, requirements=[parse_requirement(text, {t.name for t in tuned}) for text in requirements], defaults={})
    return Proposer(space, algorithm=algorithm, seed=seed, trials=trials, wave=wave, key=key)


def loss(values, number):
    """A smooth loss of MIXED; every eleventh config fails."""
    return None if number % 11 == 5 else (
        (math.log10(values["lr"]) + 2) ** 2 + {"sgd": 0, "adam": 0.3, "adamw": 0.1}[values["optimizer"]]
        + 10 * (values.get("momentum", 0.8) - 0.9) ** 2 + 0.1 * (values["depth"] - 3) ** 2 + 0.05 * math.log2(values["batch"] / 32) ** 2
        + 0.02 * math.log2(values["width"] / 64) ** 2)


def search(algorithm, record=(), trials=36):
    """A search in overlapping waves with a try, failures, and configs whose losses are late or never come.

    With a `record` of its beginning that is repeated. Returns all values, and what must stay false or empty.
    """
    one = proposer(MIXED, algorithm=algorithm, seed=3, trials=trials)
    values = [one.space.complete({"lr": 0.1})]
    one.known(values[0])
    while len(values) < trials:
        first, n = max(len(values) - 6, 0), min(4, trials - len(values))
        if len(values) < len(record):
            part = record[len(values):len(values) + n]
            one.again(part)
        else:
            part = one.ask(n)
        values += part
        for number in range(first, len(values) - 2):
            if number % 7 != 6:
                one.tell(number, loss(values[number], number))
    return values, one.differs, one.trouble


def in_new_processes(names, records, seed):
    """`search` for every name, in a process of its own whose hashes and random numbers are others."""
    code = ("import json, random, sys; import numpy; from tests import test_proposer as t\n"
            "names, records, seed = json.load(sys.stdin)\n"
            "for name in names: random.seed(seed); numpy.random.seed(seed); print(json.dumps(t.search(name, records.get(name, ()))))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], input=json.dumps([names, records, seed]), capture_output=True,
                          text=True, env=os.environ | {"PYTHONHASHSEED": str(seed)}, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads(line) for name, line in zip(names, done.stdout.splitlines(), strict=True)}


def check_repeats(names):
    whole = in_new_processes(names, {}, 1)
    for values, differs, trouble in whole.values():
        assert len({by_values(v) for v in values}) == 36 and not differs and not trouble
    parts = in_new_processes(names, {name: whole[name][0][:17] for name in names}, 2)
    assert {name for name in names if parts[name] != whole[name]} == set()


def test_a_stopped_search_goes_on_as_it_would_have():
    check_repeats(["auto"])


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.exhaustive) for first in range(1, 7))])
def test_every_algorithm_repeats(first):
    check_repeats(list(ALGORITHMS[first::7]))


def test_algorithms_are_listed_once_and_known_to_nevergrad():
    import nevergrad as ng

    assert ALGORITHMS[0] == "auto" and len(set(ALGORITHMS)) == len(ALGORITHMS)
    assert set(ALGORITHMS[1:]) <= set(ng.optimizers.registry)


@pytest.mark.parametrize("algorithm", ["auto", "DiscreteLenglerOnePlusOne", "TwoPointsDE", "CMA", "ScrHammersleySearch"])
def test_a_discrete_space_is_proposed_whole_and_then_ends(algorithm):
    one = proposer(DISCRETE, algorithm=algorithm, trials=70, requirements=["n != 3"])
    values = []
    while True:
        part = one.ask(4)
        for number, v in enumerate(part, len(values)):
            one.tell(number, v["n"] + v["s"])
        values += part
        if len(part) < 4:
            break
    assert len(values) == 4 * 4 * 3 and Counter(map(by_values, values)) == Counter(
        by_values(dict(zip("nsc", v, strict=True))) for v in itertools.product((1, 2, 4, 5), (0.0, 0.25, 0.5, 0.75), "abc"))
    assert one.ask(4) == []
    assert not one.trouble


@pytest.mark.parametrize("algorithm", ["auto", "NGOpt"])
def test_nothing_to_propose_is_said_and_does_not_hang(algorithm):
    """Requirements and keys that nothing fulfils, in a continuous space too."""
    assert proposer(MIXED, algorithm=algorithm, requirements=["lr > 2"]).ask(3) == []
    assert proposer(DISCRETE, algorithm=algorithm, key=lambda values: None).ask(3) == []


def test_what_is_known_and_what_trains_the_same_is_not_proposed():
    one = proposer(DISCRETE, key=lambda values: (values["n"], values["c"]))
    for n in range(1, 5):
        for c in "abc":
            one.known({"n": n, "s": 0.5, "c": c})
    assert sorted((v["n"], v["c"]) for v in one.ask(9)) == [(5, "a"), (5, "b"), (5, "c")]


@pytest.mark.parametrize("algorithm", ["RandomSearch", "ScrHammersleySearch", "auto"])
def test_discrete_values_come_equally_often(algorithm):
    """Of 240 configs without a loss each of 5 values has 48, of 4 has 60, of 3 has 80, give or take chance (chi-square)."""
    tuned = [Tuned(name="n", kind="int", low=1, high=5), Tuned(name="c", kind="str", choices=("a", "b", "c")),
             Tuned(name="q", kind="float", low=0.0, high=0.3, step=0.1), Tuned(name="x", kind="float", low=0.0, high=1.0)]
    values = proposer(tuned, algorithm=algorithm, trials=240, wave=240).ask(240)
    for name, count, bound in (("n", 5, 18.5), ("c", 3, 13.8), ("q", 4, 16.3)):  # chance of more: 0.001
        met = Counter(v[name] for v in values)
        assert len(met) == count
        assert sum((met[value] - 240 / count) ** 2 / (240 / count) for value in met) < bound, (name, met)


def test_two_variants_with_one_space_and_seed_start_alike_and_another_seed_does_not():
    first, same, other = (proposer(MIXED, seed=seed).ask(8) for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize("algorithm", ["auto", "CMA", "TwoPointsDE", "NGOpt"])
def test_hostile_losses_do_not_break_a_search(algorithm):
    """Nothing but failures at first, then infinities, nan, huge and equal losses; one config is told of twice, one too late."""
    one = proposer(MIXED, algorithm=algorithm, trials=60)
    hostile = [None, None, math.nan, math.inf, 1e300, -math.inf, 0.0, 0.0, 1.0, -1e300, None, 1e-320]
    told = 0
    for _ in range(12):
        values = one.ask(4)
        assert len(values) == 4
        for _ in range(3):
            one.tell(told, hostile[told % len(hostile)])
            told += 1
    one.tell(0, 0.5)
    assert len(one.ask(4)) == 4 and not one.trouble


def test_failures_before_the_first_loss_are_told_with_it():
    """A search told of two failures first goes on like one that was told the first loss three times."""
    one, other = proposer(MIXED, algorithm="TwoPointsDE"), proposer(MIXED, algorithm="TwoPointsDE")
    for each in (one, other):
        each.ask(8)
    for number, value in ((0, None), (1, None), (2, 0.7), (3, 0.2), (4, None)):
        one.tell(number, value)
    for number, value in ((2, 0.7), (0, 0.7), (1, 0.7), (3, 0.2), (4, 0.7)):
        other.tell(number, value)
    assert one.ask(8) == other.ask(8)


@pytest.mark.parametrize("algorithm", ["auto", "CMA"])
def test_the_record_is_right_where_another_version_proposed_something_else(algorithm):
    one = proposer(MIXED, algorithm=algorithm)
    recorded = proposer(MIXED, algorithm="RandomSearch", seed=9).ask(4)
    one.again(recorded)
    assert one.differs == (algorithm == "CMA"), "auto computes nothing again, and so cannot tell"
    for number in range(4):
        one.tell(number, float(number))
    assert not {by_values(v) for v in recorded} & {by_values(v) for v in one.ask(8)} and not one.trouble


def test_auto_finds_the_valley_of_a_simple_loss():
    """40 configs in waves of 4: nearer to the optimum than the best of 40 random ones is on average, by far."""
    one, best = proposer(MIXED), math.inf
    for wave in range(10):
        for number, values in enumerate(one.ask(4), 4 * wave):
            value = loss(values, 0)
            one.tell(number, value)
            best = min(best, value)
    assert best < 0.1


def test_auto_takes_a_short_training_for_what_it_is():
    """Losses after a ninth of the epochs are 5 higher: those of whole trainings must not look better for that alone."""
    line = [Tuned(name="x", kind="float", low=0.0, high=1.0)]
    one = proposer(line, trials=40)
    for number, place in enumerate((0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)):
        one.known({"x": place})
        one.tell(number, (place - 0.8) ** 2 + 5, share=1 / 9)
    for number in (0, 1):  # far from the optimum, and promoted
        one.tell(number, ((0.05, 0.2)[number] - 0.8) ** 2)
    first, *others = (float(values["x"]) for values in one.ask(4))
    assert abs(first - 0.8) < 0.1 and min(others) > 0.5
