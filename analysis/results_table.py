"""The results table: one row for each variant, mean and half-width over its seeds. In Markdown for reading, in CSV for going on."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import cost, sentences, stats, winners
from analysis.load import STATUSES, NotForThisStudy, Study
from analysis.stats import best

NAME = "results"
METRICS = ("last_train_loss", "val_acc", "test_acc")
"""The columns of the hand-made tables; the study's own metric joins them where it is another one."""
BEST, LEVEL = "best", "level"
_HEADS = {"last_train_loss": "last training loss"}
_CURSE = ("search_best", "search_best_value", "search_best_confirmed", "overstated", "overstated_low", "overstated_high", "left_out",
          "infeasible", "judged")


def table(study: Study) -> pd.DataFrame:
    """The numbers, in the grid's order.

    Returns:
        variant, one `param_<name>` for each compared parameter (the values of a variant that has several joined by ", "), then for each
        metric `<metric>` (mean), `<metric>_half_width` (t, 95 %; empty below 3 seeds), `<metric>_n`; `hours` (mean of its finished trials,
        where known); `place` (by `analysis.best`: "best", "level" with it, "behind", or empty where that cannot be said); and the trials by
        status. Shares are fractions. Of a searched study the tuned parameters too, of the config that stands for the variant, that config's
        number (`config`), how many there are (`configs`), what the search said of it (`search_value`, `search_n`), and the columns of
        `winners.curse` (its `infeasible` as `configs_infeasible`, its `judged` as `configs_judged`).

    Raises:
        AnalysisError: no trial is finished, or trials are no replicates of each other.
    """
    done = study.done()
    out = pd.DataFrame({"variant": list(study.variants)})
    tuned = [t.name for t in study.search.tuned] if study.search else []
    for name in dict.fromkeys((*study.compared, *tuned)):
        values = study.trials.groupby("variant")[f"param_{name}"].agg(_join)
        out[f"param_{name}"] = [values.get(v) for v in study.variants]
    for metric in dict.fromkeys((*METRICS[:1], study.metric, *METRICS[1:])):
        if metric in done and done[metric].notna().any():
            part = stats.by_variant(done, metric, variants=study.variants, by=study.pairs)
            out[metric], out[f"{metric}_half_width"], out[f"{metric}_n"] = part["mean"], part["half_width"], part["n"]
    if (hours := _hours(done, study)) is not None:
        out["hours"] = hours
    out["place"] = _places(study)
    if study.search is not None:
        rows = [study.search.chosen(v) for v in study.variants]
        out["config"] = pd.array([None if row is None else row["config"] for row in rows], dtype="Int64")
        out["configs"] = [int((study.search.configs["variant"] == v).sum()) for v in study.variants]
        out["search_value"] = [None if row is None else row["value"] for row in rows]
        out["search_n"] = pd.array([None if row is None else row["n"] for row in rows], dtype="Int64")
        curse = winners.curse(study.search, study.metric, mode=study.mode, variants=study.variants)
        out[[f"configs_{c}" if c in ("infeasible", "judged") else c for c in _CURSE]] = curse[list(_CURSE)]
    found = study.trials["status"]
    for status in [*STATUSES, *sorted(set(found) - set(STATUSES))]:
        counts = study.trials[found == status].groupby("variant").size()
        if status == "done" or len(counts):
            out[status] = [int(counts.get(v, 0)) for v in study.variants]
    return out


def _join(values: "pd.Series[str]") -> object:
    """The one value, or several as text; None where the parameter is not in force."""
    known = list(dict.fromkeys(values.dropna()))
    return None if not known else known[0] if len(known) == 1 else ", ".join(map(_value, known))


def _hours(done: pd.DataFrame, study: Study) -> list[float] | None:
    """What a finished trial of each variant cost on average; None where nobody knows."""
    try:
        hours = cost.per_trial(study).set_index("trial_id")["hours"]
    except NotForThisStudy:
        return None
    means = done["trial_id"].map(hours).astype(float).groupby(done["variant"]).mean()
    return [float(means.get(v, math.nan)) for v in study.variants] if means.gt(0).any() else None


