"""A grid: what a study compares, what it fixes and what it tunes, from one TOML text, checked as a whole.

`parse_grid` reads text and does no I/O; every mistake of the text is reported in one `GridError`. The keys of the sections are in
`harness/grid_sections.py`, those of the parameters in `jobs/config.py`.
"""

import copy
import dataclasses
import difflib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import grid_checks, search_plan, search_space
from harness.errors import GridError, Problem
from harness.findings import Findings, load_toml, show
from harness.grid_draft import DEFAULTS, Draft, NamedVariant, Tuned, read_compare, read_fixed, read_variants
from harness.grid_sections import (
    SECTIONS,
    Confirm,
    Halving,
    Job,
    Limits,
    Local,
    Retry,
    Search,
    Slurm,
    Study,
    check_study_name,
    read_section,
)
from harness.search.require import Requirement
from harness.search.rungs import most_trials, rungs
from harness.spans import apply_override
from jobs.config import PARAMETERS, Value, metric_mode, nearest

__all__ = ["SECTIONS", "Confirm", "Grid", "Halving", "Job", "Limits", "Local", "Retry", "Search", "Slurm", "Tuned", "Variant",
           "apply_override", "parse_grid", "read_grid"]

LARGEST_FILE = 1_000_000
METRICS = ("val_acc", "val_loss")
"""What may decide in the built-in job: numbers from the validation split."""
_SECTION_NAMES = ("study", "fixed", "variant", "compare", "tune", "require", "search", "confirm", "slurm", "local", "retry", "limits",
                  "job")
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_TAKEN_COLUMNS = ("trial_id", "epoch", "epochs", "study", "variant", "seed", "wave", "phase", "config", "budget", "status", "reason",
                  "test_opening")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One setting of the compared parameters."""

    name: str
    """As in the tables and figures: the name of the [[variant]], then " key=value" for everything in [compare]."""
    settings: dict[str, Value]
    """The parameters it sets beyond [fixed]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A checked grid. Everything is typed and filled in; nothing in it needs another look at the text."""

    name: str
    metric: str
    mode: str
    """"max" or "min"."""
    seeds: tuple[int, ...]
    select: str
    """"best_val" or "last"."""
    test: str
    """"each" or "confirmed"."""
    reference: str
    """Name of the variant the others are compared to."""
    fixed: dict[str, Value]
    variants: tuple[Variant, ...]
    """In the order of the grid; at least one."""
    compared: tuple[str, ...]
    """Parameters that differ between variants, in the order of the grid; what a variant does not read counts as a value of its own."""
    tune: tuple[Tuned, ...] | None
    requirements: tuple[Requirement, ...]
    """What must hold between parameters, from [[require]]."""
    search: Search | None
    confirm: Confirm | None
    slurm: Slurm
    local: Local
    retry: Retry
    limits: Limits
    job: Job | None
    """None is the built-in image classification of `jobs.train`."""
    text: str
    """The TOML, without byte order mark."""

    def config_values(self, variant: Variant) -> dict[str, Value]:
        """The parameters a variant sets, [fixed] included; `jobs.config.Config.from_dict` adds the defaults."""
        return {**self.fixed, **variant.settings}

    def fresh_seeds(self) -> tuple[int, ...]:
        """The seeds that [confirm] trains the best configs with: those that follow the study's own."""
        return tuple(max(self.seeds) + 1 + n for n in range(self.confirm.seeds)) if self.confirm else ()

    def trial_count(self) -> int:
        """Trials (config and seed) of the whole study: variants x seeds; where there is a [tune], those that it may come to.

        Every variant then has the trials of [search], with [search.halving] the first seed of each and what promotions add, and what
        [confirm] adds: fresh seeds for the best configs and, as their reference, for the first that was known before the search. A space
        that is exhausted gives fewer; halving a few more, because a rung promotes before all that will reach it are there.
        """
        if self.search is None:
            return len(self.variants) * len(self.seeds)
        confirmed = (self.confirm.top + bool(self.search.tries or self.search.warm_start)) * self.confirm.seeds if self.confirm else 0
        if self.search.halving is None:
            return len(self.variants) * (self.search.trials * len(self.seeds) + confirmed)
        return sum(self._halved(self.search.halving, self.search.trials, variant) + confirmed for variant in self.variants)

    def _halved(self, halving: Halving, trials: int, variant: Variant) -> int:
        epochs = search_plan.fewest_epochs(self.config_values(variant), self.tune or (), {} if self.job else DEFAULTS)
        assert epochs is not None, "the grid was checked"
        # Of all that are tuned, the shortest training has the fewest rungs, and adds its seeds on the lowest.
        return most_trials(trials, halving.factor, len(rungs(halving.first, halving.factor, epochs)), len(self.seeds))

    def identity(self) -> dict[str, Any]:
        """Everything that decides results, as JSON values: two grids with equal identity are the same study.

        Defaults are written out, so it does not matter whether a value stands in [fixed], in every variant or nowhere. Not in it: comments,
        [slurm], [local], [retry], [limits], and `reference`, which only analysis reads.
        """
        defaults = {} if self.job else DEFAULTS
        own = {key for variant in self.variants for key in variant.settings}
        everywhere = {**defaults, **self.fixed}
        # Only where there are any: a study of before there were requirements is still the same study.
        required = {"require": sorted(r.text for r in self.requirements)} if self.requirements else {}
        return {
            "study": {"name": self.name, "metric": self.metric, "mode": self.mode, "seeds": list(self.seeds), "select": self.select,
                      "test": self.test},
            "fixed": {name: value for name, value in sorted(everywhere.items()) if name not in own},
            "variants": {variant.name: {name: variant.settings.get(name, everywhere.get(name)) for name in sorted(own)}
                         for variant in self.variants},
            "tune": None if self.tune is None else [_plain(t) for t in self.tune],
            **required,
            "search": _plain(self.search),
            "confirm": _plain(self.confirm),
            "job": _plain(self.job),
        }


