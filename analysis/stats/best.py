"""Which variants may be the best: a set that holds the truly best one with 95 % confidence. Pure: frames in, frames and sentences out.

The variant with the best mean was chosen by the data, so comparing the others with it as if it had been named before would promise too
much. Instead every variant is compared with every other, and one is behind when the paired interval to some other leaves out zero on its
worse side. The truly best of k variants can be called behind by k - 1 comparisons only, whichever of them the data choose, so that
Bonferroni over k - 1 is enough: the set misses it in less than 5 % of studies (the idea of Hsu, Annals of Statistics 9, 1981, and Gupta,
Technometrics 7, 1965, with paired t instead of a common variance). The intervals are two-sided: of two variants the set says what the
sentence about them says.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from analysis import stats

MAX_RIVALS = 200
"""So many variants, those with the best means, are what each variant is compared with; which ones they are does not matter to the 95 %."""


def best_set(trials: pd.DataFrame, column: str, *, mode: str, variants: Sequence[str], ended: Mapping[str, Mapping[str, int]],
             by: Sequence[str] = stats.PAIR) -> pd.DataFrame:
    """Where each variant stands, in the order given.

    Args:
        trials: the finished trials.
        ended: how all trials of each variant ended, from `stats.endings`.

    Returns:
        variant, n, mean, place ("best": the best mean; "level": not distinguishable from the best; "behind"; "" where it cannot be said:
        below 3 values, or seeds diverged, so that what is left is no mean over seeds), rival (that which leaves it most clearly behind),
        low, high (simultaneous interval of its difference to that rival). No place at all where fewer than two variants can be judged.
    """
    out = stats.by_variant(trials, column, variants=variants, by=by)[["variant", "n", "mean"]]
    out["place"], out["rival"], out["low"], out["high"] = "", None, math.nan, math.nan
    whole = np.array([not ended.get(v, {}).get("infeasible") for v in variants])
    judged = out.index[(out["n"] >= stats.MIN_N).to_numpy() & whole]
    if len(judged) < 2:
        return out
    sign = -1.0 if mode == "min" else 1.0
    table = stats.wide(trials, column, by)
    gains = sign * table[[variants[i] for i in judged]].to_numpy()
    _, groups = stats.units(table.index, by)
    order = np.argsort(-sign * out.loc[judged, "mean"].to_numpy(), kind="stable")
    rivals, rest = order[:MAX_RIVALS], np.arange(len(judged))
    for own in rest:
        others = rivals[rivals != own]
        low, high = _intervals(gains[:, [own]] - gains[:, others], groups, comparisons=len(judged) - 1)
        clearest = int(np.nanargmin(high)) if np.isfinite(high).any() else -1
        behind = clearest >= 0 and high[clearest] < 0
        out.loc[judged[own], "place"] = "behind" if behind else "best" if own == order[0] else "level"
        if behind:
            ends = sorted((sign * low[clearest], sign * high[clearest]))
            out.loc[judged[own], ["rival", "low", "high"]] = [variants[judged[others[clearest]]], *ends]
    return out


def _intervals(gaps: npt.NDArray[np.float64], groups: npt.NDArray[np.int64],
               *, comparisons: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Paired t intervals of the columns' means that hold together over so many comparisons; NaN below `stats.MIN_N` pairs, and where all
    differences are equal, which leaves no spread to judge by."""
    means = stats.grouped_means(gaps, groups)
    finite = np.isfinite(means)
    n = finite.sum(axis=0)
    filled = np.where(finite, means, 0.0)
    mean = filled.sum(axis=0) / np.maximum(n, 1)
    sd = np.sqrt((np.where(finite, means - mean, 0.0)**2).sum(axis=0) / np.maximum(n - 1, 1))
    known = (n >= stats.MIN_N) & (sd > 1e-12)
    factor = stdtrit(np.maximum(n - 1, 1), 1 - (1 - stats.LEVEL) / (2 * comparisons))
    half = np.where(known, factor * sd / np.sqrt(np.maximum(n, 1)), np.nan)
    return mean - half, mean + half


def sentence(places: pd.DataFrame, metric: str) -> str:
    """What the set says: which variants may be the best. "" where there are fewer than three to tell apart (the comparison says it all)."""
    judged = places[places["place"] != ""]
    if len(judged) < 3:
        return ""
    inside = judged[judged["place"] != "behind"].sort_values("place", kind="stable")["variant"].tolist()  # "best" before "level"
    left = len(places) - len(judged)
    note = f"; {left} not judged: seeds diverged, or are fewer than {stats.MIN_N}" if left else ""
    of, words = f"of {len(judged)} variants", stats.words(metric)
    if len(inside) == len(judged):
        return f"which {of} is the best in {words} cannot be told: none is behind another, each compared with all others at once{note}"
    if len(inside) == 1:
        return f"{inside[0]} is the best {of} in {words}, with 95 % confidence{note}"
    shown = ", ".join(inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
    return f"the best {of} in {words} is one of {len(inside)}, with 95 % confidence: {shown}{note}"
