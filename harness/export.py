"""Writes the configs of a planned study as files, for `python -m jobs.train` and slurm/array.sbatch: the trials without the harness."""

from pathlib import Path

from harness.errors import StudyError
from harness.files import to_json
from harness.grid import Grid
from harness.needs import source_digests
from harness.store import Store
from harness.trials import Planner, request_of


def export(grid: Grid, store: Store, folder: Path) -> int:
    """Writes FOLDER/<trial_id>/config.json for every trial; returns how many there are.

    Args:
        store: the study's folder, beside which earlier studies are looked for that weights come from.

    Raises:
        StudyError: the folder cannot be written.
    """
    trials = Planner(grid, source_digests(grid, store)).trials()
    try:
        for trial in trials:
            (folder / trial.id).mkdir(parents=True, exist_ok=True)
            (folder / trial.id / "config.json").write_bytes(to_json({"config": trial.config, "seed": trial.seed, **request_of(grid)}))
    except OSError as error:
        raise StudyError(f"cannot write {error.filename or folder}: {error.strerror}; choose another place with --export DIR") from error
    return len(trials)
