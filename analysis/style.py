"""How figures look and how they are saved: sizes, colours, labels that keep apart, captions, PNG, PDF and SVG with the CSV behind them.

Nothing global: no pyplot, no `plt.style`; what matplotlib reads while drawing is set inside `context()` only.
"""

import io
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import stats


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What a figure is made for. Type is the same everywhere, so on a narrower figure it is larger once that fills a page or a screen."""

    width_in: float
    """Width in inches."""
    png_dpi: int


SIZES = {"paper": Size(width_in=7.0, png_dpi=200), "slide": Size(width_in=5.2, png_dpi=370)}
"""By name: over both columns of a paper; over the width of a slide (1,924 pixels), with type a third larger than that of a paper there."""
_SIZE: ContextVar[Size] = ContextVar("size", default=SIZES["paper"])
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours for colour-blind readers, in the order in which neighbours differ most; the pink made darker."""
ACCENT, INK, MUTED, FAINT, WARNING = "#0072B2", "#222222", "#6b6b6b", "#cfcfcf", "#A33B00"
CAPTION_LINES = 3
"""Lines of a caption for which figures have room; on a slide it has more."""
MANY_LINES = 500
"""From so many lines on they are pixels also in a PDF and SVG."""
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8.5, "axes.titlesize": 8.5, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3, "ytick.major.size": 3,
    "axes.grid": True, "grid.color": "#ececec", "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.solid_capstyle": "round",
    # names hold $ and _ as they are; Type 42 fonts keep the text of a PDF searchable and are what journals accept
    "text.parse_math": False, "pdf.fonttype": 42, "figure.facecolor": "white", "savefig.facecolor": "white",
    "svg.hashsalt": "harness",  # the same study gives the same bytes
}


@contextmanager
def context(size: str = "paper") -> Iterator[None]:
    """Our settings while a figure is made and saved; matplotlib's own ones come back afterwards. `size` is one of `SIZES`."""
    settings: Any = _RC  # typed as the literal names of all settings
    token = _SIZE.set(SIZES[size])
    try:
        with mpl.rc_context(settings):
            yield
    finally:
        _SIZE.reset(token)


def width_in() -> float:
    """Width of the figures that are made now, inches: 7 in a paper."""
    return _SIZE.get().width_in


def room(at_paper: int) -> int:
    """How many letters or panels fit where `at_paper` fit side by side over the width of a paper's figure; at least one."""
    return max(1, round(at_paper * width_in() / SIZES["paper"].width_in))


def new_figure() -> Figure:
    """An empty figure that lays itself out; what draws on it sets its size."""
    # texts are measured at the resolution at which they are drawn: hinting makes them narrower at a lower one, and their ends would be cut
    figure = Figure(figsize=(width_in(), 3.0), layout="constrained", dpi=_SIZE.get().png_dpi)
    FigureCanvasAgg(figure)
    return figure


def colours(variants: Sequence[str]) -> dict[str, str]:
    """One colour for each variant, or one for all where there are more variants than colours that stay apart."""
    many = len(variants) > len(COLOURS)
    return {v: ACCENT if many else COLOURS[i] for i, v in enumerate(variants)}


def rank_colours(places: Sequence[float]) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """RGBA for places from 0 (the worst, pale) to 1 (the best, dark): cividis from its bright end, without its palest tenth."""
    return np.asarray(mpl.colormaps["cividis"](0.9 - 0.9 * np.asarray(places, dtype=float)))


def wrap(text: str, width: int, *, lines: int = 4) -> str:
    """The text on lines of at most `width` characters, broken after spaces and after / , _ : -; an ellipsis ends what is too long."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    pieces = [p[i:i + width] for p in re.findall(r"[^\s/,_:-]*[\s/,_:-]?", clean) for i in range(0, len(p), width)]
    out = [""]
    for piece in pieces:
        if len((out[-1] + piece).rstrip()) > width:
            out.append("")
        out[-1] += piece
    out = [line.strip() for line in out]
    return "\n".join(out if len(out) <= lines else [*out[:lines - 1], out[lines - 1][:width - 1] + "…"])


def axis_label(metric: str) -> str:
    """The label of a metric's axis, with its unit."""
    return f"{stats.words(metric)} (%)" if stats.is_share(metric) else stats.words(metric)


def tick_format(metric: str) -> FuncFormatter:
    """Ticks of a metric's axis: shares in percent, others plain, also on a logarithmic axis."""
    factor = 100.0 if stats.is_share(metric) else 1.0
    return FuncFormatter(lambda value, _: f"{round(factor * value, 9):g}".replace("-", "−"))


