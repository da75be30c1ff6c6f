"""The Parquet tables: one schema, honest types, made anew from the trial folders to the last byte."""

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import tables
from harness.grid import Grid, parse_grid
from harness.store import Store
from harness.trials import Planner
from harness.waves import Wave
from jobs.config import PARAMETERS

GRID = """
[study]
name = "made"
seeds = [0, 1]
[fixed]
lr = 1
[[variant]]
name = "sgd"
[[variant]]
name = "adam"
optimizer = "adam"
[[variant]]
name = "deep"
depth = 3
"""


def row(epoch: int, loss: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "train_loss": loss / 2, "train_acc": 0.5, "val_loss": loss, "val_acc": 1 - loss, "lr": 0.1}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Grid]:
    """A study of six trials: two done, one infeasible, one failed, one lost, one not begun."""
    grid = parse_grid(GRID)
    store = Store(tmp_path / "made")
    store.create_folders()
    trials = Planner(grid).trials()
    store.write_wave(Wave(trials=tuple(trials)))
    done, slow, diverged, failed, lost, _ = trials
    start = {"event": "start", "time": 1e9, "host": "n1", "pid": 5, "worker": "000-0", "job_id": "9", "device": "cpu", "ranks": 1,
             "commit": "c0", "dirty": False, "code": "d0", "python": "3.11.1", "torch": "2.15.0"}
    ends: dict[str, dict[str, Any] | None] = {
        done.id: {"cause": "done"}, slow.id: None, diverged.id: {"cause": "infeasible"},
        failed.id: {"cause": "exception", "error": "ValueError: no"}, lost.id: None}
    for trial in trials[:5]:
        log = store.begin_attempt(trial, 0, {})
        assert log
        log.write(start if trial is done else {**start, "accumulate": 4, "queued": 1e9 - 90})  # earlier versions do not say these
        for epoch in (1, 2):
            log.write({"event": "epoch", **row(epoch), "seconds": epoch / 4, "images_per_s": 100.0 * epoch, "peak_memory_gb": 0.5})
        if trial is done:
            log.write({"event": "test", "time": 1e9 + 1})
        if end := ends[trial.id]:
            log.write({"event": "end", "time": 1e9 + 1.5, **end})
        log.close()
    store.publish_result(done.id, {"status": "done", "reason": None, "epoch": 2, "rows": [row(1), row(2, 0.25), row(3, 0.75)],
                                   "test": {"test_loss": 0.4, "test_acc": 0.875}})
    store.publish_result(slow.id, {"status": "done", "reason": None, "epoch": 1, "rows": [row(1)], "test": {}})
    store.publish_result(diverged.id, {"status": "infeasible", "reason": "loss is nan", "epoch": None, "rows": [], "test": {}})
    tables.compact(store, grid, living=frozenset(), states={failed.id: "failed", lost.id: "lost"})
    return store, grid


def test_one_explicit_schema(made: tuple[Store, Grid]) -> None:
    store, _ = made
    kinds = {int: "int64", float: "double", str: "string", bool: "bool"}
    schema = pq.read_schema(store.table_file("trials"))
    assert schema.names == [
        "study", "trial_id", "variant", "seed", "wave", "phase", "config", "budget", "status", "reason",
        *(f"param_{name}" for name in PARAMETERS),
        "epoch", "epochs", "train_loss", "train_acc", "val_loss", "val_acc", "lr", "last_train_loss", "test_loss", "test_acc",
        "test_opening"]
    for name, field in PARAMETERS.items():
        assert str(schema.field(f"param_{name}").type) == kinds[field.type]  # type: ignore[index]
    assert [str(schema.field(name).type) for name in ("seed", "wave", "epoch", "epochs")] == ["int64"] * 4
    epochs = pq.read_schema(store.table_file("epochs"))
    assert [(f.name, str(f.type)) for f in epochs] == [
        ("trial_id", "string"), ("epoch", "int64"),
        *((name, "double") for name in ("train_loss", "train_acc", "val_loss", "val_acc", "lr"))]
    attempts = pq.read_schema(store.table_file("attempts"))
    assert str(attempts.field("started").type) == "timestamp[us, tz=UTC]" and str(attempts.field("epoch_s").type) == "list<element: double>"


def test_a_study_of_whole_numbers_has_the_same_types(made: tuple[Store, Grid]) -> None:
    """`lr = 1` is a float column: tables of different studies can be put under each other."""
    store, _ = made
    table = pq.read_table(store.table_file("trials"))
    assert table.schema.field("param_lr").type == pa.float64() and table["param_lr"].to_pylist() == [1.0] * 6


