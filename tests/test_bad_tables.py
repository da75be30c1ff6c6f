"""Poor and hostile tables through the command line, with every figure there is: a picture or one clear sentence, never a traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import plots
from benchmarks.made_up_space import write_space
from tests.made_up_study import write_search, write_study

HOSTILE = ("<script>alert(1)</script>", "$\\frac{1}{0}$ & 100% #1 {x} ~^_", "; rm -rf \"$HOME\" `id` | cat", "a\nb\tc\x00", "x" * 200, "")


def run(*arguments: object) -> int:
    return plots.main([str(a) for a in arguments])


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table], *, name: str = "trials") -> Path:
    """The study with one of its tables changed, its metadata kept."""
    table = pq.read_table(folder / f"{name}.parquet")
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), folder / f"{name}.parquet")
    return folder


def with_column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def drawn(folder: Path, capsys: pytest.CaptureFixture[str], *options: object) -> set[str]:
    """What was drawn of a study that can be drawn; each message is one line without a traceback."""
    assert run(folder, "--out", folder / "out", *options) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert all(line.startswith("left out ") for line in said.err.splitlines()), said.err
    files = {p.name for p in (folder / "out").iterdir()}
    names = {name.rpartition(".")[0] for name in files}
    assert all(f"{n}.{k}" in files for n in names if n != "results" for k in ("png", "pdf", "svg", "csv"))
    return names


def running(folder: Path) -> Path:
    status = {("a", 2): "unfinished", ("b", 0): "unfinished", ("b", 1): "unfinished", ("b", 2): "unfinished"}
    return write_study(folder, {"a": 0.8, "b": 0.9}, epochs=3, status=status)


def without_epochs(folder: Path) -> Path:
    write_search(folder, {"a": 0.8, "b": 0.9}, configs=4)
    (folder / "epochs.parquet").unlink()
    return folder


def constant(folder: Path) -> Path:
    write_search(folder, {"a": 0.8, "b": 0.9}, configs=5)
    return rewrite(folder, lambda t: with_column(with_column(t, "param_lr", [0.1] * len(t)), "param_depth", [2] * len(t)))


def not_finite(folder: Path) -> Path:
    """Some of the values are NaN or infinite, in the epochs too."""
    write_search(folder, {"a": 0.8, "b": 0.9}, configs=6)

    def spoil(table: pa.Table) -> pa.Table:
        for name in ("val_acc", "val_loss"):
            values = np.array(table[name].to_pylist(), dtype=float)
            values[::13], values[5::17] = np.nan, np.inf
            table = with_column(table, name, values)
        return table

    return rewrite(rewrite(folder, spoil), spoil, name="epochs")


def hostile(folder: Path) -> Path:
    return write_study(folder, {name: 0.8 + i / 100 for i, name in enumerate(HOSTILE)}, epochs=3,
                       params={name: {"depth": i, "note": name} for i, name in enumerate(HOSTILE)})


def hostile_search(folder: Path) -> Path:
    """Names of variants, and a tuned parameter whose choices are hostile."""
    write_search(folder, {name: 0.8 + i / 100 for i, name in enumerate(HOSTILE[:3])}, configs=6)
    return rewrite(folder, lambda t: with_column(t, "param_optimizer", [HOSTILE[i % 6] for i in range(len(t))]))


def one_config(folder: Path) -> Path:
    return write_search(folder, {"a": 0.8}, configs=1, seeds=1, confirm=0)


def one_trial(folder: Path) -> Path:
    return write_study(folder, {"a": 0.8}, seeds=1, epochs=1)


def older(folder: Path) -> Path:
    """Without the columns and files that came later."""
    write_study(folder, {"a": 0.8, "b": 0.9}, epochs=3)
    rewrite(folder, lambda t: t.drop_columns(["wave", "reason", "epochs", "last_train_loss", "test_loss", "lr"]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("make", [running, one_trial, one_config, without_epochs, constant, not_finite, hostile, hostile_search, older])
@pytest.mark.filterwarnings("ignore:Glyph", "error::RuntimeWarning", "error:constrained_layout not applied")
def test_poor_tables_still_give_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]) -> None:
    names = drawn(make(tmp_path / "s"), capsys)
    assert {"comparison", "results"} <= names
    drawn(tmp_path / "s", capsys, "--size", "slide")


@pytest.mark.slow
def test_sixty_parameters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_space(tmp_path / "s", trials=300, epochs=3)
    rng = np.random.default_rng(0)

    def widen(table: pa.Table) -> pa.Table:
        for i in range(48):
            table = table.append_column(f"param_{HOSTILE[i % 5][:20].strip()}_{i}", pa.array(rng.normal(size=len(table))))
        about = json.loads(table.schema.metadata[b"harness"])
        about["tuned"] += [{"name": n.removeprefix("param_"), "log": False, "choices": []} for n in table.column_names[-48:]]
        return table.replace_schema_metadata({b"harness": json.dumps(about).encode()})

    table = widen(pq.read_table(folder / "trials.parquet"))
    pq.write_table(table, folder / "trials.parquet")
    assert {"search", "slices"} <= drawn(folder, capsys)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_hundred_thousand_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_space(tmp_path / "s", trials=100_000, epochs=2)
    assert {"comparison", "search"} <= drawn(folder, capsys)


def sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(folder) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and not (folder / "figures").exists()
    return text


def test_only_failures_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.8}, epochs=2, status={("a", s): "failed" for s in range(3)})
    said = "no trial is finished (0 of 3 trials finished; 3 failed). Nothing can be drawn yet; `python -m harness.why s` says why"
    assert said in sentence(folder, capsys)
    folder = write_search(tmp_path / "t", {"a": 0.8}, configs=2, status={("a", 0): "failed", ("a", 1): "infeasible"})
    assert "no config has a value (0 of 4 trials finished; 2 infeasible, 2 failed)" in sentence(folder, capsys)


def test_a_future_schema_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.8}, epochs=2)
    table = pq.read_table(folder / "trials.parquet")
    pq.write_table(table.replace_schema_metadata({"harness": json.dumps({"schema": 99})}), folder / "trials.parquet")
    assert "has schema version 99; this code reads version 1. Use the checkout that wrote it" in sentence(folder, capsys)


def test_a_metric_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.8}, epochs=2)
    assert run(folder, "--metric", "vall_acc") == 2
    assert "no metric `vall_acc`; did you mean `val_acc`? (there are: train_loss" in capsys.readouterr().err
