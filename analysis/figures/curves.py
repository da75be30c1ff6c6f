"""Learning curves: the study's metric and the loss over the epochs, mean over seeds with its t-band, single seeds faint.

Up to six variants share one pair of panels, named at the ends of their lines. More get a pair of small panels each, with the
other variants in grey behind. `curves_cost` draws the same over the hours that were spent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis import stats, style
from analysis.load import AnalysisError, NotForThisStudy, Study, metric_mode

NAME, TITLE = "curves", "Learning curves"
_SOLID: dict[str, Any] = {"lw": 1.6, "ls": "-", "ms": 3.5}
_DASHED: dict[str, Any] = {"lw": 1.0, "ls": (0, (3, 1.5)), "ms": 3.5, "mfc": "white"}
"""The looks of the mean over the validation and the training split; where there is one epoch the training one is hollow."""
MAX_PANELS = 12
"""Most variants that are drawn; the table behind the figure holds all."""
MAX_ROWS, MAX_SEEDS = 200_000, 50
"""Above so many epochs single seeds are held of the variants that are drawn only, and of each at most so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Over:
    """What the curves are drawn over."""

    column: str
    """Of the table."""
    label: str
    whole: bool
    """Whether it is counted in whole numbers."""
    mean: str
    """What the caption says of the mean over seeds, where it is not just that."""


EPOCHS = Over(column="epoch", label="epoch", whole=True, mean="")


def table(study: Study) -> pd.DataFrame:
    """What is drawn, long: a row for each metric, epoch and seed, and one for each mean over seeds.

    Returns:
        variant, metric, epoch, trial_id, seed, status (the last three empty in rows of means), value, n, half_width (t, 95 %), low, high.
        A mean ends where the first of its finished seeds ends: past that it would be one over other seeds. Of very many seeds not all are
        there, see `held`; the means are of all.

    Raises:
        AnalysisError: no trial is finished, or the study has no epochs.
    """
    rows, names = lines(study)
    finished = rows[rows["status"] == "done"]
    last = finished.groupby(["variant", "trial_id"], sort=False)["epoch"].max().groupby("variant").min()
    finished = finished[finished["epoch"] <= finished["variant"].map(last)]
    if len(study.pairs) > 1:
        finished = finished.groupby(["variant", "unit", "epoch"], sort=False)[names].mean().reset_index()
    means = finished.groupby(["variant", "epoch"], sort=False)[names].agg(["mean", "count", "std"])
    parts = []
    for name in names:
        value, n = means[name, "mean"].to_numpy(dtype=float), means[name, "count"].to_numpy(dtype=float)
        half = stats.t_quantile(n) * means[name, "std"].to_numpy(dtype=float) / np.sqrt(n)
        parts.append(means.index.to_frame(index=False).assign(metric=name, value=value, n=n, half_width=half, low=value - half,
                                                              high=value + half))
    whole = pd.concat(parts, ignore_index=True)
    out = ordered(pd.concat([whole, long(rows[held(rows, whole, study)], names)], ignore_index=True), study, names)
    return out[["variant", "metric", "epoch", "trial_id", "seed", "status", "value", "n", "half_width", "low", "high"]]


