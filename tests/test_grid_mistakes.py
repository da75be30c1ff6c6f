"""Every mistake of a grid gets its own caret, at its place, with the reason; hostile text gets a GridError and nothing else."""

import re

import pytest
from test_grid import OWN_JOB

from harness.errors import GridError, Problem
from harness.grid import SECTIONS, parse_grid
from jobs import registry
from jobs.config import PARAMETERS

STUDY = '[study]\nname = "s"\n'


def mistakes(text: str) -> GridError:
    """The error a grid gives."""
    with pytest.raises(GridError) as caught:
        parse_grid(text, name="g.toml")
    return caught.value


def only(text: str) -> tuple[str, str]:
    """(marked text, message) of the one mistake in a grid."""
    error = mistakes(text)
    assert len(error.problems) == 1, str(error)
    return marked(error.problems[0]), error.problems[0].message


def marked(problem: Problem) -> str:
    return problem.source[problem.column - 1:problem.end_column - 1]


TEN = '''\
[study]
name = "Größe 1"
sseds = [0, 1]

[fixed]
optimizer = "adma"
lr = "1e-3"
epochs = 0
schedule = "cosine"
step_size = 5
filters = 8

[compare]
depth = [1, 2, 2]
filters = [16, 32]

[tune]
weight_decay = { low = 1e-2, high = 1e-4, log = true }

[search]
trials = 4
wave = 8
'''


def test_ten_mistakes_give_ten_carets_each_at_its_place():
    error = mistakes(TEN)
    assert [(p.line, p.column, marked(p)) for p in error.problems] == [
        (2, 8, '"Größe 1"'), (3, 1, "sseds"), (6, 13, '"adma"'), (7, 6, '"1e-3"'), (8, 10, "0"), (10, 1, "step_size"), (14, 16, "2"),
        (15, 1, "filters"), (18, 24, "1e-2"), (22, 8, "8")]
    text = error.render()
    assert text == str(error)
    assert sum(bool(re.fullmatch(r" +\| +\^+", line)) for line in text.split("\n")) == 10
    assert text.endswith("10 mistakes in g.toml")
    assert error.exit_code == 2


def test_a_mistake_is_shown_with_line_and_caret():
    assert str(mistakes(STUDY + "[fixed]\noptimizer = \"adma\"\n")) == """\
error: unknown optimizer "adma"; did you mean `adam`? (valid: sgd, adam, adamw)
  --> g.toml:4:13
  |
4 | optimizer = "adma"
  |             ^^^^^^

1 mistake in g.toml"""


