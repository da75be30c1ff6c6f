"""The search: every config of a variant in the order of proposal, the best so far, and what the confirmation made of the best.

One panel for each variant. Configs that halving stopped are grey and have a mark of their own for each rung: their values are of less
training and compare among themselves only.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import stats, style
from analysis.load import AnalysisError, NotForThisStudy, Study, plural
from analysis.winners import NO_VALUE, Search

NAME, TITLE = "search", "The search, config by config"
MAX_PANELS = 12
"""Most variants that are drawn; the table behind the figure holds all."""
MANY = 250
"""From so many configs on their marks are smaller, and pixels also in a PDF and SVG."""
RUNGS = ("o", "s", "^", "D", "v", "p")
"""Marks of the rungs, the lowest first; hollow."""
EARLY = "What was stopped early is measured after fewer epochs and compares within its rung only"
CONFIRMED, WITHOUT = "#D55E00", "x"
"""The colour of what was confirmed, and the mark of configs without a value."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, variant by variant.

    Returns:
        kind ("config"; "confirmed" for a mean over fresh seeds, "seed" for one of those), variant, config, seed, status, epochs (of the
        rung that a stopped config got to), n, value, low, high (t, 95 %), best_so_far (of the fully trained configs up to this one),
        chosen.

    Raises:
        AnalysisError: the study has no [tune], or no config has a value.
    """
    search = searched(study)
    rows = search.configs.assign(kind="config")
    best = rows["value"].where(rows["status"] == "done").groupby(rows["variant"])
    rows["best_so_far"] = (best.cummin() if study.mode == "min" else best.cummax()).groupby(rows["variant"]).ffill()
    again = rows[rows["confirmed"].notna()]
    means = again.assign(kind="confirmed", status="done", epochs=pd.array([None] * len(again), dtype="Int64"), best_so_far=math.nan,
                         n=again["confirmed_n"], value=again["confirmed"], low=again["confirmed"] - again["confirmed_half_width"],
                         high=again["confirmed"] + again["confirmed_half_width"])
    fresh = search.trials[search.trials["phase"] == "confirm"].rename(columns={study.metric: "value"})
    fresh = fresh[["variant", "config", "seed", "status", "value"]].assign(kind="seed", n=1)
    fresh = fresh.merge(rows[["variant", "config", "chosen"]], on=["variant", "config"])
    columns = ["kind", "variant", "config", "seed", "status", "epochs", "n", "value", "low", "high", "best_so_far", "chosen"]
    out = pd.concat([part.reindex(columns=columns).astype({"value": float, "low": float, "high": float, "best_so_far": float, "n": int,
                                                           "config": int, "seed": "Int64", "epochs": "Int64"})
                     for part in (rows, means, fresh) if not part.empty], ignore_index=True)
    places = {"kind": {"config": 0, "confirmed": 1, "seed": 2}, "variant": {v: i for i, v in enumerate(study.variants)}}
    return out.sort_values(["variant", "kind", "config", "seed"], ignore_index=True,
                           key=lambda c: c.map(places[str(c.name)]) if c.name in places else c)


def searched(study: Study) -> Search:
    """All that the study tried.

    Raises:
        AnalysisError: the study has no [tune], or no config has a value.
    """
    if study.search is None:
        raise NotForThisStudy(f"{study.name} has no [tune]: nothing was searched")
    if study.search.configs["value"].isna().all():
        raise AnalysisError(f"{study.name}: no config has a value ({study.counts()})")
    return study.search


def shown_variants(study: Study, most: int = MAX_PANELS) -> list[str]:
    """The variants that are drawn, in the grid's order: the reference and those with the best configs."""
    search = searched(study)
    by = "confirmed" if search.confirmed else "value"
    top = search.configs[search.configs["chosen"]].sort_values(by, ascending=study.mode == "min", kind="stable")["variant"]
    order = list(dict.fromkeys([study.reference, *top, *study.variants]))
    return [v for v in study.variants if v in order[:most]]


