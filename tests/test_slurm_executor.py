"""How trials are divided into arrays, how an array is submitted, and what its jobs are asked for: with programs in place of Slurm's
commands, so that every limit and every refusal can be had. tests/test_slurm_dispatch.py has a real Slurm."""

import math
import os
import random
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from made_up_slurm import DOWN, NAME, Site, trials

from harness.errors import StudyError
from harness.grid import Slurm
from harness.plan import Batch
from harness.profile import Profile
from harness.slurm_executor import UNSURE_S, SlurmExecutor, job_parameters, signal_s
from harness.store import Store

POLICY = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


# ------------------------------------------------------------------------------------------------------------------ dividing into arrays

@pytest.mark.parametrize("count, resources, cluster, queued, parts", [
    # elements, how many of them at once, trials
    (5, {}, {}, 0, [(5, 5, 5)]),
    (1, {}, {}, 0, [(1, 1, 1)]),
    (120, {}, {"longest": 50}, 0, [(50, 50, 50), (50, 50, 50), (20, 20, 20)]),
    (3, {}, {"longest": None}, 0, [(1, 1, 1)] * 3),  # nothing is known: none is refused
    # several trials for each
    (10, {"trials_per_job": 4}, {}, 0, [(3, 3, 10)]),
    (10, {"trials_per_job": 4}, {"longest": 2}, 0, [(2, 2, 8), (1, 1, 2)]),
    (3, {"trials_per_job": 50}, {}, 0, [(1, 1, 3)]),
    # at most so many at once, over all arrays
    (10, {"running": 4}, {}, 0, [(10, 4, 10)]),
    (25, {"running": 5}, {"longest": 10}, 0, [(10, 2, 10), (10, 2, 10), (5, 1, 5)]),
    (25, {"running": 2}, {"longest": 10}, 0, [(10, 1, 10), (10, 1, 10)]),  # the rest when one of them is through
    (25, {"running": 1}, {"longest": 10}, 0, [(10, 1, 10)]),
    (40, {"running": 3, "trials_per_job": 2}, {"longest": 10}, 0, [(10, 2, 20), (10, 1, 20)]),
    # no more in the queue than the user may have
    (20, {}, {"most": 8}, 0, [(8, 8, 8)]),
    (20, {}, {"most": 8}, 3, [(5, 5, 5)]),
    (20, {}, {"most": 8}, 8, []),
    (20, {}, {"most": 8}, 11, []),
    (20, {"trials_per_job": 3}, {"most": 2}, 0, [(2, 2, 6)]),
    (120, {}, {"longest": 50, "most": 70}, 0, [(50, 50, 50), (20, 20, 20)]),
    (120, {"running": 6}, {"longest": 50, "most": 50}, 0, [(50, 6, 50)]),  # all six at once, though two more arrays are to come
    (10, {"running": 3}, {"most": 4}, 0, [(4, 3, 4)]),
])
def test_arrays(count: int, resources: dict[str, int], cluster: dict[str, Any], queued: int, parts: list[tuple[int, int, int]],
                site: Site) -> None:
    site.limits(**cluster)
    site.listed(*[f"5|{n}|PENDING||0:00|Priority|of another study" for n in range(queued)], "4|0|COMPLETED|n1|0:05|None|over")
    there = site.executor(**resources)
    site.asked(there)
    batches = there.divide(3, trials(count), {})
    assert [(batch.workers, batch.settings["parallelism"], len(batch.trials)) for batch in batches] == parts
    assert [batch.number for batch in batches] == list(range(3, 3 + len(parts)))
    assert [pair for batch in batches for pair in batch.trials] == trials(count)[:sum(part[2] for part in parts)]
    assert all(batch.share == resources.get("trials_per_job", 1) for batch in batches)


def test_the_profile_may_allow_less_than_the_cluster(site: Site) -> None:
    for max_jobs, workers in ((0, 8), (5, 5), (9, 8)):
        site.limits(most=8)
        there = site.executor(Profile(max_jobs=max_jobs))
        site.asked(there)
        assert there.divide(0, trials(20), {})[0].workers == workers


