"""What every exporter is given: each trial that has ended as one run, and names that the other tools accept.

Pure, but for `replace`, which writes a file, and `environment`.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import cost
from analysis.load import AnalysisError, NotForThisStudy, Study, plural

VERSION = 1
"""Part of every digest: a higher number makes the next export write all runs again."""
NOT_METRICS = ("study", "trial_id", "variant", "seed", "wave", "phase", "config", "budget", "status", "reason", "epoch", "epochs",
               "test_opening")
"""Columns of the trials that are neither parameters nor measured."""
FACTS = ("host", "job_id", "device", "gpu", "ranks", "commit", "dirty", "code", "python", "torch")
"""Columns of the attempts that become tags; those of the last attempt."""
ENDED_WELL = ("done", "pruned")
Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What was measured after one epoch."""

    number: int
    time: float
    """When it was over, in seconds since 1970; without attempts, which know the time, the epoch's number."""
    metrics: dict[str, float]
    """NaN and infinities as they are; without what the trial never had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One trial that has ended, as the other tools call it."""

    id: str
    """The trial's name, `trial_id`."""
    name: str
    variant: str
    """The first that the trial belongs to; two variants may have a trial in common."""
    seed: int
    status: str
    params: dict[str, Value]
    """Without those that the config does not read."""
    epoch: int
    """The selected one; 0 where there is none."""
    values: dict[str, float]
    """One number each: `selected/METRIC` of the selected epoch, test metrics, and what the trial cost. No NaN."""
    epochs: tuple[Epoch, ...]
    tags: dict[str, str]
    """What is neither a parameter nor a number: how it ended, and of its last attempt where it ran."""
    started: float
    ended: float
    """Seconds since 1970."""

    def digest(self) -> str:
        """The same for the same content."""
        return hashlib.sha256(f"{VERSION} {self!r}".encode()).hexdigest()[:16]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What an export did."""

    path: Path
    look: str
    """The command that opens it."""
    of: str = "trial"
    """What is counted."""
    new: int = 0
    changed: int = 0
    kept: int = 0

    def count(self, known: object, wanted: object) -> bool:
        """Counts one of which `known` (None: nothing) is there; returns whether it is to be written."""
        self.new += known is None
        self.changed += known is not None and known != wanted
        self.kept += known == wanted
        return known != wanted


def runs(study: Study) -> list[Run]:
    """All trials of a study that have ended, those of a search too, each once, in the order of the table.

    Raises:
        AnalysisError: none has ended.
    """
    trials = study.all_trials
    ended = trials[trials["status"] != "unfinished"]
    if ended.empty:
        raise AnalysisError(f"{study.name}: none of its {plural(len(trials), 'trial')} has ended, so there is nothing to export; "
                            "`python -m harness.launch GRID` goes on with it")
    params = {c.removeprefix("param_"): _values(ended[c]) for c in ended.columns if c.startswith("param_")}
    measured = {_value_name(c): _numbers(ended[c]) for c in ended.columns
                if not c.startswith("param_") and c not in NOT_METRICS and pd.api.types.is_numeric_dtype(ended[c])}
    about = {c: _values(ended[c]) for c in NOT_METRICS if c in ended.columns}
    costs = _costs(study)
    curves, attempts = _Curves(study), _Attempts(study)
    variants: dict[str, list[str]] = {}
    for trial, variant in zip(about["trial_id"], about["variant"], strict=True):
        variants.setdefault(str(trial), []).append(str(variant))
    found: dict[str, Run] = {}
    for i, trial in enumerate(map(str, about["trial_id"])):
        if trial in found:
            continue
        of = attempts.of(trial)
        epochs = tuple(curves.of(trial, of))
        begin = of[0]["started"] if of else 0.0
        facts = {name: text for name, values in about.items() if (text := _text(values[i])) and name != "trial_id"}
        facts |= {"trial_id": trial, **_facts(of)}
        if len(others := list(dict.fromkeys(variants[trial]))) > 1:
            facts["other_variants"] = ", ".join(others[1:])
        numbers = {name: float(column[i]) for name, column in measured.items()} | costs.get(trial, {})
        found[trial] = Run(
            id=trial, name=_name(about, i), variant=str(about["variant"][i]), seed=int(about["seed"][i] or 0),
            status=str(about["status"][i]), params={n: column[i] for n, column in params.items() if column[i] is not None},
            epoch=int(about["epoch"][i] or 0), values={n: v for n, v in numbers.items() if not math.isnan(v)}, epochs=epochs, tags=facts,
            started=begin, ended=max([begin, *(a["ended"] for a in of), *(e.time for e in epochs)]))
    return list(found.values())


def _name(about: dict[str, list[Any]], row: int) -> str:
    """What a run is called: its variant, in a search its config's number, and its seed."""
    config = f" c{about['config'][row]}" if "phase" in about and about["phase"][row] in ("search", "confirm") else ""
    return f"{about['variant'][row]}{config} s{about['seed'][row]}"


def _value_name(column: str) -> str:
    return column if column.startswith(("test_", "last_")) else f"selected/{column}"


def _values(column: "pd.Series[Any]") -> list[Any]:
    """A column as Python's own values, None where it is empty."""
    return [None if empty else value.item() if isinstance(value, np.generic) else value
            for value, empty in zip(column.astype(object), column.isna(), strict=True)]


