"""Every template of slurm/ is submitted to a real Slurm, from a folder that is not the repository's, and whose path is hostile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_fixture import Cluster, job, until, wait_for_state
from studies import ROOT

from harness.store import Store
from jobs.config import Config

pytestmark = pytest.mark.slurm

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
SMALL = {**Config().as_dict(), "train_images": 320, "batch_size": 32, "filters": 4, "hidden": 16, "epochs": 2}
GRID = """
[study]
name = "few"
seeds = [0, 1, 2]
[fixed]
train_images = 640
batch_size = 32
filters = 4
hidden = 16
epochs = {epochs}
[local]
running = 2
"""


class Site:
    """A user's folder, and the repository somewhere else."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path):
        self.cluster, self.data = cluster, data
        self.home, self.repository = folder / "a user's home", folder / "it's \"the\" $HOME; repository"
        self.home.mkdir()
        self.repository.mkdir()
        for name in ("harness", "jobs", "analysis", "slurm"):
            (self.repository / name).symlink_to(ROOT / name)
        (self.repository / ".venv").symlink_to(sys.prefix)

    def submit(self, template: str, *arguments: str, options: tuple[str, ...] = (), **environment: str) -> str:
        """Submits one; returns the job's number."""
        done = subprocess.run(["sbatch", "--parsable", "--output=log-%x-%j", f"--job-name={Path(template).stem}", *options,
                               template if "/" in template else str(self.repository / "slurm" / template), *arguments],
                              env={**self.cluster.environment(), "HARNESS_DATA": str(self.data), **environment}, cwd=self.home,
                              capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self, job_id: str) -> str:
        """What a job printed."""
        return "".join(path.read_text(errors="replace") for path in self.home.glob(f"log-*-{job_id}"))

    def finish(self, job_id: str, state: str = "COMPLETED") -> str:
        """Waits for a job's end; returns what it printed."""
        wait_for_state(self.cluster, job_id, *FINAL, timeout_s=300)
        assert job(self.cluster, job_id)["JobState"] == state, self.log(job_id)
        return self.log(job_id)


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path, data: Path) -> Site:
    return Site(cluster, tmp_path, data)


def write_config(path: Path, **values: object) -> Path:
    """A file for jobs.train."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": {**SMALL, **values}, "seed": 1}))
    return path


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())


def test_every_template_is_tried() -> None:
    text = Path(__file__).read_text()
    for path in (ROOT / "slurm").glob("*.sbatch"):
        assert f'"{path.name}"' in text, f"no test submits {path.name}"
        assert "#SBATCH --time" in path.read_text() and f"slurm/{path.name}" in path.read_text().partition("#SBATCH")[0]


def test_one_trial_on_one_node_and_on_two(site: Site) -> None:
    """Two ranks each: the numbers are the same, to the last bit."""
    write_config(site.home / "my config.json")
    two = site.submit("train_two_nodes.sbatch", "my config.json", "--out", "over two")
    one = site.submit("train_one_node.sbatch", "my config.json", "--out", "on one", options=("--gpus-per-node=2",))
    assert "done  epoch" in site.finish(two) and "done  epoch" in site.finish(one)
    assert job(site.cluster, two)["NodeList"] == "n[1-2]"
    found = result(site.home / "over two")
    assert found["status"] == "done" and len(found["rows"]) == 2 and found == result(site.home / "on one")  # type: ignore[arg-type]


def test_a_rank_that_dies_ends_the_others(site: Site) -> None:
    """Rank 0 is frozen and cannot notice that rank 1 is gone: the job would go on to its time limit."""
    write_config(site.home / "c.json", epochs=1000)
    job_id = site.submit("train_two_nodes.sbatch", "c.json")
    until("the second epoch", lambda: site.log(job_id).count("epoch") > 2)
    (first,), (second,) = (ranks(job_id, rank) for rank in (0, 1))
    os.kill(first, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    site.finish(job_id, "FAILED")


def ranks(job_id: str, rank: int) -> list[int]:
    """The processes of a job that were started as this rank."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if {f"RANK={rank}".encode(), f"SLURM_JOB_ID={job_id}".encode()} <= set((process / "environ").read_bytes().split(b"\0")):
                found.append(int(process.name))
    return found