ONE_MISTAKE = [
    # sections and keys
    ('[fixd]\nlr = 1\n', "fixd", "did you mean `fixed`"),
    ('[model]\n', "model", "goes into [fixed]"),
    ('[retries]\n', "retries", "did you mean `retry`"),
    ('[fixed]\nlerning_rate = 1\n', "lerning_rate", "unknown parameter"),
    ('[fixed]\nseeds = [1]\n', "seeds", "a key of [study]"),
    ('[fixed]\nseed = 1\n', "seed", "one of the `seeds` in [study]"),
    ('[fixed]\n"a\\nb" = 1\n', '"a\\nb"', "unknown parameter"),
    ('[slurm]\nlr = 1\n', "lr", "is a parameter"),
    ('[slurm]\npartition = "gpu"\n', "partition", "slurm/profiles/*.toml"),
    ('[slurm]\ngpus = 1\n', "gpus", "did you mean `gpus_per_node`"),
    ('[slurm]\nnodes = 0\n', "0", "outside 1 to"),
    ('[slurm]\nmem_gb = 1.5\n', "1.5", "a whole number"),
    ('[local]\nranks = "2"\n', '"2"', "a whole number"),
    ('[local]\nnodes = 2\n', "nodes", "a key of [slurm]"),
    ('[retry]\npreemted = 3\n', "preemted", "did you mean `preempted`"),
    ('[retry]\noom = 2\n', "oom", "did you mean `out_of_memory`"),
    ('[retry]\ntime_min = 2\n', "time_min", "a key of [slurm]"),
    ('[retry]\nlost = true\n', "true", "a whole number"),
    ('[retry]\nlost = "for ever"\n', '"for ever"', "a whole number"),
    ('[retry]\nexception = -2\n', "-2", "outside -1 to"),
    ('[retry]\ncanary = -1\n', "-1", "outside 0 to"),
    ('[retry]\nbreaker = -1\n', "-1", "outside 0 to"),
    ('[retry]\nlaunch_failure = -1\n', "-1", "outside 0 to"),
    ('[[retry]]\nlost = 1\n', "retry", "is a section"),
    ('[limits]\nx = 1\n', "x", "valid: gpu_hours"),
    ('[limits]\ngpu_hours = -1\n', "-1", "outside 0 to"),
    ('[limits]\ngpu_hours = 0.5\n', "0.5", "a whole number"),
    ('[variant]\nname = "a"\n', "variant", "two brackets"),
    ('[[fixed]]\nlr = 1\n', "fixed", "is a section"),
    ('[[slurm]]\nnodes = 1\n', "slurm", "is a section"),
    # values
    ('[fixed]\nlr = "1e-5"\n', '"1e-5"', "without quotes"),
    ('[fixed]\nmodel = 18\n', "18", "with quotes"),
    ('[fixed]\nepochs = true\n', "true", "a whole number"),
    ('[fixed]\nbatch_norm = 1\n', "1", "true or false"),
    ('[fixed]\nlr = nan\n', "nan", "not a finite number"),
    ('[fixed]\nlr = -inf\n', "-inf", "not a finite number"),
    ('[fixed]\nlr = 0\n', "0", "not above 0"),
    ('[fixed]\ndropout = 1.5\n', "1.5", "outside 0 to"),
    ('[fixed]\nepochs = 9223372036854775808\n', "9223372036854775808", "64 bits"),
    ('[fixed]\nlr = 0x' + "f" * 5000 + "\n", "0x" + "f" * 5000, "64 bits"),
    ('[fixed]\nlr = [0.1, 0.2]\n', "[0.1, 0.2]", "[compare]"),
    ('[fixed]\nlr = { low = 1, high = 2 }\n', "{ low = 1, high = 2 }", "[tune]"),
    ('[fixed]\nlr = 2024-01-01\n', "2024-01-01", "date"),
    ('[fixed]\nmodel = "resnet81"\n', '"resnet81"', "did you mean `resnet18`"),
    ('[fixed]\ndataset = "cifar"\n', '"cifar"', "did you mean `cifar"),
    ('[fixed]\nclasses = "0-x"\n', '"0-x"', "not a list of classes"),
    ('[fixed]\nclasses = "5-12"\n', '"5-12"', "classes 0 to 9"),
    ('[fixed]\nmodel = "' + "x" * 2000 + '"\n', '"' + "x" * 2000 + '"', "2,000 characters"),
    ('[fixed]\nmodel = "a\\u001b[31m"\n', '"a\\u001b[31m"', "control characters"),
    # variants and products
    ('[[variant]]\nlr = 1\n', "[[variant]]", "needs a `name`"),
    ('[[variant]]\nname = 3\n', "3", "a string is meant"),
    ('[[variant]]\nname = ""\n', '""', "1 to 80"),
    ('[[variant]]\nname = "' + "n" * 81 + '"\n', '"' + "n" * 81 + '"', "1 to 80"),
    ('[[variant]]\nname = "a\\tb"\n', '"a\\tb"', "printable"),
    ('[[variant]]\nname = "a"\n[[variant]]\nname = "a"\nlr = 1\n', '"a"', "on line 4 is called `a` too"),
    ('[[variant]]\nname = "a"\n[[variant]]\nname = "b"\nlr = 0.05\n', '"b"', "same training as `a`"),
    ('[[variant]]\nname = "a"\nlr = 1\n[compare]\nlr = [1, 2]\n', "lr", "set by variant `a` on line 5"),
    ('[compare]\nlr = []\n', "[]", "an empty one"),
    ('[compare]\nlr = 1\n', "1", "a list of values"),
    ('[compare]\nlr = [1, 1.0]\n', "1.0", "given twice"),
    ('[compare]\nlr = [0.1, "0.2"]\n', '"0.2"', "without quotes"),
    ('[compare]\nlr = [[0.1], 0.2]\n', "[0.1]", "not a list"),
    ('[fixed]\nlr = 1\n[compare]\nlr = [1, 2]\n', "lr", "fixed on line 4"),
    ('[fixed]\nlr = 1\n[[variant]]\nname = "a"\nlr = 2\n', "lr", "never used"),
    ('[compare]\noptimizer = ["sgd", "adam"]\nmomentum = [0.5, 0.9]\n', "momentum", "same training"),
    ('[compare]\nfilters = [16, 32]\nmodel = ["dynamic_cnn", "alexnet"]\n', "filters", "same training"),
    # no effect
    ('[[variant]]\nname = "a"\n[[variant]]\nname = "b"\nstep_size = 5\n', "step_size", "schedule is none"),
    ('[fixed]\noptimizer = "adam"\nmomentum = 0.9\n', "momentum", "optimizer is adam; only optimizer sgd reads it"),
    ('[fixed]\nstep_size = 5\n', "step_size", "schedule is none by default; only schedule step"),
    ('[fixed]\ndataset = "cifar10"\ntest_fraction = 0.1\n', "test_fraction", "dataset is cifar10"),
    ('[fixed]\nmodel = "resnet18"\n[compare]\ndepth = [1, 2]\n', "depth", "only model dynamic_cnn"),
    ('[[variant]]\nname = "a"\n[[variant]]\nname = "b"\noptimizer = "adamw"\nmomentum = 0.5\n', "momentum", "optimizer is adamw"),
    ('[compare]\noptimizer = ["adam", "adamw"]\n[fixed]\nmomentum = 0.5\n', "momentum", "optimizer is adam or adamw"),
    # together
    ('[fixed]\nweights = "imagenet"\n', '"imagenet"', "dynamic_cnn has no weights"),
    ('[fixed]\nmodel = "alexnet"\n[compare]\nweights = ["none", "imagnet"]\n', '"imagnet"', "did you mean `imagenet`"),
    ('[[variant]]\nname = "a"\nmodel = "alexnet"\nweights = "x"\n[[variant]]\nname = "b"\n', '"x"',
     "valid: none, imagenet, IMAGENET1K_V1, study:NAME"),
    ('[local]\nranks = 3\n', "3", "default batch_size, 64"),
    ('[fixed]\nbatch_size = 30\n[slurm]\nnodes = 2\ntasks_per_node = 2\n', "30", "the 4 processes"),
    ('[local]\nranks = 2\n[compare]\nbatch_size = [32, 33]\n', "33", "[local] ranks"),
    # study
    ('seeds = 3\n', "3", "a list of whole numbers"),
    ('seeds = []\n', "[]", "an empty list"),
    ('seeds = [0, 1, 0]\n', "0", "given twice"),
    ('seeds = [-1]\n', "-1", "outside 0"),
    ('seeds = [2147483648]\n', "2147483648", "outside 0 to 2147483647"),
    ('seeds = [true]\n', "true", "a whole number"),
    ('metric = "test_acc"\n', '"test_acc"', "val_acc, val_loss"),
    ('mode = "maximum"\n', '"maximum"', "valid: max, min"),
    ('select = "best"\n', '"best"', "valid: best_val, last"),
    ('test = "confirmed"\n', '"confirmed"', "without them"),
    ('reference = "a"\n[[variant]]\nname = "b"\n', '"a"', "no variant is called `a`"),
    ('seed = 3\n', "seed", "did you mean `seeds`"),
]


