"""Studies on a real Slurm: what is submitted, as what, with which environment, and how much of it at once."""

import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from launching import DIGITS_GRID
from slurm_fixture import Cluster, job, sbatch, temporary_cluster, until, wait_for_state
from slurm_studies import SlurmBench, leave

from harness import slurm

pytestmark = pytest.mark.slurm

SPY = '''
import json, os, signal, time
from pathlib import Path
from jobs.contract import Outcome

SEEN = Path(os.environ["SPY"])
(SEEN / f"import-{os.getpid()}").touch()
VERSION = 1
if os.environ.get("SPY_LATE") and "SLURM_PROCID" in os.environ:
    import jobs.ranks
    jobs.ranks.joined.__wrapped__.__kwdefaults__["meet_s"] = 3.0
    time.sleep(100 if os.environ["SLURM_PROCID"] == "0" else 0)


def train(trial, context):
    began = time.time()
    (SEEN / f"began-{os.getpid()}").touch()
    while len(list(SEEN.glob("began-*"))) < trial.config["together"]:
        time.sleep(0.05)
    time.sleep(trial.config["pause"])
    if trial.config["fails"] == "by a signal" and context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.config["fails"] and context.rank == 1:
        raise ValueError("rank 1 gives up")
    if trial.config["fails"]:
        time.sleep(250)
    rows = [{"epoch": 1, "score": float(VERSION)}]
    context.report(rows[0])
    seen = {"environment": dict(os.environ), "began": began, "ended": time.time(), "cwd": os.getcwd(), "path": __file__}
    (SEEN / f"run-{context.folder.name}-{context.rank}-{os.getpid()}.json").write_text(json.dumps(seen))
    return Outcome(status="done", epoch=1, rows=rows)
'''


class Spied(SlurmBench):
    """A study of a job that writes down where, when and with which environment it runs, and every time it is imported."""

    def __init__(self, folder: Path, cluster: Cluster):
        super().__init__(folder, cluster)
        self.seen = folder / "seen"
        self.seen.mkdir(exist_ok=True)
        (folder / "spy_job.py").write_text(SPY)
        self.environment["SPY"] = str(self.seen)

    def trials(self, count: int, *, pause: float = 0.0, fails: str = "", slurm: str = "", retry: str = "canary = 0",
               together: int = 1) -> "Spied":
        """Writes the grid: `count` seeds of one variant, the first of which wait until `together` have begun."""
        self.grid.write_text(f"""
[study]
name = "spied"
metric = "score"
seeds = {list(range(count))}
[job]
run = "spy_job:train"
metrics = ["score"]
[fixed]
pause = {pause}
together = {together}
fails = "{fails}"
[compare]
width = [1]
[retry]
{retry}
[slurm]
{slurm}
""")
        return self

    def runs(self) -> list[dict[str, Any]]:
        """What every rank of every trial that came to its end wrote down."""
        return [json.loads(path.read_text()) for path in sorted(self.seen.glob("run-*.json"))]

    def imports(self) -> int:
        """How many processes imported the job."""
        return len(list(self.seen.glob("import-*")))

    def most_at_once(self) -> int:
        """The largest number of trials that ran at the same time."""
        moments = sorted([(run["began"], 1) for run in self.runs()] + [(run["ended"], -1) for run in self.runs()])
        running = [0]
        for _, change in moments:
            running.append(running[-1] + change)
        return max(running)


@pytest.fixture
def spied(tmp_path: Path, cluster: Cluster) -> Spied:
    return Spied(tmp_path, cluster)


def drain(cluster: Cluster) -> None:
    """Lets nothing start."""
    assert cluster.run("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test").returncode == 0


def resume(cluster: Cluster) -> None:
    """Lets things start again."""
    cluster.run("scontrol", "update", "nodename=n[1-2]", "state=resume")
    until("nodes that take jobs", cluster.nodes_ready)


