"""docs/study-folder.md is true: its code blocks run, on tables that the harness wrote, and its lists of columns are the schemas."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import harness.store
from analysis.figures import confusion, timeline
from analysis.load import NotForThisStudy, load
from harness import tables
from harness.grid import parse_grid
from harness.store import Store
from harness.trials import Planner
from harness.waves import Wave
from jobs import predictions
from jobs.config import METRICS

PAGE = (Path(__file__).parent.parent / "docs" / "study-folder.md").read_text(encoding="utf-8")
GRID = '[study]\nname = "{name}"\nseeds = [0, 1]\n[fixed]\nlr = 1\n[compare]\ndepth = [1, 2]\n'
TYPES = {"list<element: double>": "list of double", "timestamp[us, tz=UTC]": "timestamp[us, UTC]"}


def write(root: Path, name: str) -> Store:
    """A study of two variants on two seeds whose test split was opened."""
    grid, store = parse_grid(GRID.format(name=name)), Store(root / name)
    store.create_folders()
    trials = Planner(grid).trials()
    store.write_wave(Wave(trials=tuple(trials)))
    for number, trial in enumerate(trials):
        log = store.begin_attempt(trial, 0, {})
        assert log
        log.write({"event": "start", "time": 1e9 + 60 * number, "queued": 1e9, "host": "n1", "pid": 5, "worker": "000-0", "job_id": "9",
                   "device": "cpu", "ranks": 1, "commit": "c", "dirty": False, "code": "d", "python": "3.11", "torch": "2.10"})
        row = {"epoch": 1, **dict.fromkeys(METRICS, 0.5), "val_acc": 0.5 + 0.1 * number}
        log.write({"event": "epoch", **row, "seconds": 2.0, "images_per_s": 10.0, "data_wait": 0.0, "peak_memory_gb": 0.1, "gpu": None})
        log.write({"event": "end", "time": 1e9 + 60 * number + 5, "cause": "done"})
        log.close()
        predicted = np.array([0, 1, 2, 2]) if number % 2 else np.array([0, 1, 0, 0])
        predictions.save(store.trial_folder(trial.id), images=np.arange(4), labels=np.array([0, 1, 2, 3]), predicted=predicted)
        right = float((predicted == np.arange(4)).mean())
        store.publish_result(trial.id, {"status": "done", "reason": None, "epoch": 1, "rows": [row],
                                        "test": {"test_loss": 1.0, "test_acc": right}})
    tables.compact(store, grid)
    return store


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/` with two studies of today, one of which has attempts as an earlier version wrote them."""
    root = tmp_path_factory.mktemp("readers")
    write(root / "runs", "digits")
    older = write(root / "runs", "older").table_file("attempts")
    table = pq.read_table(older)
    pq.write_table(table.drop_columns(["queued"]), older)
    return root


def run(blocks: list[str]) -> dict[str, Any]:
    """Runs the blocks, one after the other; what any line of them shows must hold something."""
    known: dict[str, Any] = {}
    for block in blocks:
        for line in ast.parse(block).body:
            if not isinstance(line, ast.Expr):
                exec(compile(ast.Module([line], []), "docs/study-folder.md", "exec"), known)
                continue
            shown = eval(compile(ast.Expression(line.value), "docs/study-folder.md", "eval"), known)
            assert len(shown) > 0, ast.unparse(line)
            known.setdefault("shown", []).append(shown)
    return known


def test_what_the_page_shows_runs_as_it_stands(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 6
    known = run(blocks)
    assert known["about"]["study"] == "digits" and known["about"]["compared"] == ["depth"]
    assert known["waits"].dt.total_seconds().tolist() == [0, 60, 120, 180] and len(known["curves"]) == 4
    means, by_variant, by_study, whole, averages, curves, duck, polar, frame = known["shown"]
    assert means.loc["depth=1", "mean"] == 0.625 and means["count"].tolist() == [2, 2]
    assert dict(by_variant.iter_rows())["depth=2"] == 0.625 and sorted(by_study.iter_rows()) == [("digits", 4), ("older", 4)]
    assert len(whole.fetchall()) == 4 and len(averages.fetchall()) == 4 and len(curves.fetchall()) == 2
    assert len(duck) == len(duck.df()) == len(polar) == len(frame) == 8
    assert polar["queued"].null_count() == frame["queued"].isna().sum() == 4
    # the first trial is right about images 0 and 1, the second about 2 as well
    assert known["counts"].to_numpy().tolist() == [[1, 1], [0, 2]]


def columns(heading: str) -> dict[str, str]:
    """Column -> type, of the table under a heading of the page."""
    section = PAGE.partition(f"## `{heading}.parquet`\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section, re.MULTILINE))


@pytest.mark.parametrize("name", ["trials", "epochs", "attempts", "predictions"])
def test_every_column_is_on_the_page_and_no_other(name: str, runs: Path) -> None:
    schema = pq.read_schema(runs / "runs" / "digits" / f"{name}.parquet")
    found = {field.name: TYPES.get(str(field.type), str(field.type)) for field in schema if not field.name.startswith("param_")}
    told = columns(name)
    assert ("param_<name>" in told) == (name == "trials")
    told.pop("param_<name>", None)
    assert list(told) == list(found) and told == found


def test_every_file_is_on_the_page(runs: Path) -> None:
    """The files of the store's own description, and those that are there."""
    told = PAGE.partition("## Files")[2].partition("**`trial_id`**")[0]
    text = (harness.store.__doc__ or "").replace("v001-004.json", "")
    for name in re.findall(r"[a-z<>_0-9*-]+\.(?:jsonl|json|toml|npz|parquet|log|pt)\b", text):
        assert name in told, name
    for path in (runs / "runs" / "digits").rglob("*"):
        if path.is_file():
            assert re.sub(r"\d{3,}", "000", path.name) in re.sub(r"\d{3,}", "000", told), path


def test_the_keys_of_the_metadata_are_on_the_page(runs: Path) -> None:
    section = PAGE.partition("## Metadata")[2].partition("\n## ")[0]
    for name in ("trials", "epochs", "attempts", "predictions"):
        about = json.loads(pq.read_schema(runs / "runs" / "digits" / f"{name}.parquet").metadata[b"harness"])
        assert not (missing := [key for key in about if f"`{key}`" not in section]), missing


def test_a_study_of_an_earlier_version_still_has_its_figures(runs: Path, tmp_path: Path) -> None:
    """Without `queued`, and without predictions."""
    folder = tmp_path / "older"
    folder.mkdir()
    for name in ("trials", "attempts"):
        (folder / f"{name}.parquet").write_bytes((runs / "runs" / "older" / f"{name}.parquet").read_bytes())
    drawn = timeline.table(load(folder))
    assert len(drawn) == 4 and drawn["wait_h"].isna().all() and (drawn["free_h"] == drawn["begin_h"]).all()
    with pytest.raises(NotForThisStudy, match=r"no predictions\.parquet"):
        confusion.table(load(folder))
