"""How a trial ended, told apart on a real Slurm, and what follows from it by the grid's [retry]."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from slurm_fixture import Cluster, job, restore, until
from slurm_studies import SlurmBench
from small_disk import small_disk

pytestmark = pytest.mark.slurm

JOB = '''
import os, signal, time
from jobs import durable
from jobs.contract import Interrupted, Outcome

def train(trial, context):
    """Ends as `how` says. Where it is to be ended from outside, the first attempts wait."""
    how, attempt = trial.config["how"], len(list(context.folder.glob("a*.jsonl")))
    waits = {"cancelled": 1, "out of memory": 1, "cancelled twice": 2, "told": 99}.get(how, 0)
    if how == "raises three times":
        how, waits = ("raises", 0) if trial.seed < 3 else ("fine", 99)
    while attempt <= waits and not os.path.exists(os.environ["TOY_MENDED"]):
        time.sleep(0.1)
        if context.stop():
            raise Interrupted
    if how == "raises" and not os.path.exists(os.environ["TOY_MENDED"]):
        raise ValueError(f"seed {trial.seed} was told to raise")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "needs less" and context.accumulate == 1 or how == "needs more":
        raise MemoryError("told to need more")
    if how == "diverges":
        return Outcome(status="infeasible", reason="its loss stopped being finite")
    rows = [{"epoch": number, "score": float(trial.seed)} for number in (1, 2, 3)]
    for row in rows:
        if how == "writes":
            context.fence()
            durable.replace(context.folder / f"checkpoint-{row['epoch']}.pt", b"x" * 900_000, step="checkpoint")
        context.report(row)
    return Outcome(status="done", epoch=3, rows=rows)
'''
GRID = """
[study]
name = "causes"
metric = "score"
seeds = {seeds}
[job]
run = "faulty_job:train"
metrics = ["score"]
[compare]
how = {hows}
"""


class CauseStudy(SlurmBench):
    """A study of the job above."""

    def __init__(self, folder: Path, cluster: Cluster, *hows: str, seeds: int = 1, sections: str = ""):
        super().__init__(folder, cluster)
        (folder / "faulty_job.py").write_text(JOB)
        self.grid.write_text(GRID.format(seeds=list(range(seeds)), hows=str(list(hows)).replace("'", '"')) + sections)

    def trial(self, how: str, seed: int = 0) -> str:
        """The trial that ends so."""
        return next(trial.id for trial in self.store.trials() if (trial.config["how"], trial.seed) == (how, seed))

    def job_of(self, how: str, attempt: int = 0) -> str:
        """The job in which an attempt began, once it has."""
        until(f"attempt {attempt} of {how}", lambda: self.store.root.exists() and self.store.trials()
              and any(event["event"] == "start" for events in list(self.store.attempts(self.trial(how)))[attempt:] for event in events))
        return str(list(self.store.attempts(self.trial(how)))[attempt][0]["job_id"])

    def rows(self, table: str) -> dict[str, list[dict[str, Any]]]:
        """`how` -> rows of a table."""
        names = {trial.id: trial.config["how"] for trial in self.store.trials()}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
        for row in pq.read_table(self.store.table_file(table)).to_pylist():
            found[names[row["trial_id"]]].append(row)
        return found

    def causes(self) -> dict[str, list[str]]:
        """`how` -> how its attempts ended."""
        return {how: [row["cause"] for row in rows] for how, rows in self.rows("attempts").items()}

    def status(self) -> dict[str, str]:
        """`how` -> what became of its trial."""
        return {how: rows[0]["status"] for how, rows in self.rows("trials").items()}


def out_of_memory(cluster: Cluster, job_id: str) -> None:
    """Tells the controller what a node tells it when the kernel has ended a job for want of memory: exit status 253 (SIG_OOM of Slurm's
    source). Here no control group would notice."""
    library = next(iter(Path("/usr/lib").glob("*/slurm-wlm/libslurmfull.so")), None)
    if library is None:
        pytest.skip("Slurm's own library is not where Debian puts it")
    code = (f"import ctypes\nslurm = ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)\nslurm.slurm_init(None)\n"
            f"raise SystemExit(slurm.slurm_complete_job(ctypes.c_uint32({job(cluster, job_id)['JobId']}), ctypes.c_uint32(253)))")
    assert cluster.run("python3", "-c", code).returncode == 0
    assert job(cluster, job_id)["JobState"] in ("OUT_OF_MEMORY", "COMPLETING")


@pytest.fixture(scope="module")
def quiet(shared_cluster: Cluster) -> Cluster:
    """The cluster, which these tests share with each other: their studies do not disturb one another."""
    restore(shared_cluster)
    return shared_cluster


# --------------------------------------------------------------------------------------------------------- one trial for each cause


@pytest.fixture(scope="module")
def ended(quiet: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[CauseStudy, str]:
    """A study whose trials end in different ways, and what its launcher said."""
    study = CauseStudy(tmp_path_factory.mktemp("ended"), quiet, "cancelled", "cancelled twice", "out of memory", "fine", "raises", "killed",
                       "needs less", "needs more", "diverges", sections="[retry]\nkilled = 1\ncancelled = 1\n")
    launcher = study.start()
    for how in ("cancelled", "cancelled twice"):
        quiet.run("scancel", study.job_of(how))
    out_of_memory(quiet, study.job_of("out of memory"))
    quiet.run("scancel", study.job_of("cancelled twice", attempt=1))
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1, said
    return study, said


@pytest.mark.parametrize("how, causes, status", [
    ("fine", ["done"], "done"),
    ("diverges", ["infeasible"], "infeasible"),
    ("raises", ["exception"], "failed"),
    ("killed", ["killed", "killed"], "lost"),
    ("needs less", ["out_of_memory", "done"], "done"),
    ("needs more", ["out_of_memory", "out_of_memory"], "failed"),
    ("out of memory", ["out_of_memory", "done"], "done"),
    ("cancelled", ["cancelled", "done"], "done"),
    ("cancelled twice", ["cancelled", "cancelled"], "lost"),
])
def test_each_cause_has_its_name_and_its_policy(ended: tuple[CauseStudy, str], how: str, causes: list[str], status: str) -> None:
    study, said = ended
    assert study.causes()[how] == causes, said
    assert study.status()[how] == status


def test_the_launch_says_what_failed_and_why(ended: tuple[CauseStudy, str]) -> None:
    study, said = ended
    for how, reason in (("raises", "ValueError: seed 0 was told to raise"), ("needs more", "MemoryError: told to need more"),
                        ("killed", "signal SIGKILL"), ("cancelled twice", "cancelled")):
        line = next(line for line in said.splitlines() if study.trial(how) in line and "failed" in line or "lost" in line
                    and study.trial(how) in line)
        assert reason in line
    assert "--retry" in said.splitlines()[-1]


def test_memory_is_sought_in_smaller_pieces(ended: tuple[CauseStudy, str]) -> None:
    study, _ = ended
    for how in ("needs less", "needs more", "out of memory"):
        assert [events[0]["accumulate"] for events in study.store.attempts(study.trial(how))] == [1, 2]


def test_a_trial_that_gets_nowhere_in_its_time_is_given_up(quiet: Cluster, tmp_path: Path) -> None:
    """Slurm may give the warning up to a minute early: in a job of one minute, at once. It is tried once more, as the default is."""
    study = CauseStudy(tmp_path, quiet, "told", sections="[slurm]\ntime_min = 1\n")
    launcher = study.start()
    for attempt in (0, 1):
        quiet.run("scancel", "--batch", "--signal=USR2", study.job_of("told", attempt))
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1 and "time_limit" in said, said
    assert (study.causes(), study.status()) == ({"told": ["time_limit", "time_limit"]}, {"told": "failed"})


def test_a_loss_that_is_not_finite_is_a_result(quiet: Cluster, tmp_path: Path, data: Path) -> None:
    """Of the built-in training, with a learning rate no network survives."""
    study = SlurmBench(tmp_path, quiet, data).digits("""
