"""The search space: even mass on every discrete value, conditions, sizes, and the way from values to points and back."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from harness.grid_draft import Tuned
from harness.search.require import parse_requirement
from harness.search.space import Space

SGD, NESTEROV = ("optimizer", "sgd"), ("nesterov", True)
LR = Tuned(name="lr", kind="float", low=1e-4, high=1e-1, log=True)
OPTIMIZER = Tuned(name="optimizer", kind="str", choices=("sgd", "adam"))
ORDERED = Tuned(name="n", kind="int", choices=(8, 2, 4), ordered=True)


def integers(low: int, high: int, **more) -> Tuned:
    return Tuned(name="n", kind="int", low=low, high=high, **more)


def space(*tuned: Tuned, settings=None, requirements=(), defaults=None) -> Space:
    defaults = defaults or {}
    known = {t.name for t in tuned} | set(settings or {}) | set(defaults)
    return Space(tuned, settings or {}, requirements=[parse_requirement(text, known) for text in requirements], defaults=defaults)


def test_conditions_nested_and_on_what_the_variant_sets():
    tuned = [OPTIMIZER, Tuned(name="nesterov", kind="bool", choices=(False, True), when=(SGD,)),
             Tuned(name="momentum", kind="float", low=0.5, high=0.9, when=(SGD, NESTEROV)),
             Tuned(name="gamma", kind="float", low=0.0, high=1.0, when=(("schedule", "step"),))]
    plain = space(*tuned, defaults={"schedule": "none"})
    assert plain.decode([0.2, 0.9, 0.5, 0.5]) == {"optimizer": "sgd", "nesterov": True, "momentum": 0.7}
    assert plain.decode([0.2, 0.1, 0.5, 0.5]) == {"optimizer": "sgd", "nesterov": False}
    assert plain.decode([0.8, 0.9, 0.5, 0.5]) == {"optimizer": "adam"}
    assert space(*tuned, settings={"schedule": "step"}, defaults={"schedule": "none"}).decode([0.8, 0.9, 0.5, 0.25]) == {
        "optimizer": "adam", "gamma": 0.25}


def test_one_name_tuned_under_two_conditions():
    both = space(OPTIMIZER, Tuned(name="lr", kind="float", low=0.0, high=1.0, when=(SGD,)),
                 Tuned(name="lr", kind="float", low=10.0, high=20.0, when=(("optimizer", "adam"),)))
    assert both.decode([0.1, 0.5, 0.9]) == {"optimizer": "sgd", "lr": 0.5}
    assert both.decode([0.9, 0.5, 0.9]) == {"optimizer": "adam", "lr": 19.0}
    assert both.encode({"optimizer": "adam", "lr": 12.5}) == pytest.approx([0.75, 0.5, 0.25])


def test_true_is_not_one_in_a_condition():
    assert space(Tuned(name="n", kind="int", choices=(0, 1)), Tuned(name="x", kind="float", low=0.0, high=1.0, when=(("n", True),))).decode(
        [0.9, 0.5]) == {"n": 1}


def test_active_of_many_points_is_what_decode_says():
    tuned = [OPTIMIZER, Tuned(name="nesterov", kind="bool", choices=(False, True), when=(SGD,)),
             Tuned(name="momentum", kind="float", low=0.5, high=0.9, when=(SGD, NESTEROV)),
             Tuned(name="beta", kind="float", low=0.5, high=0.9, when=(("optimizer", "adam"), ("schedule", "none"))),
             Tuned(name="never", kind="float", low=0.5, high=0.9, when=(("schedule", "step"),))]
    one = space(*tuned, defaults={"schedule": "none"})
    points = np.random.default_rng(0).random((200, 5))
    assert [[dim.name in one.decode(point) for dim in one.dims] for point in points] == one.active(points).tolist()


def test_types_stay_and_ends_are_reached_but_not_passed():
    for tuned, low, high in ((integers(1, 5), 1, 5), (integers(1, 4096, log=True), 1, 4096), (LR, 1e-4, 1e-1),
                             (Tuned(name="n", kind="float", low=0, high=3), 0.0, 3.0), (integers(-3, 3), -3, 3)):
        one = space(tuned)
        for part, wanted in ((0.0, low), (1.0, high), (-1e-9, low), (1 + 1e-9, high)):
            value = one.decode([part])[tuned.name]
            assert value == wanted and type(value) is type(wanted)


def test_steps_are_decimal_and_stop_before_the_end():
    tenths = space(Tuned(name="n", kind="float", low=0.1, high=0.75, step=0.1)).dims[0]
    assert tenths.values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert space(integers(16, 128, step=8)).dims[0].values == tuple(range(16, 129, 8))
    assert space(Tuned(name="n", kind="float", low=1e-5, high=1e-4, step=1e-5)).dims[0].count == 10


@pytest.mark.parametrize("tuned", [integers(1, 5), integers(16, 128, step=8), Tuned(name="n", kind="float", low=0.0, high=0.5, step=0.125),
                                   Tuned(name="n", kind="str", choices=("a", "b", "c")), ORDERED])
def test_every_value_has_the_same_mass(tuned):
    """Bins of exactly the same width: a fine even grid of points meets each value equally often."""
    one = space(tuned)
    count = one.dims[0].count
    met = Counter(one.decode([(i + 0.5) / (100 * count)])["n"] for i in range(100 * count))
    assert set(met.values()) == {100} and len(met) == count


def test_log_integers_have_the_mass_of_their_interval():
    one = space(integers(1, 8, log=True))
    met = Counter(one.decode([(i + 0.5) / 100_000])["n"] for i in range(100_000))
    for k in range(1, 9):
        assert met[k] / 100_000 == pytest.approx(math.log((k + 0.5) / (k - 0.5)) / math.log(8.5 / 0.5), abs=2e-5)


@pytest.mark.parametrize("tuned", [integers(1, 5), integers(3, 70_000), integers(1, 70_000, log=True), integers(2, 9, log=True),
                                   LR, OPTIMIZER, Tuned(name="n", kind="float", low=0.1, high=0.75, step=0.1),
                                   Tuned(name="n", kind="bool", choices=(True, False)), ORDERED])
def test_encode_and_decode_are_inverse(tuned):
    one = space(tuned)
    for part in np.random.default_rng(1).random(300):
        values = one.decode([part])
        again = one.decode(one.encode(values))
        assert again == (values if one.dims[0].count else pytest.approx(values)) and type(again[tuned.name]) is type(values[tuned.name])
    if one.dims[0].values and not tuned.log:
        assert [float(one.encode({tuned.name: v})[0]) for v in one.dims[0].values] == pytest.approx(
            [(i + 0.5) / one.dims[0].count for i in range(one.dims[0].count)])


def test_numbers_among_ordered_choices_are_in_their_order_and_words_in_the_grids():
    assert space(Tuned(name="n", kind="int", choices=(64, 16, 32), ordered=True)).dims[0].values == (16, 32, 64)
    sizes = ("small", "medium", "large")
    assert space(Tuned(name="n", kind="str", choices=sizes, ordered=True)).dims[0].values == sizes
    assert space(Tuned(name="n", kind="int", choices=(64, 16, 32))).dims[0].values == (64, 16, 32)


def test_size_and_list_count_only_what_is_active_together():
    one = space(OPTIMIZER, Tuned(name="momentum", kind="float", choices=(0.0, 0.9), ordered=True, when=(SGD,)), integers(1, 3),
                Tuned(name="beta", kind="float", low=0.1, high=0.5, step=0.1, when=(("optimizer", "adam"),)))
    everything = list(one.every())
    assert one.size == len(everything) == 2 * 3 + 3 * 5
    assert len({tuple(values.items()) for values in everything}) == 21
    assert {"optimizer": "adam", "n": 2, "beta": 0.3} in everything
    assert space(OPTIMIZER, LR).size is None
    only_sgd = space(OPTIMIZER, Tuned(name="lr", kind="float", low=0.0, high=1.0, when=(("model", "big"),)), defaults={"model": "small"})
    assert only_sgd.size == 2
    with pytest.raises(ValueError, match="continuous"):
        space(LR).every()


def test_a_huge_discrete_space_has_a_size_at_once():
    assert space(*(Tuned(name=f"n{i}", kind="int", low=1, high=10**9) for i in range(30))).size == 10**270


def test_requirements_see_what_is_tuned_set_and_by_default():
    one = space(OPTIMIZER, integers(1, 4), Tuned(name="momentum", kind="float", low=0.0, high=1.0, when=(SGD,)), settings={"width": 4},
                requirements=["n * width <= 8", "momentum < 0.5", "depth == 2"], defaults={"depth": 2, "momentum": 0.9})
    assert one.allows({"optimizer": "sgd", "n": 2, "momentum": 0.4})
    assert not one.allows({"optimizer": "sgd", "n": 3, "momentum": 0.4})
    assert not one.allows({"optimizer": "sgd", "n": 2, "momentum": 0.6})
    assert one.allows({"optimizer": "adam", "n": 2}), "momentum is not active, and its default is nobody's business"
    assert not space(integers(1, 4), requirements=["depth == 2"], defaults={"depth": 3}).allows({"n": 1})
    assert [v["n"] for v in space(integers(1, 4), requirements=["n != 2"]).every()] == [1, 3, 4]


def test_complete_takes_what_is_given_then_the_default_then_the_middle():
    tuned = [OPTIMIZER, Tuned(name="momentum", kind="float", low=0.5, high=0.99, when=(SGD,)), integers(1, 5), LR,
             Tuned(name="dropout", kind="float", low=0.0, high=0.5, step=0.125)]
    one = space(*tuned, defaults={"optimizer": "sgd", "momentum": 0.9, "n": 64, "lr": 0.05, "dropout": 0.1})
    assert one.complete({"n": 2}) == {"optimizer": "sgd", "momentum": 0.9, "n": 2, "lr": 0.05, "dropout": 0.125}
    assert one.complete({"optimizer": "adam", "momentum": 0.6}) == {"optimizer": "adam", "n": 3, "lr": 0.05, "dropout": 0.125}
    assert one.complete({"lr": 1}) == one.complete({}), "what an earlier study had and this space has not is left open"
    assert space(LR).complete({}) == {"lr": pytest.approx(10**-2.5)}


def test_whatever_the_point_the_values_are_in_the_space():
    one = space(LR, OPTIMIZER, integers(1, 4096, log=True), Tuned(name="w", kind="int", low=1, high=2**40))
    for point in itertools.product((0.0, 1e-300, 0.5, 1 - 1e-16, 1.0), repeat=4):
        values = one.decode(point)
        assert all(dim.holds(values[dim.name]) for dim in one.dims)
