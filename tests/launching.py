"""The launch command in a process of its own, and a job of one's own that can be told to misbehave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from studies import ROOT

from harness.store import Store

TOY = '''
import json, os, signal, sys, time
from jobs.contract import Interrupted, Outcome


def keep(kept, rows):
    aside = kept.with_suffix(".aside")
    aside.write_text(json.dumps(rows))
    aside.replace(kept)


def train(trial, context):
    """Counts epochs; `mode` says how it misbehaves, but not while the file "mended" lies beside this module."""
    kept = context.folder / "checkpoint-rows.pt"
    rows = json.loads(kept.read_text()) if kept.exists() else []
    config = trial.config
    mode = "fine" if os.path.exists(os.environ["TOY_MENDED"]) else config["mode"]
    while len(rows) < config["epochs"]:
        time.sleep(config["pause"])
        row = {"epoch": len(rows) + 1, "score": trial.seed + config["width"] / 8 + len(rows)}
        if mode == "raise":
            raise ValueError("told to raise")
        if mode == "too large" and context.accumulate == 1:
            raise MemoryError("told to need more")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "no epoch":
            del row["epoch"]
        if mode == "nan":
            row["score"] = float("nan")
        context.report(row)
        rows.append(row)
        if mode == "die once" and len(rows) == 2 and not (context.folder / "died").exists():
            keep(kept, rows)
            (context.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if context.stop():
            context.fence()
            keep(kept, rows)
            raise Interrupted
    if mode == "nothing":
        return None
    return Outcome(status="done", epoch=len(rows), rows=rows)
'''

TOY_GRID = """
[study]
name = "toy"
metric = "score"
seeds = {seeds}

[job]
run = "toy_job:train"
metrics = ["score"]

[fixed]
epochs = {epochs}
pause = {pause}

[compare]
width = {widths}
mode = {modes}

[local]
running = 2
"""

DIGITS_GRID = """
[study]
name = "small"

[fixed]
train_images = 64
batch_size = 32
filters = 2
hidden = 8
epochs = 2

[compare]
depth = [1, 2]

[local]
running = 1
"""


class Bench:
    """A folder with a grid and a study, and the command that launches it."""

    def __init__(self, folder: Path, data: Path):
        self.folder = folder
        self.grid = folder / "grid.toml"
        self.store = Store(folder / "study")
        self.mended = folder / "mended"
        (folder / "toy_job.py").write_text(TOY)
        self.environment = {**os.environ, "HARNESS_DATA": str(data), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder),
                            "TOY_MENDED": str(self.mended)}

    def toy(self, *, seeds: str = "[0]", epochs: int = 3, pause: float = 0.0, widths: str = "[1]", modes: str = '["fine"]') -> Self:
        """Writes a grid of the job above."""
        self.grid.write_text(TOY_GRID.format(seeds=seeds, epochs=epochs, pause=pause, widths=widths, modes=modes))
        return self

    def hold(self, those: str = "True") -> Self:
        """Makes every epoch of the toy job, where `those` is true, wait until the test touches `mended`, or the trial is told to stop."""
        held = f'{those} and not os.path.exists(os.environ["TOY_MENDED"]) and not context.stop()'
        waits = f"while {held}:\n            time.sleep(0.05)\n        row ="
        (self.folder / "toy_job.py").write_text(TOY.replace("row =", waits, 1))
        return self

    def digits(self, text: str = DIGITS_GRID) -> Self:
        """Writes a small grid of the built-in job."""
        self.grid.write_text(text)
        return self

    def command(self, *options: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "harness.launch", str(self.grid), "--local", "--study-dir", str(self.store.root), *options]

    def start(self, *options: str, **environment: str) -> "subprocess.Popen[str]":
        """The launcher, in a process group of its own as in a terminal."""
        return subprocess.Popen(self.command(*options), cwd=ROOT, env={**self.environment, **environment}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def run(self, *options: str, **environment: str) -> tuple[int, str]:
        """(exit status, all that was printed)."""
        launcher = self.start(*options, **environment)
        try:
            said, _ = launcher.communicate(timeout=240)
        finally:
            launcher.kill()
        return launcher.returncode, said

    def wait_for(self, pattern: str, *, count: int = 1, timeout_s: float = 180.0) -> None:
        """Waits until so many files of the study match, the last of them with something in it."""
        until = time.monotonic() + timeout_s
        while len([path for path in self.store.root.glob(pattern) if _size(path)]) < count:
            assert time.monotonic() < until, f"{count} x {pattern} never came"
            time.sleep(0.02)

    def wait_for_workers(self, *, timeout_s: float = 180.0) -> None:
        """Waits until the last worker on this machine has ended: one that comes late and finds nothing to do outlives the launcher."""
        until, folder = time.monotonic() + timeout_s, str(self.store.submitit_folder).encode()
        while any(folder in _cmdline(process) for process in Path("/proc").glob("[0-9]*")):
            assert time.monotonic() < until, "a worker never ended"
            time.sleep(0.05)

    def tables(self) -> dict[str, bytes]:
        """The tables that must not show what happened on the way; predictions are only there where the job kept some."""
        return {name: path.read_bytes() for name in ("trials", "epochs", "predictions") if (path := self.store.table_file(name)).exists()}

    def attempts(self) -> int:
        """How many attempts were ever begun."""
        return len(list(self.store.root.glob("trials/*/a*.jsonl")))


def _cmdline(process: Path) -> bytes:
    """What a process was started as; nothing when it has just ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _size(path: Path) -> int:
    """In bytes; 0 when it has just been removed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def ctrl_c(launcher: "subprocess.Popen[str]") -> None:
    """What a terminal does: the whole process group gets the signal."""
    os.killpg(launcher.pid, signal.SIGINT)