def _plain(section: Any) -> Any:
    """A dataclass as JSON values (tuples become lists)."""
    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: lists(v) for k, v in value.items()}
        return [lists(v) for v in value] if isinstance(value, (list, tuple)) else copy.copy(value)
    return None if section is None else lists(dataclasses.asdict(section))


def parse_grid(text: str, *, name: str = "grid.toml") -> Grid:
    """A grid from its text. `name` is the file's name in messages.

    Raises:
        GridError: with every mistake of the text.
    """
    text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    document, findings = load_toml(text, name)
    try:
        return _build(text, document, findings)
    except RecursionError as error:
        problem = Problem(message="nested too deeply, or too many conditional parameters; a grid needs neither", file=name)
        raise GridError([problem]) from error


def _build(text: str, document: dict[str, Any], findings: Findings) -> Grid:
    """Reads the sections in the order in which they depend on each other, checks what they say together, and closes the findings."""
    _check_sections(findings, document)
    own_job = "job" in document
    job = read_section(findings, ("job",), document["job"], Job) if own_job else None
    _check_job(findings, job)
    study = _read_study(findings, document, job)
    draft = Draft(findings=findings, job=job, own_job=own_job)
    read_fixed(draft, document.get("fixed", {}))
    read_variants(draft, document.get("variant", []))
    draft.variants = draft.variants or [NamedVariant(number=None, name=study.name if study else "study", settings={})]
    read_compare(draft, document.get("compare", {}))
    search, confirm = _read_search(draft, document, study)
    draft.settle()
    requirements = search_space.read_requirements(draft, document["require"]) if "require" in document and "tune" in document else ()
    slurm = read_section(findings, ("slurm",), document.get("slurm", {}), Slurm)
    local = read_section(findings, ("local",), document.get("local", {}), Local)
    retry = read_section(findings, ("retry",), document.get("retry", {}), Retry)
    limits = read_section(findings, ("limits",), document.get("limits", {}), Limits)

    grid_checks.check_homes(draft)
    if not own_job:
        grid_checks.check_effects(draft)
    grid_checks.check_ranks(draft, local, slurm)
    grid_checks.check_sharing(findings, local, slurm)
    if not grid_checks.check_number(draft, len(study.seeds) if study else 1, search.trials if search else 1):
        findings.close("trials of a grid this large are not compared with each other")
    if search is not None:
        search_plan.check_search(draft, search, requirements, study.name if study else "")
    variants, compared = _expand(draft)
    _check_reference(draft, study, [v.name for v in variants])
    findings.close()
    assert study is not None and slurm is not None and local is not None and retry is not None and limits is not None
    tune = tuple(t for t, _ in draft.tuned) or None
    return Grid(name=study.name, metric=study.metric, mode=study.mode or metric_mode(study.metric), seeds=study.seeds, select=study.select,
                test=study.test or ("confirmed" if tune else "each"), reference=study.reference or variants[0].name,
                fixed=draft.fixed, variants=variants, compared=compared, tune=tune, requirements=requirements,
                search=search, confirm=confirm, slurm=slurm, local=local, retry=retry, limits=limits, job=job, text=text)