def _places(study: Study) -> list[str]:
    """Who is best and who is level with it, by what variants are compared by; nothing where what would decide it is biased."""
    if study.warning():
        return [""] * len(study.variants)
    column, mode = study.headline()
    places = best.best_set(study.done(), column, mode=mode, variants=study.variants, ended=stats.endings(study.trials), by=study.pairs)
    return places["place"].tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A table as it is read: the same cells in every format."""

    heads: tuple[str, ...]
    numbers: tuple[bool, ...]
    """Which columns hold numbers, to be set to the right."""
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    """The column whose cells carry the marks."""
    places: tuple[str, ...] = ()
    """Of each row."""


def layout(data: pd.DataFrame, study: Study, *, names: bool = True) -> Layout:
    """The cells of `table(study)`, in the form of the hand-made studies.

    Args:
        names: whether variants are named where their parameters say the same.
    """
    params = [c for c in data.columns if c.startswith("param_")]
    metrics = [c.removesuffix("_half_width") for c in data.columns if c.endswith("_half_width")]
    told = [s for s in list(data.columns)[list(data.columns).index("done"):] if (data[s] > 0).any()]
    factor, unit = _cost(data, study)
    first = ["variant"] if names or not _said_by_parameters(data, study) else []
    heads = [*first, *(p.removeprefix("param_") for p in params), *(_head(m) for m in metrics)]
    heads += [*([unit] if unit else []), "n", *(["trials"] if told != ["done"] else [])]
    rows = []
    for _, row in data.iterrows():
        cells = [*(str(row[c]) for c in first), *(_value(row[p]) for p in params), *(_mean(row, m) for m in metrics)]
        cells += [_small(factor * float(row["hours"]))] if unit else []
        cells.append("/".join(dict.fromkeys(str(int(row[f"{m}_n"])) for m in metrics)) or "0")
        if told != ["done"]:
            cells.append(", ".join(f"{int(row[s])} {s}" for s in told if row[s]))
        rows.append(tuple(cells))
    left, column = len(first) + len(params), study.headline()[0]
    numeric = [False] * len(first) + [all(_is_number(v) for v in data[p].dropna()) for p in params]
    numeric += [True] * (len(metrics) + bool(unit) + 1) + [False] * (told != ["done"])
    return Layout(heads=tuple(heads), numbers=tuple(numeric), rows=tuple(rows), places=tuple(data["place"]),
                  marked=left + metrics.index(column) if column in metrics and data["place"].ne("").any() else None)


def _cost(data: pd.DataFrame, study: Study) -> tuple[float, str]:
    """How hours are shown, as on the axes of figures: the factor and the unit, "" where nobody knows them."""
    return cost.scale(study, float(data["hours"].max())) if "hours" in data else (1.0, "")


def curse_layout(data: pd.DataFrame, study: Study) -> Layout | None:
    """What the search said beside what was confirmed and tested; None where nothing was confirmed."""
    if study.search is None or not study.search.confirmed:
        return None
    metric, tested = study.metric, study.headline()[0] == "test_acc" and study.metric != "test_acc"
    percent = " (%)" if stats.is_share(metric) else ""
    heads = ["variant", f"search's best{percent}", f"again on fresh seeds{percent}", "overstated by", f"winner{percent}",
             f"each seed left out{percent}", *(["test accuracy (%)"] if tested else []), "infeasible configs"]
    rows = []
    for _, row in data.iterrows():
        low, high, bad = float(row["overstated_low"]), float(row["overstated_high"]), stats.share(row["configs_infeasible"],
                                                                                                row["configs_judged"])
        over = stats.show(float(row["overstated"]), metric)
        over += f" ({stats.show(low, metric)} to {stats.show(high, metric)})" if math.isfinite(low) else ""
        rows.append((str(row["variant"]), _shown(row["search_best_value"], metric), _shown(row["search_best_confirmed"], metric), over,
                     _mean(row, metric), _shown(row["left_out"], metric), *([_mean(row, "test_acc")] if tested else []),
                     f"{bad.k} of {bad.n}" + (f" ({100 * bad.low:.0f} to {100 * bad.high:.0f} %)" if bad.n else "")))
    return Layout(heads=tuple(heads), numbers=(False, *[True] * (len(heads) - 1)), rows=tuple(rows))


CURSE_NOTE = ("The best of many configs looks better than it is. Search's best: what the search said of the config it found best; again: "
              "the mean of that config on fresh seeds; overstated by: the difference, with the 95 % interval that the fresh seeds leave. "
              "Winner: the config that is best on the fresh seeds, and for each seed left out of the choice in turn. Infeasible configs: "
              "of those tried to an end, with the Wilson 95 % interval of the share.")


def notes(data: pd.DataFrame, study: Study) -> list[str]:
    """What the numbers and the marks are, in sentences with their full stops."""
    several = {int(n) for m in data.columns if m.endswith("_n") and m != "search_n" for n in data[m]}
    over = "splits (each the mean over its seeds)" if len(study.pairs) > 1 and _over_splits(study) else "seeds"
    spread = f"± is the half-width of the Student t 95 % interval of the mean over n {over}; there is none below {stats.MIN_N} seeds."
    if max(several, default=0) < stats.MIN_N:
        spread = f"Means over n seeds, without an interval: that takes at least {stats.MIN_N}." if max(several, default=0) > 1 else (
            f"Single runs (n = 1), without an interval: that takes at least {stats.MIN_N} seeds.")
    text = study.selection()
    if study.search is not None:
        text = "".join(f"{note}. " for note in (study.standing(), study.openings()) if note) + f"{text[0].upper()}{text[1:]}"
    last = "; the last training loss is that of the last epoch" if "last_train_loss" in data else ""
    hours = f"; {unit}: of one trial, the mean" if (unit := _cost(data, study)[1]) else ""
    out = [f"{spread} {text[0].upper()}{text[1:]}{last}{hours}. "
           f"{study.counts()[0].upper()}{study.counts()[1:]}."]
    if data["place"].ne("").any():
        column = stats.words(study.headline()[0])
        level = "; †: not distinguishable from it" if data["place"].eq(LEVEL).any() else "; the others are behind"
        left = "; not judged is a variant whose seeds diverged or are too few" if data["place"].eq("").any() else ""
        out.append(f"Bold: the best {column}{level}{left} (paired t intervals, 95 % over all comparisons).")
    return out


def _over_splits(study: Study) -> bool:
    keys = study.done()[list(study.pairs)].drop_duplicates()
    return stats.units(pd.MultiIndex.from_frame(keys), study.pairs)[0] == "split"


def markdown(data: pd.DataFrame, study: Study, said: Sequence[str] | None = None) -> str:
    """The table as Markdown with what its marks are, and the sentences about the comparison.

    Args:
        said: the sentences of `sentences.of_study`, where they are known already.
    """
    said = sentences.of_study(study) if said is None else said
    warning = [f"**{_cell(study.warning())}**", ""] if study.warning() else []
    curse = curse_layout(data, study)
    second = [*_markdown_lines(curse), "", _cell(CURSE_NOTE), ""] if curse else []
    told = [line for note in notes(data, study) for line in (_cell(note), "")]
    return "\n".join([f"# {_cell(study.name)}", "", *warning, *_markdown_lines(layout(data, study)), "", *told, *second,
                      *(f"- {_cell(v)}." for v in said), ""])


def _markdown_lines(of: Layout) -> list[str]:
    rule = ["---:" if number else "---" for number in of.numbers]
    body = [[_marked_down(_cell(c), of.places[i] if j == of.marked else "") for j, c in enumerate(row)] for i, row in enumerate(of.rows)]
    return [f"| {' | '.join(cells)} |" for cells in ([_cell(h) for h in of.heads], rule, *body)]


def _marked_down(text: str, place: str) -> str:
    return f"**{text}**" if place == BEST else f"{text} †" if place == LEVEL else text


def _said_by_parameters(data: pd.DataFrame, study: Study) -> bool:
    """Whether the variants' names say no more than the columns of the compared parameters."""
    names = [" ".join(f"{p}={_value(row[f'param_{p}'])}" for p in study.compared if not pd.isna(row[f"param_{p}"]))
             for _, row in data.iterrows()]
    return names == [str(v) for v in data["variant"]]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value(value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if hasattr(value, "item"):
        value = value.item()
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _small(of: float) -> str:
    """A cost with two significant digits, or "<0.01"."""
    if not math.isfinite(of):
        return "–"
    return "<0.01" if of < 0.005 else f"{of:.2g}" if of < 10 else f"{of:.0f}"


def _head(metric: str) -> str:
    return _HEADS.get(metric) or stats.words(metric) + (" (%)" if stats.is_share(metric) else "")


def _shown(value: float, metric: str) -> str:
    return stats.show(float(value), metric)


def _mean(row: "pd.Series[float]", metric: str) -> str:
    return stats.show_with_half(float(row[metric]), float(row[f"{metric}_half_width"]), metric)


def _cell(text: str) -> str:
    """Text that keeps its meaning in a Markdown table and in a page made of it."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\|*`\[\]<>$&~]|(?<!\w)_|_(?!\w))", r"\\\1", clean)
