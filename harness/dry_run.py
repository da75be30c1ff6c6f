"""What a launch would do: the trials by parameter, what is done already, what is missing, what it would cost, and what it would refuse."""

import math
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import slurm
from harness.errors import StudyError
from harness.estimate import duration, estimate
from harness.grid import Grid, Tuned, Variant
from harness.grid_draft import text_of
from harness.local import LocalExecutor
from harness.needs import Missing, Source, find_source, missing, missing_text, needed_configs, source_digests
from harness.plan import PlannedTrial
from harness.profile import Profile
from harness.store import Store
from harness.trials import Planner, changes
from jobs import registry
from jobs.config import Config
from jobs.data import data_folder

SHOWN_TRIALS = 12


def show(grid: Grid, root: Path, *, grid_path: Path, profile: Profile | None, overrides: Sequence[str] = (),
         update_grid: bool = False) -> int:
    """Prints the plan of a study; submits and writes nothing. Returns the exit status.

    Args:
        profile: the site's profile; None is for this machine.
        overrides: the `--set` options the grid was read with, for the commands that are shown.
        update_grid: whether a grid that differs from the study's is meant to replace it.
    """
    store, local = Store(root), profile is None
    configs = [config.as_dict() for config in needed_configs(grid)]
    gone = missing(configs, data=data_folder(), runs=store.root.parent, grid=grid_path, overrides=overrides)
    if grid.search:
        print(f"{grid.name}  {grid.trial_count()} trials = {_search_size(grid)}")
        facts = [_compares(grid), _parameters(grid, grid.search.trials * len(grid.seeds)), *_searches(grid), ("time", _search_time(grid))]
    else:
        trials = Planner(grid, source_digests(grid, store)).trials()
        states = store.scan(trials)
        left = [t for t in trials if not states[t.id].result]
        print(f"{grid.name}  {len(trials)} trials = {_count(len(grid.variants), 'variant')} x {_count(len(grid.seeds), 'seed')}"
              f"        [{len(trials) - len(left)} done, {len(left)} to run]")
        facts = [_compares(grid), _parameters(grid, len(grid.seeds)), _trials(trials), ("time", _time(grid, store, left, local=local)),
                 *([] if profile is None else [("jobs", _jobs(grid, profile, len(left)))]), ("disk", _disk(grid, store, left))]
    for label, text in [*facts, *_reads(grid, store)]:
        head, *rest = text.splitlines() or [""]
        print(f"  {label:<11}{head}")
        for line in rest:
            print(f"  {'':<11}{line}")
    if gone:
        print("\n" + missing_text(gone))
    print("\n" + _closing(grid, store, gone, local=local, update_grid=update_grid))
    return 0


def _closing(grid: Grid, store: Store, gone: list[Missing], *, local: bool, update_grid: bool) -> str:
    """The last paragraph: that the command launches the study, or everything for which it would be refused."""
    reasons = []
    if not local and not slurm.available():
        reasons.append("no Slurm here (sbatch is not on the PATH); add --local to run on this machine")
    frozen = store.frozen_grid()
    if frozen is not None and not update_grid and (difference := changes(frozen, grid)):
        reasons.append(f"the grid differs from the one {shlex.quote(str(store.root))} was begun with; --study-dir DIR begins another "
                       "study, --update-grid lets the new grid replace the old one:\n" + difference)
    if gone:
        reasons.append("what is missing has to be mended first, as shown above")
    if local:
        try:
            LocalExecutor(store, grid.local).check()
        except StudyError as error:
            reasons.append(str(error))
    if not reasons:
        return "Nothing was submitted. The same command without --dry-run launches it."
    return "\n".join(["Nothing was submitted, and without --dry-run it would be refused:",
                      *("  - " + reason.replace("\n", "\n    ") for reason in reasons)])


def _compares(grid: Grid) -> tuple[str, str]:
    return ("compares", f"{', '.join(grid.compared) or 'nothing: one variant'}; {grid.metric} ({grid.mode}), select {grid.select}, "
                        f"test split {'once per trial' if grid.test == 'each' else 'only for what is confirmed'}; "
                        f"reference {grid.reference}")


