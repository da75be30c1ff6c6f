"""Learning curves: the study's metric and the loss over the epochs, mean over seeds with its t-band, single seeds faint.

Up to six variants share one pair of panels, named at the ends of their lines. More get a pair of small panels each, with the
other variants in grey behind.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis import stats, style
from analysis.load import AnalysisError, Study

NAME, TITLE = "curves", "Learning curves"
_SOLID: dict[str, Any] = {"lw": 1.6, "ls": "-", "ms": 3.5}
_DASHED: dict[str, Any] = {"lw": 1.0, "ls": (0, (3, 1.5)), "ms": 3.5, "mfc": "white"}
"""The looks of the mean over the validation and the training split; where there is one epoch the training one is hollow."""
MAX_PANELS = 12
"""Most variants that are drawn; the table behind the figure holds all."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, long: a row for each metric, epoch and seed, and one for each mean over seeds.

    Returns:
        variant, metric, epoch, trial_id, seed, status (the last three empty in rows of means), value, n, half_width (t, 95 %), low, high.
        A mean ends where the first of its finished seeds ends: past that it would be one over other seeds.

    Raises:
        AnalysisError: no trial is finished, or the study has no epochs.
    """
    done = study.done()
    names = [m for m in dict.fromkeys((study.metric, *_others(study))) if m in study.epochs]
    if study.epochs.empty or study.metric not in names:
        raise AnalysisError(f"{study.name}: no epochs with {study.metric} in {study.folder / 'epochs.parquet'}, so there are no learning "
                            "curves; `python -m harness.launch GRID` writes that file again")
    rows = study.epochs.merge(study.trials[["trial_id", "variant", "seed", "status"]], on="trial_id")
    seeds = rows.melt(id_vars=["variant", "epoch", "trial_id", "seed", "status"], value_vars=names, var_name="metric")
    seeds["value"] = seeds["value"].astype(float)
    finished = seeds[seeds["trial_id"].isin(done["trial_id"])]
    last = finished.groupby(["variant", "trial_id"])["epoch"].max().groupby("variant").min()
    finished = finished[finished["epoch"] <= finished["variant"].map(last)]
    finite = finished.assign(value=finished["value"].where(np.isfinite(finished["value"])))
    means = finite.groupby(["variant", "metric", "epoch"], sort=False)["value"].agg(value="mean", n="count", sd="std").reset_index()
    means["half_width"] = stats.t_quantile(means["n"].to_numpy(dtype=float)) * means["sd"] / np.sqrt(means["n"])
    means["low"], means["high"] = means["value"] - means["half_width"], means["value"] + means["half_width"]
    out = pd.concat([means.drop(columns="sd"), seeds], ignore_index=True)
    out["variant"] = pd.Categorical(out["variant"], categories=list(study.variants), ordered=True)
    out["metric"] = pd.Categorical(out["metric"], categories=names, ordered=True)
    out = out.sort_values(["variant", "metric", "seed", "epoch"], kind="stable", na_position="first", ignore_index=True)
    return out[["variant", "metric", "epoch", "trial_id", "seed", "status", "value", "n", "half_width", "low", "high"]].astype(
        {"variant": "object", "metric": "object", "n": "Int64"})


def _others(study: Study) -> tuple[str, ...]:
    """The columns of the second panel: the losses, or the accuracy when the metric is a loss itself."""
    return ("train_loss", "val_loss") if not study.metric.endswith("loss") else ("train_loss", "val_loss", "val_acc")


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws the curves of `table(study)` and sets the figure's size."""
    panels = _panels(list(data["metric"].unique()), study.metric)
    present = set(data["variant"].unique())
    variants = [v for v in study.variants if v in present]
    if len(variants) <= len(style.COLOURS):
        _draw_together(figure, data, study, panels, variants)
    else:
        _draw_apart(figure, data, study, panels, _chosen(data, study, variants))


def _panels(names: Sequence[str], metric: str) -> list[list[str]]:
    """The metrics of each panel: the study's own first (with the training loss where it is the validation loss), then the rest."""
    losses = [n for n in ("train_loss", "val_loss") if n in names]
    first = losses if metric in losses else [metric]
    rest = [n for n in names if n not in first]
    return [first, rest] if rest else [first]


def _chosen(data: pd.DataFrame, study: Study, variants: list[str]) -> list[str]:
    """At most `MAX_PANELS` variants in the grid's order: the reference and the best by the last value of their mean."""
    if len(variants) <= MAX_PANELS:
        return variants
    means = data[data["trial_id"].isna() & (data["metric"] == study.metric)]
    last = means.groupby("variant")["value"].last().sort_values(ascending=study.mode == "min", kind="stable", na_position="last")
    best = [v for v in last.index if v != study.reference][:MAX_PANELS - 1]
    return [v for v in variants if v == study.reference or v in best]