@pytest.mark.parametrize(("text", "where", "message"), ONE_MISTAKE)
def test_one_mistake_gives_one_caret_and_its_reason(text, where, message):
    place, said = only(STUDY + text)
    assert place == where
    assert message in said


SPACE_MISTAKES = [
    ('lr = { low = 1, high = 0.1 }', "1", "not below `high`"),
    ('lr = { low = 0.1, high = 0.1 }', "0.1", "both"),
    ('weight_decay = { low = 0, high = 0.1, log = true }', "0", "above 0"),
    ('lr = { low = 0, high = 0.1, log = true }', "0", "not above 0"),
    ('dropout = { low = 0, high = 0.5, step = 0 }', "0", "`step` 0.0 is not above 0"),
    ('dropout = { low = 0, high = 0.5, step = 1 }', "1", "larger than the range"),
    ('filters = { low = 1, high = 8, step = 0.5 }', "0.5", "whole number"),
    ('filters = { low = 1.5, high = 8 }', "1.5", "a whole number"),
    ('filters = { low = 1, high = 8, step = 1, log = true }', "step", "do not go together"),
    ('filters = { low = 0, high = 8 }', "0", "outside 1"),
    ('filters = { low = 1, high = 8, step = 0x' + "f" * 4000 + ' }', "0x" + "f" * 4000, "64 bits"),
    ('lr = { low = 0.1, hgih = 1, high = 1 }', "hgih", "did you mean `high`"),
    ('lr = { low = 0.1 }', "lr", "needs `high`"),
    ('lr = { low = 0.1, high = 1, log = 1 }', "1", "true or false"),
    ('lr = { low = "0.1", high = 1 }', '"0.1"', "a number is meant"),
    ('lr = 0.1', "0.1", "one value goes into [fixed]"),
    ('lr = [0.1]', "[0.1]", "at least two"),
    ('lr = [0.1, 0.1]', "0.1", "given twice"),
    ('lr = [0.1, "x"]', '"x"', "a number is meant"),
    ('model = { low = 1, high = 2 }', "{ low = 1, high = 2 }", "list of choices"),
    ('optimizer = ["sgd", "adma"]', '"adma"', "did you mean `adam`"),
    ('learning_rate = [1, 2]', "learning_rate", "unknown parameter"),
    ('momentum = [0.5, 0.9]\n[fixed]\noptimizer = "adam"', "momentum", "no effect"),
    ('lr = [0.1, 0.2]\n[fixed]\nlr = 1', "lr", "is tuned here and fixed"),
    ('lr = [0.1, 0.2]\n[compare]\nlr = [1, 2]', "lr", "is tuned here and compared"),
    ('lr = [0.1, 0.2]\n[[variant]]\nname = "a"\nlr = 1', "lr", "is tuned here and set by variant `a`"),
    ('lr = [0.1, 0.2]\n[tune.when.optimizer.sgd]\nmomentum = [0.5, 0.9]', "optimizer", "not a choice here"),
    ('optimizer = ["sgd", "adam"]\n[tune.when.optimizer.adam]\nmomentum = [0.5, 0.9]', "momentum", "optimizer is adam"),
    ('optimizer = ["sgd", "adam"]\n[tune.when.optimizer.adamw]\nlr = [0.5, 0.9]', "adamw", "never is `adamw`"),
    ('optimizer = ["sgd", "adam"]\nlr = [0.1, 0.2]\n[tune.when.optimizer.adam]\nlr = [0.5, 0.9]', "lr", "both can be active"),
    ('optimizer = ["sgd", "adam"]\nwhen = 3', "when", "conditions are tables"),
    ('model = ["alexnet", "dynamic_cnn"]\nweights = ["none", "imagenet"]', '["none", "imagenet"]', "dynamic_cnn has no weights"),
    ('batch_size = [32, 33]\n[local]\nranks = 2', "33", "evenly"),
    ('batch_size = { low = 32, high = 64 }\n[local]\nranks = 2', "{ low = 32, high = 64 }", "`step` that 2 divides"),
    ('batch_size = [64, 33, 32]\n[local]\nranks = 2', "33", "evenly"),
    ('batch_size = { values = [64, 33, 32] }\n[local]\nranks = 2', "33", "evenly"),
    ('lr = { values = [0.1, 0.2], low = 0.1 }', "low", "either a range or choices"),
    ('lr = { values = [0.1, 0.2], log = true }', "log", "either a range or choices"),
    ('lr = { low = 0.1, high = 1, ordered = true }', "ordered", "is for choices"),
    ('lr = { ordered = true }', "lr", "need `values`"),
    ('lr = { values = [0.1, 0.2], ordered = 1 }', "1", "true or false"),
    ('lr = { values = [0.1, 0.2], order = true }', "order", "did you mean `ordered`"),
    ('lr = { values = 0.1 }', "0.1", "a list of choices"),
    ('lr = { values = [0.1] }', "[0.1]", "at least two"),
    ('lr = { values = [0.1, 0.1] }', "0.1", "given twice"),
    ('lr = { values = [0.1, "x"] }', '"x"', "a number is meant"),
    ('optimizer = { values = ["sgd", "adma"] }', '"adma"', "did you mean `adam`"),
]


