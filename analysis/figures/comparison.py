"""The comparison of variants: each seed's value with mean and t interval; beside it the differences to the reference, paired by seed."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import stats, style
from analysis.load import AnalysisError, Study, plural

NAME, TITLE = "comparison", "Comparison of the variants"
MAX_ROWS = 60
"""Most variants that are drawn; the table behind the figure holds all."""
JOINED = 6
"""Up to so many variants, faint lines join the values of one seed."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn, in the grid's order.

    Returns:
        kind ("seed", "mean" or "difference"), variant, seed, metric, n, value, low, high (t, 95 %), simultaneous_low, simultaneous_high,
        p, p_holm, reference, pairs (of trials that a difference rests on; 0 where the two sides share no seed), n_reference, unit (what n
        counts: "seed" or "split"), trial_id (of a seed). Shares and differences of shares are fractions.

    Raises:
        AnalysisError: no trial is finished, trials are no replicates of each other, or none has a finite value.
    """
    done, (column, _) = study.done(), study.headline()
    if not np.isfinite(done[column].to_numpy(dtype=float, na_value=np.nan)).any():
        raise AnalysisError(f"{study.name}: no finished trial has a finite {column}, so there is nothing to compare")
    seeds = done[["variant", "seed", "trial_id", column]].rename(columns={column: "value"}).assign(kind="seed", n=1)
    means = stats.by_variant(done, column, variants=study.variants, by=study.pairs).rename(columns={"mean": "value"}).assign(kind="mean")
    gaps = stats.paired(done, column, variants=study.variants, reference=study.reference, by=study.pairs)
    gaps = gaps.rename(columns={"difference": "value"}).assign(kind="difference")
    columns = ["kind", "variant", "seed", "metric", "n", "value", "low", "high", "simultaneous_low", "simultaneous_high",
               "p", "p_holm", "reference", "pairs", "n_reference", "unit", "trial_id"]
    parts = [part.assign(metric=column).reindex(columns=columns) for part in (seeds, means, gaps)]
    out = pd.concat([p for p in parts if not p.empty], ignore_index=True)
    out["seed"] = out["seed"].astype("Int64")
    out[["pairs", "n_reference"]] = out[["pairs", "n_reference"]].astype("Int64")
    places = {"kind": {"seed": 0, "mean": 1, "difference": 2}, "variant": {v: i for i, v in enumerate(study.variants)}}
    return out.sort_values(["kind", "variant", "seed"], ignore_index=True,
                           key=lambda c: c.map(places[str(c.name)]) if c.name in places else c)


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)`, one row for each variant, and sets the figure's size."""
    variants, column = _chosen(data, study), str(data["metric"].iloc[0])
    shown = data[data["variant"].isin(variants)]
    names = {v: style.wrap(v, style.room(30)) for v in variants}
    lines = [names[v].count("\n") + 1 for v in variants]
    rows_in = sum(max(0.3, 0.08 + 0.14 * n) for n in lines)
    figure.set_size_inches(style.width_in(), max(1.3, rows_in + 0.2) + 1.0)
    compared = len(variants) > 1
    axes = figure.subplots(1, 1 + compared, sharey=True, squeeze=False, width_ratios=[1.0, 0.9][:1 + compared])[0]
    rows = _row_positions(lines)
    place = dict(zip(variants, rows, strict=True))
    _draw_values(axes[0], shown, study, place)
    if compared:
        longest_in = 0.064 * max(len(line) for name in names.values() for line in name.split("\n"))
        _draw_differences(axes[1], shown, study, place, letters=max(12, int(0.46 * (style.width_in() - longest_in - 0.6) / 0.068)))
    axes[0].set_yticks(rows, [names[v] for v in variants])
    axes[0].set_ylim(rows[-1] + 0.6, rows[0] - 0.6)
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(style.round_ticks(most=max(2, style.room(5))))
        axis.xaxis.set_major_formatter(style.tick_format(column))
    left_out = len(study.variants) - len(variants)
    note = f" Shown: {len(variants)} of {len(study.variants)} variants, the reference and the best." if left_out else ""
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study) + note)