def round_ticks(*, most: int = 5, whole: bool = False) -> MaxNLocator:
    """At most about that many ticks at multiples of 1, 2 or 5 (of 2.5 too unless they are whole)."""
    return MaxNLocator(nbins=most, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1)


def caption(figure: Figure, text: str) -> None:
    """A note under the panels, wrapped to the figure's width. The panels make room for `CAPTION_LINES` of it, for more of them the figure
    grows."""
    wide_in, height_in = figure.get_size_inches()
    lines = textwrap.wrap(text.replace(" %", "\u00a0%"), int(wide_in * 19.5), break_on_hyphens=False)
    room_in, height_in = 0.12 + 0.142 * len(lines), height_in + 0.142 * max(0, len(lines) - CAPTION_LINES)
    figure.set_size_inches(wide_in, height_in)
    note = figure.text(0.1 / wide_in, 0.06 / height_in, "\n".join(lines), fontsize=7, color=MUTED, va="bottom", linespacing=1.35)
    note.set_in_layout(False)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0.0, room_in / height_in, 1.0, 1.0 - room_in / height_in))


def make_room(figure: Figure, bands: Sequence[Sequence[Axes]]) -> None:
    """Lets the figure grow by the names at the ticks that stand upright, the longest of each band of panels. To be called before
    `caption`."""
    longest = [max((len(t.get_text()) for axis in band for t in axis.get_xticklabels() if t.get_rotation() == 90), default=0)
               for band in bands]
    wide_in, height_in = figure.get_size_inches()
    figure.set_size_inches(wide_in, height_in + 0.065 * sum(longest))


def warning(figure: Figure, text: str) -> None:
    """A sentence above the panels that must not be overlooked; the figure grows by its lines. To be called before `caption`."""
    if not text:
        return
    wide_in, height_in = figure.get_size_inches()
    lines = textwrap.wrap(text, int(wide_in * 15))
    figure.set_size_inches(wide_in, height_in + 0.14 + 0.15 * len(lines))
    figure.suptitle("\n".join(lines), x=0.1 / wide_in, ha="left", fontsize=7.5, color=WARNING, fontweight="bold", linespacing=1.3)


