"""A real Slurm for tests marked `slurm`: ask for the fixture `cluster`, which conftest.py takes from here. It is made once for all tests,
on a folder and ports of its own, and is empty and whole at the start of each. `slurm/README.md` says what it consists of."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "slurm" / "devcluster"
sys.path.insert(0, str(FOLDER))

from cluster import DAEMONS, NODES, Cluster, ClusterError, environment_of  # noqa: E402, F401


def until(what: str, ready: Callable[[], Any], *, timeout_s: float = 180) -> Any:
    """The first true value of ready(); fails the test, which says `what` it waited for, when none comes."""
    deadline = time.monotonic() + timeout_s
    while not (value := ready()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s for: {what}")
        time.sleep(0.1)
    return value


def sbatch(cluster: Cluster, *options: str, script: str, output: Path | None = None) -> str:
    """Submits a bash script; returns the job's id."""
    done = subprocess.run(["sbatch", "--parsable", f"--output={output or '/dev/null'}", *options], input=f"#!/bin/bash\n{script}\n",
                          env=cluster.environment(), cwd="/", capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def job(cluster: Cluster, job_id: str) -> dict[str, str]:
    """What the controller says about a job: JobState, Restarts, NodeList, Reason ...; empty when it has forgotten it."""
    line = cluster.run("scontrol", "--oneliner", "show", "job", job_id).stdout
    return dict(field.partition("=")[::2] for field in line.split() if "=" in field)


def wait_for_state(cluster: Cluster, job_id: str, *states: str, timeout_s: float = 180) -> dict[str, str]:
    """Waits until a job has one of these states."""
    until(f"job {job_id} to be {' or '.join(states)}; it is {job(cluster, job_id)}",
          lambda: job(cluster, job_id).get("JobState") in states, timeout_s=timeout_s)
    return job(cluster, job_id)


def wait_for_saved_jobs(cluster: Cluster) -> None:
    """Waits until the controller has written down the jobs that it has now. It does so five seconds late (SAVE_MAX_WAIT in Slurm's
    state_save.c), and a job that it had not written yet is gone when it is killed and comes back: a fault too, but another one."""
    state, name = cluster.folder / "controller" / "job_state", f"last-{uuid.uuid4().hex}"
    sbatch(cluster, "--hold", f"--job-name={name}", script="true")  # what is written with it was there before it
    until("the controller to write its jobs down", lambda: state.exists() and name.encode() in state.read_bytes())


def kill_controller(cluster: Cluster) -> None:
    """kill -9 of the controller, once it has written down the jobs that it has now."""
    wait_for_saved_jobs(cluster)
    cluster.send("slurmctld", "kill")


def sacct(cluster: Cluster, job_id: str, field: str) -> str:
    """One field of a job's row in the accounting; empty when there is none yet (it is seconds late)."""
    return cluster.run("sacct", "-n", "-X", "-P", "-j", job_id, "-o", field).stdout.strip()


def restore(cluster: Cluster) -> None:
    """Makes the cluster empty and whole again, whatever a test did to it."""
    for daemon in cluster.daemons():
        cluster.send(daemon, "thaw")
    cluster.up()

    def empty() -> bool:
        jobs = cluster.run("squeue", "-h", "-o", "%A").stdout.split()
        if jobs:  # again and again: a launcher that is just ending may have submitted one more
            cluster.run("scancel", *sorted(set(jobs)))
        cluster.resume_nodes()  # of a step that took long to die, too
        return not jobs and set(cluster.node_states().values()) == {"idle"}

    until("no jobs and idle nodes", empty)


@contextlib.contextmanager
def temporary_cluster(**options: bool | int) -> Iterator[Cluster]:
    """A cluster of its own for as long as the context lasts; options as those of `up`."""
    if os.geteuid() != 0:
        pytest.skip("the development cluster needs root")
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="devcluster-", dir="/var/tmp")))
    try:
        try:
            cluster.up(**options)
        except ClusterError as error:
            logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in sorted(cluster.folder.glob("log/*")))
            pytest.fail(f"{error}\n{logs}")
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """The one cluster of a test run, with the options that `up` has by default. Tests ask for `cluster`."""
    with temporary_cluster() as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The cluster, without jobs and with every daemon running."""
    restore(shared_cluster)
    return shared_cluster
