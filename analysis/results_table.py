"""The results table, in Markdown for reading and in CSV for going on: one row for each variant, mean and half-width over its seeds."""

import re

import pandas as pd

from analysis import stats, winners
from analysis.load import STATUSES, Study

NAME = "results"
METRICS = ("last_train_loss", "val_acc", "test_acc")
"""The columns of the hand-made tables; the study's own metric joins them where it is another one."""
_HEADS = {"last_train_loss": "last training loss"}


def table(study: Study) -> pd.DataFrame:
    """The numbers, in the grid's order.

    Returns:
        variant, one `param_<name>` for each compared parameter (the values of a variant that has several joined by ", "), then for each
        metric `<metric>` (mean), `<metric>_half_width` (t, 95 %; empty below 3 seeds), `<metric>_n`; and the trials by status. Shares are
        fractions. Of a searched study the tuned parameters too, of the config that stands for the variant, and that config's number
        (`config`), how many there are (`configs`), and what the search said of it (`search_value`, `search_n`).

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
            part = stats.by_variant(done, metric, variants=study.variants)
            out[metric], out[f"{metric}_half_width"], out[f"{metric}_n"] = part["mean"], part["half_width"], part["n"]
    if study.search is not None:
        rows = [study.search.chosen(v) for v in study.variants]
        out["config"] = pd.array([None if row is None else row["config"] for row in rows], dtype="Int64")
        out["configs"] = [int((study.search.configs["variant"] == v).sum()) for v in study.variants]
        out["search_value"] = [None if row is None else row["value"] for row in rows]
        out["search_n"] = pd.array([None if row is None else row["n"] for row in rows], dtype="Int64")
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


def _value(value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    if hasattr(value, "item"):
        value = value.item()
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def markdown(data: pd.DataFrame, study: Study) -> str:
    """The table as Markdown with what its ± is, and the sentences about the comparison."""
    params = [c for c in data.columns if c.startswith("param_")]
    metrics = [c.removesuffix("_half_width") for c in data.columns if c.endswith("_half_width")]
    told = [s for s in list(data.columns)[list(data.columns).index("done"):] if (data[s] > 0).any()]
    several = {int(n) for m in metrics for n in data[f"{m}_n"]}
    heads = ["variant", *(p.removeprefix("param_") for p in params), *(_head(m) for m in metrics), "n"]
    heads += ["trials"] if told != ["done"] else []
    body = []
    for _, row in data.iterrows():
        cells = [str(row["variant"]), *(_value(row[p]) for p in params), *(_mean(row, m) for m in metrics)]
        cells.append("/".join(dict.fromkeys(str(int(row[f"{m}_n"])) for m in metrics)) or "0")
        if told != ["done"]:
            cells.append(", ".join(f"{int(row[s])} {s}" for s in told if row[s]))
        body.append([_cell(c) for c in cells])
    left = 1 + len(params)
    rule = ["---" if i < left or h == "trials" else "---:" for i, h in enumerate(heads)]
    lines = [f"| {' | '.join(cells)} |" for cells in ([_cell(h) for h in heads], rule, *body)]
    spread = f"± is the half-width of the Student t 95 % interval of the mean over n seeds; there is none below {stats.MIN_N} seeds."
    if max(several, default=0) < stats.MIN_N:
        spread = f"Means over n seeds, without an interval: that takes at least {stats.MIN_N}." if max(several, default=0) > 1 else (
            f"Single runs (n = 1), without an interval: that takes at least {stats.MIN_N} seeds.")
    text = study.selection()
    column, mode = study.headline()
    verdicts = stats.verdicts(study.done(), column, mode=mode, variants=study.variants, reference=study.reference,
                              ended=stats.endings(study.trials))
    if study.search is not None:
        verdicts += winners.sentences(study.search, study.metric, mode=study.mode, variants=study.variants)
        text = "".join(f"{note}. " for note in (study.standing(), study.openings()) if note) + f"{text[0].upper()}{text[1:]}"
    warning = [f"**{_cell(study.warning())}**", ""] if study.warning() else []
    return "\n".join([f"# {_cell(study.name)}", "", *warning, *lines, "", spread + f" {text[0].upper()}{text[1:]}; "
                      f"the last training loss is that of the last epoch. {study.counts()[0].upper()}{study.counts()[1:]}.", "",
                      *(f"- {_cell(v)}." for v in verdicts), ""])


def _head(metric: str) -> str:
    return _HEADS.get(metric) or stats.words(metric) + (" (%)" if stats.is_share(metric) else "")


def _mean(row: "pd.Series[float]", metric: str) -> str:
    return stats.show_with_half(float(row[metric]), float(row[f"{metric}_half_width"]), metric)


def _cell(text: str) -> str:
    """Text that keeps its meaning in a Markdown table and in a page made of it."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\|*`\[\]<>$])", r"\\\1", clean)