@pytest.mark.parametrize(("text", "where", "message"), SPACE_MISTAKES)
def test_a_mistake_in_the_search_space_gives_one_caret(text, where, message):
    place, said = only(STUDY + "[search]\ntrials = 8\n[tune]\n" + text + "\n")
    assert place == where
    assert message in said


SEARCH_MISTAKES = [
    ("", "tune", "needs a section [search]"),
    ("[search]\n", "search", "needs `trials`"),
    ("[search]\ntrials = 4\nwave = 5\n", "5", "more than the 4 trials"),
    ("[search]\ntrials = 4\nbudget = 5\n", "budget", "did you mean `trials`"),
    ("[search]\ntrials = 4\n[search.halving]\nfactor = 3\n", "halving", "needs `first`"),
    ("[search]\ntrials = 4\n[search.halving]\nfirst = 10\n", "10", "not below the 10 epochs"),
    ("[search]\ntrials = 4\n[search.halving]\nfirst = 1\nfactor = 1\n", "1", "outside 2"),
    ("[search]\ntrials = 4\n[[search.try]]\nlr = 2.0\n", "2.0", "not in the search space, 0.1 to 1.0"),
    ("[search]\ntrials = 4\n[[search.try]]\ndepth = 2\n", "depth", "is not tuned"),
    ("[search]\ntrials = 4\n[search.try]\nlr = 0.2\n", "try", "two brackets"),
    ("[search]\ntrials = 4\n[confirm]\ntop = 5\n", "5", "the best 5 of 4"),
    ("[search]\ntrials = 9\nwave = 5\nrunning = 4\n", "4", "less than a wave of 5"),
    ("[search]\ntrials = 4\nseed = -1\n", "-1", "outside 0"),
    ("[search]\ntrials = 4\nseeds = [1]\n", "seeds", "a key of [study]"),
    ("[search]\ntrials = 4\nalgorithm = \"Auto\"\n", '"Auto"', "did you mean `auto`"),
    ("[search]\ntrials = 4\nalgorithm = 3\n", "3", "a string"),
    ("[search]\ntrials = 4\nwarm_start = \"earlier\"\n", '"earlier"', 'write "study:NAME"'),
    ("[search]\ntrials = 4\nwarm_start = \"study:../x\"\n", '"study:../x"', "names no study"),
    ("[search]\ntrials = 4\nwarm_start = \"study:\"\n", '"study:"', "names no study"),
    ("[search]\ntrials = 4\nwarm_start = \"study:s\"\n", '"study:s"', "the study itself"),
    ("[search]\ntrials = 1\nwarm_start = \"study:t\"\n[[search.try]]\nlr = 0.2\n", "try", "and the best of an earlier study"),
    ("[search]\ntrials = 4\n[[search.try]]\nlr = 0.2\n[[search.try]]\nlr = 0.2\n", "[[search.try]]", "as those on line 7"),
    ("epochs = { low = 4, high = 9 }\n[search]\ntrials = 4\n[search.halving]\nfirst = 4\n", "4", "not below the 4 epochs of the shortest"),
    ("epochs = [9, 5, 7]\n[search]\ntrials = 4\n[search.halving]\nfirst = 5\n", "5", "not below the 5 epochs of the shortest"),
    ("[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\nepochs = 3\n[search]\ntrials = 4\n[search.halving]\nfirst = 3\n", "3",
    "the 3 epochs"),
    ("dropout = { low = 0, high = 0.4, step = 0.1 }\n[search]\ntrials = 4\n[[search.try]]\ndropout = 0.25\n", "0.25", "in steps of 0.1"),
    ("[search]\ntrials = 4\n[[require]]\nthat = 'lr < 0.5'\n[[search.try]]\nlr = 0.6\n", "[[search.try]]",
     "with lr = 0.6 these settings break the requirement `lr < 0.5`"),
    ("dropout = [0.1, 0.2]\n[search]\ntrials = 4\n[[require]]\nthat = 'lr < dropout'\n[[search.try]]\nlr = 0.2\n", "[[search.try]]",
     "with dropout = 0.2, lr = 0.2 these"),                                       # completed: the upper one of two choices
    ("[compare]\ndepth = [1, 2]\n[search]\ntrials = 4\n[[require]]\nthat = 'lr * depth < 1'\n[[search.try]]\nlr = 0.5\n", "[[search.try]]",
     "with depth = 2, lr = 0.5 in variant `depth=2`"),
    ("optimizer = ['sgd', 'adam']\n[tune.when.optimizer.sgd]\nmomentum = [0.8, 0.9]\n[search]\ntrials = 4\n"
     "[[search.try]]\noptimizer = 'adam'\nmomentum = 0.8\n", "momentum", "it is tuned under optimizer = sgd only"),
    ("optimizer = ['sgd', 'adam']\n[tune.when.optimizer.sgd]\nweight_decay = [0.0, 0.1]\n[tune.when.optimizer.adam]\n"
     "weight_decay = [0.2, 0.3]\n[search]\ntrials = 4\n[[search.try]]\noptimizer = 'adam'\nweight_decay = 0.1\n", "0.1",
     "not in the range that it has under the other values"),
]


