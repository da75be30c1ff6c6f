"""The first config of each search against its best: both learning curves, what differs between them, and what was gained."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import parameters, scales, stats, style
from analysis.figures.search import CONFIRMED, searched, shown_variants
from analysis.load import NotForThisStudy, Study, plural

NAME, TITLE = "first_best", "The first config against the best"
MOST = 4
"""Most variants that are drawn; the table behind the figure holds all."""
MAX_LINES = 9
"""Most parameters that are listed beside the curves."""
WHICH = ("first", "best")


def table(study: Study) -> pd.DataFrame:
    """What is drawn, of two configs of each variant: the first that was proposed and the one that stands for the variant (or the search's
    best, where none does yet).

    Returns:
        kind, variant, which ("first" or "best"), config, name, text, epoch, n, value, half_width (t, 95 %). "curve": the mean of the metric
        at an epoch over the n seeds of the search. "value": what the search said, named "search", and, where it was trained on fresh
        seeds, "confirmed"; text says why there is no value. "parameter": a parameter, `name`, that differs between the two, with its
        setting as text.

    Raises:
        NotForThisStudy: the study has no [tune], or tried one config of each variant only.
        AnalysisError: no config has a value.
    """
    search = searched(study)
    if search.configs.groupby("variant").size().max() < 2:
        raise NotForThisStudy(f"{study.name} tried one config of each variant, so there is no first and best")
    settings = parameters.configs(study)
    parts = []
    for variant in study.variants:
        rows = search.configs[search.configs["variant"] == variant].merge(settings[["variant", "config", "trial_id"]],
                                                                            on=["variant", "config"])
        best = _best(rows, study.mode)
        if best is None or len(rows) < 2:
            continue
        two = rows[rows["config"].isin({int(rows["config"].min()), best})]
        two = two.assign(which=np.where(two["config"] == best, "best", "first"))
        own = settings[(settings["variant"] == variant) & settings["config"].isin(two["config"])]
        parts += [_values(two), _curves(study, two), _differing(study, own, two)]
    columns = ["kind", "variant", "which", "config", "name", "text", "epoch", "n", "value", "half_width"]
    kinds = dict.fromkeys(("epoch", "n", "config"), "Int64") | dict.fromkeys(("value", "half_width"), float)
    return pd.concat([part.reindex(columns=columns).astype(kinds) for part in parts if not part.empty], ignore_index=True)


def _best(rows: pd.DataFrame, mode: str) -> int | None:
    """The config that stands for a variant, or of those that got furthest the one with the best value."""
    chosen = rows[rows["chosen"]]
    if chosen.empty:
        known = rows.dropna(subset=["value"]).assign(reached=lambda r: r["epochs"].astype(float).fillna(math.inf))
        chosen = known.sort_values(["reached", "value"], ascending=[False, mode == "min"], kind="stable")
    return None if chosen.empty else int(chosen["config"].iloc[0])


def _values(two: pd.DataFrame) -> pd.DataFrame:
    said = two.assign(kind="value", name="search", half_width=math.nan)
    said["text"] = [None if pd.isna(row["epochs"]) and np.isfinite(row["value"]) else
                    f"after {plural(int(row['epochs']), 'epoch')}" if np.isfinite(row["value"]) else row["status"]
                    for _, row in two.iterrows()]
    again = two[two["confirmed"].notna()].drop(columns=["value", "n"])
    again = again.rename(columns={"confirmed": "value", "confirmed_n": "n", "confirmed_half_width": "half_width"})
    return pd.concat([said, again.assign(kind="value", name="confirmed")], ignore_index=True)


def _curves(study: Study, two: pd.DataFrame) -> pd.DataFrame:
    """The means over the seeds of the search at each epoch."""
    if study.metric not in study.epochs or study.search is None:
        return pd.DataFrame()
    trials = study.search.trials[study.search.trials["phase"] == "search"]
    trials = trials[["trial_id", "variant", "config"]].merge(two[["variant", "config", "which"]], on=["variant", "config"])
    rows = trials.merge(study.epochs.loc[study.epochs["trial_id"].isin(trials["trial_id"]), ["trial_id", "epoch", study.metric]])
    rows["value"] = rows[study.metric].astype(float).where(lambda v: np.isfinite(v))
    out = rows.groupby(["variant", "which", "config", "epoch"])["value"].agg(value="mean", n="count").reset_index()
    return out.assign(kind="curve")


def _differing(study: Study, own: pd.DataFrame, two: pd.DataFrame) -> pd.DataFrame:
    """The tuned parameters whose settings differ."""
    which = two.set_index("config")["which"]
    rows = []
    for parameter in parameters.parameters(study):
        said = {str(which[config]): "n/a" if pd.isna(value) else f"{value:.3g}" if isinstance(value, float) else scales.said(value)
                for config, value in zip(own["config"], own[parameter.column], strict=True)}
        if len(set(own[parameter.column].map(repr))) > 1:
            rows += [{"kind": "parameter", "variant": own["variant"].iloc[0], "which": w, "config": which.index[which == w][0],
                      "name": parameter.name, "text": said[w]} for w in WHICH]
    return pd.DataFrame(rows)


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)`, a row of two panels for each variant, and sets the figure's size."""
    variants = [v for v in shown_variants(study, MOST) if v in set(data["variant"])]
    shown = data[data["variant"].isin(variants)]
    listed = {v: _rows(shown[shown["variant"] == v], study) for v in variants}
    heights = [max(1.75, 0.55 + 0.15 * len(rows)) for rows in listed.values()]
    figure.set_size_inches(style.width_in(), sum(heights) + 0.5)
    grid = figure.subplots(len(variants), 2, squeeze=False, width_ratios=[1.25, 1.0], height_ratios=heights)
    curves = shown[shown["kind"] == "curve"]
    last = int(curves["epoch"].max()) if len(curves) else 1
    low, high = _limits(curves, study)
    for (left, right), (variant, rows) in zip(grid, listed.items(), strict=True):
        left.set_xlim(1 if last > 1 else 0.5, last if last > 1 else 1.5)
        left.set_ylim(low, high)
        left.xaxis.set_major_locator(style.round_ticks(whole=True))
        left.yaxis.set_major_locator(style.round_ticks())
        left.yaxis.set_major_formatter(style.tick_format(study.metric))
        left.set_ylabel(style.axis_label(study.metric))
        if len(study.variants) > 1:
            left.set_title(style.wrap(variant, 50, lines=2), fontsize=8, loc="left")
        panel(left, curves[curves["variant"] == variant])
        _write(right, rows)
    grid[-1, 0].set_xlabel("epoch")
    style.caption(figure, _caption(shown, study, len(set(data["variant"])) - len(variants)))


