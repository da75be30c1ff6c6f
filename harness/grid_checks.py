"""What single values of a grid cannot show: parameters with two homes or no effect, settings that do not go together, doubled trials.

Every check takes a `Draft` and adds to its findings. A parameter whose value was already refused is passed over, so that one
mistake gets one caret.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

from harness.findings import Findings, show
from harness.grid_draft import DEFAULTS, Draft, NamedVariant, Tuned, text_of
from harness.grid_sections import Local, Slurm
from harness.spans import Path
from jobs import registry
from jobs.config import PARAMETERS, Config, Value, check_together

MOST_TRIALS = 100_000
_MOST_COMBINATIONS = 20_000
"""Combinations of variants and tuned choices that are tried for values that do not go together; the rest are found when proposed."""

_DEPENDS = {"weights": ("model",), "classes": ("dataset",), "batch_size": ("train_images",)}
"""Which other parameters decide whether a value goes together with the rest; for parameters not named here, any may."""

Cell = tuple[NamedVariant, tuple[tuple[str, int, Value], ...]]
"""One variant of the grid: a [[variant]] and one (parameter, position, value) from each list of [compare]."""

readers = functools.cache(registry.readers)


def cells(draft: Draft) -> Iterator[Cell]:
    """All variants in order: each [[variant]] with the whole product of [compare], the last list running fastest."""
    lists = [[(name, n, value) for n, value in items] for name, items in draft.compare.items()]
    for variant in draft.variants:
        for chosen in itertools.product(*lists):
            yield variant, chosen


def cell_name(cell: Cell) -> str:
    """The variant's name: that of its [[variant]], then what is compared."""
    variant, chosen = cell
    parts = [f"{name}={text_of(value)}" for name, _, value in chosen]
    return " ".join(parts if variant.number is None and parts else [variant.name, *parts])


def cell_values(draft: Draft, cell: Cell) -> dict[str, Value]:
    """The parameters a variant sets, fixed ones included."""
    variant, chosen = cell
    return {**draft.fixed, **variant.settings, **{name: value for name, _, value in chosen}}


def check_homes(draft: Draft) -> None:
    """Every parameter is fixed, compared or tuned, one of them; a variant may differ from [fixed], if another does not."""
    findings = draft.findings
    homes: dict[str, tuple[str, Path]] = {}
    for variant in draft.variants:
        for name in variant.settings:
            homes.setdefault(name, (f"set by variant `{show(variant.name)}`", ("variant", variant.number or 0, name)))
    homes |= {name: ("fixed", ("fixed", name)) for name in draft.fixed}
    for name in draft.compare:
        _check_home(draft, ("compare", name), "compared", homes.get(name))
    homes |= {name: ("compared", ("compare", name)) for name in draft.compare}
    for tuned, path in draft.tuned:
        _check_home(draft, path, "tuned", homes.get(tuned.name))
    for name in draft.fixed:
        if all(name in variant.settings for variant in draft.variants):
            findings.key(("fixed", name), f"`{name}` is never used: every [[variant]] sets its own")


def _check_home(draft: Draft, path: Path, what: str, other: tuple[str, Path] | None) -> None:
    if other is not None:
        line = draft.findings.line_of(other[1])
        draft.findings.key(path, f"`{path[-1]}` is {what} here and {other[0]} on line {line}; keep one of them")


def check_effects(draft: Draft) -> None:
    """Parameters that nothing in the grid reads: `momentum` where the optimizer is adam."""
    for name in draft.fixed:
        _check_effect(draft, ("fixed", name), name, [v for v in draft.variants if name not in v.settings])
    for name in draft.compare:
        _check_effect(draft, ("compare", name), name, draft.variants)
    for variant in draft.variants:
        for name in variant.settings:
            _check_effect(draft, ("variant", variant.number or 0, name), name, [variant])
    for tuned, path in draft.tuned:
        _check_effect(draft, path, tuned.name, draft.variants, dict(tuned.when))


