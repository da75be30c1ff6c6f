"""What trials need before they can run, and what of it is missing: raw data, weights, an earlier study."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs.data
from harness.errors import MissingData
from harness.store import Store
from jobs import durable, registry
from jobs.config import Config
from jobs.datasets import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """Something that has to be there before a trial can be submitted."""

    what: str
    """The name of it."""
    where: str
    """Where it was looked for."""
    command: str
    """What to run."""


def missing(configs: Iterable[dict[str, Any]], *, data: Path, runs: Path, grid: Path) -> list[Missing]:
    """Everything the configs need and do not find, each thing once.

    Args:
        configs: full configs of the built-in job.
        data: the data folder.
        runs: the folder that holds this and earlier studies.
        grid: the grid's file, for the command that mends it.

    Raises:
        MissingData: the data folder may not be read.
    """
    found: dict[str, Missing] = {}
    stage = f"python -m harness.stage {grid}   (where there is internet)"
    for config in configs:
        dataset = config["dataset"]
        try:
            gone = [] if dataset in found else jobs.data.missing(Config.from_dict(config), data)
        except DataError as error:
            raise MissingData(str(error)) from error
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            found[dataset] = Missing(what=f"data set {dataset}", where=f"{gone[0]}{more}", command=stage)
        weights = config["weights"]
        if weights.startswith("study:"):
            name = weights.removeprefix("study:")
            if weights not in found and not source_of(Store(runs / name), seed=0):
                found[weights] = Missing(what=f"a finished trial of study {name}", where=str(runs / name),
                                         command=f"python -m harness.launch {grid.parent / name}.toml   (with --local if this one is)")
        elif (path := registry.weights_path(config["model"], weights, data)) and not path.exists():
            found[str(path)] = Missing(what=f"weights {weights} of {config['model']}", where=str(path), command=stage)
    return list(found.values())


def source_of(study: Store, *, seed: int) -> str | None:
    """The trial of an earlier study whose weights a trial with `seed` starts from: of the variant with the best mean of that
    study's metric the trial with the same seed, or its best one when that seed was not run. None when nothing is finished."""
    from harness.grid import parse_grid

    text = study.frozen_grid()
    if text is None:
        return None
    grid = parse_grid(text, name=str(study.grid_file))
    sign = 1.0 if grid.mode == "max" else -1.0
    values: dict[str, dict[int, tuple[float, str]]] = {}
    for trial in study.trials():
        result = study.result(trial.id)
        if result and result["status"] == "done" and study.selected_weights(trial.id).exists():
            values.setdefault(trial.variant, {})[trial.seed] = (sign * result["rows"][result["epoch"] - 1][grid.metric], trial.id)
    if not values:
        return None
    best = max(values.values(), key=lambda seeds: sum(value for value, _ in seeds.values()) / len(seeds))
    return best[seed][1] if seed in best else max(best.values())[1]


def take_over_weights(source: Store, trial_id: str, into: Store) -> str:
    """Copies a trial's selected weights into another study; returns their SHA-256."""
    path = source.selected_weights(trial_id)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    target = into.weights_file(digest)
    if not target.exists():
        durable.replace(target, path.read_bytes(), step="weights")
    return digest