def _chosen(data: pd.DataFrame, study: Study) -> list[str]:
    """The variants that are drawn, in the grid's order: the reference and the best means, at most `MAX_ROWS`."""
    means = data[data["kind"] == "mean"].set_index("variant")["value"]
    ranked = means.sort_values(ascending=study.headline()[1] == "min", kind="stable", na_position="last").index
    best = {study.reference, *[v for v in ranked if v != study.reference][:MAX_ROWS - 1]}
    return [v for v in study.variants if v in best]


def _row_positions(lines: list[int]) -> list[float]:
    """Where rows are, downwards, so that names of several lines get the height they need."""
    heights = np.array([max(1.0, (0.08 + 0.14 * n) / 0.3) for n in lines])
    centres: list[float] = (np.cumsum(heights) - heights / 2).tolist()
    return centres


def _draw_values(axis: Axes, data: pd.DataFrame, study: Study, place: dict[str, float]) -> None:
    column = str(data["metric"].iloc[0])
    seeds, means = data[data["kind"] == "seed"], data[data["kind"] == "mean"]
    order = sorted(seeds["seed"].unique())
    # a seed lies at the same height in every row, below the mean, so that it can be followed by eye
    shift = {s: 0.2 + 0.2 * i / (len(order) - 1) if len(order) > 1 else 0.0 for i, s in enumerate(order)}
    colour = style.colours(study.variants)
    if 1 < len(place) <= JOINED:
        for seed, rows in [] if seeds.duplicated(["variant", "seed"]).any() else seeds.groupby("seed"):  # several splits: no one line
            wide = rows.set_index("variant")["value"].reindex(list(place)).to_numpy(dtype=float)
            axis.plot(wide, [y + shift[seed] for y in place.values()], color=style.FAINT, lw=0.6, zorder=1)
    for variant, y in place.items():
        rows = seeds[seeds["variant"] == variant]
        axis.plot(rows["value"].to_numpy(dtype=float), [y + shift[s] for s in rows["seed"]], ls="", marker="o", ms=3.6, mew=0,
                  color=colour[variant], alpha=0.65, zorder=3)
    for _, row in means.iterrows():
        y, shade = place[row["variant"]], colour[row["variant"]]
        if row["n"] == 0:
            axis.text(0.01, y, "not confirmed" if study.search and study.search.confirmed else "no finished trial",
                      transform=axis.get_yaxis_transform(), va="center", color=style.MUTED, fontsize=7)
        elif row["n"] > 1:
            axis.plot([row["low"], row["high"]], [y, y], color=shade, lw=1.8, zorder=4, solid_capstyle="butt")
            axis.plot(row["value"], y, marker="D", ms=4.5, mfc="white", mec=shade, mew=1.3, zorder=5)
    values = data[data["kind"].isin(["seed", "mean"])][["value", "low", "high"]].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or 0.02
    low, high = low - pad, high + pad
    if stats.is_share(column):
        low, high = max(low, -0.01), min(high, 1 + 0.02 * (1 - max(low, 0)))
    axis.set_xlim(low, high)
    axis.set_xlabel(style.axis_label(column))