def _check_effect(draft: Draft, path: Path, name: str, variants: Iterable[NamedVariant], pinned: Mapping[str, Value] | None = None) -> None:
    read_by = readers(name)
    if not read_by or draft.broken & read_by.keys():
        return
    met: dict[str, list[Value]] = {chooser: [] for chooser in read_by}
    for variant in variants:
        for chooser, names in read_by.items():
            possible = _possible(draft, variant, chooser, pinned or {})
            if any(registry.entry(chooser, value) in names for value in possible):
                return
            met[chooser] += possible
    if not any(met.values()):
        return
    chosen = " and ".join(f"{chooser} is {_any_of(values)}{_by_default(draft, chooser)}" for chooser, values in met.items())
    who = " or ".join(f"{chooser} {_any_of(names)}" for chooser, names in read_by.items())
    draft.no_effect.add(path)
    draft.findings.key(path, f"`{name}` has no effect: {chosen}; only {who} reads it")


def _possible(draft: Draft, variant: NamedVariant, chooser: str, pinned: Mapping[str, Value]) -> list[Value]:
    """The values a parameter can have in the trials of one [[variant]]."""
    if chooser in pinned:
        return [pinned[chooser]]
    tuned = [t for t, _ in draft.tuned if t.name == chooser]
    values = [value for t in tuned for value in t.choices]
    if chooser in draft.compare:
        values += [value for _, value in draft.compare[chooser]]
    if not values or all(t.when for t in tuned) and chooser not in draft.compare:
        values.append(variant.settings.get(chooser, draft.fixed.get(chooser, DEFAULTS[chooser])))
    return values


def _by_default(draft: Draft, chooser: str) -> str:
    given = chooser in draft.fixed or chooser in draft.compare or any(t.name == chooser for t, _ in draft.tuned) \
        or any(chooser in v.settings for v in draft.variants)
    return "" if given else " by default"


def _any_of(values: Iterable[Value]) -> str:
    names = list(dict.fromkeys(text_of(v) for v in values))
    if len(names) > 8:
        return f"{', '.join(names[:6])} and {len(names) - 6} more"
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check_number(draft: Draft, seeds: int, trials: int) -> bool:
    """Whether the grid has at most `MOST_TRIALS` trials; counted without making them. `trials` is [search]'s, 1 without."""
    lists = {name: len(items) for name, items in draft.compare.items()}
    count = len(draft.variants) * math.prod(lists.values()) * seeds * trials
    if count <= MOST_TRIALS:
        return True
    parts = [f"{len(draft.variants)} [[variant]]"] if len(draft.variants) > 1 else []
    parts += [f"{n} {name}" for name, n in lists.items()]
    parts += [f"{seeds} seeds"] if seeds > 1 else []
    parts += [f"{trials} trials of [search]"] if trials > 1 else []
    large = {"compare": math.prod(lists.values()), "variant": len(draft.variants), "study.seeds": seeds, "search.trials": trials}
    path: Path = tuple(max(large, key=lambda place: large[place]).split("."))
    message = f"{count:,} trials ({' x '.join(parts)}); at most {MOST_TRIALS:,} in one grid. Compare fewer values, or let [tune] search"
    if len(path) == 1:
        draft.findings.key(path, message)
    else:
        draft.findings.value(path, message)
    return False


def check_combinations(draft: Draft) -> None:
    """Values that are legal alone and not together, in every variant and with every tuned choice."""
    left = _MOST_COMBINATIONS
    told: set[tuple[Path, str]] = set()
    # Numbers that the search chooses: whether they go together with the rest is seen when they are proposed.
    proposed = {t.name for t, _ in draft.tuned if t.kind != "str"}
    for cell in cells(draft):
        values = cell_values(draft, cell)
        for choice in _tuned_texts([t for t, _ in draft.tuned if t.kind == "str"], values):
            left -= 1
            if left < 0:
                return
            for name, message in check_together(Config(**{**values, **choice})):  # type: ignore[arg-type]
                if proposed & {name, *_DEPENDS.get(name, ())}:
                    continue
                path = _home(draft, cell, name, choice)
                if any(draft.broken_in(cell[0], p) for p in (name, *_DEPENDS.get(name, PARAMETERS))) or (path, message) in told:
                    continue
                told.add((path, message))
                draft.findings.value(path, message)


