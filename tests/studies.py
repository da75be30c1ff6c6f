"""Running the real launcher on small grids, killing it and what it started, and comparing what comes out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import processes
from harness.store import Store

ROOT = Path(__file__).parent.parent
GRID = """
[study]
name = "tiny"
seeds = [0, 1]

[fixed]
train_images = 320
batch_size = 32
filters = 4
hidden = 16
epochs = {epochs}
schedule = "cosine"
dropout = 0.2
augment = "crop_flip"

weights = "{weights}"

[compare]
{compare}

[local]
ranks = {ranks}

[retry]
{retry}
"""


class Study:
    """A grid, its study folder, and the command that launches it."""

    def __init__(self, folder: Path, data: Path, *, epochs: int = 2, ranks: int = 1, weights: str = "none",
                 compare: str = "depth = [1, 2]", retry: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.grid = folder / "tiny.toml"
        self.grid.write_text(GRID.format(epochs=epochs, ranks=ranks, weights=weights, compare=compare, retry=retry))
        self.store = Store(folder / "study")
        self.command = [sys.executable, "-m", "harness.launch", str(self.grid), "--local", "--study-dir", str(self.store.root)]
        self.environment = {**os.environ, "HARNESS_DATA": str(data), "OMP_NUM_THREADS": "1"}

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        """The launcher, running."""
        return subprocess.Popen(self.command, cwd=ROOT, env={**self.environment, **environment}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, **environment: str) -> tuple[int, str]:
        """(exit status, output) of a launch; minus the signal when it was killed."""
        launcher = self.start(**environment)
        output, _ = launcher.communicate(timeout=900)
        return launcher.returncode, output

    def finish(self, **environment: str) -> str:
        """Gives the command again until nothing is left; it must not take a third time. Returns all that was printed."""
        said = ""
        for _ in range(3):
            status, output = self.run(**environment)
            said += output
            if status == 0:
                return said
            assert status == -signal.SIGKILL, said
        raise AssertionError(said)

    def tables(self) -> dict[str, bytes]:
        """The tables that must not show what happened on the way; predictions are only there where the job kept some."""
        return {name: path.read_bytes() for name in ("trials", "epochs", "predictions") if (path := self.store.table_file(name)).exists()}

    def attempts(self) -> dict[str, list[str]]:
        """Trial -> its attempt files."""
        return {folder.name: sorted(path.name for path in folder.glob("a*.jsonl")) for folder in (self.store.root / "trials").glob("*")}

    def finished(self) -> dict[str, list[str]]:
        """The attempts of every trial that has a result."""
        return {trial: files for trial, files in self.attempts().items() if self.store.result(trial)}

    def workers(self) -> list[int]:
        """Process ids of the workers that are alive."""
        return [claim["pid"] for batch in self.store.batches() for claim in batch.claims
                if claim and not claim.get("closed") and processes.is_alive(claim)]

    def training(self) -> list[int]:
        """Process ids of the ranks that are training."""
        found = []
        for pid in self.workers():
            try:
                found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except FileNotFoundError:
                continue
        return found

    def end_workers(self) -> None:
        """Leaves nothing running."""
        for pid in self.workers():
            kill(pid)
        while self.workers():
            time.sleep(0.1)


def kill(pid: int) -> bool:
    """`kill -9`; false when it was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
