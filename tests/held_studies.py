"""Studies of the built-in training on Slurm that wait for something to happen to them before they come to their end."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from launching import Bench
from slurm_fixture import Cluster, job, until
from slurm_studies import SlurmBench

EPOCHS, STEPS = 30, 10
REST_S = 0.1
JOB = f'''
import dataclasses, multiprocessing, os, subprocess, time
from jobs import train as built_in

def load(parent):
    """What processes that load data do: they live as long as their parent."""
    while os.getppid() == parent:
        time.sleep(0.2)

def train(trial, context):
    """The built-in training, which leaves a byte in the file `steps` for each step, and has children. The first attempt rests after every
    step, and does not get to its end, until the file TRAIN_GO is there."""
    multiprocessing.get_context("fork").Process(target=load, args=(os.getpid(),), daemon=True).start()
    if context.ranks == 1 and trial.seed != 1:  # elsewhere ending it is left to Slurm, which cannot in this cluster without control groups
        subprocess.Popen(["sleep", "600"])
    made = os.open(context.folder / "steps", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    go, left = os.environ["TRAIN_GO"], {EPOCHS * STEPS - 20}
    free = context.rank > 0 or any(context.folder.glob("checkpoint-*.pt"))

    def stop():
        nonlocal left
        left -= 1
        if context.rank == 0:
            os.write(made, b".")
        while not free and not os.path.exists(go):
            time.sleep({REST_S})
            if left > 0 or context.stop():
                break
        return context.stop()

    return built_in.run(trial, dataclasses.replace(context, stop=stop))
'''
GRID = f"""
[study]
name = "small"
metric = "val_acc"
seeds = {{seeds}}

[job]
run = "held_training:train"
metrics = ["train_loss", "train_acc", "val_loss", "val_acc", "lr"]

[fixed]
dataset = "digits"
train_images = 320
batch_size = 32
filters = 4
hidden = 16
depth = 1
epochs = {EPOCHS}
dropout = 0.2
augment = "crop_flip"
schedule = "cosine"
"""


def write_study(bench: Bench, *, seeds: int = 1, sections: str = "") -> None:
    """The grid and its job, which waits for `bench.folder / "go"`."""
    bench.grid.write_text(GRID.format(seeds=list(range(seeds))) + sections)
    (bench.folder / "held_training.py").write_text(JOB)
    bench.environment["TRAIN_GO"] = str(bench.folder / "go")


class HeldStudy(SlurmBench):
    """A study of the built-in training whose first attempts are held, and its launcher."""

    def __init__(self, folder: Path, cluster: Cluster, data: Path, *, seeds: int = 1, slurm: str = "", site: str = "",
                 partition: str = "main"):
        super().__init__(folder, cluster, data)
        write_study(self, seeds=seeds, sections=f"[slurm]\n{slurm}\n")
        self.site(site, partition=partition)
        self.trials = seeds
        self.restarts: list[int] = []
        """How often Slurm started the job of the first attempt at each trial again; known at the end."""
        self.launcher = self.start()

    def wait_until(self, what: str, pattern: str) -> None:
        """Waits for a file of every trial, while the launcher lives."""
        def there() -> bool:
            assert self.launcher.poll() is None, self.launcher.communicate()[0]
            return len(list(self.store.root.glob(pattern))) >= self.trials

        until(f"{what} in {self.store.root}", there, timeout_s=240)

    def wait_for_progress(self) -> None:
        """Waits until every trial has a checkpoint of the third epoch or later."""
        self.wait_until("a checkpoint of every trial", "trials/*/checkpoint-0000[0-2][2-9]-*.pt")

    def let_go(self) -> None:
        """From now on first attempts train as fast as they can too, and come to their end."""
        (self.folder / "go").touch()

    def end(self) -> None:
        """Waits until the launcher has finished the study."""
        said, _ = self.launcher.communicate(timeout=240)
        assert self.launcher.returncode == 0, said
        self.restarts = [int(job(self.cluster, self.job(seed)).get("Restarts", -1)) for seed in range(self.trials)]

    def trial(self, seed: int = 0) -> str:
        """The trial with a seed."""
        return next(trial.id for trial in self.store.trials() if trial.seed == seed)

    def job(self, seed: int = 0) -> str:
        """The job in which the first attempt at a trial ran."""
        return str(self.events(seed)[0][0]["job_id"])

    def events(self, seed: int = 0) -> list[list[dict[str, Any]]]:
        """What the worker wrote of each attempt at a trial; every line of it, whole."""
        folder = self.store.trial_folder(self.trial(seed))
        return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("a*.jsonl"))]

    def attempts(self, seed: int = 0) -> list[dict[str, Any]]:  # type: ignore[override]
        """The rows of attempts.parquet of a trial."""
        rows = pq.read_table(self.store.table_file("attempts")).to_pylist()
        return [row for row in rows if row["trial_id"] == self.trial(seed)]

    def causes(self, seed: int = 0) -> list[str]:
        """How the attempts at a trial ended."""
        return [row["cause"] for row in self.attempts(seed)]

    def steps(self, seed: int = 0) -> int:
        """Steps that were trained in all attempts at a trial: 11 in an epoch, because the end of it counts for one."""
        return (self.store.trial_folder(self.trial(seed)) / "steps").stat().st_size

    def processes(self) -> list[int]:
        """Living processes of the study's jobs, wherever they were started from."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.store.root / "code").encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                    found.append(int(process.name))
        return found


Tables = dict[tuple[int, int], dict[str, bytes]]
ALL_STEPS = EPOCHS * (STEPS + 1)


def check_no_step_was_lost(study: HeldStudy, seed: int = 0) -> None:
    """The progress was kept at the step at which the signal came: no step was trained twice, and each attempt wrote one end."""
    assert study.steps(seed) == ALL_STEPS
    for events in study.events(seed):
        assert [event["event"] for event in events].count("end") == 1
        assert events[-1]["event"] == "end"


def check_went_on(study: HeldStudy, seed: int = 0) -> None:
    """The last attempt began with a checkpoint: those are written every second."""
    assert study.attempts(seed)[-1]["first_epoch"] > 1
    assert study.steps(seed) >= ALL_STEPS


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid: int) -> dict[str, str]:
    """What a process was started with; empty when it has ended."""
    with contextlib.suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    return {}
