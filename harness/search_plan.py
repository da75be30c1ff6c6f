"""[search] and [confirm]: how the search space is explored, read and checked."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from harness.findings import show
from harness.grid_checks import Cell, cell_name, cell_values, cells
from harness.grid_draft import DEFAULTS, Draft, Tuned, text_of
from harness.grid_sections import LARGEST_SEED, Confirm, Halving, Search, read_section
from harness.search.require import Requirement
from harness.spans import Path
from jobs.config import Value, check_value, nearest

DEFAULT_WAVE = 8


def read_search(draft: Draft, table: object) -> Search | None:
    """[search] with [search.halving] and [[search.try]]."""
    findings = draft.findings
    search = read_section(findings, ("search",), table, Search, skip=("halving", "try"))
    if not isinstance(table, dict):
        return None
    halving = read_section(findings, ("search", "halving"), table["halving"], Halving) if "halving" in table else None
    tries = _read_tries(draft, table["try"]) if "try" in table else ()
    if search is None:
        return None
    _check_warm_start(draft, search.warm_start)
    if search.wave > search.trials:
        findings.value(("search", "wave"), f"a wave of {search.wave} is more than the {search.trials} trials of the whole search")
    if len(tries) + bool(search.warm_start) > search.trials and tries:
        more = " and the best of an earlier study" if search.warm_start else ""
        findings.key(("search", "try"), f"{len(tries)} settings to try first{more}, but only {search.trials} trials")
    wave = search.wave or min(DEFAULT_WAVE, search.trials, search.running or DEFAULT_WAVE)
    if search.running and search.running < wave:
        findings.value(("search", "running"), f"`running` {search.running} is less than a wave of {wave}, whose configs begin together")
    # Configs that rest on a rung or go on from one share the places with new ones; with two waves of them nobody waits for a straggler.
    running = search.running or (2 * wave if halving else wave)
    return dataclasses.replace(search, wave=wave, running=running, halving=halving, tries=tuple(draft.settled(t) for t in tries))


def _check_warm_start(draft: Draft, source: str) -> None:
    if not source:
        return
    path: Path = ("search", "warm_start")
    if not source.startswith("study:"):
        draft.findings.value(path, f'`warm_start`: write "study:NAME", the name of an earlier study beside this one, not "{show(source)}"')
        return
    try:
        check_value("weights", source)
    except ValueError as error:
        draft.findings.value(path, f"`warm_start`: {error}")


def _read_tries(draft: Draft, blocks: object) -> tuple[dict[str, Value], ...]:
    """[[search.try]]: values of tuned parameters, each by itself."""
    findings = draft.findings
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        findings.key(("search", "try"), "settings to try first are a list of tables: write [[search.try]] with two brackets, once for each")
        return ()
    names = list(dict.fromkeys(t.name for t, _ in draft.tuned))
    tries = []
    for n, block in enumerate(blocks):
        clean: dict[str, Value] = {}
        for name, value in block.items():
            path = ("search", "try", n, name)
            if name not in names:
                if name not in draft.broken:
                    findings.key(path, f"`{show(name)}` is not tuned{nearest(name[:80], names)}")
            elif (checked := draft.check(path, name, value)) is None:
                pass
            elif not any(inside(t, checked) for t, _ in draft.tuned if t.name == name):
                findings.value(path, f"`{name}`: {text_of(checked)} is not in the search space, {_space_text(draft, name)}")
            else:
                clean[name] = checked
        if len(clean) < len(block):
            draft.broken_at.add(("search", "try", n))
        tries.append(clean)
    return tuple(tries)


def inside(tuned: Tuned, value: Value) -> bool:
    """Whether a value is one of the choices, or lies in the range and, where that has steps, on one of them."""
    if tuned.choices:
        return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in tuned.choices)
    if isinstance(value, (bool, str)) or tuned.low is None or tuned.high is None or not tuned.low <= value <= tuned.high:
        return False
    steps = (value - tuned.low) / tuned.step if tuned.step else 0
    return abs(steps - round(steps)) < 1e-6  # 0.1 + 0.2 is on the steps of 0.1


def _space_text(draft: Draft, name: str) -> str:
    """What a parameter can be, in words."""
    return " or ".join(", ".join(map(text_of, t.choices)) if t.choices else
                       f"{t.low} to {t.high}" + (f" in steps of {t.step}" if t.step else "") for t, _ in draft.tuned if t.name == name)


def read_confirm(draft: Draft, table: object, search: Search | None, seeds: Iterable[int]) -> Confirm | None:
    """[confirm]; `seeds` are the study's, which the fresh ones follow."""
    confirm = read_section(draft.findings, ("confirm",), table, Confirm)
    if confirm is not None and search is not None and confirm.top > search.trials:
        path: Path = ("confirm", "top") if isinstance(table, dict) and "top" in table else ("confirm",)
        draft.findings.value(path, f"the best {confirm.top} of {search.trials} trials cannot be confirmed")
    if confirm is not None and max(seeds, default=0) + confirm.seeds > LARGEST_SEED:
        draft.findings.value(("confirm", "seeds"),
                             f"fresh seeds follow the largest of the study's, {max(seeds)}, and end at {LARGEST_SEED}")
    return confirm


