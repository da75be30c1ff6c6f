"""Parallel coordinates: every config as a line through its settings to what they gave, the best ones on top."""

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.search import EARLY
from analysis.load import AnalysisError, NotForThisStudy, Study, plural
from analysis.parameters import OWN, Parameter, best, configs, factors, places
from analysis.scales import Scale, aside, scale
from analysis.stats.importance import by_importance

NAME, TITLE = "parallel", "Parallel coordinates"
ACCENT = style.COLOURS[1]
MAX_AXES = 16
"""Most parameters side by side in a paper; the table behind the figure holds all."""
MAX_LINES = 2000
"""Most configs that are drawn: the best and others at random."""
RASTER = 500
"""From so many lines on they are pixels in a PDF and SVG, which would be slow to open otherwise."""
LANE = -0.15
"""Where the lines of configs that do not read a parameter pass, below its axis."""
FINE, COARSE = 20, 8
"""Pieces of a curve between two axes; coarse where so many lines are drawn that each costs and none stands out."""
INFEASIBLE = "#c4c4c4"


def table(study: Study) -> pd.DataFrame:
    """What is drawn: a row for each config that has a value or diverged, the worst first.

    Returns:
        variant, config, status, epochs, n, value, chosen, trial_id (see `analysis.parameters.configs`), place (0 the worst, 1 the best),
        best (whether it is one of those on top), and a column for each axis, in their order.

    Raises:
        NotForThisStudy: less than two configs have a value, or less than two things vary.
        AnalysisError: no config has a value.
    """
    rows, found = configs(study), factors(study)
    valued = int(rows["value"].notna().sum())
    if len(found) < 2 or valued == 1 or len(rows) < 2:
        raise NotForThisStudy(f"{study.name}: parallel coordinates need two configs and two parameters that vary "
                              f"({plural(valued, 'config')} with a value, {plural(len(found), 'parameter')})")
    if not valued:
        raise AnalysisError(f"{study.name}: no config has a value ({study.counts()})")
    rows["place"] = places(rows, study.mode)
    rows["best"] = best(rows["place"])
    axes, _ = by_importance(study)
    rows = rows[rows["value"].notna() | (rows["status"] == "infeasible")]
    rows = rows.sort_values("place", na_position="first", kind="stable", ignore_index=True)
    columns = [a.column for a in axes]
    return rows[[*(c for c in OWN if c not in columns), "place", "best", *columns]]


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    known = {f.column: f for f in factors(study)}
    axes = [known[c] for c in data.columns[list(data.columns).index("best") + 1:]]
    shown = axes[:style.room(MAX_AXES)]
    figure.set_size_inches(style.width_in(), 3.9)
    panel(figure.subplots(), _drawn(data), shown, study)
    style.key(figure, _key(data))
    style.caption(figure, _caption(data, axes, len(axes) - len(shown), study))


