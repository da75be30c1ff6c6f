"""Several trials on one GPU: side by side in processes of their own, and as one program; what becomes of each is as if it were alone."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from disk_study import DiskStudy
from many_trials import TOY, Worker, bench_of, check_results, notes
from slurm_fixture import Cluster, until
from slurm_studies import SlurmBench
from test_grid_mistakes import only
from test_local import TRIALS, executor

from harness.budget import Budget
from harness.grid import Slurm
from harness.plan import Attempt, Batch, TrialState, plan
from harness.profile import Profile
from harness.slurm_executor import job_parameters
from harness.trials import kinds_of

# ----------------------------------------------------------------------------------------------------------------------------- side by side

def test_one_that_dies_leaves_its_neighbours_alone_and_its_seat_to_the_next(tmp_path: Path) -> None:
    study = Worker(tmp_path, "first", "die", "raise", "last")
    study.shut("first")
    worker = study.begin(at_once=2)
    until("the others to be over", lambda: study.causes()["last"] == ["done"])
    assert study.causes() == {"first": [None], "die": ["killed"], "raise": ["exception"], "last": ["done"]}  # the first has its seat still
    study.shut("first", shut=False)
    said, _ = worker.communicate(timeout=240)
    assert worker.returncode == 1, said  # two are left for another worker
    check_results(study, "first", "last")
    assert len({process for _, process in notes(tmp_path)}) == 4


def test_no_more_at_once_than_there_are_seats(tmp_path: Path) -> None:
    study = Worker(tmp_path, *"abcd")
    for mode in "abc":
        study.shut(mode)
    worker = study.begin(at_once=3)
    until("three at once", lambda: all(study.epochs(mode) == [1, 2] for mode in "abc"))
    assert study.causes()["d"] == []
    study.shut("b", shut=False)
    until("the fourth in the free seat", lambda: study.causes()["d"] == ["done"])
    study.shut("a", shut=False)
    study.shut("c", shut=False)
    assert worker.wait(60) == 0
    check_results(study, *"abcd")


def test_a_signal_to_the_worker_reaches_all_of_them_and_nothing_more_is_begun(tmp_path: Path) -> None:
    study = Worker(tmp_path, *"abc")
    study.shut("a")
    study.shut("b")
    worker = study.begin(at_once=2)
    until("two at once", lambda: all(study.epochs(mode) == [1, 2] for mode in "ab"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 1
    assert study.causes() == {"a": ["interrupted"], "b": ["interrupted"], "c": []}
    study.run(at_once=3)
    assert study.causes() == {"a": ["interrupted", "done"], "b": ["interrupted", "done"], "c": ["done"]}
    assert study.epochs("a", 1) == []  # its third epoch was finished when it was told to stop, and kept
    check_results(study, *"abc")


def test_the_warning_of_the_time_limit_reaches_all_of_them(tmp_path: Path) -> None:
    study = Worker(tmp_path, *"ab")
    study.shut("a")
    study.shut("b")
    worker = study.begin(at_once=2, time_min=1, signal_s=10)
    until("both", lambda: all(study.epochs(mode) == [1, 2] for mode in "ab"))
    worker.send_signal(signal.SIGUSR2)
    assert worker.wait(60) == 1
    assert study.causes() == {"a": ["time_limit"], "b": ["time_limit"]}


def test_one_that_is_cancelled_ends_and_the_others_do_not_notice(tmp_path: Path) -> None:
    study = Worker(tmp_path, *"abc")
    for mode in "abc":
        study.shut(mode)
    worker = study.begin(at_once=3)
    until("three at once", lambda: all(study.epochs(mode) == [1, 2] for mode in "abc"))
    study.store.write_cancel({study.ids["b"]: 1})
    until("its end", lambda: study.causes()["b"] == ["cancelled"])
    study.shut("a", shut=False)
    study.shut("c", shut=False)
    worker.communicate(timeout=240)
    assert study.causes() == {"a": ["done"], "b": ["cancelled"], "c": ["done"]}
    check_results(study, "a", "c")


# -------------------------------------------------------------------------------------------------------------------------- as one program

def test_trials_of_one_key_are_one_process_with_an_attempt_each(tmp_path: Path) -> None:
    study = Worker(tmp_path, "a", "loner", "b", "c", "d", "no key")
    said = study.run(fuse=3)
    assert [what for what, _ in notes(tmp_path)] == ["probe 3", "fused a,b,c", "alone loner", "alone d", "alone no key"], said
    assert "told to have none" in said
    assert len({process for _, process in notes(tmp_path)}) == 4  # the probe's is that of the program
    check_results(study, "a", "b", "c", "d", "loner", "no key")
    for mode in "abc":
        events = study.events(mode)
        assert [event["event"] for event in events] == ["start", "fused", "epoch", "epoch", "epoch", "end"]
        assert events[1]["members"] == 3 and events[-1]["cause"] == "done"
    assert study.store.attempt_log(study.ids["a"], 0).read_text() == "these are 3\n"
    assert study.ids["a"] in study.store.attempt_log(study.ids["b"], 0).read_text()
    assert study.store.attempt_log(study.ids["d"], 0).read_text() == "this is d\n"


def test_where_it_is_not_faster_they_are_trained_one_by_one(tmp_path: Path) -> None:
    """The job is asked once for as many trials of a kind."""
    study = Worker(tmp_path, *"abcdef")
    (tmp_path / "slower").touch()
    study.run(fuse=2)
    assert [what for what, _ in notes(tmp_path)] == ["probe 2", *(f"alone {mode}" for mode in "abcdef")]
    assert len({process for _, process in notes(tmp_path)}) == 7
    check_results(study, *"abcdef")
    assert [[event["members"] for event in study.events(mode) if event["event"] == "fused"] for mode in "ab"] == [[2, 1], [2, 1]]
    assert study.store.attempt_log(study.ids["b"], 0).read_text() == "this is b\n"


def test_one_that_is_over_first_has_its_result_at_once(tmp_path: Path) -> None:
    study = Worker(tmp_path, "short", "long")
    study.shut("long")
    worker = study.begin(fuse=2)
    until("the end of the first", lambda: study.causes()["short"] == ["done"])
    check_results(study, "short")
    assert study.causes()["long"] == [None]
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=240)
    assert study.causes() == {"short": ["done"], "long": ["interrupted"]}
    study.run(fuse=2)
    check_results(study, "long")


def test_when_one_is_cancelled_the_others_go_on_at_once_in_another_attempt(tmp_path: Path) -> None:
    study = Worker(tmp_path, *"abc")
    study.shut("a")
    worker = study.begin(fuse=3)
    until("the last epoch", lambda: study.epochs("c") == [1, 2])
    study.store.write_cancel({study.ids["b"]: 1})
    said, _ = worker.communicate(timeout=240)  # who is told to stop does not wait at the gate
    assert study.causes() == {"a": ["interrupted", "done"], "b": ["cancelled"], "c": ["interrupted", "done"]}, said
    assert [what for what, _ in notes(tmp_path)] == ["probe 3", "fused a,b,c", "probe 2", "fused a,c"]
    check_results(study, "a", "c")


@pytest.mark.parametrize("mode, cause, error", [
    ("fused die", "killed", "signal SIGKILL"), ("fused raise", "out_of_memory", "one program of 3 trials: MemoryError: too many together")])
def test_what_ends_the_program_ends_its_trials_and_they_are_tried_again_alone(mode: str, cause: str, error: str, tmp_path: Path,
                                                                              data: Path) -> None:
    """By the launcher, on one pretended GPU. That attempt counts against none of them, and they are not cut into pieces."""
    bench = bench_of(tmp_path, data, "a", mode, "b", epochs=3, text="[local]\nfuse = 4\n[retry]\nkilled = 0\nout_of_memory = 0\n")
    status, said = bench.run(CUDA_VISIBLE_DEVICES="0")
    assert status == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert list(attempts.cause) == [cause, "done"] * 3 and list(attempts.fused) == [3, 1] * 3 and list(attempts.accumulate) == [1] * 6
    assert all(error in text for text in attempts.error[::2])
    assert list(attempts.data_wait[1::2].round(9)) == [0.2] * 3 and list(attempts.images_per_s[1::2]) == [20.0] * 3


DIGITS = """
[study]
name = "digits"
seeds = [0, 1]
[fixed]
train_images = 64
batch_size = 32
filters = 2
hidden = 8
epochs = 2
precision = "fp64"
[compare]
lr = [0.01, 0.05]
"""
FORCED = """
from jobs.train import *

