"""How much of what is seen is noise: between seeds, and from the images that the test set happens to hold. Pure: values in, values out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import bdtr, chdtri, nctdtr, stdtrit

from analysis import stats

EFFECT = 0.01
"""The difference of shares that `needed` is about: one point."""
POWER = 0.8
MAX_SEEDS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Seed noise beside the spread between variants, in the metric's own unit; NaN where nothing can be said."""

    variants: int
    """With two seeds or more."""
    seeds: int
    """Values of those variants."""
    sd: float
    """Between seeds of one variant, pooled over the variants."""
    low: float
    high: float
    """95 % interval of `sd` (chi-square; takes the variants' noise as alike and normal)."""
    between: float
    """Between the true means of the variants: their spread without the part that seed noise gives it; 0 where noise explains all."""
    paired: float
    """Between seeds of the difference to the reference, pooled; smaller than 1.41 `sd` where a seed shifts all variants alike."""
    paired_low: float
    paired_high: float
    """95 % interval of `paired`, likewise."""
    needed: int | None
    """Paired seeds that show a difference of `EFFECT` with `POWER`; None beyond `MAX_SEEDS`, or where nothing can be said."""


def by_seed(trials: pd.DataFrame, column: str, *, variants: Sequence[str]) -> pd.DataFrame:
    """One row for each variant with a finite value: variant, n, mean, sd, sd_low, sd_high (95 %, chi-square; NaN for n = 1)."""
    groups = trials.groupby("variant")[column]
    sums = {str(name): stats.summarise(values.to_numpy(dtype=float, na_value=math.nan)) for name, values in groups}
    rows = [(v, sums[v].n, sums[v].mean, sums[v].sd, *sd_interval(sums[v].sd, sums[v].n - 1)) for v in variants if v in sums and sums[v].n]
    return pd.DataFrame(rows, columns=["variant", "n", "mean", "sd", "sd_low", "sd_high"])


