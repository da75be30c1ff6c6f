"""The Parquet tables, compacted from the small files of the trials; they can be rebuilt at any time.

`trials`, `epochs` and `predictions` hold configuration and metrics only, so they are byte-identical however often things died on the way;
`attempts` holds what happened: hosts, times, causes, memory. Each has one explicit schema, derived from the grid, and page checksums,
because without them most flipped bits are read back as wrong numbers. docs/study-folder.md describes them column by column.
"""

import datetime
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness import files
from harness.events import began, members
from harness.grid import Grid, Tuned
from harness.plan import PlannedTrial
from harness.store import Store
from jobs.config import METRICS, PARAMETERS, TEST_METRICS, Config
from jobs.datasets import spec
from jobs.predictions import Predictions, load

SCHEMA_VERSION = 1
BLOCK = 1000
"""Trials that are read together: as columns they take a tenth of the memory."""
_TYPES: dict[object, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
_TIME = pa.timestamp("us", tz="UTC")

_ATTEMPTS = pa.schema([
    ("trial_id", pa.string()), ("attempt", pa.int64()), ("cause", pa.string()), ("error", pa.string()),
    ("queued", _TIME), ("started", _TIME), ("ended", _TIME),
    ("host", pa.string()), ("pid", pa.int64()), ("worker", pa.string()), ("job_id", pa.string()),
    ("device", pa.string()), ("gpu", pa.string()), ("gpus", pa.float64()), ("ranks", pa.int64()),
    ("accumulate", pa.int64()), ("fused", pa.int64()),
    ("first_epoch", pa.int64()), ("last_epoch", pa.int64()), ("train_s", pa.float64()), ("images_per_s", pa.float64()),
    ("data_wait", pa.float64()), ("peak_memory_gb", pa.float64()), ("epoch_s", pa.list_(pa.float64())), ("test_opened", _TIME),
    ("commit", pa.string()), ("dirty", pa.bool_()), ("code", pa.string()), ("python", pa.string()), ("torch", pa.string())])

_PREDICTIONS = pa.schema([("trial_id", pa.string()), ("image", pa.int32()), ("label", pa.int32()), ("predicted", pa.int32())])

_OF_START = ("host", "pid", "worker", "job_id", "device", "gpus", "ranks", "commit", "dirty", "code", "python", "torch")
"""Columns of attempts that the attempt's first event holds."""


class Tables:
    """The tables of a study while it is launched. They are written again and again, so blocks of trials that have ended are kept."""

    def __init__(self, store: Store, grid: Grid, trials: list[PlannedTrial]):
        self.store, self.grid, self.trials = store, grid, trials
        metrics = metric_names(grid)
        epochs = pa.schema([("trial_id", pa.string()), ("epoch", pa.int64()), *((name, pa.float64()) for name in metrics)])
        self._schemas = {"trials": _trials_schema(grid), "epochs": epochs, "attempts": _ATTEMPTS}
        self._about = {b"harness": json.dumps(_metadata(grid, self.trials), sort_keys=True).encode()}
        self._kept: dict[int, dict[str, pa.Table]] = {}
        self._written = self._schemas["trials"].empty_table()
        """trials.parquet as last written."""

    def write(self, *, living: frozenset[str] = frozenset(), states: dict[str, str] | None = None) -> None:
        """Writes trials, epochs and attempts.parquet from what is on disk.

        Args:
            living: workers that are alive; an unfinished attempt of another worker is lost.
            states: trial -> status, for trials without a result ("failed", "lost"); others are "unfinished".
        """
        blocks = [self._kept.get(first) or self._read(first, living, states or {}) for first in range(0, len(self.trials) or 1, BLOCK)]
        for name in self._schemas:  # in one piece, so that the bytes do not depend on the blocks
            whole = pa.concat_tables([block[name] for block in blocks]).combine_chunks()
            self._written = whole if name == "trials" else self._written
            _write(self.store, name, whole.replace_schema_metadata(self._about))

    def write_predictions(self) -> None:
        """Writes predictions.parquet: what each tested trial of the tables just written said of each test image. Left out is one whose
        file is not there, is damaged, or is not of the evaluation that gave its `test_acc`; without any there is no table.

        Nothing is read or written when the table that is there is of the same results.
        """
        columns = (self._written[name].to_pylist() for name in ("trial_id", "test_opening", "test_acc"))
        tested = {trial: [trial, opening, accuracy] for trial, opening, accuracy in zip(*columns, strict=True) if accuracy is not None}
        path = self.store.table_file("predictions")
        if tested and _made_of(path) == _digest([*tested.values()]):
            return
        loaded = {trial: load(self.store.trial_folder(trial)) for trial in tested}
        found = {trial: one for trial, one in loaded.items() if one and one.accuracy == tested[trial][2]}
        if not found:
            path.unlink(missing_ok=True)
            return
        names = {one.class_names for one in found.values()}
        about = {**json.loads(self._about[b"harness"]), "made_of": _digest([tested[trial] for trial in found]),
                 "class_names": list(names.pop()) if len(names) == 1 else []}
        whole = _predictions(found).replace_schema_metadata({b"harness": json.dumps(about, sort_keys=True).encode()})
        # images are numbered upwards: as differences they take next to no room
        _write(self.store, "predictions", whole, use_dictionary=["trial_id", "label", "predicted"],
               column_encoding={"image": "DELTA_BINARY_PACKED"})

    def _read(self, first: int, living: frozenset[str], states: dict[str, str]) -> dict[str, pa.Table]:
        """The rows of one block of trials."""
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self._schemas}
        columns, over = self._schemas["epochs"].names[1:], True
        for trial in self.trials[first:first + BLOCK]:
            result = self.store.result(trial.id, budget=trial.budget)
            rows["trials"].append(_trial_row(self.grid, trial, result, states.get(trial.id, "unfinished"), self._tested(trial)))
            curve = (result or {}).get("rows", [])
            rows["epochs"] += [{"trial_id": trial.id, **{name: row.get(name) for name in columns}} for row in curve]
            attempts = [_attempt_row(trial.id, number, events, living) for number, events in enumerate(self.store.attempts(trial.id))]
            rows["attempts"] += attempts
            over = over and result is not None and bool(attempts) and attempts[-1]["cause"] == result["status"]  # its last word is there
            over = over and trial.phase == "compare"  # in a search more may be granted to it, and the test split opened
        block = {name: pa.Table.from_pylist(rows[name], schema) for name, schema in self._schemas.items()}
        if over:
            self._kept[first] = block
        return block

    def _tested(self, trial: PlannedTrial) -> dict[str, Any]:
        """What the last opening of the test split gave for a trial, where there was one."""
        for opening in range(trial.opening, 0, -1):
            if (metrics := self.store.test(trial.id, opening)) is not None:
                return {**metrics, "test_opening": opening}
        return {}