def fewest_epochs(values: Mapping[str, Value], tuned: Iterable[Tuned], defaults: Mapping[str, Value]) -> int | None:
    """The epochs of the shortest training of one variant; None where it has no `epochs`.

    Args:
        values: what the variant sets, [fixed] included.
    """
    ranges = [t for t in tuned if t.name == "epochs"]
    ends = [min(t.choices) if t.choices else t.low for t in ranges]
    if all(t.when for t in ranges):
        ends.append(values.get("epochs", defaults.get("epochs")))
    return min((int(end) for end in ends if end is not None), default=None)


def check_search(draft: Draft, search: Search, requirements: Sequence[Requirement], study: str) -> None:
    """What only the whole grid can show: the first rung against the epochs, settings to try first against conditions and requirements.

    Args:
        study: its name.
    """
    if search.warm_start == f"study:{study}":
        draft.findings.value(("search", "warm_start"), "this is the study itself; an earlier one is meant")
    if search.halving and "epochs" not in draft.broken:
        _check_first_rung(draft, search.halving)
    if search.tries and not draft.broken and not draft.nameless:
        _check_tries(draft, search.tries, requirements)


def _check_first_rung(draft: Draft, halving: Halving) -> None:
    path: Path = ("search", "halving")
    if draft.own_job and draft.kinds.get("epochs", (int,))[0] is not int:
        draft.findings.value(draft.kinds["epochs"][1], "`epochs`: [search.halving] counts epochs, so that a whole number is meant")
        return
    fewest = None
    for cell in cells(draft):
        epochs = fewest_epochs(cell_values(draft, cell), (t for t, _ in draft.tuned), {} if draft.own_job else DEFAULTS)
        if epochs is None:
            who = f"variant `{show(cell_name(cell))}`" if "epochs" in draft.kinds else "this grid"
            draft.findings.key(path, f"[search.halving] begins with a part of the epochs, but {who} has no parameter `epochs`: how many "
                                     "the whole training has, a whole number")
            return
        fewest = min(fewest or epochs, epochs)
    if fewest is not None and halving.first >= fewest:
        draft.findings.value((*path, "first"), f"the first rung, {halving.first} epochs, is not below the {fewest} epochs of the shortest "
                                               "training")


def _check_tries(draft: Draft, tries: tuple[dict[str, Value], ...], requirements: Sequence[Requirement]) -> None:
    """Each [[search.try]] completed in every variant, as the search will."""
    from harness.search.space import Space  # here, so that other grids are read without it

    tuned, defaults = [t for t, _ in draft.tuned], {} if draft.own_job else DEFAULTS
    variants = [(cell, Space(tuned, cell_values(draft, cell), requirements=requirements, defaults=defaults)) for cell in cells(draft)]
    seen: dict[tuple[frozenset[tuple[str, Value]], ...], int] = {}
    for n, given in enumerate(tries):
        path: Path = ("search", "try", n)
        if path in draft.broken_at:
            continue
        completed = [space.complete(given) for _, space in variants]
        idle = [name for name, value in given.items() if not any(values.get(name) == value for values in completed)]
        for name in idle:
            _refuse_idle(draft, (*path, name), name, given[name], active=any(name in values for values in completed))
        if idle:
            continue
        for (cell, space), values in zip(variants, completed, strict=True):
            if not space.allows(values):
                _refuse_forbidden(draft, path, cell, values, requirements)
                break
        first = seen.setdefault(tuple(frozenset(values.items()) for values in completed), n)
        if first != n:
            draft.findings.key(path, f"the same settings as those on line {draft.findings.line_of(('search', 'try', first))}")


def _refuse_idle(draft: Draft, path: Path, name: str, value: Value, *, active: bool) -> None:
    """A value that the search would drop, because its parameter has no say, or another range, under the other values."""
    if active:
        draft.findings.value(path, f"`{name}`: {text_of(value)} is not in the range that it has under the other values here")
        return
    conditions = dict.fromkeys(" and ".join(f"{p} = {text_of(v)}" for p, v in t.when) for t, _ in draft.tuned if t.name == name)
    draft.findings.key(path, f"`{name}` has no effect here: it is tuned under {' or '.join(conditions)} only")


def _refuse_forbidden(draft: Draft, path: Path, cell: Cell, values: Mapping[str, Value], requirements: Sequence[Requirement]) -> None:
    """Settings to try first that a requirement forbids; what it speaks of is told, for part of that may have been filled in."""
    around = {**({} if draft.own_job else DEFAULTS), **cell_values(draft, cell), **values}
    for requirement in requirements:
        if not requirement.holds(around):
            told = ", ".join(f"{name} = {text_of(around[name])}" for name in sorted(requirement.names))
            who = "" if cell[0].number is None and not cell[1] else f" in variant `{show(cell_name(cell))}`"
            draft.findings.key(path, f"with {told}{who} these settings break the requirement `{show(requirement.text)}`")
            return