def _parameters(grid: Grid, each: int) -> tuple[str, str]:
    """How many trials have which value, when every variant has `each`."""
    lines = []
    for name in grid.compared:
        counts = Counter(_value(grid, variant, name) for variant in grid.variants)
        lines.append(f"{name}: " + ", ".join(f"{value} ({count * each})" for value, count in counts.items()))
    return ("parameters", "\n".join(lines) or "one variant")


def _value(grid: Grid, variant: Variant, name: str) -> str:
    """What a parameter is in a variant, in words."""
    values = grid.config_values(variant)
    if grid.job is None:
        config = Config(**values)  # type: ignore[arg-type]  # the grid was checked
        open_yet = registry.readers(name).keys() & {tuned.name for tuned in grid.tune or ()}
        return "not read" if name in config.inactive() and not open_yet else str(getattr(config, name))
    return str(values.get(name))


def _trials(trials: list[PlannedTrial]) -> tuple[str, str]:
    lines = [f"{t.id}  {t.variant}  seed {t.seed}" for t in trials]
    hidden = len(lines) - SHOWN_TRIALS
    return ("trials", "\n".join(lines if hidden <= 0 else [*lines[:SHOWN_TRIALS - 1], f"and {hidden + 1} more"]))


def _search_size(grid: Grid) -> str:
    """Where the number of a search's trials comes from."""
    assert grid.search
    tried = f"{_count(len(grid.variants), 'variant')} x {_count(grid.search.trials, 'config')} x {_count(len(grid.seeds), 'seed')}"
    if grid.confirm is None:
        return tried
    return f"{tried}, and {_count(grid.confirm.top, 'config')} of each variant confirmed on {_count(grid.confirm.seeds, 'seed')}"


def _searches(grid: Grid) -> list[tuple[str, str]]:
    """What is tuned, and how."""
    search = grid.search
    assert search
    facts = [("tuned", "\n".join(map(_tuned, grid.tune or ())))]
    facts += [("require", "\n".join(requirement.text for requirement in grid.requirements))] if grid.requirements else []
    waiting = "the next wave waits for the last" if search.running == search.wave else f"at most {search.running} at once"
    how = [f"{_count(search.trials, 'config')} of each variant, proposed by {search.algorithm} in waves of {search.wave}, {waiting}"]
    if search.tries or search.warm_start:
        earlier = f"the best of {search.warm_start.removeprefix('study:')}" if search.warm_start else ""
        tries = _count(len(search.tries), "setting") + " of [[search.try]]" if search.tries else ""
        how.append("first " + " and ".join(filter(None, [tries, earlier])))
    if halving := search.halving:
        how.append(f"halving: the best 1/{halving.factor} go on, from {_count(halving.first, 'epoch')} to {halving.factor} times as many, "
                   "and so on to all")
    facts.append(("search", "\n".join(how)))
    if confirm := grid.confirm:
        test = ", then the test split, once" if grid.test == "confirmed" else ""
        seeds = ", ".join(map(str, grid.fresh_seeds()))
        facts.append(("confirm", f"the best {confirm.top} of each variant on fresh seeds ({seeds}){test}"))
    return facts


def _tuned(tuned: Tuned) -> str:
    """A tuned parameter as a person says it."""
    values = ", ".join(map(text_of, tuned.choices)) if tuned.choices else f"{tuned.low:g} to {tuned.high:g}"
    how = [", in order" if tuned.choices and tuned.ordered else "", ", logarithmic" if tuned.log else "",
           f" in steps of {tuned.step:g}" if tuned.step else ""]
    when = " and ".join(f"{name} is {text_of(value)}" for name, value in tuned.when)
    return f"{tuned.name}: {values}{''.join(how)}{f'   (where {when})' if when else ''}"


def _search_time(grid: Grid) -> str:
    """What can be said of the time before anything is proposed."""
    jobs = math.ceil(grid.trial_count() / grid.slurm.trials_of_a_job)
    return (f"not known before configs are proposed; the figures of a study that ran are in `status`. On Slurm at most "
            f"{jobs * grid.slurm.time_min / 60:.0f} job-hours by the time limit of {grid.slurm.time_min} min")


