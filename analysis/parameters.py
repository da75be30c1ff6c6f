"""What differs between the configs of a study, and the configs as one frame: what figures of the search space and the report share.

Pure: a study in, values and frames out.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.load import Study

LOG_RATIO = 50.0
"""A range whose ends are so many times apart is shown on a logarithmic axis where the tables do not say how it was searched."""
OWN = ("variant", "config", "status", "epochs", "n", "value", "chosen", "trial_id")
"""Columns that every frame of `configs` has."""
BEST = 10
"""Most configs that figures mark as the best."""
_TAKEN = (*OWN, "place", "best")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter that has several values in a study."""

    name: str
    """Without `param_`."""
    numeric: bool
    """Whether its values are numbers (truth values are not)."""
    log: bool = False
    """Whether it belongs on a logarithmic axis: it was searched so, or spans `LOG_RATIO`."""
    choices: tuple[object, ...] = ()
    """The values in their order, of one that is no range: numbers sorted, others in the grid's order; empty for a range."""
    tuned: bool = False
    """Whether it was tuned; else it is compared."""
    column: str = ""
    """Its column in `configs`: its name, or `param_NAME` where that is a column of another meaning, such as `epochs`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "column", self.column or (f"param_{self.name}" if self.name in _TAKEN else self.name))


def parameters(study: Study) -> tuple[Parameter, ...]:
    """The parameters that have several values among all trials, compared ones first; a parameter that some configs do not read counts the
    lack of it as a value. What is the same everywhere is left out."""
    trials, tuned = study.all_trials, {t.name: t for t in study.search.tuned} if study.search else {}
    found = []
    for name in dict.fromkeys((*study.compared, *tuned)):
        values = trials[f"param_{name}"]
        if values.nunique(dropna=False) < 2:
            continue
        known = list(dict.fromkeys(v.item() if hasattr(v, "item") else v for v in values.dropna()))
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
        choices = tuple(tuned[name].choices) if name in tuned else tuple(known)
        if name not in tuned and numeric and len(known) > 12:
            choices = ()
        choices = tuple(dict.fromkeys((*choices, *known))) if choices or not numeric else ()
        log = tuned[name].log if name in tuned else False
        if numeric and choices:
            choices = tuple(sorted(choices, key=float))  # type: ignore[arg-type]
        if numeric and not log and name not in tuned:
            log = min(known) > 0 and max(known) / min(known) >= LOG_RATIO
        found.append(Parameter(name=name, numeric=numeric, log=bool(log), choices=choices, tuned=name in tuned))
    return tuple(found)


def factors(study: Study) -> tuple[Parameter, ...]:
    """What varies, each thing once: `parameters(study)`, where compared parameters that are no product of their values, and so cannot be
    told apart, give way to one factor, the variant."""
    found = parameters(study)
    compared = [p for p in found if not p.tuned]
    rows = study.all_trials[[f"param_{p.name}" for p in compared]].drop_duplicates()
    if len(compared) < 2 or len(rows) >= math.prod(rows[c].nunique(dropna=False) for c in rows):
        return found
    variant = Parameter(name="variant", numeric=False, choices=study.variants, column="variant")
    return (variant, *(p for p in found if p.tuned))


def configs(study: Study) -> pd.DataFrame:
    """Every config of the study as one row.

    Returns:
        variant, config (its number within the variant), status ("done", "pruned", or why it has no value), epochs (of the rung that it was
        stopped at; empty when it was granted all), n (seeds), value (mean of the study's metric over them, in the search where there was
        one; NaN where there is none), chosen (stands for its variant), trial_id (of its first trial), and one column for each of
        `parameters(study)`, its `column`, empty where the config does not read it or it is not finite.
    """
    varying = parameters(study)
    columns, names = [f"param_{p.name}" for p in varying], [p.column for p in varying]
    if study.search is not None:
        first = study.search.trials.drop_duplicates(["variant", "config"])
        rows = study.search.configs.merge(first[["variant", "config", "trial_id", *columns]], on=["variant", "config"])
    else:
        rows = _compared(study, columns)
    rows = rows.rename(columns=dict(zip(columns, names, strict=True)))
    for one in varying:
        if one.numeric:
            rows[one.column] = rows[one.column].mask(rows[one.column].astype(float).abs() == math.inf)
    return rows[[*OWN, *names]]


def places(rows: pd.DataFrame, mode: str) -> "pd.Series[float]":
    """The place of each of `configs` among those that have a value, from 0 (the worst) to 1 (the best); equal ones share theirs.

    A config that halving stopped is behind all that it let go on: their values are of different training, their order is not. Empty
    where there is no value.
    """
    known = rows["value"].notna().to_numpy()
    reached = rows["epochs"].astype(float).fillna(math.inf).to_numpy()[known]
    better = rows["value"].to_numpy(dtype=float)[known] * (-1 if mode == "min" else 1)
    _, order = np.unique(np.column_stack([reached, better]), axis=0, return_inverse=True)
    out = np.full(len(rows), math.nan)
    out[known] = (rankdata(order.reshape(-1)) - 1) / (known.sum() - 1) if known.sum() > 1 else 1.0
    return pd.Series(out, index=rows.index)


def best(place: "pd.Series[float]") -> "pd.Series[bool]":
    """Which configs are marked as the best, by their `places`: `BEST` of them, or a quarter of those that have a value."""
    return place.rank(method="first", ascending=False) <= min(BEST, max(1, int(place.notna().sum()) // 4))


def _compared(study: Study, columns: list[str]) -> pd.DataFrame:
    """The configs of a study without [tune]: one for each variant, or several where a table that is not ours has several."""
    keys = ["variant", *columns]
    rows = []
    number: dict[str, int] = {}
    for key, part in study.trials.groupby(keys, sort=False, dropna=False):
        variant = str(key[0])
        values = part.loc[part["status"] == "done", study.metric].to_numpy(dtype=float, na_value=math.nan)
        values = values[np.isfinite(values)]
        others = part.loc[part["status"] != "done", "status"]
        status = "done" if len(values) else str(others.iloc[0]) if len(others) else "infeasible"
        rows.append({"variant": variant, "config": number.get(variant, 0), "status": status, "epochs": None, "n": len(values),
                     "value": float(values.mean()) if len(values) else math.nan, "chosen": bool(len(values)),
                     "trial_id": part["trial_id"].iloc[0], **dict(zip(columns, key[1:], strict=True))})
        number[variant] = number.get(variant, 0) + 1
    return pd.DataFrame(rows).astype({"epochs": "Int64", **{name: study.trials[name].dtype for name in columns}})
