"""A launcher that nobody keeps alive: as a job of its own, or gone while its trials go on."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from launching import ctrl_c
from slurm_fixture import Cluster, job, sbatch, until
from slurm_studies import SlurmBench
from studies import ROOT, kill

pytestmark = pytest.mark.slurm


class Detached(SlurmBench):
    """A study whose launcher is a job, and whose trials take as long as the test does not say that they may end."""

    def __init__(self, folder: Path, cluster: Cluster):
        super().__init__(folder, cluster)
        self.hold()

    def detach(self, *options: str) -> str:
        """Submits the launcher; returns the number of its job."""
        status, said = self.run("--detach", *options)
        found = re.search(r"as job (\d+);", said)
        assert status == 0 and found, said
        return found[1]

    def launchers(self) -> list[tuple[str, str]]:
        """(job id, state) of the launcher's jobs in the queue."""
        return [(number, state) for number, name, state, _ in self.queue() if "-launcher" in name]

    def running_launcher(self, *, after: int = 0) -> dict[str, Any]:
        """Who launches, once a launcher after the `after`-th runs in a job and the next one waits for its end."""
        def there() -> dict[str, Any] | None:
            who = self.store.launchers()
            states = [state for _, state in self.launchers()]
            ready = len(who) > after and who[-1]["job_id"] and sorted(states) == ["PENDING", "RUNNING"]
            return {**who[-1], "number": len(who)} if ready else None

        found: dict[str, Any] = until("a launcher that runs and another that waits", there)
        return found

    def ends(self, trials: int) -> str:
        """Lets the trials end, and waits for the end of everything; returns what the launchers said."""
        self.mended.touch()
        self.wait_for_queue()
        said = "\n".join(path.read_text() for path in sorted(self.store.submitit_folder.glob("launcher-*.log")))
        assert len(list(self.store.root.glob("trials/*/result.json"))) == trials, said
        assert self.store.table_file("trials").exists(), said
        return said


@pytest.fixture
def study(tmp_path: Path, cluster: Cluster) -> Detached:
    return Detached(tmp_path, cluster)


def test_the_shell_is_gone(study: Detached) -> None:
    """The command runs in a session of its own, of which nothing is left when it has returned; the study completes."""
    command = study.toy(seeds="[0, 1]").command("--detach", "--set", "epochs=2")
    shell = subprocess.Popen(["bash", "-c", '"$@"; exec sleep 600', "bash", *command], cwd=ROOT, env=study.environment,
                             start_new_session=True, stdout=subprocess.DEVNULL)
    study.wait_for_queue(empty=False)
    study.wait_for("trials/*/a000.jsonl")
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    said = study.ends(2)
    assert study.attempts() == 2 and study.epochs() == 4 and "[2/2] done" in said, said


def test_launchers_that_are_killed(study: Detached) -> None:
    """By scancel, by kill -9 of the process, and by kill -9 of the whole job: the next one goes on each time, and nothing runs twice."""
    study.toy(seeds="[0, 1]").add("[slurm]\nrunning = 1")
    first = study.detach()
    who = study.running_launcher()
    assert who["job_id"] == first
    study.wait_for("trials/*/a000.jsonl")  # killed before, it may leave a submission of which nobody knows what became
    assert study.cluster.run("scancel", first).returncode == 0
    who = study.running_launcher(after=who["number"])
    assert kill(who["pid"])
    who = study.running_launcher(after=who["number"])
    assert study.cluster.run("scancel", "--signal=KILL", "--full", who["job_id"]).returncode == 0
    who = study.running_launcher(after=who["number"])
    said = study.ends(2)
    assert who["number"] == 5 and study.attempts() == 2 and study.epochs() == 6 and len(study.store.batches()) == 1, said


