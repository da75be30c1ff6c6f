"""What trials need before they can run, and what of it is missing: raw data, caches, weights, an earlier study.

Run as a program it builds caches, in a process of its own; `build_caches` is who starts it.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs.data
from harness.errors import MissingData
from harness.grid import Grid, parse_grid
from harness.plan import PlannedTrial, plan
from harness.search.earlier import best_configs
from harness.store import Store
from jobs import durable, registry
from jobs.config import Config, ConfigError, Value
from jobs.contract import DataError
from jobs.datasets import is_own

_DECIDING = ("dataset", "image_size", "model", "weights")
"""The parameters that decide which files a trial needs."""
_OF_FOLDERS = ("dataset", "image_size", "classes", "val_fraction", "test_fraction")
"""The parameters that a user's own folder of images may not bear out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """Something that has to be there before a trial can be submitted."""

    what: str
    """The name of it."""
    where: str
    """Where it was looked for."""
    command: str
    """What to run."""


def needed_configs(grid: Grid) -> Iterator[Config]:
    """One config for each combination of data set, image size, model and weights that the grid's trials may have; none for a job of the
    user's own. Of a tuned range only the ends are taken: no grid that makes sense tunes a range of these."""
    if grid.job is not None:
        return
    tuned: dict[str, tuple[Value, ...]] = {}
    for t in grid.tune or ():
        if t.name in _DECIDING:
            ends = tuple(int(end) for end in (t.low, t.high) if end is not None)
            tuned[t.name] = (*tuned.get(t.name, ()), *(t.choices or ends))
    for variant in grid.variants:
        values = grid.config_values(variant)
        for choice in itertools.product(*tuned.values()):
            try:
                yield Config.from_dict({**values, **dict(zip(tuned, choice, strict=True))})
            except ConfigError:
                if not tuned:
                    raise
                # weights of another model: a combination that [tune.when] keeps apart


def own_functions(grid: Grid) -> list[str]:
    """The functions of the user's own that a grid's trials call, "package.module:function": its job, and what builds its models."""
    if grid.job is not None:
        return [grid.job.run]
    return sorted({config.model for config in needed_configs(grid) if registry.is_function(config.model)})


def missing(configs: Iterable[dict[str, Any]], *, data: Path, runs: Path, grid: Path, overrides: Sequence[str] = ()) -> list[Missing]:
    """Everything the configs need and do not find, each thing once.

    Args:
        configs: full configs of the built-in job.
        data: the data folder.
        runs: the folder that holds this and earlier studies.
        grid: the grid's file, for the command that mends it.
        overrides: the `--set` options the grid was read with.

    Raises:
        MissingData: the data folder may not be read, or a user's own images are not what the configs take them for.
    """
    configs, found = list(configs), dict[str, Missing]()
    changed = [word for override in overrides for word in ("--set", override)]
    stage = shlex.join(["python", "-m", "harness.stage", str(grid), *changed]) + "   # where there is internet"
    for config in {tuple(config[name] for name in _DECIDING): config for config in configs}.values():
        dataset = config["dataset"]
        try:
            gone = [] if dataset in found else jobs.data.missing(Config.from_dict(config), data)
        except DataError as error:
            raise MissingData(str(error)) from error
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            mend = f"put your images at {gone[0]}/<class>/, or set HARNESS_DATA to where they are" if is_own(dataset) else stage
            found[dataset] = Missing(what=f"data set {dataset}", where=f"{gone[0]}{more}", command=mend)
        weights = config["weights"]
        if weights.startswith("study:"):
            if weights not in found and (lacking := missing_source(Store(runs / weights.removeprefix("study:")), grids=grid.parent)):
                found[weights] = lacking
        elif (path := registry.weights_path(config["model"], weights, data)) and not path.exists():
            found[str(path)] = Missing(what=f"weights {weights} of {config['model']}", where=str(path), command=stage)
    own = {tuple(config[name] for name in _OF_FOLDERS): config for config in configs if is_own(config["dataset"])}
    check_own_images(map(Config.from_dict, own.values()), data)
    return list(found.values())


def check_own_images(configs: Iterable[Config], data: Path) -> None:
    """Raises MissingData for what only a user's own folders of images can tell, from the names in them: a layout that is refused, classes
    that they do not have, files that changed after their cache was built."""
    problems: dict[str, None] = {}
    looked: set[Path] = set()
    for config in configs:
        try:
            if (cache := jobs.data.cache_folder(config, data)) not in looked:
                looked.add(cache)
                jobs.data.check_unchanged(config, data)
            jobs.data.check_own(config, data)
        except (DataError, ConfigError, OSError) as error:
            problems[str(error)] = None
    if problems:
        raise MissingData("\n".join(problems))


