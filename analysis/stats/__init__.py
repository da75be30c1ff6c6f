"""Statistics that hold with few seeds: Student t, paired by seed (and split), with what many comparisons cost. Pure: values in, values out.

Why t: at 3 seeds a nominal 95 % percentile bootstrap covers 75 %, mean +- 1.96 standard errors 81 %, Student t 95 %.
Below `MIN_N` values there is no interval (NaN): with 2 it would be 13 standard errors wide and rest on a single difference.
The set of the best is in `analysis.best`, seed noise and the test set in `analysis.noise`; docs/statistics.md has the whole policy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit

MIN_N = 3
"""Fewest values for which an interval is given."""
LEVEL = 0.95
PAIR = ("seed",)
"""What two trials have in common that are a pair; with the column of the split where a study has several."""

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_KINDS = {"acc": "accuracy", "loss": "loss"}
# what became of trials that give no value, for one of them and for several
_ENDED = {"infeasible": ("diverged", "diverged"), "failed": ("failed", "failed"), "lost": ("was lost", "were lost"),
          "unfinished": ("is not finished", "are not finished")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The mean of n values; `sd` has n - 1 in the denominator, `half` is the t half-width, both NaN where n is too small."""

    n: int
    mean: float
    sd: float
    half: float


def t_quantile(n: float | npt.NDArray[np.float64], *, level: float = LEVEL) -> npt.NDArray[np.float64]:
    """The factor of the standard error in a two-sided t interval of n values; NaN below `MIN_N`. 4.303 for n = 3 at 95 %."""
    n_ = np.asarray(n, dtype=float)
    quantile = np.asarray(stdtrit(np.maximum(n_ - 1, 1), 0.5 + level / 2), dtype=float)
    out: npt.NDArray[np.float64] = np.where(n_ >= MIN_N, quantile, np.nan)
    return out


def summarise(values: Sequence[float] | npt.NDArray[np.float64], *, level: float = LEVEL) -> Summary:
    """Mean, standard deviation and t half-width of the finite ones among the values."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return Summary(n=0, mean=math.nan, sd=math.nan, half=math.nan)
    mean = float(x.mean())
    sd = _sd(x)
    return Summary(n=len(x), mean=mean, sd=sd, half=float(t_quantile(len(x), level=level)) * sd / math.sqrt(len(x)))


def _sd(x: npt.NDArray[np.float64]) -> float:
    """Standard deviation; exactly 0 where the values differ by rounding only, NaN for a single one."""
    if len(x) < 2:
        return math.nan
    sd = float(x.std(ddof=1))
    return 0.0 if sd <= 1e-12 * max(1.0, float(np.abs(x).max())) else sd


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """k of n with the Wilson interval of the share; NaN where n is 0."""

    k: int
    n: int
    share: float
    low: float
    high: float


def share(k: int, n: int, *, level: float = LEVEL) -> Share:
    """A share with its score interval (Wilson, JASA 22, 1927), which holds near 0 and 1 and for small n, where k/n +- 1.96 standard errors
    does not (Brown, Cai and DasGupta, Statistical Science 16, 2001). 0 of 10: 0 to 28 %."""
    if n == 0:
        return Share(k=0, n=0, share=math.nan, low=math.nan, high=math.nan)
    z = float(ndtri(0.5 + level / 2))
    p, add = k / n, z * z / n
    middle, half = (p + add / 2) / (1 + add), z * math.sqrt(p * (1 - p) / n + add / (4 * n)) / (1 + add)
    return Share(k=k, n=n, share=p, low=max(0.0, middle - half) if k else 0.0, high=min(1.0, middle + half) if k < n else 1.0)


def units(index: pd.Index, by: Sequence[str]) -> tuple[str, npt.NDArray[np.int64]]:
    """What counts as one independent repetition among trials (or pairs of trials) with such an index, and its number for each.

    Several splits: all seeds of one split share its images, so their mean is one value, and n counts splits. With fewer than `MIN_N` splits
    n counts seeds, each a mean over the splits, and what is said holds for these splits.
    """
    split = index.get_level_values(by[-1])
    if len(by) > 1 and split.nunique() >= MIN_N:
        return "split", np.asarray(pd.factorize(split)[0], dtype=np.int64)
    return "seed", np.asarray(pd.factorize(index.get_level_values(by[0]))[0], dtype=np.int64)


def grouped_means(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(rows, columns) -> (groups, columns): the mean of the finite values of each group; NaN where a group has none."""
    member = np.zeros((int(groups.max(initial=-1)) + 1, len(groups)))
    member[groups, np.arange(len(groups))] = 1.0
    finite = np.isfinite(values)
    counts = member @ finite
    out: npt.NDArray[np.float64] = np.divide(member @ np.where(finite, values, 0.0), counts, out=np.full(counts.shape, np.nan),
                                             where=counts > 0)
    return out