@pytest.mark.parametrize(("text", "where", "message"), SEARCH_MISTAKES)
def test_a_mistake_in_search_or_confirm_gives_one_caret(text, where, message):
    place, said = only(STUDY + "[tune]\nlr = { low = 0.1, high = 1 }\n" + text)
    assert place == where
    assert message in said


def test_fresh_seeds_are_seeds_too():
    text = STUDY + "seeds = [0, 2147483640]\n[tune]\nlr = [0.1, 0.2]\n[search]\ntrials = 4\n[confirm]\nseeds = 8\n"
    place, said = only(text)
    assert place == "8" and "follow the largest of the study's, 2147483640" in said
    assert parse_grid(text.replace("seeds = 8", "seeds = 7")).fresh_seeds()[-1] == 2147483647


def test_search_and_confirm_and_requirements_without_tune_are_refused():
    error = mistakes(STUDY + "[search]\ntrials = 3\n[confirm]\n[[require]]\nthat = 'lr > 0'\n")
    assert [marked(p) for p in error.problems] == ["search", "confirm", "require"]
    assert "[[require]] without [tune]" in error.problems[2].message


REQUIRE_MISTAKES = [
    ('that = "lr = 3"', "=", "write `==`"),
    ("that = 'lr < 0.5 && lr > 0.1'", "&&", "write `and`"),
    ('that = "lr < fliters"', "fliters", "did you mean `filters`"),
    ('that = """lr < fliters"""', "fliters", "did you mean `filters`"),
    ('that = "lr <\\u0020fliters"', '"lr <\\u0020fliters"', "did you mean `filters`"),     # escaped: the place of the whole
    ('that = "lr <"', "<", "stops too early"),
    ('that = "lr < (1"', "(", "'(' was never closed"),
    ('that = "lr lr < 1"', "lr", "no expression"),
    ('that = "lr < \'small\'"', "lr < 'small'", "a number and a string cannot be compared"),
    ('that = "batch_norm == 1 or lr < 2"', "batch_norm == 1", "true or false and a number"),
    ("that = 'optimizer == \"adam\" or lr < 2'", '"adam"', "optimizer never is `adam` here (valid: sgd)"),
    ('that = "lr"', "lr", "a value, not a condition"),
    ('that = "filters * depth < 100"', '"filters * depth < 100"', "does not depend on anything that is tuned"),
    ('that = "1 < 2"', '"1 < 2"', "does not depend on anything that is tuned"),
    ('that = "__import__(\'os\').system(\'x\') == lr"', "__import__('os').system('x')", "has no place here"),
    ('that = 3', "3", "an expression in quotes"),
    ('that = ""', '""', "it is empty"),
    ('that = "lr < 1"\nwhere = "lr < 1"', "where", "unknown key `where`"),
    ('', "[[require]]", "needs `that`"),
    ('that = "lr < 1"\n[[require]]\nthat = "lr < 1"', '"lr < 1"', "given twice"),
]