@pytest.fixture
def drained(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, on which nothing starts before the test says so."""
    drain(cluster)
    yield cluster
    resume(cluster)


# ----------------------------------------------------------------------------------------------------------------------- results


def of_one_machine(tmp_path: Path, data: Path, grid: str) -> dict[str, bytes]:
    """The tables that `--local` makes of a grid."""
    from launching import Bench

    (tmp_path / "local").mkdir()
    here = Bench(tmp_path / "local", data).digits(grid)
    status, said = here.run()
    assert status == 0, said
    return here.tables()


def test_the_digits_study_gives_the_tables_of_one_machine(tmp_path: Path, data: Path, cluster: Cluster) -> None:
    there = SlurmBench(tmp_path / "slurm", cluster, data).digits()
    there.finish()
    assert there.tables() == of_one_machine(tmp_path, data, DIGITS_GRID.replace("running = 1", "running = 2"))
    assert set(pd.read_parquet(there.store.table_file("trials"))["status"]) == {"done"}
    assert not list(there.store.root.rglob("*.pkl*"))  # nothing is unpickled anywhere


def test_two_nodes_with_two_ranks_give_the_tables_of_two_ranks_on_one_machine(tmp_path: Path, data: Path, cluster: Cluster) -> None:
    grid = DIGITS_GRID.replace("depth = [1, 2]", "depth = [2]")
    there = SlurmBench(tmp_path / "slurm", cluster, data).digits(grid + "\n[slurm]\nnodes = 2\ntrials_per_job = 1\n")
    there.finish()
    assert there.tables() == of_one_machine(tmp_path, data, grid.replace("running = 1", "ranks = 2"))
    attempts = pd.read_parquet(there.store.table_file("attempts"))
    assert list(attempts["ranks"]) == [2] and list(attempts["cause"]) == ["done"]
    assert there.cluster.run("sacct", "-nXP", "-o", "NNodes", "--name", f"{there.prefix}000").stdout.split()[:1] == ["2"]


# ------------------------------------------------------------------------------------------------------------ arrays and limits


def test_trials_of_one_job_share_one_import(spied: Spied) -> None:
    spied.trials(5, slurm="trials_per_job = 3").finish()
    assert spied.imports() == 2 == len(spied.claims()) and len(spied.runs()) == 5
    by_job: dict[str, int] = {}
    for run in spied.runs():
        element = run["environment"]["SLURM_ARRAY_TASK_ID"]
        by_job[element] = by_job.get(element, 0) + 1
    assert by_job == {"0": 3, "1": 2}


def test_a_single_trial_is_an_array_of_one(spied: Spied) -> None:
    spied.trials(1).finish()
    assert [run["environment"]["SLURM_ARRAY_TASK_ID"] for run in spied.runs()] == ["0"]
    assert spied.claims()[0]["job_id"] == f"{spied.store.batches()[0].job_id}_0"


def test_max_jobs_of_the_profile(spied: Spied) -> None:
    spied.site("max_jobs = 2").trials(6, pause=0.3)
    launcher, most = spied.start(), 0
    while launcher.poll() is None:
        if spied.store.env_file.exists():
            most = max(most, len(spied.queue()))
        time.sleep(0.05)
    said, _ = launcher.communicate()
    assert launcher.returncode == 0, said
    assert len(spied.runs()) == 6 and spied.most_at_once() <= 2 and 1 <= most <= 2


@pytest.fixture(scope="module")
def limited() -> Iterator[Cluster]:
    """A cluster with arrays of at most six elements, and whose accounting has limits that are kept to."""
    with temporary_cluster(max_array_size=6) as cluster:
        for command in ("add account lab", f"add user {os.environ.get('USER') or 'root'} account=lab"):
            cluster.run("sacctmgr", "-i", *command.split())
        with cluster.slurm_conf.open("a") as file:
            file.write("AccountingStorageEnforce=limits,qos\n")
        cluster.send("slurmctld", "stop")
        cluster.start("slurmctld")
        until("nodes", cluster.nodes_ready)
        yield cluster


MARKS = itertools.count(1000)
"""Limits on running jobs that nothing comes to."""


def set_limits(cluster: Cluster, *what: str) -> None:
    """Changes limits and waits until the controller knows. It does not show them all, but it does show what is changed after them."""
    mark = f"GrpJobs={next(MARKS)}"
    for change in (what, ("user", "root", "set", mark)):
        done = cluster.run("sacctmgr", "-i", "modify", *change)
        assert done.returncode == 0, done.stdout + done.stderr
    until("the controller to know the limits", lambda: f" {mark}(" in cluster.run("scontrol", "show", "assoc_mgr", "flags=assoc").stdout)


def test_arrays_are_split_and_no_more_run_at_once_than_the_grid_allows(tmp_path: Path, limited: Cluster) -> None:
    """14 jobs where MaxArraySize is 6, `running` divided over the three arrays."""
    spied = Spied(tmp_path, limited).trials(27, pause=0.2, together=2, slurm="running = 5\ntrials_per_job = 2")
    spied.finish()
    assert [(batch.workers, batch.settings["parallelism"]) for batch in spied.store.batches()] == [(6, 2), (6, 2), (2, 1)]
    assert len(spied.runs()) == 27 and 2 <= spied.most_at_once() <= 5 and spied.imports() == 14
    names = {f"{spied.prefix}{number:03d}": 1 for number in range(3)}
    until("the accounting to know", lambda: {name: len(numbers) for name, numbers in spied.submissions().items()} == names)
    assert not list(spied.store.submitit_folder.glob(".*"))


@pytest.mark.parametrize("kind", ["association", "qos"])
def test_a_limit_on_submitted_jobs_is_waited_for(kind: str, tmp_path: Path, limited: Cluster) -> None:
    """That of an association can be asked for; that of a QOS is met: QOSMaxSubmitJobPerUserLimit."""
    where, limit = (["user", "root"], "MaxSubmitJobs") if kind == "association" else (["qos", "normal"], "MaxSubmitJobsPerUser")
    set_limits(limited, *where, "set", f"{limit}=3")
    spied = Spied(tmp_path, limited).trials(7, pause=0.2)
    try:
        said = spied.finish()
    finally:
        set_limits(limited, *where, "set", f"{limit}=-1")
    assert len(spied.runs()) == 7 and spied.most_at_once() <= 3
    assert len(spied.store.batches()) <= 10, said  # and not one for every question
    assert ("QOSMaxSubmitJobPerUserLimit" in said) == (kind == "qos")
    assert all(len(numbers) == 1 for numbers in spied.submissions().values())


def test_another_limit_with_the_same_second_line_is_for_good(tmp_path: Path, limited: Cluster) -> None:
    set_limits(limited, "qos", "normal", "set", "MaxTRESPerJob=cpu=1", "flags=DenyOnLimit")
    spied = Spied(tmp_path, limited).trials(2, slurm="cpus_per_task = 2")
    try:
        status, said = spied.run()
    finally:
        set_limits(limited, "qos", "normal", "set", "MaxTRESPerJob=cpu=-1", "flags=-1")
    assert status == 1 and "QOSMaxCpuPerJobLimit" in said and "cpus_per_task = 2" in said, said
    assert not spied.queue()
    spied.finish()


def test_an_account_that_does_not_exist(tmp_path: Path, limited: Cluster) -> None:
    spied = Spied(tmp_path, limited).trials(2)
    spied.site('account = "nobody"')
    status, said = spied.run()
    assert status == 1 and "nvalid account" in said and 'account = "nobody" by the profile "site"' in said, said
    assert not spied.queue()
    spied.site('account = "lab"').finish()


# ------------------------------------------------------------------------------------------------------ what a job is asked for


def test_resources_are_asked_for_as_they_are_written(spied: Spied, drained: Cluster) -> None:
    spied.site('[sbatch]\nnice = 7\ncomment = "a=b"\n', signal_s=33)
    spied.trials(6, slurm="gpus_per_node = 1\ncpus_per_task = 3\nmem_gb = 5\ntime_min = 42\nrunning = 4\ntrials_per_job = 2")
    leave(spied.hand_in())
    said = spied.cluster.run("scontrol", "--oneliner", "show", "job", spied.store.batches()[0].job_id or "").stdout
    asked = dict(field.partition("=")[::2] for field in said.split() if "=" in field)
    wanted = {"NumNodes": "1", "NumCPUs": "3", "NumTasks": "1", "CPUs/Task": "3", "MinMemoryNode": "5G", "TimeLimit": "00:42:00",
              "ArrayTaskId": "0-2%3", "ArrayTaskThrottle": "3", "Requeue": "1", "Partition": "main", "Nice": "7", "Comment": "a=b",
              "JobName": f"{spied.prefix}000", "BatchFlag": "1"}
    assert {name: asked.get(name, "").partition("-1" if name == "NumNodes" else "\0")[0] for name in wanted} == wanted, said
    assert "gpu:1" in said and "wckey" not in said.lower()
    script = next(spied.store.submitit_folder.glob("*.sh")).read_text()
    assert "--signal=B:USR2@33" in script and "--ntasks-per-node=1" in script and "wckey" not in script


def test_cpus_per_task_reaches_ranks_over_nodes(spied: Spied) -> None:
    """srun of Slurm 22.05 and later does not take it from the job."""
    spied.trials(2, slurm="nodes = 2\ncpus_per_task = 2\ntrials_per_job = 2").finish()
    ranks = [run["environment"] for run in spied.runs()]
    assert sorted((rank["SLURM_STEP_ID"], rank["SLURM_PROCID"], rank["SLURM_STEP_NUM_NODES"], rank["SLURM_CPUS_PER_TASK"],
                   rank["OMP_NUM_THREADS"]) for rank in ranks) == [(step, rank, "2", "2", "2") for step in "01" for rank in "01"]
    assert {rank["SLURMD_NODENAME"] for rank in ranks} == {"n1", "n2"}


@pytest.mark.parametrize("fails, said_of_it", [("by itself", "failed: .* rank 1: ValueError: rank 1 gives up"),
                                               ("by a signal", r"lost: .* srun: exit 137 \(n2: task 1: Killed\)")])
def test_a_rank_that_dies_ends_the_others(fails: str, said_of_it: str, spied: Spied) -> None:
    """Rank 0 would go on for four minutes, and is killed; what counts is how rank 1 ended. Slurm sees that the job failed."""
    status, said = spied.trials(1, fails=fails, slurm="nodes = 2", retry="killed = 0").run()
    assert status == 1 and re.search(said_of_it, said), said
    until("both nodes to be free", lambda: set(spied.cluster.node_states().values()) == {"idle"}, timeout_s=100)
    number = f"{spied.store.batches()[0].job_id}_0"
    ended = until("the accounting to know", lambda: spied.cluster.run("sacct", "-nXP", "-j", number, "-o", "State,ExitCode").stdout.strip())
    assert ended == "FAILED|1:0"


def test_ranks_that_cannot_meet_name_the_address(spied: Spied) -> None:
    """Rank 0 does not come to where it should listen."""
    status, said = spied.trials(1, slurm="nodes = 2").run(SPY_LATE="1")
    assert status == 1 and re.search(r"RuntimeError: rank 1 of 2 could not meet the others at tcp://n[12]:\d+ within 3 s", said), said


def test_a_step_that_cannot_start_says_what_srun_said(spied: Spied) -> None:
    spied.site('setup = ["export SLURM_JOB_NODELIST=n1"]').trials(1, slurm="nodes = 2", retry="killed = 0")
    status, said = spied.run()
    assert status == 1 and "srun: exit 1 (Only allocated 1 nodes asked for 2)" in said, said


# ------------------------------------------------------------------------------------------------------------- the environment


def test_workers_import_what_was_submitted(spied: Spied, drained: Cluster) -> None:
    """The source is changed while the job waits."""
    spied.trials(1)
    launcher = spied.hand_in()
    (spied.folder / "spy_job.py").write_text(SPY.replace("VERSION = 1", "VERSION = 2"))
    resume(drained)
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, said
    assert pd.read_parquet(spied.store.table_file("trials"))["score"].tolist() == [1.0]
    assert spied.runs()[0]["path"].startswith(str(spied.store.root / "code"))


def test_a_launch_from_inside_a_job(spied: Spied) -> None:
    """Nothing of the outer job reaches the inner ones, and nothing that looks like a secret; where Slurm's configuration is does."""
    spied.trials(1)
    outer = {"SLURM_OUTER": "1", "SLURM_CPUS_PER_TASK": "3", "SBATCH_PARTITION": "nowhere", "SBATCH_ARRAY_INX": "0-9",
             "SRUN_CPUS_PER_TASK": "9", "SLURM_CLUSTERS": "elsewhere",
             "SUBMITIT_EXECUTOR": "outer", "RANK": "7", "WORLD_SIZE": "9", "MASTER_ADDR": "nowhere"}
    secret = {"WANDB_API_KEY": "hush", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_SESSION_TOKEN": "hush", "SSH_AUTH_SOCK": "/tmp/hush",
              "DB_PASSWORD": "hush", "HF_TOKEN": "hush"}
    exports = "\n".join(f"export {name}={value}" for name, value in {**outer, **secret, "HARMLESS": "kept"}.items())
    said = spied.folder / "said"
    variables = "\n".join(f"export {name}='{value}'" for name, value in spied.environment.items()
                          if name in ("PYTHONPATH", "HARNESS_DATA", "SPY", "TOY_MENDED", "XDG_CONFIG_HOME"))
    number = sbatch(spied.cluster, "--ntasks=1", "--cpus-per-task=2", output=said,
                    script=f"{variables}\n{exports}\ncd {Path.cwd()}\n{' '.join(spied.command())}")
    wait_for_state(spied.cluster, number, "COMPLETED", "FAILED")
    assert "1 of 1" in said.read_text() or "[1/1] done" in said.read_text(), said.read_text()
    inner = spied.runs()[0]["environment"]
    assert inner["SLURM_ARRAY_JOB_ID"] != number and inner["HARMLESS"] == "kept"
    assert inner["SLURM_CPUS_PER_TASK"] == "1" and inner["SLURM_JOB_PARTITION"] == "main"
    left = {name for name in {*outer, *secret} - {"SLURM_CPUS_PER_TASK", "SUBMITIT_EXECUTOR"} if name in inner}
    assert not left and "hush" not in json.dumps(inner)
    assert "hush" not in "".join(path.read_text(errors="replace") for path in spied.store.root.rglob("*") if path.is_file())


# ----------------------------------------------------------------------------------------------------------------- how it ends


def test_a_setup_line_that_fails_ends_the_job_and_the_launch(spied: Spied) -> None:
    spied.site('setup = ["echo loading", "false", "echo loaded"]').trials(2, retry="launch_failure = 1")
    status, said = spied.run()
    assert status == 1 and "ended before they could begin" in said and "loading" in said and "loaded" not in said, said
    assert not spied.runs() and not spied.queue()
    spied.site().finish()


def test_a_finished_job_that_is_started_again_runs_nothing(spied: Spied) -> None:
    spied.trials(2, slurm="trials_per_job = 2").finish()
    before = {path: path.read_bytes() for path in spied.store.root.glob("trials/*/*")}
    number = f"{spied.store.batches()[0].job_id}_0"
    assert spied.cluster.run("scontrol", "requeue", number).returncode == 0
    until("the second run", lambda: job(spied.cluster, number).get("Restarts") == "1"
          and job(spied.cluster, number).get("JobState") == "COMPLETED")
    assert {path: path.read_bytes() for path in spied.store.root.glob("trials/*/*")} == before
    assert spied.imports() == 1
    assert "nothing to do" in spied.store.worker_log("000-0").read_text() or spied.imports() == 1


def test_a_job_that_is_requeued_goes_on_with_what_is_left(tmp_path: Path, cluster: Cluster) -> None:
    """The second of three trials is under way."""
    bench = SlurmBench(tmp_path, cluster).hold("trial.seed > 0").toy(seeds="[0, 1, 2]", epochs=4).add("[slurm]\ntrials_per_job = 3")
    launcher = bench.start()
    bench.wait_for("trials/*/result.json")
    bench.wait_for("trials/*/a000.jsonl", count=2)
    assert cluster.run("scontrol", "requeue", f"{bench.store.batches()[0].job_id}_0").returncode == 0
    bench.wait_for("trials/*/a001.jsonl")
    bench.mended.touch()
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert sorted(attempts["attempt"]) == [0, 0, 0, 1] and len(bench.store.batches()) == 1, said
    assert bench.epochs() == 12  # nothing was trained twice


# ------------------------------------------------------------------------------------------------------- what sbatch's texts mean


VIOLATES = ("\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time "
            "limits)")


@pytest.mark.parametrize("said, meaning", [
    ("Batch job submission failed: Socket timed out on send/recv operation", slurm.Unanswered),
    ("Batch job submission failed: Unable to contact slurm controller (connect failure)", slurm.Unanswered),
    ("Batch job submission failed: Unexpected message received", slurm.Unanswered),
    ("Slurm temporarily unable to accept job, sleeping and retrying", slurm.Unanswered),
    ("Slurm job queue full, sleeping and retrying", slurm.Unanswered),
    ("Batch job submission failed: Job creation temporarily disabled", slurm.Unanswered),
    ("QOSMaxSubmitJobPerUserLimit" + VIOLATES, slurm.QueueFull),
    ("AssocMaxSubmitJobLimit" + VIOLATES, slurm.QueueFull),
    ("QOSGrpSubmitJobsLimit" + VIOLATES, slurm.QueueFull),
    ("QOSMaxWallDurationPerJobLimit" + VIOLATES, slurm.Refused),
    ("AssocGrpCpuLimit" + VIOLATES, slurm.Refused),
    ("invalid partition specified: nowhere\nsbatch: error: Batch job submission failed: Invalid partition name specified", slurm.Refused),
    ("Batch job submission failed: Invalid generic resource (gres) specification", slurm.Refused),
    ("Batch job submission failed: Invalid job array specification", slurm.Refused),
    ("Batch job submission failed: Invalid account or account/partition combination specified", slurm.Refused),
    ("Batch job submission failed: Requested node configuration is not available", slurm.Refused),
])
def test_what_a_failed_sbatch_means(said: str, meaning: type) -> None:
    assert type(slurm.submission_error(f"sbatch: error: {said}")) is meaning


def test_without_slurm(spied: Spied) -> None:
    (spied.folder / "bin").mkdir()
    status, said = spied.trials(1).run(PATH=str(spied.folder / "bin"))
    assert status == 2 and "no Slurm here" in said and "--local" in said, said
    assert not spied.store.root.exists()