def test_rows_of_every_status(made: tuple[Store, Grid]) -> None:
    trials = pd.read_parquet(made[0].table_file("trials"))
    assert list(trials["status"]) == ["done", "done", "infeasible", "failed", "lost", "unfinished"]
    assert list(trials["variant"]) == ["sgd", "sgd", "adam", "adam", "deep", "deep"] and list(trials["seed"]) == [0, 1] * 3
    first = trials.iloc[0]
    assert (first.epoch, first.epochs, first.val_loss, first.val_acc, first.train_loss) == (2, 3, 0.25, 0.75, 0.125)
    assert (first.last_train_loss, first.test_loss, first.test_acc) == (0.375, 0.4, 0.875)
    assert trials.iloc[2].reason == "loss is nan" and trials.iloc[2].epochs == 0
    assert trials.loc[1:, "test_acc"].isna().all() and trials.loc[2:, ["epoch", "val_acc", "last_train_loss"]].isna().all(axis=None)
    assert trials["reason"].isna().sum() == 5


def test_what_a_config_does_not_read_is_null(made: tuple[Store, Grid]) -> None:
    trials = pq.read_table(made[0].table_file("trials"))
    assert trials["param_momentum"].to_pylist() == [0.9, 0.9, None, None, 0.9, 0.9]
    assert trials["param_gamma"].null_count == 6 and trials["param_step_size"].type == pa.int64()


def test_epochs_come_from_results_only(made: tuple[Store, Grid]) -> None:
    store, _ = made
    epochs = pd.read_parquet(store.table_file("epochs"))
    ids = [t.id for t in store.trials()]
    assert list(zip(epochs["trial_id"], epochs["epoch"], strict=True)) == [(ids[0], 1), (ids[0], 2), (ids[0], 3), (ids[1], 1)]


def test_attempts_tell_what_happened(made: tuple[Store, Grid]) -> None:
    attempts = pd.read_parquet(made[0].table_file("attempts"))
    assert list(attempts["cause"]) == ["done", "lost", "infeasible", "exception", "lost"]
    first = attempts.iloc[0]
    assert (first.host, first.pid, first.worker, first.ranks, first.first_epoch, first.last_epoch) == ("n1", 5, "000-0", 1, 1, 2)
    assert (first.train_s, list(first.epoch_s), first.images_per_s, first.peak_memory_gb) == (0.75, [0.25, 0.5], 200.0, 0.5)
    assert str(first.started) == "2001-09-09 01:46:40+00:00" and (first.ended - first.started).total_seconds() == 1.5
    assert str(first.test_opened) == "2001-09-09 01:46:41+00:00" and attempts["test_opened"].notna().sum() == 1
    assert attempts["queued"].isna().tolist() == [True, *[False] * 4]
    assert set((attempts["started"] - attempts["queued"]).dt.total_seconds().dropna()) == {90}
    assert attempts.iloc[3].error == "ValueError: no" and list(attempts["accumulate"]) == [1, 4, 4, 4, 4]


def test_an_attempt_of_a_living_worker_runs(made: tuple[Store, Grid]) -> None:
    store, grid = made
    tables.compact(store, grid, living=frozenset({"000-0"}))
    assert list(pd.read_parquet(store.table_file("attempts"))["cause"]) == ["done", "running", "infeasible", "exception", "running"]


def test_metadata_of_every_table(made: tuple[Store, Grid]) -> None:
    assert not made[0].table_file("predictions").exists()  # no trial of it kept any
    for name in ("trials", "epochs", "attempts"):
        about = json.loads(pq.read_schema(made[0].table_file(name)).metadata[b"harness"])
        digest = about.pop("grid")
        assert len(digest) == 64
        assert about == {"schema": 1, "study": "made", "metric": "val_acc", "mode": "max", "select": "best_val", "seeds": [0, 1],
                         "variants": ["sgd", "adam", "deep"], "reference": "sgd", "compared": ["optimizer", "depth"], "chance": 0.1}


def test_a_comment_does_not_change_the_grids_hash_and_a_value_does(made: tuple[Store, Grid], tmp_path: Path) -> None:
    store, _ = made

    def digest(text: str) -> str:
        tables.compact(store, parse_grid(text))
        return str(json.loads(pq.read_schema(store.table_file("trials")).metadata[b"harness"])["grid"])

    assert digest(GRID) == digest("# why\n" + GRID.replace("lr = 1", "lr = 1.0")) != digest(GRID.replace("lr = 1", "lr = 2"))


