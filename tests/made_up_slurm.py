"""Programs in place of Slurm's commands that print recorded texts: for what a real Slurm cannot be made to say at will. Everything else is
tested on the development cluster."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from harness.grid import Slurm
from harness.plan import Batch
from harness.profile import Profile
from harness.slurm_executor import SlurmExecutor
from harness.store import Store

NONCE = "0123456789abcdef"
NAME = "h-0123456789ab-000"
"""The name of the first batch's array."""
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


class MadeUpSlurm:
    """A folder of programs, the only ones on the PATH. A command that was not given anything to say is not there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder / "slurm"
        (self.folder / "bin").mkdir(parents=True)
        monkeypatch.setenv("PATH", str(self.folder / "bin"))

    def says(self, name: str, out: str | bytes = "", *, complaint: str = "", status: int = 0) -> None:
        """Makes a command print something and end; one with a file as its first argument (a job script) keeps a copy of it."""
        (self.folder / f"{name}.out").write_bytes(out if isinstance(out, bytes) else out.encode())
        (self.folder / f"{name}.err").write_text(complaint)
        self.runs(name, f'printf "%s\\n" "$*" >> {self.folder}/{name}.calls\n/bin/cat {self.folder}/{name}.out\n'
                        f'/bin/cat {self.folder}/{name}.err >&2\n[ -f "$1" ] && /bin/cp "$1" {self.folder}/{name}.script\nexit {status}')

    def runs(self, name: str, script: str) -> None:
        """Makes a command of shell lines."""
        program = self.folder / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """The arguments with which a command was called, oldest first."""
        told = self.folder / f"{name}.calls"
        return told.read_text().splitlines() if told.exists() else []

    def script(self) -> str:
        """The job script that was submitted last."""
        return (self.folder / "sbatch.script").read_text()


class Site:
    """A cluster of made-up commands, a study on it, and a clock."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, study: str = "study"):
        self.slurm = MadeUpSlurm(folder, monkeypatch)
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(random, "uniform", lambda low, high: 1.0)
        self.store = Store(folder / study)
        self.store.create_folders()
        self.store.write_environment({"nonce": NONCE})
        self.limits()
        self.listed()
        self.slurm.says("sacct")
        self.slurm.says("sbatch", "Submitted batch job 7\n")
        self.slurm.says("scancel")
        self.slurm.says("srun")  # submitit wants to see it

    def limits(self, *, longest: int | None = 1000, most: int = 0) -> None:
        """MaxArraySize and MaxSubmitJobs."""
        self.slurm.says("scontrol", f"MaxArraySize = {longest}\n" if longest else "SLURM_VERSION = 22.05.8\n")
        self.slurm.says("sacctmgr", f"{most or ''}\n")

    def listed(self, *elements: str) -> None:
        """What squeue lists: "place STATE", of the study's first batch, or a whole line."""
        lines = [line if "|" in line else "7|{}|{}|n1|0:05|Priority|{}".format(*line.split(maxsplit=1), NAME) for line in elements]
        self.slurm.says("squeue", "".join(f"{line}\n" for line in lines))

    def executor(self, profile: Profile | None = None, **resources: int) -> SlurmExecutor:
        return SlurmExecutor(self.store, Slurm(**resources), profile or Profile(poll_s=1))

    def asked(self, executor: SlurmExecutor, *batches: Batch, after_s: float = 100.0) -> set[str]:
        """The workers that are alive by the answer to a question so much later."""
        self.now += after_s
        return executor.alive(list(batches))

    def written(self, *, number: int = 0, workers: int = 2, job_id: str | None = "7",
                claims: dict[int, dict[str, Any]] | None = None) -> Batch:
        """A batch that is on disk, with the places that were taken in it."""
        self.store.write_batch(Batch(number=number, workers=workers, share=1, trials=trials(workers), settings={
            "executor": "slurm", "parallelism": workers, "code": "d0"}))
        if job_id:
            self.store.submitted(number, job_id)
        for place, who in (claims or {}).items():
            self.store.claim_place(number, place, who)
        return next(batch for batch in Store(self.store.root).batches() if batch.number == number)


def trials(count: int) -> list[tuple[str, int]]:
    """Trials with the attempts to make."""
    return [(f"t{n}", n % 3) for n in range(count)]