def _limits(curves: pd.DataFrame, study: Study) -> tuple[float, float]:
    """The range of the curves without the first fifth of the epochs, in which all are alike."""
    if curves["value"].isna().all():
        return 0.0, 1.0
    late = curves[curves["epoch"] >= 1 + 0.2 * (float(curves["epoch"].max()) - 1)]
    ends = curves.dropna(subset=["value"]).groupby(["variant", "which"])["value"].last()
    values = pd.concat([late["value"].dropna(), ends])
    pad = 0.06 * float(values.max() - values.min()) or 0.02
    top = float(values.max()) + pad
    return float(values.min()) - pad, min(top, 1.01) if stats.is_share(study.metric) else top


def panel(axes: Axes, curves: pd.DataFrame) -> None:
    """Draws the two learning curves of one variant. The axes have their limits already."""
    for which, colour, width in (("first", style.MUTED, 1.3), ("best", CONFIRMED, 1.8)):
        line = curves[(curves["which"] == which) & curves["value"].notna()]
        x, y = line["epoch"].to_numpy(dtype=float), line["value"].to_numpy(dtype=float)
        axes.plot(x, y, color=colour, lw=width, marker="o" if len(x) == 1 else "", ms=3.5)
        if len(x) and x[-1] < axes.get_xlim()[1]:
            axes.plot(x[-1], y[-1], marker="o", ms=3.5, color=colour)


