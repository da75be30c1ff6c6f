"""Which parameters need each other: for the strongest pairs every config by its two settings, the means of cells, and the course of the one
for each choice of the other. Means and medians of what was run; nothing is interpolated.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis import stats, style
from analysis.load import AnalysisError, NotForThisStudy, Study
from analysis.parameters import Parameter, configs, factors, places
from analysis.scales import Scale, aside, said, scale, short
from analysis.stats import association
from analysis.stats.association import quantile_bins
from analysis.stats.importance import importance, objective

NAME, TITLE = "interactions", "Which parameters need each other"
PAIRS = 3
"""Pairs that are drawn."""
MIN_N = 4
"""Fewest configs with a value that read both, for a pair to be drawn."""
MAX_PROMISING = 12
"""Parameters of which pairs are looked at where there is no model."""
CELLS, PER_CELL = 5, 4
"""Most bins of a range in the table of means, and about how many configs a cell should have."""
CHOICES = 8
"""Most choices of words that have a row or column: the most frequent."""
LEVELS, THIRDS = 6, 3
"""Most choices with a line each; of a range, or of more numbers, there is one for each third."""
PER_BIN, BINS = 4, 6
"""Fewest configs in a bin of a line, and most bins."""
MAX_MARKS, RASTER = 3000, 500
"""Most marks in a panel, and from how many on they are pixels in a PDF and SVG."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn: for each pair its configs, its cells and its lines, the strongest pair first.

    Returns:
        kind ("config", "cell", "line"), first (across), second (upwards, a line for each of its levels), share (of the model's variance
        that needs both; empty where there is no model), setting (of the first; the median of a line's point), other (setting of the
        second), row and column (of a cell; row also the level of a line and of a config, -1 for none), low, high, other_low, other_high
        (settings between which a cell or a line's level lies), value (of a halved search the place from 0 to 1; mean of a cell, median of
        a line's point: empty where that diverged), n, diverged (configs of a cell that have no value for that; they are no part of its
        mean), place, status.

    Raises:
        NotForThisStudy: no two things vary among `MIN_N` configs with a value.
        AnalysisError: no config has a value.
    """
    rows = configs(study)
    if rows["value"].isna().all():
        raise AnalysisError(f"{study.name}: no config has a value ({study.counts()})")
    rows["place"] = places(rows, study.mode)
    if _halved(study):
        rows["value"] = rows["place"]
    rows = rows[rows["value"].notna() | (rows["status"] == "infeasible")]
    parts = []
    for one, other, share in _pairs(study, rows):
        pair = rows[rows[one.column].notna() & rows[other.column].notna()]
        pair = pair.assign(kind="config", setting=pair[one.column].astype(object), other=pair[other.column].astype(object))
        pair = pair.sort_values("place", na_position="first", kind="stable")
        pair["row"] = _levels(pair["other"], other, LEVELS, bins=THIRDS)
        for part in (pair, pd.DataFrame(_cells(pair, one, other)), pd.DataFrame(_line_points(pair, one, other))):
            parts.append(part.assign(first=one.name, second=other.name, share=share))
    if not parts:
        raise NotForThisStudy(f"{study.name}: no two parameters vary among {MIN_N} configs that have a value")
    columns = ["kind", "first", "second", "share", "setting", "other", "row", "column", "low", "high", "other_low", "other_high", "value",
               "n", "diverged", "place", "status"]
    kinds: dict[str, Any] = dict.fromkeys(("value", "place", "share"), float)
    kinds |= dict.fromkeys(("row", "column", "n", "diverged"), "Int64")
    return pd.concat([part.reindex(columns=columns).astype(kinds) for part in parts], ignore_index=True)


def _halved(study: Study) -> bool:
    return study.search is not None and study.search.halved


def _pairs(study: Study, rows: pd.DataFrame) -> list[tuple[Parameter, Parameter, float]]:
    """The strongest pairs by the model's interactions, or else those of `_promising`; what is to lie across first."""
    known = {f.name: f for f in factors(study)}
    try:
        found = [(known[a], known[b], share) for a, b, share in importance(study).pairs.itertuples(index=False)]
    except AnalysisError:
        found = _promising(rows, list(known.values()), study.mode)
    valued = rows[rows["value"].notna()]
    out = []
    for a, b, share in found:
        mine = valued[valued[a.column].notna() & valued[b.column].notna()]
        if len(mine) >= MIN_N and mine[a.column].nunique() > 1 and mine[b.column].nunique() > 1:
            across = max((a, b), key=lambda p: (not p.choices, len(p.choices), p.name == a.name))
            out.append((across, b if across is a else a, share))
    return out[:PAIRS]