@pytest.mark.parametrize(("text", "where", "message"), REQUIRE_MISTAKES)
def test_a_mistake_in_a_requirement_gives_one_caret_where_it_is(text, where, message):
    place, said = only(STUDY + "[tune]\nlr = { low = 0.1, high = 1 }\n[search]\ntrials = 4\n[[require]]\n" + text + "\n")
    assert place == where
    assert message in said


def test_a_requirement_is_a_block_of_its_own():
    tune = "[tune]\nlr = { low = 0.1, high = 1 }\n[search]\ntrials = 4\n"
    assert "two brackets" in only(STUDY + tune + "[require]\nthat = 'lr < 1'\n")[1]
    many = "".join(f"[[require]]\nthat = 'lr < {n}'\n" for n in range(101))
    assert "101 requirements; at most 100" in only(STUDY + tune + many)[1]
    # a parameter that has a mistake itself is not blamed once more
    assert only(STUDY + tune.replace("0.1", '"x"') + "[[require]]\nthat = 'lr < 1'\n")[0] == '"x"'


SEARCH_TEN = """\
[study]
name = "s"

[fixed]
dataset = "digits"

[tune]
lr = { low = 1e-1, high = 1e-3 }
filters = { values = [16, 32], log = true }
dropout = { values = ["none", 0.5] }
depth = [1, 2, 3]
hidden = { low = 32, high = 256, step = 32, log = true }

[[require]]
that = "depth * kernel_sise <= 9"
[[require]]
that = "image_size > 3"

[search]
trials = 8
algorithm = "rndom"
warm_start = "earlier"
[[search.try]]
depth = 4
[search.halving]
first = 1
factor = 1.5
"""


def test_ten_mistakes_of_a_search_are_found_at_once():
    error = mistakes(SEARCH_TEN)
    assert [(p.line, marked(p)) for p in error.problems] == [
        (8, "1e-1"), (9, "log"), (10, '"none"'), (12, "step"), (15, "kernel_sise"), (17, '"image_size > 3"'), (21, '"rndom"'),
        (22, '"earlier"'), (24, "4"), (27, "1.5")]