def lines(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """The epochs of the trials that stand for their variants, and the names of the metrics that are drawn: variant, trial_id, seed, status,
    unit (the number of the independent repetition that the trial is part of, see `stats.units`), epoch and the metrics, NaN where they are
    not finite; trial by trial, the variants in the grid's order.

    Raises:
        NotForThisStudy: it is a table of another tool, without epochs.
        AnalysisError: no trial is finished, or the study has no epochs.
    """
    study.done()
    names = [m for m in dict.fromkeys((study.metric, *_others(study))) if m in study.epochs]
    if not study.ours and (study.epochs.empty or study.metric not in names):
        raise NotForThisStudy(f"{study.name} is a table without epochs, so there are no learning curves")
    if study.epochs.empty or study.metric not in names:
        raise AnalysisError(f"{study.name}: no epochs with {study.metric} in {study.folder / 'epochs.parquet'}, so there are no learning "
                            "curves; `python -m harness.launch GRID` writes that file again")
    places = {v: i for i, v in enumerate(study.variants)}
    trials = study.trials.drop_duplicates("trial_id")
    trials = trials[["variant", "trial_id", "seed", "status"]].assign(unit=_units(trials, study)[1])
    trials = trials.sort_values(["variant", "seed", "trial_id"], key=lambda c: c.map(places) if c.name == "variant" else c)
    of = pd.Index(trials["trial_id"]).get_indexer(study.epochs["trial_id"])
    epochs = study.epochs["epoch"].to_numpy(dtype=int)
    order = np.lexsort([epochs, of])[(of < 0).sum():]
    out = trials.iloc[of[order]].reset_index(drop=True)
    values = study.epochs[names].to_numpy(dtype=float, na_value=np.nan)[order]
    return out.assign(epoch=epochs[order], **dict(zip(names, np.where(np.isfinite(values), values, np.nan).T, strict=True))), names


def _units(trials: pd.DataFrame, study: Study) -> tuple[str, npt.NDArray[np.int64]]:
    """What the means count, and the number of each trial's."""
    if len(study.pairs) == 1:
        return "seed", np.arange(len(trials))
    return stats.units(pd.MultiIndex.from_frame(trials[list(study.pairs)]), study.pairs)


def held(rows: pd.DataFrame, means: pd.DataFrame, study: Study) -> "pd.Series[bool]":
    """Which rows of single trials the table holds and the figure draws: all, or of more than `MAX_ROWS` the first `MAX_SEEDS` seeds of the
    variants that are drawn."""
    if len(rows) <= MAX_ROWS:
        return pd.Series(data=True, index=rows.index)
    trials = rows[["variant", "trial_id"]].drop_duplicates("trial_id")
    trials = trials[trials["variant"].isin(chosen(means.assign(trial_id=None), study, list(dict.fromkeys(trials["variant"]))))]
    return rows["trial_id"].isin(trials.groupby("variant").head(MAX_SEEDS)["trial_id"])


def long(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows below each other, metric by metric."""
    return rows.melt(id_vars=[c for c in rows.columns if c not in names], value_vars=list(names), var_name="metric")


def ordered(rows: pd.DataFrame, study: Study, names: Sequence[str]) -> pd.DataFrame:
    """Means and single trials as they are drawn, by variant and metric, the mean first. The rows of each are in order already."""
    metric = rows["metric"].map({n: i for i, n in enumerate(names)}).to_numpy(dtype=int)
    variant = rows["variant"].map({v: i for i, v in enumerate(study.variants)}).to_numpy(dtype=int)
    order = np.lexsort((rows["trial_id"].notna().to_numpy(dtype=bool), metric, variant))
    return rows.iloc[order].reset_index(drop=True).astype({"n": "Int64"})


def _others(study: Study) -> tuple[str, ...]:
    """The columns of the second panel: the losses, or the accuracy when the metric is a loss itself."""
    return ("train_loss", "val_loss") if not study.metric.endswith("loss") else ("train_loss", "val_loss", "val_acc")


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws the curves of `table(study)` and sets the figure's size."""
    draw_over(figure, data, study, EPOCHS)


def draw_over(figure: Figure, data: pd.DataFrame, study: Study, over: Over) -> None:
    """Draws curves over one of the columns of the table, and sets the figure's size."""
    panels = _panels(list(data["metric"].unique()), study.metric)
    present = set(data["variant"].unique())
    variants = [v for v in study.variants if v in present]
    if len(variants) <= len(style.COLOURS):
        _draw_together(figure, data, study, over, panels, variants)
    else:
        _draw_apart(figure, data, study, over, panels, chosen(data, study, variants))


def _panels(names: Sequence[str], metric: str) -> list[list[str]]:
    """The metrics of each panel: the study's own first (with the training loss where it is the validation loss), then the rest."""
    losses = [n for n in ("train_loss", "val_loss") if n in names]
    first = losses if metric in losses else [metric]
    rest = [n for n in names if n not in first]
    return [first, rest] if rest else [first]


def chosen(data: pd.DataFrame, study: Study, variants: list[str], most: int = MAX_PANELS) -> list[str]:
    """At most so many variants in the grid's order: the reference and the best by the last value of their mean."""
    if len(variants) <= most:
        return variants
    means = data[data["trial_id"].isna() & (data["metric"] == study.metric)]
    last = means.groupby("variant")["value"].last().sort_values(ascending=study.mode == "min", kind="stable", na_position="last")
    best = [v for v in last.index if v != study.reference][:most - 1]
    return [v for v in variants if v == study.reference or v in best]


def _draw_together(figure: Figure, data: pd.DataFrame, study: Study, over: Over, panels: list[list[str]], variants: list[str]) -> None:
    names_ = {v: style.wrap(v, 18 if len(panels) > 1 else 30, lines=6) for v in variants}
    lines = sum(name.count("\n") + 1 for name in names_.values())
    figure.set_size_inches(style.width_in(), max(3.1, 0.15 * lines + 1.2))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    colour = style.colours(variants)
    notes = [note for axis, names in zip(axes, panels, strict=True) for note in panel(axis, data, study, names, over)]
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, over, notes))
    ends = [(*end, v, colour[v]) for v in variants if (end := end_of(data, v, panels[0][-1], over)) is not None]
    low, high = axes[0].get_ylim()
    style.label_ends(axes[0], [(x, min(max(y, low), high), names_[v], c) for x, y, v, c in ends])


