"""The trials as the page holds them: columns for the table and the parallel coordinates, and a learning curve each.

Pure: a study in, values for JSON out. What is written is short rather than exact (numbers of five digits, curves of 40 points in steps of
a 4,000th of the axis), because a page of 5,000 trials is to be mailed; the exact numbers are in the study's tables.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import cost, stats
from analysis.load import NotForThisStudy, Study
from analysis.parameters import Parameter, parameters
from analysis.stats.importance import by_importance

MAX_TRIALS = 5000
MAX_CELLS = 120_000
"""Values of parameters that a page holds, so that it stays below 2 MB: at most so many trials times parameters."""
MAX_AXES = 24
"""Parameters that are axes, the most important ones; the table has all."""
POINTS = 40
"""Points of a learning curve."""
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""A point of a curve is two of these: a number from 0, the lower end of the axis, to `TOP`, its upper end. One below 0 would be, and one
above: the line leaves the axes there."""
TOP, MISSING = 4000, 4095
BELOW, ABOVE = 4001, 4002
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of the table."""

    name: str
    """As in trials.parquet, for the CSV file."""
    label: str
    """What stands above it."""
    kind: str
    """"number"; "choice": `values` are places in `choices`; or "text"."""
    values: list[Any]
    """None where there is nothing, or no finite number. Shares are in percent."""
    percent: bool = False
    log: bool = False
    choices: list[str] | None = None


def shown(column: Column, row: int) -> str:
    """One value as the table shows it; report.js does the same."""
    one = column.values[row]
    if one is None:
        return "" if column.kind == "text" else "–"
    if column.kind == "choice":
        return str((column.choices or [])[one])
    return number(one, percent=column.percent) if column.kind == "number" else str(one)


def number(one: float, *, percent: bool = False) -> str:
    """A number for reading: percent with two decimals, others with four digits."""
    return f"{one:.2f}" if percent else f"{one:.4g}"


def order(study: Study) -> pd.DataFrame:
    """All trials that the page holds, the best first and those without a value last.

    Of more trials than a page can hold, the better half of what it holds are the best ones, the others are taken evenly from the rest.
    """
    trials = study.all_trials
    better = _floats(trials[study.metric]) * (1 if study.mode == "min" else -1)
    granted = _floats(trials["budget"]) if "budget" in trials else np.full(len(trials), math.nan)
    granted = np.where(trials["status"] == "pruned", granted, math.inf)  # what was stopped is behind what it let go on
    known = np.isfinite(better)
    at = np.lexsort((np.arange(len(trials)), np.where(known, better, 0), np.where(known, -granted, 0), ~known))
    most = min(MAX_TRIALS, max(1, MAX_CELLS // (len(parameters(study)) + 1)))
    if len(at) > most:
        best = most // 2
        at = np.concatenate([at[:best], at[best:][np.linspace(0, len(at) - best - 1, most - best).round().astype(int)]])
    return trials.iloc[at].reset_index(drop=True)


def columns(study: Study, trials: pd.DataFrame) -> list[Column]:
    """The columns of the table of these trials, in the order in which they stand."""
    out = [Column(name="trial_id", label="trial", kind="text", values=[str(t) for t in trials["trial_id"]]),
           _choices("variant", trials["variant"], study.variants), _numbers("seed", trials["seed"]),
           _choices("status", trials["status"], tuple(dict.fromkeys(trials["status"].astype(str)))),
           _metric(study.metric, trials[study.metric])]
    out += [_metric(name, trials[name]) for name in ("test_acc", "test_loss") if name != study.metric and name in trials
            and trials[name].notna().any()]
    out += [_parameter(p, trials[f"param_{p.name}"]) for p in parameters(study)]
    if study.search is not None:
        out += [_numbers("config", trials["config"]), _choices("phase", trials["phase"], ("search", "confirm"))]
    if "epochs" in trials:
        out.append(_numbers("epochs", trials["epochs"]))
    if (spent := _hours(study, trials)) is not None:
        out.append(spent)
    why = _reasons(study, trials)
    return [*out, Column(name="why", label="why there is no value", kind="text", values=why)] if any(why) else out


def axes(study: Study) -> list[str]:
    """The columns that are parallel coordinates, in their order, as the figure has them: the most important first, the metric last."""
    found, _ = by_importance(study)
    names = ["variant" if p.column == "variant" else f"param_{p.name}" for p in found][:MAX_AXES]
    return [*(names or ["variant"]), study.metric]


def _parameter(parameter: Parameter, values: "pd.Series[Any]") -> Column:
    name, label = f"param_{parameter.name}", parameter.name
    if parameter.choices:
        return _choices(name, values, tuple(map(value, parameter.choices)), label=label)
    return _numbers(name, values, label=label, log=parameter.log)


def value(one: object) -> str:
    """A parameter's value as the grid would write it, numbers with six digits."""
    one = one.item() if hasattr(one, "item") else one
    return str(one).lower() if isinstance(one, bool) else f"{one:.6g}" if isinstance(one, float) else str(one)


def _choices(name: str, values: "pd.Series[Any]", choices: Sequence[str], *, label: str = "") -> Column:
    known = {choice: i for i, choice in enumerate(choices)}
    places = [None if pd.isna(v) else known.setdefault(value(v), len(known)) for v in values]
    return Column(name=name, label=label or name, kind="choice", values=places, choices=list(known))


def _numbers(name: str, values: "pd.Series[Any]", *, label: str = "", log: bool = False, factor: float = 1,
             digits: int = 5) -> Column:
    floats = _floats(values) * factor
    log = log and bool((floats[np.isfinite(floats)] > 0).all())
    return Column(name=name, label=label or name, kind="number", values=[_short(v, digits) for v in floats], log=log,
                  percent=factor == 100)


