"""A study's tables as CSV files: trials.csv, epochs.csv and attempts.csv, UTF-8, one row for each row of the Parquet tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.exporters.runs import Outcome, replace
from analysis.load import Study


def export(study: Study, out: Path) -> Outcome:
    """Writes the three files whole, each renamed into place; a file that would be the same stays as it is. A table that the study does
    not have gives no file.

    Raises:
        OSError: they cannot be written.
    """
    outcome = Outcome(path=out, look=f"a spreadsheet, or pandas.read_csv({str(out / 'trials.csv')!r})", of="file")
    for name, table in (("trials", study.all_trials), ("epochs", study.epochs), ("attempts", study.attempts)):
        path = out / f"{name}.csv"
        if table.empty:
            path.unlink(missing_ok=True)
            continue
        data = _plain(table).to_csv(index=False, lineterminator="\n", na_rep="").encode()
        if outcome.count(path.read_bytes() if path.exists() else None, data):
            replace(path, data)
    return outcome


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table with lists as JSON and times in ISO 8601."""
    def text(value: object) -> object:
        return json.dumps([float(v) for v in value]) if isinstance(value, (list, np.ndarray)) else value

    columns = {}
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            columns[name] = column.map(pd.Timestamp.isoformat, na_action="ignore")
        else:
            columns[name] = column.map(text) if column.dtype == object else column
    return pd.DataFrame(columns)
