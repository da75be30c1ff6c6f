"""When each attempt ran and on which slot: waits in grey, the colour telling how it ended, idle times of the whole study cut out."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from analysis import cost, slots, style
from analysis.load import Study, plural

NAME, TITLE = "timeline", "What ran when, and where"
COLOURS = {"finished": "#0072B2", "stopped at its rung": "#8CC5E8", "infeasible": "#444444", "taken away": "#E69F00", "failed": "#AA4499",
           "cancelled": "#8f8f8f", "still running": "#D9E8F2"}
"""By `slots.ENDS`; dark and light, so that they stay apart for colour-blind readers and in print."""
WAIT = "#d4d4d4"
MANY = 500
"""With more attempts bars have no white edge between them, and are drawn as pixels."""
MAX_HOSTS, MAX_WAVES = 24, 40
"""With more hosts they are not named, and with more waves they are not marked."""
LEAST = 0.0015
"""Of the axis, that a bar takes at least, or what failed at once would not be seen; with very many attempts only its own length."""
GAP_WIDTH = 0.035
"""Of the axis, that an idle time which is cut out keeps."""
UNITS = ((120 / 3600, 3600.0, "s", "seconds"), (2.0, 60.0, "min", "minutes"), (96.0, 1.0, "h", "hours"), (np.inf, 1 / 24, "days", "days"))
"""Up to how many hours, how many of the unit an hour has, and the unit."""


def table(study: Study) -> pd.DataFrame:
    """What is drawn: one row for each attempt that began; the columns of `slots.attempts`.

    Raises:
        NotForThisStudy: the study has no attempts.
    """
    return slots.attempts(study)


def draw(figure: Figure, data: pd.DataFrame, study: Study) -> None:
    """Draws `table(study)` and sets the figure's size."""
    lanes = int(data["lane"].max()) + 1
    lane_in = min(0.5, 0.17 * max(1.0, data["members"].max() / 2.5))
    figure.set_size_inches(style.width_in(), float(np.clip(lane_in * lanes, 0.5, 3.6)) + 1.15)
    axes = figure.subplots()
    panel(axes, data)
    wide, high = figure.get_size_inches()
    lines = textwrap.wrap(_headline(slots.summary(data), study), round(wide * 13))
    figure.set_size_inches(wide, high + 0.1 + 0.16 * len(lines))
    counts = data["ended"].value_counts()
    marks = [Patch(facecolor=COLOURS[name], edgecolor=_edge(name), label=f"{name} ({counts[name]})") for name in COLOURS if name in counts]
    if (data["free_h"] < data["begin_h"]).any():
        marks.append(Patch(color=WAIT, label="waits for the slot"))
    style.key(figure, marks)
    style.caption(figure, _caption(data, study))
    _above(figure, lines, key_lines=-(-len(marks) // style.room(5)))


def _above(figure: Figure, lines: Sequence[str], *, key_lines: int) -> None:
    """The headline, above the key too."""
    wide, high = figure.get_size_inches()
    top = 1 - (0.1 + 0.16 * len(lines)) / high
    text = figure.text(0.1 / wide, 1 - 0.07 / high, "\n".join(lines), va="top", fontsize=8.5, fontweight="bold", linespacing=1.3)
    text.set_in_layout(False)
    engine: Any = figure.get_layout_engine()
    left, bottom, width, _ = engine.get()["rect"]
    engine.set(rect=(left, bottom, width, top - bottom - (0.04 + 0.2 * key_lines) / high))  # a key that is moved gets no room by itself
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0.0, 0.0, 1.0, top), transform=figure.transFigure)


def panel(axes: Axes, data: pd.DataFrame) -> None:
    """The bars of `slots.attempts`, their lanes and hosts, waves and cuts."""
    cuts, unit = slots.gaps(data), _unit(slots.summary(data).hours)
    place = _Axis(data, cuts)
    few = len(data) <= MANY
    thick = 0.42 if few else 0.47
    low = data["lane"] - thick + 2 * thick * data["member"] / data["members"]
    high = low + 2 * thick / data["members"]
    waits = data[(data["free_h"] < data["begin_h"]) & (data["member"] == 0)]
    _bars(axes, place(waits["free_h"]), place(waits["begin_h"]), waits["lane"] - 0.16, waits["lane"] + 0.16, colour=WAIT, edge="none",
          few=few, zorder=2)
    least = LEAST * place.width if len(data) <= 20 * MANY else 0.0
    for zorder, (name, colour) in enumerate(COLOURS.items(), start=3):  # what is rare is drawn over what is not
        rows = data[data["ended"] == name]
        left = place(rows["begin_h"])
        _bars(axes, left, np.maximum(place(rows["end_h"]), left + least), low[rows.index], high[rows.index], colour=colour,
              edge=_edge(name) if few else "none", few=few, zorder=zorder)
    axes.set_xlim(*place.limits())
    lanes = int(data["lane"].max()) + 1
    axes.set_ylim(lanes - 0.4, -0.6)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _hosts(axes, data, lanes)
    ticks, labels = place.ticks(unit[1], most=style.room(9))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.set_xlabel(f"{unit[3]} since the study began")
    _waves(axes, data, place)
    for since, until in cuts:
        _cut(axes, place, since, until)