def _metric(name: str, values: "pd.Series[Any]") -> Column:
    share = stats.is_share(name)
    return _numbers(name, values, label=f"{stats.words(name)}{' (%)' if share else ''}", factor=100 if share else 1)


def _hours(study: Study, trials: pd.DataFrame) -> Column | None:
    try:
        spent = cost.per_trial(study)
    except NotForThisStudy:
        return None
    factor, unit = cost.scale(study, float(spent["hours"].max()))
    by_trial = dict(zip(spent["trial_id"], spent["hours"] * factor, strict=True))
    return _numbers(unit.replace("-", "_"), trials["trial_id"].map(by_trial), label=unit, digits=3)


def _reasons(study: Study, trials: pd.DataFrame) -> list[str | None]:
    """Why trials have no value: the reason of an infeasible one, else the last error or cause."""
    reasons = trials["reason"] if "reason" in trials else pd.Series(None, index=trials.index, dtype=object)
    last = last_attempts(study).set_index("trial_id")
    words = last["error"].where(last["error"].notna(), last["cause"]) if "error" in last else last["cause"]
    said = trials["trial_id"].map(words.to_dict())
    over = trials["status"].isin(["done", "pruned"])
    return [None if fine or (pd.isna(r) and pd.isna(s)) else str(s if pd.isna(r) else r)[:200]
            for fine, r, s in zip(over, reasons, said, strict=True)]


def last_attempts(study: Study) -> pd.DataFrame:
    """The last attempt at each trial that has one."""
    return study.attempts.sort_values(["trial_id", "attempt"], kind="stable").drop_duplicates("trial_id", keep="last")


def _floats(values: "pd.Series[Any]") -> Floats:
    return np.asarray(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=math.nan), dtype=np.float64)


def _short(number_: float, digits: int) -> float | int | None:
    if not math.isfinite(number_):
        return None
    text = float(f"{number_:.{digits}g}")
    return int(text) if text.is_integer() and abs(text) < 1e15 else text


# ------------------------------------------------------------------------------------------------------------ learning curves


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """The study's metric over the epochs of each trial."""

    label: str
    low: float
    high: float
    """The ends of the axis: what is far on the worse side is beyond them."""
    epochs: list[int]
    """The last epoch of each trial; 0 without any."""
    points: list[str]
    """`POINTS` values at most for each trial, evenly from its first epoch to its last."""


def curves(study: Study, trials: pd.DataFrame) -> Curves | None:
    """The curves of these trials; None when no epoch is known."""
    if study.epochs.empty or study.metric not in study.epochs:
        return None
    number_of = {str(t): i for i, t in enumerate(trials["trial_id"])}
    rows = study.epochs[["trial_id", "epoch", study.metric]]
    place = rows["trial_id"].map(number_of)
    rows = rows[place.notna()].assign(place=place[place.notna()].astype(int)).sort_values(["place", "epoch"], kind="stable")
    rows = rows.drop_duplicates(["place", "epoch"])
    factor = 100.0 if stats.is_share(study.metric) else 1.0
    values, places = _floats(rows[study.metric]) * factor, rows["place"].to_numpy(dtype=int)
    if not np.isfinite(values).any():
        return None
    low, high = _informative(values, study.mode)
    counts = np.bincount(places, minlength=len(trials))
    first = np.cumsum(counts) - counts
    coded = _code(values, low, high)
    points = ["".join(coded[first[i] + k] for k in sampled(int(n))) for i, n in enumerate(counts)]
    return Curves(label=f"{stats.words(study.metric)}{' (%)' if factor == 100 else ''}", low=low, high=high, epochs=counts.tolist(),
                  points=points)


def sampled(epochs: int) -> list[int]:
    """Which of so many epochs are drawn; report.js counts alike."""
    if epochs <= POINTS:
        return list(range(epochs))
    return [(2 * k * (epochs - 1) + POINTS - 1) // (2 * (POINTS - 1)) for k in range(POINTS)]


def _informative(values: Floats, mode: str) -> tuple[float, float]:
    """An axis on which the better values are apart: the worst tenth of all values may lie beyond it where they are far away."""
    finite = np.sort(values[np.isfinite(values)])
    low, high = float(finite[0]), float(finite[-1])
    tenth = float(finite[len(finite) // 10] if mode == "max" else finite[-1 - len(finite) // 10])
    if mode == "max" and tenth - low > (high - tenth) / 2:
        low = tenth
    if mode == "min" and high - tenth > (tenth - low) / 2:
        high = tenth
    pad = 0.03 * (high - low) or 0.02 * abs(high) or 1.0
    return float(f"{low - pad:.5g}"), float(f"{high + pad:.5g}")


def _code(values: Floats, low: float, high: float) -> list[str]:
    """Two letters for each value."""
    with np.errstate(invalid="ignore"):
        at = np.round((values - low) / (high - low) * TOP)
    at = np.where(at < 0, BELOW, np.where(at > TOP, ABOVE, at))
    whole = np.where(np.isnan(at), MISSING, at).astype(int)
    return [DIGITS[v >> 6] + DIGITS[v & 63] for v in whole.tolist()]


def payload(study: Study, trials: pd.DataFrame, table: Sequence[Column]) -> dict[str, Any]:
    """What the page's script reads, ready for JSON: the columns, the curves, and how many trials there are."""
    drawn = curves(study, trials)
    return {"study": study.name, "metric": study.metric, "mode": study.mode, "total": len(study.all_trials), "size": len(trials),
            "axes": axes(study),
            "columns": [{k: v for k, v in asdict(c).items() if v not in (None, False)} for c in table],
            "curves": None if drawn is None else asdict(drawn)}