def rung_marks(data: pd.DataFrame) -> dict[int, str]:
    """The mark of each rung that configs were stopped at, by its epochs."""
    stopped = data.loc[data["value"].notna(), "epochs"].dropna()
    return {int(epochs): RUNGS[min(i, len(RUNGS) - 1)] for i, epochs in enumerate(sorted(stopped.unique()))}


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    variants = shown_variants(study)
    shown = data[data["variant"].isin(variants)]
    marks, last = rung_marks(shown), int(shown["config"].max())
    low, high = limits(shown, study.metric, study.mode)
    right = last + max(1.0, 0.06 * (last + 1))
    axes = style.panels(figure, variants, x="config, in the order of proposal", y=style.axis_label(study.metric))
    for axis, variant in zip(axes, variants, strict=True):
        axis.set_ylim(low, high)
        axis.set_xlim(-0.03 * (last + 1) - 0.5, (right if shown["kind"].eq("confirmed").any() else last) + 0.04 * (last + 1) + 0.5)
        ticks = style.round_ticks(whole=True).tick_values(0, max(last, 1))
        axis.set_xticks([tick for tick in ticks if 0 <= tick <= last])  # what was confirmed stands beside the numbers, at none of them
        if (shown["kind"] == "confirmed").any():
            axis.axvline((last + right) / 2, color=style.FAINT, lw=0.8, zorder=1)
        axis.yaxis.set_major_formatter(style.tick_format(study.metric))
        _draw_variant(axis, shown[shown["variant"] == variant], study.mode, marks, right)
    style.key(figure, _key(shown, marks))
    style.caption(figure, _caption(shown, study, (low, high)))


def limits(data: pd.DataFrame, metric: str, mode: str) -> tuple[float, float]:
    """The informative range of the values, with room at the worse edge where configs without a value are marked."""
    of_configs = data["kind"] == "config" if "kind" in data else data["value"].notna()
    low, high = style.informative(data.loc[of_configs, "value"].tolist(), mode)
    again = data[~of_configs & data["chosen"]]
    far = 0.5 * (high - low)  # an interval of a few seeds may be as wide as everything else
    low = min([low, *again["value"].dropna(), *again.get("low", again["value"]).clip(lower=low - far).dropna() - far / 25])
    high = max([high, *again["value"].dropna(), *again.get("high", again["value"]).clip(upper=high + far).dropna() + far / 25])
    high = min(high, 1 + 0.05 * (1 - low)) if stats.is_share(metric) else high
    if not data["status"].isin(NO_VALUE).any() and not beyond(data[of_configs], (low, high)).any():
        return low, high
    values, room = data["value"].dropna(), 0.1 * (high - low)
    for _ in range(5):  # what lies just beyond would show in that room, below the marks at the edge: the axis rather has it too
        if mode == "min":
            high = max(high, values[values < high + room].max() + 0.2 * room)
        else:
            low = min(low, values[values > low - room].min() - 0.2 * room)
    return (low, high + room) if mode == "min" else (low - room, high)


def beyond(data: pd.DataFrame, limits: tuple[float, float]) -> "pd.Series[bool]":
    """Which values lie outside the axis."""
    return (data["value"] < limits[0]) | (data["value"] > limits[1])


def draw_configs(axis: Axes, x: "pd.Series[float]", rows: pd.DataFrame, mode: str, marks: dict[int, str], *, colour: str,
                 others: str = style.MUTED, alpha: float = 1.0) -> None:
    """The configs of `rows` at `x`: dots in colour for the fully trained, hollow marks for those stopped at a rung, crosses at the worse
    edge for those without a value and arrows there for those beyond it. Marks are smaller where there are many. The axis has its limits
    already.

    Args:
        others: the colour of all but the fully trained.
    """
    edge, arrow = (0.965, "^") if mode == "min" else (0.035, "v")
    at_edge = axis.get_xaxis_transform()
    out, none = beyond(rows, axis.get_ylim()), rows["value"].isna()
    full, stopped = ~out & rows["epochs"].isna() & ~none, ~out & rows["epochs"].notna() & ~none
    size = float(np.clip((MANY / max(len(rows), 1)) ** 0.35, 0.5, 1.0))
    common: dict[str, Any] = {"ls": "", "alpha": alpha, "rasterized": len(rows) > MANY}
    for epochs, mark in marks.items():
        part = stopped & (rows["epochs"] == epochs)
        axis.plot(x[part], rows.loc[part, "value"], marker=mark, ms=3.6 * size, mfc="white", mec=others, mew=0.8, zorder=3, **common)
    axis.plot(x[full], rows.loc[full, "value"], marker="o", ms=4 * size, mew=0, color=colour, zorder=4, **common)
    at_edge_common = common | {"transform": at_edge, "zorder": 3, "color": others}
    axis.plot(x[out], np.full(int(out.sum()), edge), marker=arrow, ms=3.6 * size, mew=0, **at_edge_common)
    axis.plot(x[none], np.full(int(none.sum()), edge), marker=WITHOUT, ms=4 * size, mew=0.9 * size, **at_edge_common)


