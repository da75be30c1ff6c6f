"""The table of real trainings behind the task `digits` of benchmarks.search: every config of a small space, trained once with each seed.

    python -m benchmarks.search_digits              # about 12 minutes on one core; goes on where it was stopped
    python -m benchmarks.search_digits --out other.csv

A search that looks its results up here proposes among real trainings without waiting for them. What a config is worth is the mean of its
seeds' validation accuracies; what a search sees of it is the accuracy of one seed.
"""

import argparse
import csv
import itertools
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from benchmarks import report

TABLE = Path(__file__).parent / "results" / "search_digits.csv"
SPACE: dict[str, tuple[bool | int | float | str, ...]] = {
    "lr": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "optimizer": ("sgd", "adamw"),
    "batch_size": (16, 32, 64, 128),
    "depth": (1, 2, 3),
    "filters": (4, 8, 16),
    "batch_norm": (False, True),
}
FIXED = {"dataset": "digits", "model": "dynamic_cnn", "hidden": 32, "schedule": "cosine", "epochs": 6, "val_fraction": 0.5}
"""Half of what is not in the test split validates: 719 images tell more configs apart than the default's 287."""
SEEDS = (0, 1, 2)


def configs() -> list[dict[str, bool | int | float | str]]:
    """All configs of the space."""
    return [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]


def key(values: Mapping[str, object]) -> tuple[str, ...]:
    """The row of a config: its values as they stand in the file."""
    return tuple(str(values[name]) for name in SPACE)


def read(path: Path = TABLE) -> dict[tuple[str, ...], tuple[float, ...]]:
    """`key` -> validation accuracy of each seed."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))
    whole = [row for row in rows[1:] if len(row) == len(SPACE) + len(SEEDS)]  # the last one of an interrupted run may be cut
    return {tuple(row[:len(SPACE)]): tuple(float(cell) for cell in row[len(SPACE):]) for row in whole}


def main(arguments: list[str] | None = None) -> int:
    """Trains what the file does not have yet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_digits", description="Train the table of the task `digits`.")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"file to make or complete (default: {TABLE.name} in benchmarks/results)")
    options = parser.parse_args(arguments)
    report.one_thread()
    warnings.filterwarnings("ignore")
    done = read(options.out)
    wanted = configs()
    with tempfile.TemporaryDirectory(prefix="bench-digits-") as scratch:
        accuracy = _Trainer(Path(scratch))
        rows = [[*key(config), *(f"{value:.5f}" for value in done[key(config)])] for config in wanted if key(config) in done]
        _write_head(options.out, accuracy.torch_version, rows)
        for number, config in enumerate(wanted, start=1):
            if key(config) in done:
                continue
            row = [*key(config), *(f"{accuracy.of(config, seed):.5f}" for seed in SEEDS)]
            with options.out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerow(row)
            print(f"\r{number} of {len(wanted)} configs", end="", file=sys.stderr, flush=True)
    print(f"\n{options.out}: {len(wanted)} configs, {len(SEEDS)} seeds each")
    return 0


def _write_head(path: Path, torch_version: str, rows: list[list[str]]) -> None:
    """Writes the file anew: how it was made, the names of the columns, and the whole rows it had."""
    settings = ", ".join(f"{name} = {value}" for name, value in FIXED.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(f"# Made by `python -m benchmarks.search_digits`: jobs.train, torch {torch_version}, one thread of a CPU.\n"
                   f"# The same for all: {settings}; the rest as jobs.config has it.\n"
                   "# val_acc_S: validation accuracy (719 images) of the best epoch of seed S; 0.1 where it diverged.\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*SPACE, *(f"val_acc_{seed}" for seed in SEEDS)])
        writer.writerows(rows)


class _Trainer:
    """Trains digits configs in a folder of its own."""

    def __init__(self, scratch: Path):
        import torch

        from jobs.config import Config
        from jobs.data import prepare

        torch.set_num_threads(1)
        self.torch_version = torch.__version__.split("+")[0]
        self._scratch = scratch
        prepare(Config.from_dict(dict(FIXED)), scratch / "data")

    def of(self, config: Mapping[str, object], seed: int) -> float:
        """The validation accuracy of one training."""
        from jobs.config import Trial
        from jobs.contract import Context
        from jobs.train import run

        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            outcome = run(Trial(config={**FIXED, **config}, seed=seed, test=False),
                          Context(folder=Path(folder), data=self._scratch / "data", checkpoint_s=1e9))
        return float(outcome.rows[outcome.epoch - 1]["val_acc"]) if outcome.status == "done" and outcome.epoch else 0.1


if __name__ == "__main__":
    sys.exit(main())