[study]
name = "diverges"
seeds = [0]
[fixed]
dataset = "digits"
train_images = 64
batch_size = 32
filters = 2
hidden = 8
depth = 1
epochs = 3
lr = 1e30
""")
    said = study.finish()
    (row,) = pq.read_table(study.store.table_file("trials")).to_pylist()
    assert (row["status"], study.attempts()) == ("infeasible", 1), said
    assert "finite" in row["reason"]


# ---------------------------------------------------------------------------------------------------- jobs that never come to train


def test_a_waiting_job_is_cancelled_as_often_as_the_grid_allows(quiet: Cluster, tmp_path: Path) -> None:
    """It is submitted anew, and then taken for unwanted. `--retry` wants it again."""
    study = CauseStudy(tmp_path, quiet, "fine", sections='[retry]\ncancelled = 1\n')
    study.site('[sbatch]\nbegin = "now+1hour"')
    launcher = study.start()
    for batch in (0, 1):
        study.wait_for(f"submit/{batch:03d}.job.json")
        quiet.run("scancel", str(study.store.batches()[batch].job_id))
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1 and "cancelled in the queue more than 1 times" in said, said
    assert (study.status()["fine"], study.attempts(), len(study.store.batches())) == ("cancelled", 0, 2)
    study.site().finish("--retry")


@pytest.mark.parametrize("site, complaint", [
    ('setup = ["echo loading modules", "module load cuda/12.4"]', "module"),
    ('python = "/nowhere/bin/python"', "/nowhere/bin/python"),
    ('python = "/usr/bin/python3"\nsetup = ["export PYTHONPATH=/nowhere"]', "No module named"),
])
def test_a_job_that_cannot_begin_ends_the_launch(quiet: Cluster, tmp_path: Path, data: Path, site: str, complaint: str) -> None:
    """After `launch_failure` + 1 starts, with what the job printed and what to do."""
    study = SlurmBench(tmp_path, quiet, data).digits().site(site).add("[retry]\nlaunch_failure = 1\n[slurm]\ntrials_per_job = 2\n")
    status, said = study.run()
    assert status == 1 and "Traceback" not in said.partition("the last one said")[0], said
    assert complaint in said and "`setup` and `python` in the profile" in said and "--preflight" in said
    assert len(study.store.batches()) == 2 and study.attempts() == 0
    assert not study.queue()


# -------------------------------------------------------------------------------------------------------------- many that fail alike


def test_of_many_of_a_kind_one_goes_first_and_the_breaker_ends_it(quiet: Cluster, tmp_path: Path) -> None:
    """Twelve that all raise: never more than one is begun at a time, and three are enough."""
    study = CauseStudy(tmp_path, quiet, "raises", seeds=12)
    status, said = study.run()
    assert status == 1 and "3 trials died of the same error" in said, said
    rows = sorted(study.rows("attempts")["raises"], key=lambda row: row["started"])
    assert len(rows) == 3 and [batch.trials_of(0) for batch in study.store.batches()] == [batch.trials for batch in study.store.batches()]
    assert all(before["ended"] <= after["started"] for before, after in itertools.pairwise(rows))
    assert not study.queue()


def test_one_is_enough_where_the_grid_says_so(quiet: Cluster, tmp_path: Path) -> None:
    study = CauseStudy(tmp_path, quiet, "raises", seeds=12, sections="[retry]\nbreaker = 1\n")
    status, said = study.run()
    assert status == 1 and said.count("died of the same error") == 1, said
    assert study.attempts() == 1


def test_the_breaker_takes_back_what_waits(quiet: Cluster, tmp_path: Path) -> None:
    """Three of twelve raise while others run; what waits is withdrawn, what runs goes on; mended, the same study comes to its end."""
    study = CauseStudy(tmp_path, quiet, "raises three times", seeds=12, sections="[retry]\ncanary = 0\n[slurm]\nrunning = 3\n")
    status, said = study.run()
    assert status == 1 and said.count("3 trials died of the same error") == 1, said
    assert "ValueError: seed" in said and "faulty_job.py" in said and ".log" in said and "--retry" in said
    assert 3 <= study.attempts() <= 6
    assert {state for _, _, state, _ in study.queue()} <= {"RUNNING"}
    study.mended.touch()
    study.finish("--retry")
    assert set(study.status().values()) == {"done"}


# ------------------------------------------------------------------------------------------------------------------------ disk full


def test_a_full_disk_stops_the_launch_and_loses_nothing(quiet: Cluster, tmp_path: Path) -> None:
    """While a checkpoint is written on the node; with room again the same command goes on."""
    with small_disk(tmp_path / "small", size_kb=6144) as folder:
        study = CauseStudy(folder, quiet, "writes", seeds=3, sections="[slurm]\nrunning = 1\n")
        filler = folder / "filler"
        filler.write_bytes(b"x" * 3_400_000)
        status, said = study.run()
        assert status == 1 and "no space left" in said and "free some space and give the same command again" in said, said
        assert {events[-1]["cause"] for trial in study.store.trials() for events in study.store.attempts(trial.id)} == {"disk_full"}
        filler.unlink()
        study.finish()
        study.wait_for_queue()


def test_a_disk_without_a_byte_left(quiet: Cluster, tmp_path: Path) -> None:
    """Workers can neither take their place nor say anything, and the launcher cannot close it either."""
    with small_disk(tmp_path / "small", size_kb=6144) as folder:
        study = CauseStudy(folder, quiet, "fine", seeds=4, sections="[slurm]\nrunning = 1\n")
        launcher = study.start()
        study.wait_for("trials/*/result.json")
        with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(b"x" * 1024)
        said, _ = launcher.communicate(timeout=240)
        assert launcher.returncode == 1 and "no space left" in said and "nothing that was finished is lost" in said, said
        before = {path: path.read_bytes() for path in study.store.root.glob("trials/*/result.json")}
        study.wait_for_queue()
        (folder / "filler").unlink()
        study.finish()
        assert {row["status"] for row in study.rows("trials")["fine"]} == {"done"}
        assert before and all(path.read_bytes() == text for path, text in before.items())
        study.wait_for_queue()
