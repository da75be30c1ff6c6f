"""Which config of a variant leads, for screens that show how a study goes. Pure."""

from collections.abc import Iterable, Mapping

from harness.plan import PlannedTrial


def leading(trials: Iterable[PlannedTrial], values: Mapping[str, float], mode: str) -> list[float]:
    """The values over the seeds of the config that leads: of what is confirmed if anything is, else of what was trained longest. In a
    grid without [tune] a variant has one config.

    Args:
        trials: those of one variant.
        values: trial -> the study's metric, of those that have one.
        mode: "max" when more is better.
    """
    groups: dict[tuple[bool, float, int], list[float]] = {}
    for trial in trials:
        if trial.id in values:
            epochs = float("inf") if trial.budget is None else float(trial.budget)
            groups.setdefault((trial.phase == "search", -epochs, trial.number), []).append(values[trial.id])
    sign = -1.0 if mode == "max" else 1.0
    best = min(groups, key=lambda of: (*of[:2], sign * sum(groups[of]) / len(groups[of]), of[2]), default=None)
    return groups[best] if best else []