def wide(trials: pd.DataFrame, column: str, by: Sequence[str] = PAIR) -> pd.DataFrame:
    """One row for each pairing key, one column for each variant, of finite values of `column`."""
    table = trials.pivot(index=list(by), columns="variant", values=column).astype(float)
    return table.where(np.isfinite(table))


def by_variant(trials: pd.DataFrame, column: str, *, variants: Sequence[str], by: Sequence[str] = PAIR) -> pd.DataFrame:
    """One row for each variant, in that order: variant, n, mean, sd, half_width, low, high of `column` over its trials, and unit, what n
    counts: with several splits that is what `units` names."""
    groups = dict(list(trials.groupby("variant")))
    rows = []
    for variant in variants:
        values = _floats(groups[variant][column]) if variant in groups else np.zeros(0)
        unit = "seed"
        if len(by) > 1 and len(values):
            unit, numbers = units(pd.MultiIndex.from_frame(groups[variant][list(by)]), by)
            values = grouped_means(values[:, None], numbers)[:, 0]
        s = summarise(values)
        rows.append((variant, s.n, s.mean, s.sd, s.half, s.mean - s.half, s.mean + s.half, unit))
    return pd.DataFrame(rows, columns=["variant", "n", "mean", "sd", "half_width", "low", "high", "unit"])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gap:
    """A difference of two means with its standard error, and on how many values of each side it rests."""

    mean: float = math.nan
    sd: float = math.nan
    """Of the paired differences."""
    se: float = math.nan
    df: float = math.nan
    n: int = 0
    n_reference: int = 0
    pairs: int = 0
    unit: str = "seed"

    def half(self, level: float = LEVEL) -> float:
        return float(stdtrit(self.df, 0.5 + level / 2)) * self.se if self.df > 0 else math.nan

    def p(self) -> float:
        """Two-sided p of the t test against 0; NaN without an interval, and where all differences are equal and not zero."""
        if not self.df > 0:
            return math.nan
        if self.se == 0:
            return 1.0 if self.mean == 0 else math.nan
        return float(2 * stdtr(self.df, -abs(self.mean) / self.se))


def _paired_gap(values: pd.DataFrame, variant: str, reference: str, by: Sequence[str]) -> _Gap:
    """The mean of the paired differences, or where not one key is shared that of the means (Welch, Biometrika 34, 1947)."""
    if variant not in values or reference not in values:
        return _Gap()
    unit, numbers = units(values.index, by)
    gaps = _floats(values[variant] - values[reference])
    pairs = int(np.isfinite(gaps).sum())
    if not pairs:
        return _unpaired_gap(*(grouped_means(_floats(values[v])[:, None], numbers)[:, 0] for v in (variant, reference)))
    s = summarise(grouped_means(gaps[:, None], numbers)[:, 0])
    df = s.n - 1 if s.n >= MIN_N else math.nan
    return _Gap(mean=s.mean, sd=s.sd, se=s.sd / math.sqrt(s.n), df=df, n=s.n, n_reference=s.n, pairs=pairs, unit=unit)


def _unpaired_gap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> _Gap:
    first, second = summarise(a), summarise(b)
    if min(first.n, second.n) < MIN_N:
        return _Gap()
    parts = first.sd**2 / first.n, second.sd**2 / second.n
    df = sum(parts)**2 / (parts[0]**2 / (first.n - 1) + parts[1]**2 / (second.n - 1)) if sum(parts) else float(first.n + second.n - 2)
    return _Gap(mean=first.mean - second.mean, se=math.sqrt(sum(parts)), df=df, n=first.n, n_reference=second.n)


def paired(trials: pd.DataFrame, column: str, *, variants: Sequence[str], reference: str, by: Sequence[str] = PAIR) -> pd.DataFrame:
    """Differences (variant minus reference) of `column`, paired by seed (and split), for every variant but the reference.

    Only keys that both have count: the same seed means the same initialisation stream, order of the data and augmentation. Two variants
    without a single key in common are compared unpaired, by Welch's interval.

    Returns:
        variant, reference, n, comparisons, difference, sd (of the paired differences), half_width (t, 95 %), low, high,
        simultaneous_half_width (Bonferroni t: together they hold with 95 % over all comparisons that have an interval), simultaneous_low,
        simultaneous_high, p (two-sided t test), p_holm (Holm 1979), se (standard error of the difference), n_reference (another than n
        only where unpaired), pairs (of trials; 0 where unpaired), unit (what n counts: "seed" or "split"). NaN where n < 3, and p also
        where the differences are all equal and not zero.
    """
    values = wide(trials, column, by)
    arms = [v for v in variants if v != reference]
    gaps = [_paired_gap(values, variant, reference, by) for variant in arms]
    family = sum(gap.df > 0 for gap in gaps)
    p = np.array([gap.p() for gap in gaps])
    rows = []
    for variant, gap, p_raw, p_holm in zip(arms, gaps, p, holm(p), strict=True):
        half, wider = gap.half(), gap.half(1 - (1 - LEVEL) / max(family, 1))
        rows.append((variant, reference, gap.n, family, gap.mean, gap.sd, half, gap.mean - half, gap.mean + half,
                     wider, gap.mean - wider, gap.mean + wider, p_raw, p_holm, gap.se, gap.n_reference, gap.pairs, gap.unit))
    return pd.DataFrame(rows, columns=["variant", "reference", "n", "comparisons", "difference", "sd", "half_width", "low", "high",
                                       "simultaneous_half_width", "simultaneous_low", "simultaneous_high", "p", "p_holm", "se",
                                       "n_reference", "pairs", "unit"])


