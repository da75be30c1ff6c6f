"""Which classes are taken for which on the test split: the confusion matrix of the best variant, the pairs that are confused most, and
where another variant does better or worse."""

import json

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.load import PREDICTIONS, NotForThisStudy, Study, plural

NAME, TITLE = "confusion", "Which classes are confused"
FEW = 20
"""Up to so many classes their cells hold numbers."""
MOST = 15
"""Pairs, and classes of the comparison, that are shown."""
ORDERED = 300
"""Up to so many classes those that are confused are put side by side as well as can be; with more, nearly so."""
_SHADES = LinearSegmentedColormap.from_list("white to ink", ["#ffffff", "#9ecae1", "#0072B2", "#08306b"])


def table(study: Study) -> pd.DataFrame:
    """What is drawn: the cells of every variant's matrix that are not empty, and its diagonal.

    Returns:
        variant, arm ("best": by the mean that variants are compared by; "other": the reference, or the second best where that is the best;
        empty for the rest), trials (of the variant, over which the images are summed), label, label_name, predicted, predicted_name,
        place (of the label in the matrix: with more than FEW classes those that are confused lie side by side), images (of that label),
        n (of those that were taken for `predicted`), share.

    Raises:
        NotForThisStudy: the study keeps no predictions of finished trials.
    """
    done = study.trials[study.trials["status"] == "done"]
    said = study.predictions()
    said = said[said["trial_id"].isin(done["trial_id"])] if len(said) else said
    if said.empty:
        raise NotForThisStudy(f"{study.name} has no {PREDICTIONS} of finished trials: its test split was not opened, or its job or an "
                              "earlier version kept no predictions")
    column, mode = study.headline()
    means = done[done["trial_id"].isin(said["trial_id"].unique())].groupby("variant")[column].mean().astype(float)
    ranked = [str(v) for v in means.sort_values(ascending=mode == "min", kind="stable").index]
    best = ranked[0]
    other = study.reference if study.reference in ranked[1:] else ranked[1] if len(ranked) > 1 else None
    codes, ids = pd.factorize(said["trial_id"])
    variant_of = done.drop_duplicates("trial_id").set_index("trial_id")["variant"].reindex(ids)
    size = int(said[["label", "predicted"]].to_numpy().max()) + 1
    names = _class_names(study, size)
    parts = []
    for variant in [v for v in study.variants if v in set(ranked)]:
        mine = (variant_of == variant).to_numpy()
        rows = said[mine[codes]]
        counts = np.zeros((size, size), dtype=np.int64)
        np.add.at(counts, (rows["label"].to_numpy(), rows["predicted"].to_numpy()), 1)
        parts.append(_cells(counts).assign(variant=variant, trials=int(mine.sum()),
                                           arm="best" if variant == best else "other" if variant == other else ""))
    out = pd.concat(parts, ignore_index=True)
    out = out.assign(label_name=out["label"].map(names.__getitem__), predicted_name=out["predicted"].map(names.__getitem__))
    out["place"] = out["label"].map(dict(zip(_order(_matrix(out[out["arm"] == "best"], size)), range(size), strict=True)))
    return out[["variant", "arm", "trials", "label", "label_name", "predicted", "predicted_name", "place", "images", "n", "share"]]


