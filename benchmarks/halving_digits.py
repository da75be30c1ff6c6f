"""The table of real learning curves behind benchmarks.halving: every config of a small space, trained whole with each seed.

    python -m benchmarks.halving_digits             # about 20 minutes on one core; goes on where it was stopped
    python -m benchmarks.halving_digits --out other.csv

The learning rate follows a cosine over all epochs, as it does in a search with halving, where a config that goes on continues the same
training: what a rung sees is a row of this table, cut off.
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

TABLE = Path(__file__).parent / "results" / "halving_digits.csv"
SPACE: dict[str, tuple[bool | int | float | str, ...]] = {
    "lr": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "optimizer": ("sgd", "adamw"),
    "batch_size": (64, 256),
    "depth": (1, 2, 3),
    "filters": (4, 12),
    "batch_norm": (False, True),
}
EPOCHS = 27
FIXED = {"dataset": "digits", "model": "dynamic_cnn", "hidden": 32, "schedule": "cosine", "epochs": EPOCHS, "val_fraction": 0.5}
SEEDS = (0, 1)
IMAGES = 719
"""In the validation split."""
CHANCE = 72
"""Right by chance: what counts for the epochs that a training which diverged did not reach."""


def configs() -> list[dict[str, bool | int | float | str]]:
    """All configs of the space."""
    return [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]


def key(values: Mapping[str, object], seed: int) -> tuple[str, ...]:
    """The row of a config and a seed: its values as they stand in the file."""
    return (*(str(values[name]) for name in SPACE), str(seed))


def read(path: Path = TABLE) -> dict[tuple[str, ...], tuple[float, ...]]:
    """`key` -> validation accuracy after each epoch."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))
    curves = {tuple(row[:-1]): tuple(int(cell) / IMAGES for cell in row[-1].split()) for row in rows[1:]}
    return {key: curve for key, curve in curves.items() if len(curve) == EPOCHS}  # the last line of an interrupted run may be cut


def main(arguments: list[str] | None = None) -> int:
    """Trains what the file does not have yet; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halving_digits", description="Train the learning curves.")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"file to make or complete (default: {TABLE.name} in benchmarks/results)")
    options = parser.parse_args(arguments)
    report.one_thread()
    warnings.filterwarnings("ignore")
    done = read(options.out)
    wanted = [(config, seed) for config in configs() for seed in SEEDS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-digits-") as scratch, options.out.open("w", newline="", encoding="utf-8") as file:
        file.write(_head(_prepare(Path(scratch))))
        writer = csv.writer(file, lineterminator="\n")
        for number, (config, seed) in enumerate(wanted, start=1):  # in this order, so that what is done stands first
            curve = done.get(key(config, seed)) or _train(Path(scratch), config, seed)
            writer.writerow([*key(config, seed), " ".join(str(round(IMAGES * accuracy)) for accuracy in curve)])
            file.flush()
            if sys.stderr.isatty() or number % 50 == 0:
                print(f"\r{number} of {len(wanted)} trainings", end="", file=sys.stderr, flush=True)
    print(f"\n{options.out}: {len(wanted)} trainings")
    return 0


def _head(torch_version: str) -> str:
    settings = ", ".join(f"{name} = {value}" for name, value in FIXED.items())
    return (f"# Made by `python -m benchmarks.halving_digits`: jobs.train, torch {torch_version}, one thread of a CPU.\n"
            f"# The same for all: {settings}; the rest as jobs.config has it.\n"
            f"# right: of {IMAGES} validation images, after each epoch; {CHANCE} once it diverged.\n"
            + ",".join([*SPACE, "seed", "right"]) + "\n")


def _prepare(scratch: Path) -> str:
    """Fetches the digits; returns torch's version."""
    import torch

    from jobs.config import Config
    from jobs.data import prepare

    torch.set_num_threads(1)
    prepare(Config.from_dict(dict(FIXED)), scratch / "data")
    return torch.__version__.split("+")[0]


def _train(scratch: Path, config: Mapping[str, object], seed: int) -> tuple[float, ...]:
    """The validation accuracy after each epoch of one training."""
    from jobs.config import Trial
    from jobs.contract import Context
    from jobs.train import run

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        outcome = run(Trial(config={**FIXED, **config}, seed=seed, test=False),
                      Context(folder=Path(folder), data=scratch / "data", checkpoint_s=1e9))
    reached = [float(row["val_acc"]) for row in outcome.rows]
    return (*reached, *[CHANCE / IMAGES] * (EPOCHS - len(reached)))


if __name__ == "__main__":
    sys.exit(main())
