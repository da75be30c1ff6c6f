"""From the start of a trial to its first optimizer step, and what a trial costs beyond its training, against a fresh process per trial.

    python -m benchmarks.start              # five minutes; as root also on a Slurm that it brings up (Debian or Ubuntu)
    python -m benchmarks.start --no-slurm --rounds 9

Ours is measured on the trials a worker runs after its first, from the end of the trial before (its `end` event) to the end of the first
optimizer step; the cost beyond training is from that same moment to the trial's own `end` event, less the seconds of its epochs: forking,
data, model, test split, result and all files are in it. The others are measured from the command (or `executor.submit`) to the same
step of the same trial. The first trial of a launch pays for start-up as well and has a line of its own. On Slurm both sides have the
development cluster for themselves, whose jobs begin within a second.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import on_slurm, report, timed_job

WARM = 4
"""Trials after the first in each of our studies."""
EPOCHS = 2
AIM_S = {1: 0.3, 2: 0.5}
"""Ranks -> seconds to the first step."""
BEYOND_AIM_S = 0.3
CONFIG = {"dataset": "digits", "model": "dynamic_cnn", "filters": 16, "depth": 2, "dropout": 0.2, "lr": 0.05, "schedule": "cosine",
          "batch_size": 64, "epochs": EPOCHS}
"""The middle variant of grids/digits.toml, with fewer epochs."""
GRID = """
[study]
name = "start"
metric = "val_acc"
seeds = {seeds}
[fixed]
{fixed}
[local]
ranks = {ranks}
cpus_per_trial = {ranks}
running = 1
[slurm]
tasks_per_node = {ranks}
trials_per_job = {trials}
time_min = 10
[job]
run = "benchmarks.timed_job:run"
metrics = ["train_loss", "train_acc", "val_loss", "val_acc", "lr"]
"""
WARM_TRIAL, FIRST_TRIAL = "trial of a warm worker", "first trial of a launch"
OURS = ("ours here, ", "ours on Slurm, ")
FIRST_STEP, BEYOND = "start to first step", "cost beyond training"


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description="From a trial's start to its first step.",
                                     epilog=f"exit status: 0 when ours stays below {AIM_S[1]} s with one rank and below {AIM_S[2]} s with "
                                            "two, 1 when not")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of every way in turn (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one rank only: shows that it works")
    parser.add_argument("--no-slurm", action="store_true", help="only on this machine, without a cluster")
    options = parser.parse_args(arguments)
    report.one_thread()
    load = report.ForeignLoad()
    why_not = "not asked for" if options.no_slurm else on_slurm.missing()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-start-")))
        _prepare(folder)
        if not why_not:
            stack.enter_context(on_slurm.temporary_cluster(folder, max_array_size=1001))
        arms = {}
        for ranks in (1,) if options.quick else (1, 2):
            arms |= _arms(folder, ranks) | ({} if why_not else _slurm_arms(folder, ranks))
        samples = report.interleave(arms, rounds=options.rounds)
    print(report.header(f"start: seconds from a trial's start to the end of its first optimizer step; median (least to greatest) of "
                        f"{options.rounds}, each of ours the median of {WARM} warm trials", load=load))
    print(report.table(["", "to first step", "longer than ours by", "cost beyond training"], _rows(samples)))
    if why_not:
        print(f"nothing on Slurm: {why_not}")
    return report.verdict("start", list(_aims(samples, rounds=options.rounds)))


def _arms(folder: Path, ranks: int) -> dict[str, Callable[[], report.Sample]]:
    """The ways on this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "benchmarks.timed_job"]
    alone = {"python -m jobs.train, 1 rank": partial(_command, folder, [sys.executable, "-m", "benchmarks.timed_job"]),
             "submitit local job, 1 rank": partial(_submitit, folder)}
    return {f"{OURS[0]}{WARM_TRIAL}, {_ranks(ranks)}": partial(_ours, folder, ranks, "--local"), **(alone if ranks == 1 else {}),
            f"torchrun -m jobs.train, {_ranks(ranks)}": partial(_command, folder, torchrun)}


def _slurm_arms(folder: Path, ranks: int) -> dict[str, Callable[[], report.Sample]]:
    """The ways on the cluster."""
    profile = on_slurm.profile(folder, "site")
    return {f"{OURS[1]}{WARM_TRIAL}, {_ranks(ranks)}": partial(_ours, folder, ranks, "--profile", str(profile)),
            f"submitit Slurm job, {_ranks(ranks)}": partial(_submitit_on_slurm, folder, ranks)}


def _ranks(count: int) -> str:
    return f"{count} rank" + ("s" if count > 1 else "")


def _rows(samples: dict[str, list[report.Sample]]) -> list[list[str]]:
    """The lines of the table. What starts on Slurm is compared to ours there, all else to ours here."""
    rows = []
    for name, measured in samples.items():
        ours = samples[f"{OURS['Slurm' in name]}{WARM_TRIAL}, {name.rpartition(', ')[2]}"]
        first_step = report.Spread.of([s[FIRST_STEP] for s in measured])
        beyond = report.Spread.of([s[BEYOND] for s in measured]).text() if measured is ours else ""
        rows.append([name, first_step.text(), "" if measured is ours else report.ratios(measured, ours, FIRST_STEP).text() + "x", beyond])
        if measured is ours:
            rows.append([name.replace(WARM_TRIAL, FIRST_TRIAL), report.Spread.of([s["whole command"] for s in measured]).text(), "", ""])
    return rows