def test_the_time_limit_and_the_preemption_of_launchers(tmp_path: Path, cluster: Cluster) -> None:
    """Two studies at once: the launcher of one is preempted and requeued, that of the other has a minute."""
    short = Detached(tmp_path / "short", cluster).site("[launcher]\ntime_min = 1")
    weak = Detached(tmp_path / "weak", cluster).site('[launcher]\npartition = "low"')
    second = weak.toy().detach()
    before = weak.running_launcher()
    weak.wait_for("trials/*/a000.jsonl")
    urgent = sbatch(cluster, "--partition=high", "--ntasks=7", "--time=1", script="sleep 1")  # of 8 CPUs, the trial has one
    first = short.toy().detach()
    short.wait_for("trials/*/a000.jsonl")
    launchers = len(short.store.launchers())
    until("the urgent job", lambda: job(cluster, urgent)["JobState"] == "COMPLETED")
    who = weak.running_launcher(after=before["number"])
    assert who["job_id"] == second and job(cluster, second)["Restarts"] == "1"  # the same job again, and not the one that waits
    said = weak.ends(1)
    assert weak.attempts() == 1 and len(weak.store.batches()) == 1, said
    until("the next launcher of the other", lambda: len(short.store.launchers()) > launchers)
    said = short.ends(1)
    assert [who["job_id"] for who in short.store.launchers()[:2]] == ["", first], said
    assert "stopped; 0 of 1 trials have a result, 1 run" in said and short.attempts() == 1 and len(short.store.batches()) == 1, said


def test_other_launchers_while_one_runs(study: Detached) -> None:
    """A second one is told who holds the study, whether attached or not, and does it no harm."""
    first = study.toy().detach()
    study.running_launcher()
    for options in ([], ["--detach"]):
        status, said = study.run(*options)
        assert status == 1 and f" in job {first} since " in said and "cancel --launcher" in said, said
    number = sbatch(study.cluster, script=f"cd {ROOT}\nexport HARNESS_DATA={study.folder} PYTHONPATH={study.folder}\n"
                                          f"{' '.join(study.command('--standby'))}")
    until("the other job's end", lambda: job(study.cluster, number)["JobState"] == "FAILED")
    said = study.ends(1)
    assert {who["job_id"] for who in study.store.launchers()} == {"", first} and study.attempts() == 1, said


def test_the_launcher_is_submitted_once(study: Detached) -> None:
    """Given twice while nothing starts, the command finds the job that waits."""
    study.cluster.run("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test")
    first = study.toy().detach()
    assert study.detach() == first and len(study.launchers()) == 2  # and its successor
    study.cluster.run("scontrol", "update", "nodename=n[1-2]", "state=resume")
    study.ends(1)
    assert len({who["job_id"] for who in study.store.launchers()} - {""}) == 1
    study.detach()  # of a study that is over: it finds nothing to do
    study.ends(1)
    assert study.attempts() == 1 and len(study.store.batches()) == 1


def test_a_launcher_that_comes_late_finds_nothing_to_do(study: Detached) -> None:
    """The study is over when the waiting one's turn comes."""
    study.toy().detach()
    who = study.running_launcher()
    (waiting,) = [number for number, state in study.launchers() if state == "PENDING"]
    study.cluster.run("scontrol", "uhold", waiting)
    study.wait_for("trials/*/a000.jsonl")  # a launcher that is gone before it has submitted anything leaves nobody who would
    study.cluster.run("scancel", who["job_id"])
    study.mended.touch()
    study.wait_for("trials/*/result.json")
    study.cluster.run("scontrol", "release", waiting)
    study.ends(1)
    assert study.attempts() == 1 and len(study.store.batches()) == 1
    assert job(study.cluster, waiting)["JobState"] == "COMPLETED"


def test_what_is_wrong_is_said_before_anything_is_submitted(study: Detached) -> None:
    study.site('[launcher]\npartition = "nowhere"').toy()
    status, said = study.run("--detach")
    assert status == 1 and "nvalid partition" in said and "[launcher]" in said and not study.queue(), said
    study.cluster.send("slurmctld", "kill")
    try:
        status, said = study.site().run("--detach")
    finally:
        study.cluster.start("slurmctld")
    assert status == 1 and "give the same command again" in said and not study.queue(), said


def test_ctrl_c_leaves_what_runs(study: Detached) -> None:
    """And says how to come back; coming back adopts it."""
    launcher = study.toy(seeds="[0, 1, 2]").add("[slurm]\nrunning = 2").hand_in()
    study.wait_for("trials/*/a000.jsonl", count=2)
    ctrl_c(launcher)
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 130 and "2 run and 1 wait in Slurm without the launcher" in said, said
    assert f"go on: python -m harness.launch {study.grid} --profile {study.profile}" in said
    assert "end them: python -m harness.cancel" in said
    assert len(study.queue()) == 3
    launcher = study.start()
    time.sleep(2)
    study.mended.touch()
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, said
    assert study.attempts() == 3 and study.epochs() == 9 and len(study.store.batches()) == 1, said
