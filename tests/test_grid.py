"""Grids from text and files: what a good one becomes, and files that are none. tests/test_grid_mistakes.py has the bad ones."""

import json
import os
import subprocess
import sys

import pytest

from harness.errors import GridError, HarnessError, MissingData, StudyError, UsageError
from harness.grid import SECTIONS, Confirm, Halving, Job, Limits, Local, Retry, Search, Slurm, Tuned, Variant, parse_grid, read_grid
from harness.trials import Planner, changes
from jobs.config import PARAMETERS

STUDY = '[study]\nname = "s"\n'


def test_the_smallest_grid_has_one_variant_and_all_defaults():
    grid = parse_grid(STUDY)
    assert (grid.name, grid.metric, grid.mode, grid.seeds, grid.select, grid.test, grid.reference) == (
        "s", "val_acc", "max", (0,), "best_val", "each", "s")
    assert grid.variants == (Variant(name="s", settings={}),)
    assert (grid.fixed, grid.compared, grid.tune, grid.search, grid.confirm, grid.job) == ({}, (), None, None, None, None)
    assert grid.slurm == Slurm(nodes=1, gpus_per_node=0, tasks_per_node=1, cpus_per_task=1, mem_gb=0, time_min=60, running=0,
                               trials_per_job=1)
    assert grid.local == Local(ranks=1, cpus_per_trial=1, gpus_per_trial=-1, running=0)
    assert grid.retry == Retry(preempted=-1, node_failure=-1, time_limit=1, out_of_memory=1, exception=0, killed=4, cancelled=3, lost=4,
                               launch_failure=2, canary=8, breaker=3)
    assert grid.limits == Limits(gpu_hours=0)
    assert grid.trial_count() == 1
    assert grid.text == STUDY


def test_what_is_tried_again_and_what_may_be_used_up():
    grid = parse_grid(STUDY + "[retry]\npreempted = 10\ntime_limit = -1\ncanary = 0\n[limits]\ngpu_hours = 500\n")
    assert grid.retry == Retry(preempted=10, time_limit=-1, canary=0)
    assert (grid.retry.node_failure, grid.limits) == (-1, Limits(gpu_hours=500))


def test_variants_are_the_named_settings_times_the_product_in_order():
    grid = parse_grid(STUDY + """seeds = [3, 1]
metric = "val_loss"
select = "last"
reference = "b lr=1.0 batch_norm=true"
[fixed]
epochs = 2
[[variant]]
name = "a"
[[variant]]
name = "b"
depth = 3
[compare]
lr = [1, 0.5]
batch_norm = [true, false]
[slurm]
time_min = 90
[local]
running = 3
""")
    assert [v.name for v in grid.variants] == [
        "a lr=1.0 batch_norm=true", "a lr=1.0 batch_norm=false", "a lr=0.5 batch_norm=true", "a lr=0.5 batch_norm=false",
        "b lr=1.0 batch_norm=true", "b lr=1.0 batch_norm=false", "b lr=0.5 batch_norm=true", "b lr=0.5 batch_norm=false"]
    assert grid.variants[5].settings == {"depth": 3, "lr": 1.0, "batch_norm": False}
    assert grid.config_values(grid.variants[5]) == {"epochs": 2, "depth": 3, "lr": 1.0, "batch_norm": False}
    assert grid.compared == ("depth", "lr", "batch_norm")
    assert (grid.seeds, grid.mode, grid.select, grid.slurm.time_min, grid.local.running) == ((3, 1), "min", "last", 90, 3)
    assert grid.trial_count() == 16


def test_a_product_alone_is_named_by_its_values():
    assert [v.name for v in parse_grid(STUDY + "[compare]\ndepth = [1, 2]\n").variants] == ["depth=1", "depth=2"]


def test_what_a_variant_does_not_read_differs_from_what_it_reads():
    grid = parse_grid(STUDY + '[fixed]\nschedule = "step"\n[[variant]]\nname = "a"\n[[variant]]\nname = "b"\nschedule = "none"\n'
                              '[[variant]]\nname = "c"\nlr = 0.05\ndepth = 1\n')
    assert grid.compared == ("schedule", "depth")   # lr = 0.05 is the default