def _floats(values: "pd.Series[float]") -> npt.NDArray[np.float64]:
    return np.asarray(values.to_numpy(dtype=float, na_value=np.nan), dtype=np.float64)


def holm(p: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979): the i-th smallest of m times m - i + 1, made monotone.

    NaN stays NaN and is not counted in m.
    """
    p_ = np.asarray(p, dtype=float)
    out = np.full(p_.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_))
    order = known[np.argsort(p_[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p_[order] * factors))
    return out


def words(metric: str) -> str:
    """A column in words: `test_acc` is "test accuracy"; a name of the user's own stays as it is."""
    split, _, kind = metric.rpartition("_")
    return f"{_SPLITS[split]} {_KINDS[kind]}" if split in _SPLITS and kind in _KINDS else metric


def is_share(metric: str) -> bool:
    """Whether a column is a share from 0 to 1 that is shown in percent."""
    return metric.endswith(("acc", "accuracy"))


def show(value: float, metric: str) -> str:
    """A value or a difference for reading: shares times 100 with one decimal, others with three significant digits."""
    if not math.isfinite(value):
        return "–"
    # no "-0.0"
    text = f"{100 * value:.1f}" if is_share(metric) else f"{value:.3g}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def show_with_half(mean: float, half: float, metric: str) -> str:
    """A mean with its half-width at the same number of decimals, without one where it is NaN: "92.3 ± 2.2", "0.107 ± 0.004"."""
    if not math.isfinite(mean):
        return "–"
    factor = 100 if is_share(metric) else 1
    decimals = 1 if factor == 100 or not mean else min(max(2 - math.floor(math.log10(abs(mean))), 0), 9)
    text = f"{factor * mean:.{decimals}f}" + (f" ± {factor * half:.{decimals}f}" if math.isfinite(half) else "")
    return text.replace("-", "−")