def _tuned_texts(tuned: list[Tuned], values: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    """Every combination of the tuned strings that are active together, conditions respected."""
    def go_on(rest: list[Tuned], chosen: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not rest:
            yield chosen
            return
        first, others = rest[0], rest[1:]
        if not all(chosen.get(p, values.get(p)) == v for p, v in first.when):
            yield from go_on(others, chosen)
            return
        for value in first.choices:
            yield from go_on(others, {**chosen, first.name: value})
    return go_on(tuned, {})


def _home(draft: Draft, cell: Cell, name: str, choice: Mapping[str, Value]) -> Path:
    """Where the value of a parameter in one variant was written."""
    variant, chosen = cell
    if name in choice:
        for tuned, path in draft.tuned:
            if tuned.name == name and choice[name] in tuned.choices:
                return path
    for compared, n, _ in chosen:
        if compared == name:
            return ("compare", name, n)
    if name in variant.settings:
        return ("variant", variant.number or 0, name)
    if name in draft.fixed:
        return ("fixed", name)
    others = [other for other in _DEPENDS.get(name, ()) if other in variant.settings or other in draft.fixed or other in draft.compare]
    return _home(draft, cell, others[0], choice) if others else ("study",)


def varying(draft: Draft) -> list[str]:
    """The parameters that variants set themselves, in the order of the grid."""
    return list(dict.fromkeys([*(name for variant in draft.variants for name in variant.settings), *draft.compare]))


def active_values(draft: Draft, cell: Cell, names: Iterable[str]) -> tuple[Value | None, ...]:
    """The values of some parameters in one variant, defaults included; None for what none of its trials reads."""
    values = cell_values(draft, cell)
    if draft.own_job:
        return tuple(values.get(name) for name in names)
    return tuple(values.get(name, DEFAULTS[name]) if _is_read(draft, name, values) else None for name in names)


def _is_read(draft: Draft, name: str, values: Mapping[str, Value]) -> bool:
    read_by = readers(name)
    return not read_by or any(
        registry.entry(chooser, values.get(chooser, DEFAULTS[chooser])) in entries for chooser, entries in read_by.items()) or any(
        registry.entry(t.name, value) in read_by[t.name] for t, _ in draft.tuned if t.name in read_by for value in t.choices)


def check_doubled(draft: Draft, variants: list[tuple[Cell, tuple[Value | None, ...]]]) -> None:
    """Variants that are the same training, with the active values of each: one caret per [[variant]] or compared list."""
    if draft.broken or draft.nameless:
        return
    findings = draft.findings
    seen: dict[tuple[object, ...], Cell] = {}
    told: set[Path] = set()
    for cell, values in variants:
        key = tuple((isinstance(value, bool), value) for value in values)
        first = seen.setdefault(key, cell)
        if first is cell:
            continue
        path: Path = ("variant", cell[0].number or 0, "name")
        differ = [name for (name, n, _), (_, other, _) in zip(cell[1], first[1], strict=True) if n != other]
        idle = draft.no_effect & {("compare", name) for name in differ}
        if first[0] is cell[0] and differ:
            path = ("compare", differ[0])
        else:
            idle |= {place for place in draft.no_effect if place[:2] in (("variant", cell[0].number), ("variant", first[0].number))}
        if path not in told and not idle:
            told.add(path)
            message = f"`{show(cell_name(cell))}` is the same training as `{show(cell_name(first))}`"
            if path[0] == "compare":
                findings.key(path, f"{message}: {differ[0]} has no effect there; compare it in a grid of its own, or name [[variant]]s")
            else:
                findings.value(path, f"{message}: every parameter that has an effect is equal")


def check_ranks(draft: Draft, local: Local | None, slurm: Slurm | None) -> None:
    """The global batch is shared out evenly over the processes of a trial."""
    if draft.own_job:
        return
    shares = []
    if local is not None and local.ranks > 1:
        shares.append((local.ranks, f"the {local.ranks} processes of a trial, [local] ranks", ("local", "ranks")))
    if slurm is not None and slurm.nodes * slurm.tasks_per_node > 1:
        ranks = slurm.nodes * slurm.tasks_per_node
        key = "tasks_per_node" if slurm.tasks_per_node > 1 else "nodes"
        layout = f"[slurm] nodes {slurm.nodes} x tasks_per_node {slurm.tasks_per_node}"
        shares.append((ranks, f"the {ranks} processes of a trial, {layout}", ("slurm", key)))
    sizes = list(_batch_sizes(draft))
    everywhere = "batch_size" in {*draft.fixed, *draft.compare, *(t.name for t, _ in draft.tuned), *draft.broken} \
        or all("batch_size" in v.settings for v in draft.variants)
    default = int(DEFAULTS["batch_size"])
    for ranks, who, place in shares:
        for size, path in sizes:
            if size % ranks:
                draft.findings.value(path, f"`batch_size`: {size} images cannot be shared out evenly over {who}")
        for tuned, path in draft.tuned:
            if tuned.name != "batch_size" or "batch_size" in draft.broken or tuned.low is None:
                continue
            if tuned.low % ranks or not tuned.step or tuned.step % ranks:
                draft.findings.value(path, f"`batch_size`: give a `low` and a `step` that {ranks} divides, for {who}")
        if not everywhere and default % ranks:
            draft.findings.value(place, f"the default batch_size, {default}, cannot be shared out evenly over {who}")


def check_sharing(findings: Findings, local: Local | None, slurm: Slurm | None) -> None:
    """Trials that share a GPU, or are trained as one program, have one process each and no GPU to themselves."""
    if local is not None:
        ranks = f"a trial of one process, and [local] ranks is {local.ranks}" if local.ranks > 1 else ""
        gpus = f"a trial with one GPU, and [local] gpus_per_trial is {local.gpus_per_trial}" if local.gpus_per_trial > 1 else ""
        if local.trials_per_gpu > 1 and (ranks or gpus):
            findings.value(("local", "trials_per_gpu"), f"`trials_per_gpu` is for {ranks or gpus}; leave one of them out")
        if local.fuse > 1 and ranks:
            findings.value(("local", "fuse"), f"`fuse` is for {ranks}; leave one of them out")
    if slurm is not None:
        layout = {"nodes": slurm.nodes, "tasks_per_node": slurm.tasks_per_node}
        several = next((f"[slurm] {name} is {number}" for name, number in layout.items() if number > 1), "")
        gpus = f"[slurm] gpus_per_node is {slurm.gpus_per_node}" if slurm.gpus_per_node != 1 else ""
        if slurm.trials_per_gpu > 1 and (several or gpus):
            findings.value(("slurm", "trials_per_gpu"), "`trials_per_gpu` is for jobs of one process (nodes = 1, tasks_per_node = 1) with "
                                                        f"one GPU (gpus_per_node = 1), and {several or gpus}")
        if slurm.fuse > 1 and several:
            findings.value(("slurm", "fuse"), f"`fuse` is for trials of one process (nodes = 1, tasks_per_node = 1), and {several}")


def _batch_sizes(draft: Draft) -> Iterator[tuple[int, Path]]:
    if "batch_size" in draft.fixed:
        yield int(draft.fixed["batch_size"]), ("fixed", "batch_size")
    for n, value in draft.compare.get("batch_size", ()):
        yield int(value), ("compare", "batch_size", n)
    for variant in draft.variants:
        if "batch_size" in variant.settings:
            yield int(variant.settings["batch_size"]), ("variant", variant.number or 0, "batch_size")
    for tuned, path in draft.tuned:
        if tuned.name == "batch_size" and "batch_size" not in draft.broken:
            yield from zip(map(int, tuned.choices), draft.choices_at.get(path, ()), strict=True)
