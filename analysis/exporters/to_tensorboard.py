"""A study's trials as TensorBoard's event files: a folder for each trial, which holds its curves, its hyperparameters and what it reached.

The hyperparameters stand in the run of the scalars, so that a trial is one run (torch's `add_hparams` makes a second one for them). The
framing of the records, their messages and those of the HParams plugin are the tensorboard package's own; neither tensorflow nor torch is
needed. A file is written whole, with the times of the training, so that the same trial gives the same bytes.

The format: tensorboard/plugins/hparams/summary.py says which message goes into which run.
"""

import io
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from analysis.exporters.runs import ENDED_WELL, Outcome, Run, Value, replace, runs, safe
from analysis.load import Study
from analysis.parameters import parameters

FILE = "events.out.tfevents.0000000000.harness.v2"
"""TensorBoard reads files with "tfevents" in their names; without a time and a process in it the name is the same each time."""


def export(study: Study, out: Path) -> Outcome:
    """Writes a folder for each trial that has ended, and into `out` itself what the columns of the HParams page are.

    Raises:
        AnalysisError: no trial has ended.
        OSError: it cannot be written.
    """
    outcome = Outcome(path=out, look=f"tensorboard --logdir {out}")
    found = runs(study)
    varied = [p.name for p in parameters(study)]
    _write(out / FILE, [(0.0, 0, _columns(found, varied, study.metric))])
    there = {_id(path.name): path for path in out.iterdir() if path.is_dir()}
    for run in found:
        name = _folder(run)
        old = there.get(_id(name))
        if old is not None and old.name != name:  # the variant has another name now
            shutil.rmtree(old)
        data = _bytes(_events(run, study.metric))
        path = out / name / FILE
        if outcome.count(path.read_bytes() if path.exists() else None, data):
            replace(path, data)
    return outcome


def _folder(run: Run) -> str:
    """The name of a run's folder; it ends with the trial's name, by which the next export finds it."""
    return f"{safe(run.variant, r'A-Za-z0-9_.=,+-', 80).lstrip('.')}-{safe(run.id, 'A-Za-z0-9_-', 80)}"


def _id(folder: str) -> str:
    """The part of a folder's name that says which trial it holds."""
    match = re.search(r"[0-9a-f]{16}-s[0-9]+$", folder)
    return match[0] if match else folder


def _events(run: Run, metric: str) -> Iterable[tuple[float, int, "summary_pb2.Summary.Value"]]:
    """What a run's file holds, as time, step and value."""
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=run.started, group_name=run.id)
    for name, value in {**run.params, "variant": run.variant, "seed": run.seed, "status": run.status}.items():
        _set(start.hparams[name], value)
    yield run.started, 0, _plugin(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))
    yield run.started, 0, _text("trial", run.tags)
    for epoch in run.epochs:
        for name, value in epoch.metrics.items():
            yield epoch.time, epoch.number, summary_pb2.Summary.Value(tag=name, simple_value=value)
    for name, value in run.values.items():
        yield run.ended, run.epoch, summary_pb2.Summary.Value(tag=name, simple_value=value)
    status = api_pb2.STATUS_SUCCESS if run.status in ENDED_WELL else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=run.ended)
    yield run.ended, 0, _plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))


def _columns(found: Sequence[Run], varied: Sequence[str], metric: str) -> "summary_pb2.Summary.Value":
    """The columns of the HParams page: what varies, and what was reached. Without it TensorBoard shows every parameter, and of each metric
    the last epoch."""
    experiment = api_pb2.Experiment()
    for name in ("variant", *varied, "seed", "status"):
        values = [run.params[name] for run in found if name in run.params]
        kind = api_pb2.DATA_TYPE_STRING
        if name == "seed" or values and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            kind = api_pb2.DATA_TYPE_FLOAT64
        elif values and all(isinstance(v, bool) for v in values):
            kind = api_pb2.DATA_TYPE_BOOL
        experiment.hparam_infos.add(name=name, type=kind)
    first = (f"selected/{metric}", "test_acc", "test_loss")
    known = {name for run in found for name in run.values}
    for name in (*(n for n in first if n in known), *sorted(known - set(first))):
        experiment.metric_infos.add(name=api_pb2.MetricName(tag=name))
    return _plugin(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _set(field: Any, value: Value) -> None:
    """A hyperparameter's value. JSON, in which the page gets them, has no infinities."""
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, (int, float)) and math.isfinite(value):
        field.number_value = value
    else:
        field.string_value = str(value)


def _plugin(tag: str, data: "plugin_data_pb2.HParamsPluginData") -> "summary_pb2.Summary.Value":
    about = metadata.create_summary_metadata(data)
    data.version = metadata.PLUGIN_DATA_VERSION
    about.plugin_data.content = data.SerializeToString(deterministic=True)  # else a map's order is another in each process
    return summary_pb2.Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)


def _text(tag: str, facts: dict[str, str]) -> "summary_pb2.Summary.Value":
    """A page of the Text tab with a table; TensorBoard itself cleans the HTML of what it shows."""
    def cell(text: str) -> str:
        return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", " ".join(text.split()))

    table = "\n".join(["| | |", "| --- | --- |", *(f"| {cell(name)} | {cell(text)} |" for name, text in sorted(facts.items()))])
    tensor = TensorProto(dtype=DT_STRING, string_val=[table.encode()])
    return summary_pb2.Summary.Value(tag=tag, metadata=text_metadata.create_summary_metadata(None, ""), tensor=tensor)


def _bytes(values: Iterable[tuple[float, int, "summary_pb2.Summary.Value"]]) -> bytes:
    """An event file."""
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    writer.write(event_pb2.Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString(deterministic=True))
    for time, step, value in values:
        event = event_pb2.Event(wall_time=time, step=step, summary=summary_pb2.Summary(value=[value]))
        writer.write(event.SerializeToString(deterministic=True))
    return buffer.getvalue()


def _write(path: Path, values: Iterable[tuple[float, int, "summary_pb2.Summary.Value"]]) -> None:
    data = _bytes(values)
    if not path.exists() or path.read_bytes() != data:
        replace(path, data)