def test_what_runs_counts_against_what_may_run_at_once(site: Site) -> None:
    first = Batch(number=0, workers=10, share=1, trials=trials(10), settings={"executor": "slurm", "parallelism": 3})
    there = site.executor(running=4)
    site.asked(there)
    many = {first.worker(place): first for place in range(8)}
    few = {first.worker(place): first for place in range(2)}
    assert [b.settings["parallelism"] for b in there.divide(1, trials(9), many)] == [1]  # of its 8 elements three run at once
    assert [b.settings["parallelism"] for b in there.divide(1, trials(9), few)] == [2]
    full = {**many, "002-0": Batch(number=2, workers=5, trials=[], settings={"parallelism": 1})}
    assert there.divide(3, trials(9), full) == []


def test_random_clusters_get_what_they_allow(site: Site) -> None:
    chance = random.Random(6)
    for _ in range(60):
        longest, most, queued, running = chance.randint(1, 9), chance.choice((0, 5, 12)), chance.randint(0, 6), chance.choice((0, 1, 3, 8))
        share, count = chance.randint(1, 4), chance.randint(1, 60)
        site.limits(longest=longest, most=most)
        site.listed(*[f"5|{n}|PENDING||0:00|Priority|other" for n in range(queued)])
        there = site.executor(trials_per_job=share, running=running)
        site.asked(there)
        batches = there.divide(0, trials(count), {})
        workers = sum(batch.workers for batch in batches)
        assert all(1 <= batch.workers <= longest for batch in batches) and (not most or workers <= max(0, most - queued))
        assert not running or sum(min(batch.settings["parallelism"], batch.workers) for batch in batches) <= running
        taken = [pair for batch in batches for place in range(batch.workers) for pair in batch.trials_of(place)]
        assert taken == trials(count)[:len(taken)] and all(batch.trials_of(batch.workers - 1) for batch in batches)
        if not most and not running:
            assert len(taken) == count and workers == math.ceil(count / share)
        elif not most or most > queued:
            assert batches, "there was room"


def test_while_nobody_answers_nothing_is_submitted(site: Site) -> None:
    there = site.executor()
    assert there.divide(0, trials(3), {}) == []  # nobody was asked yet
    site.slurm.says("squeue", complaint=DOWN, status=1)
    site.asked(there)
    assert there.divide(0, trials(3), {}) == [] and there.trouble == "Unable to contact slurm controller (connect failure)"
    assert there.news().startswith("Slurm does not answer (Unable to contact slurm controller (connect failure)); what runs goes on; asked")
    site.listed()
    site.slurm.says("scontrol", complaint=DOWN, status=1)
    site.asked(there)
    assert there.divide(0, trials(3), {}) == []
    site.limits()
    site.asked(there)
    assert len(there.divide(0, trials(3), {})) == 1 and there.trouble == ""


def test_room_that_others_leave_is_noticed_before_anything_of_ours_is_in_the_queue(site: Site) -> None:
    there = site.executor(Profile(max_jobs=2))
    site.listed(*[f"5|{n}|PENDING||0:00|Priority|of another study" for n in range(2)])
    assert site.asked(there) == set() and there.divide(0, trials(3), {}) == []
    site.listed("5|0|PENDING||0:00|Priority|of another study")
    assert site.asked(there) == set() and [batch.workers for batch in there.divide(0, trials(3), {})] == [1]


def test_a_silent_controller_is_asked_less_and_less_often(site: Site) -> None:
    there = site.executor(Profile(poll_s=30))
    site.slurm.says("squeue", complaint=DOWN, status=1)
    for _ in range(3600):
        site.asked(there, after_s=1.0)
    assert 60 <= len(site.slurm.calls("squeue")) <= 70  # an hour, soon a minute apart


def test_one_question_for_all_batches_and_fewer_with_time(site: Site) -> None:
    batches = [site.written(number=number) for number in range(20)]
    there = site.executor(Profile(poll_s=30))
    site.listed(*[f"7|{place}|RUNNING|n1|0:01|None|h-0123456789ab-{number:03d}" for number in range(20) for place in range(2)])
    for _ in range(600):
        assert len(site.asked(there, *batches, after_s=1.0)) == 40
    assert 20 <= len(site.slurm.calls("squeue")) <= 40 and not site.slurm.calls("sacct")