def _class_names(study: Study, size: int) -> list[str]:
    """The classes by name, or by number where the predictions do not name them all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = json.loads(pq.read_schema(study.folder / PREDICTIONS).metadata[b"harness"])["class_names"]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        names = []
    fits = isinstance(names, list) and len(names) >= size
    return [str(name) for name in names] if fits else [str(number) for number in range(size)]


def _cells(counts: np.ndarray) -> pd.DataFrame:
    """A matrix as rows: its cells above zero, and the diagonal of classes that have images."""
    images = counts.sum(axis=1)
    label, predicted = np.nonzero((counts > 0) | (np.eye(len(counts), dtype=bool) & (images > 0)[:, None]))
    n = counts[label, predicted]
    return pd.DataFrame({"label": label, "predicted": predicted, "images": images[label], "n": n, "share": n / images[label]})


def _matrix(cells: pd.DataFrame, size: int) -> np.ndarray:
    """(classes, classes) shares; NaN in the rows of classes without images."""
    shares = np.full((size, size), np.nan)
    shares[cells["label"].unique()] = 0.0
    shares[cells["label"], cells["predicted"]] = cells["share"]
    return shares


def _order(shares: np.ndarray) -> np.ndarray:
    """The classes in the order of the matrix: as they are numbered, or above FEW of them by average linkage of how often they are taken
    for each other, with optimal leaf ordering (Bar-Joseph et al., Bioinformatics 2001)."""
    size = len(shares)
    if size <= FEW:
        return np.arange(size)
    from scipy.cluster import hierarchy

    likeness = np.nan_to_num(shares) + np.nan_to_num(shares).T
    far = 1 - likeness[np.triu_indices(size, 1)] / 2
    return np.asarray(hierarchy.leaves_list(hierarchy.linkage(far, "average", optimal_ordering=size <= ORDERED)))


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    best, other = data[data["arm"] == "best"], data[data["arm"] == "other"]
    size = int(data[["label", "predicted"]].to_numpy().max()) + 1
    compared = _comparable(best, other)
    matrix, pairs, classes = _places(figure, best, size, compared=compared)
    panel(matrix, best, size)
    if pairs:
        _pairs(pairs, best)
    if classes:
        _dumbbells(classes, best, other, study)
        shades = style.colours(study.variants)
        style.key(figure, [Line2D([], [], ls="", marker=marker, ms=5.5, mew=1.2, mec=colour, mfc=fill, label=style.wrap(name, 44, lines=2))
                           for name, marker, colour, fill in _arms(best, other, shades)])
    style.warning(figure, study.warning())
    style.caption(figure, _caption(data, study, size, compared=compared))


def _places(figure: Figure, best: pd.DataFrame, size: int, *, compared: bool) -> tuple[Axes, Axes | None, Axes | None]:
    """Panels for the matrix, the pairs and the classes of both variants, and the figure's size. Few classes without long names have the
    matrix and one of the others side by side; with a second variant, pairs are shown of many classes only."""
    wide, rows = style.width_in(), min(MOST, best["label"].nunique())
    named = best["label_name"].astype(str).str.len().max() > 2
    beside = size > FEW or not (named and size > FEW / 2 or style.room(7) < 7)
    if not beside:
        side = float(np.clip(0.22 * size, 2.0, 0.75 * wide)) + 0.5 + 0.7 * named
        below = 0.55 + 0.17 * rows
        figure.set_size_inches(wide, side + below)
        matrix, other = figure.subplots(2, 1, height_ratios=[side, below])
    elif compared and size > FEW:
        figure.set_size_inches(wide, 0.52 * wide + 0.5 + 0.16 * rows)
        grid = figure.add_gridspec(2, 2, width_ratios=[1.15, 1.0], height_ratios=[0.5 * wide, 0.4 + 0.16 * rows])
        return figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, :])
    else:
        figure.set_size_inches(wide, 0.52 * wide)
        matrix, other = figure.subplots(1, 2, width_ratios=[1.15, 1.0])
    return (matrix, None, other) if compared else (matrix, other, None)


def _comparable(best: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether both were tested on as many images of each class in every trial."""
    if other.empty:
        return False
    each = [arm.groupby("label")["images"].first() / arm["trials"].iloc[0] for arm in (best, other)]
    return bool(each[0].equals(each[1]))


def panel(axes: Axes, cells: pd.DataFrame, size: int) -> None:
    """The matrix of one variant; with numbers up to FEW classes."""
    shares = _matrix(cells, size)
    place = cells.drop_duplicates("label").set_index("label")["place"].to_dict()
    order = sorted(range(size), key=lambda number: (place.get(number, number), number))
    shown = shares[np.ix_(order, order)]
    image = axes.imshow(shown, cmap=_SHADES, norm=PowerNorm(0.5, 0, 1), interpolation="nearest", aspect="equal", rasterized=size > FEW)
    axes.grid(visible=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    for side in axes.spines.values():
        side.set_visible(False)
    if size > FEW:
        axes.set_xticks([])
        axes.set_yticks([])
        figure = axes.get_figure(root=True)
        assert figure is not None
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1],
                              format=style.tick_format("val_acc"))
        bar.outline.set_visible(False)
        bar.set_label("% of the class", fontsize=7)
        bar.ax.tick_params(labelsize=6.5)
        return
    names = cells.drop_duplicates("label").set_index("label")["label_name"].to_dict()
    names |= cells.drop_duplicates("predicted").set_index("predicted")["predicted_name"].to_dict()
    ticks = [style.wrap(str(names.get(i, i)), 14, lines=1) for i in order]
    long = max(map(len, ticks)) > 2
    axes.set_xticks(range(size), ticks, rotation=90 if long else 0, fontsize=7)
    axes.set_yticks(range(size), ticks, fontsize=7)
    axes.tick_params(length=0)
    letters = 6.5 if size <= 12 else 5.4
    for (row, column), share in np.ndenumerate(shown):
        if share > 0:
            text = "<1" if share < 0.005 else f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=letters, color="white" if share > 0.35 else style.INK)


