"""Results that are not ours: a table of any tool, CSV, Parquet or JSON lines, one row for each run (or for each epoch of one), as a study.

Columns are found by their names, with or without the prefixes under which other tools export them (`param_`, `params_`, `config/`, …).
Parameters that are compared make the variants; those that are not are what was searched, so that the figures of a search are drawn of them.
pandas is imported inside functions, so that a misspelt name is answered at once.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.load import ATTEMPT_COLUMNS, AnalysisError, Study, metric_mode, nearest, study_of

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
PREFIXES = ("param_", "params_", "params.", "config/", "config.", "hparam/", "hp/", "user_attrs_", "metrics.", "values_")
"""What other tools put before a name; Optuna, MLflow, Ray and TensorBoard among them."""
_SEED, _STATUS = ("seed", "random_seed"), ("status", "state")
_EPOCH, _TRIAL, _VARIANT = ("epoch",), ("trial_id", "run_id", "trial", "run", "number", "id"), ("variant",)
_ENDED = {"done": ("done", "complete", "completed", "finished", "ok", "success", "succeeded", "terminated"),
          "pruned": ("pruned", "stopped"), "infeasible": ("infeasible", "diverged", "nan"),
          "failed": ("failed", "fail", "error", "errored", "crashed", "killed"), "lost": ("lost",),
          "unfinished": ("unfinished", "running", "waiting", "pending", "scheduled", "queued")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the command line says of a table."""

    metric: str | None = None
    mode: str | None = None
    params: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()


def is_table(word: str | None) -> bool:
    """Whether a word of the command line is the file of a table that is not ours."""
    if word is None or not word.lower().endswith(KINDS) or not Path(word).is_file():
        return False
    return not (word.lower().endswith(".parquet") and _ours(Path(word)))