def test_an_array_over_configs(site: Site) -> None:
    for name in ("b", "a"):
        write_config(site.home / "trials" / f"trial {name}" / "config.json", epochs=1)
    write_config(site.home / "x y.json", epochs=1)
    (site.home / "list.txt").write_text("x y.json\n")
    whole = site.submit("array.sbatch", "trials", options=("--array=0-2", "--gpus-per-node=0", "--output=log-%x-%A_%a"))
    listed = site.submit("array.sbatch", "list.txt", "--cpu", options=("--array=0", "--output=log-%x-%A_%a"), RESULTS="else where")
    until("their end", lambda: not site.cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING").stdout)
    assert site.log(f"{whole}_0").startswith("trials/trial a/config.json") and "done  epoch 1" in site.log(f"{whole}_0")
    assert "trials has 2 configs, numbered from 0; there is no number 2" in site.log(f"{whole}_2")
    folders = ["results/trial a", "results/trial b", "else where/x y"]
    assert [result(site.home / folder)["status"] for folder in folders] == ["done"] * 3, site.log(f"{listed}_0")
    again = site.submit("array.sbatch", "trials", options=("--array=1", "--output=log-%x-%A_%a"))
    wait_for_state(site.cluster, again, *FINAL)
    assert site.log(f"{again}_1") == "trials/trial b/config.json is finished\n"


def test_staging_and_a_copy_of_a_template(site: Site, tmp_path: Path) -> None:
    (site.home / "my grid.toml").write_text(GRID.format(epochs=1))
    (site.home / "stage.sbatch").write_text((ROOT / "slurm" / "stage.sbatch").read_text())
    lost = site.submit("./stage.sbatch", "my grid.toml")
    found = site.submit("./stage.sbatch", "my grid.toml", HARNESS=str(site.repository), HARNESS_DATA=str(tmp_path / "new data"))
    plain = site.submit("stage.sbatch", "my grid.toml", "--data", "here")
    assert "stage.sbatch: set HARNESS to the folder of the repository" in site.finish(lost, "FAILED")
    assert "digits" in site.finish(found) and list((tmp_path / "new data").rglob("meta.json"))
    assert "digits" in site.finish(plain) and list((site.home / "here").rglob("meta.json"))


def test_the_launcher_comes_back_until_the_study_is_over(site: Site) -> None:
    """Its time limit comes, then its process is killed; the analysis waits for it."""
    (site.home / "few.toml").write_text(GRID.format(epochs=25))
    launcher = site.submit("launcher.sbatch", "few.toml", "--local", "--study-dir", "the study", options=("--nodelist=n1",))
    analysis = site.submit("analysis.sbatch", "the study", options=(f"--dependency=afterany:{launcher}",))
    store = Store(site.home / "the study")

    def results() -> int:
        return len(list(store.root.glob("trials/*/result.json")))

    until("an epoch", lambda: any('"epoch"' in path.read_text() for path in store.root.glob("trials/*/a*.jsonl")))
    site.cluster.run("scancel", "--signal=USR2", "--batch", launcher)  # as Slurm does before the time limit
    until("it to be back", lambda: job(site.cluster, launcher).get("Restarts") == "1"
          and job(site.cluster, launcher)["JobState"] == "RUNNING")
    assert results() < 3 and "stopped; " in site.log(launcher)
    process = until("its process", lambda: store.launchers()[1:] and store.launchers()[-1]["pid"])
    os.kill(process, signal.SIGKILL)
    text = site.finish(launcher)
    assert job(site.cluster, launcher)["Restarts"] == "2" and text.count("the launcher goes back into the queue") == 2
    assert results() == 3 and (store.root / "trials.parquet").exists()
    assert "figures" in site.finish(analysis) and list((store.root / "figures").glob("*.pdf"))


def test_a_launcher_that_is_cancelled_leaves_its_jobs(site: Site) -> None:
    """On Slurm, and with a profile of the repository."""
    (site.home / "few.toml").write_text(GRID.format(epochs=5))
    launcher = site.submit("launcher.sbatch", "few.toml", "--profile", "devcluster", "--study-dir", "study")
    until("a trial", lambda: list((site.home / "study").glob("trials/*/a000.jsonl")))
    site.cluster.run("scancel", launcher)
    wait_for_state(site.cluster, launcher, "CANCELLED")
    assert "goes back" not in site.log(launcher) and job(site.cluster, launcher)["Restarts"] == "0"
    until("its trials' results", lambda: len(list((site.home / "study").glob("trials/*/result.json"))) == 3)
    until("an empty queue", lambda: not site.cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING").stdout)
