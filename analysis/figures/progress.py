"""Progress of the search: the best so far over the wall clock and over the hours spent, and what the best of n configs is on average.

One line for each variant. Configs that halving stopped are no part of the lines: their values are of less training.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import cost, style
from analysis.figures.search import beyond, draw_configs, limits, rung_key, rung_marks, searched, shown_variants
from analysis.load import Study
from analysis.stats.expected import expected_best

NAME, TITLE = "progress", "Progress of the search"
MOST = len(style.COLOURS)
"""Most variants that are drawn; the table behind the figure holds all."""
SIZES = 40
"""Numbers of configs for which an expected best is given, from one to all."""
KINDS = {"config": 0, "wave": 1, "expected": 2}


def table(study: Study) -> pd.DataFrame:
    """What is drawn.

    Returns:
        kind, variant, config, wave, status, epochs (of the rung that a stopped config got to), n, value, wall_h, hours, best_so_far.
        "config": a config when its last trial ended, `wall_h` hours after the first trial of the study began, when its variant had cost
        `hours`; value is its mean over n seeds in the search, best_so_far that of the fully trained configs that had ended. "wave": a
        wave, when its first trial began. "expected": the expected best of n configs of a variant, none where halving stopped configs;
        those that diverged count as the worst that has a value, those that failed do not.

    Raises:
        NotForThisStudy: the study has no [tune], or no attempts.
        AnalysisError: no config has a value.
    """
    search = searched(study)
    tried = search.trials.loc[search.trials["phase"] == "search", ["variant", "config", "wave", "trial_id"]]
    spans = cost.spans(study).merge(tried, on="trial_id").dropna(subset=["started"])
    spans["end"] = spans["ended"].fillna(spans["started"])
    begun = spans["started"].min()
    spans = spans.sort_values("end", kind="stable")
    spans["spent"] = spans.groupby("variant")["hours"].cumsum()
    last = spans.groupby(["variant", "config"]).agg(end=("end", "max"), spent=("spent", "max"), wave=("wave", "max")).reset_index()
    configs = search.configs.merge(last, on=["variant", "config"]).sort_values(["end", "config"], kind="stable")
    best = configs["value"].where(configs["status"] == "done").groupby(configs["variant"])
    configs = configs.assign(kind="config", wall_h=(configs["end"] - begun).dt.total_seconds() / 3600, hours=configs["spent"],
                             best_so_far=(best.cummin() if study.mode == "min" else best.cummax()).groupby(configs["variant"]).ffill())
    waves = spans.groupby("wave")["started"].min().reset_index()
    waves = waves.assign(kind="wave", wall_h=(waves["started"] - begun).dt.total_seconds() / 3600)
    parts = [configs, waves, *([] if search.halved else [_expected(configs, variant, study.mode) for variant in study.variants])]
    columns = ["kind", "variant", "config", "wave", "status", "epochs", "n", "value", "wall_h", "hours", "best_so_far"]
    floats = dict.fromkeys(columns[-4:], float) | dict.fromkeys(("config", "wave", "epochs", "n"), "Int64")
    out = pd.concat([part.reindex(columns=columns).astype(floats) for part in parts if not part.empty], ignore_index=True)
    places = {**KINDS, **{v: i for i, v in enumerate(study.variants)}}
    return out.sort_values(["kind", "variant"], kind="stable", ignore_index=True, key=lambda c: c.map(places))


def _expected(configs: pd.DataFrame, variant: str, mode: str) -> pd.DataFrame:
    """The expected best of numbers of configs of a variant."""
    mine = configs[configs["variant"] == variant]
    known, diverged = mine.loc[mine["status"] == "done", "value"].to_numpy(dtype=float), int((mine["status"] == "infeasible").sum())
    if not len(known):
        return pd.DataFrame()
    values = np.append(known, np.full(diverged, known.max() if mode == "min" else known.min()))
    sizes = np.unique(np.geomspace(1, len(values), SIZES).round().astype(int))
    return pd.DataFrame({"kind": "expected", "variant": variant, "n": sizes, "value": expected_best(values, sizes, mode=mode)})


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    variants = shown_variants(study, MOST)
    shown = data[data["variant"].isin(variants) | (data["kind"] == "wave")]
    configs, expected = shown[shown["kind"] == "config"], shown[shown["kind"] == "expected"]
    colour, marks, (low, high) = style.colours(variants), rung_marks(configs), limits(
        configs.drop(columns="kind").assign(chosen=False), study.metric, study.mode)
    count = 3 if len(expected) else 2
    columns = min(count, style.room(3))
    bands = math.ceil(count / columns)
    names = {v: style.wrap(v, 18, lines=3) for v in variants}
    band_in = max(2.15, 0.75 + 0.14 * sum(name.count("\n") + 1.2 for name in names.values()))
    figure.set_size_inches(style.width_in(), 0.6 + band_in * bands)
    axes = figure.subplots(bands, columns, squeeze=False, sharey=True)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for i, axis in enumerate(axes.flat[:count]):
        axis.set_ylim(low, high)
        axis.yaxis.set_major_formatter(style.tick_format(study.metric))
        if i % columns == 0:
            axis.set_ylabel(style.axis_label(study.metric))
    for axis, column, words in zip(axes.flat, ("wall_h", "hours"), ("since the first trial began", "of the variant"), strict=False):
        most = float(configs[column].max())
        scale, unit = cost.scale(study, most)
        if column == "wall_h":
            unit = unit.rpartition("-")[2]
        axis.set_xlabel(style.wrap(f"{unit} {words}", style.room(26)))
        axis.set_xlim(-0.03 * scale * most, 1.03 * scale * most or 1.0)
        axis.xaxis.set_major_locator(style.round_ticks(most=4))
        axis.xaxis.set_major_formatter(style.tick_format("hours"))
        panel(axis, configs.assign(x=scale * configs[column]), study, colour)
        if column == "wall_h":
            waves = scale * shown.loc[shown["kind"] == "wave", "wall_h"].to_numpy(dtype=float)
            axis.add_collection(LineCollection([[(x, 0.965), (x, 1.0)] for x in waves], colors=style.MUTED, linewidths=0.8,
                                               transform=axis.get_xaxis_transform()), autolim=False)
    if len(expected):
        _draw_expected(axes.flat[2], expected, colour)
    right = axes.flat[count - 1].get_xlim()[1]
    lines = expected.groupby("variant")["value"].last() if len(expected) else configs.groupby("variant")["best_so_far"].last()
    ends = {v: min(max(float(lines[v]), low), high) for v in variants if v in lines.index and math.isfinite(lines[v])}
    dots = [Line2D([], [], ls="", marker="o", ms=4, mew=0, color=colour[v], label=names[v]) for v in variants if v not in ends]
    style.key(figure, [*dots, *rung_key(configs, marks, style.MUTED)])
    style.caption(figure, _caption(shown, study, (low, high)))
    style.label_ends(axes.flat[count - 1], [(right, y, names[v], colour[v]) for v, y in ends.items()])


def panel(axes: Axes, configs: pd.DataFrame, study: Study, colour: dict[str, str]) -> None:
    """Configs at `x` as they ended, and each variant's best so far. The axes have their limits already."""
    marks, right = rung_marks(configs), axes.get_xlim()[1]
    for variant, shade in colour.items():
        rows = configs[configs["variant"] == variant]
        draw_configs(axes, rows["x"], rows, study.mode, marks, colour=shade, others=shade, alpha=0.4)
        line = rows[rows["best_so_far"].notna()]
        if len(line):
            x, y = line["x"].to_numpy(dtype=float), line["best_so_far"].to_numpy(dtype=float)
            axes.step([*x, right], [*y, y[-1]], where="post", color=shade, lw=1.6, zorder=6)