def panel(axes: Axes, data: pd.DataFrame, study: Study, names: Sequence[str], over: Over = EPOCHS) -> list[str]:
    """Draws one panel: these metrics of all variants in `data`, a frame as `table` makes it, each in its colour; at most as many variants
    as there are colours. Returns what the caption must say of it."""
    colour = style.colours([v for v in study.variants if v in set(data["variant"])])
    notes = _prepare(axes, _ranges(data, names, over, study), study, names, over)
    axes.set_xlabel(over.label)
    axes.set_ylabel(_panel_label(names))
    for variant, shade in colour.items():
        _lines(axes, data[data["variant"] == variant], names, over, colour=shade)
    if len(names) > 1:
        _dash_key(axes)
    return notes


def end_of(data: pd.DataFrame, variant: str, metric: str, over: Over) -> tuple[float, float] | None:
    """The last point of a variant's mean, or of one of its trials when no trial finished."""
    rows = data[(data["variant"] == variant) & (data["metric"] == metric) & data["value"].notna() & np.isfinite(data["value"])]
    means = rows[rows["trial_id"].isna()]
    if rows.empty:
        return None
    row = (means if not means.empty else rows).iloc[-1]
    return float(row[over.column]), float(row["value"])


def _draw_apart(figure: Figure, data: pd.DataFrame, study: Study, over: Over, panels: list[list[str]], variants: list[str]) -> None:
    """A column of panels for each variant, three or four variants to a band, whichever leaves fewer empty."""
    columns = min((4, 3), key=lambda c: -len(variants) % c)
    bands = math.ceil(len(variants) / columns)
    titles = {v: style.wrap(v, 96 // columns) for v in variants}
    lines = max(t.count("\n") for t in titles.values())
    figure.set_size_inches(style.width_in(), 0.5 + bands * (1.05 * len(panels) + 0.45 + 0.12 * lines))
    axes = figure.subplots(bands * len(panels), columns, squeeze=False, sharex=True)
    shown = data[data["variant"].isin(variants)]
    parts = dict(list(shown.groupby("variant")))
    ranges = [_ranges(shown, names, over, study) for names in panels]
    notes: list[str] = []
    for i in range(bands * columns):
        for j, names in enumerate(panels):
            axis = axes[i // columns * len(panels) + j, i % columns]
            if i >= len(variants):
                axis.set_visible(False)
                continue
            notes += _prepare(axis, ranges[j], study, names, over, small=True)
            behind = shown[shown["trial_id"].isna() & (shown["metric"] == names[-1])]
            style.lines(axis, behind, over.column, by="variant", color=style.FAINT, width=0.7, zorder=1)
            _lines(axis, parts[variants[i]], names, over, colour=style.ACCENT)
            lowest = j == len(panels) - 1 and i + columns >= len(variants)
            axis.tick_params(labelleft=i % columns == 0, labelbottom=lowest)
            if i % columns == 0:
                axis.set_ylabel(_panel_label(names).replace(" accuracy", "\naccuracy"))
            if j == 0:
                axis.set_title(titles[variants[i]], fontsize=7.5, loc="left")
            if lowest:
                axis.set_xlabel(over.label)
            if i == 0 and len(names) > 1:
                _dash_key(axis)
    figure.align_ylabels()
    more = len(study.variants) - len(variants)
    which = [f"{len(variants)} of {len(study.variants)} variants: the reference and the best"] if more else []
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, over, ["grey: the other variants", *notes, *which]))


def _panel_label(names: Sequence[str]) -> str:
    return "loss" if len(names) > 1 else style.axis_label(names[0])


def _ranges(data: pd.DataFrame, names: Sequence[str], over: Over, study: Study) -> tuple[float, float, tuple[float, float] | None]:
    """Begin and end of the x axis, and the informative range of these metrics."""
    x = data[over.column].astype(float)
    mode = study.mode if names[-1] == study.metric else metric_mode(names[-1])
    return float(x.min()) if over.whole else 0.0, float(x.max()), _limits(data[data["metric"].isin(names)], over, names[-1], mode)


def _prepare(axis: Axes, ranges: tuple[float, float, tuple[float, float] | None], study: Study, names: Sequence[str], over: Over, *,
             small: bool = False) -> list[str]:
    """Scales, limits and ticks of one panel and its chance line; returns what the caption must say of them."""
    notes: list[str] = []
    first, last, limits = ranges
    side = 0.5 if last == first else 0.0
    axis.set_xlim(first - side, last + side)
    axis.xaxis.set_major_locator(style.round_ticks(most=4 if small else 5, whole=over.whole))
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


def _limits(rows: pd.DataFrame, over: Over, seeds_of: str, mode: str) -> tuple[float, float] | None:
    """The informative range: means without the first fifth (at least the first epoch), single seeds' last values, and the best value of
    those of the metric whose single seeds are drawn."""
    finite = rows[np.isfinite(rows["value"].astype(float))]
    means = finite[finite["trial_id"].isna()]
    means = means if not means.empty else finite
    if means.empty:
        return None
    first, last = float(means[over.column].min()), float(means[over.column].max())
    late = means[means[over.column] >= min(first + max(float(over.whole), 0.2 * (last - first)), last)]
    ends = finite[finite["status"] == "done"].groupby(["trial_id", "metric"])["value"].last()
    best = finite.loc[finite["metric"] == seeds_of, "value"].agg([mode])
    values = np.concatenate([part.to_numpy(dtype=float) for part in (late["value"], ends, best)])
    values = values[np.isfinite(values)]
    return float(values.min()), float(values.max())


def _lines(axis: Axes, rows: pd.DataFrame, names: Sequence[str], over: Over, *, colour: str) -> None:
    """One variant's mean, band and seeds. Of two losses the training one is dashed and has neither band nor seeds."""
    for name in names:
        part = rows[rows["metric"] == name]
        mean = part[part["trial_id"].isna()]
        x, y = mean[over.column].to_numpy(dtype=float), mean["value"].to_numpy(dtype=float)
        dashed = len(names) > 1 and name.startswith("train")
        axis.plot(x, y, color=colour, zorder=4, marker="o" if len(x) == 1 else "", **(_DASHED if dashed else _SOLID))
        if dashed:
            continue
        low, high = mean["low"].to_numpy(dtype=float), mean["high"].to_numpy(dtype=float)
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, zorder=2)
        seeds = part[part["trial_id"].notna()]
        alpha = min(0.45, 6 / max(1, seeds["trial_id"].nunique()))
        style.lines(axis, seeds, over.column, by="trial_id", color=colour, width=0.6, alpha=alpha, zorder=3)
        ended = seeds[(seeds["status"] != "done") & np.isfinite(seeds["value"])].drop_duplicates("trial_id", keep="last")
        axis.plot(ended[over.column].to_numpy(dtype=float), ended["value"], ls="", marker="x", ms=4, mew=1.0, color=colour, zorder=5)


