"""A study's trials as offline runs of Weights & Biases, for `wandb sync` from a machine with internet. Nothing is sent and no login asked.

Each is made by wandb itself in a folder beside the others and moved there when it is whole.
"""

import datetime
import json
import shutil
from pathlib import Path

from analysis.exporters.runs import ENDED_WELL, Outcome, Run, environment, replace, runs, safe, shown
from analysis.load import AnalysisError, Study

FOLDER, ASIDE, MARK = "wandb", ".unfinished", "harness.json"
"""Where `wandb sync` looks, where a run is made, and the file in a run's folder that says what it held when it was written."""
NAME, TAG = 128, 64
"""How long W&B's names and tags may be."""
ID = r"A-Za-z0-9_.-"
PROJECT = "slurm-harness"


def export(study: Study, out: Path) -> Outcome:
    """Adds an offline run for each trial that has ended. A run whose trial has changed is replaced, and has to be synchronised again.

    Raises:
        AnalysisError: no trial has ended, or wandb refuses one.
        OSError: the folder cannot be written.
    """
    outcome = Outcome(path=out / FOLDER, look=f"(cd {out} && wandb sync), where there is internet")
    found = runs(study)
    there = _there(out / FOLDER)
    missing = [run for run in found if outcome.count(there.get(_id(study, run), (None, None))[1], run.digest())]
    if not missing:
        return outcome
    aside = out / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    (out / FOLDER).mkdir(exist_ok=True)
    # without the first two, wandb 0.31 looks up the address of its telemetry, offline or not; a user's own settings would change the runs,
    # and its folders are by default below the home
    places = {name: str(aside / "own") for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")}
    with environment("WANDB_", WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", **places):
        import wandb

        try:
            for run in missing:
                made = _write(study, run, aside)
                replace(made / MARK, json.dumps({"id": _id(study, run), "digest": run.digest()}).encode())
                old, _ = there.get(_id(study, run), (None, None))
                if old is not None:
                    shutil.rmtree(old)
                made.rename(out / FOLDER / _folder(study, run))
        except wandb.Error as error:
            raise AnalysisError(f"wandb refuses trial {run.id}: {error}") from error
        finally:
            wandb.teardown()
    shutil.rmtree(aside, ignore_errors=True)
    return outcome


def _id(study: Study, run: Run) -> str:
    """W&B's name of a run, one in a project: the trial's, and the study's, since two studies may have a trial in common."""
    return safe(f"{run.id}-{study.name}", ID, 64)


def _folder(study: Study, run: Run) -> str:
    """The name of an offline run's folder, by which `wandb sync` knows it."""
    return f"offline-run-{datetime.datetime.fromtimestamp(run.started, datetime.UTC):%Y%m%d_%H%M%S}-{_id(study, run)}"


def _key(metric: str) -> str:
    """A metric's name with what W&B can draw: its documentation asks for letters, digits and "_"."""
    return safe(metric, "A-Za-z0-9_/", NAME)


def _there(folder: Path) -> dict[str, tuple[Path | None, str | None]]:
    """The runs that were exported before: their names with their folders and digests."""
    found: dict[str, tuple[Path | None, str | None]] = {}
    for path in folder.glob(f"offline-run-*/{MARK}"):
        try:
            mark = json.loads(path.read_bytes())
            found[str(mark["id"])] = (path.parent, str(mark["digest"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _write(study: Study, run: Run, aside: Path) -> Path:
    """One offline run; returns its folder."""
    import wandb

    reason = run.tags.get("reason")
    made = wandb.init(
        mode="offline", id=_id(study, run), dir=aside, project=PROJECT, group=shown(study.name, NAME), name=shown(run.name, NAME),
        job_type=shown(run.variant, TAG), tags=[shown(run.status, TAG)], notes=shown(reason, 500) if reason else None,
        config={"variant": run.variant, "seed": run.seed, **run.params, "harness": run.tags}, reinit="create_new", settings=wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True,
            x_disable_machine_info=True, x_save_requirements=False, x_disable_viewer=True))
    try:
        folder = Path(made.dir).parent
        for epoch in run.epochs:
            made.log({**{_key(n): v for n, v in epoch.metrics.items()}, "epoch": epoch.number, "_timestamp": epoch.time}, step=epoch.number)
        made.summary.update({**{_key(n): v for n, v in run.values.items()}, **({"selected/epoch": run.epoch} if run.epoch else {})})
    finally:
        made.finish(exit_code=0 if run.status in ENDED_WELL else 1)
    return folder
