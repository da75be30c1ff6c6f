"""The trials of a grid: in which order, with which names, asked for what; and whether two grids ask for the same. Pure."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.grid import Grid, Variant, parse_grid
from harness.identity import config_hash, trial_id
from harness.plan import PlannedTrial
from jobs.config import Config, ConfigError, Value

BUILT_IN_JOB = "jobs.train:run"


class Planner:
    """Makes the trials of a grid.

    Args:
        digests: (weights, seed) -> SHA-256, for weights that come from an earlier study.
    """

    def __init__(self, grid: Grid, digests: Mapping[tuple[str, int], str] | None = None):
        self.grid, self._digests = grid, digests or {}
        self._asked = {"run": job_of(grid), **request_of(grid)}
        self._latest: tuple[dict[str, Value], str] | None = None
        self._made: tuple[dict[str, Any], str] = {}, ""

    def trial(self, variant: Variant, seed: int, tuned: Mapping[str, Value] | None = None, **more: Any) -> PlannedTrial:
        """The trial of a variant with values of its tuned parameters and a seed; `more` are fields of `PlannedTrial`.

        Raises:
            ConfigError: the values do not go together.
        """
        values = {**self.grid.config_values(variant), **(tuned or {})}
        digest = self._digests.get((str(values.get("weights", "")), seed), "")
        if (values, digest) != self._latest:  # seeds differ in their weights, where in anything: checked and hashed once
            full, inactive = self._full_config(values, digest)
            self._made = full, config_hash(full, asked=self._asked, inactive=inactive)
            self._latest = values, digest
        config, name = self._made
        return PlannedTrial(id=trial_id(name, seed), variant=variant.name, seed=seed, config=config, **{"wave": 0, **more})

    def trials(self) -> list[PlannedTrial]:
        """All trials of a grid without [tune], in order: variant by variant, seed by seed."""
        return [self.trial(variant, seed) for variant in self.grid.variants for seed in self.grid.seeds]

    def key(self, variant: Variant, tuned: Mapping[str, Value]) -> str | None:
        """What two configs have in common that are the same training; None for values that cannot be trained together."""
        try:
            return self.trial(variant, self.grid.seeds[0], tuned).id
        except ConfigError:
            return None

    def _full_config(self, values: dict[str, Value], digest: str) -> tuple[dict[str, Any], frozenset[str]]:
        """All parameters of a trial, and those that it does not read; `digest` is that of weights that are an earlier study's."""
        if self.grid.job is not None:
            return values, frozenset()
        config = dataclasses.replace(Config.from_dict(values), weights_digest=digest)
        return config.as_dict(), config.inactive()


def kinds_of(trials: Iterable[PlannedTrial]) -> dict[str, tuple[Any, ...]]:
    """trial -> what it has in common with those that would fail as it does and take as long: all parameters that are no real numbers.
    Learning rate, dropout and the like change the result and not the program."""
    kinds, known = {}, dict[tuple[Any, ...], tuple[Any, ...]]()
    for trial in trials:
        kind = tuple((name, value) for name, value in sorted(trial.config.items()) if not isinstance(value, float))
        kinds[trial.id] = known.setdefault(kind, kind)  # one object for all of a kind: there may be a hundred thousand
    return kinds


def job_of(grid: Grid) -> str:
    """The function that trains, as "module:function"."""
    return grid.job.run if grid.job else BUILT_IN_JOB


def request_of(grid: Grid) -> dict[str, Any]:
    """What every trial of a grid is asked for beyond its config and seed, as `jobs.config.Trial` takes it; the budget is the whole."""
    return {"metric": grid.metric, "mode": grid.mode, "select": grid.select, "test": grid.test == "each"}


def changes(frozen: str, grid: Grid, *, frozen_file: Path = Path("grid.toml")) -> str | None:
    """What differs between a study's frozen grid and a new one, as a diff; None when they ask for the same trials."""
    old = parse_grid(frozen, name=str(frozen_file))
    if _asks_for(old) == _asks_for(grid):
        return None
    lines = difflib.unified_diff(frozen.splitlines(), grid.text.splitlines(), "the study's grid", "the grid now", lineterm="", n=1)
    text = "\n".join(lines)
    return text or json.dumps({"then": old.identity(), "now": grid.identity()}, indent=1)


def _asks_for(grid: Grid) -> str:
    """What a grid asks for as text to compare: in a job of the user's own 1 and 1.0 differ, and the order of the variants is that of
    the trials."""
    return json.dumps([grid.identity(), [variant.name for variant in grid.variants]], sort_keys=True)
