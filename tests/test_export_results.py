"""Studies handed to other tools: each tool's own reader reads back what was exported, twice exported is once, and killed is continued.

(tests/test_export.py is of `launch --export`.)
"""

import fcntl
import importlib.util
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import export
from analysis.exporters.runs import runs, safe, shown
from analysis.load import load
from benchmarks.made_up_space import write_space
from tests.exported import READERS, hostile_study, identities, known_study, plain, read_mlflow, wandb_server
from tests.made_up_study import EPOCHS, trial_schema, write_search, write_study, write_table

ROOT = Path(__file__).resolve().parents[1]


def lacks(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: `pip install '.[dev]'` brings it")


TENSORBOARD, MLFLOW = lacks("tensorboard"), lacks("mlflow", "sqlalchemy", "alembic")
OPTUNA, WANDB = lacks("optuna"), lacks("wandb")
TOOLS = [pytest.param("csv"), pytest.param("tensorboard", marks=TENSORBOARD),
         *(pytest.param(name, marks=[mark, pytest.mark.slow]) for name, mark in (("mlflow", MLFLOW), ("optuna", OPTUNA), ("wandb", WANDB)))]
"""All tools; those that take seconds to load in the slow tests only."""


def run(*arguments: object) -> int:
    return export.main([str(a) for a in arguments])


def command(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-m", "analysis.export", *map(str, arguments)], cwd=ROOT, text=True,
                            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# ------------------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("tool", TOOLS)
def test_what_was_measured_is_read_back(tool: str, tmp_path: Path) -> None:
    study = known_study(tmp_path / "known", missing=True)
    assert run(study, "--to", tool, "--out", tmp_path / "out") == 0
    found = READERS[tool](tmp_path / "out")
    trials = {"00000000000000aa-s0", "00000000000000ab-s1", "00000000000000ac-s0"}
    assert found.keys() == (trials | {"00000000000000ad-s0"} if tool == "csv" else trials)
    params, values, curves = found["00000000000000aa-s0"]
    assert float(params["lr"]) == pytest.approx(0.1) and float(params["depth"]) == 2 and params["optimizer"] == "sgd"
    assert str(params["bn"]) == "True"
    assert values["selected/val_acc"] == 0.75
    assert curves["val_acc"] == pytest.approx({1: 0.5, 2: 0.75, 3: math.nan}, nan_ok=True)
    if tool != "csv":
        assert values["test_acc"] == pytest.approx(0.7)
        assert "lr" not in found["00000000000000ac-s0"][0], "what a config does not read is not there"
        assert not found["00000000000000ac-s0"][1]
    if tool in ("tensorboard", "wandb"):
        assert curves["val_loss"] == {1: math.inf, 2: 0.5, 3: 0.25}
    if tool == "mlflow":  # its databases know no infinity
        assert curves["val_loss"] == {1: sys.float_info.max, 2: 0.5, 3: 0.25}


@pytest.mark.parametrize("tool", TOOLS)
def test_again_adds_what_is_new_replaces_what_changed_and_leaves_the_rest(tool: str, tmp_path: Path,
                                                                          capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def counts(folder: Path) -> str:
        assert run(folder, "--to", tool, "--out", out) == 0
        return capsys.readouterr().out

    first = counts(known_study(tmp_path / "s", missing=True))
    before = identities(tool, out)
    assert tool == "csv" or "(3 new, 0 changed, 0 as before)" in first and "1 trial not ended yet" in first
    second = counts(known_study(tmp_path / "s"))
    added = identities(tool, out)
    assert tool == "csv" or "(1 new, 0 changed, 3 as before)" in second
    assert tool == "csv" or before.items() <= added.items(), "what was there is not touched"
    third = counts(known_study(tmp_path / "s", retried=True))
    assert tool == "csv" or "(0 new, 1 changed, 3 as before)" in third
    changed = identities(tool, out)
    last = counts(tmp_path / "s")
    assert f"(0 new, 0 changed, {3 if tool == 'csv' else 4} as before)" in last
    assert identities(tool, out) == changed
    assert run(tmp_path / "s", "--to", tool, "--out", tmp_path / "fresh") == 0
    assert plain(READERS[tool](out)) == plain(READERS[tool](tmp_path / "fresh"))


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "trials"), [pytest.param("tensorboard", 600, marks=TENSORBOARD), pytest.param("mlflow", 40, marks=MLFLOW),
                                              pytest.param("optuna", 40, marks=OPTUNA), pytest.param("wandb", 40, marks=WANDB)])
def test_a_killed_export_is_continued(tool: str, trials: int, tmp_path: Path) -> None:
    study, out = write_space(tmp_path / "space", trials=trials, epochs=4), tmp_path / "out"
    child = command(study, "--to", tool, "--out", out)
    until = time.monotonic() + 120
    while _written(tool, out) < 5 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.stdout.read() if child.stdout else ""
    done = len(runs(load(study)))
    assert 0 < _written(tool, out) < done
    before = identities(tool, out)
    assert run(study, "--to", tool, "--out", out) == 0
    assert len(before.items() - identities(tool, out).items()) <= 1, "only what was cut short is written again"
    assert run(study, "--to", tool, "--out", tmp_path / "whole") == 0
    found = READERS[tool](out)
    assert len(found) == done and plain(found) == plain(READERS[tool](tmp_path / "whole"))
    assert not list(out.glob(".*aside*")) and not (out / ".unfinished").exists()


def _written(tool: str, out: Path) -> int:
    """How many trials an export has got to."""
    if tool in ("tensorboard", "wandb"):
        return len(list((out / "wandb" if tool == "wandb" else out).glob("*/")))
    if not (out / f"{tool}.db").exists():
        return 0
    try:
        with sqlite3.connect(out / f"{tool}.db") as database:  # not read-only: what was cut short has to be rolled back
            count: int = database.execute(f"SELECT count(*) FROM {'runs' if tool == 'mlflow' else 'trials'}").fetchone()[0]
            return count
    except sqlite3.Error:
        return 0


# ------------------------------------------------------------------------------------------------------- each tool's own things


@TENSORBOARD
def test_tensorboard_has_one_run_for_a_trial_and_its_columns(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    assert run(known_study(tmp_path / "known"), "--to", "tensorboard", "--out", tmp_path / "out") == 0
    top = EventAccumulator(str(tmp_path / "out")).Reload()
    columns = metadata.parse_experiment_plugin_data(top.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert [c.name for c in columns.hparam_infos] == ["variant", "lr", "depth", "optimizer", "bn", "seed", "status"]
    assert [c.type for c in columns.hparam_infos][1:5] == [api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_FLOAT64, api_pb2.DATA_TYPE_STRING,
                                                           api_pb2.DATA_TYPE_BOOL]
    assert [c.name.tag for c in columns.metric_infos][:2] == ["selected/val_acc", "test_acc"]
    events = EventAccumulator(str(tmp_path / "out" / "a-00000000000000aa-s0")).Reload()
    assert {e.step: e.wall_time for e in events.Scalars("val_acc")} == {1: 1060, 2: 2060, 3: 2130}, "the times of the training"
    assert [e.step for e in events.Scalars("selected/val_acc")] == [2], "the selected epoch"
    assert events.Scalars("gpu_hours")[0].value == pytest.approx(2 * (100 + 150) / 3600)
    end = metadata.parse_session_end_info_plugin_data(events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content)
    assert end.status == api_pb2.STATUS_SUCCESS and end.end_time_secs == 2150
    failed = EventAccumulator(str(tmp_path / "out" / "b-00000000000000ac-s0")).Reload()
    end = metadata.parse_session_end_info_plugin_data(failed.SummaryMetadata("_hparams_/session_end_info").plugin_data.content)
    assert end.status == api_pb2.STATUS_FAILURE
    text = failed.Tensors("trial")[0].tensor_proto.string_val[0].decode()
    assert r"\<b\>no\</b\>" in text, "no HTML of a message is acted on"


@TENSORBOARD
def test_tensorboard_itself_shows_the_trials(tmp_path: Path) -> None:
    """Through the backend of the HParams page."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    assert run(known_study(tmp_path / "known"), "--to", "tensorboard", "--out", tmp_path / "out") == 0
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "out")).Reload()
    context = backend_context.Context(base_plugin.TBContext(
        data_provider=data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path / "out"))))
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=10, allowed_statuses=[
        api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING])
    request.col_params.add(hparam="seed", order=api_pb2.ORDER_ASC)
    request.col_params.add(metric=api_pb2.MetricName(tag="selected/val_acc"))
    experiment = context.experiment_from_metadata(RequestContext(), "", True, context.hparams_metadata(RequestContext(), ""), [])
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert len(groups) == 4 and len(experiment.hparam_infos) == 7
    reached = {group.name: {m.name.tag: m.value for m in group.metric_values} for group in groups}
    assert reached["00000000000000aa-s0"]["selected/val_acc"] == 0.75


@pytest.mark.slow
@MLFLOW
def test_mlflow_has_states_times_tags_and_its_limits(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    study, out = known_study(tmp_path / "known"), tmp_path / "out"
    assert run(study, "--to", "mlflow", "--out", out) == 0
    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("known")
    assert experiment and experiment.artifact_location == (out / "mlartifacts").as_uri()
    found = {one.data.tags["harness.trial_id"]: one for one in client.search_runs([experiment.experiment_id])}
    done, failed = found["00000000000000aa-s0"], found["00000000000000ac-s0"]
    assert (done.info.run_name, done.info.status, done.info.start_time, done.info.end_time) == ("a s0", "FINISHED", 1_000_000, 2_150_000)
    assert [(m.step, m.timestamp) for m in client.get_metric_history(done.info.run_id, "val_acc")] == [(1, 1_060_000), (2, 2_060_000),
                                                                                                    (3, 2_130_000)]
    tags = done.data.tags
    assert (tags["harness.host"], tags["harness.attempts"], tags["harness.causes"]) == ("n2", "2", "preempted, done")
    assert tags["mlflow.source.git.commit"] == "c" * 40
    assert failed.info.status == "FAILED" and failed.data.tags["harness.reason"] == "RuntimeError: <b>no</b>"
    asked = "params.optimizer = 'sgd' and metrics.`selected/val_acc` > 0.6"
    assert len(client.search_runs([experiment.experiment_id], filter_string=asked)) == 1

    names = {f"p{i}": pa.int64() for i in range(250)}
    large = {"schema": 1, "study": "large", "metric": "val_acc", "mode": "max"}
    row = {"study": "large", "trial_id": "00000000000000ba-s0", "variant": "v", "seed": 0, "status": "done", "epoch": 400, "val_acc": 0.5}
    write_table(tmp_path / "large" / "trials.parquet", [row | {f"param_{n}": 7 for n in names}], trial_schema(names), large)
    write_table(tmp_path / "large" / "epochs.parquet", [{"trial_id": row["trial_id"], "epoch": e, **dict.fromkeys(EPOCHS.names[2:], 0.25)}
                                                       for e in range(1, 401)], EPOCHS, large)
    assert run(tmp_path / "large", "--to", "mlflow", "--out", out) == 0
    assert {e.name for e in client.search_experiments()} == {"Default", "known", "large"}, "studies stand side by side"
    one = read_mlflow(out)["00000000000000ba-s0"]
    assert len(one[0]) == 252 and len(one[2]["val_loss"]) == 400


@pytest.mark.slow
@OPTUNA
def test_optuna_has_states_distributions_and_opens(tmp_path: Path) -> None:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    assert run(known_study(tmp_path / "known"), "--to", "optuna", "--out", tmp_path / "out") == 0
    study = optuna.load_study(study_name="known", storage=f"sqlite:///{tmp_path / 'out' / 'optuna.db'}")
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"] and study.direction.name == "MAXIMIZE"
    assert study.best_value == 0.75 and study.best_params == {"lr": 0.1, "depth": 2, "optimizer": "sgd", "bn": True}
    assert study.metric_names == ["val_acc"]
    best = study.best_trial
    assert best.distributions["lr"] == CategoricalDistribution((0.01, 0.1)), "few values, compared: choices"
    assert best.distributions["depth"] == CategoricalDistribution((2, 3)) and best.distributions["bn"].choices == (True, False)
    assert best.user_attrs["variant"] == "a" and best.user_attrs["seed"] == 0 and best.user_attrs["facts"]["host"] == "n2"
    assert best.datetime_start and best.datetime_start.timestamp() == 1000 and best.duration and best.duration.total_seconds() == 1150
    assert study.trials[1].value == 0.25 and study.trials[1].intermediate_values == {1: 0.25}
    space = write_search(tmp_path / "search", {"bn": 0.9, "plain": 0.8}, configs=12)
    assert run(space, "--to", "optuna", "--out", tmp_path / "out") == 0
    searched = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'out' / 'optuna.db'}")
    lr = searched.trials[0].distributions["lr"]
    assert isinstance(lr, FloatDistribution) and lr.log
    assert "momentum" not in next(t for t in searched.trials if t.params["optimizer"] == "adamw").params
    assert set(optuna.importance.get_param_importances(searched, params=["lr", "depth"])) == {"lr", "depth"}


@pytest.mark.slow
@WANDB
def test_wandb_has_names_groups_and_exit_codes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(known_study(tmp_path / "known"), "--to", "wandb", "--out", out) == 0
    listed = subprocess.run([sys.executable, "-m", "wandb", "sync", "--dry-run"], cwd=out, capture_output=True, text=True, check=True)
    assert "Would sync 4 run(s)" in listed.stdout + listed.stderr
    with wandb_server() as (address, sent):
        subprocess.run([sys.executable, "-m", "wandb", "sync", "--yes"], cwd=out, capture_output=True, check=True, timeout=120,
                       env={**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": "a" * 40})
    done, failed = sent["00000000000000aa-s0-known"], sent["00000000000000ac-s0-known"]
    assert (done["about"]["displayName"], done["about"]["groupName"], done["about"]["jobType"]) == ("a s0", "known", "a")
    assert done["about"]["exitcode"] == 0 and failed["about"]["exitcode"] == 1 and failed["about"]["tags"] == ["failed"]
    assert failed["about"]["notes"] == "RuntimeError: <b>no</b>"
    assert [row["_timestamp"] for row in done["history"]] == [1060, 2060, 2130] and done["summary"]["selected/epoch"] == 2
    assert done["config"]["variant"]["value"] == "a" and done["config"]["harness"]["value"]["commit"] == "c" * 40
    again = subprocess.run([sys.executable, "-m", "wandb", "sync", "--dry-run"], cwd=out, capture_output=True, text=True, check=True)
    assert "Would sync" not in again.stdout + again.stderr, "all of them are through"


def test_csv_holds_every_row_as_it_is(tmp_path: Path) -> None:
    import pandas as pd

    study, out = known_study(tmp_path / "known", missing=True), tmp_path / "out"
    assert run(study, "--to", "csv", "--out", out) == 0
    for name in ("trials", "epochs", "attempts"):
        table, original = pd.read_csv(out / f"{name}.csv"), pq.read_table(study / f"{name}.parquet")
        assert list(table.columns) == original.column_names and len(table) == original.num_rows
    attempts = pd.read_csv(out / "attempts.csv")
    assert json.loads(attempts["epoch_s"][1]) == [60.0, 70.0] and attempts["started"][0] == "1970-01-01T00:16:40+00:00"
    assert pd.read_csv(out / "trials.csv")["param_depth"].tolist() == [2, 3, 2, 2]
    (study / "attempts.parquet").unlink()
    assert run(study, "--to", "csv", "--out", out) == 0
    assert not (out / "attempts.csv").exists(), "no table of an older study stays behind"


def test_trials_that_two_variants_share_are_one_run(tmp_path: Path) -> None:
    rows = [{"study": "s", "trial_id": "00000000000000aa-s0", "variant": v, "seed": 0, "status": "done", "val_acc": 0.5} for v in "ab"]
    write_table(tmp_path / "s" / "trials.parquet", rows, trial_schema({}), {"schema": 1, "study": "s"})
    one, = runs(load(tmp_path / "s"))
    assert one.variant == "a" and one.tags["other_variants"] == "b" and one.values == {"selected/val_acc": 0.5} and one.started == 0


def test_the_seeds_of_a_search_are_all_there(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "search", {"bn": 0.9, "plain": 0.8}))
    found = runs(study)
    assert len(found) == len(study.all_trials) > len(study.trials)
    assert len({one.name for one in found}) == len(found) and found[0].name == "bn c0 s0"
    assert all(len(one.epochs) == 9 and [e.number for e in one.epochs] == list(range(1, 10)) for one in found)


# ------------------------------------------------------------------------------------------------------------ odd studies


@pytest.mark.parametrize("tool", TOOLS)
def test_names_of_every_kind(tool: str, tmp_path: Path) -> None:
    study = hostile_study(tmp_path / "it's a $study & more")
    assert run(study, "--to", tool) == 0
    out = study / "export" / tool
    before = identities(tool, out)
    assert run(study, "--to", tool) == 0 and identities(tool, out) == before
    found = READERS[tool](out)
    assert found.keys() == {f"{i:016x}-s0" for i in range(2)}
    for params, values, _ in found.values():
        assert len(params) >= (5 if tool == "optuna" else 6), "no parameter is merged with another"  # Optuna's are those that vary
        assert tool in ("csv", "optuna") or 3.0 in values.values(), "a metric with an odd name is there"
    inside = {path.name for path in tmp_path.iterdir()}
    assert inside == {study.name}, "nothing was written elsewhere"


@pytest.mark.parametrize("tool", TOOLS)
def test_only_failures_are_exported_too(tool: str, tmp_path: Path) -> None:
    every = {("a", s): "failed" for s in range(3)}
    study = write_study(tmp_path / "failures", {"a": 0.5}, status=every)
    (study / "epochs.parquet").unlink()
    assert run(study, "--to", tool, "--out", tmp_path / "out") == 0
    if tool != "csv":
        found = READERS[tool](tmp_path / "out")
        assert len(found) == 3 and not any(values or any(curves.values()) for _, values, curves in found.values())


@pytest.mark.parametrize("tool", [t for t in TOOLS if t.values != ("csv",)])
def test_nothing_has_ended(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "young", {"a": 0.5}, seeds=2, status={("a", s): "unfinished" for s in range(2)})
    assert run(study, "--to", tool, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "none of its 2 trials has ended, so there is nothing to export; `python -m harness.launch GRID` goes on" in error


def test_names_that_must_change_stay_different() -> None:
    assert safe("val_acc", "A-Za-z0-9_", 20) == "val_acc"
    names = ["a/b", "a_b", "a b", "", ".", "..", "x" * 300, "x" * 301, "ü", "-", "a\n", "a\0"]
    made = [safe(name, "A-Za-z0-9_", 20) for name in names]
    assert len(set(made)) == len(names) and all(0 < len(name) <= 20 for name in made)
    assert made[0].startswith("a_b-") and made[1] == "a_b"
    assert shown("a\x1b[31m\nb", 20) == "a [31m b" and shown("x" * 50, 10) == "x" * 9 + "…" and shown("\n", 5) == "_"


# --------------------------------------------------------------------------------------------------------------- mistakes


def test_an_unknown_tool_names_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(known_study(tmp_path / "s"), "--to", "csv,mlfow") == 2
    error = capsys.readouterr().err
    assert "nothing is exported to `mlfow`; did you mean `mlflow`?" in error
    assert all(tool in error for tool in export.TARGETS)
    assert not (tmp_path / "s" / "export").exists(), "nothing is done by halves"


def test_a_missing_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(export.TARGETS, "wandb", export.Target(module="to_wandb", needs=("surely_not_installed",)))
    (tmp_path / "surely_not_installed").mkdir()  # as wandb's own folder in the folder where it is used
    monkeypatch.syspath_prepend(tmp_path)
    assert run(known_study(tmp_path / "s"), "--to", "wandb") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "needs surely_not_installed, which is not installed: `pip install '.[wandb]'`" in error


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(known_study(tmp_path / "s"), "--to", "csv", "--out", tmp_path / "file") == 2
    assert f"error: {tmp_path / 'file'}: File exists; --out DIR writes elsewhere" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tool", [pytest.param("mlflow", marks=MLFLOW), pytest.param("optuna", marks=OPTUNA)])
def test_a_file_that_is_no_database(tool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{tool}.db").write_text("something else, that is long enough for a header" * 10)
    assert run(known_study(tmp_path / "s"), "--to", tool, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{tool}.db" in error and "not a database" in error and "move that file away" in error
    assert run(tmp_path / "s", "--to", tool, "--out", tmp_path / "is it?") == 2
    assert "holds ?, which has a meaning in a database's URL" in capsys.readouterr().err


def test_two_exports_do_not_write_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / export.LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(known_study(tmp_path / "s"), "--to", "csv", "--out", tmp_path / "out") == 2
        assert "another export is writing to" in capsys.readouterr().err
    assert run(tmp_path / "s", "--to", "csv", "--out", tmp_path / "out") == 0


def test_several_studies_and_tools_keep_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = known_study(tmp_path / "one"), known_study(tmp_path / "two")
    assert run(one, two, "--to", "csv", "--out", tmp_path / "out") == 0
    assert {path.parent.name for path in (tmp_path / "out").glob("*/trials.csv")} == {"one", "two"}
    assert run("one", "thre", "--runs", tmp_path, "--to", "csv") == 2
    assert (one / "export" / "csv" / "trials.csv").exists() and 'no study "thre"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["csv", pytest.param("tensorboard", marks=TENSORBOARD), pytest.param("mlflow", marks=MLFLOW),
                                  pytest.param("optuna", marks=OPTUNA), pytest.param("wandb", marks=WANDB)])
def test_nobody_is_called(tool: str, tmp_path: Path) -> None:
    """Neither Python nor what it starts looks up or connects to anything: Python's attempts end it, and wandb's own program, like
    everything that heeds proxies, would ask the one that this test is."""
    study = known_study(tmp_path / "known")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        code = ("import os, sys\n"
                "def hook(event, args):\n"
                "    if event == 'socket.getaddrinfo' or event == 'socket.connect' and not isinstance(args[1], (str, bytes)):\n"
                "        if (args[0] if event == 'socket.getaddrinfo' else args[1][0]) != '127.0.0.1':\n"
                "            os.write(2, repr((event, args)).encode()); os._exit(99)\n"
                "sys.addaudithook(hook)\n"
                "from analysis import export\n"
                f"sys.exit(export.main([{str(study)!r}, '--to', {tool!r}, '--out', {str(tmp_path / 'out')!r}]))\n")
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "PYTEST", "GITHUB", "MLFLOW", "WANDB"))}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
                              env={**bare, **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"), address),
                                   "HOME": str(tmp_path / "home"), "NO_PROXY": "", "no_proxy": ""})
        assert done.returncode == 0, done.stderr
        proxy.settimeout(0.2)
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert not (tmp_path / "home").exists(), "and nothing is written into the user's own folder"


def test_help_is_quick_and_the_documentation_complete() -> None:
    from tests.test_shape import HEAVY, run_and_list_modules

    status, text, loaded = run_and_list_modules("analysis.export", ["--help"])
    assert status == 0 and not loaded & {*HEAVY, "numpy", "tensorboard", "mlflow", "optuna", "wandb", "sqlalchemy"}
    page, packaging = (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for name, target in export.TARGETS.items():
        assert name in text and f"## {name}\n" in page.lower()
        assert not target.needs or f"\n{name} =\n" in packaging and f".[{name}]" in page
