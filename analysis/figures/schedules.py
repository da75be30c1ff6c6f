"""Learning-rate schedules: the learning rate over the epochs, and below it what the losses did, on the same axis."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import scales, style
from analysis.figures import curves
from analysis.load import NotForThisStudy, Study

NAME, TITLE = "schedules", "Learning-rate schedules"
MOST = len(style.COLOURS)
"""Most variants that are drawn; the table behind the figure holds all."""
DEEPEST = 1e-5
"""What is less than this part of the largest learning rate lies below a logarithmic axis."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, long: the learning rate of each variant's first finished seed ("lr"), and the means of the losses over its seeds.

    Returns:
        variant, metric, epoch, value, n, low, high (t, 95 %; both empty for "lr"), and trial_id and status, which are empty but for "lr".

    Raises:
        NotForThisStudy: the learning rate of every variant stays what it was, so that the table of results says it all, or the job does not
            report one.
        AnalysisError: no trial is finished, or the study has no epochs.
    """
    done = study.done()
    if "lr" not in study.epochs:
        raise NotForThisStudy(f"{study.name}: the job reports no lr, so there are no schedules")
    first = done.sort_values("seed", kind="stable").drop_duplicates("variant")[["variant", "trial_id", "status"]]
    rates = first.merge(study.epochs[["trial_id", "epoch", "lr"]], on="trial_id").rename(columns={"lr": "value"}).assign(metric="lr", n=1)
    rates["value"] = rates["value"].astype(float)
    if not rates.groupby("variant")["value"].agg(lambda v: v.max() - v.min() > 1e-9 * v.max()).any():
        raise NotForThisStudy(f"{study.name}: no learning rate changes from epoch to epoch")
    means = curves.table(study)
    means = means[means["trial_id"].isna()]
    losses = [name for name in dict.fromkeys(means["metric"]) if name.endswith("loss")] or [study.metric]
    columns = ["variant", "metric", "epoch", "value", "n", "low", "high", "trial_id", "status"]
    out = pd.concat([rates, means[means["metric"].isin(losses)]], ignore_index=True).reindex(columns=columns)
    places = {name: i for i, name in enumerate([*study.variants, "lr", *losses])}
    return out.sort_values(["variant", "metric", "epoch"], ignore_index=True, key=lambda c: c if c.name == "epoch" else c.map(places))


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    rates, losses = data[data["metric"] == "lr"], [name for name in dict.fromkeys(data["metric"]) if name != "lr"]
    less = losses[-1].endswith("loss") or study.mode == "min"
    last = data[data["metric"] == losses[-1]].groupby("variant")["value"].last().sort_values(ascending=less, kind="stable")
    best = list(dict.fromkeys([study.reference, *last.index]))[:MOST]
    variants = [v for v in study.variants if v in best and v in set(data["variant"])]
    shown = data[data["variant"].isin(variants)]
    colour, names = style.colours(variants), {v: style.wrap(v, 26, lines=3) for v in variants}
    lines = sum(name.count("\n") + 1 for name in names.values())
    figure.set_size_inches(style.width_in(), 2 * max(1.65, 0.15 * lines + 0.5) + 0.5)
    above, below = figure.subplots(2, 1, sharex=True)
    notes = curves.panel(below, shown[shown["metric"] != "lr"], study, losses)
    ends = panel(above, rates[rates["variant"].isin(variants)], colour)
    style.warning(figure, study.warning())
    style.caption(figure, _caption(shown, study, notes))
    style.label_ends(above, ends)
    low, high = below.get_ylim()
    found = [(*end, v) for v in variants if (end := curves.end_of(shown, v, losses[-1], curves.EPOCHS)) is not None]
    style.label_ends(below, [(x, min(max(y, low), high), names[v], colour[v]) for x, y, v in found])


def panel(axes: Axes, rates: pd.DataFrame, colour: dict[str, str]) -> list[tuple[float, float, str, str]]:
    """Draws the schedules, those that are the same as one dark line; returns where they end, with their names and colours, for
    `style.label_ends`."""
    same: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for variant in colour:
        line = rates[(rates["variant"] == variant) & np.isfinite(rates["value"])]
        same.setdefault(tuple(zip(line["epoch"], line["value"], strict=True)), []).append(variant)
    axes.set_ylabel("learning rate")
    _scale(axes, [[rate for _, rate in line] for line in same if line])
    ends, low = [], axes.get_ylim()[0]
    for line, variants in same.items():
        if not line:
            continue
        shade = colour[variants[0]] if len(variants) == 1 else style.INK
        x, y = zip(*line, strict=True)
        few = 2 * len(set(y)) <= len(y)  # a rate that falls in steps is drawn so
        axes.plot(x, y, color=shade, lw=1.6, marker="o" if len(x) == 1 else "", ms=3.5, drawstyle="steps-mid" if few else "default")
        name = style.wrap(variants[0], 26, lines=3) if len(variants) == 1 else (
            "all" if len(variants) == len(colour) else style.wrap(", ".join(variants), 26))
        ends.append((float(x[-1]), max(float(y[-1]), low), name, shade))
    return ends if len(colour) > 1 else []


def _scale(axes: Axes, schedules: list[list[float]]) -> None:
    """A logarithmic axis where the variants' largest rates are ten times apart or more, or a rate falls in a few steps to a thirtieth or
    less; what falls smoothly, as a cosine does, keeps its shape on a linear one."""
    peaks = [max(one) for one in schedules]
    top = max(peaks, default=1.0)
    steps = any(len(set(one)) <= 6 and 0 < min(one) <= max(one) / 30 for one in schedules)
    if min(peaks, default=1.0) > 0 and (max(peaks) >= 10 * min(peaks) or steps):
        least = max(min((rate for one in schedules for rate in one if rate > 0), default=top), DEEPEST * top)
        axes.set_yscale("log")
        axes.set_ylim(10 ** (math.log10(least) - 0.1), top * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if top / least > 50 else (1.0, 3.0), numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scales.power(value)))
        return
    axes.set_ylim(0, 1.06 * top or 1.0)
    axes.yaxis.set_major_locator(style.round_ticks(most=5))
    axes.yaxis.set_major_formatter(style.tick_format("lr"))


def _caption(data: pd.DataFrame, study: Study, notes: list[str]) -> str:
    means = data[data["metric"] != "lr"]
    least, most = int(means["n"].min()), int(means["n"].max())
    seeds = f"{least} to {most} seeds" if least != most else f"{most} seeds" if most > 1 else "one seed"
    parts = [f"{study.name}: {study.counts()}", study.standing(), "Above: the learning rate that each epoch was trained with",
             f"Below: mean over {seeds}" + ("; band: Student t 95 % interval of the mean" if means["low"].notna().any() else ""),
             "No smoothing", *(f"{n[0].upper()}{n[1:]}" for n in dict.fromkeys(notes))]
    left_out = len(study.variants) - data["variant"].nunique()
    parts += [f"Shown: {data['variant'].nunique()} of {len(study.variants)} variants, the reference and the best"] if left_out else []
    return ". ".join(part for part in parts if part) + "."