# ----------------------------------------------------------------------------------------------------------------------------- submitting

def test_a_batch_that_was_taken_has_a_number(site: Site) -> None:
    there = site.executor()
    assert there.submit(site.written(job_id=None)) is True
    assert site.store.batches()[0].job_id == "7" and site.store.batches()[0].claims == [None, None]


@pytest.mark.parametrize("complaint", ["sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", ""])
def test_one_of_an_unknown_fate_is_looked_for_by_its_name(complaint: str, site: Site) -> None:
    there = site.executor()
    site.slurm.says("sbatch", complaint=complaint, status=1)
    batch = site.written(job_id=None)
    assert there.submit(batch) is False and site.store.batches()[0].claims == [None, None]
    assert there.alive([batch]) == {"000-0", "000-1"}  # nobody has answered since
    site.listed("0 PENDING", "1 RUNNING")
    assert site.asked(there, batch) == {"000-0", "000-1"} and batch.job_id == "7"
    assert Store(site.store.root).batches()[0].job_id == "7"


def test_one_of_an_unknown_fate_that_never_turns_up_was_not_submitted(site: Site) -> None:
    there = site.executor()
    site.slurm.says("sbatch", complaint="sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", status=1)
    batch = site.written(job_id=None)
    there.submit(batch)
    site.slurm.says("squeue", complaint=DOWN, status=1)
    for _ in range(50):
        assert site.asked(there, batch) == {"000-0", "000-1"}  # for as long as nobody answers
    site.listed()
    assert site.asked(there, batch) == {"000-0", "000-1"}
    assert site.asked(there, batch, after_s=UNSURE_S - 1) == {"000-0", "000-1"}
    assert site.asked(there, batch, after_s=UNSURE_S) == set()


def test_a_full_queue_closes_the_batch_and_asks_for_less(site: Site) -> None:
    there = site.executor()
    site.asked(there)
    (batch,) = there.divide(0, trials(8), {})
    site.slurm.says("sbatch", complaint=f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}", status=1)
    batch.settings["code"] = "d0"
    site.store.write_batch(batch)
    site.now += 0.1
    assert there.submit(batch) is False and site.store.batches()[0].claims == [{"closed": True}] * 8
    assert "QOSMaxSubmitJobPerUserLimit" in there.trouble
    site.asked(there)
    (smaller,) = there.divide(1, trials(8), {})
    assert 1 <= smaller.workers < 8
    assert there.alive([batch]) == set()


def test_a_refusal_ends_the_launch_with_slurms_words_and_what_was_asked_for(site: Site) -> None:
    there = site.executor(Profile(name="mine", partition="nowhere", gpu_type="a100"), gpus_per_node=2, mem_gb=8)
    site.slurm.says("sbatch", complaint="sbatch: error: invalid partition specified: nowhere\nsbatch: error: Batch job submission failed: "
                                        "Invalid partition name specified\n", status=1)
    with pytest.raises(StudyError) as caught:
        there.submit(site.written(job_id=None))
    said = str(caught.value)
    assert "sbatch refused the job: invalid partition specified: nowhere" in said and "--preflight" in said
    assert "gpus_per_node = 2" in said and "mem_gb = 8" in said and 'partition = "nowhere"' in said and 'the profile "mine"' in said
    assert site.store.batches()[0].claims == [{"closed": True}] * 2