def _draw_together(figure: Figure, data: pd.DataFrame, study: Study, panels: list[list[str]], variants: list[str]) -> None:
    names_ = {v: style.wrap(v, 18 if len(panels) > 1 else 30, lines=6) for v in variants}
    lines = sum(name.count("\n") + 1 for name in names_.values())
    figure.set_size_inches(style.width_in(), max(3.1, 0.15 * lines + 1.2))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    colour = style.colours(variants)
    notes = []
    for axis, names in zip(axes, panels, strict=True):
        notes += _prepare(axis, _ranges(data, names), study, names)
        axis.set_xlabel("epoch")
        axis.set_ylabel(_panel_label(names))
        for variant in variants:
            _lines(axis, data[data["variant"] == variant], names, colour=colour[variant])
        if len(names) > 1:
            _dash_key(axis)
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, notes))
    ends = [(*end, v, colour[v]) for v in variants if (end := _end(data, v, panels[0][-1])) is not None]
    low, high = axes[0].get_ylim()
    style.label_ends(axes[0], [(x, min(max(y, low), high), names_[v], c) for x, y, v, c in ends])


def _end(data: pd.DataFrame, variant: str, metric: str) -> tuple[float, float] | None:
    """The last point of a variant's mean, or of one of its trials when no trial finished."""
    rows = data[(data["variant"] == variant) & (data["metric"] == metric) & data["value"].notna() & np.isfinite(data["value"])]
    means = rows[rows["trial_id"].isna()]
    if rows.empty:
        return None
    row = (means if not means.empty else rows).iloc[-1]
    return float(row["epoch"]), float(row["value"])


def _draw_apart(figure: Figure, data: pd.DataFrame, study: Study, panels: list[list[str]], variants: list[str]) -> None:
    """A column of panels for each variant, three or four variants to a band, whichever leaves fewer empty."""
    columns = min((4, 3), key=lambda c: -len(variants) % c)
    bands = math.ceil(len(variants) / columns)
    titles = {v: style.wrap(v, 96 // columns) for v in variants}
    lines = max(t.count("\n") for t in titles.values())
    figure.set_size_inches(style.width_in(), 0.5 + bands * (1.05 * len(panels) + 0.45 + 0.12 * lines))
    axes = figure.subplots(bands * len(panels), columns, squeeze=False, sharex=True)
    shown = data[data["variant"].isin(variants)]
    parts = dict(list(shown.groupby("variant")))
    ranges = [_ranges(shown, names) for names in panels]
    notes: list[str] = []
    for i in range(bands * columns):
        for j, names in enumerate(panels):
            axis = axes[i // columns * len(panels) + j, i % columns]
            if i >= len(variants):
                axis.set_visible(False)
                continue
            notes += _prepare(axis, ranges[j], study, names, small=True)
            for other in variants:
                _lines(axis, parts[other], names[-1:], colour=style.FAINT, faint=True)
            _lines(axis, parts[variants[i]], names, colour=style.ACCENT)
            lowest = j == len(panels) - 1 and i + columns >= len(variants)
            axis.tick_params(labelleft=i % columns == 0, labelbottom=lowest)
            if i % columns == 0:
                axis.set_ylabel(_panel_label(names).replace(" accuracy", "\naccuracy"))
            if j == 0:
                axis.set_title(titles[variants[i]], fontsize=7.5, loc="left")
            if lowest:
                axis.set_xlabel("epoch")
            if i == 0 and len(names) > 1:
                _dash_key(axis)
    figure.align_ylabels()
    more = len(study.variants) - len(variants)
    chosen = [f"{len(variants)} of {len(study.variants)} variants: the reference and the best"] if more else []
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, ["grey: the other variants", *notes, *chosen]))


def _panel_label(names: Sequence[str]) -> str:
    return "loss" if len(names) > 1 else style.axis_label(names[0])


def _ranges(data: pd.DataFrame, names: Sequence[str]) -> tuple[float, float, tuple[float, float] | None]:
    """First and last epoch, and the informative range of these metrics."""
    return float(data["epoch"].min()), float(data["epoch"].max()), _limits(data[data["metric"].isin(names)])


def _prepare(axis: Axes, ranges: tuple[float, float, tuple[float, float] | None], study: Study, names: Sequence[str], *,
             small: bool = False) -> list[str]:
    """Scales, limits and ticks of one panel and its chance line; returns what the caption must say of them."""
    notes: list[str] = []
    first, last, limits = ranges
    side = 0.5 if last == first else 0.0
    axis.set_xlim(first - side, last + side)
    axis.xaxis.set_major_locator(style.round_ticks(whole=True))
    axis.yaxis.set_major_locator(style.round_ticks(most=4 if small else 7))
    axis.yaxis.set_major_formatter(style.tick_format(names[0]))
    if limits is None:
        return notes
    low, high = limits
    if not stats.is_share(names[0]) and low > 0 and high / low > 30:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 3000 else (1.0,)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(style.tick_format(names[0]))
        axis.set_ylim(low / 1.2, high * 1.2)
        return notes
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - pad, high + pad
    if study.chance is not None and names[0].endswith("acc"):
        if study.chance > low - 0.3 * (high - low):
            low = min(low, study.chance - pad)
            axis.axhline(study.chance, color=style.MUTED, lw=0.8, ls=(0, (1, 2)))
            notes.append(f"dotted: chance, {100 * study.chance:.3g} %")
            if not small:
                axis.annotate("chance", (1, study.chance), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points",
                              ha="right", va="bottom", fontsize=7, color=style.MUTED)
        else:
            notes.append(f"chance, {100 * study.chance:.3g} %, is below the axis")
    if stats.is_share(names[0]):
        # no room wasted beyond 0 and 100 %, and lines at the edge are not cut in half
        low, high = max(low, -0.02), min(high, 1 + 0.02 * (1 - max(low, 0)))
    axis.set_ylim(low, high)
    return notes


def _limits(rows: pd.DataFrame) -> tuple[float, float] | None:
    """The informative range: means, and single seeds' last values, without the first fifth of the epochs (at least the first)."""
    finite = rows[np.isfinite(rows["value"].astype(float))]
    means = finite[finite["trial_id"].isna()]
    means = means if not means.empty else finite
    if means.empty:
        return None
    first, last = float(means["epoch"].min()), float(means["epoch"].max())
    late = means[means["epoch"] >= min(first + max(1.0, 0.2 * (last - first)), last)]
    ends = finite[finite["status"] == "done"].groupby(["trial_id", "metric"])["value"].last()
    values = np.concatenate([late["value"].to_numpy(dtype=float), ends.to_numpy(dtype=float)])
    return float(values.min()), float(values.max())


def _lines(axis: Axes, rows: pd.DataFrame, names: Sequence[str], *, colour: str, faint: bool = False) -> None:
    """One variant's mean, band and seeds. Of two losses the training one is dashed and has neither band nor seeds."""
    for name in names:
        part = rows[rows["metric"] == name]
        mean = part[part["trial_id"].isna()]
        x, y = mean["epoch"].to_numpy(dtype=float), mean["value"].to_numpy(dtype=float)
        dashed = len(names) > 1 and name.startswith("train")
        marker = "o" if len(x) == 1 else ""
        if faint:
            axis.plot(x, y, color=colour, lw=0.7, zorder=1, marker=marker, ms=2)
            continue
        axis.plot(x, y, color=colour, zorder=4, marker=marker, **(_DASHED if dashed else _SOLID))
        if dashed:
            continue
        low, high = mean["low"].to_numpy(dtype=float), mean["high"].to_numpy(dtype=float)
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, zorder=2)
        for _, seed in part[part["trial_id"].notna()].groupby("trial_id"):
            values = seed["value"].to_numpy(dtype=float)
            epoch = seed["epoch"].to_numpy(dtype=float)
            axis.plot(epoch, values, color=colour, lw=0.6, alpha=0.45, zorder=3)
            finite = np.isfinite(values)
            if seed["status"].iloc[0] != "done" and finite.any():
                axis.plot(epoch[finite][-1], values[finite][-1], marker="x", ms=4, mew=1.0, color=colour, zorder=5)