def compact(store: Store, grid: Grid, *, living: frozenset[str] = frozenset(), states: dict[str, str] | None = None) -> None:
    """Writes the tables once; see `Tables.write`."""
    made = Tables(store, grid, store.trials())
    made.write(living=living, states=states)
    made.write_predictions()


def metric_names(grid: Grid) -> tuple[str, ...]:
    """What the grid's job reports after each epoch."""
    return tuple(grid.job.metrics) if grid.job else METRICS


def parameter_types(grid: Grid) -> dict[str, pa.DataType]:
    """The parameters of the grid's trials with their column types."""
    if grid.job is None:
        return {name: _TYPES[field.type] for name, field in PARAMETERS.items()}
    values: dict[str, Any] = {name: value for variant in grid.variants for name, value in grid.config_values(variant).items()}
    kinds = {name: _TYPES[type(value)] for name, value in values.items()} | {
        tuned.name: _TYPES[{"int": int, "float": float, "str": str, "bool": bool}[tuned.kind]] for tuned in grid.tune or ()}
    return dict(sorted(kinds.items()))


def _trials_schema(grid: Grid) -> pa.Schema:
    metrics = metric_names(grid)
    return pa.schema([
        ("study", pa.string()), ("trial_id", pa.string()), ("variant", pa.string()), ("seed", pa.int64()), ("wave", pa.int64()),
        ("phase", pa.string()), ("config", pa.int64()), ("budget", pa.int64()),
        ("status", pa.string()), ("reason", pa.string()),
        *((f"param_{name}", kind) for name, kind in parameter_types(grid).items()),
        ("epoch", pa.int64()), ("epochs", pa.int64()), *((name, pa.float64()) for name in metrics),
        *((("last_train_loss", pa.float64()),) if "train_loss" in metrics else ()),
        *((name, pa.float64()) for name in TEST_METRICS if name not in metrics), ("test_opening", pa.int64())])