def _drawn(data: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn of many."""
    if len(data) <= MAX_LINES:
        return data
    top = data["best"].to_numpy()
    others = np.random.default_rng(0).choice(np.flatnonzero(~top), MAX_LINES - int(top.sum()), replace=False)
    return data.iloc[np.sort(np.concatenate([np.flatnonzero(top), others]))]


def panel(axes: Axes, data: pd.DataFrame, parameters: list[Parameter], study: Study) -> None:
    """Draws rows of `table(study)`, the worst first, over these parameters and the objective."""
    axes.set_axis_off()
    axes.set_xlim(-0.5, len(parameters) + 0.5)
    lane = data[[one.column for one in parameters]].isna().any(axis=None) or data["value"].isna().any()
    axes.set_ylim(LANE - 0.06 if lane else -0.03, 1.02)
    low, high = style.informative(data["value"].dropna().tolist(), study.mode)
    low, high = (high, low) if study.mode == "min" else (low, high)
    letters = max(5, int(style.width_in() / (len(parameters) + 1) / 0.048))
    heights = []
    for i, one in enumerate(parameters):
        its = scale(one, data[one.column])
        heights.append(_heights(its, data[one.column]))
        _axis(axes, i, [(y, style.wrap(text, letters, lines=2)) for y, text in its.ticks(12 if its.slot else 5)])
        if data[one.column].isna().any():
            _tick(axes, i, LANE, "n/a", colour=style.MUTED)
    value = np.clip((data["value"].to_numpy(dtype=float) - low) / (high - low), 0, 1)
    none = np.isnan(value)
    value[none] = LANE + 0.05 * aside(int(none.sum()))
    _lines(axes, np.column_stack([*heights, value]), data)
    ticks, write = style.round_ticks(most=6).tick_values(min(low, high), max(low, high)), style.tick_format(study.metric)
    places_of = [((tick - low) / (high - low), write(float(tick))) for tick in ticks]
    _axis(axes, len(parameters), [(y, text) for y, text in places_of if 0 <= y <= 1], width=1.6)
    if none.any():
        _tick(axes, len(parameters), LANE, "infeasible", colour=style.MUTED)
    _names(axes, [*(one.name for one in parameters), style.axis_label(study.metric)], letters)


def _heights(its: Scale, values: "pd.Series[float]") -> npt.NDArray[np.float64]:
    """Where the lines cross an axis. What would hide each other is apart: in the slot of a choice the better is the higher, and the more
    there are the wider they lie; the rows come from the worst to the best."""
    out = its.at(values)
    missing = np.isnan(out)
    out[missing] = LANE + 0.05 * aside(int(missing.sum()))
    found, codes, counts = np.unique(out[~missing], return_inverse=True, return_counts=True)
    if its.slot or 1 < 2 * len(found) < len(codes):  # a range with few values is one too
        most = min(0.3, 0.72 * its.slot) if its.slot else min(0.08, 0.5 / len(found))
        wide = most * counts / max(counts.max(initial=0), 4)
        nth = pd.Series(codes).groupby(codes).cumcount().to_numpy()
        out[~missing] += wide[codes] * ((nth + 0.5) / counts[codes] - 0.5)
    return out


def _curves(heights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Smoothstep between the heights (lines, axes) at neighbouring axes: (lines, points, 2)."""
    t = np.linspace(0, 1, COARSE if len(heights) > RASTER else FINE, endpoint=False)
    ease = t * t * (3 - 2 * t)
    gaps = heights[:, :-1, None] + (heights[:, 1:] - heights[:, :-1])[:, :, None] * ease
    x = np.append((np.arange(heights.shape[1] - 1)[:, None] + t).reshape(-1), heights.shape[1] - 1.0)
    y = np.column_stack([gaps.reshape(len(heights), len(x) - 1), heights[:, -1]])
    return np.stack([np.broadcast_to(x, y.shape), y], axis=2)


def _lines(axes: Axes, heights: npt.NDArray[np.float64], data: pd.DataFrame) -> None:
    """Beneath what diverged, then from the worst to the best, then the best ones."""
    place, top = data["place"].to_numpy(dtype=float), data["best"].to_numpy(dtype=bool)
    none, thin = np.isnan(place), float(np.clip(14 / math.sqrt(len(data)), 0.4, 1.2))
    alpha = float(np.clip(14 / math.sqrt(len(data)), 0.35, 0.9))
    for which, colours, width, opaque, zorder in ((none, INFEASIBLE, thin, alpha, 1), (~none & ~top, None, thin, alpha, 2),
                                                  (top, "white", 2.0, 1.0, 3), (top, ACCENT, 1.2, 1.0, 4)):
        axes.add_collection(LineCollection(
            list(_curves(heights[which])), colors=style.rank_colours(place[which]) if colours is None else colours, linewidths=width,
            alpha=opaque, zorder=zorder, rasterized=int(which.sum()) > RASTER, capstyle="butt",
            clip_on=False, in_layout=False), autolim=False)  # lines of one setting lie apart, beyond the ends of the axis too


def _axis(axes: Axes, at: int, ticks: list[tuple[float, str]], *, width: float = 0.8) -> None:
    axes.plot([at, at], [0, 1], color=style.INK, lw=width, zorder=5, solid_capstyle="butt")
    for y, text in ticks:
        _tick(axes, at, y, text)


def _tick(axes: Axes, x: float, y: float, text: str, *, colour: str = style.INK) -> None:
    axes.text(x, y, text, fontsize=6, color=colour, ha="center", va="center", zorder=7, linespacing=0.95,
              bbox={"boxstyle": "square,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.86})


def _names(axes: Axes, names: list[str], letters: int) -> None:
    """Above the axes; on two levels where they would be too narrow for them."""
    letters = int(0.9 * letters)  # they are larger than ticks
    two = any(style.wrap(name, letters, lines=9).count("\n") > 1 for name in names)
    texts = [style.wrap(name, 2 * letters - 1 if two else letters, lines=3) for name in names]
    above = 10 + 8 * max(text.count("\n") + 1 for text in texts[-1::-2])
    for i, text in enumerate(texts):
        last, raised = i == len(names) - 1, two and (len(names) - 1 - i) % 2 == 1
        axes.annotate(text, (i, 1.0), xytext=(0, above if raised else 6), textcoords="offset points", ha="center", va="bottom",
                      fontsize=6.5, linespacing=1.0, fontweight="bold" if last else "normal", annotation_clip=False)
        if raised:
            axes.annotate("", (i, 1.0), xytext=(0, above - 1), textcoords="offset points", annotation_clip=False,
                          arrowprops={"arrowstyle": "-", "color": style.FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 0})


def _key(data: pd.DataFrame) -> list[Line2D]:
    top = int(data["best"].sum())
    handles = [Line2D([], [], color=ACCENT, lw=1.8, label=f"the best {top}" if top > 1 else "the best")]
    handles += [Line2D([], [], color=tuple(style.rank_colours([place])[0]), lw=1.8, label=label)
                for place, label in ((0.95, "high rank"), (0.05, "low rank"))]
    if data["value"].isna().any():
        handles.append(Line2D([], [], color=INFEASIBLE, lw=1.8, label="infeasible"))
    return handles


def _caption(data: pd.DataFrame, axes: list[Parameter], left_out: int, study: Study) -> str:
    low, high = style.informative(data["value"].dropna().tolist(), study.mode)
    valued = data[data["value"].notna()]
    ordered = [a.column for a in axes] != [f.column for f in factors(study)]
    parts = [f"{study.name}: {study.counts()}", f"Each line: one config, its mean {study.metric} over its seeds at the right, the best on "
             "top; colour: its rank"]
    parts += ["Axes from the most important parameter on"] if ordered else []
    parts += ["Among the lines of one choice the better are the higher, and more lines lie wider"] if any(a.choices for a in axes) else []
    parts += ["n/a: the config does not read the parameter"] if data[[a.column for a in axes]].isna().any(axis=None) else []
    parts += ["Values beyond the axis end at its edge"] if ((valued["value"] < low) | (valued["value"] > high)).any() else []
    parts += [EARLY] if valued["epochs"].notna().any() else []
    parts += [f"Drawn: the best and others at random, {MAX_LINES:,} of {len(data):,}"] if len(data) > MAX_LINES else []
    parts += [f"In the CSV alone: {plural(left_out, 'more parameter')}"] if left_out else []
    return ". ".join(parts) + "."