def panels(figure: Figure, names: Sequence[str], *, x: str, y: str) -> list[Axes]:
    """One titled panel for each name, at most three in a row, with common axes that are labelled at the edges; sets the figure's size."""
    columns = min(len(names), room(3) if len(names) != 4 else 2)
    bands = -(-len(names) // columns)
    titles = [wrap(name, room(105) // columns) for name in names]
    lines = max(title.count("\n") + 1 for title in titles)
    figure.set_size_inches(width_in(), bands * (1.7 + 0.14 * lines * (len(names) > 1)) + (0.6 if bands > 1 else 1.1))
    axes = figure.subplots(bands, columns, squeeze=False, sharex=True, sharey=True)
    for i, axis in enumerate(axes.flat):
        axis.set_visible(i < len(names))
        if i + columns >= len(names):
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if i % columns == 0:
            axis.set_ylabel(y)
        if i < len(names) and len(names) > 1:
            axis.set_title(titles[i], fontsize=7.5, loc="left")
    return list(axes.flat[:len(names)])


def key(figure: Figure, handles: Sequence[Artist]) -> None:
    """A key above the panels, for what cannot be named at the marks, in as many columns as the figure is wide enough for; the figure
    grows by its lines."""
    if not handles:
        return
    wide_in, height_in = figure.get_size_inches()
    for columns in range(min(room(5), len(handles)), 0, -1):
        drawn = figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, frameon=False, fontsize=7,
                              handlelength=1.4, columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2, labelspacing=0.3)
        needed = drawn.get_window_extent()
        if needed.width <= wide_in * figure.dpi or columns == 1:
            break
        drawn.remove()
    figure.set_size_inches(wide_in, height_in + needed.height / figure.dpi + 0.04)


def informative(values: Sequence[float], mode: str) -> tuple[float, float]:
    """The range of an axis that shows the better values apart: what lies far on the worse side is beyond it, to be marked at the edge.

    Far is more than two and a half times as far from the best as the median is, and by that a third of the whole range or more.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low, high = float(finite.min()), float(finite.max())
    best, middle = (low if mode == "min" else high), float(np.median(finite))
    reach = 2.5 * abs(best - middle)
    if 0 < reach < (high - low) / 1.5:
        near = finite[np.abs(finite - best) <= reach]
        low, high = float(near.min()), float(near.max())
    pad = 0.06 * (high - low) or 0.02 * abs(high) or 0.02
    return low - pad, high + pad


def spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Centres near the wanted ones for labels of these heights so that none overlap, in the same order from low to high.

    Positions are fractions of the axes' height; labels stay inside 0 to 1 where all of them fit. Labels that collide become one
    block around their mean, and blocks merge until none collide.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    room = sum(heights) <= 1

    def height(members: list[int]) -> float:
        return sum(heights[j] for j in members)

    def inside(centre: float, members: list[int]) -> float:
        return min(max(centre, height(members) / 2), 1 - height(members) / 2) if room else centre

    blocks: list[tuple[float, list[int]]] = []  # (centre, members from low to high)
    for i in order:
        blocks.append((inside(wanted[i], [i]), [i]))
        while len(blocks) > 1:
            (low_at, low), (high_at, high) = blocks[-2:]
            if high_at - low_at >= height(low + high) / 2 - 1e-12:
                break
            centre = (low_at * len(low) + high_at * len(high)) / (len(low) + len(high))
            blocks[-2:] = [(inside(centre, low + high), low + high)]
    out = [0.0] * len(wanted)
    for centre, members in blocks:
        at = centre - height(members) / 2
        for j in members:
            out[j] = at + heights[j] / 2
            at += heights[j]
    return out


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes a name at the right of the axes for each line that ends at (x, y), thin leaders from the end to the name.

    `ends` holds (x, y, text, colour), the text wrapped already. To be called when limits and sizes are final.
    """
    label_all_ends([(axes, ends)])


def label_all_ends(panels: Sequence[tuple[Axes, Sequence[tuple[float, float, str, str]]]]) -> None:
    """`label_ends` for the panels of one figure, which is laid out once for all of them."""
    drawn = [[axes.text(1.06, 0.5, text, transform=axes.transAxes, color=colour, va="center", ha="left", linespacing=1.05)
              for _, _, text, colour in ends] for axes, ends in panels]
    figure = panels[0][0].get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout gives the axes their height, and the texts theirs
    for (axes, ends), texts in zip(panels, drawn, strict=True):
        axes_px = axes.get_window_extent().height
        heights = [(t.get_window_extent().height + 3) / axes_px for t in texts]
        wanted = [float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1]) for x, y, _, _ in ends]
        for text, at, (x, y, _, colour) in zip(texts, spread(wanted, heights), ends, strict=True):
            text.set_y(at)
            axes.annotate("", xy=(x, y), xycoords="data", xytext=(1.045, at), textcoords="axes fraction", annotation_clip=False,
                          arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "ls": ":", "shrinkA": 0, "shrinkB": 3})


def lines(axes: Axes, rows: pd.DataFrame, x: str, *, by: str, color: str, width: float, zorder: float, alpha: float = 1.0) -> None:
    """Draws `value` over a column of x, a line for each value of the column `by`, as one artist; single points are dots. The rows of each
    line are consecutive and in order. Many lines are pixels also in a PDF and SVG, and do not move the axes' limits."""
    if rows.empty:
        return
    points = np.column_stack([rows[x].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)])
    parts = np.split(points, np.flatnonzero(np.diff(pd.factorize(rows[by])[0])) + 1)
    axes.add_collection(LineCollection(parts, colors=color, linewidths=width, alpha=alpha, zorder=zorder, capstyle="round",
                                       rasterized=len(parts) >= MANY_LINES), autolim=False)
    if dots := [part[0] for part in parts if len(part) == 1]:
        axes.plot(*np.transpose(dots), ls="", marker="o", ms=2, mew=0, color=color, alpha=alpha, zorder=zorder)


def write_whole(path: Path, data: bytes) -> Path:
    """Writes a file aside and renames it into place, so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def save(figure: Figure, folder: Path, name: str, table: pd.DataFrame) -> list[Path]:
    """Writes NAME.png, NAME.pdf, NAME.svg and NAME.csv (the table the figure was drawn from); the same study gives the same bytes."""
    paths = []
    figure.draw_without_rendering()  # lays it out, once for the three of them
    figure.set_layout_engine("none")
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None}), ("svg", {"Date": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=_SIZE.get().png_dpi, metadata=metadata)
        paths.append(write_whole(folder / f"{name}.{kind}", buffer.getvalue()))
    return [*paths, write_whole(folder / f"{name}.csv", csv(table))]


def csv(table: pd.DataFrame) -> bytes:
    """A table as UTF-8 CSV; missing values are empty."""
    return table.to_csv(index=False).encode("utf-8")
