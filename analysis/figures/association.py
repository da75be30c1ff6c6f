"""What goes together: every parameter with the objective, and the parameters with each other, each cell by the statistic for its kinds."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import style
from analysis.figures.search import EARLY
from analysis.load import AnalysisError, NotForThisStudy, Study, plural
from analysis.parameters import configs
from analysis.stats import association
from analysis.stats.association import BINS, EPSILON, MIN_N, RHO, V
from analysis.stats.importance import by_importance, objective

NAME, TITLE = "association", "What goes together"
MAX_PARAMETERS = 16
"""Most parameters that are drawn in a paper; the table behind the figure holds all."""
MAX_CONFIGS = 10_000
"""Of more configs a random sample is taken."""
COURSES = {"rising": "↗", "falling": "↘", "hump": "∩", "dip": "∪", "uneven": "∿"}
_BLUES = LinearSegmentedColormap.from_list("strength", ["#f6f6f6", "#a9c9e3", "#3d7fb5", "#08325c"])
_GAP = 0.35
"""Between the parameters' rows and the objective's."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn: a row for each cell.

    Returns:
        first, second (empty for the objective), statistic, value, n, course: see `analysis.association.table`.

    Raises:
        NotForThisStudy: less than two things vary, or there are fewer than `MIN_N` configs.
        AnalysisError: no config has a value.
    """
    rows, found = configs(study), by_importance(study)[0]
    if len(found) < 2 or len(rows) < MIN_N:
        raise NotForThisStudy(f"{study.name}: associations need two parameters that vary and {MIN_N} configs "
                              f"({plural(len(found), 'parameter')}, {plural(len(rows), 'config')})")
    if rows["value"].isna().all():
        raise AnalysisError(f"{study.name}: no config has a value ({study.counts()})")
    rows["better"] = objective(rows, study.mode, clip=0.0)
    if len(rows) > MAX_CONFIGS:
        rows = rows.sample(MAX_CONFIGS, random_state=0)
    return association.table(rows, found, rows["better"])


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    names = list(data.loc[data["second"] == "", "first"])
    shown = names[:style.room(MAX_PARAMETERS)]
    cell_in = min(0.62, (style.width_in() - 1.3) / len(shown))
    figure.set_size_inches(style.width_in(), cell_in * (len(shown) + _GAP) + 1.0)
    panel(figure.subplots(), data, shown, study, cell_in=cell_in)
    style.caption(figure, _caption(data, study, len(names) - len(shown)))


def panel(axes: Axes, data: pd.DataFrame, names: list[str], study: Study, *, cell_in: float) -> None:
    """The lower triangle of these parameters and the objective's row under it; `cell_in` is the width of a cell."""
    place = {name: i for i, name in enumerate(names)}
    last, small = len(names) - 1 + _GAP, 5.0 if cell_in < 0.45 else 5.8
    usual = data.groupby(data["second"] == "")["n"].max()
    for _, cell in data[data["first"].isin(place) & data["second"].isin([*place, ""])].iterrows():
        x, y, value = place[cell["first"]], place[cell["second"]] - 1 if cell["second"] else last, float(cell["value"])
        known, strength = np.isfinite(value), min(1.0, abs(np.nan_to_num(value)))
        axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fc=_BLUES(strength) if known else "white", ec=style.FAINT, lw=0.4))
        ink = "white" if strength > 0.5 else style.INK
        axes.text(x, y - 0.14, _number(value) if known else "–", ha="center", va="center", fontsize=small + 1.6, color=ink)
        said = [cell["statistic"], COURSES.get(cell["course"], "")] if known else ["n"]
        said += [str(cell["n"])] if cell["n"] != usual[cell["second"] == ""] else []
        text = " ".join(filter(None, said))
        axes.text(x, y + 0.24, text, ha="center", va="center", color=ink if strength > 0.3 else style.MUTED,
                  fontsize=small + 1.2 * (cell["course"] != "") if len(text) < 6 else min(small, 58 * cell_in / len(text)))
    _labels(axes, names, study, last)


def _labels(axes: Axes, names: list[str], study: Study, last: float) -> None:
    rows = [*((i - 1, name) for i, name in enumerate(names) if i), (last, style.axis_label(study.metric).removesuffix(" (%)"))]
    axes.set_yticks([y for y, _ in rows], [style.wrap(name, 18, lines=2) for _, name in rows])
    axes.set_xticks(range(len(names)), [style.wrap(name, 18, lines=1) for name in names], rotation=45, ha="right", rotation_mode="anchor")
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(last + 0.5, -0.5)
    axes.set_aspect("equal")
    axes.grid(visible=False)
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(1.0, 1.0, "Between parameters: a check of\nthe design, not a finding", transform=axes.transAxes, ha="right", va="top",
              fontsize=7, color=style.MUTED)


def _number(value: float) -> str:
    """Two digits, no leading zero: ".28", "−.04", "1.0"."""
    text = f"{abs(value):.2f}"
    return ("−" if value < -0.005 else "") + (text.removeprefix("0") if text.startswith("0") else "1.0")


def _caption(data: pd.DataFrame, study: Study, left_out: int) -> str:
    found, top = set(data["statistic"]), data[data["second"] == ""]
    usual, design = int(top["n"].max()), int(data.loc[data["second"] != "", "n"].max())
    how = {RHO: "ρ: Spearman's rank correlation", V: "V: Cramér's, bias-corrected",
           EPSILON: f"ε: root of Kelley's epsilon squared of the ranks, ranges in {BINS} bins for {study.metric}"}
    courses = [f"{sign} {name}" for name, sign in COURSES.items() if (top["course"] == name).any()]
    parts = [f"{study.name}: {study.counts()}", "; ".join(text for letter, text in how.items() if letter in found)]
    parts += [f"Course of {study.metric} as the parameter grows: {', '.join(courses)}"] if courses else []
    parts += [f"n = {usual:,} configs in the last row and {design:,} above it unless the cell says otherwise; no number below {MIN_N}, or "
              "where one of the two is constant. What diverged counts as the worst",
              "The upper cells say whether the search varied the parameters together: an adaptive search does, and then a parameter may "
              "only seem to matter"]
    parts += [EARLY] if study.search is not None and study.search.halved else []
    parts += [f"Of a random {MAX_CONFIGS:,} configs"] if design == MAX_CONFIGS else []
    parts += [f"In the CSV alone: {plural(left_out, 'more parameter')}"] if left_out else []
    return ". ".join(parts) + "."
