"""Small studies to export, and what each tool's own reader says of what was exported: for tests/test_export_results.py."""

import csv
import gzip
import http.server
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.made_up_study import EPOCHS, trial_schema, write_table

HOSTILE = "a b/../c$_%&#{}~^<b>\"quote\" 'x'\n\t; echo ü" + "y" * 200


def known_study(folder: Path, *, missing: bool = False, retried: bool = False) -> Path:
    """Four trials known by heart: one done in three epochs (one of which is not a number), one pruned, one failed after two attempts, one
    not ended (with `missing`) or done after all; with `retried` the failed one is done."""
    rows: list[dict[str, Any]] = [
        {"trial_id": "00000000000000aa-s0", "variant": "a", "seed": 0, "status": "done", "param_lr": 0.1, "param_depth": 2,
         "param_optimizer": "sgd", "param_bn": True, "epoch": 2, "epochs": 3, "val_acc": 0.75, "val_loss": 0.5, "test_acc": 0.7},
        {"trial_id": "00000000000000ab-s1", "variant": "a", "seed": 1, "status": "pruned", "param_lr": 0.01, "param_depth": 3,
         "param_optimizer": "adamw", "param_bn": False, "epoch": 1, "epochs": 1, "val_acc": 0.25},
        {"trial_id": "00000000000000ac-s0", "variant": "b", "seed": 0, "status": "failed", "reason": "RuntimeError: <b>no</b>",
         "param_depth": 2, "param_optimizer": "sgd", "param_bn": True},
        {"trial_id": "00000000000000ad-s0", "variant": "b", "seed": 0, "status": "unfinished", "param_lr": 0.1, "param_depth": 2,
         "param_optimizer": "sgd", "param_bn": False}]
    if not missing:
        rows[3] |= {"status": "done", "epoch": 1, "epochs": 1, "val_acc": 0.5}
    if retried:
        rows[2] |= {"status": "done", "reason": None, "epoch": 1, "epochs": 1, "val_acc": 0.125}
    curves = [{"trial_id": "00000000000000aa-s0", "epoch": e, "val_acc": a, "val_loss": v}
              for e, a, v in ((1, 0.5, math.inf), (2, 0.75, 0.5), (3, math.nan, 0.25))]
    curves += [{"trial_id": row["trial_id"], "epoch": 1, "val_acc": row["val_acc"]} for row in rows[1:] if row.get("val_acc")]
    about = {"schema": 1, "study": folder.name, "metric": "val_acc", "mode": "max", "variants": ["a", "b"], "reference": "a",
             "compared": ["lr", "depth", "optimizer", "bn"]}
    kinds = {"lr": pa.float64(), "depth": pa.int64(), "optimizer": pa.string(), "bn": pa.bool_()}
    write_table(folder / "trials.parquet", [{"study": folder.name, "wave": 0, **row} for row in rows], trial_schema(kinds), about)
    write_table(folder / "epochs.parquet", curves, EPOCHS, about)
    attempts = [{"trial_id": "00000000000000aa-s0", "attempt": 0, "cause": "preempted", "host": "n1", "first_epoch": 1, "last_epoch": 1,
                 "started": 1000, "ended": 1100, "epoch_s": [60.0]},
                {"trial_id": "00000000000000aa-s0", "attempt": 1, "cause": "done", "host": "n2", "first_epoch": 2, "last_epoch": 3,
                 "started": 2000, "ended": 2150, "epoch_s": [60.0, 70.0]}]
    moment = pa.timestamp("s", tz="UTC")
    schema = pa.schema([("trial_id", pa.string()), ("attempt", pa.int64()), ("cause", pa.string()), ("host", pa.string()),
                        ("started", moment), ("ended", moment), ("train_s", pa.float64()), ("ranks", pa.int64()),
                        ("first_epoch", pa.int64()), ("last_epoch", pa.int64()), ("epoch_s", pa.list_(pa.float64())),
                        ("commit", pa.string()), ("device", pa.string())])
    write_table(folder / "attempts.parquet", [{**one, "commit": "c" * 40, "device": "cuda:0", "ranks": 2, "train_s": sum(one["epoch_s"])}
                                              for one in attempts], schema, about)
    return folder


