"""Trials per hour on a grid shaped like the Fashion-MNIST study, against Ray Tune, Hydra with submitit, Optuna and a script without a tool.

    python -m benchmarks.trials                   # half an hour on two cores: 24 trials of 2 epochs over 12,000 images, five times
    python -m benchmarks.trials --rounds 3 --sides hand optuna

Each side is one command, timed from its start to its end with every import; benchmarks/trial_scripts.py has those of the others. The images
are made on the spot (benchmarks/made_data.py) in FashionMNIST's format, and cached before the clock starts; all sides read that cache.
Tools that are not installed are left out and named; `.venv/bin/python -m pip install -e '.[bench]'` installs them.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report

OURS = "python -m harness.launch --local"
AIM = 3.0
"""Times the trials per hour of the fastest other side."""
FIXED: dict[str, Any] = {"dataset": "fashion_mnist", "model": "plain_cnn", "augment": "crop_flip", "optimizer": "sgd", "momentum": 0.9,
                         "batch_size": 128, "epochs": 2, "val_fraction": 0.2, "train_images": 12_000}
COMPARE: dict[str, list[Any]] = {"filters": [16, 32], "depth": [2, 3, 4], "lr": [0.003, 0.01, 0.03, 0.1]}
SIDES = {"hand": ("script with a pool of processes", ()), "optuna": ("Optuna, processes that share a journal", ("optuna",)),
         "ray": ("Ray Tune, grid_search", ("ray",)),
         "hydra": ("Hydra, its submitit launcher, local", ("hydra", "hydra_plugins.hydra_submitit_launcher"))}
"""Name on the command line -> name in the table, modules it needs."""
SLACK = 0.01
"""How much lower our mean accuracy may be by chance: trials of the same seed draw other random numbers on each side."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description="Trials per hour on a Fashion-MNIST-shaped grid.",
                                     epilog=f"exit status: 0 when ours makes {AIM:g} times the trials per hour of the fastest other at "
                                            "equal accuracy, 1 when not")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions of every command in turn (default: 1)")
    parser.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=list(SIDES), help="only against these")
    parser.add_argument("--images", type=int, default=FIXED["train_images"], help="of each epoch (default: 12,000)")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="trials that run at the same time, on every side (default: 2)")
    parser.add_argument("--quick", action="store_true", help="two trials of 640 images: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    fixed, compare = (FIXED | {"train_images": 640, "epochs": 1}, {"lr": [0.03, 0.1]}) if options.quick else (
        FIXED | {"train_images": options.images}, COMPARE)
    space = {"fixed": fixed, "compare": compare, "seed": 0, "at_once": options.at_once}
    trials = math.prod(len(values) for values in compare.values())
    load = report.ForeignLoad()
    with tempfile.TemporaryDirectory(prefix="bench-trials-") as name:
        bench = Bench(Path(name), space, trials)
        arms = {OURS: bench.ours} | dict(bench.others(options.sides))
        samples = report.interleave(arms, rounds=options.rounds)
    print(report.header(f"trials: {trials} trials of {fixed['epochs']} epochs over {fixed['train_images']:,} images, start-up included, "
                        f"{options.at_once} at once; median (least to greatest) of {options.rounds}", load=load))
    return _judge(samples, bench.accuracies)