def _promising(rows: pd.DataFrame, found: Sequence[Parameter], mode: str) -> list[tuple[Parameter, Parameter, float]]:
    """All pairs where there is no model: first a range and choices, both tuned, that go most with the objective, each on its own; what is
    in an earlier pair comes later again."""
    cells = association.table(rows, found, objective(rows, mode))
    alone = cells[cells["second"] == ""].set_index("first")["value"].fillna(0.0)
    strong = sorted(found, key=lambda p: -alone[p.name])[:MAX_PROMISING]
    left = [(a, b) for a, b in combinations(found, 2) if a in strong and b in strong]
    out: list[tuple[Parameter, Parameter, float]] = []
    while left:
        used = [p.name for pair in out for p in pair[:2]]
        best = min(left, key=lambda p: (not (p[0].tuned and p[1].tuned), bool(p[0].choices) == bool(p[1].choices),
                                        used.count(p[0].name) + used.count(p[1].name), -alone[p[0].name] * alone[p[1].name]))
        left.remove(best)
        out.append((*best, math.nan))
    return out


def _levels(values: "pd.Series[float]", parameter: Parameter, most: int, *, bins: int) -> npt.NDArray[np.int64]:
    """The level of each value, from the lowest: choices, no more than `most` of them, or bins. -1 for choices that are too many."""
    present = [c for c in parameter.choices if (values == c).any()]
    if parameter.numeric and (not present or len(present) > most):
        return quantile_bins(values.to_numpy(dtype=float), bins)
    kept = set(values.value_counts().index[:most])
    return values.map({c: i for i, c in enumerate(c for c in present if c in kept)}).fillna(-1).to_numpy(dtype=np.int64)


def _cells(pair: pd.DataFrame, one: Parameter, other: Parameter) -> list[dict[str, object]]:
    """The mean of each cell of settings that some config has."""
    bins = int(np.clip(math.sqrt(len(pair) / PER_CELL), 2, CELLS))
    pair = pair.assign(column=_levels(pair["setting"], one, CHOICES, bins=bins), row=_levels(pair["other"], other, CHOICES, bins=bins))
    pair = pair[(pair["column"] >= 0) & (pair["row"] >= 0)]
    for level, setting, prefix in (("column", "setting", ""), ("row", "other", "other_")):
        ends = pair.groupby(level)[setting]
        pair = pair.assign(**{f"{prefix}low": ends.transform("min"), f"{prefix}high": ends.transform("max")})
    return [{"kind": "cell", **part[["row", "column", "low", "high", "other_low", "other_high"]].iloc[0], "value": part["value"].mean(),
             "n": int(part["value"].count()), "diverged": int(part["value"].isna().sum())} for _, part in pair.groupby(["row", "column"])]


