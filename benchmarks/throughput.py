"""Trials per hour on the digits grid: `python -m harness.launch` against submitit alone and against a hand-written loop.

    python -m benchmarks.throughput                 # three to five minutes
    python -m benchmarks.throughput --epochs 5 --rounds 5

Each side is one command, timed from its start to its end with every import, on the same trials; see benchmarks/by_hand.py for the two
others. Speed must not be bought with worse training, so the mean validation accuracies are compared as well.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report

GRID = Path("grids/digits.toml")
OURS = "python -m harness.launch"
RIVALS = {"submitit, one job per trial": "submitit", "hand-written loop": "loop"}
"""Name in the table -> argument of benchmarks.by_hand."""
SLACK = 0.02
"""How much lower our mean validation accuracy may be: nine trials on 287 validation images, whose seeds mean other random numbers to each
side, differ by 0.01 by chance alone (README.md has a comparison over 42 trials)."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description="Trials per hour on the digits grid.", epilog=(
        "exit status: 0 when ours is faster than every rival at equal accuracy, 1 when not"))
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of every command in turn (default: 3)")
    parser.add_argument("--epochs", type=int, help="epochs of each trial (default: the grid's)")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    load = report.ForeignLoad()
    overrides = [f"epochs={1 if options.quick else options.epochs}"] if options.quick or options.epochs else []
    overrides += ["study.seeds=[0]"] if options.quick else []
    with tempfile.TemporaryDirectory(prefix="bench-throughput-") as name:
        folder = Path(name)
        trials = _prepare(folder, overrides)
        arms = {OURS: partial(_ours, folder, overrides)}
        for rival, how in RIVALS.items():
            arms[rival] = partial(_by_hand, folder, how, len(trials))
        samples = report.interleave(arms, rounds=options.rounds)
        accuracies = {name: _accuracies(folder, name) for name in arms}
    epochs = trials[0]["config"]["epochs"]
    print(report.header(f"throughput: {len(trials)} trials of {GRID}, {epochs} epochs each, start-up included; "
                        f"median (least to greatest) of {options.rounds}", load=load))
    rows, aims = [], []
    for name, measured in samples.items():
        faster = report.ratios(measured, samples[OURS], "seconds")
        rows.append([name, report.Spread.of([s["trials per hour"] for s in measured]).text(),
                     *(report.Spread.of([s[q] for s in measured]).text() for q in ("seconds", "CPU seconds")), faster.text() + "x",
                     f"{statistics.mean(accuracies[name]):.4f}"])
        if name != OURS:
            aims.append(report.Aim(met=faster.median > 1, text=f"{faster.median:.1f}x {name} ({faster.low:.1f}-{faster.high:.1f}x)"))
    print(report.table(["", "trials/hour", "seconds", "CPU seconds", "ours is faster by", "mean val_acc"], rows))
    gap, allowed = _accuracy_gap(accuracies)
    aims.append(report.Aim(met=gap <= allowed, text=f"val_acc within {gap:.4f} (allowed {allowed:.4f})"))
    return report.verdict(f"throughput (aim: faster than each, n={options.rounds})", aims)


def _prepare(folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Builds the cache all sides read, and writes the trials down; returns them."""
    from harness.grid import read_grid
    from harness.trials import Planner
    from jobs.config import Config
    from jobs.data import prepare

    os.environ["HARNESS_DATA"] = str(folder / "data")
    (folder / "grid.toml").write_bytes(GRID.read_bytes())  # the same for all rounds, whoever edits the other
    trials: list[dict[str, Any]] = [{"config": trial.config, "seed": trial.seed}
                                    for trial in Planner(read_grid(folder / "grid.toml", overrides=overrides)).trials()]
    prepare(Config.from_dict(trials[0]["config"]), folder / "data")
    (folder / "trials.json").write_text(json.dumps(trials))
    return trials


def _ours(folder: Path, overrides: list[str]) -> report.Sample:
    """One study from nothing to its tables."""
    root = folder / f"study-{len(list(folder.glob('study-*')))}"
    sets = [word for override in overrides for word in ("--set", override)]
    trials = len(json.loads((folder / "trials.json").read_text()))
    command = [sys.executable, "-m", "harness.launch", str(folder / "grid.toml"), "--local", *sets, "--study-dir", str(root)]
    sample = report.timed(command, trials=trials)
    import pyarrow.parquet as pq

    rows = pq.read_table(root / "trials.parquet", columns=["status", "val_acc"]).to_pylist()
    if any(row["status"] != "done" for row in rows):
        raise RuntimeError(f"trials without a result in {root}")
    _result_file(folder, OURS).write_text(json.dumps([{"val_acc": row["val_acc"]} for row in rows]))
    return sample


def _by_hand(folder: Path, how: str, trials: int) -> report.Sample:
    """One run of benchmarks.by_hand."""
    name = next(name for name, argument in RIVALS.items() if argument == how)
    command = [sys.executable, "-m", "benchmarks.by_hand", how, str(folder / "trials.json"), str(_result_file(folder, name))]
    return report.timed(command, trials=trials)


def _result_file(folder: Path, name: str) -> Path:
    return folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.json"


def _accuracies(folder: Path, name: str) -> list[float]:
    return [result["val_acc"] for result in json.loads(_result_file(folder, name).read_text())]


def _accuracy_gap(accuracies: dict[str, list[float]]) -> tuple[float, float]:
    """How much lower our mean validation accuracy is than the best rival's, and what is allowed: three standard errors or SLACK."""
    best = max((name for name in accuracies if name != OURS), key=lambda name: statistics.mean(accuracies[name]))
    gap, allowed = report.gap(accuracies[best], accuracies[OURS], slack=SLACK)
    return max(0.0, gap), allowed


if __name__ == "__main__":
    sys.exit(main())