def _check_sections(findings: Findings, document: dict[str, Any]) -> None:
    """Only known sections stand at the top."""
    for key in document:
        if key not in _SECTION_NAMES:
            home = "" if key not in PARAMETERS else f"; `{key}` is a parameter and goes into [fixed], [[variant]], [compare] or [tune]"
            homes = [section for section, keys in SECTIONS.items() if key in keys and section in _SECTION_NAMES[:1] + _SECTION_NAMES[5:]]
            home = home or (f"; `{key}` is a key of [{'] and ['.join(homes)}]" if homes else "")
            findings.key((key,), f"unknown section `{show(key)}`{home}{nearest(key[:80], _SECTION_NAMES)}")


def _read_study(findings: Findings, document: dict[str, Any], job: Job | None) -> Study | None:
    """[study], and what depends on the job and on [tune]."""
    if "study" not in document:
        findings.at(None, "a grid needs a section [study] with a `name`")
        return None
    table = document["study"]
    study = read_section(findings, ("study",), table, Study)
    if not isinstance(table, dict):
        return None
    if isinstance(table.get("name"), str):
        check_study_name(findings, table["name"])
    metric = table.get("metric", "val_acc")
    valid = METRICS if "job" not in document else job.metrics if job else ()
    if valid and isinstance(metric, str) and metric not in valid:
        if "metric" in table:
            findings.value(("study", "metric"), f'unknown metric "{show(metric)}"{nearest(metric[:80], valid)}')
        else:
            findings.key(("study",), f"[study] needs `metric`: which of job.metrics decides (valid: {', '.join(valid)})")
    if table.get("test") == "confirmed" and "tune" not in document:
        findings.value(("study", "test"), '"confirmed" is for grids with [tune] and [confirm]; without them write test = "each"')
    return study


def _check_job(findings: Findings, job: Job | None) -> None:
    """The shape of the function's name, and metric names that can be columns."""
    if job is None:
        return
    if not _FUNCTION.fullmatch(job.run):
        findings.value(("job", "run"), f'"{show(job.run)}" is no function; write "package.module:function"')
    for n, metric in enumerate(job.metrics):
        if not _COLUMN.fullmatch(metric) or metric in _TAKEN_COLUMNS or metric.startswith("param_"):
            findings.value(("job", "metrics", n), f"`{show(metric)}` cannot be a metric: letters, digits and _ that are none of the "
                                                  f"tables' own columns ({', '.join(_TAKEN_COLUMNS)}, param_…)")


