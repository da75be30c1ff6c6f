"""Studies on the development cluster: the launch command in a process of its own, and what Slurm says of its jobs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from launching import Bench
from slurm_fixture import Cluster, until

from harness.processes import is_alive


class SlurmBench(Bench):
    """A grid, a profile and a study folder, and the command that launches the study on a cluster.

    `environment` is what the command is started with, `profile` the file of the site's profile, `before` what stands between the
    interpreter's name and the command's options: ["-m", "harness.launch"] unless a test puts its own script there.
    """

    def __init__(self, folder: Path, cluster: Cluster, data: Path | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, data or folder / "data")
        self.cluster = cluster
        self.environment |= {"SLURM_CONF": str(cluster.slurm_conf), "XDG_CONFIG_HOME": str(folder / "config")}
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
            del self.environment[name]
        self.before = ["-m", "harness.launch"]
        self.profile = folder / "site.toml"
        self.site()

    def site(self, text: str = "", *, partition: str = "main", signal_s: int = 10) -> "SlurmBench":
        """Writes the profile; `text` goes below its keys."""
        self.profile.write_text(f'partition = "{partition}"\nsignal_s = {signal_s}\npoll_s = 1\n{text}\n')
        return self

    def add(self, text: str) -> "SlurmBench":
        """Adds sections to the grid: [slurm], [retry], [limits]."""
        with self.grid.open("a") as file:
            file.write(f"\n{text}\n")
        return self

    def command(self, *options: str) -> list[str]:
        """The command line."""
        return [sys.executable, *self.before, str(self.grid), "--profile", str(self.profile), "--study-dir", str(self.store.root), *options]

    def finish(self, *options: str, **environment: str) -> str:
        """Launches; every trial must have a result afterwards. Returns what was said."""
        status, said = self.run(*options, **environment)
        assert status == 0, said
        return said

    # --- what Slurm says ---------------------------------------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """What the names of the study's jobs begin with."""
        return f"h-{self.store.environment()['nonce'][:12]}-"

    def queue(self) -> list[tuple[str, str, str, str]]:
        """(job id, name, state, reason) of the study's jobs that are not over, one row for each element of an array."""
        said = self.cluster.run("squeue", "--noheader", "--array", "--format=%i|%j|%T|%r").stdout
        rows = [line.split("|") for line in said.splitlines()]
        return [(row[0], row[1], row[2], row[3]) for row in rows if row[1].startswith(self.prefix) and row[2] != "COMPLETING"]

    def submissions(self) -> dict[str, set[str]]:
        """Job name -> the numbers of all jobs that ever had it; more than one means that a batch was submitted twice. Needs accounting."""
        said = self.cluster.run("sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--starttime=now-1days",
                                "--duplicates", "--format=JobName,JobID").stdout
        found: dict[str, set[str]] = {}
        for name, job_id in (line.split("|") for line in said.splitlines()):
            if name.startswith(self.prefix):
                found.setdefault(name, set()).add(job_id.partition("_")[0])
        return found

    # --- what runs ---------------------------------------------------------------------------------------------------------------

    def claims(self) -> list[dict[str, Any]]:
        """Who took a place in a batch, in the order of batches and places."""
        return [claim for batch in self.store.batches() for claim in batch.claims if claim and not claim.get("closed")]

    def workers(self) -> list[int]:
        """Process ids of the workers that are alive (all nodes are on this machine)."""
        return [claim["pid"] for claim in self.claims() if is_alive(claim)]

    def epochs(self) -> int:
        """How many epochs all attempts have told of."""
        return sum(path.read_text().count('"event":"epoch"') for path in self.store.root.glob("trials/*/a*.jsonl"))

    def wait_for_queue(self, empty: bool = True, *, timeout_s: float = 180) -> None:
        """Waits until none (or one) of the study's jobs is in the queue."""
        until(f"{'no job' if empty else 'a job'} of the study in the queue", lambda: bool(self.queue()) != empty, timeout_s=timeout_s)

    def hand_in(self, *options: str, **environment: str) -> "subprocess.Popen[str]":
        """Starts a launcher and waits until its first batch is in the queue."""
        launcher = self.start(*options, **environment)
        self.wait_for("submit/*.job.json")
        return launcher


def leave(launcher: "subprocess.Popen[str]", number: int = signal.SIGKILL) -> str:
    """Ends a launcher; returns what it said."""
    if launcher.poll() is None:
        os.kill(launcher.pid, number)
    return launcher.communicate(timeout=180)[0]