def _line_points(pair: pd.DataFrame, one: Parameter, other: Parameter) -> list[dict[str, object]]:
    """For each level of the other the medians along the one, what diverged being the worst."""
    out = []
    for level, part in pair[pair["row"] >= 0].groupby("row"):
        bins = min(BINS, len(part) // PER_BIN)
        points = _levels(part["setting"], one, len(one.choices), bins=max(bins, 1))
        for point in sorted(set(points)) if bins > 1 or one.choices else []:
            mine = part[points == point]
            setting = mine["setting"].iloc[0] if one.choices else float(mine["setting"].astype(float).median())
            out.append({"kind": "line", "row": level, "setting": setting, "other_low": part["other"].min(), "n": len(mine),
                        "other_high": part["other"].max(), "value": _median(mine["value"])})
    return out


def _median(values: "pd.Series[float]") -> float:
    """The median of values in their order, from what diverged, which has none, to the best; NaN where that is in the middle."""
    middle = values.iloc[(len(values) - 1) // 2:len(values) // 2 + 1]
    return float(middle.mean(skipna=False))


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    known = {f.name: f for f in factors(study)}
    pairs = list(data[["first", "second"]].drop_duplicates().itertuples(index=False, name=None))
    figure.set_size_inches(style.width_in(), (2.05 if style.room(3) == 3 else 1.85) * len(pairs) + 0.5)
    grid = figure.subplots(len(pairs), 3, squeeze=False)
    ends = []
    for axes, (first, second) in zip(grid, pairs, strict=True):
        mine = data[(data["first"] == first) & (data["second"] == second)]
        one, other = known[first], known[second]
        scatter(axes[0], mine, one, other)
        cells(axes[1], mine, one, other, study)
        ends.append((axes[2], lines(axes[2], mine, one, other, study)))
    style.key(figure, _key(data))
    style.caption(figure, _caption(data, study))
    style.label_all_ends(ends)


def scatter(axes: Axes, data: pd.DataFrame, one: Parameter, other: Parameter) -> None:
    """Every config at its two settings, its colour the rank of what it gave."""
    rows = data[data["kind"] == "config"]
    rows = rows if len(rows) <= MAX_MARKS else rows.iloc[np.linspace(0, len(rows) - 1, MAX_MARKS).astype(int)]
    across, up = scale(one, rows["setting"]), scale(other, rows["other"])
    x = across.at(rows["setting"]) + 0.7 * across.slot * aside(len(rows))
    y = up.at(rows["other"]) + 0.7 * up.slot * aside(len(rows), upwards=True)
    place = rows["place"].to_numpy(dtype=float)
    none, size = np.isnan(place), float(np.clip(1500 / len(rows), 4, 18))
    axes.scatter(x[none], y[none], marker="x", s=size, lw=0.7, color=style.MUTED, alpha=0.6, zorder=2)
    axes.scatter(x[~none], y[~none], s=size, c=style.rank_colours(place[~none]), lw=0, zorder=3, rasterized=len(rows) > RASTER)
    _across(axes, across, one)
    ticks = up.ticks(CHOICES if up.slot else 4)
    axes.set_yticks([at for at, _ in ticks], [style.wrap(text, 10, lines=1 if len(ticks) > 4 else 2) for _, text in ticks], fontsize=7)
    axes.set_ylim((0, 1) if up.slot else (-0.05, 1.05))
    axes.set_ylabel(style.wrap(other.name, 22, lines=2))
    share = data["share"].iloc[0]
    text = f"{one.name} × {other.name}" + ("" if math.isnan(share) else f": {_percent(share)}")
    axes.set_title(style.wrap(text, style.room(30), lines=3), fontsize=7.5, loc="left")


def _percent(share: float) -> str:
    return "below 1 %" if share < 0.01 else f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _across(axes: Axes, its: Scale, one: Parameter) -> None:
    ticks = its.ticks(CHOICES if its.slot else style.room(3))
    names = [style.wrap(text, 10, lines=2) for _, text in ticks]
    letters = sum(max(map(len, name.split("\n"))) + 1 for name in names)
    axes.set_xticks([at for at, _ in ticks], names, rotation=90 if letters > style.room(28) else 0, fontsize=7)
    axes.set_xlim((0, 1) if its.slot else (-0.05, 1.05))
    axes.set_xlabel(style.wrap(one.name, style.room(24), lines=2))


def cells(axes: Axes, data: pd.DataFrame, one: Parameter, other: Parameter, study: Study) -> None:
    """The mean of each cell and how many configs it is of, the better the darker."""
    rows = data[data["kind"] == "cell"]
    values = rows["value"].to_numpy(dtype=float) * (-1 if study.mode == "min" and not _halved(study) else 1)
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    columns, up = int(rows["column"].max()) + 1, int(rows["row"].max()) + 1
    small = float(np.clip(34 / max(columns, 1.4 * up) * style.width_in() / 7, 4.2, 6.5))
    for (_, cell), value in zip(rows.iterrows(), values, strict=True):
        place = (value - low) / (high - low) if high > low else 0.5
        colour = style.rank_colours([place])[0] if np.isfinite(value) else "white"
        axes.add_patch(Rectangle((cell["column"] - 0.49, cell["row"] - 0.49), 0.98, 0.98, fc=colour, ec="white", lw=0.3))
        ink = "white" if np.isfinite(value) and place > 0.45 else style.INK
        axes.text(cell["column"], cell["row"] + 0.13, _shown(cell["value"], study), ha="center", va="center", fontsize=small, color=ink)
        n = f"{cell['n']}" + (f" ×{cell['diverged']}" if cell["diverged"] else "")
        axes.text(cell["column"], cell["row"] - 0.24, n, ha="center", va="center", fontsize=small * (0.7 if cell["diverged"] else 0.78),
                  color=ink)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-0.5, up - 0.5)
    at, names = _edges(rows, "column", "low", "high", one)
    letters = sum(max(map(len, name.split("\n"))) + 1 for name in names)
    axes.set_xticks(at, names, fontsize=6, rotation=45 if letters > style.room(26) else 0, rotation_mode="anchor",
                    ha="right" if letters > style.room(26) else "center")
    at, names = _edges(rows, "row", "other_low", "other_high", other)
    axes.set_yticks(at, names, fontsize=6)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(style.wrap(one.name, style.room(24), lines=2))
    axes.set_title("mean rank" if _halved(study) else f"mean {study.metric}", fontsize=7.5, loc="left")


def _edges(rows: pd.DataFrame, index: str, low: str, high: str, parameter: Parameter) -> tuple[list[float], list[str]]:
    """Ticks of the cells: the name of a choice in the middle, the settings between bins at their edges."""
    ends = rows.drop_duplicates(index).sort_values(index)
    if all(ends[low] == ends[high]):
        return [float(i) for i in ends[index]], [style.wrap(said(v), 10, lines=1 if len(ends) > 4 else 2) for v in ends[low]]
    return [-0.5, *(float(i) + 0.5 for i in ends[index])], [short(v) for v in (ends[low].iloc[0], *ends[high])]


def _shown(value: float, study: Study) -> str:
    if not math.isfinite(value):
        return "–"
    share = _halved(study) or stats.is_share(study.metric)
    return f"{100 * value:.1f}" if share and not _halved(study) else f"{100 * value:.0f}" if share else short(value)


def lines(axes: Axes, data: pd.DataFrame, one: Parameter, other: Parameter, study: Study) -> list[tuple[float, float, str, str]]:
    """Every config over the first parameter, and the medians for each level of the second.

    Returns:
        where the lines end, their names and colours, for `style.label_ends`.
    """
    rows, points = data[(data["kind"] == "config") & data["value"].notna()], data[data["kind"] == "line"]
    its, mode = scale(one, data.loc[data["kind"] == "config", "setting"]), "max" if _halved(study) else study.mode
    low, high = style.informative(rows["value"].tolist(), mode)
    worse = high if mode == "min" else low
    rows = rows if len(rows) <= MAX_MARKS else rows.iloc[np.linspace(0, len(rows) - 1, MAX_MARKS).astype(int)]
    at = its.at(rows["setting"]) + 0.7 * its.slot * aside(len(rows))
    axes.scatter(at, rows["value"].clip(low, high), s=float(np.clip(900 / len(rows), 2, 12)), lw=0, alpha=0.4, zorder=2,
                 c=[style.FAINT if level < 0 else style.COLOURS[level] for level in rows["row"]], rasterized=len(rows) > RASTER)
    ends = []
    for i in points["row"].unique():
        colour, level = style.COLOURS[i], points[points["row"] == i]
        level = level.assign(at=its.at(level["setting"])).sort_values("at")
        y = level["value"].fillna(worse).clip(low, high)
        axes.plot(level["at"], y, color="white", lw=2.8, zorder=3)
        axes.plot(level["at"], y, color=colour, lw=1.4, marker="o", ms=2.6, zorder=4)
        between = level[["other_low", "other_high"]].iloc[0]
        name = said(between.iloc[0]) if between.iloc[0] == between.iloc[1] else " to ".join(map(short, between))
        ends.append((float(level["at"].iloc[-1]), float(y.iloc[-1]), name, colour))
    ends = [(x, y, style.wrap(name, 14, lines=1 if len(ends) > 3 else 2), colour) for x, y, name, colour in ends]
    _across(axes, its, one)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_formatter(style.tick_format("acc" if _halved(study) else study.metric))
    axes.tick_params(axis="y", labelsize=7)
    what = "rank" if _halved(study) else study.metric
    axes.set_title(style.wrap(f"median {what} by {other.name}", style.room(34), lines=3), fontsize=7.5, loc="left")
    return ends


def _key(data: pd.DataFrame) -> list[Line2D]:
    handles = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=tuple(style.rank_colours([place])[0]), label=label)
               for place, label in ((1.0, "the best"), (0.5, "in the middle"), (0.0, "the worst"))]
    none = data.loc[data["kind"] == "config", "place"].isna().any()
    return handles + ([Line2D([], [], ls="", marker="x", ms=4, mew=0.7, color=style.MUTED, label="infeasible")] if none else [])


def _caption(data: pd.DataFrame, study: Study) -> str:
    what = f"the rank by {study.metric} among all (%, the best 100, what went further in halving ahead)" if _halved(study) else study.metric
    how = ("Per cent: the share of the model's variance that needs both (importance)" if data["share"].notna().all() else
           "No model of the importances fits these configs: the pairs are of parameters that go with the objective, each alone")
    parts = [f"{study.name}: {study.counts()}", how, "Left: each mark a config, the darker the better its rank",
             f"Middle: mean of {what} and below it how many configs it is of, ranges cut into bins of about as many" +
             (" (×: and so many that diverged)" if data["diverged"].fillna(0).any() else ""),
             "Right: medians of bins, what diverged being the worst; values beyond the axis are at its edge",
             "The other parameters differ too"]
    return ". ".join(parts) + "."
