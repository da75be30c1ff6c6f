"""The timeline of slots, by hand: lanes, waits, what was in use, what was lost, idle times that are cut out; and figures of it."""

import datetime
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import plots, slots, style
from analysis.figures import timeline as figure_of
from analysis.load import NotForThisStudy, Study, load
from tests.made_up_study import write_study

BEGIN = datetime.datetime(2026, 3, 2, 9, tzinfo=datetime.UTC)
_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([
    ("trial_id", pa.string()), ("attempt", pa.int64()), ("cause", pa.string()), ("queued", _TIME), ("started", _TIME), ("ended", _TIME),
    ("host", pa.string()), ("pid", pa.int64()), ("worker", pa.string()), ("device", pa.string()), ("ranks", pa.int64()),
    ("fused", pa.int64()), ("first_epoch", pa.int64()), ("last_epoch", pa.int64()), ("epoch_s", pa.list_(pa.float64())),
    ("train_s", pa.float64())])


def study_of(folder: Path, rows: list[dict[str, Any]], *, drop: tuple[str, ...] = ()) -> Study:
    """A study with these attempts. `trial` is a number; `queued`, `started` and `ended` are hours; `epochs` hours of each epoch."""
    write_study(folder, {"only": 0.9}, seeds=1 + max((row["trial"] for row in rows), default=0), epochs=1)
    trials = pq.read_table(folder / "trials.parquet")
    ids = trials["trial_id"].to_pylist()
    full = []
    for row in rows:
        each = [3600.0 * hours for hours in row.get("epochs", [])]
        times = {name: None if row.get(name) is None else BEGIN + datetime.timedelta(hours=row[name])
                 for name in ("queued", "started", "ended")}
        full.append({"attempt": 0, "cause": "done", "host": "n1", "pid": 1, "worker": "000-0", "device": "cuda", "ranks": 1, "fused": 1,
                     "first_epoch": 1 if each else None, **row, **times, "trial_id": ids[row["trial"]], "epoch_s": each,
                     "train_s": sum(each)})
    schema = pa.schema([field for field in SCHEMA if field.name not in drop])
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in full], schema)
    pq.write_table(table.replace_schema_metadata(trials.schema.metadata), folder / "attempts.parquet")
    return load(folder)


def texts(study: Study, size: str = "paper") -> str:
    with style.context(size):
        figure = style.new_figure()
        figure_of.draw(figure, figure_of.table(study), study)
        figure.draw_without_rendering()
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        ticks = [text.get_text() for axis in figure.axes for text in (*axis.get_yticklabels(), *axis.get_xticklabels(), *axis.texts)]
        return " ".join(" ".join([text.get_text() for text in figure.texts] + labels + ticks).split())


