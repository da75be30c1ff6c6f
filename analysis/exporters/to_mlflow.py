"""A study's trials as runs of an MLflow experiment in an SQLite file.

MLflow's limits: mlflow/utils/validation.py (1,000 metrics, 100 parameters, 100 tags in one call; names of 250 characters).
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.exporters import sqlite
from analysis.exporters.runs import ENDED_WELL, Outcome, Run, environment, runs, safe, shown
from analysis.load import AnalysisError, Study

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FILE, ARTIFACTS = "mlflow.db", "mlartifacts"
METRICS, PARAMS, NAME, PARAM_VALUE, TAG_VALUE, EXPERIMENT_NAME = 1000, 100, 250, 6000, 8000, 500
TRIAL, DIGEST = "harness.trial_id", "harness.digest"
"""Tags: which trial a run is of, and what it held when it was written, which is set last."""
ALLOWED = r"\w. -"
PAGE = 1000


def export(study: Study, out: Path) -> Outcome:
    """Adds the trials that have ended to the experiment of the study's name.

    A run that was cut short, or whose trial has changed since, is deleted (MLflow keeps it in its bin) and written again.

    Raises:
        AnalysisError: no trial has ended, or the file cannot be written.
    """
    path = out / FILE
    url = sqlite.address(path)
    outcome = Outcome(path=path, look=f"mlflow ui --backend-store-uri {url}")
    found = runs(study)
    with environment("MLFLOW_", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true"):  # it asks a server while it is imported
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            with sqlite.writing(path):
                client = MlflowClient(tracking_uri=url)
                experiment = _experiment(client, study, out)
                there = _runs(client, experiment)
                for run in found:
                    mine = there.get(run.id, {})
                    if outcome.count(next(iter(mine.values()), None), run.digest()):
                        for old in mine:
                            client.delete_run(old)
                        _write(client, experiment, run)
        except MlflowException as error:
            raise AnalysisError(f"{path}: {str(error).splitlines()[0][:200]}") from error
    return outcome


def _experiment(client: "MlflowClient", study: Study, out: Path) -> str:
    """The experiment of the study, made where there is none and taken from the bin where it is there."""
    name = shown(study.name, EXPERIMENT_NAME)
    known = client.get_experiment_by_name(name)
    if known is None:
        return str(client.create_experiment(name, artifact_location=(out / ARTIFACTS).resolve().as_uri(), tags={
            "harness.metric": study.metric, "harness.mode": study.mode, "harness.select": study.select}))
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def _runs(client: "MlflowClient", experiment: str) -> dict[str, dict[str, str]]:
    """Trial -> its runs, by their names, with what each held when it was written whole ("" if it was not)."""
    found: dict[str, dict[str, str]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        for run in page:
            if TRIAL in run.data.tags:
                found.setdefault(run.data.tags[TRIAL], {})[run.info.run_id] = run.data.tags.get(DIGEST, "")
        token = page.token
        if not token:
            return found


def _write(client: "MlflowClient", experiment: str, run: Run) -> None:
    """One run; its digest comes with the last of its numbers."""
    from mlflow.entities import Metric, Param, RunTag

    begin, end = _ms(run.started), _ms(run.ended)
    tags = {TRIAL: run.id, **{f"harness.{safe(name, ALLOWED, NAME - 8)}": shown(text, TAG_VALUE) for name, text in run.tags.items()}}
    if "commit" in run.tags:
        tags["mlflow.source.git.commit"] = run.tags["commit"]
    made = client.create_run(experiment, start_time=begin, tags=tags, run_name=shown(run.name, NAME)).info.run_id
    client.set_terminated(made, status="FINISHED" if run.status in ENDED_WELL else "KILLED" if run.status == "cancelled" else "FAILED",
                          end_time=end)
    given = {**run.params, **{n: v for n, v in (("seed", run.seed), ("variant", run.variant)) if n not in run.params}}
    params = [Param(safe(name, ALLOWED, NAME), shown(str(value), PARAM_VALUE)) for name, value in given.items()]
    metrics = [Metric(_metric(name), value, _ms(epoch.time), epoch.number) for epoch in run.epochs for name, value in epoch.metrics.items()]
    metrics += [Metric(_metric(name), value, end, run.epoch) for name, value in run.values.items()]
    batches = list(_together(metrics, params))
    for number, (some, others) in enumerate(batches, start=1):
        last = [RunTag(DIGEST, run.digest())] if number == len(batches) else []
        client.log_batch(made, metrics=some, params=others, tags=last)


def _together(metrics: Sequence[Any], params: Sequence[Any]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Both in pieces of what one call may hold; one piece at least."""
    for i in range(max(1, math.ceil(len(metrics) / METRICS), math.ceil(len(params) / PARAMS))):
        yield metrics[i * METRICS:(i + 1) * METRICS], params[i * PARAMS:(i + 1) * PARAMS]


def _metric(name: str) -> str:
    """A metric's name; its parts before and after "/" are folders of MLflow's page."""
    return "/".join(safe(part, ALLOWED, NAME // 2 - 1) for part in name.split("/"))


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