def fused_is_faster(trials, contexts):
    return True
"""


@pytest.mark.slow
def test_the_built_in_job_gives_the_same_numbers_either_way(tmp_path: Path, data: Path) -> None:
    """Four trials as one program, in double precision; that it is slower on a CPU does not count here."""
    found = {}
    for fuse in (1, 4):
        folder = _new(tmp_path / str(fuse))
        (folder / "forced.py").write_text(FORCED)
        study = Worker(folder, grid=DIGITS)
        said = study.run(run="forced:run", data=str(data), fuse=fuse)
        results = [study.store.result(trial.id) for trial in study.trials.values()]
        assert all(result and result["status"] == "done" for result in results), said
        fused = [event["members"] for trial in study.trials.values() for events in study.store.attempts(trial.id)
                 for event in events if event["event"] == "fused"]
        assert fused == ([4] * 4 if fuse == 4 else []), said
        found[fuse] = [{**row, **result["test"]} for result in results if result for row in result["rows"]]
    assert len(found[1]) == 8 and all(one == pytest.approx(other, rel=1e-9) for one, other in zip(found[1], found[4], strict=True))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ------------------------------------------------------------------------------------------------------------------- seats of this machine

def test_a_gpu_has_seats_for_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    there = executor(monkeypatch, gpus="A,B", trials_per_gpu=2)
    there.check()
    assert (there.slots, there.gpus_per_worker, there.gpus_per_trial) == (4, 1, 0.5)
    (first,) = there.divide(0, TRIALS[:3], {})
    assert first.settings["gpus"] == [["A"], ["B"], ["A"]] and first.settings["gpus_per_trial"] == 0.5
    (second,) = there.divide(1, TRIALS, {"000-0": first, "000-2": first})
    assert second.settings["gpus"] == [["B"], ["B"]]  # both seats of A are taken
    assert executor(monkeypatch, gpus="A,B", trials_per_gpu=3, running=4).slots == 4
    assert executor(monkeypatch, gpus="", trials_per_gpu=3).slots == 8
    alone = executor(monkeypatch, gpus="", trials_per_gpu=3).divide(0, TRIALS[:1], {})[0].settings
    assert alone["gpus_per_trial"] == 0 and alone["device"] == "cpu"


def test_workers_share_a_gpu_side_by_side(tmp_path: Path, data: Path) -> None:
    """Three at once on one pretended GPU: each waits until the others are there too."""
    meets = 'note("here " + os.environ["CUDA_VISIBLE_DEVICES"])\n    while (HERE / "notes").read_text().count("here") < 3:\n        ' \
            "time.sleep(0.01)\n    rows, mode ="
    bench = bench_of(tmp_path, data, *"abc", epochs=1, text="[local]\ntrials_per_gpu = 3\n", toy=TOY.replace("rows, mode =", meets, 1))
    status, said = bench.run(CUDA_VISIBLE_DEVICES="7")
    assert status == 0, said
    assert (tmp_path / "notes").read_text().count("here 7") == 3
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert attempts.worker.nunique() == 3 and list(attempts.device) == ["cuda"] * 3


@pytest.mark.parametrize("fuse, sizes", [(8, [3, 2]), (2, [1, 2, 2])])
def test_no_worker_takes_more_than_its_part(fuse: int, sizes: list[int], tmp_path: Path, data: Path) -> None:
    """Five trials of one kind for two workers."""
    bench = bench_of(tmp_path, data, *"abcde", epochs=1, text=f"[local]\nrunning = 2\ngpus_per_trial = 0\nfuse = {fuse}\n")
    status, said = bench.run()
    assert status == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert sorted(attempts.fused) == sorted(size for size in sizes for _ in range(size))


def test_a_slot_whose_worker_died_is_filled_though_others_may_begin_what_is_left(tmp_path: Path, data: Path) -> None:
    """Of two workers one is killed while the other is in a long trial; the rest of their batch does not wait for that."""
    bench = bench_of(tmp_path, data, *"abcde", epochs=2, text="[local]\nrunning = 2\n[retry]\nlost = 0\nkilled = 4\n")
    for mode in "ab":
        (tmp_path / f"shut-{mode}").touch()
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.jsonl", count=2)
        until("two trials under way", lambda: [what for what, _ in notes(tmp_path)].count("alone b") == 1)
        ids = {str(trial.config["mode"]): trial.id for trial in bench.store.trials()}
        until("an epoch of each", lambda: all('"epoch":1' in bench.store.attempt_file(ids[mode], 0).read_text() for mode in "ab"))
        start = next(iter(bench.store.attempts(ids["b"])))[0]
        os.kill(start["pid"], signal.SIGKILL)
        (tmp_path / "shut-b").unlink()
        until("the results of all others", lambda: all(bench.store.result(ids[mode]) for mode in "bcde"))
        assert not bench.store.result(ids["a"])
        (tmp_path / "shut-a").unlink()
        said, _ = launcher.communicate(timeout=240)
    finally:
        launcher.kill()
        for gate in tmp_path.glob("shut-*"):
            gate.unlink()
    assert launcher.returncode == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert len(attempts) == 6 and len(bench.store.batches()) <= 3


@pytest.mark.parametrize("modes, workers", [("a", 1), ("abc", 2)])
def test_no_worker_is_started_for_what_another_is_about_to_begin(modes: str, workers: int, tmp_path: Path, data: Path) -> None:
    slow_to_import = TOY.replace("\nimport ", "\nimport time\ntime.sleep(1)\nimport ", 1)
    bench = bench_of(tmp_path, data, *modes, epochs=1, text="[local]\nrunning = 2\n", toy=slow_to_import)
    status, said = bench.run()
    assert status == 0, said
    assert [batch.workers for batch in bench.store.batches()] == [workers]


# ------------------------------------------------------------------------------------------------------------------- decisions and accounts

def test_what_any_worker_may_begin_is_open_to_one_more() -> None:
    shared = Batch(number=0, workers=2, trials=[("running", 0), ("left", 0), ("again", 1)])
    mine = Batch(number=1, workers=1, share=1, trials=[("mine", 0)])
    states = {"running": TrialState(attempts=(Attempt(worker="000-1"),)), "left": TrialState(), "mine": TrialState(),
              "again": TrialState(attempts=(Attempt(cause="out_of_memory", worker="000-0"),)), "new": TrialState()}
    now = plan(list(states), states, living={"000-1": shared, "001-0": mine}, retry={"out_of_memory": 1})
    assert now.submit == [("new", 0)] and now.open == [("left", 0), ("again", 1)] and now.accumulate == {"again": 2}


FUSED = {"worker": "000-0", "fused": 4}


def test_an_attempt_with_others_counts_only_where_it_says_something_of_the_trial() -> None:
    states = {"died": TrialState(attempts=(Attempt(cause="killed", **FUSED),)),
              "out": TrialState(attempts=(Attempt(cause="out_of_memory", **FUSED),)),
              "twice": TrialState(attempts=(Attempt(cause="out_of_memory", **FUSED), Attempt(cause="out_of_memory"))),
              "limit": TrialState(attempts=(Attempt(cause="time_limit", **FUSED),)),
              "alone": TrialState(attempts=(Attempt(cause="exception", **FUSED), Attempt(cause="exception"))),
              "gone": TrialState(attempts=(Attempt(cause="preempted", **FUSED),))}
    now = plan(list(states), states, living={}, retry={"killed": 0, "out_of_memory": 1, "time_limit": 0, "exception": 0})
    assert now.status == {"died": "pending", "out": "pending", "twice": "pending", "limit": "failed", "alone": "failed", "gone": "pending"}
    assert now.alone == {"died", "out", "twice"} and now.accumulate == {"twice": 2}


def test_a_trial_pays_for_its_part_of_the_gpu(tmp_path: Path) -> None:
    study = DiskStudy(tmp_path / "study")
    study.attempt(("width=1 lr=0.1", 0), "000-0", epochs=59, began=0.0, end={"cause": "done"})  # one hour
    name = study.attempt(("width=1 lr=0.1", 1), "000-0", began=0.0)
    path = study.store.attempt_file(name, 0)
    with path.open("a") as file:  # one of five for two hours
        file.write('{"event":"fused","members":5,"time":0.0}\n{"event":"epoch","epoch":1,"time":7200.0}\n')
    name = study.attempt(("width=1 lr=0.5", 0), "000-0", began=0.0)
    path = study.store.attempt_file(name, 0)
    with path.open("a") as file:  # begun with another, trained alone an hour later, for another hour
        file.write('{"event":"fused","members":2,"time":0.0}\n{"event":"fused","members":1,"time":3600.0}\n'
                   '{"event":"epoch","epoch":1,"time":7200.0}\n')
    trials = study.store.trials()
    limited = study.grid.__class__(**{name: getattr(study.grid, name) for name in study.grid.__slots__ if name != "limits"},
                                   limits=study.grid.limits.__class__(gpu_hours=100))
    budget = Budget(study.store, limited, trials, kinds_of(trials), gpus=0.25)
    assert not budget.overdrawn
    assert budget.spent_h == pytest.approx(0.25 * (1 + 2 / 5 + 1))


@pytest.mark.parametrize("text, marked, words", [
    ("[local]\ntrials_per_gpu = 2\nranks = 2", "2", "ranks is 2"),
    ("[local]\ntrials_per_gpu = 2\ngpus_per_trial = 4", "2", "gpus_per_trial is 4"),
    ("[local]\nfuse = 2\nranks = 4", "2", "ranks is 4"),
    ("[slurm]\ntrials_per_gpu = 2", "2", "gpus_per_node is 0"),
    ("[slurm]\ntrials_per_gpu = 2\ngpus_per_node = 4", "2", "gpus_per_node is 4"),
    ("[slurm]\ntrials_per_gpu = 3\ngpus_per_node = 1\nnodes = 2", "3", "nodes is 2"),
    ("[slurm]\nfuse = 3\ntasks_per_node = 2", "3", "tasks_per_node is 2"),
    ("[slurm]\nfuse = 0", "0", "outside 1 to 64"),
])
def test_what_cannot_share_a_gpu_is_a_mistake_of_the_grid(text: str, marked: str, words: str) -> None:
    found, message = only(f'[study]\nname = "s"\n{text}\n')
    assert found == marked and words in message


def test_a_job_asks_for_the_cores_of_all_its_trials_and_takes_as_many_as_it_can_run() -> None:
    wanted = Slurm(gpus_per_node=1, cpus_per_task=3, trials_per_gpu=4, fuse=2, trials_per_job=5)
    assert job_parameters(wanted, Profile())["cpus_per_task"] == 12 and wanted.trials_of_a_job == 8
    assert Slurm(gpus_per_node=1, trials_per_gpu=4, trials_per_job=50).trials_of_a_job == 50


# ------------------------------------------------------------------------------------------------------------------------------- on Slurm

@pytest.mark.slurm
def test_one_job_runs_three_at_once_and_goes_on_with_all_when_it_is_put_back(tmp_path: Path, cluster: Cluster) -> None:
    """Five trials on one pretended GPU; an administrator puts the job back into the queue when three are under way."""
    bench = SlurmBench(tmp_path, cluster).hold().toy(seeds="[0, 1, 2, 3, 4]", epochs=2)
    bench.add("[slurm]\ngpus_per_node = 1\ntrials_per_gpu = 3\ntrials_per_job = 5\n[retry]\ncanary = 0")
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.jsonl", count=3)
        assert bench.attempts() == 3 and len(bench.claims()) == 1 and len(bench.queue()) == 1
        job_id = bench.queue()[0][0]
        assert "NumCPUs=3 " in cluster.run("scontrol", "show", "job", job_id).stdout
        cluster.run("scontrol", "requeue", job_id)
        bench.wait_for("trials/*/a001.jsonl", count=3)
        bench.mended.touch()
        said, _ = launcher.communicate(timeout=240)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert attempts.worker.nunique() == 1 and len(bench.submissions()) == 1
    causes = attempts.groupby("trial_id").cause.agg(list)
    assert sorted(map(len, causes)) == [1, 1, 2, 2, 2] and all(found[-1] == "done" for found in causes)
    assert not set(attempts[attempts.attempt == 0].cause) & {"exception", "killed"}
