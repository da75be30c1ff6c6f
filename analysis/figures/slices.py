"""What was tuned against what it gave: for each parameter of the search space, every config's value over its setting."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import style
from analysis.figures.search import CONFIRMED, EARLY, beyond, draw_configs, limits, rung_key, rung_marks, searched, shown_variants
from analysis.load import AnalysisError, Study
from analysis.winners import Tuned

NAME, TITLE = "slices", "What was tuned against what it gave"
MAX_PANELS = 16
"""Most parameters that are drawn, in the grid's order; the table behind the figure holds all."""
COLUMNS = (3, 4)
"""Panels side by side, whichever leaves fewer places empty."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(study: Study) -> pd.DataFrame:
    """What is drawn: a row for each config and each tuned parameter that it reads.

    Returns:
        variant, config, parameter, setting, status, epochs (of the rung that a stopped config got to), n, value, chosen.

    Raises:
        AnalysisError: the study has no [tune], no config has a value, or no config reads what is tuned.
    """
    search = searched(study)
    first = search.trials.drop_duplicates(["variant", "config"])
    rows = search.configs.merge(first[["variant", "config", *(f"param_{t.name}" for t in search.tuned)]], on=["variant", "config"])
    columns = ["variant", "config", "parameter", "setting", "status", "epochs", "n", "value", "chosen"]
    parts = [rows.assign(parameter=t.name, setting=rows[f"param_{t.name}"].astype(object))[columns] for t in search.tuned]
    parts = [part[part["setting"].notna()] for part in parts]
    parts = [part for part in parts if not part.empty]
    if not parts:
        raise AnalysisError(f"{study.name}: no config reads any of the tuned parameters")
    return pd.concat(parts, ignore_index=True)


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    variants = shown_variants(study, len(study.variants))
    tuned = [t for t in searched(study).tuned if (data["parameter"] == t.name).any()]
    drawn = tuned[:MAX_PANELS]
    columns = min(COLUMNS, key=lambda c: (-len(drawn) % c, -c)) if len(drawn) > max(COLUMNS) else max(2, len(drawn))
    bands = math.ceil(len(drawn) / columns)
    figure.set_size_inches(style.width_in(), 1.95 * bands + 0.5)
    axes = figure.subplots(bands, columns, squeeze=False, sharey=True)
    marks, (low, high) = rung_marks(data), limits(data.drop_duplicates(["variant", "config"]), study.metric, study.mode)
    for i, axis in enumerate(axes.flat):
        axis.set_visible(i < len(drawn))
        if i < len(drawn):
            axis.set_ylim(low, high)
            axis.yaxis.set_major_formatter(style.tick_format(study.metric))
            _draw_parameter(axis, data[data["parameter"] == drawn[i].name], drawn[i], study, variants, marks)
            axis.set_xlabel(style.wrap(drawn[i].name, 24))
            if i % columns == 0:
                axis.set_ylabel(style.axis_label(study.metric))
    style.key(figure, _key(data, marks, study, variants))
    style.caption(figure, _caption(data, study, (low, high), len(tuned) - len(drawn)))


def _draw_parameter(axis: Axes, rows: pd.DataFrame, tuned: Tuned, study: Study, variants: list[str], marks: dict[int, str]) -> None:
    colour = style.colours(study.variants)
    words = any(isinstance(v, (str, bool, np.bool_)) for v in rows["setting"])
    if words or tuned.choices:
        order = list(dict.fromkeys([*tuned.choices, *rows["setting"]]))
        at = rows["setting"].map({v: i for i, v in enumerate(order)}).astype(float) + _aside(rows, variants)
        names = [style.wrap(_choice(v), 12) for v in order]
        crowded = len(order) > 5 or sum(max(map(len, n.split("\n"))) for n in names) > 24
        axis.set_xticks(range(len(order)), names, rotation=90 if crowded else 0, fontsize=7)
        axis.set_xlim(-0.6, len(order) - 0.4)
        axis.grid(visible=False, axis="x")
    else:
        at = rows["setting"].astype(float)
        _scale(axis, at, tuned)
    for variant in variants:
        mine = rows["variant"] == variant
        others = colour[variant] if 1 < len(variants) <= len(style.COLOURS) else style.MUTED
        draw_configs(axis, at[mine], rows[mine], study.mode, marks, colour=colour[variant], others=others)
        chosen = mine & rows["chosen"] & ~beyond(rows, axis.get_ylim())
        axis.plot(at[chosen], rows.loc[chosen, "value"], ls="", marker="o", ms=7.5, mfc="none", mew=1.0, zorder=6,
                  mec=CONFIRMED if len(variants) < 2 else style.INK)


def _choice(value: object) -> str:
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else f"{value:g}" if isinstance(value, float) else str(value)


def _aside(rows: pd.DataFrame, variants: list[str]) -> "pd.Series[float]":
    """How far beside its choice a config is drawn: a slot for each variant, and within it one place after the other, so that configs do
    not hide each other. The golden ratio spreads any number of them evenly."""
    slots = len(variants) if len(variants) <= len(style.COLOURS) else 1
    slot = rows["variant"].map({v: i % slots if slots > 1 else 0 for i, v in enumerate(variants)}).astype(float)
    within = (rows["config"] * 0.6180339887498949) % 1 - 0.5
    return 0.7 * ((slot + 0.5) / slots - 0.5 + 0.7 * within / slots)


def _scale(axis: Axes, at: "pd.Series[float]", tuned: Tuned) -> None:
    """The axis of a range, logarithmic where the grid searches it so."""
    low, high = float(at.min()), float(at.max())
    if tuned.log and low > 0:
        axis.set_xscale("log")
        ratio = high / low
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 100 else (1.0, 2.0, 5.0) if ratio < 20 else (1.0, 3.0), numticks=4))
        axis.xaxis.set_minor_locator(NullLocator())
        pad = max(ratio, 1.5) ** 0.05
        axis.set_xlim(low / pad, high * pad)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    else:
        pad = 0.05 * (high - low) or 0.1 * abs(low) or 0.5
        axis.set_xlim(low - pad, high + pad)
        axis.xaxis.set_major_locator(style.round_ticks(most=4))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 9):g}".replace("-", "−")))


def _power(value: float) -> str:
    """A tick of a logarithmic axis: "0.05", "100", "10⁻⁴", "3·10⁻⁴"."""
    digit, _, power = f"{value:.0e}".partition("e")
    if -3 <= int(power) <= 3:
        return f"{value:g}"
    ten = f"10{str(int(power)).translate(_SUPERSCRIPTS)}"
    return ten if digit == "1" else f"{digit}·{ten}"


def _key(data: pd.DataFrame, marks: dict[int, str], study: Study, variants: list[str]) -> list[Line2D]:
    several = 1 < len(variants) <= len(style.COLOURS)
    handles = rung_key(data, marks, style.MUTED if several else style.ACCENT)
    if several:
        colour = style.colours(study.variants)
        handles = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=colour[v], label=style.wrap(v, 30)) for v in variants] + handles
        handles = [h for h in handles if h.get_label() != "fully trained"]
    return handles


def _caption(data: pd.DataFrame, study: Study, limits: tuple[float, float], left_out: int) -> str:
    name = "winners" if study.search and study.search.confirmed else "best configs"
    parts = [f"{study.name}: {study.counts()}", f"Each mark: one config, its mean {study.metric} over its seeds in the search, against "
             "one of its parameters; the others differ too", f"Ringed: the {name}"]
    parts += [EARLY] if rung_marks(data) else []
    parts += ["Colour does not tell the variants apart, there are too many"] if len(study.variants) > len(style.COLOURS) else []
    parts += ["Arrows: values beyond the axis"] if beyond(data, limits).any() else []
    configs = len(study.search.configs) if study.search else 0
    parts += ["A config is missing where it does not read the parameter"] if (data.groupby("parameter").size() < configs).any() else []
    parts += [f"{left_out} more parameters are in the CSV"] if left_out else []
    return ". ".join(parts) + "."
