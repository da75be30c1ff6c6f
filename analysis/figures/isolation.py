"""Isolation plots: the best over everything that was tuned, for each variant, and for each setting of each tuned parameter.

The tuning playbook's way of reading a search ("Extracting insight from experiment results": for each value of the scientific parameter
the best trial over the nuisance parameters). Here the variants are the scientific parameter. Below, each tuned parameter takes that place
in turn: its range in `BINS` equal parts, or its choices, and in each part the best config whatever the others were.
"""

import itertools
import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import parameters, scales, style
from analysis.figures.search import beyond, limits, searched, shown_variants
from analysis.load import NotForThisStudy, Study, plural
from analysis.parameters import Parameter

NAME, TITLE = "isolation", "The best over what was tuned"
BINS = 6
"""Parts of a range."""
FEW = 3
"""A part with fewer configs is hollow: its best is the best of next to nothing."""
MOST = len(style.COLOURS)
"""Most variants that are drawn; the table behind the figure holds all."""
MAX_PANELS = 12
"""Most parameters that are drawn, in the grid's order; the table behind the figure holds all."""
ABSENT = "n/a"
"""The part of the configs that do not read a parameter."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, of configs that are fully trained and have a value.

    Returns:
        kind, variant, parameter, part (its number), setting (what it is called: a choice, a range, or `ABSENT`), low, high (of a range),
        config, n, value, rank. "config": a config with its value and its rank in the variant; n counts its seeds. "best": the best of a
        part of a parameter, and n, how many configs there are in that part.

    Raises:
        NotForThisStudy: the study has no [tune], or halving has left less than `FEW` fully trained configs of each variant.
        AnalysisError: no config has a value.
    """
    searched(study)
    configs = parameters.configs(study)
    known = configs[configs["value"].notna() & (configs["status"] == "done")]
    if known.empty or known["variant"].value_counts().max() < FEW:
        raise NotForThisStudy(f"{study.name}: no variant has {FEW} fully trained configs, so there is nothing to take the best of")
    known = known.assign(kind="config", rank=known.groupby("variant")["value"].rank(method="first", ascending=study.mode == "min"))
    parts = [known, *(_parts(known, p, study.mode) for p in parameters.parameters(study) if p.tuned)]
    columns = ["kind", "variant", "parameter", "part", "setting", "low", "high", "config", "n", "value", "rank"]
    kinds = dict.fromkeys(("part", "config", "n", "rank"), "Int64") | dict.fromkeys(("low", "high", "value"), float)
    out = pd.concat([part.reindex(columns=columns).astype(kinds) for part in parts if not part.empty], ignore_index=True)
    places = {v: i for i, v in enumerate(study.variants)}
    return out.sort_values(["kind", "variant"], kind="stable", ascending=[False, True], ignore_index=True,
                           key=lambda c: c.map(places) if c.name == "variant" else c)