def _reads(grid: Grid, store: Store) -> list[tuple[str, str]]:
    """The data sets, and which trials of earlier studies others start from."""
    if grid.job is not None:
        return []
    configs = list(needed_configs(grid))
    facts = [("data", f"{', '.join(sorted({c.dataset for c in configs}))} in {shlex.quote(str(data_folder()))}")]
    for weights in sorted({c.weights for c in configs if c.weights.startswith("study:")}):
        source = find_source(Store(store.root.parent / weights.removeprefix("study:")))
        facts.append(("weights", f"{weights}: " + (_starts(source, grid.seeds) if isinstance(source, Source) else "not decided yet")))
    return facts


def _starts(source: Source, seeds: Sequence[int]) -> str:
    """Which trial of an earlier study each seed starts from."""
    others = [seed for seed in seeds if seed not in source.trials]
    same = "the trial with the same seed" if len(others) < len(seeds) else ""
    best = f"its best trial, {source.best}, for {'seed' if len(others) == 1 else 'seeds'} {', '.join(map(str, others))}" if others else ""
    return f"variant {source.variant}, {', '.join(filter(None, [same, best]))}"


def _time(grid: Grid, store: Store, left: list[PlannedTrial], *, local: bool) -> str:
    """Hours, and where the figure comes from."""
    if not left:
        return "nothing left to run"
    executor = LocalExecutor(store, grid.local)
    wanted = grid.slurm
    if local or not slurm.available():
        place = f"{executor.slots} at a time on this machine"
        guess = estimate(left, store.root.parent, device="cuda" if executor.gpus_per_worker else "cpu", ranks=grid.local.ranks)
        wall = guess.seconds / min(executor.slots, len(left))
    else:
        gpus = wanted.nodes * wanted.gpus_per_node
        bound = len(left) * wanted.time_min / 60
        place = f"at most {bound * max(gpus, 1):.0f} {'GPU' if gpus else 'job'}-hours by the time limit of {wanted.time_min} min"
        guess = estimate(left, store.root.parent, device="cuda" if gpus else "cpu", ranks=wanted.nodes * wanted.tasks_per_node)
        wall = guess.seconds
    if not guess.known:
        return f"unknown: no trial of this kind has run under {shlex.quote(str(store.root.parent))} yet; {place}"
    part = "" if guess.known == len(left) else f" for {guess.known} of {len(left)} trials"
    return f"about {duration(wall)}{part}, {place}\nfrom: {guess.source}"


def _jobs(grid: Grid, profile: Profile, trials: int) -> str:
    """What Slurm would be asked for."""
    from harness.slurm_executor import job_parameters

    wanted, count = grid.slurm, math.ceil(trials / grid.slurm.trials_of_a_job)
    asked = {name: value for name, value in job_parameters(wanted, profile).items() if not isinstance(value, bool | list | dict | None)}
    more = {name: value for name, value in job_parameters(wanted, profile)["additional_parameters"].items() if value is not True}
    options = shlex.join(f"--{name.replace('_', '-')}={value}" for name, value in {**asked, **more}.items())
    running = f", at most {wanted.running} at once" if wanted.running else ""
    return (f"{_count(count, 'job')} of {_count(wanted.trials_of_a_job, 'trial')}{running}, profile {profile.name or '(none)'}\n{options}")


def _disk(grid: Grid, store: Store, left: list[PlannedTrial]) -> str:
    """Space for the selected weights of each trial, and for the checkpoints of those that run."""
    there = store.root
    while not there.exists():
        there = there.parent
    free = f"{shutil.disk_usage(there).free / 1e9:.0f} GB free at {shlex.quote(str(there))}"
    if grid.job is not None:
        return free
    known = [count * 4 / 1e9 for t in left if (count := registry.parameter_count(t.config))]
    if not known:
        return free + ("" if left else "; nothing more is written")
    peak = max(known) * 3 * 2  # weights, momentum, best weights; two checkpoints are kept
    return f"about {_gb(sum(known))} of selected weights, and {_gb(peak)} of checkpoints for each trial that runs; {free}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _gb(size: float) -> str:
    return f"{size:.1f} GB" if size >= 1 else f"{max(size * 1000, 0.1):.1f} MB"
