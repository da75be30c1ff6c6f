"""What a launch would do: the trials by parameter, what is done already, what is missing, and what it would cost."""

import shutil
from collections import Counter
from pathlib import Path

from harness.estimate import duration, estimate
from harness.grid import Grid
from harness.local import LocalExecutor
from harness.needs import missing
from harness.store import PlannedTrial, Store
from harness.study import changes, missing_text, plan_trials, source_digests
from jobs import registry
from jobs.data import data_folder

SHOWN_TRIALS = 12


def show(grid: Grid, root: Path, *, grid_path: Path, local: bool) -> int:
    """Prints the plan of a study; submits and writes nothing. Returns the exit status."""
    store = Store(root)
    trials = plan_trials(grid, source_digests(grid, store))
    states = store.scan([t.id for t in trials])
    left = [t for t in trials if not states[t.id].result]
    print(f"{grid.name}  {len(trials)} trials = {_count(len(grid.variants), 'variant')} x {_count(len(grid.seeds), 'seed')}"
          f"        [{len(trials) - len(left)} done, {len(left)} to run]")
    for label, text in _facts(grid, store, trials, left, local=local):
        head, *rest = text.splitlines() or [""]
        print(f"  {label:<11}{head}")
        for line in rest:
            print(f"  {'':<11}{line}")
    gone = [] if grid.job else missing((t.config for t in trials), data=data_folder(), runs=store.root.parent, grid=grid_path)
    if gone:
        print("\n" + missing_text(gone))
    print("\nNothing was submitted. " + ("Stage what is missing first." if gone else "The same command without --dry-run launches it."))
    return 0


def _facts(grid: Grid, store: Store, trials: list[PlannedTrial], left: list[PlannedTrial], *, local: bool) -> list[tuple[str, str]]:
    """(label, text) of each paragraph."""
    facts = [("compares", f"{', '.join(grid.compared) or 'nothing: one variant'}; {grid.metric} ({grid.mode}), select {grid.select}, "
                          f"test split {'once per trial' if grid.test == 'each' else 'only for what is confirmed'}; "
                          f"reference {grid.reference}")]
    varying = [(name, Counter(str(t.config.get(name)) for t in trials)) for name in grid.compared]
    facts.append(("parameters", "\n".join(f"{name}: " + ", ".join(f"{value} ({count})" for value, count in counts.items())
                                          for name, counts in varying) or "one variant"))
    lines = [f"{t.id}  {t.variant}  seed {t.seed}" for t in trials]
    hidden = len(lines) - SHOWN_TRIALS
    facts.append(("trials", "\n".join(lines if hidden <= 0 else [*lines[:SHOWN_TRIALS - 1], f"and {hidden + 1} more"])))
    facts.append(("time", _time(grid, store, left, local=local)))
    facts.append(("disk", _disk(grid, store, left)))
    if grid.job is None:
        sets = sorted({t.config["dataset"] for t in trials})
        facts.append(("data", f"{', '.join(sets)} in {data_folder()}"))
    frozen = store.frozen_grid()
    if frozen is not None and (difference := changes(frozen, grid)):
        facts.append(("changed", f"the grid differs from the one {store.root} was begun with:\n{difference}"))
    return facts


def _time(grid: Grid, store: Store, left: list[PlannedTrial], *, local: bool) -> str:
    """Hours, and where the figure comes from."""
    if not left:
        return "nothing left to run"
    guess = estimate(left, store.root.parent)
    slots = LocalExecutor(store, grid.local).slots
    if local or shutil.which("sbatch") is None:
        place = f"{slots} at a time on this machine"
        wall = guess.seconds / min(slots, len(left))
    else:
        gpus = grid.slurm.nodes * grid.slurm.gpus_per_node
        bound = len(left) * grid.slurm.time_min / 60
        place = f"at most {bound * max(gpus, 1):.0f} {'GPU' if gpus else 'job'}-hours by the time limit of {grid.slurm.time_min} min"
        wall = guess.seconds
    if not guess.known:
        return f"unknown: no trial of this kind has run under {store.root.parent} yet; {place}"
    part = "" if guess.known == len(left) else f" for {guess.known} of {len(left)} trials"
    return f"about {duration(wall)}{part}, {place}\nfrom: {guess.source}"


def _disk(grid: Grid, store: Store, left: list[PlannedTrial]) -> str:
    """Space for the selected weights of each trial, and for the checkpoints of those that run."""
    there = store.root
    while not there.exists():
        there = there.parent
    free_gb = shutil.disk_usage(there).free / 1e9
    if grid.job is not None:
        return f"{free_gb:.0f} GB free at {there}"
    known = [count * 4 / 1e9 for t in left if (count := registry.parameter_count(t.config))]
    if not known:
        return f"{free_gb:.0f} GB free at {there}" + ("" if left else "; nothing more is written")
    peak = max(known) * 3 * 2  # weights, momentum, best weights; two checkpoints are kept
    return (f"about {_gb(sum(known))} of selected weights, and {_gb(peak)} of checkpoints for each trial that runs; "
            f"{free_gb:.0f} GB free at {there}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _gb(size: float) -> str:
    return f"{size:.1f} GB" if size >= 1 else f"{max(size * 1000, 0.1):.1f} MB"