def test_made_anew_from_the_trial_folders_byte_for_byte(made: tuple[Store, Grid]) -> None:
    store, grid = made
    ids = [t.id for t in store.trials()]
    before = {name: store.table_file(name).read_bytes() for name in ("trials", "epochs", "attempts")}
    for name in before:
        store.table_file(name).unlink()
    tables.compact(store, grid, states={ids[3]: "failed", ids[4]: "lost"})
    assert {name: store.table_file(name).read_bytes() for name in before} == before


def test_written_again_and_again_as_trials_end(made: tuple[Store, Grid], monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher writes the tables many times: each time they are what one who has just begun would write, to the last byte, and what is
    over is not read again."""
    store, grid = made
    names, trials = ("trials", "epochs", "attempts"), store.trials()
    monkeypatch.setattr(tables, "BLOCK", 2)
    again = tables.Tables(store, grid, trials)

    def assert_as_new() -> None:
        states = {trials[3].id: "failed", trials[4].id: "lost"}
        again.write(states=states)
        written = {name: store.table_file(name).read_bytes() for name in names}
        with monkeypatch.context() as whole:
            whole.setattr(tables, "BLOCK", 1000)
            tables.compact(store, grid, states=states)
        assert {name: store.table_file(name).read_bytes() for name in names} == written

    assert_as_new()
    store.write_end(trials[1].id, 0, {"cause": "done", "time": 1e9 + 2})  # the last word of the first two, which are over now
    assert_as_new()
    store.trial_folder(trials[5].id).mkdir()
    store.publish_result(trials[5].id, {"status": "done", "reason": None, "epoch": 1, "rows": [row(1)], "test": {}})
    assert_as_new()
    for trial in trials[:2]:
        (store.trial_folder(trial.id) / "result.json").unlink()
    again.write()
    assert list(pd.read_parquet(store.table_file("trials"))["status"]) == ["done", "done", "infeasible", "unfinished", "unfinished", "done"]
    tables.compact(store, grid)
    assert list(pd.read_parquet(store.table_file("trials"))["status"])[:2] == ["unfinished", "unfinished"]


def test_the_three_one_liners(made: tuple[Store, Grid]) -> None:
    """What the README promises of any tool that reads Parquet."""
    store, _ = made
    assert pd.read_parquet(store.root / "trials.parquet").groupby("variant")["val_acc"].max()["sgd"] == 0.75
    assert pd.read_parquet(store.root / "epochs.parquet", columns=["epoch"])["epoch"].tolist() == [1, 2, 3, 1]
    joined = pd.read_parquet(store.root / "epochs.parquet").merge(pd.read_parquet(store.root / "trials.parquet")[["trial_id", "variant"]])
    assert list(joined["variant"]) == ["sgd"] * 4


def test_flipped_bits_are_noticed(made: tuple[Store, Grid]) -> None:
    """Without page checksums most of these flips would be read as wrong numbers."""
    path = made[0].table_file("trials")
    whole, chance = path.read_bytes(), random.Random(0)
    right = pq.read_table(path)
    meta = pq.ParquetFile(path).metadata
    group = meta.row_group(0)
    starts = [group.column(c).dictionary_page_offset or group.column(c).data_page_offset for c in range(group.num_columns)]
    ends = max(start + group.column(c).total_compressed_size for c, start in enumerate(starts))
    silent = 0
    for _ in range(300):
        place, bit = chance.randrange(min(starts), ends), chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1:])
        try:
            silent += not pq.read_table(path, page_checksum_verification=True).equals(right)
        except (OSError, pa.ArrowException, ValueError):
            continue
    assert silent <= 3, f"{silent} of 300 flipped bits were read as other values"


def test_a_job_of_ones_own_has_its_own_columns(tmp_path: Path) -> None:
    grid = parse_grid("""
        [study]
        name = "own"
        metric = "score"
        [job]
        run = "my.module:train"
        metrics = ["score", "cost"]
        [compare]
        width = [1, 2]
        rate = [1, 0.5]
        flag = [true]
        """)
    store = Store(tmp_path / "own")
    store.create_folders()
    trials = Planner(grid).trials()
    store.write_wave(Wave(trials=tuple(trials)))
    store.trial_folder(trials[0].id).mkdir()
    store.publish_result(trials[0].id, {"trial": trials[0].id, "status": "done", "reason": None, "epoch": 1,
                                        "rows": [{"epoch": 1, "score": 2, "cost": None}], "test": {}})
    tables.compact(store, grid)
    table = pq.read_table(store.table_file("trials"))
    assert [(f.name, str(f.type)) for f in table.schema if f.name.startswith("param_")] == [
        ("param_flag", "bool"), ("param_rate", "double"), ("param_width", "int64")]
    assert table["score"].to_pylist() == [2.0, None, None, None] and table["cost"].null_count == 4
    assert "last_train_loss" not in table.schema.names