def _draw_expected(axes: Axes, expected: pd.DataFrame, colour: dict[str, str]) -> None:
    axes.set_xlabel("configs tried")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(style.tick_format("n"))
    axes.xaxis.minorticks_off()
    for variant, shade in colour.items():
        line = expected[expected["variant"] == variant]
        axes.plot(line["n"].to_numpy(dtype=float), line["value"], color=shade, lw=1.6, marker="o" if len(line) == 1 else "", ms=3.5)
    axes.set_xlim(0.93, 1.07 * float(expected["n"].max()))


def _caption(data: pd.DataFrame, study: Study, edge: tuple[float, float]) -> str:
    configs, expected = data[data["kind"] == "config"], data[data["kind"] == "expected"]
    parts = [f"{study.name}: {study.counts()}", f"Each mark: one config when its last trial in the search ended, its mean {study.metric} "
             "over its seeds; line: the best fully trained one so far, which looks better than it is", "Ticks at the top: a wave began",
             f"{cost.unit(study)[0].upper()}{cost.unit(study)[1:]}: all attempts of the variant's search that had ended"]
    if len(expected):
        worst = "; those that diverged count as the worst" if (configs["status"] == "infeasible").any() else ""
        parts.append(f"Last panel: the best of n configs on average over all subsets of n (unbiased, Tang et al. 2020){worst}. It is what "
                     "another search of n configs would find only where configs were drawn independently; where the search learned from "
                     "earlier ones it says what another order of these would have given")
    elif searched(study).halved:
        parts.append("No expected best of n configs: halving gave them different training")
    parts += ["Arrows: values beyond the axis"] if beyond(configs, edge).any() else []
    lost = len(searched(study).configs) - int((data["kind"] == "config").sum()) if data["variant"].nunique() == len(study.variants) else 0
    parts += [f"{lost} configs have not begun"] if lost > 0 else []
    left_out = len(study.variants) - configs["variant"].nunique()
    parts += [f"Shown: {configs['variant'].nunique()} of {len(study.variants)} variants, the reference and the best"] if left_out else []
    return ". ".join(parts) + "."