def _aims(samples: dict[str, list[report.Sample]], *, rounds: int) -> Iterator[report.Aim]:
    for name, measured in samples.items():
        ranks = int(name.rpartition(", ")[2].split()[0])
        if name.startswith(OURS):
            where = name.partition(",")[0].removeprefix("ours ")
            limits = {FIRST_STEP: AIM_S[ranks], **({BEYOND: BEYOND_AIM_S} if ranks == 1 else {})}
            for quantity, limit in limits.items():
                spread = report.Spread.of([s[quantity] for s in measured])
                yield report.Aim(met=spread.median < limit, text=(
                    f"{quantity} {where} with {_ranks(ranks)} {spread.median:.3f} s (aim below {limit} s), n={rounds}, "
                    f"{spread.low:.3f}-{spread.high:.3f} s"))


def _prepare(folder: Path) -> None:
    """The cache and the trial that all read."""
    from jobs.config import Config
    from jobs.data import prepare

    os.environ["HARNESS_DATA"] = str(folder / "data")
    prepare(Config.from_dict(CONFIG), folder / "data")
    (folder / "trial.json").write_text(json.dumps({"config": CONFIG, "seed": 0}))


def _ours(folder: Path, ranks: int, *where: str) -> report.Sample:
    """One study whose one worker runs 1 + WARM trials; `where` are the options that say on what."""
    grid, root = folder / "start.toml", folder / f"study-{len(list(folder.glob('study-*')))}"
    fixed = "\n".join(f"{name} = {json.dumps(value)}" for name, value in CONFIG.items())
    grid.write_text(GRID.format(seeds=list(range(1 + WARM)), fixed=fixed, ranks=ranks, trials=1 + WARM))
    began = time.time()
    _finish([sys.executable, "-m", "harness.launch", str(grid), *where, "--study-dir", str(root)])
    attempts = sorted((_attempt(path) for path in root.glob("trials/*/a000.jsonl")), key=lambda attempt: attempt["ended"])
    pairs = list(pairwise(attempts))
    return {FIRST_STEP: _median([now["first_step"] - before["ended"] for before, now in pairs]),
            BEYOND: _median([now["ended"] - before["ended"] - now["epochs_s"] for before, now in pairs]),
            "whole command": attempts[0]["first_step"] - began}


def _median(values: Sequence[float]) -> float:
    return report.Spread.of(values).median


def _attempt(path: Path) -> dict[str, Any]:
    """When an attempt took its first step and ended, and the seconds of its epochs."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    if events[-1].get("cause") != "done":
        raise RuntimeError(f"an attempt that did not end well: {events[-1]}")
    return {"ended": events[-1]["time"], "first_step": float((path.parent / timed_job.FILE_NAME).read_text()),
            "epochs_s": sum(event["seconds"] for event in events if event["event"] == "epoch")}


def _command(folder: Path, words: list[str]) -> report.Sample:
    """One training by a command of its own."""
    out = folder / f"alone-{time.monotonic_ns()}"
    noted = out.with_suffix(".first_step")
    began = time.time()
    os.environ["FIRST_STEP_FILE"] = str(noted)
    _finish([*words, str(folder / "trial.json"), "--out", str(out), "--cpu"])
    return {FIRST_STEP: float(noted.read_text()) - began}


def _submitit(folder: Path) -> report.Sample:
    """One training as a job of submitit's local executor."""
    import submitit

    out = folder / f"alone-{time.monotonic_ns()}"
    noted = out.with_suffix(".first_step")
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="local")
    executor.update_parameters(timeout_min=10)
    os.environ["FIRST_STEP_FILE"] = str(noted)
    began = time.time()
    executor.submit(timed_job.command, [str(folder / "trial.json"), "--out", str(out), "--cpu"]).result()
    return {FIRST_STEP: float(noted.read_text()) - began}


def _submitit_on_slurm(folder: Path, ranks: int) -> report.Sample:
    """One training as a job of submitit's Slurm executor, with several ranks as its documentation shows."""
    import submitit

    out = folder / f"alone-{time.monotonic_ns()}"
    noted = out.with_suffix(".first_step")
    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="slurm")
    executor.update_parameters(timeout_min=10, slurm_partition="main", nodes=1, tasks_per_node=ranks, cpus_per_task=1)
    os.environ["FIRST_STEP_FILE"] = str(noted)
    began = time.time()
    executor.submit(timed_job.task, [str(folder / "trial.json"), "--out", str(out), "--cpu"])
    on_slurm.until("the first step of submitit's job", lambda: noted.exists() and noted.read_text())
    sample = {FIRST_STEP: float(noted.read_text()) - began}
    on_slurm.until("the end of submitit's job", on_slurm.queue_is_empty)
    return sample


def _finish(command: list[str]) -> None:
    """Runs a command to its end.

    Raises:
        RuntimeError: it failed; the text is what it printed.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


if __name__ == "__main__":
    sys.exit(main())