def _rows(rows: pd.DataFrame, study: Study) -> list[tuple[str, str, str]]:
    """What is written beside the curves: (name, of the first, of the best)."""
    def found(kind: str, name: str, which: str) -> "pd.Series[float] | None":
        part = rows[(rows["kind"] == kind) & (rows["name"] == name) & (rows["which"] == which)]
        return None if part.empty else part.iloc[0]

    def said(name: str, which: str) -> str:
        row = found("value", name, which)
        if row is None:
            return "–"
        shown = stats.show_with_half(float(row["value"]), float(row["half_width"]), study.metric)
        return str(row["text"]) if shown == "–" else shown

    numbers = {w: str(part["config"].iloc[0]) for w in WHICH if len(part := rows[rows["which"] == w])}
    if "first" not in numbers:
        return [("", "", "the first is the best"), ("config", "", numbers["best"]), ("in the search", "", said("search", "best"))]
    out = [("", "first", "best"), ("config", numbers["first"], numbers["best"]),
           ("in the search", said("search", "first"), said("search", "best"))]
    searched_for = [found("value", "search", which) for which in WHICH]
    early = [str(row["text"]) if row is not None and str(row["text"]).startswith("after") else "" for row in searched_for]
    out += [("", early[0], early[1])] if any(early) else []
    if (rows["name"] == "confirmed").any():
        out.append(("on fresh seeds", said("confirmed", "first"), said("confirmed", "best")))
    names = rows.loc[rows["kind"] == "parameter", "name"].drop_duplicates().tolist()
    for name in names[:MAX_LINES]:
        first, best = (str(row["text"]) if (row := found("parameter", name, which)) is not None else "" for which in WHICH)
        out.append((style.wrap(name, 16, lines=1), style.wrap(first, 13, lines=1), style.wrap(best, 13, lines=1)))
    return out + ([(f"and {len(names) - MAX_LINES} more", "", "")] if len(names) > MAX_LINES else [])


def _write(axes: Axes, rows: list[tuple[str, str, str]]) -> None:
    """A small table: names, and what the first and the best have."""
    axes.axis("off")
    for above, row in enumerate(rows):
        for text, x, colour in zip(row, (0.0, 0.68, 1.0), (style.INK, style.MUTED, CONFIRMED), strict=True):
            axes.annotate(text, (x, 1.0), xycoords="axes fraction", xytext=(0, -6 - 10.8 * above), textcoords="offset points",
                          va="baseline", ha="right" if x else "left", fontsize=7.5, color=colour, annotation_clip=False,
                          fontweight="bold" if not above else "normal")


def _gains(data: pd.DataFrame, study: Study) -> list[str]:
    """What the best of each variant has more than the first, where both have values of the same training."""
    known = data[(data["kind"] == "value") & data["value"].notna()]
    out, unit = [], " points" if stats.is_share(study.metric) else ""
    for variant, rows in known.groupby("variant", sort=False):
        said = []
        for kind, words in (("search", "in the search"), ("confirmed", "on fresh seeds")):
            two = rows[rows["name"] == kind]
            if len(two) == len(WHICH) and two["text"].nunique(dropna=False) == 1:  # the text says after how many epochs
                value = dict(zip(two["which"], two["value"].astype(float), strict=True))
                gain = value["best"] - value["first"]
                said.append(f"{stats.show(-gain if study.mode == 'min' else gain, study.metric)}{unit} {words}")
        name = f"{style.wrap(str(variant), 40, lines=1)}: " if len(study.variants) > 1 else ""
        out += [f"{name}{', '.join(said)}"] if said else []
    return out


def _caption(data: pd.DataFrame, study: Study, left_out: int) -> str:
    gains = _gains(data, study)
    parts = [f"{study.name}: {study.counts()}", f"Mean {study.metric} over the seeds of the search, no smoothing"]
    parts += [f"Gained: {'; '.join(gains)}"] if gains else []
    parts.append("What the search says is biased: the best was chosen by these values" + (
        "" if (data["name"] == "confirmed").any() else ", and nothing is confirmed yet"))
    early = (data["kind"] == "value") & (data["name"] == "search") & data["text"].astype("string").str.startswith("after").fillna(False)
    parts += ["Halving stopped some early; values after fewer epochs do not compare"] if early.any() else []
    parts += ["± is the half-width of the Student t 95 % interval"] if data["half_width"].notna().any() else []
    parts += [f"{left_out} more variants are in the CSV"] if left_out else []
    return ". ".join(parts) + "."