def _dash_key(axis: Axes) -> None:
    """Says in the panel which loss is dashed; the one key that labels at the lines could not replace."""
    single = any(line.get_marker() == "o" for line in axis.get_lines())
    for look, name in ((_DASHED, "training"), (_SOLID, "validation")):
        axis.plot([], [], color=style.MUTED, marker="o" if single else "", label=name, **look | ({"ls": ""} if single else {}))
    axis.legend(loc="best", frameon=False, fontsize=7, handlelength=2.2, labelspacing=0.2, borderaxespad=0.2)


def _caption(data: pd.DataFrame, study: Study, notes: Sequence[str]) -> str:
    means = data[data["trial_id"].isna() & (data["metric"] == study.metric)]
    least, most = int(means["n"].min()), int(means["n"].max())
    seeds = f"{least} to {most} seeds" if least != most else f"{most} seeds" if most > 1 else "one seed"
    band = "band: Student t 95 % interval of the mean" if most >= stats.MIN_N else f"no interval below {stats.MIN_N} seeds"
    if most >= stats.MIN_N > least:
        band += f", from {stats.MIN_N} seeds on"
    lines = f"Thick: mean over {seeds}; thin: single seeds; {band}." if most > 1 else f"One seed for each variant; {band}."
    ended = data[data["trial_id"].notna() & (data["metric"] == study.metric)]
    cross = " Crosses: the last epoch of trials that did not finish." if (ended["status"] != "done").any() else ""
    stopped = ended[ended["status"] == "done"].groupby("variant")["epoch"].max()
    early = " A mean ends where the first of its seeds stopped." if (stopped > means.groupby("variant")["epoch"].max()).any() else ""
    more = "".join(f" {n[0].upper()}{n[1:]}." for n in dict.fromkeys(notes))
    text = study.selection()
    standing = f"{study.standing()}. " if study.standing() else ""
    return f"{study.name}: {study.counts()}. {standing}{lines}{cross}{early} No smoothing.{more} In the tables {text}."