def _draw_variant(axis: Axes, rows: pd.DataFrame, mode: str, marks: dict[int, str], right: float) -> None:
    configs, means, seeds = (rows[rows["kind"] == kind] for kind in ("config", "confirmed", "seed"))
    if configs["value"].isna().all():
        axis.text(0.5, 0.5, "no config has a value", transform=axis.transAxes, ha="center", va="center", color=style.MUTED, fontsize=7)
    draw_configs(axis, configs["config"], configs, mode, marks, colour=style.ACCENT)
    if configs["best_so_far"].notna().sum() > 1:
        axis.step(configs["config"], configs["best_so_far"], where="post", color=style.ACCENT, lw=0.9, alpha=0.7, zorder=2)
    winner = configs[configs["chosen"]]
    axis.plot(winner["config"], winner["value"], ls="", marker="o", ms=8, mfc="none", mec=CONFIRMED, mew=1.1, zorder=5)
    for _, mean in means.iterrows():
        if not mean["chosen"]:
            axis.plot(right, mean["value"], marker="D", ms=3, mfc="white", mec=style.MUTED, mew=0.8, zorder=4)
            continue
        values = seeds.loc[seeds["chosen"], "value"]
        axis.plot(np.full(len(values), right), values, ls="", marker="o", ms=2.6, mew=0, color=CONFIRMED, alpha=0.5, zorder=4)
        axis.plot([right, right], [mean["low"], mean["high"]], color=CONFIRMED, lw=1.6, zorder=5, solid_capstyle="butt")
        axis.plot(right, mean["value"], marker="D", ms=4.5, mfc="white", mec=CONFIRMED, mew=1.3, zorder=6)
        axis.plot([*winner["config"], right], [*winner["value"], mean["value"]], color=CONFIRMED, lw=0.7, ls=(0, (1, 2)), zorder=1)


def _key(data: pd.DataFrame, marks: dict[int, str]) -> list[Line2D]:
    configs = data[data["kind"] == "config"]
    handles = rung_key(configs, marks, style.ACCENT)
    if configs.groupby("variant")["best_so_far"].count().gt(1).any():
        handles.append(Line2D([], [], color=style.ACCENT, lw=0.9, alpha=0.7, label="best so far"))
    if (data["kind"] == "confirmed").any():
        handles.append(Line2D([], [], ls="", marker="D", ms=4.5, mfc="white", mec=CONFIRMED, mew=1.3, label="confirmed on fresh seeds"))
    return handles


def rung_key(configs: pd.DataFrame, marks: dict[int, str], colour: str) -> list[Line2D]:
    """The key of what `draw_configs` draws."""
    handles = [Line2D([], [], ls="", marker=mark, ms=3.6, mfc="white", mec=style.MUTED, mew=0.8,
                      label=f"stopped after {plural(epochs, 'epoch')}") for epochs, mark in marks.items()]
    if marks and configs["status"].eq("done").any():
        handles.append(Line2D([], [], ls="", marker="o", ms=4, mew=0, color=colour, label="fully trained"))
    found = [s for s in dict.fromkeys((*NO_VALUE, *configs["status"])) if s not in ("done", "pruned") and (configs["status"] == s).any()]
    if found:
        handles.append(Line2D([], [], ls="", marker=WITHOUT, ms=4, mew=0.9, color=style.MUTED, label=", ".join(found)))
    return handles


def _caption(data: pd.DataFrame, study: Study, limits: tuple[float, float]) -> str:
    search = searched(study)
    configs, means = data[data["kind"] == "config"], data[data["kind"] == "confirmed"]
    parts = [f"{study.name}: {study.counts()}", f"Each mark: one config, its mean {study.metric} over its seeds"]
    parts += [EARLY] if search.halved else []
    parts += ["Line: the best fully trained config so far"] if configs.groupby("variant")["best_so_far"].count().gt(1).any() else []
    if len(means):
        least, most = int(means["n"].min()), int(means["n"].max())
        seeds = plural(most, "fresh seed") if least == most else f"{least} to {most} fresh seeds"
        bar = "bar: Student t 95 % interval" if most >= stats.MIN_N else f"no interval below {stats.MIN_N} seeds"
        others = "; small diamonds: the others that were confirmed" if not means["chosen"].all() else ""
        parts.append(f"Right: the winner (ringed) on {seeds}, dots: seeds, diamond: mean, {bar}{others}")
    elif configs["chosen"].any():
        parts.append("Ringed: the best; nothing is confirmed yet, and the best of many looks better than it is")
    parts += ["Arrows: values beyond the axis"] if beyond(configs, limits).any() else []
    left_out = len(study.variants) - data["variant"].nunique()
    parts += [f"Shown: {data['variant'].nunique()} of {len(study.variants)} variants, the reference and the best"] if left_out else []
    return ". ".join(parts) + "."