def _trial_row(grid: Grid, trial: PlannedTrial, result: dict[str, Any] | None, status: str, tested: dict[str, Any]) -> dict[str, Any]:
    inactive = Config.from_dict(trial.config).inactive() if grid.job is None else frozenset()
    row: dict[str, Any] = {"study": grid.name, "trial_id": trial.id, "variant": trial.variant, "seed": trial.seed, "wave": trial.wave,
                           "phase": trial.phase, "config": trial.number, "budget": trial.budget, "status": status}
    row |= {f"param_{name}": value for name, value in trial.config.items() if name not in inactive}
    row |= tested
    if result is not None:
        curve = result["rows"]
        row |= {"status": result["status"], "reason": result["reason"], "epoch": result["epoch"], "epochs": len(curve), **result["test"]}
        if result["epoch"]:
            row |= {name: curve[result["epoch"] - 1].get(name) for name in metric_names(grid)}
        if curve:
            row["last_train_loss"] = curve[-1].get("train_loss")
    return row


def _attempt_row(trial_id: str, number: int, events: list[dict[str, Any]], living: frozenset[str]) -> dict[str, Any]:
    start = next((e for e in events if e["event"] == "start"), {})
    end = next((e for e in events if e["event"] == "end"), {})
    opened = next((e for e in events if e["event"] == "test"), {})
    epochs = [e for e in events if e["event"] == "epoch"]
    seconds = [e["seconds"] for e in epochs if "seconds" in e]
    return {"trial_id": trial_id, "attempt": number, "error": end.get("error"),
            "cause": end.get("cause") or ("running" if start.get("worker") in living else "lost"),
            "queued": _moment(start.get("queued")), "started": _moment(began(events)), "ended": _moment(end.get("time")),
            **{name: start.get(name) for name in _OF_START}, "accumulate": start.get("accumulate", 1), "fused": members(events),
            "first_epoch": min((e["epoch"] for e in epochs), default=None), "last_epoch": max((e["epoch"] for e in epochs), default=None),
            "train_s": sum(seconds), **{name: _middle(e[name] for e in epochs if name in e) for name in ("images_per_s", "data_wait")},
            "peak_memory_gb": max((e["peak_memory_gb"] for e in epochs if "peak_memory_gb" in e), default=None),
            "gpu": epochs[-1].get("gpu") if epochs else None, "epoch_s": seconds, "test_opened": _moment(opened.get("time"))}


def _predictions(found: dict[str, Predictions]) -> pa.Table:
    """The rows of the trials, one after the other."""
    ids = pa.chunked_array([pa.repeat(trial, len(one.images)) for trial, one in found.items()])
    columns = [pa.chunked_array([getattr(one, name) for one in found.values()]) for name in ("images", "labels", "predicted")]
    return pa.Table.from_arrays([ids, *columns], schema=_PREDICTIONS)


def _made_of(path: Path) -> str | None:
    """The digest of the results that the predictions there belong to; None where there are none, or they cannot be read."""
    try:
        return str(json.loads(pq.read_schema(path).metadata[b"harness"])["made_of"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _middle(values: Iterable[float]) -> float | None:
    """The median, of two the larger; None of none."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _moment(seconds: float | None) -> datetime.datetime | None:
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _metadata(grid: Grid, trials: list[PlannedTrial]) -> dict[str, Any]:
    """What a reader must know to draw the tables without the grid."""
    chances = {_chance(trial) for trial in trials} if grid.job is None else set()
    return {"schema": SCHEMA_VERSION, "grid": _digest(grid.identity()), "study": grid.name, "metric": grid.metric, "mode": grid.mode,
            "select": grid.select, "seeds": list(grid.seeds), "variants": [variant.name for variant in grid.variants],
            "reference": grid.reference, "compared": list(grid.compared), "chance": chances.pop() if len(chances) == 1 else None,
            **({"tuned": _tuned(grid.tune)} if grid.tune else {})}


def _tuned(tune: Iterable[Tuned]) -> list[dict[str, Any]]:
    """What is tuned, by name: whether on a logarithmic scale, and the choices (none for a range). What is tuned in several ways, under
    different conditions, is logarithmic when all of them are, and has the choices of all."""
    ways: dict[str, list[Tuned]] = {}
    for tuned in tune:
        ways.setdefault(tuned.name, []).append(tuned)
    return [{"name": name, "log": all(t.log for t in some),
             "choices": list(dict.fromkeys(c for t in some for c in t.choices)) if all(t.choices for t in some) else []}
            for name, some in ways.items()]


def _chance(trial: PlannedTrial) -> float | None:
    """Accuracy of guessing, all classes being alike: one over the number of classes kept; None where only a user's own folder says how
    many there are."""
    from jobs.config import parse_classes

    classes = len(parse_classes(trial.config["classes"])) or spec(trial.config["dataset"]).classes
    return 1 / classes if classes else None


def _write(store: Store, name: str, table: pa.Table, **encoding: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, **encoding)
    files.replace(store.table_file(name), buffer.getvalue(), step=f"table.{name}")