def _read_search(draft: Draft, document: dict[str, Any], study: Study | None) -> tuple[Search | None, Confirm | None]:
    """[tune], [search] and [confirm], which need each other, and [[require]]."""
    findings = draft.findings
    if "tune" in document:
        search_space.read_tune(draft, document["tune"])
        if "search" not in document:
            findings.key(("tune",), "[tune] needs a section [search] with `trials`: how many configs every variant gets")
    for section in ("[search]", "[confirm]", "[[require]]"):
        if section.strip("[]") in document and "tune" not in document:
            findings.key((section.strip("[]"),), f"{section} without [tune]: there is nothing to search")
    search = search_plan.read_search(draft, document["search"]) if "search" in document else None
    seeds = study.seeds if study else ()
    confirm = search_plan.read_confirm(draft, document["confirm"], search, seeds) if "confirm" in document else None
    return search, confirm


def _expand(draft: Draft) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """All variants in order and the parameters that differ between them; notes what does not go together and what is doubled."""
    if not draft.own_job:
        grid_checks.check_combinations(draft)
    names = grid_checks.varying(draft)
    rows = [(cell, grid_checks.active_values(draft, cell, names)) for cell in grid_checks.cells(draft)]
    grid_checks.check_doubled(draft, rows)
    variants = tuple(Variant(name=grid_checks.cell_name(cell), settings={**cell[0].settings, **{name: value for name, _, value in cell[1]}})
                     for cell, _ in rows)
    first: dict[str, int] = {}
    for number, ((cell, _), variant) in enumerate(zip(rows, variants, strict=True)):
        if first.setdefault(variant.name, number) != number and not draft.nameless:
            draft.findings.value(("variant", cell[0].number or 0, "name"), f"two variants would be called `{show(variant.name)}`")
            break
    compared = tuple(name for n, name in enumerate(names) if len({(isinstance(values[n], bool), values[n]) for _, values in rows}) > 1)
    return variants, compared


def _check_reference(draft: Draft, study: Study | None, names: list[str]) -> None:
    if study is None or not study.reference or draft.nameless or draft.broken & draft.compare.keys() or study.reference in names:
        return
    draft.findings.value(("study", "reference"), f"no variant is called `{show(study.reference)}`{nearest(study.reference[:80], names)}")


def read_grid(path: Path, *, overrides: Iterable[str] = ()) -> Grid:
    """The grid in a file, after any `--set` overrides; `grid.text` has them written in.

    Raises:
        GridError: no such file, nothing that can be read as a grid, or mistakes in it.
        UsageError: an override that cannot be meant.
    """
    text = _read_text(path)
    name = str(path)
    overrides = list(overrides)
    if overrides:
        load_toml(text, name)
    for override in overrides:
        text = apply_override(text, override)
    return parse_grid(text, name=f"{name} with {' '.join(f'--set {o}' for o in overrides)}"[:200] if overrides else name)


def _read_text(path: Path) -> str:
    """The text of a regular UTF-8 file of reasonable size."""
    def refuse(message: str) -> GridError:
        return GridError([Problem(message=message, file=str(path))])
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise refuse(f"a grid is a file, this is a directory{_neighbours(path, '')}")
        if not stat.S_ISREG(mode):
            raise refuse("a grid is a regular file, this is a device, socket or pipe")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise refuse(f"no such file{_neighbours(path.parent, path.name)}") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LARGEST_FILE:
        raise refuse(f"larger than {LARGEST_FILE // 1_000_000} MB; no grid is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refuse(f"not UTF-8 (byte 0x{data[error.start]:02x} on line {line}); TOML is UTF-8, save the file as that") from error
    if not text.strip():
        raise refuse('the file is empty; a grid begins with\n    [study]\n    name = "my_study"')
    return text


def _neighbours(folder: Path, name: str) -> str:
    """The end of a message about a missing file: the grids that are there, the nearest name first."""
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".toml"))[:500]
    except (OSError, ValueError):
        return f"; the folder {show(str(folder))} does not exist either"
    if not found:
        return f"; there are no .toml files in {show(str(folder))}"
    close = difflib.get_close_matches(name if name.endswith(".toml") else name + ".toml", found, n=1, cutoff=0.5)
    listed = ", ".join(found[:10]) + (", …" if len(found) > 10 else "")
    return (f"; did you mean {folder / close[0]}?" if close else "") + f" (in {folder}: {listed})"