def hostile_study(folder: Path) -> Path:
    """Names of every kind: two variants and two parameters that differ at their ends only, parameters that some tool would merge, infinite
    and missing values."""
    long, odd = "x" * 300, pa.field("odd metric %$", pa.float64())
    kinds = {"a/b": pa.string(), "a_b": pa.string(), "..": pa.int64(), "seed": pa.int64(), f"{long}1": pa.float64(),
             f"{long}2": pa.float64()}
    schema, epochs = trial_schema(kinds).append(odd), EPOCHS.append(odd)
    about = {"schema": 1, "study": HOSTILE, "metric": "val_acc", "mode": "max", "variants": [HOSTILE + "1", HOSTILE + "2"],
             "compared": list(kinds)}
    rows = []
    for i, variant in enumerate(about["variants"]):
        params = {"a/b": f"{HOSTILE}{i}", "a_b": "$(touch x)", "..": i, "seed": 9 + i, f"{long}1": math.inf if i else 1.0,
                  f"{long}2": 1.5 + i}
        rows.append({"study": HOSTILE, "trial_id": f"{i:016x}-s0", "variant": variant, "seed": 0, "status": "done", "epoch": 1, "epochs": 1,
                     "val_acc": 0.5 if i else math.nan, "val_loss": math.inf, "odd metric %$": 3.0,
                     **{f"param_{name}": value for name, value in params.items()}})
    write_table(folder / "trials.parquet", rows, schema, about)
    write_table(folder / "epochs.parquet", [{"trial_id": r["trial_id"], "epoch": 1, "val_acc": r["val_acc"], "odd metric %$": 3.0,
                                             "val_loss": -math.inf} for r in rows], epochs, about)
    return folder


# ------------------------------------------------------------------------------------------------ what was exported, read back

Curves = dict[str, dict[int, float]]
Content = dict[str, tuple[dict[str, Any], dict[str, float], Curves]]
"""Trial -> its parameters, its single numbers, and metric -> epoch -> value; of what the tool keeps."""


def read_tensorboard(out: Path) -> Content:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    found: Content = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        events = EventAccumulator(str(folder)).Reload()
        curves: Curves = {}
        for tag in events.Tags()["scalars"]:
            assert len({e.step for e in events.Scalars(tag)}) == len(events.Scalars(tag)), "no step twice"
            curves[tag] = {e.step: e.value for e in events.Scalars(tag)}
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        params = {}
        for name, value in metadata.parse_session_start_info_plugin_data(content).hparams.items():
            params[name] = getattr(value, value.WhichOneof("kind"))
        trial = metadata.parse_session_start_info_plugin_data(content).group_name
        assert trial not in found, "one folder for each trial"
        single = {tag for tag in curves if tag.startswith(("selected/", "test_", "last_", "gpu_", "slot_", "peak_", "images_"))}
        found[trial] = (params, {tag: next(iter(curves[tag].values())) for tag in single},
                        {tag: curve for tag, curve in curves.items() if tag not in single})
    return found


def read_mlflow(out: Path) -> Content:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    found: Content = {}
    for one in client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000):
        trial, curves = one.data.tags["harness.trial_id"], {}
        assert trial not in found and one.info.status != "RUNNING", "one whole run for each trial"
        for name in one.data.metrics:
            history = client.get_metric_history(one.info.run_id, name)
            assert len({m.step for m in history}) == len(history), "no step twice"
            curves[name] = {m.step: m.value for m in history}
        found[trial] = (dict(one.data.params), {n: v for n, v in one.data.metrics.items() if "/" in n or n.startswith("test_")}, curves)
    return found


def read_optuna(out: Path) -> Content:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{out / 'optuna.db'}"
    found: Content = {}
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            assert trial.user_attrs["trial_id"] not in found and trial.state.is_finished()
            numbers = {n: v for n, v in trial.user_attrs.items() if "/" in n or n.startswith("test_")}
            found[trial.user_attrs["trial_id"]] = (dict(trial.params), numbers, {"val_acc": dict(trial.intermediate_values)})
    return found


