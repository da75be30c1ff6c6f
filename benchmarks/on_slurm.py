"""The development cluster for a benchmark, a profile for it, and how often each of Slurm's commands was called."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "slurm" / "devcluster"))

from cluster import Cluster

COUNTED = ("sbatch", "squeue", "sacct", "scontrol", "sacctmgr", "scancel", "srun")
NEVER = "now+12hours"
"""When jobs may start that are only to be submitted."""
WRAPPER = """#!/bin/sh
[ "$SLURM_JOB_ID" ] || echo {name} >> {calls}
exec {real} "$@"
"""


def missing() -> str:
    """Why there can be no cluster here; "" when there can."""
    return "" if os.geteuid() == 0 else "the development cluster needs root"


@contextlib.contextmanager
def temporary_cluster(folder: Path, *, max_array_size: int) -> Iterator["Calls"]:
    """A cluster of its own for as long as the context lasts; the environment of this process is that of its user.

    Args:
        folder: where calls of Slurm's commands are noted.
    """
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="devcluster-", dir="/var/tmp")))
    before = dict(os.environ)
    try:
        cluster.up(max_array_size=max_array_size)
        calls = Calls(folder)
        environment = cluster.environment()
        os.environ.clear()
        os.environ.update(environment | {"PATH": f"{calls.folder}{os.pathsep}{environment['PATH']}"})
        yield calls
    finally:
        os.environ.clear()
        os.environ.update(before)
        cluster.down()


class Calls:
    """Counts the calls of Slurm's commands outside of jobs: programs of their names that are found first and become the real ones."""

    def __init__(self, folder: Path):
        self.folder, self._notes = folder / "counted", folder / "calls"
        self.folder.mkdir()
        for name in COUNTED:
            program = self.folder / name
            program.write_text(WRAPPER.format(name=name, calls=self._notes, real=shutil.which(name)))
            program.chmod(0o755)

    def take(self) -> Counter[str]:
        """The calls since the last time."""
        try:
            noted = Counter(self._notes.read_text().split())
            self._notes.unlink()
        except FileNotFoundError:
            return Counter()
        return noted


def profile(folder: Path, name: str, **sbatch: str) -> Path:
    """A profile of the cluster; `sbatch` are further options of its jobs."""
    path = folder / f"{name}.toml"
    more = "".join(f"{option} = \"{value}\"\n" for option, value in sbatch.items())
    path.write_text(f'partition = "main"\nsignal_s = 5\npoll_s = 1\n[sbatch]\n{more}')
    return path


def empty_queue() -> None:
    """Cancels everything and waits until nothing is left."""
    subprocess.run(["scancel", "--me"], check=True)
    until("an empty queue", queue_is_empty)


def queue_is_empty() -> bool:
    """Whether nothing waits or runs."""
    return not subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout


def until(what: str, ready: Any, *, timeout_s: float = 120) -> None:
    """Waits; raises RuntimeError when it is in vain."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.05)
