"""What was tuned against what it gave: for each parameter of the search space, every config's value over its setting, and what is usual
there: the median and the band that holds the middle 60 %."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.figures.search import CONFIRMED, EARLY, beyond, draw_configs, limits, rung_key, rung_marks, searched, shown_variants
from analysis.load import NotForThisStudy, Study, plural
from analysis.parameters import Parameter, best, configs, parameters, places
from analysis.scales import Scale, aside, scale
from analysis.stats.association import quantile_bins
from analysis.stats.importance import by_importance

NAME, TITLE = "slices", "What was tuned against what it gave"
MAX_PANELS = 16
"""Most parameters that are drawn in a paper; the table behind the figure holds all."""
COLUMNS = (3, 4)
"""Panels side by side in a paper, whichever leaves fewer places empty."""
BAND = (0.2, 0.5, 0.8)
"""The shares of the configs that are worse at the lower edge of the band, at its middle and at its upper edge."""
PER_BIN, MAX_BINS, MIN_BINS = 8, 8, 3
"""Fewest configs in a bin of a range, most bins, and fewest for which there is a band at all."""
PER_CHOICE = 5
"""Fewest configs of a choice for which there is a band."""
MAX_BANDS = 3
"""Most variants that have a band each; more, or variants of few configs, have one together."""
CROWDED, RASTER = 100, 500
"""From so many marks on they are smaller; and pixels in a PDF and SVG."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn: a row for each config and each tuned parameter that it reads, and for each band's bin; parameters in their order.

    Returns:
        kind ("config", or "middle" for a bin), variant (empty for a bin of all of them), config, parameter, setting (the median one of a
        bin), status, epochs (of the rung that a stopped config got to), n (seeds; configs of a bin), value (the middle config's of a bin),
        low, high (of the configs between which the middle 60 % are), chosen, best (whether it is marked as one). What diverged is the
        worst of a bin; a value is empty where it falls on one of these. A halved search has no bins: values of different training do not
        compare.

    Raises:
        NotForThisStudy: the study has no [tune], or what was tuned has one value only.
        AnalysisError: no config has a value.
    """
    halved = searched(study).halved
    rows, tuned = configs(study), [p for p in by_importance(study)[0] if p.tuned]
    if not tuned:
        raise NotForThisStudy(f"{study.name}: what was tuned has one value only")
    place = places(rows, study.mode)
    rows["best"] = best(place)
    rows["order"] = place.mask(rows["status"] == "infeasible", -1.0)
    columns = ["kind", "variant", "config", "parameter", "setting", "status", "epochs", "n", "value", "low", "high", "chosen", "best"]
    parts = []
    for one in tuned:
        mine = rows[rows[one.column].notna()].assign(kind="config", parameter=one.name, low=math.nan, high=math.nan)
        mine["setting"] = mine[one.column].astype(object)
        judged = mine[mine["order"].notna() & (not halved)]
        groups: list[tuple[object, pd.DataFrame]] = list(judged.groupby("variant", sort=False))
        if len(groups) > MAX_BANDS or not one.choices and any(len(group) < PER_BIN * MIN_BINS for _, group in groups):
            groups = [(None, judged)]
        middles = [row for variant, group in groups for row in _middles(group, one, variant)]
        parts.append(pd.concat([mine, pd.DataFrame(middles)]) if middles else mine)
    out = pd.concat(parts, ignore_index=True).reindex(columns=columns)
    return out.astype({"config": "Int64", "epochs": "Int64", "n": int, "value": float, "low": float, "high": float})


def _middles(rows: pd.DataFrame, one: Parameter, variant: object) -> list[dict[str, object]]:
    """The bins of one parameter, or those of its choices that have enough configs."""
    if one.choices:
        parts = [(choice, rows[rows["setting"] == choice]) for choice in one.choices]
        parts = [(choice, part) for choice, part in parts if len(part) >= PER_CHOICE]
    else:
        bins = min(MAX_BINS, len(rows) // PER_BIN)
        if bins < MIN_BINS:
            return []
        settings = rows["setting"].astype(float)
        groups = rows.groupby(quantile_bins(settings.to_numpy(), bins))
        parts = [(float(settings[part.index].median()), part) for _, part in groups]
    out = []
    for setting, part in parts:
        values = part.sort_values("order", kind="stable")["value"].to_numpy(dtype=float)
        low, middle, high = (float(values[math.floor(q * (len(values) - 1) + 0.5)]) for q in BAND)
        out.append({"kind": "middle", "variant": variant, "parameter": one.name, "setting": setting, "n": len(part), "value": middle,
                    "low": low, "high": high, "chosen": False, "best": False})
    return out


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    known = {p.name: p for p in parameters(study)}
    tuned = [known[name] for name in data["parameter"].unique()]
    drawn, own = tuned[:style.room(MAX_PANELS)], data[data["kind"] == "config"]
    fits = [max(min(COLUMNS), style.room(c)) for c in COLUMNS]
    columns = min(fits, key=lambda c: (-len(drawn) % c, -c)) if len(drawn) > max(fits) else max(2, len(drawn))
    bands = math.ceil(len(drawn) / columns)
    figure.set_size_inches(style.width_in(), 1.95 * bands + 0.5)
    axes = figure.subplots(bands, columns, squeeze=False, sharey=True)
    low, high = limits(own.drop_duplicates(["variant", "config"]), study.metric, study.mode)
    for i, axis in enumerate(axes.flat):
        axis.set_visible(i < len(drawn))
        if i < len(drawn):
            axis.set_ylim(low, high)
            axis.yaxis.set_major_formatter(style.tick_format(study.metric))
            panel(axis, data[data["parameter"] == drawn[i].name], drawn[i], study)
            axis.set_xlabel(style.wrap(drawn[i].name, 24, lines=2))
            if i % columns == 0:
                axis.set_ylabel(style.axis_label(study.metric))
    style.make_room(figure, list(axes))
    style.key(figure, _key(data, study))
    style.caption(figure, _caption(data, study, (low, high), len(tuned) - len(drawn)))


def panel(axes: Axes, data: pd.DataFrame, parameter: Parameter, study: Study) -> None:
    """Draws the rows of one parameter on axes whose y axis has its limits."""
    rows, middles = data[data["kind"] == "config"], data[data["kind"] == "middle"]
    variants, its = shown_variants(study, len(study.variants)), scale(parameter, data["setting"])
    slots = len(variants) if len(variants) <= len(style.COLOURS) else 1
    at = pd.Series(its.at(rows["setting"]), index=rows.index)
    ticks = its.ticks(12 if its.slot else 4)
    names = [style.wrap(text, 12) for _, text in ticks]
    crowded = bool(its.slot) and (len(ticks) > 5 or sum(max(map(len, n.split("\n"))) for n in names) > 24)
    names = [style.wrap(text, 14, lines=1) for _, text in ticks] if crowded else names
    axes.set_xticks([x for x, _ in ticks], names, rotation=90 if crowded else 0, fontsize=7)
    axes.set_xlim((0, 1) if its.slot else (-0.05, 1.05))
    axes.grid(visible=not its.slot, axis="x")
    marks, colour = rung_marks(rows), style.colours(study.variants)
    for i, variant in enumerate(variants):
        mine = rows["variant"] == variant
        beside = its.slot * ((i % slots + 0.5) / slots - 0.5)
        if its.slot:
            at[mine] += 0.7 * (beside + its.slot * 0.7 * aside(int(mine.sum())) / slots)
        others = colour[variant] if 1 < len(variants) <= len(style.COLOURS) else style.MUTED
        before = len(axes.lines)
        draw_configs(axes, at[mine], rows[mine], study.mode, marks, colour=colour[variant], others=others)
        if len(rows) > CROWDED:
            for line in axes.lines[before:]:
                line.set(markersize=max(1.8, 40 / math.sqrt(len(rows))), alpha=0.4, rasterized=len(rows) > RASTER)
        _band(axes, middles[middles["variant"] == variant], its, 0.7 * beside, its.slot * 0.6 / slots, colour[variant])
        _marked(axes, at[mine], rows[mine], CONFIRMED if len(variants) < 2 else style.INK)
    _band(axes, middles[middles["variant"].isna()], its, 0.0, its.slot * 0.6, style.INK)


def _band(axes: Axes, rows: pd.DataFrame, its: Scale, beside: float, wide: float, colour: str) -> None:
    """The medians as a line and the middle 60 % as a band around it; of choices a line across each and a box."""
    if rows.empty:
        return
    worse = axes.get_ylim()[0] if rows["value"].max() >= rows["low"].max() else axes.get_ylim()[1]
    low, middle, high = (rows[name].fillna(worse).to_numpy() for name in ("low", "value", "high"))
    x = its.at(rows["setting"]) + beside
    if its.slot:
        axes.bar(x, high - low, wide, low, color=colour, alpha=0.22, zorder=4.4)
        for width, stroke, zorder in ((3.0, "white", 4.5), (1.6, colour, 4.6)):
            axes.hlines(middle, x - wide / 2, x + wide / 2, color=stroke, lw=width, zorder=zorder)
        return
    axes.fill_between(x, low, high, color=colour, alpha=0.22, lw=0, zorder=4.4)
    axes.plot(x, middle, color="white", lw=3.0, zorder=4.5)
    axes.plot(x, middle, color=colour, lw=1.6, zorder=4.6)


def _marked(axes: Axes, at: "pd.Series[float]", rows: pd.DataFrame, colour: str) -> None:
    """Small rings around the best configs, large ones around those that stand for their variants."""
    inside = ~beyond(rows, axes.get_ylim())
    for which, size in ((rows["best"] & ~rows["chosen"], 4), (rows["chosen"], 7.5)):
        axes.plot(at[which & inside], rows.loc[which & inside, "value"], ls="", marker="o", ms=size, mfc="none", mew=0.8, zorder=6,
                  mec=colour, clip_on=False, in_layout=False)


def _key(data: pd.DataFrame, study: Study) -> Sequence[Line2D | Patch]:
    own, variants = data[data["kind"] == "config"], shown_variants(study, len(study.variants))
    several = 1 < len(variants) <= len(style.COLOURS)
    handles: list[Line2D | Patch] = [*rung_key(own, rung_marks(own), style.MUTED if several else style.ACCENT)]
    if several:
        colour = style.colours(study.variants)
        dots = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=colour[v], label=style.wrap(v, 30)) for v in variants]
        handles = [*dots, *(h for h in handles if h.get_label() != "fully trained")]
    if (data["kind"] == "middle").any():
        grey = style.ACCENT if len(study.variants) == 1 else style.MUTED
        handles += [Line2D([], [], color=grey, lw=1.6, label="median"), Patch(color=grey, alpha=0.25, lw=0, label="middle 60 %")]
    return handles


def _caption(data: pd.DataFrame, study: Study, limits: tuple[float, float], left_out: int) -> str:
    own, middles = data[data["kind"] == "config"], data[data["kind"] == "middle"]
    name = "winners" if study.search and study.search.confirmed else "best configs"
    top = own.drop_duplicates(["variant", "config"])["best"].sum()
    parts = [f"{study.name}: {study.counts()}", f"Each mark: one config, its mean {study.metric} over its seeds in the search, against "
             "one of its parameters; the others differ too", f"Ringed: the {name}" + (f", small rings: the best {top}" if top > 1 else "")]
    if len(middles):
        together, apart = middles["variant"].isna().any(), middles["variant"].notna().any()
        of = "all variants" if not apart else "each variant (black: of all)" if together else "each variant"
        of = "the configs" if len(study.variants) == 1 else of
        parts.append(f"Line and band: of {of}, the median and the middle 60 % (20 to 80 %) in bins of {middles['n'].min()} to "
                     f"{middles['n'].max()} configs, what diverged being the worst")
    grid = [p.name for p in parameters(study) if p.tuned]
    parts += ["The most important parameter first"] if list(own["parameter"].unique()) != grid else []
    parts += [EARLY] if rung_marks(own) else []
    parts += ["Colour does not tell the variants apart, there are too many"] if len(study.variants) > len(style.COLOURS) else []
    parts += ["Arrows: values beyond the axis"] if beyond(own, limits).any() else []
    configs = len(study.search.configs) if study.search else 0
    parts += ["A config is missing where it does not read the parameter"] if (own.groupby("parameter").size() < configs).any() else []
    parts += [f"In the CSV alone: {plural(left_out, 'more parameter')}"] if left_out else []
    return ". ".join(parts) + "."
