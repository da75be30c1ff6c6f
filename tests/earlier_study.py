"""Writes an earlier study of the built-in job whose trials have ended as told, with weights that nobody reads."""

from collections.abc import Mapping
from pathlib import Path

from harness.grid import parse_grid
from harness.plan import PlannedTrial
from harness.store import Store
from harness.waves import Wave

GRID = """
[study]
name = "{name}"
seeds = [{seeds}]
metric = "{metric}"
[compare]
depth = [{depths}]
"""


def write_earlier_study(root: Path, ended: Mapping[tuple[int, int], float | str | None], *, metric: str = "val_acc") -> Store:
    """A study whose variants are "depth=1" and so on.

    Args:
        ended: (depth, seed) -> the metric at the selected epoch, or "infeasible" or "failed", or None where nothing has run yet. Trials are
            called d<depth>-s<seed>, their weights hold that name.
    """
    depths, seeds = (sorted({key[i] for key in ended}) for i in (0, 1))
    text = GRID.format(name=root.name, seeds=", ".join(map(str, seeds)), metric=metric, depths=", ".join(map(str, depths)))
    store = Store(root)
    store.create_folders()
    store.freeze_grid(text)
    named = len(parse_grid(text).variants) > 1
    trials = [PlannedTrial(id=f"d{depth}-s{seed}", variant=f"depth={depth}" if named else root.name, seed=seed, wave=0, config={})
              for depth, seed in ended]
    store.write_wave(Wave(trials=tuple(trials)))
    for trial, how in zip(trials, ended.values(), strict=True):
        if how is None:
            continue
        log = store.begin_attempt(trial, 0, {})
        assert log
        if how == "failed":
            log.write({"event": "end", "cause": "exception", "error": "told to"})
        elif how == "infeasible":
            store.publish_result(trial.id, {"status": "infeasible", "reason": "told to", "epoch": None, "rows": [], "test": {}})
        else:
            store.selected_weights(trial.id).write_bytes(trial.id.encode())
            rows = [{"epoch": 1, metric: 0.5}, {"epoch": 2, metric: how}]
            store.publish_result(trial.id, {"status": "done", "reason": None, "epoch": 2, "rows": rows, "test": {}})
        log.close()
    return store