class _Axis:
    """Where an hour lies on the axis, which is shorter than the hours by what is cut out."""

    def __init__(self, data: pd.DataFrame, cuts: Sequence[tuple[float, float]]):
        first, last = float(data["free_h"].min()), float(data["end_h"].max())
        shown = (last - first) - sum(until - since for since, until in cuts)
        self.width = shown / max(0.1, 1 - GAP_WIDTH * len(cuts)) or 1.0
        gap = min(GAP_WIDTH, 0.9 / max(1, len(cuts))) * self.width
        self.hours, self.at = [first], [0.0]
        for since, until in cuts:
            self.at += [self.at[-1] + since - self.hours[-1], self.at[-1] + since - self.hours[-1] + gap]
            self.hours += [since, until]
        self.at.append(self.at[-1] + last - self.hours[-1])
        self.hours.append(last)

    def __call__(self, hours: "pd.Series[float] | np.ndarray | Sequence[float]") -> np.ndarray:
        return np.asarray(np.interp(np.asarray(hours, dtype=float), self.hours, self.at))

    def limits(self) -> tuple[float, float]:
        """The ends of the axis, with a little room."""
        room = 0.005 * (self.at[-1] or 1.0)
        return -room, (self.at[-1] or 1.0) + room

    def ticks(self, per_hour: float, *, most: int) -> tuple[list[float], list[str]]:
        """Round numbers of the unit in each part between the cuts, and where they lie."""
        low, high = self.limits()
        step = float(np.diff(MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(0, (high - low) * per_hour))[0])
        where, labels = list[float](), list[str]()
        for since, until in zip(self.hours[::2], self.hours[1::2], strict=True):
            values = np.arange(np.ceil(since * per_hour / step - 1e-6), until * per_hour / step + 1e-6) * step + 0.0
            before = len(where)
            for value, at in zip(values, self(values / per_hour), strict=True):
                if not where or at - where[-1] > 0.05 * (high - low):
                    where.append(float(at))
                    labels.append(f"{round(value, 6):,.12g}")
            if len(where) == before:  # every part gets one
                where.append(float(self([(since + until) / 2])[0]))
                labels.append(f"{(since + until) / 2 * per_hour:,.1f}")
        return where, labels


def _unit(hours: float) -> tuple[float, float, str, str]:
    """The unit in which so many hours are told."""
    return next(unit for unit in UNITS if hours <= unit[0])


def _in_unit(hours: float) -> str:
    """A length of time: "1.5 min"."""
    _, per_hour, name, _ = _unit(hours)
    value = hours * per_hour
    return f"{value:,.0f} {name}" if value >= 10 else f"{value:.2g} {name}"


def _edge(ended: str) -> str:
    return COLOURS["finished"] if ended == "still running" else "white"


def _bars(axes: Axes, left: np.ndarray, right: np.ndarray, low: "pd.Series[float]", high: "pd.Series[float]", *, colour: str, edge: str,
          few: bool, zorder: int) -> None:
    if not len(left):
        return
    below, above = low.to_numpy(dtype=float), high.to_numpy(dtype=float)
    corners = np.stack([np.stack(corner, 1) for corner in ((left, below), (right, below), (right, above), (left, above))], 1)
    axes.add_collection(PolyCollection(list(corners), facecolors=colour, edgecolors=edge, linewidths=0.0 if edge == "none" else 0.4,
                                       rasterized=not few, zorder=zorder))


def _hosts(axes: Axes, data: pd.DataFrame, lanes: int) -> None:
    """Names the hosts at their lanes, where each lane is of one host."""
    hosts = data.groupby("lane")["host"].agg(["first", "nunique"])
    if hosts["nunique"].max() > 1 or hosts["first"].nunique() > MAX_HOSTS or not hosts["first"].astype(str).str.len().all():
        axes.set_yticks([])
        axes.set_ylabel(plural(lanes, "slot"))
        return
    at = hosts.reset_index().groupby("first", sort=False)["lane"].agg(["min", "max"])
    axes.set_yticks(((at["min"] + at["max"]) / 2).tolist(), _short([str(host) for host in at.index]))
    for lane in at["min"].tolist()[1:]:
        axes.axhline(lane - 0.5, color=style.FAINT, lw=0.6, zorder=1)


def _short(hosts: Sequence[str]) -> list[str]:
    """The hosts without their domain where that keeps them apart; of long names the beginning and the end."""
    bare = [host.partition(".")[0] for host in hosts]
    names = bare if len(set(bare)) == len(hosts) else hosts
    return [style.wrap(name if len(name) <= 18 else f"{name[:7]}…{name[-10:]}", 18, lines=1) for name in names]


