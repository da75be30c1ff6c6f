"""What a study will cost, from what has run before, and from nothing else: no number is made up."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan import PlannedTrial
from jobs.config import PARAMETERS, Config

Shape = frozenset[tuple[str, Any]]

SHAPE = ("dataset", "classes", "train_images", "val_fraction", "test_fraction", "image_size", "augment", "model", "depth", "filters",
         "kernel_size", "hidden", "batch_norm", "freeze", "batch_size", "precision")
"""Parameters of the built-in job that decide how long an epoch takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Time for a number of trials, one after the other."""

    seconds: float
    """Of training, for the trials that something is known about."""
    known: int
    """How many trials that is."""
    source: str
    """Where the figures come from."""


def estimate(trials: list[PlannedTrial], runs: Path, *, device: str, ranks: int) -> Estimate:
    """Seconds of training for trials, from the epochs that trials of the same shape took in the studies under `runs`.

    Args:
        device: "cpu" or "cuda", where the trials will run; what ran elsewhere says nothing.
        ranks: processes of each trial; likewise.
    """
    shapes = {t.id: _shape(t.config) for t in trials}
    wanted = set(shapes.values())
    seconds: dict[Shape, list[float]] = {}
    studies: set[str] = set()
    attempts = 0
    for path in sorted(runs.glob("*/attempts.parquet")):
        for shape, taken in _epochs_of(path.parent, device=device, ranks=ranks):
            if shape in wanted:
                seconds.setdefault(shape, []).extend(taken)
                studies.add(path.parent.name)
                attempts += 1
    known = [t for t in trials if shapes[t.id] in seconds]
    total = sum(statistics.median(seconds[shapes[t.id]]) * t.config.get("epochs", 1) for t in known)
    place = f"{device} with {ranks} rank{'' if ranks == 1 else 's'}"
    source = f"median epoch of {attempts} attempts on {place} with the same data, network and batch in {', '.join(sorted(studies))}"
    return Estimate(seconds=total, known=len(known), source=source if known else "")


def _shape(config: dict[str, Any]) -> Shape:
    """What decides the time of an epoch; of a job of the user's own that is everything. As the tables have it: a parameter that the config
    does not read is absent."""
    if not PARAMETERS.keys() <= config.keys():
        return frozenset(config.items())
    inactive = Config.from_dict(config).inactive()
    return frozenset((name, config[name]) for name in SHAPE if name not in inactive)


def _epochs_of(study: Path, *, device: str, ranks: int) -> list[tuple[Shape, list[float]]]:
    """(shape, seconds of each epoch) of every such attempt of a study; nothing where its tables cannot be read. What is noted for
    an epoch of several trials, trained as one program, is each one's part of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = ["trial_id", "epoch_s", "device", "ranks"]
        attempts = pq.read_table(study / "attempts.parquet", columns=columns).to_pylist()
        parameters = [name for name in pq.read_schema(study / "trials.parquet").names if name.startswith("param_")]
        if {f"param_{name}" for name in PARAMETERS} <= set(parameters):
            parameters = [f"param_{name}" for name in SHAPE]
        trials = pq.read_table(study / "trials.parquet", columns=["trial_id", *parameters]).to_pylist()
    except (OSError, KeyError, pa.ArrowException):
        return []
    shapes = {t["trial_id"]: frozenset((name.removeprefix("param_"), t[name]) for name in parameters if t[name] is not None)
              for t in trials}
    return [(shapes[a["trial_id"]], a["epoch_s"]) for a in attempts
            if a["trial_id"] in shapes and a["epoch_s"] and (a["device"], a["ranks"]) == (device, ranks)]


def duration(seconds: float) -> str:
    """Seconds as a person says them: "45 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
