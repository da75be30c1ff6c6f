"""Which parameters decide, by a model of what the configs gave: its share for each with an interval, or one sentence why there is none."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis import style
from analysis.load import Study
from analysis.stats.importance import CLIP, REFITS, importance

NAME, TITLE = "importance", "Which parameters decide"
MAX_ROWS = 30
"""Most parameters that are drawn, the most important ones; the table behind the figure holds all."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, the most important parameter first.

    Returns:
        parameter, within (the parameters that switch it on; "" for none), n (configs that read it), share (of the model's variance, 0 to
        1), low, high (95 %), r2 (of the model, in configs that it has not seen), configs (that it has learned from), configs_in_all.

    Raises:
        NotForThisStudy: there are too few configs for the parameters that vary.
        AnalysisError: the model does not fit.
    """
    found = importance(study)
    return found.shares.assign(r2=found.r2, configs=found.n, configs_in_all=found.of)


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    shown = data.head(MAX_ROWS)
    names = [style.wrap(_name(row), style.room(40), lines=1) for _, row in shown.iterrows()]
    figure.set_size_inches(style.width_in(), 0.85 + 0.175 * len(names))
    panel(figure.subplots(), shown, names)
    style.caption(figure, _caption(data, study, len(data) - len(shown)))


def panel(axes: Axes, data: pd.DataFrame, names: list[str]) -> None:
    """One row for each parameter, from the top: a dot at its share, a line for the interval."""
    at = range(len(data))
    seen = data["low"] > 0.005
    colours = [style.ACCENT if s else style.MUTED for s in seen]
    axes.hlines(at, data["low"], data["high"], color=colours, lw=2.2, alpha=0.55)
    axes.scatter(data["share"], at, c=colours, s=22, zorder=3)
    for y, (_, row) in zip(at, data.iterrows(), strict=True):
        axes.annotate(_percent(row), (row["high"], y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7,
                      color=style.MUTED, annotation_clip=False)
    axes.set_yticks(at, names)
    axes.set_ylim(len(data) - 0.5, -0.5)
    axes.set_xlim(-0.012 * max(data["high"].max(), 0.05), 1.02 * max(data["high"].max(), 0.05))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(style.round_ticks(most=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}"))
    axes.set_xlabel("share of the variance that the parameter takes part in (%)")


def _name(row: "pd.Series[str]") -> str:
    return f"{row['parameter']} (within {row['within']})" if row["within"] else row["parameter"]


def _percent(row: "pd.Series[float]") -> str:
    if row["high"] < 0.01:
        return "below 1 %"
    share, low, high = (f"{100 * row[name]:.{int(row['high'] < 0.1)}f}" for name in ("share", "low", "high"))
    return f"{share} % ({low} to {high})"


def _caption(data: pd.DataFrame, study: Study, left_out: int) -> str:
    first = data.iloc[0]
    n, among = int(first["configs"]), int(first["configs_in_all"])
    of = f"{n:,} configs" + (f", at random of {among:,}" if n < among else "")
    halved = study.search is not None and study.search.halved
    what = f"the rank by {study.metric} (what went further is ahead)" if halved else f"{study.metric}, the worst {100 * CLIP:.0f} % as one"
    parts = [f"{study.name}: {study.counts()}", f"Total effect in a random forest of {of} (R² = {first['r2']:.2f} in configs that it has "
             f"not seen); it learned {what}, what diverged being the worst; what failed or is not finished is left out",
             f"Line: 95 % interval of the forest's share, from {REFITS} refits on resampled configs; of weak parameters a forest says less "
             "than there is", "Shares add up to more than 100 % where parameters interact"]
    parts += ["Within: scored among the configs that read the parameter"] if (data["within"] != "").any() else []
    parts += [f"In the CSV alone: {left_out} less important ones"] if left_out else []
    return ". ".join(parts) + "."