def _ours(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return b"harness" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def read(path: Path, asked: Asked) -> Study:
    """The table as a study: variants of what is compared, a search over the other parameters.

    A row without a seed is a run of its own, paired with none; one without a status is done where its metric is a finite number and failed
    where it is not. Of several rows with epochs of one run the best by the metric is its result. Accuracies above 1 are taken as percent.

    Raises:
        AnalysisError: the file cannot be read, has no rows, or lacks a column that was asked for; the text names the nearest.
    """
    frame = _frame(path)
    columns = [str(c) for c in frame.columns]
    metric = _metric(path, frame, asked.metric)
    seed, status, epoch, trial, variant = (_first(columns, names) for names in (_SEED, _STATUS, _EPOCH, _TRIAL, _VARIANT))
    used = {metric, seed, status, epoch, trial, variant}
    params = {_plain(c): c for c in (_column(path, name, columns) for name in (*asked.compare, *asked.params))}
    if not params:
        params = {_plain(c): c for c in columns if c.startswith(PREFIXES[:7]) and c not in used}
    if not params:
        raise AnalysisError(f"{path}: which columns are parameters? `--params A,B` names them "
                            f"(there are: {', '.join(c for c in columns if c not in used)[:500]})")
    if metric in params.values():
        raise AnalysisError(f"{path}: {metric} is the metric, so it cannot be a parameter too")
    mode = asked.mode or metric_mode(_plain(metric))
    rows = _rows(path, frame, params, metric=metric, seed=seed, status=status, trial=trial)
    compared = tuple(_plain(_column(path, name, columns)) for name in asked.compare)
    rows["variant"] = _variants(frame, rows, compared, variant, path.stem)
    if epoch is not None:
        rows["epoch"] = _numbers(path, frame, epoch)
    return _study(path, rows, tuple(params), compared, metric=_plain(metric), mode=mode)


def _frame(path: Path) -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa

    try:
        kind = path.suffix.lower()
        if kind == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(path) as parquet:
                frame = parquet.read().to_pandas()
        elif kind in (".jsonl", ".ndjson", ".json"):
            text = path.read_text(encoding="utf-8-sig")
            lines = [line for line in text.splitlines() if line.strip()]
            records = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
            if not all(isinstance(record, dict) for record in records):
                raise ValueError("a row of it is no object")
            frame = pd.json_normalize(records, sep=".")
        else:
            with path.open(encoding="utf-8-sig") as file:
                head = file.readline()
            separator = "\t" if kind == ".tsv" else max(",;\t", key=head.count)
            frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig", low_memory=False, skipinitialspace=True)
    except (ValueError, pa.ArrowException, RecursionError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AnalysisError(f"{path} cannot be read as a table: {reason}") from error
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    if frame.empty:
        raise AnalysisError(f"{path} has no rows")
    if twice := sorted({c for c in frame.columns if list(frame.columns).count(c) > 1}):
        raise AnalysisError(f"{path} has several columns called {', '.join(twice)[:200]}")
    out: pd.DataFrame = frame.reset_index(drop=True)
    return out


def _plain(column: str) -> str:
    """A column's name without the prefix of another tool."""
    return next((column.removeprefix(p) for p in PREFIXES if column.startswith(p) and len(column) > len(p)), column)


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    return next((c for name in names for c in columns if c.lower() == name), None)


def _column(path: Path, name: str, columns: Sequence[str]) -> str:
    """The column of this name, with a prefix or without.

    Raises:
        AnalysisError: there is none.
    """
    for column in (name, *(c for c in columns if _plain(c) == name)):
        if column in columns:
            return column
    raise AnalysisError(f"{path} has no column `{name}`{nearest(name, [_plain(c) for c in columns])}")


def _metric(path: Path, frame: "pd.DataFrame", asked: str | None) -> str:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    numeric = [str(c) for c in frame.columns if is_numeric_dtype(frame[c]) and not is_bool_dtype(frame[c])]
    if asked is None:
        if "val_acc" in numeric:
            return "val_acc"
        raise AnalysisError(f"{path}: which column says how good a run is? `--metric NAME` names it "
                            f"(columns of numbers: {', '.join(numeric)[:500] or 'none'})")
    column = next((c for c in numeric if asked in (c, _plain(c))), None)
    if column is None:
        if asked in frame:
            raise AnalysisError(f"{path}: the metric {asked} holds more than numbers, such as {str(frame[asked].iloc[0])[:40]!r}; "
                                f"columns of numbers are {', '.join(numeric)[:500] or 'none'}")
        raise AnalysisError(f"{path} has no metric `{asked}`{nearest(asked, numeric)}")
    return column


def _numbers(path: Path, frame: "pd.DataFrame", column: str) -> "pd.Series[int]":
    """A column of whole numbers.

    Raises:
        AnalysisError: it holds something else.
    """
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").astype(float)
    if not ((values % 1) == 0).all():
        row = int((~((values % 1) == 0)).to_numpy().argmax())
        raise AnalysisError(f"{path}: column {column} is to hold whole numbers, not {str(frame[column].iloc[row])[:40]!r} (row {row + 1})")
    return values.astype("int64")


def _rows(path: Path, frame: "pd.DataFrame", params: dict[str, str], *, metric: str, seed: str | None, status: str | None,
          trial: str | None) -> "pd.DataFrame":
    """One row for each row of the file, in the names of our tables, all columns of numbers that are no parameters among them."""
    import numpy as np
    import pandas as pd

    values = frame[metric].to_numpy(dtype=float, na_value=math.nan)
    percent = metric.endswith(("acc", "accuracy")) and bool((np.abs(values[np.isfinite(values)]) > 1.5).any())
    rows = pd.DataFrame({"study": path.stem, "trial": frame[trial].astype(str) if trial else None}, index=frame.index)
    rows["seed"] = _numbers(path, frame, seed) if seed else np.arange(len(frame))
    rows["seeded"] = seed is not None
    words = {word: ours for ours, theirs in _ENDED.items() for word in theirs}
    said = pd.Series("done", index=frame.index) if status is None else frame[status].astype(str).str.lower().str.rpartition(".")[2]
    said = said.map(lambda word: words.get(word, "failed"))
    rows["status"] = said.where((said != "done") | np.isfinite(values), "failed" if status is None else "infeasible")
    for name, column in params.items():
        rows[f"param_{name}"] = _parameter(path, frame[column])
    numeric = frame.select_dtypes("number").drop(columns=[c for c in (*params.values(), seed, trial) if c in frame], errors="ignore")
    for found in numeric:
        name = _plain(str(found))
        if name not in rows and name not in ("epoch", "config", "variant", "budget", "wave", "phase", "test_opening"):
            rows[name] = numeric[found].to_numpy(dtype=float, na_value=math.nan) / (100 if percent and name.endswith("acc") else 1)
    return rows


def _parameter(path: Path, values: "pd.Series[Any]") -> "pd.Series[Any]":
    """A parameter's values: numbers, truth values or text; lists and mixtures as text.

    Raises:
        AnalysisError: a number is not finite.
    """
    import numpy as np
    import pandas as pd
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if is_bool_dtype(values):
        return values.astype("boolean")
    if is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=math.nan)
        if np.isinf(numbers).any():
            raise AnalysisError(f"{path}: parameter {values.name} is infinite in row {int(np.isinf(numbers).argmax()) + 1}")
        whole = np.isfinite(numbers).any() and not (numbers[np.isfinite(numbers)] % 1).any() and np.nanmax(np.abs(numbers)) < 2**53
        return pd.Series(numbers, index=values.index).astype("Int64") if whole else pd.Series(numbers, index=values.index)
    kinds = {type(v) for v in values.dropna()}
    if kinds <= {bool, np.bool_}:
        return values.astype("boolean")
    return values.map(lambda v: str(v), na_action="ignore").astype(object)


def _variants(frame: "pd.DataFrame", rows: "pd.DataFrame", compared: Sequence[str], column: str | None, name: str) -> "pd.Series[str]":
    import pandas as pd

    if compared:
        parts = [f"{c}=" + rows[f"param_{c}"].map(_text) for c in compared]
        return pd.concat(parts, axis=1).agg(" ".join, axis=1)
    return frame[column].astype(str) if column else pd.Series(name, index=frame.index)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _study(path: Path, rows: "pd.DataFrame", params: Sequence[str], compared: Sequence[str], *, metric: str, mode: str) -> Study:
    """Rows as trials and epochs, and these as a study."""
    import pandas as pd

    columns = [f"param_{p}" for p in params]
    by_variant = rows.groupby("variant")[columns].nunique(dropna=False).le(1).all()
    compared = list(compared) or [p for p in params if by_variant[f"param_{p}"] and rows[f"param_{p}"].nunique(dropna=False) > 1]
    tuned = [p for p in params if p not in compared]
    rows["config"] = 0
    if tuned:
        keys = rows.groupby([f"param_{p}" for p in tuned], dropna=False, sort=False).ngroup()
        rows["config"] = keys.groupby(rows["variant"]).transform(lambda k: pd.factorize(k)[0])
    searched = bool(tuned) and rows["config"].max() > 0
    epochs = pd.DataFrame(columns=["trial_id", "epoch"])
    own = ["variant", "config", "seed"]
    if "epoch" in rows:
        rows, epochs = _selected(path, rows, metric, mode)
    elif rows["seeded"].all() and rows.duplicated(own).any():
        if not searched and not rows["trial"].notna().all():
            row = rows[rows.duplicated(own)].iloc[0]
            raise AnalysisError(f"{path}: several rows are of variant \"{row['variant']}\" and seed {row['seed']}; --params names what "
                                "else differs between them, or a column `epoch` tells them apart")
        rows["seed"] = range(len(rows))  # the same config drawn twice
    rows["trial_id"] = [f"{i:06d}" if t is None else str(t) for i, t in enumerate(rows["trial"])]
    if rows["trial_id"].duplicated().any():
        rows["trial_id"] = [f"{i:06d}" for i in range(len(rows))] if epochs.empty else rows["trial_id"]
    trials = rows.drop(columns=["trial", "seeded"]).assign(wave=0, phase="search" if searched else "compare", budget=None)
    trials = trials.assign(**{name: None for name in ("epoch", "epochs") if name not in trials})
    trials = trials.astype({"seed": "Int64", "wave": "Int64", "config": "Int64", "budget": "Int64", "epoch": "Int64", "epochs": "Int64"})
    space = [{"name": p, "log": _log(trials[f"param_{p}"]), "choices": _choices(trials[f"param_{p}"])} for p in tuned]
    about = {"study": path.stem, "metric": metric, "mode": mode, "compared": compared, "foreign": True, "tuned": space if searched else []}
    return study_of(path.parent, trials.reset_index(drop=True), about, epochs=epochs, attempts=pd.DataFrame(columns=list(ATTEMPT_COLUMNS)))


def _selected(path: Path, rows: "pd.DataFrame", metric: str, mode: str) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The best row of each run, by the metric, and all rows as epochs."""
    import pandas as pd

    if rows["trial"].isna().all():
        keys = ["variant", "config", *(["seed"] if rows["seeded"].all() else [])]
        rows["trial"] = rows.groupby(keys, sort=False).ngroup().map("{:06d}".format)
    if not rows["seeded"].all():
        rows["seed"] = pd.factorize(rows["trial"])[0]
    if rows.duplicated(["trial", "epoch"]).any():
        row = rows[rows.duplicated(["trial", "epoch"])].iloc[0]
        raise AnalysisError(f"{path}: several rows are of epoch {row['epoch']} of one run; a column `seed` or `trial_id` is to tell runs "
                            "apart")
    counts = rows.groupby("trial")["epoch"].size()
    order = rows.assign(known=rows[metric].notna()).sort_values(["known", metric], ascending=[False, mode == "min"], kind="stable")
    best = order.drop_duplicates("trial").sort_index()
    ended = rows.sort_values("epoch", kind="stable").drop_duplicates("trial", keep="last").set_index("trial")["status"]
    best = best.drop(columns="known").assign(epochs=best["trial"].map(counts), status=best["trial"].map(ended))
    numbers = [c for c in rows.columns if c not in ("study", "trial", "seed", "seeded", "status", "variant", "config", "epoch")
               and not c.startswith("param_")]
    return best, rows.rename(columns={"trial": "trial_id"})[["trial_id", "epoch", *numbers]].reset_index(drop=True)


def _choices(values: "pd.Series[Any]") -> list[object]:
    """The values of a parameter that is no range: text, truth values, and up to 12 numbers."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    known = [v.item() if hasattr(v, "item") else v for v in values.dropna().unique()]
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return sorted(known) if len(known) <= 12 else []
    return known


def _log(values: "pd.Series[Any]") -> bool:
    """Whether a range belongs on a logarithmic axis."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    from analysis.parameters import LOG_RATIO

    if not is_numeric_dtype(values) or is_bool_dtype(values):
        return False
    numbers = values.dropna().astype(float)
    return bool(len(numbers) and numbers.min() > 0 and numbers.max() / numbers.min() >= LOG_RATIO)