def _numbers(column: "pd.Series[Any]") -> "np.ndarray[Any, np.dtype[np.float64]]":
    return column.to_numpy(dtype=float, na_value=math.nan)


def _text(value: Any) -> str:
    """A tag's text; "" for what is not known."""
    return "" if value is None or isinstance(value, float) and math.isnan(value) else str(value)


def _seconds(value: Any) -> float:
    return 0.0 if pd.isna(value) else float(pd.Timestamp(value).timestamp())


def _costs(study: Study) -> dict[str, dict[str, float]]:
    """Trial -> what it cost; nothing where no attempts are known."""
    try:
        table = cost.per_trial(study)
    except NotForThisStudy:
        return {}
    names = {"hours": cost.unit(study).lower().replace("-", "_"), "peak_memory_gb": "peak_memory_gb", "images_per_s": "images_per_s"}
    return {str(trial): {new: float(v) for new, v in zip(names.values(), row, strict=True)}
            for trial, *row in table[["trial_id", *names]].itertuples(index=False, name=None)}


def _facts(attempts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The tags that attempts give."""
    if not attempts:
        return {}
    known = {name: _text(None if pd.isna(value) else value) for name in FACTS if (value := attempts[-1].get(name)) is not None}
    return {"attempts": str(len(attempts)), "causes": ", ".join(_text(a["cause"]) for a in attempts),
            **{name: text for name, text in known.items() if text}}


class _Attempts:
    """The attempts by trial."""

    def __init__(self, study: Study):
        table = study.attempts
        needed = ("trial_id", "attempt", "cause", "started", "ended", "first_epoch", "last_epoch", "epoch_s", *FACTS)
        self._table = table[[c for c in needed if c in table.columns]]
        self._rows: Any = {} if table.empty else table.groupby("trial_id", sort=False).indices

    def of(self, trial: str) -> list[dict[str, Any]]:
        """Those of a trial in their order, times in seconds since 1970."""
        if trial not in self._rows:
            return []
        found: list[Any] = self._table.iloc[self._rows[trial]].sort_values("attempt").to_dict("records")
        return [{**one, "started": _seconds(one["started"]), "ended": _seconds(one["ended"])} for one in found]


class _Curves:
    """The epochs by trial."""

    def __init__(self, study: Study):
        table = study.epochs
        self._names = [c for c in table.columns if c not in ("trial_id", "epoch") and pd.api.types.is_numeric_dtype(table[c])]
        self._numbers = table[self._names].to_numpy(dtype=float, na_value=math.nan) if self._names else np.zeros((len(table), 0))
        self._epochs = table["epoch"].to_numpy()
        self._rows: Any = {} if table.empty else table.groupby("trial_id", sort=False).indices

    def of(self, trial: str, attempts: Sequence[dict[str, Any]]) -> Iterator[Epoch]:
        """The epochs of a trial in their order, each once."""
        if trial not in self._rows:
            return
        rows = self._rows[trial][np.argsort(self._epochs[self._rows[trial]].astype(int), kind="stable")]
        had = [(i, name) for i, name in enumerate(self._names) if not np.isnan(self._numbers[rows, i]).all()]
        times = _times(attempts)
        before, last = (attempts[0]["started"] if attempts else 0.0), 0
        for row in rows:
            number = int(self._epochs[row])
            if number == last:
                continue
            before, last = times.get(number, before if attempts else float(number)), number
            yield Epoch(number=number, time=before, metrics={name: float(self._numbers[row, i]) for i, name in had})


def _times(attempts: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Epoch -> when it was over: from the start of its attempt on, epoch after epoch; what came before the first is not known. Attempts
    that noted the time of some of their epochs only are left out."""
    found: dict[int, float] = {}
    for one in attempts:
        seconds, first = one.get("epoch_s"), one.get("first_epoch")
        if seconds is None or pd.isna(first) or len(seconds) != one["last_epoch"] - first + 1:
            continue
        found |= {int(first) + i: float(t) for i, t in enumerate(one["started"] + np.cumsum(np.asarray(seconds, dtype=float)))}
    return found


# ---------------------------------------------------------------------------------------------------------- what tools accept


def safe(name: str, allowed: str, longest: int) -> str:
    """A name made of what a tool allows. One that must change gets a few letters of its hash, so that different names stay different.

    Args:
        allowed: the characters, as within the brackets of a regular expression.
    """
    kept = re.sub(f"[^{allowed}]", "_", name)
    if kept == name and len(name) <= longest and name.strip(" ."):
        return name
    return f"{kept[:longest - 9].strip(' .') or '_'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def shown(text: str, longest: int) -> str:
    """A text for people: one line, nothing that a terminal or a page would act on, cut with "…" where it is too long."""
    line = "".join(c if c.isprintable() else " " for c in text).strip() or "_"
    return line if len(line) <= longest else line[:longest - 1] + "…"


def replace(path: Path, data: bytes) -> None:
    """Writes a file aside and renames it into place, so that a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    aside.write_bytes(data)
    aside.replace(path)


@contextmanager
def environment(drop: str, **values: str) -> Iterator[None]:
    """Sets environment variables for a while, without those whose names begin with `drop`: what a library does on its own (telemetry), or
    what a shell's settings would make of it, is decided while it is loaded."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith(drop)]:
        del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name not in before]:
            del os.environ[name]
        os.environ.update(before)
