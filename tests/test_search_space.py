"""[tune], [[require]], [search] and [confirm] as a good grid has them: what becomes of choices, requirements, rungs and tries.
tests/test_grid_mistakes.py has the bad ones, tests/test_require.py the expressions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.grid import Tuned, parse_grid

STUDY = '[study]\nname = "s"\n'
SEARCH = "[search]\ntrials = 64\n"


def tuned(text: str) -> Tuned:
    """The one parameter of a [tune]."""
    grid = parse_grid(f"{STUDY}{SEARCH}[tune]\n{text}\n")
    assert grid.tune is not None and len(grid.tune) == 1
    return grid.tune[0]


@pytest.mark.parametrize(("text", "choices", "ordered"), [
    ("dropout = [0.5, 0.125, 0.25]", (0.125, 0.25, 0.5), True),             # numbers: by size, in whatever order they are given
    ("batch_size = [128, 32, 64]", (32, 64, 128), True),
    ('optimizer = ["sgd", "adam"]', ("sgd", "adam"), False),
    ("batch_norm = [true, false]", (True, False), False),
    ('augment = { values = ["none", "flip", "crop_flip"], ordered = true }', ("none", "flip", "crop_flip"), True),
    ('augment = { values = ["flip", "none"] }', ("flip", "none"), False),
    ("dropout = { values = [0.5, 0.1], ordered = false }", (0.5, 0.1), False),
    ("dropout = { values = [0.5, 0.1], ordered = true }", (0.1, 0.5), True),
])
def test_choices_have_an_order_where_they_are_numbers_or_said_to(text, choices, ordered):
    found = tuned(text)
    assert (found.choices, found.ordered, found.low) == (choices, ordered, None)


def test_ranges_of_whole_numbers_may_be_logarithmic_and_those_of_floats_stepped():
    assert tuned("filters = { low = 16, high = 256, log = true }") == Tuned(name="filters", kind="int", low=16, high=256, log=True)
    assert tuned("dropout = { low = 0, high = 0.5, step = 0.1 }") == Tuned(name="dropout", kind="float", low=0.0, high=0.5, step=0.1)


OWN = '[study]\nname = "s"\nmetric = "reward"\n[job]\nrun = "a.b:c"\nmetrics = ["reward"]\n'


def test_with_a_job_of_ones_own_a_range_has_the_type_of_all_its_numbers():
    grid = parse_grid(OWN + SEARCH + "[tune]\nrate = { low = 1, high = 2.5 }\nsize = [8, 2, 4.5]\nn = { low = 1, high = 3 }\n")
    assert grid.tune is not None
    assert [(t.kind, t.low, t.choices) for t in grid.tune] == [("float", 1.0, ()), ("float", None, (2.0, 4.5, 8.0)), ("int", 1, ())]
    assert [type(t.low) for t in grid.tune] == [float, type(None), int]


REQUIRED = STUDY + """[tune]
filters = { low = 16, high = 256 }
depth = { low = 1, high = 8 }
[[require]]
that = "filters * 2 ** depth <= 1024"
[[require]]
that = 'optimizer == "sgd" or depth > hidden'
""" + SEARCH


def test_requirements_are_kept_in_order_and_part_of_what_the_study_is():
    grid = parse_grid(REQUIRED)
    first, second = grid.requirements
    assert (first.text, first.names) == ("filters * 2 ** depth <= 1024", {"filters", "depth"})
    assert (second.text, second.names) == ('optimizer == "sgd" or depth > hidden', {"optimizer", "depth", "hidden"})
    assert first.holds({"filters": 16, "depth": 6}) and not first.holds({"filters": 16, "depth": 7})
    identity = grid.identity()
    assert identity["require"] == ["filters * 2 ** depth <= 1024", 'optimizer == "sgd" or depth > hidden']
    assert parse_grid(REQUIRED.replace("<= 1024", "<= 1025")).identity() != identity
    first_block, second_block = (f"[[require]]{block}" for block in REQUIRED.removesuffix(SEARCH).split("[[require]]")[1:])
    swapped = parse_grid(REQUIRED.replace(first_block + second_block, second_block + first_block))
    assert [r.text for r in swapped.requirements] == [second.text, first.text] and swapped.identity() == identity
    without = parse_grid(STUDY + "[tune]\nlr = [0.1, 0.2]\n" + SEARCH).identity()
    assert "require" not in without, "the identity of studies of before there were requirements stays"


def test_how_many_trials_a_search_has_at_most():
    tune = STUDY + "seeds = [0, 1, 2, 3, 4]\n[tune]\nlr = [0.1, 0.2]\n"
    whole = "[search]\ntrials = 9\n"
    confirm = "[confirm]\ntop = 2\nseeds = 6\n"
    assert parse_grid(tune + whole).trial_count() == 9 * 5
    assert parse_grid(tune + whole + confirm).trial_count() == 9 * 5 + 2 * 6
    tries = "[[search.try]]\nlr = 0.1\n[[search.try]]\nlr = 0.2\n"
    assert parse_grid(tune + whole + tries + confirm).trial_count() == 9 * 5 + 3 * 6
    assert parse_grid(tune + whole + 'warm_start = "study:t"\n' + confirm).trial_count() == 9 * 5 + 3 * 6
    # Rungs of 1, 3 and 9 epochs with 1, 3 and 5 seeds: 9 configs, then 3 with two seeds more, then 1 with two more.
    halved = whole + "[search.halving]\nfirst = 1\n"
    assert parse_grid(tune + "[fixed]\nepochs = 9\n" + halved).trial_count() == 9 + 3 * 2 + 1 * 2
    # [compare] epochs: each variant has its own ladder. With 3 epochs the rungs are 1 and 3, with 1 and 5 seeds.
    assert parse_grid(tune + "[compare]\nepochs = [3, 9]\n" + halved).trial_count() == (9 + 3 * 4) + (9 + 3 * 2 + 1 * 2)
    # Where epochs are tuned, the shortest training counts.
    assert parse_grid(tune + "epochs = { low = 3, high = 9 }\n" + halved).trial_count() == 9 + 3 * 4


@pytest.mark.parametrize(("search", "wave", "running"), [
    ("trials = 4", 4, 4), ("trials = 40", 8, 8), ("trials = 40\nwave = 5", 5, 5), ("trials = 40\nrunning = 3", 3, 3),
    ("trials = 40\nwave = 5\nrunning = 7", 5, 7),
    ("trials = 40\n[search.halving]\nfirst = 2", 8, 16), ("trials = 40\nrunning = 8\n[search.halving]\nfirst = 2", 8, 8),
])
def test_the_defaults_of_wave_and_running(search, wave, running):
    found = parse_grid(STUDY + "[tune]\nlr = [0.1, 0.2]\n[search]\n" + search + "\n").search
    assert found is not None and (found.wave, found.running) == (wave, running)


def test_a_search_has_a_seed_a_start_and_an_algorithm():
    text = STUDY + '[tune]\nlr = [0.1, 0.2]\n[search]\ntrials = 40\nseed = 7\nwarm_start = "study:earlier"\nalgorithm = "RandomSearch"\n'
    search = parse_grid(text).search
    assert search is not None and (search.seed, search.warm_start, search.algorithm) == (7, "study:earlier", "RandomSearch")
    assert parse_grid(text).identity() != parse_grid(text.replace("seed = 7", "seed = 8")).identity()


@pytest.mark.parametrize("epochs", ["[fixed]\nepochs = 9\n[tune]", "[compare]\nepochs = [9, 12]\n[tune]", "[tune]\nepochs = [9, 12]",
                                    '[[variant]]\nname = "a"\nepochs = 9\n[[variant]]\nname = "b"\nepochs = 12\n[tune]'])
def test_halving_in_a_job_of_ones_own_has_epochs_to_divide(epochs):
    grid = parse_grid(OWN + SEARCH + "[search.halving]\nfirst = 3\n" + epochs + "\nrate = [1, 2]\n")
    assert grid.search is not None and grid.search.halving is not None


TRIES = STUDY + """[compare]
optimizer = ["sgd", "adam"]
[tune]
lr = { low = 0.01, high = 1, log = true }
dropout = { low = 0, high = 0.5, step = 0.1 }
[tune.when.optimizer.sgd]
momentum = [0.8, 0.9]
[[require]]
that = "lr * 10 > dropout"
[search]
trials = 8
"""


@pytest.mark.parametrize("block", [
    "lr = 0.1\nmomentum = 0.8",     # has an effect under one of the compared optimizers
    "lr = 1",                       # dropout: the job's 0.0
    "dropout = 0.3",                # three steps of 0.1, which is not 3 * 0.1
    "",                             # the job's defaults
    "lr = 0.04\ndropout = 0.3",
])
def test_settings_to_try_first(block):
    assert parse_grid(TRIES + "[[search.try]]\n" + block + "\n").search is not None


def test_the_example_in_the_documentation_is_a_grid():
    docs = (Path(__file__).parents[1] / "docs" / "grid.md").read_text(encoding="utf-8")
    example, = (block for block in re.findall(r"```toml\n(.*?)```", docs, re.DOTALL) if "[tune]" in block)
    grid = parse_grid(example)
    assert grid.tune is not None and grid.requirements and grid.search is not None and grid.confirm is not None
    assert {t.name for t in grid.tune if t.ordered} == {"depth", "augment"}


def test_patience_select_and_the_test_of_each_trial_go_with_halving():
    grid = parse_grid(STUDY + 'select = "last"\ntest = "each"\n[fixed]\npatience = 3\n[tune]\nlr = [0.1, 0.2]\n' + SEARCH
                      + "[search.halving]\nfirst = 3\n")
    assert (grid.select, grid.test) == ("last", "each")


def loaded(text: str) -> set[str]:
    """The packages that reading a grid loads."""
    code = f"import sys; from harness.grid import parse_grid; parse_grid({text!r}); print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_reading_a_search_loads_nothing_heavy():
    heavy = {"torch", "pandas", "pyarrow", "nevergrad", "scipy", "sklearn", "rich", "submitit"}
    assert not loaded(REQUIRED) & {*heavy, "numpy"}
    assert not loaded(TRIES + "[[search.try]]\n") & heavy