@pytest.mark.parametrize("study", ["study", "it's \"quoted\" $(touch pwned) `touch pwned`; touch pwned", "100% größe %j %A", "-rf"])
def test_the_script_hands_over_what_it_was_given(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by bash in place of Slurm, with a program that says what it is called with in place of Python."""
    site = Site(tmp_path, monkeypatch, study)
    python = tmp_path / "python here"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$PYTHONPATH" "$OMP_NUM_THREADS" "$PYTHONSAFEPATH"\n')
    python.chmod(0o755)
    there = site.executor(Profile(python=str(python), setup=("export SITE=set",)), cpus_per_task=3)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert there.submit(site.written(workers=5))
    script = site.slurm.script()
    done = subprocess.run(["/bin/bash", "-c", script], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/mine"},
                          capture_output=True, text=True, check=False)
    root = str(site.store.root)
    assert done.stdout.splitlines() == ["-u", "-m", "harness.worker", root, "0", f"{root}/code/d0:/mine", "3", "1"], done.stderr
    assert not list(tmp_path.rglob("pwned"))
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in script.splitlines() if line.startswith("#SBATCH --"))
    (output,) = shlex.split(options["output"])
    assert output == f"{root}/submitit".replace("%", "%%") + "/000-%a.log"
    assert options["array"] == "0-4%5" and options["job-name"] == NAME and options["signal"] == "B:USR2@120" and "requeue" in options
    assert not list(site.store.submitit_folder.glob(".submission_file_*"))


def test_sbatch_is_not_given_what_an_outer_job_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.slurm.runs("sbatch", f'/usr/bin/env > {site.slurm.folder}/seen\necho "Submitted batch job 7"')
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "WORLD_SIZE", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "from-outside")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    site.executor().submit(site.written())
    seen = (site.slurm.folder / "seen").read_text()
    assert "from-outside" not in seen and "SLURM_CONF=/etc/there" in seen
    assert os.environ["SLURM_JOB_ID"] == "from-outside"  # ours stays as it was


# ------------------------------------------------------------------------------------------------------------------------ what is asked for

def test_one_node_is_one_task_whose_cores_are_those_of_all_ranks() -> None:
    found = job_parameters(Slurm(tasks_per_node=4, cpus_per_task=3, gpus_per_node=4, mem_gb=64, time_min=90), Profile(gpu_type="a100"))
    assert (found["nodes"], found["ntasks_per_node"], found["cpus_per_task"]) == (1, 1, 12)
    assert (found["gpus_per_node"], found["mem"], found["time"], found["use_srun"]) == ("a100:4", "64GB", 90, False)


def test_over_several_nodes_each_rank_is_a_task() -> None:
    found = job_parameters(Slurm(nodes=2, tasks_per_node=4, cpus_per_task=3, gpus_per_node=4), Profile())
    assert (found["nodes"], found["ntasks_per_node"], found["cpus_per_task"], found["gpus_per_node"]) == (2, 4, 3, 4)
    assert "mem" not in found


def test_only_what_the_site_says_is_said() -> None:
    assert not {"partition", "account", "qos", "constraint", "exclude", "gpus_per_node", "mem"} & set(job_parameters(Slurm(), Profile()))
    found = job_parameters(Slurm(), Profile(partition="p", account="a", qos="q", constraint="c|d", exclude="n[1-2]", reservation="r",
                                            sbatch={"hint": "nomultithread", "exclusive": True}, setup=("module load x",)))
    assert [found[name] for name in ("partition", "account", "qos", "constraint", "exclude")] == ["p", "a", "q", "c|d", "n[1-2]"]
    assert found["additional_parameters"] == {"hint": "nomultithread", "exclusive": True, "signal": "B:USR2@120", "requeue": True,
                                              "reservation": "r"}
    assert found["setup"][0].startswith("set -e") and "module load x" in found["setup"]


@pytest.mark.parametrize("time_min, wanted, signal", [(60, 120, 120), (60, 600, 600), (2, 120, 30), (1, 120, 15), (60, 3600, 900)])
def test_a_quarter_of_the_time_is_left_for_the_end_at_most(time_min: int, wanted: int, signal: int) -> None:
    assert signal_s(Slurm(time_min=time_min), Profile(signal_s=wanted)) == signal


@pytest.mark.parametrize("name", ["line\nbreak", "bell\x07", "back\\slash"])
def test_a_study_folder_that_slurm_cannot_write_to(name: str, site: Site, tmp_path: Path) -> None:
    site.executor().check()
    there = SlurmExecutor(Store(tmp_path / name), Slurm(), Profile())
    with pytest.raises(StudyError, match="control characters or backslashes.*--study-dir"):
        there.check()


def test_fewer_gpus_than_processes(site: Site) -> None:
    with pytest.raises(StudyError, match="gpus_per_node = 1 for tasks_per_node = 2: each process needs a GPU"):
        site.executor(gpus_per_node=1, tasks_per_node=2).check()