SEARCHED = STUDY + """[tune]
lr = { low = 1e-4, high = 1, log = true }
filters = { low = 16, high = 128, step = 8 }
optimizer = ["sgd", "adamw"]
[tune.when.optimizer.sgd]
momentum = { low = 0.8, high = 0.99 }
[tune.when.optimizer.adamw]
batch_norm = [true, false]
[search]
trials = 64
[search.halving]
first = 3
[[search.try]]
lr = 1
optimizer = "sgd"
[confirm]
seeds = 2
"""


def test_a_search_space_is_typed_and_kept():
    grid = parse_grid(SEARCHED)
    assert grid.tune == (
        Tuned(name="lr", kind="float", low=1e-4, high=1.0, log=True),
        Tuned(name="filters", kind="int", low=16, high=128, step=8),
        Tuned(name="optimizer", kind="str", choices=("sgd", "adamw")),
        Tuned(name="momentum", kind="float", low=0.8, high=0.99, when=(("optimizer", "sgd"),)),
        Tuned(name="batch_norm", kind="bool", choices=(True, False), when=(("optimizer", "adamw"),)),
    )
    assert isinstance(grid.tune[0].high, float)
    assert grid.search == Search(trials=64, wave=8, running=16, algorithm="auto", seed=0, warm_start="", halving=Halving(first=3, factor=3),
                                 tries=({"lr": 1.0, "optimizer": "sgd"},))
    assert (grid.confirm, grid.test, grid.requirements) == (Confirm(top=3, seeds=2), "confirmed", ())
    assert grid.trial_count() == 64 + (3 + 1) * 2


def test_a_condition_may_follow_what_is_compared():
    grid = parse_grid(STUDY + '[compare]\noptimizer = ["sgd", "adam"]\n[tune.when.optimizer.sgd]\nlr = { low = 0.01, high = 1 }\n'
                              '[tune.when.optimizer.adam]\nlr = { low = 1e-4, high = 0.1 }\n[search]\ntrials = 4\n')
    assert [(t.low, t.when) for t in grid.tune] == [(0.01, (("optimizer", "sgd"),)), (1e-4, (("optimizer", "adam"),))]
    assert grid.search.wave == 4
    assert grid.trial_count() == 2 * 4


OWN_JOB = """[study]
name = "own"
metric = "reward"
[job]
run = "my.package.train:main"
metrics = ["reward", "loss"]
[fixed]
size = 3
[compare]
rate = [1, 0.5]
"""


def test_with_a_job_of_ones_own_parameters_are_free():
    grid = parse_grid(OWN_JOB)
    assert grid.job == Job(run="my.package.train:main", metrics=("reward", "loss"))
    assert (grid.metric, grid.mode, grid.fixed) == ("reward", "max", {"size": 3})
    assert [v.settings for v in grid.variants] == [{"rate": 1.0}, {"rate": 0.5}]
    assert isinstance(grid.variants[0].settings["rate"], float)
    assert parse_grid(OWN_JOB.replace('"reward"\n', '"loss"\n', 1)).mode == "min"


def test_the_identity_is_what_decides_results():
    base = parse_grid(STUDY + "[fixed]\nepochs = 2\n[compare]\ndepth = [1, 2]\n").identity()
    json.dumps(base, allow_nan=False)
    same = ["# other\n" + STUDY + "seeds = [0]\n[compare]\ndepth=[1,2]\n[fixed]\nlr = 0.05\nepochs = 2 # two\n"
            "[slurm]\nnodes = 2\n[local]\nrunning = 1\n[retry]\nexception = 2\n[limits]\ngpu_hours = 1\n",
            STUDY + 'reference = "depth=2"\nmetric = "val_acc"\nmode = "max"\n[fixed]\nepochs = 2\n[compare]\ndepth = [1, 2]\n']
    other = [STUDY + "[fixed]\nepochs = 3\n[compare]\ndepth = [1, 2]\n",
             STUDY + "[fixed]\nepochs = 2\n[compare]\ndepth = [1, 2, 3]\n",
             STUDY + "seeds = [1]\n[fixed]\nepochs = 2\n[compare]\ndepth = [1, 2]\n",
             STUDY + "[fixed]\nepochs = 2\n[compare]\ndepth = [1, 2]\n"
             "[tune]\nlr = [0.1, 0.2]\n[search]\ntrials = 2\n"]
    assert all(parse_grid(text).identity() == base for text in same)
    assert all(parse_grid(text).identity() != base for text in other)
    assert json.loads(json.dumps(parse_grid(SEARCHED).identity())) == parse_grid(SEARCHED).identity()