def _pairs(axes: Axes, cells: pd.DataFrame) -> None:
    """The pairs with the most mistakes."""
    wrong = cells[cells["label"] != cells["predicted"]].sort_values(["n", "share"], ascending=False, kind="stable").head(MOST)
    if wrong.empty:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no test image is\ntaken for another class", ha="center", va="center", color=style.MUTED)
        return
    at, each = np.arange(len(wrong)), wrong["n"].to_numpy() / wrong["trials"].to_numpy()
    axes.barh(at, each, height=0.62, color=style.ACCENT)
    for y, x, share in zip(at.tolist(), each, wrong["share"], strict=True):
        axes.text(x, y, f" {100 * share:.0f} %" if share >= 0.01 else " <1 %", va="center", fontsize=6.5, color=style.MUTED)
    letters = style.room(15)
    names = zip(wrong["label_name"], wrong["predicted_name"], strict=True)
    axes.set_yticks(at, [f"{_short(label, letters)} → {_short(said, letters)}" for label, said in names], fontsize=6.5)
    axes.set_ylim(max(len(wrong), 6) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * float(each.max()))
    axes.xaxis.set_major_locator(style.round_ticks(most=4))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("images of a trial\n(and % of the class)", fontsize=7.5)


def _short(name: str, letters: int) -> str:
    return style.wrap(str(name), max(letters, 6), lines=1)


def _arms(best: pd.DataFrame, other: pd.DataFrame, shades: dict[str, str]) -> list[tuple[str, str, str, str]]:
    """(variant, marker, edge, fill) of both arms; where variants have no colours of their own the fill tells them apart."""
    names = [str(arm["variant"].iloc[0]) for arm in (best, other)]
    return [(names[0], "o", shades[names[0]], shades[names[0]]), (names[1], "D", shades[names[1]], "none")]


def _dumbbells(axes: Axes, best: pd.DataFrame, other: pd.DataFrame, study: Study) -> None:
    """The classes in which both differ most, from where the best variant gains to where it loses."""
    right = [arm[arm["label"] == arm["predicted"]].set_index("label") for arm in (best, other)]
    gain = right[0]["share"] - right[1]["share"]
    kept = gain.reindex(gain.abs().sort_values(ascending=False, kind="stable").index[:MOST]).sort_values(ascending=False, kind="stable")
    at = np.arange(len(kept))
    ends = [arm["share"].reindex(kept.index).to_numpy() for arm in right]
    axes.hlines(at, np.minimum(*ends), np.maximum(*ends), color=style.FAINT, lw=2.2, zorder=2)
    for values, (_, marker, edge, fill) in zip(ends, _arms(best, other, style.colours(study.variants)), strict=True):
        axes.plot(values, at, ls="", marker=marker, ms=4.5 if marker == "o" else 6.5, mew=1.2, mec=edge, mfc=fill, zorder=3)
    for y, value in zip(at.tolist(), kept, strict=True):
        text = f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 0.0005 else "0"
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=style.MUTED)
    axes.set_yticks(at, [_short(name, 22) for name in right[0]["label_name"].reindex(kept.index)], fontsize=7)
    axes.set_ylim(len(kept) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(style.round_ticks())
    axes.xaxis.set_major_formatter(style.tick_format("test_acc"))
    axes.set_xlabel("right on the class (%)\nright: the difference in points", fontsize=7.5)


def _caption(data: pd.DataFrame, study: Study, size: int, *, compared: bool) -> str:
    best = data[data["arm"] == "best"]
    trials, variants = int(best["trials"].iloc[0]), data["variant"].nunique()
    images = int(best.groupby("label")["images"].first().sum())
    which = f'the best of {variants} variants, "{best["variant"].iloc[0]}"' if variants > 1 else "the one variant"
    text = (f"{study.name}: {study.counts()}. Matrix: {which}; shares (%) of the test images of each class, {images // trials:,} images "
            f"in {size} classes, summed over {plural(trials, 'trial')}; colours on a square-root scale")
    text += "" if size <= FEW else ", classes that are taken for each other side by side"
    text += "." if compared and size <= FEW else f". Bars: the {MOST} pairs with the most mistakes."
    if compared:
        classes = best["label"].nunique()
        chosen = f"; the {MOST} of {classes} classes with the largest differences, which chance makes look larger than they are"
        text += (" Dots: the share that is right, of both variants, and how much larger it is with the best"
                 f"{chosen if classes > MOST else ''}; no intervals.")
    without = int((study.trials["status"] == "done").sum()) - int(data.drop_duplicates("variant")["trials"].sum())
    text += f" {plural(without, 'finished trial')} without predictions." if without > 0 else ""
    return text + (f" {study.openings()}." if study.openings() else "")
