"""What is gained for what it costs: each config's metric against the hours of training it once, and the front of those that no other config
beats in both.

In a search the values are those of the search; diamonds are configs that were trained again on fresh seeds. Of those, or of the variants
of a study without [tune], the cheapest that cannot be told from the best is named where the seeds allow it.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import cost, parameters, scales, stats, style
from analysis.figures.search import CONFIRMED, beyond, draw_configs, limits, rung_key, rung_marks, searched
from analysis.load import AnalysisError, Study
from analysis.parameters import Parameter
from analysis.stats import best

NAME, TITLE = "pareto", "What is gained for what it costs"
MAX_NUMBERS, MAX_NAMES = 8, 12
"""Most points of the front of a search that are named, and most variants of a study without [tune]."""
NAMED = 3
"""How many parameters name a config: those that go with cost or value most."""
GROUPS = 6


def table(study: Study) -> pd.DataFrame:
    """What is drawn.

    Returns:
        kind ("config": a config of a search, or a variant where there is no [tune]; "confirmed": a config on fresh seeds), variant, config,
        metric, status, epochs (of the rung that a stopped config got to), n, value, low, high (t, 95 %), hours (mean of its trials), front
        (of the fully trained and those on fresh seeds: no other costs less and has a better value), place (as `analysis.best.best_set`
        says; "" where it cannot be told), cheapest (the one that costs least of those with the place "best" or "level"), name (of points of
        the front: what tells them apart), peak_memory_gb, images_per_s, and a column for each parameter that varies.

    Raises:
        NotForThisStudy: the study has no attempts.
        AnalysisError: no config has a value and a cost.
    """
    costs = cost.per_trial(study)
    varying = parameters.parameters(study)
    rows = _tried(study, costs, varying) if study.search is not None else _variants(study, costs, varying)
    rows = rows[rows["hours"] > 0].reset_index(drop=True)
    column, mode = (study.metric, study.mode) if study.search is not None else study.headline()
    whole = rows[(rows["status"] == "done") & rows["value"].notna()]
    if whole.empty:
        raise AnalysisError(f"{study.name}: no fully trained config has a value and a known cost ({study.counts()})")
    rows["front"] = rows.index.isin(_front(whole, mode))
    level = rows[rows["place"].isin(["best", "level"])]
    level = level.assign(steps=np.log(level["hours"]).round(2)).sort_values(["steps", "value"], ascending=[True, mode == "min"])
    rows["cheapest"] = rows.index.isin(level.index[:1])  # what costs the same within a percent is no cheaper
    named = rows["front"] | rows["cheapest"]
    named |= study.search is None
    rows["name"] = pd.Series(_names(rows[named], whole, varying, study), index=rows.index[named], dtype=object)
    rows["metric"] = column
    columns = ["kind", "variant", "config", "metric", "status", "epochs", "n", "value", "low", "high", "hours", "front", "place",
               "cheapest", "name", "peak_memory_gb", "images_per_s", *(p.column for p in varying if p.column != "variant")]
    return rows[columns]


def _variants(study: Study, costs: pd.DataFrame, varying: tuple[Parameter, ...]) -> pd.DataFrame:
    """A row for each variant of a study without [tune]."""
    done, (column, mode) = study.done(), study.headline()
    means = stats.by_variant(done, column, variants=study.variants, by=study.pairs).rename(columns={"mean": "value"})
    places = best.best_set(done, column, mode=mode, variants=study.variants, ended=stats.endings(study.trials), by=study.pairs)
    settings = study.trials.drop_duplicates("variant")[["variant", *(f"param_{p.name}" for p in varying)]]
    settings = settings.rename(columns={f"param_{p.name}": p.column for p in varying})
    rows = means.merge(places[["variant", "place"]], on="variant").merge(_cost_of(done, costs, ["variant"]), on="variant", how="left")
    rows = rows[rows["n"] > 0].merge(settings, on="variant")
    return rows.assign(kind="config", config=0, status="done", epochs=pd.array([None] * len(rows), dtype="Int64"))


def _tried(study: Study, costs: pd.DataFrame, varying: tuple[Parameter, ...]) -> pd.DataFrame:
    """A row for each config of a search, and one for each that was confirmed."""
    search, keys = searched(study), ["variant", "config"]
    configs = parameters.configs(study)
    settings = configs[[*keys, *(p.column for p in varying)]]
    tried = search.trials[(search.trials["phase"] == "search")]
    rows = configs[[*keys, "status", "epochs", "n", "value"]].merge(_cost_of(tried, costs, keys), on=keys).assign(kind="config", place="")
    again = search.configs[search.configs["confirmed"].notna()]
    if len(again):
        fresh = search.trials[(search.trials["phase"] == "confirm")].merge(again[keys], on=keys)
        arms = fresh.assign(variant=fresh["variant"] + "\0" + fresh["config"].astype(str))
        order = list(dict.fromkeys(arms["variant"]))
        places = best.best_set(arms[arms["status"] == "done"], study.metric, mode=study.mode, variants=order, ended=stats.endings(arms),
                               by=study.pairs)
        place = dict(zip(places["variant"], places["place"], strict=True))
        means = again.assign(kind="confirmed", status="done", epochs=None, n=again["confirmed_n"], value=again["confirmed"],
                             low=again["confirmed"] - again["confirmed_half_width"],
                             high=again["confirmed"] + again["confirmed_half_width"],
                             place=[place[f"{v}\0{c}"] for v, c in zip(again["variant"], again["config"], strict=True)])
        means = means[["kind", *keys, "status", "epochs", "n", "value", "low", "high", "place"]]
        rows = pd.concat([rows, means.merge(_cost_of(fresh, costs, keys), on=keys)], ignore_index=True)
    rows["epochs"] = rows["epochs"].astype("Int64")
    return rows.reindex(columns=list(dict.fromkeys([*rows.columns, "low", "high"]))).merge(settings, on=keys)


def _cost_of(trials: pd.DataFrame, costs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """What training once costs: the means over trials of one config, with the memory of the largest."""
    each = trials[[*keys, "trial_id"]].merge(costs, on="trial_id")
    return each.groupby(keys, sort=False).agg(hours=("hours", "mean"), peak_memory_gb=("peak_memory_gb", "max"),
                                              images_per_s=("images_per_s", "median")).reset_index()


def _front(rows: pd.DataFrame, mode: str) -> list[int]:
    """The index of rows that no other beats in both, the cheapest first."""
    ordered = rows.sort_values(["hours", "value"], ascending=[True, mode == "min"], kind="stable")
    gain = ordered["value"] * (-1 if mode == "min" else 1)
    kept: list[int] = ordered.index[gain > gain.cummax().shift(fill_value=-math.inf)].tolist()
    return kept


def _names(rows: pd.DataFrame, known: pd.DataFrame, varying: tuple[Parameter, ...], study: Study) -> list[str]:
    """What tells these configs apart: their variant where there are several, and the `NAMED` tuned parameters with several values among
    them that go with cost or value most among all configs."""
    if study.search is None:
        return [str(v) for v in rows["variant"]]
    several = [p for p in varying if p.tuned and rows[p.column].nunique(dropna=False) > 1]
    telling = sorted(several, key=lambda p: -max(_share(known[p.column], np.log(known["hours"])), _share(known[p.column], known["value"])))
    telling = [p for p in several if p in telling[:NAMED]]
    out = []
    for _, row in rows.iterrows():
        words = [str(row["variant"])] if len(study.variants) > 1 else []
        words += [f"{p.name} {_short(row[p.column])}" for p in telling if pd.notna(row[p.column])] or [f"config {row['config']}"]
        out.append(", ".join(words))
    return out


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else scales.said(value)


def _share(setting: "pd.Series[float]", of: "pd.Series[float]") -> float:
    """The part of a variance that lies between groups of settings (eta squared), numbers in `GROUPS` groups of one size."""
    numbers = pd.to_numeric(setting, errors="coerce").astype(float)
    ranged = numbers.notna().any() and numbers.nunique() > GROUPS
    groups = pd.qcut(numbers.rank(method="first"), GROUPS, labels=False) if ranged else setting.astype("string")
    of = of.astype(float)
    between = of.groupby(groups.fillna("n/a" if not ranged else -1)).transform("mean")
    return float(between.var() / of.var()) if len(of) > 1 and of.var() > 0 else 0.0


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    axes = figure.subplots()
    colour = style.colours(study.variants)
    figure.set_size_inches(style.width_in(), 3.6)
    edge, scale, unit = panel(axes, data, study, colour)
    points = data.assign(x=np.log10(scale * data["hours"]), y=data["value"].clip(*edge))
    named = _apart(axes, points, [*points.index[points["cheapest"]], *points.index[points["front"]][::-1]]) if study.search else (
        points["hours"].sort_values().index[:MAX_NAMES].tolist())
    names = {i: _lines(str(data.loc[i, "name"]), 24) for i in named}
    lines = sum(name.count("\n") + 1.3 for name in names.values())
    figure.set_size_inches(style.width_in(), max(3.3, 0.135 * lines + 1.3))
    style.key(figure, _key(data, study, colour))
    style.caption(figure, _caption(data, study, edge, scale, unit, len(named)))
    x, y = points["x"].astype(float).to_dict(), points["y"].astype(float).to_dict()
    shade = {i: colour[str(data.loc[i, "variant"])] for i in named}
    if study.search is None:
        style.label_ends(axes, [(x[i], y[i], name, shade[i]) for i, name in names.items()])
        return
    down = study.mode == "min"
    for number, i in enumerate(names, start=1):
        axes.annotate(str(number), (x[i], y[i]), xytext=(-4, -4 if down else 4), textcoords="offset points",
                      ha="right", va="top" if down else "bottom", fontsize=7.5, fontweight="bold", color=shade[i], zorder=9)
    below_pt = 0.0
    for number, (i, name) in enumerate(names.items(), start=1):
        for text, right_pt, weight in ((str(number), 10, "bold"), (name, 21, "normal")):
            axes.annotate(text, (1.0, 1.0), xycoords="axes fraction", xytext=(right_pt, -below_pt), textcoords="offset points", va="top",
                          color=shade[i], fontsize=7.5, fontweight=weight, linespacing=1.05, annotation_clip=False)
        below_pt += 9.3 * (name.count("\n") + 1) + 3


def _lines(name: str, width: int) -> str:
    """A name broken after its commas rather than within its parts; at most four lines."""
    lines = [""]
    for part in name.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) + 2 > width:
            lines[-1] += ","
            lines.append("")
        lines[-1] += (", " if lines[-1] else "") + part
    return "\n".join(style.wrap(line, width, lines=2) for line in lines[:4])


def _apart(axes: Axes, points: pd.DataFrame, wanted: list[int]) -> list[int]:
    """As many of the wanted points, the first ones first, as can have a number each: at most `MAX_NUMBERS`; the cheapest first."""
    kept: list[int] = []
    places = axes.transAxes.inverted().transform(axes.transData.transform(points.loc[wanted, ["x", "y"]].to_numpy(dtype=float)))
    at = dict(zip(wanted, places, strict=True))
    for i in dict.fromkeys(wanted):
        clear = all(abs(at[i][0] - at[k][0]) > 0.03 or abs(at[i][1] - at[k][1]) > 0.06 for k in kept)
        if clear and len(kept) < MAX_NUMBERS:
            kept.append(i)
    return sorted(kept, key=points["hours"].to_dict().__getitem__)


def panel(axes: Axes, data: pd.DataFrame, study: Study, colour: dict[str, str]) -> tuple[tuple[float, float], float, str]:
    """Draws the points and the front; returns the limits of the values, and the factor and the unit of the hours."""
    column, mode = str(data["metric"].iloc[0]), study.mode if study.search else study.headline()[1]
    scale, unit = cost.scale(study, float(data["hours"].max()))
    data = data[data["value"].notna()]
    x = np.log10(scale * data["hours"])
    pad = 0.05 * float(x.max() - x.min()) or 0.15
    axes.set_xlim(float(x.min()) - pad, float(x.max()) + pad)
    ticks = scales.Scale(low=float(x.min()) - pad, high=float(x.max()) + pad, log=True).ticks(6)
    span = axes.get_xlim()
    axes.set_xticks([span[0] + at * (span[1] - span[0]) for at, _ in ticks], [text for _, text in ticks])
    axes.set_xlabel(f"{unit} to train it once (logarithmic)")
    axes.set_ylabel(style.axis_label(column))
    configs = data[data["kind"] == "config"]
    bounds = pd.concat([data["value"], data["low"], data["high"]]) if study.search is None else data["value"]
    edge = limits(configs.drop(columns="kind").assign(chosen=False), column, mode) if study.search else style.informative(
        bounds.dropna().tolist(), mode)
    axes.set_ylim(*edge)
    axes.yaxis.set_major_formatter(style.tick_format(column))
    front = data[data["front"]].sort_values("hours")
    axes.step([*x[front.index], span[1]], [*front["value"], front["value"].iloc[-1]], where="post", color=style.INK, lw=0.9, zorder=2)
    for variant, shade in colour.items():
        rows = configs[configs["variant"] == variant]
        draw_configs(axes, x[rows.index], rows, mode, rung_marks(configs), colour=shade, others=shade,
                     alpha=0.35 if study.search is not None and len(configs) > 20 else 1.0)
    front = front[front["kind"] == "config"]
    axes.scatter(x[front.index], front["value"], s=26, color=[colour[v] for v in front["variant"]], ec=style.INK, lw=0.8, zorder=6)
    barred = data[data["low"].notna()]
    axes.vlines(x[barred.index], barred["low"], barred["high"], colors=[colour[v] for v in barred["variant"]], lw=1.6, zorder=5)
    again = data[data["kind"] == "confirmed"]
    axes.scatter(x[again.index], again["value"], s=26, marker="D", fc="white", ec=[colour[v] for v in again["variant"]], lw=1.3, zorder=7)
    cheap = data[data["cheapest"]]
    axes.scatter(x[cheap.index], cheap["value"], s=110, marker="s", fc="none", ec=CONFIRMED, lw=1.2, zorder=8)
    return edge, scale, unit


def _key(data: pd.DataFrame, study: Study, colour: dict[str, str]) -> list[Line2D]:
    handles, known = [], data[data["value"].notna()]
    if study.search is not None and 1 < len(colour) <= len(style.COLOURS):
        handles = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=shade, label=style.wrap(v, 30)) for v, shade in colour.items()]
        handles += [h for h in rung_key(known, rung_marks(known), style.MUTED) if h.get_label() != "fully trained"]
    elif study.search is not None:
        handles = rung_key(known, rung_marks(known), style.ACCENT)
    if (data["kind"] == "confirmed").any():
        handles.append(Line2D([], [], ls="", marker="D", ms=4.5, mfc="white", mec=style.MUTED, mew=1.3, label="on fresh seeds"))
    if data["cheapest"].any():
        handles.append(Line2D([], [], ls="", marker="s", ms=8, mfc="none", mec=CONFIRMED, mew=1.2, label="cheapest level with the best"))
    return handles


def _caption(data: pd.DataFrame, study: Study, edge: tuple[float, float], scale: float, unit: str, named: int) -> str:
    of = f"one config, its mean {study.metric} over its seeds in the search" if study.search else (
        f"one variant, its mean {data['metric'].iloc[0]} over {int(data['n'].min())} to {int(data['n'].max())} seeds"
        if data["n"].nunique() > 1 else f"one variant, its mean {data['metric'].iloc[0]} over {int(data['n'].max())} seeds")
    parts = [f"{study.name}: {study.counts()}", f"Each mark: {of}, and the mean {unit.split('-')[0]} time of one trial, lost attempts "
             "included"]
    if data["low"].notna().any():
        parts.append("Bars: Student t 95 % interval of the mean")
    others = "nothing that is fully trained" if study.search else "no other variant"
    parts.append(f"Line: the front; {others} beats a point of it in both" + (
        "; it is made of the luckiest, so it lies too high" if study.search and study.mode != "min" else
        "; it is made of the luckiest, so it lies too low" if study.search else ""))
    parts.append(_level(data, scale, unit, study))
    parts += ["Arrows: values beyond the axis"] if beyond(data, edge).any() else []
    left_out = int((data["front"] | data["cheapest"]).sum()) - named if study.search else len(data) - named
    parts += [f"Named in the CSV: {left_out} more {'of the front' if study.search else 'of the variants'}"] if left_out > 0 else []
    return ". ".join(parts) + "."


def _level(data: pd.DataFrame, scale: float, unit: str, study: Study) -> str:
    """Which is the cheapest that is level with the best, or why that cannot be said."""
    judged = data[data["place"] != ""]
    if judged.empty:
        what = "Nothing is confirmed on fresh seeds" if study.search else f"Fewer than {stats.MIN_N} seeds, or a single variant"
        return f"{what}: which cheaper ones are level with the best cannot be said"
    top, cheap = judged[judged["place"] == "best"].iloc[0], data[data["cheapest"]].iloc[0]
    same = int(judged["place"].isin(["best", "level"]).sum())
    if cheap.name == top.name:
        return f"None that is cheaper than the best is level with it (paired by seed, 95 %; {len(judged)} judged)"
    less = [f"{scale * float(row['hours']):.3g}" for row in (cheap, top)]
    return (f"Square: the cheapest of {same} that cannot be told from the best (paired by seed, 95 %; {len(judged)} judged), {less[0]} "
            f"instead of {less[1]} {unit}")
