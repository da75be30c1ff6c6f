"""What an earlier study found to be best."""

from harness.errors import StudyError
from harness.grid import parse_grid
from harness.plan import PlannedTrial
from harness.store import Store
from jobs.config import Value


def best_of_study(study: Store, variant: str) -> dict[str, Value]:
    """The parameters of the best config of an earlier study: of the variant with this name, or of all where it has no such variant.

    Raises:
        StudyError: there is no such study, or nothing of it has a result.
    """
    best = best_configs(study)
    name = variant if variant in best else next(iter(best), "")
    if not name:
        raise StudyError(f"[search] warm_start: {study.root} has no result to start from; launch that study first, or leave it out")
    trial: PlannedTrial = best[name][0]
    return dict(trial.config)


def best_configs(study: Store) -> dict[str, list[PlannedTrial]]:
    """variant -> the trials of its best config by the mean of the study's metric, the best variant first; what is confirmed counts before
    what was only searched."""
    text = study.frozen_grid()
    if text is None:
        return {}
    grid = parse_grid(text, name=str(study.grid_file))
    sign = -1 if grid.mode == "max" else 1
    groups: dict[tuple[str, int, str], list[tuple[float, PlannedTrial]]] = {}
    for trial in study.trials():
        result = study.result(trial.id)
        if result and result["status"] == "done":
            groups.setdefault((trial.variant, trial.number, trial.phase), []).append(
                (result["rows"][result["epoch"] - 1][grid.metric], trial))
    best: dict[str, tuple[tuple[bool, float], list[PlannedTrial]]] = {}
    for (variant, _, phase), found in groups.items():
        rank = phase == "search", sign * sum(value for value, _ in found) / len(found)
        if variant not in best or rank < best[variant][0]:
            best[variant] = rank, [trial for _, trial in found]
    return {variant: trials for variant, (_, trials) in sorted(best.items(), key=lambda item: item[1][0])}
