"""How strongly two columns of configs go together, whatever their kinds: ranks and counts only, no assumption of a form. Pure.

All of them are 0 for nothing and 1 for one column deciding the other; only Spearman's has a sign.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from analysis.parameters import Parameter

MIN_N = 8
"""Fewest configs for which a number is given."""
BINS = 5
"""Bins of a range that are compared as groups: quintiles."""
BEND = 0.05
"""A share of the variance of the ranks that the groups explain and a straight line through the ranks does not: above it the course is
called non-monotone."""
FAINT = 0.1
"""An epsilon below this has no course worth a name."""
RHO, EPSILON, V = "ρ", "ε", "V"
_Floats = npt.NDArray[np.floating[Any]]
_Codes = npt.NDArray[np.int64]


def spearman(x: _Floats, y: _Floats) -> float:
    """Spearman's rank correlation, -1 to 1, ties at their mean rank; NaN when one of them is constant."""
    a, b = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(y) + 1) / 2
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else np.nan


def epsilon(values: _Floats, groups: _Codes) -> float:
    """The root of Kelley's epsilon squared over the ranks of the values: the correlation ratio, adjusted for what k groups explain by
    chance, 1 - (1 - eta squared) (n - 1) / (n - k) (Kelley, PNAS 21, 1935); 0 where that is negative, NaN when the values are constant,
    when there is one group or one group for each value."""
    n, (_, codes, counts) = len(values), np.unique(groups, return_inverse=True, return_counts=True)
    ranks = rankdata(values) - (n + 1) / 2
    total = float(ranks @ ranks)
    if total == 0 or not 1 < len(counts) < n:
        return np.nan
    between = float((np.bincount(codes, weights=ranks) ** 2 / counts).sum())
    return float(np.sqrt(max(0.0, 1 - (1 - between / total) * (n - 1) / (n - len(counts)))))


def cramers_v(a: _Codes, b: _Codes) -> float:
    """Cramér's V with the bias correction of Bergsma (Journal of the Korean Statistical Society 42, 2013); NaN when one is constant."""
    n = len(a)
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    r, k = len(rows), len(columns)
    if min(r, k) < 2 or n < 2:
        return np.nan
    observed = np.bincount(row * k + column, minlength=r * k).reshape(r, k)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / n
    phi2 = float(((observed - expected) ** 2 / expected).sum()) / n
    phi2 = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(min(1.0, phi2 / smaller))) if smaller > 0 else np.nan


def quantile_bins(values: _Floats, bins: int = BINS) -> _Codes:
    """The number of the bin of each value, from 0, of bins that hold about equally many. Equal values share one, so that there may be
    fewer bins; so few different values have one each."""
    found, which = np.unique(values, return_inverse=True)
    if len(found) <= bins:
        return which.reshape(-1).astype(np.int64)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    codes = np.searchsorted(edges, values, side="left")
    return np.unique(codes, return_inverse=True)[1].reshape(-1).astype(np.int64)


def groups(values: "pd.Series[float]", parameter: Parameter, bins: int = BINS) -> _Codes:
    """A parameter's settings as groups: its choices where they are words or at most `bins` numbers, else bins of a range."""
    if parameter.numeric and (not parameter.choices or values.nunique() > bins):
        return quantile_bins(values.to_numpy(dtype=float), bins)
    return codes_of(values, parameter)


def codes_of(values: "pd.Series[float]", parameter: Parameter) -> _Codes:
    """The number of each setting among the parameter's choices; of a range among the values that are there."""
    order = parameter.choices or tuple(sorted(values.unique()))
    return values.map({choice: i for i, choice in enumerate(order)}).to_numpy(dtype=np.int64)


def table(rows: pd.DataFrame, factors: Sequence[Parameter], objective: "pd.Series[float]") -> pd.DataFrame:
    """Every factor with the objective and with every other factor.

    Only rows in which both have a value count for a pair, since a config that does not read a parameter has none.

    Args:
        rows: a column for each factor.
        objective: how good each row is, higher is better; only its order counts. NaN where it has none.

    Returns:
        first, second (empty for the objective), statistic (`RHO` Spearman, `EPSILON`, `V` Cramér), value (NaN below `MIN_N` rows), n,
        course (of the objective over a number: "rising", "falling", "hump", "dip", "uneven"; "" where it is none of these).
    """
    out = []
    columns = {f.name: rows[f.column] for f in factors}
    for i, one in enumerate(factors):
        known = columns[one.name].notna() & objective.notna()
        out.append((one.name, "", EPSILON, *_of_objective(columns[one.name][known], one, objective[known].to_numpy(dtype=float))))
        for other in factors[i + 1:]:
            both = columns[one.name].notna() & columns[other.name].notna()
            out.append((one.name, other.name, *_of_two(columns[one.name][both], one, columns[other.name][both], other), ""))
    return pd.DataFrame(out, columns=["first", "second", "statistic", "value", "n", "course"])


def _of_objective(values: "pd.Series[float]", factor: Parameter, better: _Floats) -> tuple[float, int, str]:
    if len(values) < MIN_N:
        return np.nan, len(values), ""
    codes = groups(values, factor)
    value = epsilon(better, codes)
    course = _course(values.to_numpy(dtype=float), codes, better, value) if factor.numeric and value >= FAINT else ""
    return value, len(values), course


def _course(x: _Floats, codes: _Codes, better: _Floats, value: float) -> str:
    """What the objective does as a number rises."""
    rho = spearman(x, better)
    if value ** 2 - rho ** 2 <= BEND:
        return "rising" if rho > 0 else "falling"
    means = np.bincount(codes, weights=rankdata(better)) / np.bincount(codes)
    highest, lowest, last = int(means.argmax()), int(means.argmin()), len(means) - 1
    if 0 < highest < last:
        return "hump" if lowest in (0, last) else "uneven"
    return "dip" if 0 < lowest < last else "uneven"


def _of_two(a: "pd.Series[float]", one: Parameter, b: "pd.Series[float]", other: Parameter) -> tuple[str, float, int]:
    kind = RHO if one.numeric and other.numeric else EPSILON if one.numeric or other.numeric else V
    if len(a) < MIN_N:
        return kind, np.nan, len(a)
    if kind == RHO:
        return kind, spearman(a.to_numpy(dtype=float), b.to_numpy(dtype=float)), len(a)
    if kind == V:
        return kind, cramers_v(codes_of(a, one), codes_of(b, other)), len(a)
    numbers, words, factor = (a, b, other) if one.numeric else (b, a, one)
    return kind, epsilon(numbers.to_numpy(dtype=float), codes_of(words, factor)), len(a)
