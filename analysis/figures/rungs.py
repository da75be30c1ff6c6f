"""Successive halving as learning curves: what was stopped ends, grey, at its rung; what was trained in full is coloured.

One panel for each variant, the epochs on a logarithmic axis, on which the rungs are evenly apart.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from analysis import style
from analysis.figures.search import CONFIRMED, MANY, searched, shown_variants
from analysis.load import AnalysisError, NotForThisStudy, Study
from analysis.winners import NO_VALUE

NAME, TITLE = "rungs", "What halving stopped"
STOPPED = "#a8a8a8"


def table(study: Study) -> pd.DataFrame:
    """What is drawn: a row for each config and epoch of the search.

    Returns:
        variant, config, status, rung (epochs after which the config was stopped; empty when it was granted all), epoch, n, value (mean of
        the metric over the config's seeds at this epoch, not the best one so far), chosen.

    Raises:
        NotForThisStudy: the study has no [tune], or nothing was stopped.
        AnalysisError: no config has a value, or there are no epochs.
    """
    search = searched(study)
    if not search.halved:
        raise NotForThisStudy(f"{study.name} has no [search.halving], or it has stopped nothing yet")
    trials = search.trials.loc[search.trials["phase"] == "search", ["trial_id", "variant", "config"]]
    if study.epochs.empty or study.metric not in study.epochs:
        raise AnalysisError(f"{study.name}: no epochs with {study.metric}, so there are no learning curves; "
                            "`python -m harness.launch GRID` writes that file again")
    rows = trials.merge(study.epochs[["trial_id", "epoch", study.metric]], on="trial_id").rename(columns={study.metric: "value"})
    rows["value"] = rows["value"].astype(float).where(np.isfinite(rows["value"].astype(float)))
    means = rows.groupby(["variant", "config", "epoch"], sort=False)["value"].agg(value="mean", n="count").reset_index()
    about = search.configs[["variant", "config", "status", "epochs", "chosen"]].rename(columns={"epochs": "rung"})
    out = means.merge(about, on=["variant", "config"])
    places = {v: i for i, v in enumerate(study.variants)}
    out = out.sort_values(["variant", "config", "epoch"], ignore_index=True, key=lambda c: c.map(places) if c.name == "variant" else c)
    return out[["variant", "config", "status", "rung", "epoch", "n", "value", "chosen"]]


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    present = set(data["variant"])
    variants = [v for v in shown_variants(study) if v in present]
    shown = data[data["variant"].isin(variants)]
    ladder = sorted({*map(int, shown["rung"].dropna()), int(shown["epoch"].max())})
    axes = style.panels(figure, variants, x="epoch (logarithmic)", y=style.axis_label(study.metric))
    ends = shown.dropna(subset=["value"]).groupby(["variant", "config"])["value"].last()
    low, high = style.informative(ends.tolist(), study.mode)
    for axis, variant in zip(axes, variants, strict=True):
        axis.set_xscale("log")
        axis.set_xlim(min(1, ladder[0]) * 0.93, ladder[-1] * 1.07)
        axis.set_ylim(low, high)
        axis.xaxis.set_major_locator(FixedLocator([1, *ladder]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(style.tick_format("epoch"))
        axis.yaxis.set_major_formatter(style.tick_format(study.metric))
        panel(axis, shown[shown["variant"] == variant], study.mode)
    style.key(figure, _key(shown, study))
    style.caption(figure, _caption(shown, study, beyond=bool(((ends < low) | (ends > high)).any())))


def panel(axes: Axes, rows: pd.DataFrame, mode: str) -> None:
    """Draws the curves of one variant's configs. The axes have their limits already."""
    known = rows.dropna(subset=["value"])
    ends = known.drop_duplicates("config", keep="last")
    full = (ends["status"] == "done") & ends["rung"].isna()
    low, high = axes.get_ylim()
    edge, arrow = (0.965, "^") if mode == "min" else (0.035, "v")
    many = len(ends) > MANY
    looks = ((~full & ~ends["chosen"], STOPPED, 0.4 if many else 0.8, 2), (full & ~ends["chosen"], style.ACCENT, 0.6 if many else 1.1, 4),
             (ends["chosen"], CONFIRMED, 1.7, 5))
    for which, colour, width, zorder in looks:
        mine, size = ends[which], 0.6 if many and zorder < 5 else 1.0
        common: dict[str, Any] = {"ls": "", "color": colour, "zorder": zorder, "rasterized": many}
        part = known[known["config"].isin(mine["config"])]
        style.lines(axes, part, "epoch", by="config", color=colour, width=width, zorder=zorder)
        out, none = (mine["value"] < low) | (mine["value"] > high), mine["status"].isin(NO_VALUE)
        axes.plot(mine.loc[out, "epoch"], np.full(int(out.sum()), edge), marker=arrow, ms=3.6 * size, mew=0,
                  transform=axes.get_xaxis_transform(), **common)
        axes.plot(mine.loc[~out & none, "epoch"], mine.loc[~out & none, "value"], marker="x", ms=4 * size, mew=1, **common)
        axes.plot(mine.loc[~out & ~none, "epoch"], mine.loc[~out & ~none, "value"], marker="o", ms=3 * size, mew=0, **common)


def _key(data: pd.DataFrame, study: Study) -> list[Line2D]:
    found = data.drop_duplicates(["variant", "config"])
    full = (found["status"] == "done") & ~found["chosen"]
    name = "winner" if study.search and study.search.confirmed else "best"
    lines = [(STOPPED, 0.8, "stopped at a rung", (found["status"] == "pruned") & ~found["chosen"]),
             (style.ACCENT, 1.1, "fully trained", full), (CONFIRMED, 1.7, name, found["chosen"])]
    handles = [Line2D([], [], color=colour, lw=lw, label=label) for colour, lw, label, which in lines if which.any()]
    without = [s for s in NO_VALUE if (found["status"] == s).any()]
    return handles + ([Line2D([], [], ls="", marker="x", ms=4, mew=1, color=STOPPED, label=", ".join(without))] if without else [])


def _caption(data: pd.DataFrame, study: Study, *, beyond: bool) -> str:
    ended = data.drop_duplicates(["variant", "config"])
    ended = ended[ended["status"] == "pruned"]
    rungs = sorted(map(int, ended["rung"].dropna().unique()))
    counts = ", ".join(f"{int((ended['rung'] == r).sum())} after {r}" for r in rungs)
    parts = [f"{study.name}: {study.counts()}", "Each line: one config of the search, the mean over the seeds it has, at each epoch as it "
             "was", f"Stopped so far: {counts} epochs", "No smoothing"]
    parts += ["Arrows: those that ended beyond the axis"] if beyond else []
    left_out = len(study.variants) - data["variant"].nunique()
    parts += [f"Shown: {data['variant'].nunique()} of {len(study.variants)} variants"] if left_out else []
    return ". ".join(parts) + "."