def _draw_differences(axis: Axes, data: pd.DataFrame, study: Study, place: dict[str, float], *, letters: int) -> None:
    """`letters`: how many of them fit on a line of the label."""
    column = str(data["metric"].iloc[0])
    rows = data[data["kind"] == "difference"]
    colour = style.colours(study.variants)
    low, high = _difference_limits(rows)
    axis.set_xlim(low, high)
    axis.axvline(0, color=style.MUTED, lw=0.9, zorder=1)
    for _, row in rows.iterrows():
        y, shade = place[row["variant"]], colour[row["variant"]]
        for left, right, lw in ((row["simultaneous_low"], row["simultaneous_high"], 0.9), (row["low"], row["high"], 3.0)):
            axis.plot([left, right], [y, y], color=shade, lw=lw, solid_capstyle="butt", zorder=3)
        for end, marker, edge in ((row["simultaneous_low"] < low, "<", low), (row["simultaneous_high"] > high, ">", high)):
            if end:
                axis.plot(edge, y, marker=marker, ms=4, mew=0, color=shade, clip_on=False, zorder=3)
        axis.plot(row["value"], y, marker="o", ms=5.5, mfc=shade, mew=0, zorder=4)
        note = "no shared seed" if row["n"] == 0 else f"n = {row['n']}" if row["pairs"] else f"n = {row['n']}, {row['n_reference']}"
        axis.text(1.015, y, note, transform=axis.get_yaxis_transform(), va="center", fontsize=7, color=style.MUTED)
    if study.reference in place:
        axis.plot(0, place[study.reference], marker="|", ms=9, mew=1.6, color=style.INK, zorder=4)
        side = "left" if (high - 0) > (0 - low) else "right"
        axis.annotate("reference", (0, place[study.reference]), xytext=(5 if side == "left" else -5, 0), textcoords="offset points",
                      ha=side, va="center", fontsize=7, color=style.MUTED)
    unit = " (points)" if stats.is_share(column) else ""
    short = style.wrap(study.reference, letters - 3)
    short = "the reference" if "\n" in short else short  # its row is marked
    axis.set_xlabel("\n".join([*textwrap.wrap(f"difference in {stats.words(column)}{unit}", letters), f"to {short}"]))


def _difference_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Room for every 95 % interval and for zero; a simultaneous interval far wider than all of those is cut, with an arrow."""
    values = np.append(rows[["value", "low", "high"]].to_numpy(dtype=float).ravel(), 0.0)
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 0.02
    wide = rows[["simultaneous_low", "simultaneous_high"]].to_numpy(dtype=float).ravel()
    wide = np.clip(wide[np.isfinite(wide)], low - 0.5 * span, high + 0.5 * span)
    low, high = float(np.min(np.append(wide, low))), float(np.max(np.append(wide, high)))
    return low - 0.06 * span, high + 0.06 * span


def _caption(data: pd.DataFrame, study: Study) -> str:
    means, gaps = data[data["kind"] == "mean"], data[data["kind"] == "difference"]
    least, most = int(means["n"].min()), int(means["n"].max())
    seeds = plural(most, "seed") if least == most else f"{least} to {most} seeds"
    seeds = f"seeds on several splits; n of a mean: {plural(most, 'split')}" if set(means["unit"]) == {"split"} else seeds
    if most >= stats.MIN_N:
        left = f"Dots: {seeds}; diamond: mean; bar: Student t 95 % interval of the mean"
        left += "" if least >= stats.MIN_N else f", from {stats.MIN_N} seeds on"
    else:
        left = f"Dots: {seeds}" + ("; diamond: mean" if most > 1 else "") + f"; no interval below {stats.MIN_N} seeds"
    family = int((gaps["n"] >= stats.MIN_N).sum())
    right = ""
    if family:
        with_pairs = gaps["pairs"].gt(0).any()
        how = f"differences paired by seed{' and split' * (len(study.pairs) > 1)}" if with_pairs else "differences of the means"
        right = f" Right: {how}, thick their t 95 % interval" + (
            f", thin the simultaneous one over {plural(family, 'comparison')} (Bonferroni)" if family > 1 else "")
        units = set(gaps.loc[gaps["n"] > 0, "unit"])
        right += "; n counts the splits, each over the seeds both have." if units == {"split"} else (
            "; n counts the seeds both have." if with_pairs else ".")
        right += " Two numbers: not paired, no seed in common (Welch)." if (gaps["pairs"].eq(0) & gaps["n"].gt(0)).any() else ""
    elif (gaps["n"] > 0).any():
        right = " Right: mean differences paired by seed; n counts the seeds both have."
    missing = "" if study.reference in set(data.loc[data["kind"] == "seed", "variant"]) or not len(gaps) else (
        " The reference has no finished trial, so there are no differences.")
    text = study.selection()
    notes = [study.standing(), study.openings() if data["metric"].iloc[0] == "test_acc" else ""]
    standing = "".join(f"{note}. " for note in notes if note)
    return f"{study.name}: {study.counts()}. {standing}{left}.{right}{missing} {text[0].upper()}{text[1:]}."