def test_how_a_study_is_run_changes_neither_its_trials_nor_the_study():
    plain = STUDY + "[fixed]\nepochs = 2\n"
    other = parse_grid(plain + "[slurm]\nnodes = 2\n[local]\nrunning = 1\n[retry]\nlost = -1\n[limits]\ngpu_hours = 9\n")
    assert [t.id for t in Planner(other, {}).trials()] == [t.id for t in Planner(parse_grid(plain), {}).trials()]
    assert changes(plain, other) is None


def test_line_ends_and_byte_order_mark_make_no_difference():
    plain = parse_grid(SEARCHED)
    assert parse_grid("\ufeff" + SEARCHED.replace("\n", "\r\n")).identity() == plain.identity()


def test_every_key_has_a_line_of_help():
    assert set(SECTIONS) == {"study", "fixed", "variant", "compare", "tune", "require", "search", "search.halving", "search.try", "confirm",
                             "slurm", "local", "retry", "limits", "job"}
    assert all(doc for keys in SECTIONS.values() for doc in keys.values())
    assert set(SECTIONS["fixed"]) == set(PARAMETERS)


def test_a_grid_is_read_from_a_file_with_overrides(tmp_path):
    path = tmp_path / "my grid; echo x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + STUDY.encode())
    assert read_grid(path).text == STUDY
    grid = read_grid(path, overrides=["epochs=2", "study.seeds=[4]"])
    assert (grid.fixed, grid.seeds) == ({"epochs": 2}, (4,))
    assert parse_grid(grid.text).identity() == grid.identity()
    with pytest.raises(GridError, match="--set epohcs=2:.*\n.*\n.*epohcs = 2"):
        read_grid(path, overrides=["epohcs=2"])
    with pytest.raises(UsageError, match="key=value"):
        read_grid(path, overrides=["epochs"])
    path.write_text("[study]\nname =\n")
    with pytest.raises(GridError, match=":2:7"):
        read_grid(path, overrides=["epochs=2"])


def test_files_that_are_no_grid_are_refused_with_what_to_do(tmp_path):
    def said(path) -> str:
        with pytest.raises(GridError) as caught:
            read_grid(path)
        assert str(path)[:20] in str(caught.value)
        return str(caught.value)
    (tmp_path / "digits.toml").write_text(STUDY)
    (tmp_path / "empty.toml").write_text(" \n")
    (tmp_path / "latin.toml").write_bytes(b"# ok\n[study]\nname = 'Gr\xf6\xdfe'\n")
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    assert "did you mean" in said(tmp_path / "digit.toml") and "digits.toml" in said(tmp_path / "digit.toml")
    assert "digits.toml" in said(tmp_path / "digits")
    assert "does not exist either" in said(tmp_path / "no" / "x.toml")
    assert "no such file" in said(tmp_path / "digits.toml" / "x.toml")
    assert "directory" in said(tmp_path) and "digits.toml" in said(tmp_path)
    assert "no .toml files" in said(tmp_path / "sub" / "x.toml")
    assert "the file is empty" in said(tmp_path / "empty.toml")
    assert "byte 0xf6 on line 3" in said(tmp_path / "latin.toml")
    assert "larger than 1 MB" in said(tmp_path / "large.toml")
    assert "regular file" in said(tmp_path / "pipe.toml")
    assert "cannot be read" in said(tmp_path / ("x" * 300 + ".toml"))
    assert "cannot be read" in said(tmp_path / "a\0b.toml")


def test_the_errors_are_one_tree_with_exit_codes():
    assert {kind: kind.exit_code for kind in (GridError, UsageError, StudyError, MissingData)} == {
        GridError: 2, UsageError: 2, StudyError: 1, MissingData: 1}
    assert all(issubclass(kind, HarnessError) for kind in (GridError, UsageError, StudyError, MissingData))


def test_reading_a_grid_loads_nothing_heavy():
    code = ("import sys; from harness.grid import parse_grid; parse_grid('[study]\\nname = \"s\"\\n');"
            "print([m for m in ('torch', 'torchvision', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'nevergrad', 'rich', 'submitit')"
            " if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