@pytest.fixture(scope="module")
def two_slots(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Slot 1: trial 0 from 1 to 3, preempted after 1.5 h in two epochs, trial 2 from 4 to 6. Slot 2: trial 1 from 1 to 2, raises; then
    trial 0 again from 4.5 to 7, which does the second epoch again. All but the retry were queued at 0, the retry at 3.5."""
    return study_of(tmp_path_factory.mktemp("runs") / "s", [
        {"trial": 0, "queued": 0, "started": 1, "ended": 3, "cause": "preempted", "epochs": [1.0, 0.5]},
        {"trial": 1, "queued": 0, "started": 1, "ended": 2, "cause": "exception", "pid": 2, "worker": "000-1", "epochs": [0.25]},
        {"trial": 2, "queued": 0, "started": 4, "ended": 6, "epochs": [1.0, 1.0]},
        {"trial": 0, "attempt": 1, "queued": 3.5, "started": 4.5, "ended": 7, "pid": 3, "worker": "001-0", "first_epoch": 2,
         "epochs": [1.0, 1.0]}])


def test_lanes_waits_and_what_was_lost_by_hand(two_slots: Study) -> None:
    table = slots.attempts(two_slots)
    order = dict(zip(two_slots.trials["trial_id"], two_slots.trials["seed"], strict=True))
    rows = {(int(order[row.trial_id]), int(row.attempt)): row for row in table.itertuples()}
    assert {of: (row.lane, row.begin_h, row.end_h) for of, row in rows.items()} == {
        (0, 0): (0, 1, 3), (1, 0): (1, 1, 2), (2, 0): (0, 4, 6), (0, 1): (1, 4.5, 7)}
    # trial 2 waited for its worker, which was free from 3 on; the retry from when it was queued
    assert {of: row.wait_h for of, row in rows.items()} == {(0, 0): 1, (1, 0): 1, (2, 0): 1, (0, 1): 1}
    assert {of: row.free_h for of, row in rows.items()} == {(0, 0): 0, (1, 0): 0, (2, 0): 3, (0, 1): 3.5}
    # of the preempted 2 h the first epoch was kept; what raised came to nothing
    assert {of: row.lost_h for of, row in rows.items()} == {(0, 0): 1, (1, 0): 1, (2, 0): 0, (0, 1): 0}
    assert {of: row.ended for of, row in rows.items()} == {(0, 0): "taken away", (1, 0): "failed", (2, 0): "finished", (0, 1): "finished"}
    told = slots.summary(table)
    assert (told.slots, told.hours, told.busy, told.median_wait_h) == (2, 6, 7.5 / 12, 1)
    assert told.lost_h == {"taken away": 1, "failed": 1}
    said = texts(two_slots)
    assert "2 slots in use 62 % of 6 h · median wait 60 min" in said.replace("\u00a0", " ")
    assert "at most 2.0 GPU-hours lost (1.0 to" in said and "finished (2)" in said and "failed (1)" in said and "waits for the slot" in said


def test_several_ranks_are_several_slots(tmp_path: Path) -> None:
    table = slots.attempts(study_of(tmp_path / "s", [
        {"trial": 0, "started": 0, "ended": 2, "ranks": 4, "queued": 0},
        {"trial": 1, "started": 2, "ended": 3, "cause": "killed", "queued": 0, "pid": 2}]))
    told = slots.summary(table)
    assert (told.slots, told.busy, told.lost_h) == (4, 9 / 12, {"failed": 1})


def test_trained_together_they_share_a_lane(tmp_path: Path) -> None:
    """Three as one program, one of which goes on longest; beside it, on the same GPU, one alone; then two others together."""
    rows = [{"trial": i, "started": i / 1000, "ended": 1 + i, "fused": 3, "queued": 0, "cause": "done" if i else "lost", "epochs": [0.5]}
            for i in range(3)]
    rows += [{"trial": 3, "started": 0.5, "ended": 2, "queued": 0}]
    rows += [{"trial": 4 + i, "started": 4, "ended": 5, "fused": 2, "queued": 0} for i in range(2)]
    table = slots.attempts(study_of(tmp_path / "s", rows))
    assert table["program"].tolist() == [0, 0, 0, 1, 2, 2] and table["lane"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table["members"].tolist() == [3, 3, 3, 1, 2, 2] and table["member"].tolist() == [0, 1, 2, 0, 0, 1]
    assert table["lost_h"].tolist() == [pytest.approx(1 / 3), 0, 0, 0, 0, 0]
    told = slots.summary(table)
    assert (told.slots, told.hours, told.busy) == (2, 5, 5.5 / 10)  # 3 + 1.5 + 1 hours of programs


def test_a_study_that_went_on_a_week_later(tmp_path: Path) -> None:
    """The idle time is cut out; what stood waiting in the queue is not idle."""
    week = 168
    study = study_of(tmp_path / "s", [
        {"trial": 0, "queued": 0, "started": 0, "ended": 2},
        {"trial": 1, "queued": 0, "started": 4, "ended": 5, "pid": 2},
        {"trial": 2, "queued": week, "started": week + 1, "ended": week + 3, "pid": 3}])
    table = slots.attempts(study)
    assert slots.gaps(table) == [(5, week)]
    told = slots.summary(table)
    assert told.hours == 5 + 3 and told.busy == 5 / 8
    said = texts(study)
    assert "6.8 days idle" in said and "1 idle time cut out" in said and "5 169 170 171" in said


def test_still_running_lost_and_never_begun(tmp_path: Path) -> None:
    study = study_of(tmp_path / "s", [
        {"trial": 0, "queued": 0, "started": 0, "ended": 4},
        {"trial": 1, "queued": 0, "started": 1, "cause": "running", "pid": 2, "epochs": [0.5]},
        {"trial": 2, "queued": 0, "started": 1, "cause": "lost", "pid": 3, "epochs": [1.0, 0.5]},
        {"trial": 3, "queued": 0, "started": None, "cause": "lost", "pid": 4},
        {"trial": 4, "queued": 0, "started": 5, "ended": 4.5, "cause": "a cause of another version", "pid": 5}])
    table = slots.attempts(study)
    assert table[["begin_h", "end_h"]].to_numpy().tolist() == [[0, 4], [1, 5], [1, 2.5], [5, 5]]
    assert table["ended"].tolist() == ["finished", "still running", "failed", "failed"] and table["lost_h"].tolist() == [0, 0, 1.5, 0]
    said = texts(study)
    assert "at most 1.5 GPU-hours lost to failures" in said and "1 attempt never began" in said and "still running (1)" in said


def test_hosts_are_named_where_they_are_few(tmp_path: Path) -> None:
    few = study_of(tmp_path / "few", [{"trial": i, "queued": 0, "started": 0, "ended": 1, "host": f"node{i}.some.where", "pid": i}
                                      for i in (0, 2, 10)])
    table = slots.attempts(few)
    assert dict(zip(table["host"].str.split(".").str[0], table["lane"], strict=True)) == {"node0": 0, "node2": 1, "node10": 2}
    assert "node0 node2 node10" in texts(few) and "some.where" not in texts(few)
    many = study_of(tmp_path / "many", [{"trial": i, "queued": 0, "started": i, "ended": i + 1, "host": f"n{i}", "pid": i}
                                        for i in range(60)])
    table = slots.attempts(many)
    assert set(table["lane"]) == {0} and slots.summary(table).slots == 1 and "n59" not in texts(many)
    unnamed = study_of(tmp_path / "unnamed", [{"trial": 0, "started": 0, "ended": 1, "host": None, "pid": None, "worker": None}])
    assert "Waits are not known" in texts(unnamed)


def test_earlier_versions_and_studies_without_attempts(tmp_path: Path) -> None:
    old = study_of(tmp_path / "old", [{"trial": 0, "started": 0, "ended": 1}, {"trial": 1, "started": 1, "ended": 2}],
                   drop=("queued", "host", "pid", "worker", "fused", "device"))
    table = slots.attempts(old)
    assert table["wait_h"].isna().all() and slots.gaps(table) == [] and math.isnan(slots.summary(table).median_wait_h)
    assert "nothing lost" in texts(old)
    for name, rows in (("none", []), ("unbegun", [{"trial": 0, "started": None}])):
        with pytest.raises(NotForThisStudy, match=r"no attempts\.parquet"):
            figure_of.table(study_of(tmp_path / name, rows))
    with pytest.raises(NotForThisStudy):
        figure_of.table(load(write_study(tmp_path / "plain", {"a": 0.9})))


def test_a_moment_and_many_attempts(tmp_path: Path) -> None:
    """One attempt that took no time; and 3,000, one after the other in three lanes."""
    assert "1 slot in use" in texts(study_of(tmp_path / "one", [{"trial": 0, "started": 0, "ended": 0}]))
    many = [{"trial": i, "queued": 0, "started": i // 3, "ended": i // 3 + 0.9, "pid": i % 3, "cause": ["done", "preempted"][i % 7 == 0]}
            for i in range(3000)]
    study = study_of(tmp_path / "many", many)
    table = slots.attempts(study)
    assert set(table["lane"]) == {0, 1, 2} and slots.summary(table).busy == pytest.approx(0.9, abs=1e-3)
    assert "3000 attempts" in texts(study, "slide") and "42 days" in texts(study)


def test_it_is_one_of_the_figures(two_slots: Study, tmp_path: Path) -> None:
    assert {"confusion", "timeline"} <= set(plots.FIGURES)
    paths = plots.write(two_slots, tmp_path, only=["timeline"])
    assert [path.suffix for path in paths] == [".png", ".pdf", ".svg", ".csv"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[3])[["lane", "lost_h"]], slots.attempts(two_slots)[["lane", "lost_h"]])