def endings(trials: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How the trials of each variant ended: variant -> status -> how many, the finished ones under "done"."""
    counts: dict[str, dict[str, int]] = {}
    for variant, status in zip(trials["variant"], trials["status"], strict=True):
        of_variant = counts.setdefault(str(variant), {})
        of_variant[str(status)] = of_variant.get(str(status), 0) + 1
    return counts


def _left_out(counts: Mapping[str, int], of: str = "") -> str:
    """The trials of one variant that give no value: "5 of its 8 seeds diverged and are left out"; "" when all are finished.

    Args:
        of: the variant's name, for "5 of the 8 seeds of depth=1"; without it "5 of its 8 seeds".
    """
    others = {s: n for s in dict.fromkeys((*_ENDED, *sorted(counts))) if s != "done" and (n := counts.get(s, 0))}
    if not others:
        return ""
    total, gone = sum(counts.values()), sum(others.values())
    seeds = f"{total} {'seed' if total == 1 else 'seeds'}"
    verbs = [_ENDED[s][n > 1] if s in _ENDED else s for s, n in others.items()]
    if counts.get("infeasible") == total:  # a network that cannot be built cannot be built with any seed
        verbs = ["diverged or could not be built"]
    numbers = [f"{next(iter(others.values()))} of {f'the {seeds} of {of}' if of else f'its {seeds}'}", *map(str, list(others.values())[1:])]
    told = [f"{number} {verb}" for number, verb in zip(numbers, verbs, strict=True)]
    if len(told) == 1:
        return f"{told[0]} and {'is' if gone == 1 else 'are'} left out"
    return f"{', '.join(told[:-1])} and {told[-1]}; these {gone} are left out"


def _with_note(text: str, *notes: str) -> str:
    return "; ".join([text, *(note for note in notes if note)])


def sentence(row: "pd.Series[float]", metric: str, *, mode: str, ended: Mapping[str, Mapping[str, int]]) -> str:
    """What one row of `paired` shows, with its interval, and no more than it shows.

    "beats" and "is worse than" are said only when the interval leaves out zero, and with several comparisons only when the
    simultaneous one does. They are never said when trials of either side diverged: what is left of such a variant are the seeds that
    went well, and a mean over those is no mean over seeds.

    Args:
        ended: how the trials of each variant ended, from `endings`.
    """
    variant, reference = f"{row['variant']}", f"{row['reference']}"
    sides = [ended.get(v, {}) for v in (variant, reference)]
    if int(row["n"]) == 0:
        return _with_note(f"{variant} and {reference} cannot be compared: no seed has a finished trial of both",
                          _left_out(sides[0], variant), _left_out(sides[1], reference))
    return _with_note(_comparison(row, metric, mode=mode, diverged=any(counts.get("infeasible") for counts in sides)),
                      _left_out(sides[0]), _left_out(sides[1], reference))


def _comparison(row: "pd.Series[float]", metric: str, *, mode: str, diverged: bool) -> str:
    """The sentence about one row with pairs; `diverged`: whether trials of either side did."""
    sign = -1.0 if mode == "min" else 1.0
    gain = sign * float(row["difference"])
    n, family = int(row["n"]), int(row["comparisons"])
    variant, reference = f"{row['variant']}", f"{row['reference']}"
    amount = f"{show(abs(gain), metric)} {'points of' if is_share(metric) else 'of'} {words(metric)}"
    level = abs(gain) < 1e-12 or show(gain, metric) == "0.0"
    apart = f"{variant} is level with {reference} in {words(metric)}" if level else (
        f"{variant} is {'ahead of' if gain > 0 else 'behind'} {reference} by {amount}")
    apart += " among the seeds that did not diverge" if diverged else ""
    pairs = sample(row)
    if n < MIN_N:
        return f"{apart} (n = {pairs}, too few for an interval)"
    if float(row["se"]) == 0:
        return f"{apart} in each of {pairs} alike, so there is no spread to take an interval from"

    def interval(prefix: str, flip: float) -> str:
        low, high = sorted((flip * float(row[f"{prefix}low"]), flip * float(row[f"{prefix}high"])))
        return f"{show(low, metric)} to {show(high, metric)}"

    flip = sign * (1.0 if gain >= 0 else -1.0)
    pointwise = f"95 % CI {interval('', flip)}"
    if float(row["low"]) <= 0 <= float(row["high"]):
        return f"no difference shown: {apart} ({pointwise}; {pairs})"
    if float(row["simultaneous_low"]) <= 0 <= float(row["simultaneous_high"]):
        return f"{apart} ({pointwise}; {pairs}), but not once {family} comparisons are allowed for ({interval('simultaneous_', flip)})"
    if not diverged:
        apart = f"{variant} {'beats' if gain > 0 else 'is worse than'} {reference} by {amount}"
    together = f", {interval('simultaneous_', flip)} over {family} comparisons together" if family > 1 else ""
    return f"{apart} ({pointwise}{together}; {pairs})"


def sample(row: "pd.Series[float]") -> str:
    """What a row of `paired` rests on: "5 paired seeds", "3 splits with 9 pairs", "5 and 4 seeds, not paired"."""
    n, others, pairs, unit = int(row["n"]), int(row["n_reference"]), int(row["pairs"]), f"{row['unit']}"
    if not pairs:
        return f"{n} and {others} seeds, not paired"
    if unit == "seed" and pairs == n:
        return f"{n} paired {'seed' if n == 1 else 'seeds'}"
    return f"{n} {unit}{'' if n == 1 else 's'} with {pairs} pairs"


def verdicts(trials: pd.DataFrame, column: str, *, mode: str, variants: Sequence[str], reference: str,
             ended: Mapping[str, Mapping[str, int]], by: Sequence[str] = PAIR) -> list[str]:
    """One sentence for each variant against the reference; the largest gain first. With one variant its mean and interval.

    Args:
        trials: the finished trials.
        ended: how all trials of each variant ended, from `endings`: what is left out is said.
    """
    if len(variants) == 1:
        row = by_variant(trials, column, variants=variants, by=by).iloc[0]
        s = Summary(n=int(row["n"]), mean=float(row["mean"]), sd=float(row["sd"]), half=float(row["half_width"]))
        unit = " %" if is_share(column) else ""
        spread = (f"95 % CI {show(s.mean - s.half, column)} to {show(s.mean + s.half, column)}; {s.n} {row['unit']}s" if s.n >= MIN_N
                  else f"n = {s.n}, too few for an interval")
        text = f"{variants[0]}: {words(column)} {show(s.mean, column)}{unit} ({spread}); no other variant to compare with"
        return [_with_note(text, _left_out(ended.get(variants[0], {})))]
    table = paired(trials, column, variants=variants, reference=reference, by=by)
    ordered = table.sort_values("difference", ascending=mode == "min", kind="stable", na_position="last")
    return [sentence(row, column, mode=mode, ended=ended) for _, row in ordered.iterrows()]