def _dash_key(axis: Axes) -> None:
    """Says in the panel which loss is dashed; the one key that labels at the lines could not replace."""
    single = any(line.get_marker() == "o" for line in axis.get_lines())
    for look, name in ((_DASHED, "training"), (_SOLID, "validation")):
        axis.plot([], [], color=style.MUTED, marker="o" if single else "", label=name, **look | ({"ls": ""} if single else {}))
    axis.legend(loc="best", frameon=False, fontsize=7, handlelength=2.2, labelspacing=0.2, borderaxespad=0.2)


def _caption(data: pd.DataFrame, study: Study, over: Over, notes: Sequence[str]) -> str:
    means = data[data["trial_id"].isna() & (data["metric"] == study.metric)]
    least, most = (int(means["n"].min()), int(means["n"].max())) if len(means) else (0, 0)
    unit = _units(study.trials, study)[0]
    seeds = f"{least} to {most} {unit}s" if least != most else f"{most} {unit}s" if most > 1 else f"one {unit}"
    band = "band: Student t 95 % interval of the mean" if most >= stats.MIN_N else f"no interval below {stats.MIN_N} {unit}s"
    if most >= stats.MIN_N > least:
        band += f", from {stats.MIN_N} {unit}s on"
    ended = data[data["trial_id"].notna() & (data["metric"] == study.metric)]
    shown = int(ended.drop_duplicates("trial_id").groupby("variant").size().max())
    single = "single trials" if len(study.pairs) > 1 else "single seeds" if shown >= most else f"the first {shown} of them"
    lines = f"Thick: mean over {seeds}; thin: {single}; {band}." if most > 1 else f"{seeds.capitalize()} for each variant; {band}."
    lines = lines if most else "Thin: single seeds, which have no hours in common to be averaged at."
    cross = " Crosses: the last epoch of trials that did not finish." if (ended["status"] != "done").any() else ""
    stopped = ended[ended["status"] == "done"].groupby("variant")[over.column].max()
    shorter = (stopped > means.groupby("variant")[over.column].max().reindex(stopped.index)).any()
    early = " A mean ends where the first of its seeds stopped." if shorter else ""
    early = f" {over.mean}{early}" if most > 1 and over.mean else early
    more = "".join(f" {n[0].upper()}{n[1:]}." for n in dict.fromkeys(notes))
    text = study.selection()
    standing = f"{study.standing()}. " if study.standing() else ""
    return f"{study.name}: {study.counts()}. {standing}{lines}{cross}{early} No smoothing.{more} In the tables {text}."
