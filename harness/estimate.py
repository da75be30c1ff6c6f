"""What a study will cost, from what has run before, and from nothing else: no number is made up."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.store import PlannedTrial
from jobs.config import Config, ConfigError

SHAPE = ("dataset", "model", "depth", "filters", "image_size", "batch_size", "precision", "train_images", "classes")
"""Parameters that decide how long an epoch takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Time for a number of trials, one after the other."""

    seconds: float
    """Of training, for the trials that something is known about."""
    known: int
    """How many trials that is."""
    source: str
    """Where the figures come from."""


def estimate(trials: list[PlannedTrial], runs: Path) -> Estimate:
    """Seconds of training for trials, from the epochs that trials of the same shape took in the studies under `runs`."""
    wanted = {_shape(t.config) for t in trials}
    seconds: dict[tuple[Any, ...], list[float]] = {}
    studies: set[str] = set()
    attempts = 0
    for path in sorted(runs.glob("*/attempts.parquet")):
        for shape, taken in _epochs_of(path.parent):
            if shape in wanted and taken:
                seconds.setdefault(shape, []).extend(taken)
                studies.add(path.parent.name)
                attempts += 1
    known = [t for t in trials if _shape(t.config) in seconds]
    total = sum(statistics.median(seconds[_shape(t.config)]) * t.config.get("epochs", 1) for t in known)
    source = f"median epoch of {attempts} attempts with the same {', '.join(SHAPE[:2])}, sizes and batch in {', '.join(sorted(studies))}"
    return Estimate(seconds=total, known=len(known), source=source if known else "")


def _shape(config: dict[str, Any]) -> tuple[Any, ...]:
    """As the tables have it: a parameter that the config does not read is None."""
    try:
        inactive = Config.from_dict(config).inactive()
    except ConfigError:  # a job of the user's own
        inactive = frozenset()
    return tuple(None if name in inactive else config.get(name) for name in SHAPE)


def _epochs_of(study: Path) -> list[tuple[tuple[Any, ...], list[float]]]:
    """(shape, seconds of each epoch) of every attempt of a study; nothing where its tables cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        attempts = pq.read_table(study / "attempts.parquet", columns=["trial_id", "epoch_s"]).to_pylist()
        columns = ["trial_id", *(f"param_{name}" for name in SHAPE)]
        known = set(pq.read_schema(study / "trials.parquet").names)
        trials = pq.read_table(study / "trials.parquet", columns=[c for c in columns if c in known]).to_pylist()
    except (OSError, pa.ArrowException):
        return []
    shapes = {t["trial_id"]: tuple(t.get(f"param_{name}") for name in SHAPE) for t in trials}
    return [(shapes[a["trial_id"]], a["epoch_s"]) for a in attempts if a["trial_id"] in shapes and a["epoch_s"]]


def duration(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
