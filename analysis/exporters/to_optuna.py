"""A study's trials as an Optuna study in an SQLite file, for its plots, its importances and optuna-dashboard."""

import json
import math
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.exporters import sqlite
from analysis.exporters.runs import Outcome, Run, Value, runs
from analysis.load import Study
from analysis.parameters import Parameter, parameters

FILE = "optuna.db"
ABOUT, DIGEST = "harness", "harness.digest"
"""The attribute of the study that says what its trials have in common, and the one of each trial that says what it held when written."""
STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
BLOCK = 100
"""Trials that are handed over together."""


def export(study: Study, out: Path) -> Outcome:
    """Adds the trials that have ended to the Optuna study of the study's name.

    Optuna lets nobody change a trial that has ended. So where one has changed, or the space has (its ranges are those of what was tried),
    the Optuna study is deleted and made again.

    Raises:
        AnalysisError: no trial has ended, or the file cannot be written.
    """
    path = out / FILE
    url = sqlite.address(path)
    outcome = Outcome(path=path, look=f"optuna-dashboard {url}")
    found = runs(study)
    space = _space(study, found)
    about = _about(study, found, space)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with sqlite.writing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(url)
        try:
            target, there, made = _open(study, storage, about, {run.id: run.digest() for run in found})
            missing = [run for run in found if outcome.count(there.get(run.id), run.digest()) or made]
            for first in range(0, len(missing), BLOCK):
                target.add_trials([_trial(run, study, space) for run in missing[first:first + BLOCK]])
        finally:
            storage.engine.dispose()
    return outcome


def _open(study: Study, storage: "optuna.storages.RDBStorage", about: dict[str, Any],
          wanted: dict[str, str]) -> tuple["optuna.Study", dict[str, str], bool]:
    """The Optuna study, the digests of the trials that were in it, and whether it was made (again) and is empty."""
    there: dict[str, str] = {}
    if study.name in optuna.get_all_study_names(storage):
        target = optuna.load_study(study_name=study.name, storage=storage)
        there = {t.user_attrs.get("trial_id", ""): t.user_attrs.get(DIGEST, "") for t in target.get_trials(deepcopy=False)}
        if target.user_attrs.get(ABOUT) == about and all(wanted.get(trial) == digest for trial, digest in there.items()):
            return target, there, False
        optuna.delete_study(study_name=study.name, storage=storage)
    target = optuna.create_study(study_name=study.name, storage=storage, direction="minimize" if study.mode == "min" else "maximize")
    target.set_metric_names([study.metric])
    target.set_user_attr(ABOUT, about)
    return target, there, True


def _space(study: Study, found: Sequence[Run]) -> dict[str, BaseDistribution]:
    """A distribution for each parameter that varies; the tables do not hold the grid's own ranges."""
    space: dict[str, BaseDistribution] = {}
    for parameter in parameters(study):
        values = [run.params[parameter.name] for run in found if parameter.name in run.params]
        if values:
            space[parameter.name] = _distribution(parameter, values)
    return space


def _distribution(parameter: Parameter, values: Sequence[Value]) -> BaseDistribution:
    numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    if parameter.choices or not parameter.numeric or not numbers:
        kind: Any = type(values[0])
        choices = [kind(c) for c in parameter.choices if c is not None]  # a choice of 1 among floats is 1.0 in the column
        return CategoricalDistribution(list(dict.fromkeys([*choices, *values])))
    low, high, log = min(numbers), max(numbers), parameter.log and min(numbers) > 0
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _about(study: Study, found: Sequence[Run], space: dict[str, BaseDistribution]) -> dict[str, Any]:
    """What all trials have in common, as JSON."""
    names = {name for run in found for name in run.params} - space.keys()
    fixed = {name: _json(found[0].params[name]) for name in sorted(names)
             if name in found[0].params and all(run.params.get(name) == found[0].params[name] for run in found)}
    about = {"study": study.name, "metric": study.metric, "mode": study.mode, "select": study.select, "fixed": fixed,
             "space": {name: distribution_to_json(one) for name, one in space.items()}}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _json(value: Value) -> Value:
    """JSON, which optuna-dashboard gives to the browser, has no infinities."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _trial(run: Run, study: Study, space: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial as Optuna has it. Its value is the metric in the selected epoch; the metric of each epoch is an intermediate value, and
    what Optuna has no place for is an attribute, the tags together as one: each costs three questions to the database."""
    value = run.values.get(f"selected/{study.metric}")
    state = STATES.get(run.status, TrialState.FAIL)
    state = TrialState.FAIL if state == TrialState.COMPLETE and value is None else state
    known = {name: v for name, v in run.params.items() if name in space and not (
        isinstance(v, float) and not math.isfinite(v) and not isinstance(space[name], CategoricalDistribution))}
    odd = {f"param_{name}": str(v) for name, v in run.params.items() if name in space and name not in known}
    trial = create_trial(
        state=state, value=None if state == TrialState.FAIL else value, params=known,
        distributions={name: space[name] for name in known},
        intermediate_values={e.number: e.metrics[study.metric] for e in run.epochs if study.metric in e.metrics},
        user_attrs={**{name: _json(v) for name, v in run.values.items()}, **odd, "trial_id": run.id, "variant": run.variant,
                    "seed": run.seed, "status": run.status, "facts": run.tags, DIGEST: run.digest()})
    trial.datetime_start, trial.datetime_complete = datetime.fromtimestamp(run.started), datetime.fromtimestamp(run.ended)
    return trial
