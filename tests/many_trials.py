"""A job that several trials can be trained with as one program, and workers that take trials of it as on a node, without a launcher.

GPUs are pretended: the job opens none. A gate, which is a file that a test makes, holds a trial in its last epoch.
"""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

from disk_study import DiskStudy
from launching import Bench
from studies import ROOT

from harness.trials import request_of

TOY = '''
import json, os, signal, time
from pathlib import Path
from jobs.contract import Interrupted, Outcome

HERE = Path(os.environ["MANY_NOTES"])


def note(what):
    """One line for the test, with the process that wrote it."""
    with (HERE / "notes").open("a") as file:
        file.write(f"{what} {os.getpid()}\\n")


def load(context):
    kept = context.folder / "checkpoint-rows.pt"
    return json.loads(kept.read_text()) if kept.exists() else []


def keep(context, rows):
    context.fence()
    (context.folder / "aside").write_text(json.dumps(rows))
    (context.folder / "aside").replace(context.folder / "checkpoint-rows.pt")


def epochs_of(trial):
    return trial.config["epochs"] - (trial.config["mode"] == "short")


def step(trial, context, rows):
    """One epoch; waits before its last one while its gate is shut, unless it is told to stop."""
    mode = trial.config["mode"]
    while len(rows) == epochs_of(trial) - 1 and (HERE / f"shut-{mode}").exists() and not context.stop():
        time.sleep(0.01)
    row = {"epoch": len(rows) + 1, "score": trial.seed + trial.config["width"] / 8 + len(rows)}
    rows.append(row)
    context.report({**row, "seconds": 0.5, "images_per_s": 10.0 * len(rows), "data_wait": 0.1 * len(rows)})


def is_over(trial, rows):
    return len(rows) >= epochs_of(trial)


def outcome(rows):
    return Outcome(status="done", epoch=len(rows), rows=rows)


def train(trial, context):
    rows, mode = load(context), trial.config["mode"]
    note(f"alone {mode}")
    print("this is", mode, flush=True)
    while not is_over(trial, rows):
        step(trial, context, rows)
        if mode == "raise":
            raise ValueError("told to raise")
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if context.stop():
            keep(context, rows)
            raise Interrupted
    return outcome(rows)


def fuse_key(trial):
    if trial.config["mode"] == "no key":
        raise KeyError("told to have none")
    return None if trial.config["mode"] == "loner" else str(trial.config["width"])


def fused_is_faster(trials, contexts):
    note(f"probe {len(trials)}")
    return not (HERE / "slower").exists()


def run_fused(trials, contexts, ended):
    """Epoch by epoch, all members after each other."""
    note("fused " + ",".join(trial.config["mode"] for trial in trials))
    print("these are", len(trials), flush=True)
    curves = [load(context) for context in contexts]
    left = list(range(len(trials)))
    while left:
        for n in left:
            if not is_over(trials[n], curves[n]):
                step(trials[n], contexts[n], curves[n])
        if any(context.stop() for context in contexts):
            for n in left:
                keep(contexts[n], curves[n])
            raise Interrupted
        for n in list(left):
            if is_over(trials[n], curves[n]):
                ended(n, outcome(curves[n]))
                left.remove(n)
        modes = [trials[n].config["mode"] for n in left]
        if "fused raise" in modes:
            raise MemoryError("too many together")
        if "fused die" in modes:
            os.kill(os.getpid(), signal.SIGKILL)
'''

GRID = """
[study]
name = "many"
metric = "score"
[job]
run = "many_job:train"
metrics = ["score"]
[fixed]
width = 1
{fixed}
[compare]
mode = [{modes}]
"""


class Worker(DiskStudy):
    """A study with a trial for each mode, or for each of another grid, and workers that take batches of it, each in a process as on a
    node."""

    def __init__(self, folder: Path, *modes: str, grid: str = ""):
        self.folder = folder
        (folder / "many_job.py").write_text(TOY)
        super().__init__(folder / "study", grid or GRID.format(fixed="epochs = 3", modes=", ".join(f'"{mode}"' for mode in modes)))
        self.ids = {str(trial.config.get("mode")): trial.id for trial in self.trials.values()}

    def begin(self, **settings: Any) -> "subprocess.Popen[str]":
        """A worker with a batch of all trials, each with its next attempt."""
        number = self.batch(*self.trials, share=len(self.trials), **{
            "run": "many_job:train", "request": request_of(self.grid), "data": str(self.folder), "code": "c0de", "weights_files": {},
            "origin": {}, **settings})
        environment = {**os.environ, "PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", "MANY_NOTES": str(self.folder)}
        script = "import sys; from harness import worker; worker.CANCEL_S = 0.1; sys.exit(worker.Worker(worker.Store(" \
                 "worker.Path(sys.argv[1])), batch=int(sys.argv[2]), place=0).run())"
        worker = subprocess.Popen([sys.executable, "-c", script, str(self.store.root), str(number)], cwd=ROOT, env=environment, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        weakref.finalize(self, worker.kill)  # it would wait at its gate for ever when the test has failed
        return worker

    def run(self, **settings: Any) -> str:
        """Lets a worker take such a batch, to the end."""
        said: str = self.begin(**settings).communicate(timeout=60)[0]
        return said

    def shut(self, mode: str, *, shut: bool = True) -> None:
        """Closes or opens the gate of a trial."""
        gate = self.folder / f"shut-{mode}"
        if shut:
            gate.touch()
        else:
            gate.unlink()

    def events(self, mode: str, attempt: int = 0) -> list[dict[str, Any]]:
        """What an attempt says so far."""
        return list(self.store.attempts(self.ids[mode]))[attempt]

    def epochs(self, mode: str, attempt: int = 0) -> list[int]:
        """The epochs that an attempt has told of."""
        attempts = list(self.store.attempts(self.ids[mode]))
        return [event["epoch"] for event in attempts[attempt] if event["event"] == "epoch"] if attempt < len(attempts) else []

    def causes(self) -> dict[str, list[str | None]]:
        """Mode -> how each attempt ended."""
        return {mode: [next((event["cause"] for event in events if event["event"] == "end"), None) for events in self.store.attempts(name)]
                for mode, name in self.ids.items()}


def notes(folder: Path) -> list[tuple[str, str]]:
    """(what, process) of all that the job wrote down."""
    lines = (folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []
    return [(line.rpartition(" ")[0], line.rpartition(" ")[2]) for line in lines]


def bench_of(folder: Path, data: Path, *modes: str, epochs: int, text: str, toy: str = TOY) -> Bench:
    """A study with a trial for each mode, for the launcher."""
    bench = Bench(folder, data)
    (folder / "many_job.py").write_text(toy)
    bench.grid.write_text(GRID.format(fixed=f"epochs = {epochs}", modes=", ".join(f'"{mode}"' for mode in modes)) + text)
    bench.environment["MANY_NOTES"] = str(folder)
    return bench


def curve(width: int = 1, *, epochs: int = 3) -> list[dict[str, float]]:
    """The rows that a trial with seed 0 ends with, however it got there."""
    return [{"epoch": n + 1, "score": width / 8 + n} for n in range(epochs)]


def check_results(study: Worker, *modes: str) -> None:
    """These trials have the results that they would have had alone, and nothing that only an unfinished one needs."""
    for mode in modes:
        result = study.store.result(study.ids[mode])
        assert result and (result["status"], result["rows"]) == ("done", curve(epochs=len(result["rows"]))), mode
        assert not list(study.store.trial_folder(study.ids[mode]).glob("checkpoint-*"))