def read_wandb(out: Path) -> Content:
    """What `wandb sync` sends to a server on this machine, which is the only reader of these files that wandb has."""
    found: Content = {}
    with wandb_server() as (address, server):
        for mark in (out / "wandb").glob("*/*.wandb.synced"):
            mark.unlink()  # what an earlier reading left behind
        folders = map(str, (out / "wandb").glob("offline-run-*"))
        done = subprocess.run([sys.executable, "-m", "wandb", "sync", "--yes", "--include-synced", *folders], cwd=out, check=False,
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": "a" * 40, "WANDB_CONFIG_DIR": str(out / "c"),
                                   "WANDB_CACHE_DIR": str(out / "c")})
        assert done.returncode == 0, done.stderr
    for one in server.values():
        config = {name: entry["value"] for name, entry in one["config"].items() if name != "_wandb"}
        curves: Curves = {}
        for row in one["history"]:
            for name, value in row.items():
                if not name.startswith("_") and name != "epoch":
                    assert row["_step"] not in curves.setdefault(name, {}), "no step twice"
                    curves[name][row["_step"]] = float(value)
        trial = config.pop("harness")["trial_id"]
        assert trial not in found and one["complete"], "one whole run for each trial"
        found[trial] = (config, {n: v for n, v in one["summary"].items() if "/" in n or n.startswith("test_")}, curves)
    return found


def read_csv(out: Path) -> Content:
    found: Content = {}
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert row["trial_id"] not in found
            params = {n.removeprefix("param_"): v for n, v in row.items() if n.startswith("param_") and v}
            found[row["trial_id"]] = (params, {"selected/val_acc": float(row["val_acc"])} if row["val_acc"] else {}, {})
    with (out / "epochs.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            curve = found[row["trial_id"]][2].setdefault("val_acc", {})
            assert int(row["epoch"]) not in curve, "no epoch twice"
            curve[int(row["epoch"])] = float(row["val_acc"] or "nan")
    return found


READERS = {"csv": read_csv, "tensorboard": read_tensorboard, "mlflow": read_mlflow, "optuna": read_optuna, "wandb": read_wandb}


@contextmanager
def wandb_server() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """A server that takes runs as W&B's does: its address, and run -> what it was sent."""
    sent: dict[str, dict[str, Any]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            if self.path == "/graphql":
                self.answer({"data": self.asked(json.loads(body))})
            elif self.path.endswith("/file_stream"):
                self.stream(sent[self.path.split("/")[-2]], json.loads(body))
                self.answer({})
            else:
                self.answer({})

        def asked(self, question: dict[str, Any]) -> dict[str, Any]:
            given = question["variables"]
            if "upsertBucket" in question["query"]:
                one = sent.setdefault(given["name"], {"history": [], "summary": {}, "config": {}, "complete": False, "about": {}})
                one["config"] = json.loads(given.get("config") or "{}") or one["config"]
                one["about"] |= {name: value for name, value in given.items() if value is not None}
                project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
                return {"upsertBucket": {"inserted": True, "bucket": {"id": "b", "name": given["name"], "displayName": "", "config": "{}",
                                                                     "historyLineCount": 0, "project": project}}}
            if "createRunFiles" in question["query"]:
                here = f"http://{self.headers['Host']}"
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": [
                    {"name": name, "uploadUrl": f"{here}/upload"} for name in given["files"]]}}
            return {}

        def stream(self, one: dict[str, Any], message: dict[str, Any]) -> None:
            files = message.get("files") or {}
            one["history"] += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
            for line in files.get("wandb-summary.json", {}).get("content", []):
                one["summary"] = json.loads(line)
            one["complete"] = one["complete"] or bool(message.get("complete"))
            one["about"] |= {"exitcode": message["exitcode"]} if message.get("exitcode") is not None else {}

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer({})

        def do_GET(self) -> None:
            self.answer({})

        def answer(self, message: Mapping[str, Any]) -> None:
            body = json.dumps(message).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # wandb hangs up without a word

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()


def plain(content: Content) -> str:
    """To be compared: NaN is the same as NaN there."""
    return json.dumps(content, sort_keys=True, indent=1, default=str)


def identities(tool: str, out: Path) -> dict[str, object]:
    """What the tool calls each trial, or when its file was written: the same after an export that left it alone."""
    if tool == "mlflow":
        with sqlite3.connect(out / "mlflow.db") as database:
            return dict(database.execute("SELECT t.value, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
                                         "WHERE t.key = 'harness.trial_id' AND r.lifecycle_stage = 'active'").fetchall())
    if tool == "optuna":
        with sqlite3.connect(out / "optuna.db") as database:
            return dict(database.execute("SELECT value_json, trial_id FROM trial_user_attributes WHERE key = 'trial_id'").fetchall())
    files = {"csv": "*.csv", "tensorboard": "*/events*", "wandb": "wandb/*/*.wandb"}[tool]
    return {str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob(files)}