@pytest.mark.parametrize(("old", "new", "where", "message"), [
    ('"my.package.train:main"', '"my/package.py"', '"my/package.py"', "package.module:function"),
    ('["reward", "loss"]', '["reward", "a b"]', '"a b"', "cannot be a metric"),
    ('["reward", "loss"]', '["reward", "epoch"]', '"epoch"', "tables' own columns"),
    ('["reward", "loss"]', '["rewards", "loss"]', '"reward"', "did you mean `rewards`"),
    ('metric = "reward"\n', "", "study", "needs `metric`"),
    ("size = 3", '"si ze" = 3', '"si ze"', "names a column"),
    ("size = 3", "size = [3]", "[3]", "one value is meant"),
    ("rate = [1, 0.5]", 'rate = [1, "x"]', '"x"', "a whole number on line 10"),
    ("size = 3", "[tune]\nsize = [1, 2]\n[search]\ntrials = 4\n[search.halving]\nfirst = 1", "halving",
    "this grid has no parameter `epochs`"),
    ("size = 3", "epochs = 9.5\n[tune]\nsize = [1, 2]\n[search]\ntrials = 4\n[search.halving]\nfirst = 1", "9.5",
    "a whole number is meant"),
    ("size = 3", "[[variant]]\nname = 'a'\nepochs = 9\n[[variant]]\nname = 'b'\n[tune]\nsize = [1, 2]\n[search]\ntrials = 4\n"
     "[search.halving]\nfirst = 1", "halving", "variant `b rate=1.0` has no parameter `epochs`"),
    ("size = 3", "[tune]\nsize = [1, 2]\n[[require]]\nthat = 'size < sise'\n[search]\ntrials = 4", "sise", "did you mean `size`"),
    ("size = 3", "size = 3\nrate = 3", "rate", "fixed on line 9"),
    ("[job]\n", "[job]\nrnu = 1\n", "rnu", "did you mean `run`"),
])
def test_a_mistake_with_a_job_of_ones_own_gives_one_caret(old, new, where, message):
    place, said = only(OWN_JOB.replace(old, new, 1))
    assert place == where
    assert message in said


@pytest.mark.parametrize(("name", "message"), [
    ("Größe", "ö (LATIN SMALL LETTER O WITH DIAERESIS, not ASCII)"), ("数字", "not ASCII"), ("my study", "a space"), ("../x", "`.`, `/`"),
    ("", "it is empty"), ("-a", "begins with -"), ("n" * 65, "65 characters"), ("ABC", "`abc` would do"), ("a\u202eb", "not ASCII"),
])
def test_a_study_name_that_cannot_be_a_folder_says_why(name, message):
    place, said = only(f'[study]\nname = "{name}"\n')
    assert place == f'"{name}"'
    assert message in said
    assert all(c.isprintable() for c in said)


def test_messages_about_unknown_names_list_all_valid_ones():
    for text, valid in [("[fixed]\noptimizer = 'x'\n", registry.OPTIMIZERS), ("[fixed]\nschedule = 'x'\n", registry.SCHEDULES),
                        ("[fixed]\nxyz = 1\n", PARAMETERS), ("[slurm]\nxyz = 1\n", SECTIONS["slurm"]), ("xyz = 1\n", SECTIONS["study"])]:
        _, said = only(STUDY + text)
        assert all(name in said for name in valid)


def test_a_missing_study_or_name_is_said():
    assert "needs a section [study]" in only("[fixed]\nlr = 1\n")[1]
    assert "needs `name`" in only("[study]\n")[1]
    assert "[study]" in only("study = 3\n")[1]
    assert "needs a section [study]" in only("")[1]


@pytest.mark.parametrize(("text", "line", "column", "message"), [
    ("lr = 1\nlr = 2\n", 4, 1, "given twice; the first is on line 3"),
    ("[fixed]\n[study]\n", 4, 2, "given twice; the first is on line 1"),
    ("[fixed]\nmodel = alexnet\n", 4, 9, 'a string needs quotes: "alexnet"'),
    ("[fixed]\nbatch_norm = True\n", 4, 14, "write true"),
    ("[fixed]\nlr = .1\n", 4, 6, "0.1, not .1"),
    ("[fixed]\nlr = 1.\n", 4, 7, "not a number as TOML writes it"),
    ("[fixed]\nlr = [1, 2\n", 4, 11, "the file ends here"),
    ("[fixed\n", 3, 7, "expected"),
    ("[fixed]\nlr 1\n", 4, 4, "expected"),
    ("[fixed]\nmodel = 'x\ny'\n", 4, 11, "line ends inside a string"),
    ("\x1b[31m = 1\n", 3, 1, "invalid statement"),
])
def test_a_syntax_error_has_its_place_and_hides_the_rest(text, line, column, message):
    error = mistakes(STUDY + text)
    assert [(p.line, p.column) for p in error.problems] == [(line, column)]
    assert message in error.problems[0].message
    assert "nothing after a syntax error is checked" in str(error)
    assert "\x1b" not in str(error)


