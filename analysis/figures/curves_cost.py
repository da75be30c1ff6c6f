"""Learning curves over what they cost: the study's metric and the loss over the hours that were spent on a trial.

Drawn as `curves` draws them over the epochs. What was lost because an attempt died counts, so such a seed lies further to the right.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import cost, stats
from analysis.figures import curves
from analysis.figures.curves import Over
from analysis.load import NotForThisStudy, Study

NAME, TITLE = "curves_cost", "Learning curves over what they cost"
POINTS = 101
"""Hours at which a mean over seeds is taken, evenly apart."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, long: a row for each metric, epoch and seed, and one for each mean over seeds at one of `POINTS` numbers of hours.

    Seeds take different times for the same epoch, so each is interpolated linearly between its epochs. A mean begins where all finished
    seeds have ended their first epoch and ends where the first of them ends; there is none where these do not overlap.

    Returns:
        variant, metric, hours, epoch (empty in rows of means), trial_id, seed, status (the three empty in rows of means), value, n,
        half_width (t, 95 %), low, high.

    Raises:
        NotForThisStudy: nobody noted how long the epochs took.
        AnalysisError: no trial is finished, or the study has no epochs.
    """
    spent = cost.per_epoch(study)
    rows, names = curves.lines(study)
    rows = rows.merge(spent, on=["trial_id", "epoch"])
    finished = rows[rows["status"] == "done"]
    if finished.empty:
        raise NotForThisStudy(f"{study.name}: the attempts do not say how long the epochs took")
    means = pd.concat([_mean(part, name).assign(variant=variant, metric=name)
                       for variant, part in finished.groupby("variant", sort=False) for name in names], ignore_index=True)
    seeds = curves.long(rows[curves.held(rows, means, study)], names)
    out = curves.ordered(pd.concat([means, seeds], ignore_index=True), study, names).astype({"epoch": "Int64"})
    return out[["variant", "metric", "hours", "epoch", "trial_id", "seed", "status", "value", "n", "half_width", "low", "high"]]


def _mean(seeds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means of a metric over seeds with their intervals, at hours that all have: hours, value, n, half_width, low, high."""
    known = seeds[seeds[metric].notna()]
    parts = np.flatnonzero(known["trial_id"].ne(known["trial_id"].shift()).to_numpy())
    hours, values = (np.split(known[name].to_numpy(dtype=float), parts[1:]) for name in ("hours", metric))
    begin, end = (max(x[0] for x in hours), min(x[-1] for x in hours)) if len(parts) else (1.0, 0.0)
    at = np.linspace(begin, end, POINTS if end > begin else int(end == begin))
    wide = np.array([np.interp(at, x, y) for x, y in zip(hours, values, strict=True)]).reshape(len(parts), len(at))
    wide = stats.grouped_means(wide, pd.factorize(known["unit"].to_numpy()[parts])[0])
    wide = wide[np.isfinite(wide).any(axis=1)]
    n = len(wide)
    sd = wide.std(axis=0, ddof=1) if n > 1 else np.full(len(at), np.nan)
    mean = wide.mean(axis=0) if n else np.zeros(0)
    half = stats.t_quantile(np.full(len(at), float(n))) * sd / np.sqrt(max(n, 1))
    return pd.DataFrame({"hours": at, "value": mean, "n": n, "half_width": half, "low": mean - half, "high": mean + half})


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws the curves of `table(study)` and sets the figure's size."""
    scale, unit = cost.scale(study, float(data["hours"].max()))
    curves.draw_over(figure, data.assign(hours=scale * data["hours"]), study, Over(
        column="hours", label=f"{unit} of a trial", whole=False,
        mean="Means at the same cost, each seed interpolated between its epochs."))