def _boundaries(data: pd.DataFrame) -> list[tuple[float, str]]:
    """When each wave, and the confirmation, was first begun: (hour, name); none in a study of one wave."""
    known = data[data["wave"].notna()]
    if known.empty:
        return []
    search = known[known["phase"].fillna("") != "confirm"]
    firsts = search.groupby(search["wave"].astype(int))["begin_h"].min()
    marks = [(float(hour), f"wave {wave}") for wave, hour in firsts.items()] if len(firsts) > 1 else []
    confirmed = known.loc[known["phase"] == "confirm", "begin_h"]
    return marks[1:] + ([(float(confirmed.min()), "confirm")] if len(confirmed) else [])


def _waves(axes: Axes, data: pd.DataFrame, place: _Axis) -> None:
    marks = _boundaries(data)
    if len(marks) > MAX_WAVES:
        marks = [mark for mark in marks if mark[1] == "confirm"]
    low, high = place.limits()
    written = -np.inf
    for hour, name in sorted(marks):
        at = float(place([hour])[0])
        axes.axvline(at, color=style.INK, lw=0.5, ls=(0, (1.5, 2.5)), zorder=12)
        if at - written > (high - low) * 0.9 / style.room(12):
            axes.annotate(name, (at, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points", ha="center",
                          fontsize=6.5, color=style.MUTED, annotation_clip=False)
            written = at


def _cut(axes: Axes, place: _Axis, since: float, until: float) -> None:
    """Marks a time that is cut out."""
    left, right = place([since, until])
    axes.axvspan(left, right, facecolor="white", edgecolor="none", zorder=13)
    for at in (left, right):
        axes.axvline(at, color=style.MUTED, lw=0.7, ls=(0, (4, 2)), zorder=14)
    axes.text((left + right) / 2, 0.5, f"{_in_unit(until - since)} idle", transform=axes.get_xaxis_transform(), rotation=90, ha="center",
              va="center", fontsize=6.5, color=style.MUTED, zorder=15, clip_on=True)


def _headline(told: slots.Summary, study: Study) -> str:
    known, least = not np.isnan(told.median_wait_h), 1 / 3600
    wait = f" · median wait {_in_unit(told.median_wait_h) if told.median_wait_h >= least else 'under 1 s'}" if known else ""
    used = f"{plural(told.slots, 'slot')} in use {100 * told.busy:.0f}\u00a0% of {_in_unit(told.hours)}"
    return f"{used}{wait} · {_told_lost(told.lost_h, cost.unit(study).removesuffix('-hours'))}"


def _told_lost(lost_h: dict[str, float], of: str) -> str:
    """What was lost, in "GPU-hours", or in minutes or seconds where it is less than one."""
    lost = sum(lost_h.values())
    if not lost:
        return "nothing lost"
    per_hour, name = next((pair for pair in ((1, "hours"), (60, "minutes")) if lost * pair[0] >= 1), (3600, "seconds"))
    amounts = {ended: f"{h * per_hour:,.0f}" if h * per_hour >= 10 else f"{h * per_hour:.1f}" for ended, h in {**lost_h, "": lost}.items()}
    words = {"taken away": "to attempts taken away", "failed": "to failures", "cancelled": "to what was cancelled"}
    largest_first = sorted(lost_h, key=lambda ended: -lost_h[ended])
    parts = ", ".join(f"{amounts[ended]} {words[ended]}" for ended in largest_first)
    return f"at most {amounts['']} {of}-{name} lost " + (f"({parts})" if len(lost_h) > 1 else words[largest_first[0]])


def _caption(data: pd.DataFrame, study: Study) -> str:
    trials, programs = data["trial_id"].nunique(), data["program"].nunique()
    text = f"{study.name}: {study.counts()}. A bar for each of {plural(len(data), 'attempt')} at {plural(trials, 'trial')}"
    text += ", coloured by how it ended; a row is a slot of its host, filled from the first free one on."
    if programs < len(data):
        text += f" {int((data['members'] > 1).sum())} attempts were trained together with others; they share a bar's height."
    text += " Lost: what attempts did that a later one did again, or nobody; what a checkpoint kept within an epoch is counted too."
    if data["wait_h"].isna().all():
        text += " Waits are not known: an earlier version wrote the study."
    else:
        text += " A wait counts from when an attempt was queued, its trial's last one ended or its worker was free, whichever came last."
    unseen = len(study.attempts) - len(data)
    text += f" {plural(unseen, 'attempt')} never began." if unseen > 0 else ""
    waves = sum(name != "confirm" for _, name in _boundaries(data))
    text += f" The starts of {waves + 1} waves are not marked." if waves > MAX_WAVES else ""
    return text + (f" Dashed: {plural(len(slots.gaps(data)), 'idle time')} cut out." if slots.gaps(data) else "")