def _parts(configs: pd.DataFrame, parameter: Parameter, mode: str) -> pd.DataFrame:
    """The best config of each variant in each part of a parameter."""
    values = configs[parameter.column]
    scale = scales.scale(parameter, values)
    at, count = scale.at(values), len(scale.choices) or BINS
    part = np.where(np.isnan(at), count, np.minimum(np.nan_to_num(at) * count, count - 1)).astype(int)
    rows = configs.assign(part=part, parameter=parameter.name, kind="best").sort_values("value", ascending=mode == "min", kind="stable")
    n = rows.groupby(["variant", "part"]).size().rename("n").reset_index()
    best = rows.drop_duplicates(["variant", "part"]).drop(columns=["n", "rank"]).merge(n, on=["variant", "part"])
    edges = scale.low + (scale.high - scale.low) * np.arange(count + 1) / count
    edges = 10 ** edges if scale.log else edges
    names = [*(map(scales.said, scale.choices) if scale.choices else
               (f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges))), ABSENT]
    best["setting"] = [names[i] for i in best["part"]]
    inside = best["part"].to_numpy(dtype=int)
    if not scale.choices:
        padded = np.append(edges, math.nan)
        best["low"], best["high"] = np.where(inside < count, padded[inside], math.nan), padded[np.minimum(inside, count) + 1]
        best.loc[inside == count, "high"] = math.nan
    return best.sort_values(["variant", "part"], kind="stable")


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    variants = [v for v in shown_variants(study, MOST) if v in set(data["variant"])]
    shown = data[data["variant"].isin(variants)]
    found = set(shown["parameter"].dropna())
    names = [p for p in parameters.parameters(study) if p.name in found]
    drawn, colour = names[:MAX_PANELS], style.colours(variants)
    configs, best = shown[shown["kind"] == "config"], shown[shown["kind"] == "best"]
    columns = min(style.room(4), max(2, len(drawn)))
    bands = math.ceil(len(drawn) / columns)
    labels = [style.wrap(v, 22, lines=3) for v in variants]
    strip_in = 0.45 + sum(0.16 + 0.13 * (label.count("\n") + 1) for label in labels)
    band_in = 1.95
    figure.set_size_inches(style.width_in(), strip_in + band_in * bands + 0.35)
    grid = figure.add_gridspec(1 + bands, columns, height_ratios=[strip_in, *[band_in] * bands])
    strip = figure.add_subplot(grid[0, :])
    edge = limits(configs.drop(columns="kind").assign(status="done", chosen=False), study.metric, study.mode)
    _draw_strip(strip, configs, study, colour, labels, edge)
    low, high = _near(best, edge)
    first = None
    for i, parameter in enumerate(drawn):
        axis = figure.add_subplot(grid[1 + i // columns, i % columns], sharey=first)
        first = first or axis
        axis.set_ylim(low, high)
        axis.yaxis.set_major_locator(style.round_ticks(most=4))
        axis.yaxis.set_major_formatter(style.tick_format(study.metric))
        axis.tick_params(labelleft=i % columns == 0)
        if i % columns == 0:
            axis.set_ylabel(f"best {style.axis_label(study.metric)}".replace(" accuracy", "\naccuracy"))
        panel(axis, best[best["parameter"] == parameter.name], parameter, study, colour)
    style.make_room(figure, [figure.axes[1 + i:1 + i + columns] for i in range(0, len(drawn), columns)])
    style.warning(figure, study.warning())
    style.caption(figure, _caption(shown, study, edge, (low, high), len(names) - len(drawn)))


def _near(best: pd.DataFrame, edge: tuple[float, float]) -> tuple[float, float]:
    """The range of the lower panels: that of the best values, within that of all."""
    if best.empty:
        return edge
    pad = 0.08 * float(best["value"].max() - best["value"].min()) or 0.02
    return max(edge[0], float(best["value"].min()) - pad), min(edge[1], float(best["value"].max()) + pad) + 0.25 * pad


def _draw_strip(axis: Axes, configs: pd.DataFrame, study: Study, colour: dict[str, str], labels: list[str],
                edge: tuple[float, float]) -> None:
    """A row of configs for each variant, the best ringed and the next few in full colour."""
    axis.set_xlim(*edge)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_locator(style.round_ticks(most=7))
    axis.xaxis.set_major_formatter(style.tick_format(study.metric))
    axis.set_xlabel(style.axis_label(study.metric))
    for y, (variant, shade) in enumerate(colour.items()):
        rows = configs[configs["variant"] == variant]
        inside = rows[~beyond(rows, edge)]
        size = 14 if len(rows) < 100 else 7
        at, top = y + 0.5 * scales.aside(len(inside)), (inside["rank"] <= 5).to_numpy(dtype=bool)
        for which, alpha in ((~top, 0.3), (top, 1.0)):
            axis.scatter(inside.loc[which, "value"], at[which], s=size, lw=0, color=shade, zorder=3 + alpha, alpha=alpha,
                         rasterized=len(rows) > 500)
        best = (inside["rank"] == 1).to_numpy(dtype=bool)
        axis.plot(inside.loc[best, "value"], at[best], ls="", marker="o", ms=8, mfc="none", mec=style.INK, mew=1.0, zorder=5)
        axis.text(1.01, y, f"n = {len(rows)}", transform=axis.get_yaxis_transform(), va="center", fontsize=7, color=style.MUTED)


def panel(axes: Axes, best: pd.DataFrame, parameter: Parameter, study: Study, colour: dict[str, str]) -> None:
    """Draws the best of each part of one parameter for each variant; parts with few configs are hollow. The y axis is set already."""
    choices = [scales.said(c) for c in parameter.choices]
    count, absent = len(choices) or BINS, (best["setting"] == ABSENT).any()
    axes.set_xlim(-0.6, count - 0.4 + 1.3 * absent)
    if choices:
        names = [style.wrap(name, 9, lines=2) for name in choices]
        crowded = sum(max(map(len, name.split("\n"))) + 1 for name in names) > 20
        names = [style.wrap(name, 14, lines=1) for name in choices] if crowded else names
        places, names = [*range(count), *([count + 0.4] if absent else [])], [*names, *([ABSENT] if absent else [])]
        axes.set_xticks(places, names, rotation=90 if crowded else 0, fontsize=7)
    else:
        log = parameter.log and bool((best["low"] > 0).any())
        low, high = float(best["low"].min()), float(best["high"].max())
        scale = scales.Scale(low=math.log10(low) if log else low, high=math.log10(high) if log else high, log=log)
        inside = scale.ticks(4)
        inside = inside[::2] if sum(len(text) for _, text in inside) > 12 else inside
        ticks = [(-0.5 + at * count, text) for at, text in inside]
        ticks = [*(tick for tick in ticks if tick[0] < count - 1.1), (count + 0.4, ABSENT)] if absent else ticks
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks], fontsize=7)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel(style.wrap(parameter.name, 22, lines=2))
    for i, (variant, shade) in enumerate(colour.items()):
        rows = best[best["variant"] == variant]
        x = np.where(rows["setting"] == ABSENT, count + 0.4, rows["part"].to_numpy(dtype=float)) + 0.5 * (i + 0.5) / len(colour) - 0.25
        y, few = rows["value"].to_numpy(dtype=float), (rows["n"] < FEW).to_numpy(dtype=bool)
        y = np.clip(y, *axes.get_ylim())  # marks at the edge are whole
        line = (rows["setting"] != ABSENT).to_numpy() if not choices or parameter.numeric else np.zeros(len(rows), dtype=bool)
        axes.plot(x[line], y[line], color=shade, lw=1.0, alpha=0.7, zorder=2)
        axes.plot(x[~few], y[~few], ls="", marker="o", ms=4.5, mew=0, color=shade, zorder=4, clip_on=False, in_layout=False)
        axes.plot(x[few], y[few], ls="", marker="o", ms=4.5, mfc="white", mec=shade, mew=1.0, zorder=3, clip_on=False, in_layout=False)


