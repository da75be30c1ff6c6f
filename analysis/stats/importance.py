"""Which parameters decide: the share of a model's variance that each takes part in, with an interval, or why there is no saying.

A random forest learns what the configs gave. The total effect of a parameter (Jansen, Computer Physics Communications 117, 1999) is what
its predictions change by, on average and squared, when the parameter alone gets the value of another config: half of it over the variance
of the predictions. The total interaction of two is the part of the variance that needs both (Liu and Owen, JASA 101, 2006). Both count
what a parameter does together with others, so that shares may add up to more than 1.

A parameter that only some configs read is scored within those; a choice that switches others on takes them along when it is changed, so
that no config arises that cannot be. Pure: a study in, frames out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import stats
from analysis.load import AnalysisError, NotForThisStudy, Study
from analysis.parameters import Parameter, configs, factors, places
from analysis.stats.association import codes_of

MIN_R2 = 0.2
"""Below this out-of-bag R2 the forest has learned too little for its importances to mean anything."""
PER_PARAMETER = 10
"""Fewest configs for each parameter."""
CLIP = 0.05
"""The worst share of the values is set to the value at its edge, since how bad a bad config is says nothing of a good one."""
MAX_CONFIGS = 1000
"""Of more configs a random sample is taken, so that it takes two seconds whatever the study."""
TREES, REFITS, REFIT_TREES, LEAF = 64, 16, 12, 3
"""Trees of the forest and of each of its refits on resampled configs (a refit takes 0.06 s at 1,000 configs and 12 parameters), and
fewest configs in a leaf."""
PAIRED = 8
"""Parameters, the most important ones, whose interactions are looked at."""
_Floats = npt.NDArray[np.float64]
_Predict = Callable[[_Floats], _Floats]


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """What the model says."""

    shares: pd.DataFrame
    """One row for each parameter, the most important first: parameter, within (the parameters that switch it on, "" for none), n (configs
    that read it), share (total effect, of 1), low, high (95 %, from refits on resampled configs)."""
    pairs: pd.DataFrame
    """One row for each two of the most important parameters, the strongest first: first (the more important), second, share."""
    r2: float
    """Out of bag: of configs that a tree has not seen."""
    n: int
    """Configs that the model has learned from."""
    of: int
    """Configs that it could have learned from."""


def importance(study: Study) -> Importance:
    """The importance of everything that varies in a study. What diverged counts as the worst; what failed or is not finished is left out.

    Of a halved search the places are learned (see `analysis.parameters.places`), since values of different training do not compare.

    Raises:
        NotForThisStudy: less than two things vary, or there are fewer than `PER_PARAMETER` configs for each.
        AnalysisError: the model does not fit.
    """
    found, rows = factors(study), configs(study)
    rows = rows.assign(better=objective(rows, study.mode))
    rows = rows[rows["better"].notna()].reset_index(drop=True)
    needed = PER_PARAMETER * len(found)
    if len(found) < 2 or len(rows) < needed:
        few = f"{len(rows)} configs have a result, and {len(found)} parameters need {needed}" if len(found) > 1 else "too little varies"
        raise NotForThisStudy(f"{study.name}: no importances: {few}")
    of = len(rows)
    if of > MAX_CONFIGS:
        rows = rows.sample(MAX_CONFIGS, random_state=0).sort_index().reset_index(drop=True)
    x, y = matrix(rows, found), rows["better"].to_numpy(dtype=float)
    nested = switched(rows, found)
    r2, total, low, high, pairs = _model(x.tobytes(), y.tobytes(), nested)
    if not r2 >= MIN_R2:
        raise AnalysisError(f"{study.name}: no importances: a model of what the parameters gave explains {100 * max(r2, 0):.0f} % of it "
                            f"in configs that it has not seen (R² = {r2:.2f}; {MIN_R2:g} is asked), so its importances would mean nothing")
    within = [", ".join(found[i].name for i, switches in enumerate(nested) if j in switches) for j in range(len(found))]
    shares = pd.DataFrame({"parameter": [f.name for f in found], "within": within, "n": [int(rows[f.column].notna().sum()) for f in found],
                           "share": total, "low": low, "high": high}).sort_values("share", ascending=False, kind="stable",
                                                                                ignore_index=True)
    strongest = pd.DataFrame([(found[i].name, found[j].name, share) for i, j, share in pairs], columns=["first", "second", "share"])
    return Importance(shares=shares, pairs=strongest, r2=r2, n=len(rows), of=of)


def by_importance(study: Study) -> tuple[tuple[Parameter, ...], str]:
    """What varies, the most important first, or as in the grid; and how it is ordered, in words for a caption."""
    found = factors(study)
    try:
        place = {name: i for i, name in enumerate(importance(study).shares["parameter"])}
    except AnalysisError:
        return found, "in the grid's order"
    return tuple(sorted(found, key=lambda f: place[f.name])), "the most important first"


def objective(rows: pd.DataFrame, mode: str, *, clip: float = CLIP) -> "pd.Series[float]":
    """How good each of `configs` is, higher is better, the worst share `clip` of them alike; of a halved search the places. What diverged
    is as bad as the worst; NaN for what has no result."""
    if rows.loc[rows["value"].notna(), "epochs"].notna().any():
        better = places(rows, mode)
    else:
        better = rows["value"].astype(float) * (-1 if mode == "min" else 1)
    worst = float(better.quantile(clip))
    out: pd.Series[float] = better.clip(lower=worst).mask(rows["status"] == "infeasible", worst)
    return out


def matrix(rows: pd.DataFrame, found: Sequence[Parameter]) -> _Floats:
    """(configs, parameters): the number of each setting in their order, which is all that trees look at; -1 where it is not read."""
    columns = []
    for one in found:
        out = np.full(len(rows), -1.0)
        read = rows[one.column].notna().to_numpy()
        values = rows.loc[read, one.column]
        settings = values.to_numpy(dtype=float) if one.numeric else codes_of(values, one)
        out[read] = np.unique(settings, return_inverse=True)[1].reshape(-1)
        columns.append(out)
    return np.column_stack(columns)


def switched(rows: pd.DataFrame, found: Sequence[Parameter]) -> tuple[tuple[int, ...], ...]:
    """For each parameter those that it switches on: which are read under some of its choices, and under the others never."""
    read = {one.name: rows[one.column].notna() for one in found}
    conditional = [j for j, one in enumerate(found) if not read[one.name].all()]
    out = []
    for i, one in enumerate(found):
        mine = []
        for j in (j for j in conditional if j != i and one.choices and rows[one.column].nunique() <= len(rows) / 4):
            share = read[found[j].name].groupby(rows[one.column].astype(object).where(read[one.name], None), dropna=False).mean()
            chosen = share[share.index.notna()]
            mine += [j] if share.isin([0, 1]).all() and chosen.nunique() == 2 else []
        out.append(tuple(mine))
    return tuple(out)


@lru_cache(maxsize=4)
def _model(x_bytes: bytes, y_bytes: bytes, nested: tuple[tuple[int, ...], ...]) -> tuple[
        float, _Floats, _Floats, _Floats, tuple[tuple[int, int, float], ...]]:
    """R2, total effects, their intervals and the interactions; by the content of the table, since several figures of a study ask."""
    from sklearn.ensemble import RandomForestRegressor

    y = np.frombuffer(y_bytes)
    x = np.frombuffer(x_bytes).reshape(len(y), len(nested))
    nothing = np.full(len(nested), math.nan)
    if y.std() <= 1e-12 * np.abs(y).max():
        return 0.0, nothing, nothing, nothing, ()

    def forest(trees: int, seed: int, rows: npt.NDArray[np.int64], *, oob: bool = False) -> RandomForestRegressor:
        return RandomForestRegressor(trees, min_samples_leaf=LEAF, oob_score=oob, random_state=seed).fit(x[rows], y[rows])

    whole, rng = forest(TREES, 0, np.arange(len(y)), oob=True), np.random.default_rng(0)
    if not whole.oob_score_ >= MIN_R2:
        return float(whole.oob_score_), nothing, nothing, nothing, ()
    total, pairs = effects(whole.predict, x, x >= 0, nested, rng, pairs=PAIRED)
    refits = []
    for seed in range(REFITS):
        rows = rng.integers(0, len(y), len(y))
        some = rows[:MAX_CONFIGS // 2]
        refits.append(effects(forest(REFIT_TREES, seed, rows).predict, x[some], x[some] >= 0, nested, rng)[0])
    half = float(stats.t_quantile(REFITS)) * np.std(refits, axis=0, ddof=1)
    return float(whole.oob_score_), total, np.maximum(0.0, total - half), total + half, pairs


def effects(predict: _Predict, x: _Floats, read: npt.NDArray[np.bool_], nested: Sequence[Sequence[int]], rng: np.random.Generator, *,
            pairs: int = 0) -> tuple[_Floats, tuple[tuple[int, int, float], ...]]:
    """Total effects of the columns of x, and the total interactions of the `pairs` most important ones, the strongest first.

    Args:
        predict: what the function gives for each row.
        read: which values are read; the others stay as they are.
        nested: for each column those that are exchanged with it.
    """
    changed = []
    for j in range(x.shape[1]):
        mine, columns = np.flatnonzero(read[:, j]), np.array([j, *nested[j]])
        other = x.copy()
        other[np.ix_(mine, columns)] = x[np.ix_(rng.permutation(mine), columns)]
        changed.append(other)
    known = _predicted(predict, [x, *changed])
    variance = known[0].var() or math.nan
    total = ((known[1:] - known[0]) ** 2).mean(axis=1) / 2 / variance
    top = np.argsort(-total, kind="stable")[:pairs]
    both = [(int(i), int(j)) for i, j in combinations(top, 2) if i not in nested[j] and j not in nested[i]]
    if not both:
        return total, ()
    joint = _predicted(predict, [np.where(changed[j] != x, changed[j], changed[i]) for i, j in both])
    shares = [((known[0] - known[1 + i] - known[1 + j] + joint[k]) ** 2).mean() / 4 / variance for k, (i, j) in enumerate(both)]
    return total, tuple(sorted(((i, j, float(s)) for (i, j), s in zip(both, shares, strict=True)), key=lambda p: -p[2]))


def _predicted(predict: _Predict, tables: Sequence[_Floats]) -> _Floats:
    """(tables, rows)."""
    return np.asarray(predict(np.vstack(tables))).reshape(len(tables), -1)