def test_a_grid_of_a_million_trials_is_refused_before_it_is_made():
    hundred = list(range(1, 101))
    _, said = only(STUDY + f"[compare]\nfilters = {hundred}\nhidden = {hundred}\npatience = {hundred}\n")
    assert "1,000,000 trials (100 filters x 100 hidden x 100 patience)" in said
    place, said = only(STUDY + f"seeds = {list(range(1001))}\n[compare]\nfilters = {hundred}\n")
    assert "100,100 trials (100 filters x 1001 seeds)" in said
    assert place.startswith("[0, 1, 2")
    whole = [name for name, spec in PARAMETERS.items() if spec.type is int]
    thirty = STUDY + "[compare]\n" + "".join(f"{name} = {list(range(1, 31))}\n" for name in whole)
    assert f"{30 ** len(whole):,} trials" in str(mistakes(thirty))


@pytest.mark.parametrize("text", [
    "[fixed]\nlr = " + "[" * 100_000, "[fixed]\nlr = " + "[\n" * 100_000, "[fixed]\nlr = " + "[" * 5_000 + "]" * 5_000,
    "a = " + "{a = " * 3_000 + "1" + "}" * 3_000, ".".join("a" * 9_000) + " = 1", "[" + ".".join("a" * 9_000) + "]", "a = " + "9" * 10_000,
    "[fixed]\nepochs = 0x" + "f" * 15_000, "\x00", "a = '\x7f'", "a" * 50_000, "\r", "[[[[", "a = 1 = 2", "\ud800 = 1", "é = 1",
    "".join(f"k{n} = 1\n" for n in range(20_000)), "[fixed]\n" + "".join(f"k{n} = 1\n" for n in range(20_000)),
    "[study]\nname = {}\nseeds = [[[[[]]]]]\nmetric = 1979-05-27\n[[variant]]\n[[variant.name]]\n[tune.when.x.y.z]\n",
    "study = []\nfixed = []\nvariant = [1]\ncompare = 2\ntune = 3\nsearch = 4\nconfirm = 5\nslurm = 6\nlocal = 7\njob = 8\n"
    "retry = 9\nlimits = []\n",
    "[study]\nname='s'\n[tune]\nwhen.a.when.b.c = 3\n[tune.lr]\nlow = []\nhigh = {}\nlog = nan\nstep = nan\n"
    "[search]\ntry = [1]\nhalving = 2\n",
    "[study]\nname='s'\n[job]\nrun = 3\nmetrics = [1]\n[fixed]\na = inf\nb = 0x" + "f" * 300 + "\n[compare]\nc = [{}, []]\n",
    "[tune" + "".join(f".when.optimizer.{n}" for n in range(15)) + "]\nlr = 1\n",
])
def test_hostile_text_gives_a_grid_error_and_no_other(text):
    error = mistakes(text)
    assert 1 <= len(error.problems) <= 100
    assert len(str(error)) < 100_000
    assert all(c.isprintable() or c == "\n" for c in str(error))


def test_very_many_mistakes_are_cut_short():
    assert "the first 100" in str(mistakes(STUDY + "".join(f"k{n} = 1\n" for n in range(200))))


def test_carets_stand_under_wide_characters_and_after_tabs():
    lines = str(mistakes("[study]\nname = 's'\nsèeds\t= 1".replace("sèeds", '"日本"') + "\n")).split("\n")
    assert lines[3:5] == ['3 | "日本"    = 1', "  | ^^^^^^"]
    lines = str(mistakes(STUDY + "[[variant]]\n\tname = '日' \n\tlr = 'x'\n")).split("\n")
    assert lines[3:5] == ["5 |     lr = 'x'", "  |          ^^^"]
    long = str(mistakes(STUDY + f"[compare]\nfilters = {[*range(1, 100), -7]}\n")).split("\n")
    assert len(long[3]) < 170
    assert long[4].index("^") == long[3].index("-7")