def sd_interval(sd: float, df: float) -> tuple[float, float]:
    """95 % interval of a standard deviation with so many degrees of freedom: sd sqrt(df / chi-square quantile), for normal values."""
    if not df > 0 or not math.isfinite(sd):
        return math.nan, math.nan
    upper, lower = (float(chdtri(df, tail)) for tail in ((1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2))
    return sd * math.sqrt(df / upper), sd * math.sqrt(df / lower)


def noise(trials: pd.DataFrame, column: str, *, variants: Sequence[str], reference: str, by: Sequence[str] = stats.PAIR) -> Noise:
    """Seed noise of the finished trials beside what the variants differ by."""
    rows = by_seed(trials, column, variants=variants)
    several = rows[rows["n"] > 1]
    df = int((several["n"] - 1).sum())
    sd = _pooled(several["sd"], several["n"] - 1)
    low, high = sd_interval(sd, df)
    between = math.nan
    if len(several) > 1:  # the variance of the means is that of the true means plus sd^2 / n
        between = math.sqrt(max(0.0, float(several["mean"].var(ddof=1)) - float((several["sd"]**2 / several["n"]).mean())))
    gaps = stats.paired(trials, column, variants=variants, reference=reference, by=by)
    gaps = gaps[(gaps["pairs"] > 0) & gaps["sd"].notna()]
    paired = _pooled(gaps["sd"], gaps["n"] - 1)
    # differences to one reference have a correlation of 1/2, their variances one of 1/4: together they say less than so many apart
    paired_low, paired_high = sd_interval(paired, float((gaps["n"] - 1).sum()) / (1 + (len(gaps) - 1) / 4))
    needed = seeds_needed(paired, EFFECT) if stats.is_share(column) and math.isfinite(paired) else None
    return Noise(variants=len(several), seeds=int(several["n"].sum()), sd=sd, low=low, high=high, between=between, paired=paired,
                 paired_low=paired_low, paired_high=paired_high, needed=needed)


def _pooled(sds: "pd.Series[float]", df: "pd.Series[int]") -> float:
    total = float(df.sum())
    return math.sqrt(float((sds**2 * df).sum()) / total) if total else math.nan


def power(n: int, sd: float, effect: float) -> float:
    """How often the 95 % paired t interval of n seeds leaves out zero when the true difference is `effect`: noncentral t (Cohen 1988)."""
    if sd <= 0:
        return 1.0
    cut, shift = float(stdtrit(n - 1, 0.5 + stats.LEVEL / 2)), effect / sd * math.sqrt(n)
    below, far = np.nan_to_num(nctdtr(n - 1, shift, [cut, -cut]))  # where a probability is next to nothing scipy gives NaN
    return float(1 - below + far)


def seeds_needed(sd: float, effect: float) -> int | None:
    """The fewest paired seeds, at least `stats.MIN_N`, whose interval shows a true difference of `effect` with `POWER`; 10 where it equals
    `sd`, 34 at half of that. None beyond `MAX_SEEDS`."""
    return next((n for n in range(stats.MIN_N, MAX_SEEDS + 1) if power(n, sd, effect) >= POWER), None)


def test_set_error(accuracy: float, images: int) -> float:
    """Standard error that an accuracy has because the test set holds these n images and no others: sqrt(p (1 - p) / n). All seeds are
    tested on the same images, so more seeds do not lessen it. 0.8 at 10,000 images: 0.004."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Two variants on the same test images."""

    images: int
    seeds: int
    """Over so many seeds of both each image's correctness is averaged."""
    difference: float
    """Accuracy of the variant minus that of the reference."""
    error: float
    """Standard error of the difference that the choice of the images gives it: sd of the images' differences over sqrt(images)."""
    only_variant: int
    only_reference: int
    """Images that only one of the two gets right; of one seed, else 0."""
    p: float
    """McNemar's exact test (Psychometrika 12, 1947): binomial of those two counts. NaN for several seeds, whose images are no separate
    trials."""


def on_images(predictions: pd.DataFrame, trials: pd.DataFrame, variant: str, reference: str) -> Images | None:
    """Compares two variants image by image, over the seeds that both have predictions of; None where there are none in common.

    Args:
        predictions: trial_id, image, label, predicted.
        trials: the finished trials, with trial_id, variant, seed.
    """
    rows = trials.loc[trials["variant"].isin([variant, reference]), ["trial_id", "variant", "seed"]]
    rows = predictions.merge(rows, on="trial_id")
    if rows.empty:
        return None
    rows["right"] = (rows["label"] == rows["predicted"]).astype(float)
    table = rows.pivot_table(index=["seed", "image"], columns="variant", values="right")
    if variant not in table or reference not in table or (table := table.dropna()).empty:
        return None
    seeds = int(table.index.get_level_values("seed").nunique())
    gaps = (table[variant] - table[reference]).groupby(level="image").mean()
    ours, theirs = (int((gaps > 0).sum()), int((gaps < 0).sum())) if seeds == 1 else (0, 0)
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return Images(images=len(gaps), seeds=seeds, difference=float(gaps.mean()), error=error, only_variant=ours, only_reference=theirs,
                  p=mcnemar(ours, theirs) if seeds == 1 else math.nan)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p that the images on which two networks differ favour either alike; 1 where they do not differ. 1 and 9: 0.0215."""
    n = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), n, 0.5))) if n else 1.0


def sentences(found: Noise, metric: str, *, images: int = 0, mean: float = math.nan, seeds: int = 0) -> list[str]:
    """Seed noise against effect, and the test set's own error where the number of its images is known.

    Args:
        images: of the test set; 0 where nobody knows.
        mean: the accuracy that the error is given at, that of `seeds` seeds.
    """
    out = []
    if found.variants and math.isfinite(found.sd):
        unit = "points" if stats.is_share(metric) else f"of {stats.words(metric)}"
        text = f"seeds of one variant differ by {size(found.sd, metric)} {unit} (sd; 95 % CI {size(found.low, metric)} to "
        text += f"{size(found.high, metric)}; {found.seeds} values, {found.variants} variant{'s' * (found.variants > 1)})"
        if math.isfinite(found.between):
            text += (f", the variants by {size(found.between, metric)} without that noise" if found.between > 0 else
                     ", and the means of the variants by no more than that explains")
        out.append(text)
    if found.needed is not None:
        ends = [seeds_needed(sd, EFFECT) or f"over {MAX_SEEDS}" for sd in (found.paired_low, found.paired_high)]
        out.append(f"paired differences have an sd of {size(found.paired, metric)} points (95 % CI {size(found.paired_low, metric)} to "
                   f"{size(found.paired_high, metric)}): a true difference of 1 point takes about {found.needed} paired seeds "
                   f"({ends[0]} to {ends[1]}) to be shown with {round(100 * POWER)} % power")
    if images and math.isfinite(mean) and 0 <= mean <= 1:
        beside = f"; that of a mean over {seeds} seeds is {size(found.sd / math.sqrt(seeds), metric)}" if seeds and found.sd > 0 else ""
        out.append(f"the test set of {images:,} images has a standard error of its own of {size(test_set_error(mean, images), metric)} "
                   f"points at {stats.show(mean, metric)} %, which no number of seeds lessens{beside}")
    return out


def size(value: float, metric: str) -> str:
    """A spread for reading: points with one decimal, two below 0.1; others with two significant digits."""
    if not math.isfinite(value):
        return "–"
    if stats.is_share(metric):
        return f"{100 * value:.1f}" if 100 * value >= 0.095 or value == 0 else f"{100 * value:.2f}"
    return f"{value:.2g}"


def image_sentence(found: Images, variant: str, reference: str) -> str:
    """What McNemar's test says of one network of each variant; "" for several seeds, where the interval over seeds says more."""
    if found.seeds != 1:
        return ""
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    return (f"on {found.images:,} test images {found.only_variant} are right with {variant} alone and {found.only_reference} with "
            f"{reference} alone (McNemar, exact: {p}); that is about these two trained networks, not about other seeds")
