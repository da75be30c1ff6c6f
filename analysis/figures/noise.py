"""Seed noise against effect: how far the seeds of each variant lie from its mean, beside how far the variants' means lie apart."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import stats, style
from analysis.load import NotForThisStudy, Study
from analysis.stats import noise

NAME, TITLE = "noise", "Seed noise against effect"
MAX_ROWS = 30
"""Most variants that are drawn; the table behind the figure holds all."""
BETWEEN = "means of the variants"


def table(study: Study) -> pd.DataFrame:
    """What is drawn, in the grid's order.

    Returns:
        kind ("seed": one trial; "variant": all seeds of one; "mean": the mean of one variant among the others; "between": all means),
        variant, seed, metric, n, value, deviation (a seed's from the mean of its variant, a mean's from the mean of all means), sd (of the
        deviations), sd_low, sd_high (95 %, chi-square). Shares are fractions.

    Raises:
        AnalysisError: no trial is finished, trials are no replicates of each other, or no variant has two seeds with a value.
    """
    done, (column, _) = study.done(), study.headline()
    rows = noise.by_seed(done, column, variants=study.variants)
    if not (rows["n"] > 1).any():
        raise NotForThisStudy(f"{study.name}: no variant has two finished seeds, so there is no seed noise to see")
    means = rows.set_index("variant")["mean"]
    seeds = done.loc[np.isfinite(done[column].to_numpy(dtype=float, na_value=np.nan)), ["variant", "seed", column]]
    seeds = seeds.rename(columns={column: "value"}).assign(kind="seed", n=1)
    seeds["deviation"] = seeds["value"].astype(float) - seeds["variant"].map(means)
    variants = rows.rename(columns={"mean": "value"}).assign(kind="variant")
    several = rows[rows["n"] > 1]
    parts = [seeds, variants]
    if len(several) > 1:
        middle, sd = float(several["mean"].mean()), float(several["mean"].std(ddof=1))
        low, high = noise.sd_interval(sd, len(several) - 1)
        parts.append(pd.DataFrame({"kind": "mean", "variant": several["variant"], "n": several["n"], "value": several["mean"],
                                   "deviation": several["mean"] - middle}))
        parts.append(pd.DataFrame([{"kind": "between", "n": len(several), "value": middle, "sd": sd, "sd_low": low, "sd_high": high}]))
    columns = ["kind", "variant", "seed", "metric", "n", "value", "deviation", "sd", "sd_low", "sd_high"]
    out = pd.concat([part.assign(metric=column).reindex(columns=columns).astype({"seed": "Int64", "n": int, "value": float,
                                                                                 "deviation": float, "sd": float}) for part in parts],
                    ignore_index=True)
    places = {"kind": {"seed": 0, "variant": 1, "mean": 2, "between": 3}, "variant": {v: i for i, v in enumerate(study.variants)}}
    ordered: pd.DataFrame = out.sort_values(["kind", "variant", "seed"], ignore_index=True,
                                            key=lambda c: c.map(places[str(c.name)]) if c.name in places else c)
    return ordered


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)`, a row for each variant and one for their means, and sets the figure's size."""
    shown, column = _chosen(data, study), str(data["metric"].iloc[0])
    between = data[data["kind"] == "between"]
    names = [style.wrap(v, style.room(30), lines=3) for v in shown] + ([BETWEEN] if len(between) else [])
    heights = np.array([max(1.0, (0.08 + 0.14 * (name.count("\n") + 1)) / 0.26) for name in names])
    heights[-1] += 0.6 * bool(len(between))  # apart from the others
    figure.set_size_inches(style.width_in(), max(1.2, 0.26 * float(heights.sum()) + 0.2) + 1.0)
    axis = figure.subplots()
    rows = np.cumsum(heights) - heights / 2
    rows[-1] += 0.3 * bool(len(between))
    colour = style.colours(study.variants)
    for y, variant in zip(rows, shown, strict=False):
        mine = data[data["variant"] == variant]
        sd = float(mine.loc[mine["kind"] == "variant", "sd"].iloc[0])
        _draw_row(axis, float(y), mine.loc[mine["kind"] == "seed", "deviation"], sd, colour=colour[variant], metric=column)
    if len(between):
        axis.axhline(float(rows[-1]) - 0.75, color=style.FAINT, lw=0.8)
        _draw_row(axis, float(rows[-1]), data.loc[data["kind"] == "mean", "deviation"], float(between["sd"].iloc[0]), colour=style.INK,
                  metric=column, marker="D")
    axis.axvline(0, color=style.MUTED, lw=0.9, zorder=1)
    axis.set_yticks(rows, names)
    axis.set_ylim(rows[-1] + 0.7, rows[0] - 0.7)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    reach = 1.08 * float(max(data["deviation"].abs().max(), data["sd"].max())) or 0.01
    axis.set_xlim(-reach, reach)
    axis.xaxis.set_major_locator(style.round_ticks(most=style.room(7)))
    axis.xaxis.set_major_formatter(style.tick_format(column))
    unit = " (points)" if stats.is_share(column) else ""
    axis.set_xlabel(f"{stats.words(column)}: difference to the mean of the row{unit}")
    axis.set_title("\n".join(textwrap.wrap(_headline(data), style.room(62))), loc="left", fontweight="bold", fontsize=8)
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, shown))