# ---------------------------------------------------------------------------------------------------------- an earlier study


def missing_text(gone: list[Missing]) -> str:
    """All that is missing, each with the command that mends it."""
    lines = ["not here yet:"]
    for command in dict.fromkeys(item.command for item in gone):
        lines += [f"  {item.what}: not found at {item.where}" for item in gone if item.command == command]
        lines.append(f"    mend: {command}")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The trials of a finished study that others start from: those of the variant with the best mean of its metric."""

    variant: str
    trials: dict[int, str]
    """seed -> trial."""
    best: str
    """The trial with the best value, for seeds that the study does not have."""

    def trial(self, seed: int) -> str:
        """The trial that a trial with `seed` starts from."""
        return self.trials.get(seed, self.best)


def find_source(study: Store) -> Source | str:
    """Where weights come from in a study that is finished, or what of it is lacking.

    A variant in which a trial diverged or could not be built is passed over. Every trial must be over, because the choice of the variant
    would change with what is still to come; and the chosen variant needs a result for every seed, because its mean would.
    """
    name, text = study.root.name, study.frozen_grid()
    trials = study.trials() if text is not None else []
    if text is None or not trials:
        return f"study {name}, which the weights come from"
    grid = parse_grid(text, name=str(study.grid_file))
    status = _status(study, grid, trials)
    if grid.search and "pending" not in status.values():
        trials = [trial for best in best_configs(study).values() for trial in best]
    finished = [t for t in trials if status[t.id] in ("done", "infeasible")]
    passed_over = {t.variant for t in trials if status[t.id] == "infeasible"}
    values = _values(study, grid, [t for t in finished if t.variant not in passed_over])
    if not values and len(finished) == len(trials):
        return f"weights to start from (in every variant of study {name} a trial diverged or could not be built)"
    best = max(values, key=lambda variant: sum(value for value, _ in values[variant].values()) / len(values[variant]), default="")
    if "pending" in status.values() or any(status[t.id] != "done" for t in trials if t.variant == best) or not best:
        return f"study {name} has {len(finished)} of {len(trials)} trials finished; the other {len(trials) - len(finished)}"
    for _, trial in values[best].values():
        if not study.selected_weights(trial).exists():
            return f"weights of study {name} (its trial {trial} has no {study.selected_weights(trial).name})"
    return Source(variant=best, trials={seed: trial for seed, (_, trial) in values[best].items()}, best=max(values[best].values())[1])


def _status(study: Store, grid: Grid, trials: Sequence[PlannedTrial]) -> dict[str, str]:
    """trial -> status; what runs counts as pending."""
    return plan([t.id for t in trials], study.scan(trials), living={}, retry=dataclasses.asdict(grid.retry), forgiven=study.forgiven(),
                cancelled=study.cancelled()).status


def _values(study: Store, grid: Grid, trials: Iterable[PlannedTrial]) -> dict[str, dict[int, tuple[float, str]]]:
    """variant -> seed -> (the study's metric at the selected epoch, more being better; trial), of trials that are done."""
    sign = 1.0 if grid.mode == "max" else -1.0
    values: dict[str, dict[int, tuple[float, str]]] = {}
    for trial in trials:
        result = study.result(trial.id) or {}
        values.setdefault(trial.variant, {})[trial.seed] = (sign * result["rows"][result["epoch"] - 1][grid.metric], trial.id)
    return values


def missing_source(study: Store, *, grids: Path) -> Missing | None:
    """What an earlier study lacks before weights can be taken from it.

    Args:
        grids: the folder in which the grid of its name is looked for.
    """
    lacking = find_source(study)
    if isinstance(lacking, Source):
        return None
    grid, frozen = _grid_called(study.root.name, grids), study.frozen_grid()
    own = frozen is None or grid.is_file() and grid.read_bytes() == frozen.encode()
    words = ["python", "-m", "harness.launch", str(grid) if own else _short(study.grid_file)]
    if not own or study.root != Path("runs").absolute() / study.root.name:
        words += ["--study-dir", _short(study.root)]
    if frozen is not None and {"failed", "lost", "cancelled"} & set(
            _status(study, parse_grid(frozen, name=str(study.grid_file)), study.trials()).values()):
        words += ["--retry"]
    return Missing(what=lacking, where=str(study.root), command=shlex.join(words) + "   # add --local if it runs on this machine")


def _grid_called(name: str, folder: Path) -> Path:
    """The file in a folder of grids whose study has this name; where there is none, the one that has it by itself."""
    guess = folder / f"{name}.toml"
    for path in (guess, *sorted(folder.glob("*.toml"))):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # missing, no TOML, no grid
            if tomllib.loads(path.read_text(encoding="utf-8")).get("study", {}).get("name", path.stem) == name:
                return path
    return guess


def _short(path: Path) -> str:
    """The path from here where it lies below, else the whole of it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def source_digests(grid: Grid, store: Store) -> dict[tuple[str, int], str]:
    """(weights, seed) -> SHA-256 of the weights that come from an earlier study beside `store`; what is not finished is left out."""
    return {key: durable.sha256_of(source.selected_weights(trial)) for key, (source, trial) in sources(grid, store).items()}


def sources(grid: Grid, store: Store) -> dict[tuple[str, int], tuple[Store, str]]:
    """(weights, seed) -> the earlier study and its trial, for every "study:NAME" in the grid whose study is finished."""
    names = {str(grid.config_values(variant).get("weights", "none")) for variant in grid.variants} if grid.job is None else set()
    names |= {str(value) for tuned in grid.tune or () if tuned.name == "weights" and grid.job is None for value in tuned.choices}
    found: dict[tuple[str, int], tuple[Store, str]] = {}
    for weights in sorted(name for name in names if name.startswith("study:")):
        study = Store(store.root.parent / weights.removeprefix("study:"))
        source = find_source(study)
        if not isinstance(source, str):
            found |= {(weights, seed): (study, source.trial(seed)) for seed in (*grid.seeds, *grid.fresh_seeds())}
    return found


def take_over_weights(source: Store, trial_id: str, into: Store) -> str:
    """Copies a trial's selected weights into another study; returns their SHA-256."""
    path = source.selected_weights(trial_id)
    digest = durable.sha256_of(path)
    target = into.weights_file(digest)
    if not target.exists():
        durable.replace(target, path.read_bytes(), step="weights")
    return digest


def take_over_all_weights(grid: Grid, into: Store) -> None:
    """Copies the weights that come from earlier studies into the study of a grid."""
    for source, trial in sources(grid, into).values():
        take_over_weights(source, trial, into)


def files_of_weights(trials: Iterable[PlannedTrial], store: Store, data: Path) -> dict[str, str]:
    """trial -> the file its weights are read from, for trials of the built-in job that start from weights."""
    found = {}
    for trial in trials:
        if digest := trial.config["weights_digest"]:
            found[trial.id] = str(store.weights_file(digest))
        elif path := registry.weights_path(trial.config["model"], trial.config["weights"], data):
            found[trial.id] = str(path)
    return found


# -------------------------------------------------------------------------------------------------------------------- caches


def build_caches(configs: Iterable[dict[str, Any]], data: Path, *, note: Callable[[str], object] | None = None) -> None:
    """Builds the caches that the configs read and that are not there, in a process of its own: a data set that cannot be read is then one
    error before any trial, and the launcher loads neither scikit-learn nor Pillow.

    Args:
        configs: full configs of the built-in job.
        data: the data folder.
        note: is told what is built, which may take minutes.

    Raises:
        MissingData: a cache cannot be built; the text says why, of all of them.
    """
    different = {(config["dataset"], config["image_size"]): config for config in configs}
    wanted = {jobs.data.cache_folder(Config.from_dict(config), data): config for config in different.values()}
    absent = {folder: config for folder, config in wanted.items() if not os.path.exists(folder / "meta.json")}  # unreadable is absent
    if not absent:
        return
    if note:
        note(f"building {', '.join(map(str, absent))}")
    ours = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [ours, os.environ.get("PYTHONPATH")]))}
    # in a session of its own, so that a Ctrl-C reaches the launcher alone, which then waits for the cache or is told a second time
    child = subprocess.run([sys.executable, "-P", "-m", "harness.needs"], env=environment, capture_output=True, text=True, check=False,
                           input=json.dumps({"data": str(data), "configs": list(absent.values())}), start_new_session=True)
    try:
        problems = json.loads(child.stdout)
    except ValueError:
        ended = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        raise MissingData(f"the process that builds {', '.join(map(str, absent))} ended with {ended}: "
                          f"{child.stderr.strip()[-1000:] or '(it printed nothing)'}") from None
    if problems:
        raise MissingData("\n".join(problems))


def _build_as_told() -> None:
    """Builds what standard input asks for; prints the problems as a JSON list."""
    told, problems = json.load(sys.stdin), []
    for config in told["configs"]:
        try:
            jobs.data.prepare(Config.from_dict(config), Path(told["data"]))
        except DataError as error:
            problems.append(str(error))
    print(json.dumps(problems))


if __name__ == "__main__":
    _build_as_told()