def _caption(data: pd.DataFrame, study: Study, edge: tuple[float, float], near: tuple[float, float], left_out: int) -> str:
    configs, best = data[data["kind"] == "config"], data[data["kind"] == "best"]
    parts = [f"{study.name}: {study.counts()}",
             f"Above: every fully trained config, its mean {study.metric} over its seeds; the best five of a variant in full colour, the "
             "best ringed"]
    if len(best):
        parts.append(f"Below: the best config in each of {BINS} equal parts of a range, or with each choice, whatever the others are; "
                     f"hollow: fewer than {FEW} configs there")
    parts.append("The best of many configs is better than the best of few by luck alone, and the parts do not hold equally many (the CSV "
                 "has n)")
    pruned = int((searched(study).configs["status"] == "pruned").sum())
    parts += [f"Left out: {plural(pruned, 'config')} that halving stopped"] if pruned else []
    parts += ["Configs beyond the axis are not shown"] if beyond(configs, edge).any() else []
    side = "upper" if study.mode == "min" else "lower"
    parts += [f"At the {side} edge: what is worse than the axis shows"] if beyond(best, near).any() else []
    parts += [f"{left_out} more parameters are in the CSV"] if left_out else []
    hidden = len(study.variants) - data["variant"].nunique()
    parts += [f"Shown: {data['variant'].nunique()} of {len(study.variants)} variants, the reference and the best"] if hidden else []
    return ". ".join(parts) + "."