def _draw_row(axis: Axes, y: float, deviations: "pd.Series[float]", sd: float, *, colour: str, metric: str, marker: str = "o") -> None:
    """Marks on a bar that reaches one standard deviation to either side."""
    if np.isfinite(sd):
        axis.plot([-sd, sd], [y, y], color=colour, lw=7, alpha=0.22, solid_capstyle="butt", zorder=2)
        axis.text(1.015, y, f"sd {noise.size(sd, metric)}", transform=axis.get_yaxis_transform(), va="center", fontsize=7,
                  color=style.MUTED)
    axis.plot(deviations.to_numpy(dtype=float), np.full(len(deviations), y), ls="", marker=marker, ms=3.8, mew=0, color=colour, alpha=0.75,
              zorder=3, rasterized=len(deviations) > 500)


def _chosen(data: pd.DataFrame, study: Study) -> list[str]:
    """The variants that are drawn, in the grid's order: of those with two seeds the reference and the best means, at most `MAX_ROWS`."""
    means = data[(data["kind"] == "variant") & (data["n"] > 1)].set_index("variant")["value"]
    ranked = means.sort_values(ascending=study.headline()[1] == "min", kind="stable").index
    best = [v for v in (study.reference, *(v for v in ranked if v != study.reference)) if v in means.index][:MAX_ROWS]
    return [v for v in study.variants if v in best]


def _headline(data: pd.DataFrame) -> str:
    """What the figure shows, in a sentence."""
    column = str(data["metric"].iloc[0])
    rows = data[(data["kind"] == "variant") & (data["n"] > 1)]
    sd = float(np.sqrt(np.average(rows["sd"]**2, weights=rows["n"] - 1)))
    unit = " points" if stats.is_share(column) else ""
    text = f"Seeds of one variant differ by {noise.size(sd, column)}{unit} (sd)"
    between = data.loc[data["kind"] == "between", "sd"]
    return text + (f", the means of the variants by {noise.size(float(between.iloc[0]), column)}{unit}" if len(between) else "")


def _caption(data: pd.DataFrame, study: Study, shown: list[str]) -> str:
    rows = data[(data["kind"] == "variant") & (data["n"] > 1)]
    least, most = int(rows["n"].min()), int(rows["n"].max())
    seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
    parts = [f"{study.name}: {study.counts()}", *(note for note in (study.standing(),) if note)]
    parts += [f"Dots: the {seeds} of a variant around their mean; band: one standard deviation to either side"]
    if (data["kind"] == "between").any():
        parts.append("Diamonds: the means of the variants around the mean of all; their spread holds seed noise over the root of n besides")
    left_out = int((data["kind"] == "variant").sum()) - len(shown)
    parts += [f"Shown: {len(shown)} of {len(study.variants)} variants, those with two seeds and the best means"] if left_out else []
    parts += ["Seeds of one variant are on several splits of the data too"] if len(study.pairs) > 1 else []
    return ". ".join(parts) + "."