class Bench:
    """The commands of all sides on one grid, in a folder."""

    def __init__(self, folder: Path, space: dict[str, Any], trials: int):
        from benchmarks import made_data
        from jobs.config import Config
        from jobs.data import prepare

        self._folder, self._space, self._trials = folder, space, trials
        self._numbers = itertools.count()
        self.accuracies: dict[str, dict[tuple[Any, ...], float]] = {}
        """Best validation accuracy of each trial of the last round, by side and by the values of what is compared."""
        os.environ["HARNESS_DATA"] = str(folder / "data")
        made_data.fashion_mnist(folder / "data", train=round(space["fixed"]["train_images"] * 1.26), test=1_000)
        prepare(Config.from_dict(space["fixed"]), folder / "data")
        (folder / "space.json").write_text(json.dumps(space))
        (folder / "grid.toml").write_text(self._grid())

    def _grid(self) -> str:
        def table(values: dict[str, Any]) -> str:
            return "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())

        return (f'[study]\nname = "trials"\nseeds = [{self._space["seed"]}]\n[fixed]\n{table(self._space["fixed"])}\n'
                f'[compare]\n{table(self._space["compare"])}\n[local]\nrunning = {self._space["at_once"]}\n')

    def ours(self) -> report.Sample:
        """One study from nothing to its tables."""
        root = self._folder / f"study-{next(self._numbers)}"
        command = [sys.executable, "-m", "harness.launch", str(self._folder / "grid.toml"), "--local", "--study-dir", str(root)]
        sample = report.timed(command, trials=self._trials)
        import pyarrow.parquet as pq

        rows = [row for row in pq.read_table(root / "trials.parquet").to_pylist() if row["status"] == "done"]
        self._keep(OURS, [{"values": [row[f"param_{name}"] for name in self._space["compare"]], **row} for row in rows])
        return sample

    def others(self, sides: list[str]) -> Iterator[tuple[str, Callable[[], report.Sample]]]:
        """The other sides by name; those that are not installed are named and left out."""
        for side in sides:
            name, needs = SIDES[side]
            missing = [module.partition(".")[2] or module for module in needs if not _found(module)]
            if missing:
                print(f"{name} is left out: {', '.join(missing)} not installed")
            else:
                yield name, partial(self._hydra if side == "hydra" else self._script, side, name)

    def _script(self, side: str, name: str) -> report.Sample:
        results = self._folder / f"{side}-{next(self._numbers)}.json"
        sample = report.timed([sys.executable, "-m", "benchmarks.trial_scripts", side, str(self._folder / "space.json"), str(results)],
                              trials=self._trials)
        self._keep(name, json.loads(results.read_text()))
        return sample

    def _hydra(self, side: str, name: str) -> report.Sample:
        """A multirun whose jobs submitit starts, `at_once` by `at_once`: all at once would be 24 on two cores."""
        from benchmarks.trial_scripts import RESULTS

        folder = self._folder / f"{side}-{next(self._numbers)}"
        (folder / "results").mkdir(parents=True)
        os.environ[RESULTS] = str(folder / "results")
        swept = [f"+{name}={','.join(map(str, values))}" for name, values in self._space["compare"].items()]
        more = {"seed": self._space["seed"], "swept": "/".join(self._space["compare"])}
        fixed = [f"+{name}={value}" for name, value in (self._space["fixed"] | more).items()]
        command = [sys.executable, "-m", "benchmarks.trial_scripts", side, "--multirun", "hydra/launcher=submitit_local"]
        options = [f"hydra.sweeper.max_batch_size={self._space['at_once']}", f"hydra.sweep.dir={folder / 'sweep'}"]
        sample = report.timed([*command, *options, *fixed, *swept], trials=self._trials)
        self._keep(name, [json.loads(path.read_text()) for path in (folder / "results").iterdir()])
        return sample

    def _keep(self, name: str, results: list[dict[str, Any]]) -> None:
        self.accuracies[name] = {tuple(result["values"]): result["val_acc"] for result in results}
        if not len(results) == len(self.accuracies[name]) == self._trials:
            raise RuntimeError(f"{name} gave {len(results)} results, of {len(self.accuracies[name])} configs, for {self._trials} trials")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _judge(samples: dict[str, list[report.Sample]], accuracies: dict[str, dict[tuple[Any, ...], float]]) -> int:
    """Prints table and verdict. Accuracies are compared config by config, as their differences between two sides are chance."""
    rows, gains, aims = [], {}, []
    for name, measured in samples.items():
        gains[name] = report.ratios(measured, samples[OURS], "seconds")
        found, gain = accuracies[name], "" if name == OURS else gains[name].text() + "x"
        spreads = [report.Spread.of([s[q] for s in measured]).text() for q in ("trials per hour", "seconds", "CPU seconds")]
        rows.append([name, *spreads, gain, f"{statistics.mean(found.values()):.4f}", f"{max(found.values()):.4f}"])
        if name != OURS:
            gap, allowed = report.gap([found[key] - accuracies[OURS][key] for key in found], [0.0], slack=SLACK)
            aims.append(report.Aim(met=gap <= allowed, text=f"mean val_acc of {name} {gap:+.4f} (allowed {allowed:+.4f})"))
    print(report.table(["", "trials/hour", "seconds", "CPU seconds", "ours is faster by", "mean val_acc", "best"], rows))
    best = min((name for name in gains if name != OURS), key=lambda name: gains[name].median)
    margin = gains[best]
    text = f"{margin.median:.2f}x the fastest other, {best} ({margin.low:.2f}-{margin.high:.2f}x; aim {AIM:g}x)"
    return report.verdict(f"trials (n={margin.n})", [report.Aim(met=margin.median >= AIM, text=text), *aims])


if __name__ == "__main__":
    sys.exit(main())
