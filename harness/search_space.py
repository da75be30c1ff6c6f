"""[tune], [search] and [confirm]: the search space and how it is explored, read and checked. Nothing here draws a value."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.findings import show
from harness.grid_draft import DEFAULTS, Draft, Tuned, read_choices, text_of, why_not_scalar
from harness.grid_sections import Confirm, Halving, Search, describe, read_section
from harness.spans import Path
from jobs.config import PARAMETERS, Value, nearest

_RANGE_KEYS = ("low", "high", "log", "step")
DEFAULT_WAVE = 8


def read_tune(draft: Draft, table: object) -> None:
    """[tune] with its [tune.when] parts, into `draft.tuned`."""
    if not isinstance(table, dict) or not table:
        draft.findings.key(("tune",), "`tune` is a section with at least one parameter: write [tune] and the ranges below it")
        return
    varied: dict[str, list[Value]] = {name: [value for _, value in items] for name, items in draft.compare.items()}
    for variant in draft.variants:
        for name, value in variant.settings.items():
            varied.setdefault(name, []).append(value)
    _read_level(draft, ("tune",), table, (), varied)
    _check_repeated(draft)


def _read_level(draft: Draft, path: Path, table: Mapping[str, Any], when: tuple[tuple[str, Value], ...],
                scope: Mapping[str, list[Value]]) -> None:
    """One table of parameters and the conditions below it; `scope` has the values a condition may name."""
    inner = dict(scope)
    for name, spec in table.items():
        if name == "when" or not draft.known((*path, name), name):
            continue
        tuned = _read_parameter(draft, (*path, name), name, spec)
        if tuned is not None:
            draft.tuned.append((dataclasses.replace(tuned, when=when), (*path, name)))
            inner[name] = list(tuned.choices)
    conditions = table.get("when", {})
    if not isinstance(conditions, dict):
        draft.findings.key((*path, "when"), "conditions are tables: write [tune.when.PARAMETER.VALUE], such as [tune.when.optimizer.sgd]")
        return
    for name, cases in conditions.items():
        place = (*path, "when", name)
        if name in draft.broken:
            continue
        if not inner.get(name):
            usable = [n for n, values in inner.items() if values]
            draft.findings.key(place, f"`{show(name)}` is not a choice here: a condition names a parameter that is tuned as a list, "
                                      f"compared, or set in variants{nearest(name[:80], usable) if usable else ''}")
            continue
        _read_cases(draft, place, cases, when, inner)


def _read_cases(draft: Draft, path: Path, cases: object, when: tuple[tuple[str, Value], ...], scope: dict[str, list[Value]]) -> None:
    """The values of one condition: [tune.when.optimizer.sgd], [tune.when.optimizer.adamw]."""
    name = str(path[-1])
    if not isinstance(cases, dict):
        draft.findings.key(path, f"a condition is a table: write [{'.'.join(map(str, path))}.VALUE]")
        return
    allowed = {text_of(value): value for value in scope[name]}
    for text, table in cases.items():
        if text not in allowed:
            draft.findings.key((*path, text), f"{name} never is `{show(text)}` here{nearest(text[:80], allowed)}")
        elif not isinstance(table, dict):
            draft.findings.key((*path, text), f"a condition is a table: write [{'.'.join(map(str, path))}.{show(text)}]")
        else:
            _read_level(draft, (*path, text), table, (*when, (name, allowed[text])), {**scope, name: [allowed[text]]})


def _read_parameter(draft: Draft, path: Path, name: str, spec: object) -> Tuned | None:
    """One parameter: a list of choices or a table with low and high."""
    if isinstance(spec, list):
        choices = read_choices(draft, path, name, spec)
        if len(spec) < 2:
            draft.findings.value(path, f"`{name}`: at least two choices; one value goes into [fixed]")
            draft.broken.add(name)
        return Tuned(name=name, kind=_kind(draft, name), choices=choices) if len(choices) > 1 else None
    if not isinstance(spec, dict):
        draft.findings.value(path, f"`{name}`: {{ low = …, high = … }} or a list of choices is meant, not {describe(spec)}; "
                                   "one value goes into [fixed]")
        draft.broken.add(name)
        return None
    if not draft.own_job and PARAMETERS[name].type not in (int, float):
        kind = "true or false" if PARAMETERS[name].type is bool else "a string"
        draft.findings.value(path, f"`{name}` is {kind}: give a list of choices, not a range")
        draft.broken.add(name)
        return None
    before = len(draft.findings.problems)
    for key in spec:
        if key not in _RANGE_KEYS:
            draft.findings.key((*path, key), f"unknown key `{show(key)}` in the range of {name}{nearest(key[:80], _RANGE_KEYS)}")
    for key in ("low", "high"):
        if key not in spec:
            draft.findings.key(path, f"the range of {name} needs `{key}`")
    if "log" in spec and not isinstance(spec["log"], bool):
        draft.findings.value((*path, "log"), f"`log`: true or false is meant, not {describe(spec['log'])}")
    ends = {key: _number(draft, (*path, key), name, spec[key]) for key in ("low", "high", "step") if key in spec}
    if len(draft.findings.problems) == before:
        _check_range(draft, path, name, {"log": False, "step": None, **spec, **ends})
    if len(draft.findings.problems) > before:
        draft.broken.add(name)
        return None
    return Tuned(name=name, kind=_kind(draft, name), low=ends["low"], high=ends["high"], step=ends.get("step"), log=spec.get("log", False))


def _kind(draft: Draft, name: str) -> str:
    kind = (draft.kinds[name][0] if name in draft.kinds else str) if draft.own_job else PARAMETERS[name].type
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _number(draft: Draft, path: Path, name: str, value: object) -> float | None:
    """An end or the step of a range, with the type of the parameter; low and high must also be values it may have."""
    if isinstance(value, (bool, str, list, dict)) or not isinstance(value, (int, float)):
        draft.findings.value(path, f"`{path[-1]}`: a number is meant, not {describe(value)}")
        return None
    if message := why_not_scalar(value):
        draft.findings.value(path, f"`{path[-1]}`: {message}")
        return None
    if path[-1] == "step" and not draft.own_job:
        if PARAMETERS[name].type is int and not isinstance(value, int):
            draft.findings.value(path, f"`step`: {name} is a whole number, and so is its step, not {value}")
            return None
        return value if PARAMETERS[name].type is int else float(value)
    clean = draft.check(path, name, value)
    return clean if isinstance(clean, (int, float)) else None


def _check_range(draft: Draft, path: Path, name: str, spec: Mapping[str, Any]) -> None:
    """What single values cannot show: order of the ends, logarithms, steps."""
    low, high, step = spec["low"], spec["high"], spec["step"]
    findings = draft.findings
    if low >= high:
        findings.value((*path, "low"), f"`low` {low} is not below `high` {high}" if low > high else
                       f"`low` and `high` are both {low}; one value goes into [fixed]")
    if spec["log"] and low <= 0:
        findings.value((*path, "low"), f"`low` {low}: a logarithmic range begins above 0")
    if step is None:
        return
    if not step > 0:
        findings.value((*path, "step"), f"`step` {step} is not above 0")
    elif low < high and step > high - low:
        findings.value((*path, "step"), f"`step` {step} is larger than the range, {low} to {high}")
    if spec["log"]:
        findings.key((*path, "step"), f"`log` and `step` do not go together; give a list of values of {name} instead")


def _check_repeated(draft: Draft) -> None:
    """A parameter may be tuned in several places only under conditions that exclude each other."""
    earlier: dict[str, list[tuple[Tuned, Path]]] = {}
    for tuned, path in draft.tuned:
        for other, first in earlier.setdefault(tuned.name, []):
            conditions = dict(other.when)
            if not any(conditions.get(p, v) != v for p, v in tuned.when):
                line = draft.findings.line_of(first)
                draft.findings.key(path, f"`{tuned.name}` is tuned on line {line} too, and both can be active at once")
                break
        earlier[tuned.name].append((tuned, path))


def read_search(draft: Draft, table: object) -> Search | None:
    """[search] with [search.halving] and [[search.try]]."""
    findings = draft.findings
    search = read_section(findings, ("search",), table, Search, skip=("halving", "try"))
    if not isinstance(table, dict):
        return None
    halving = None
    if "halving" in table:
        halving = read_section(findings, ("search", "halving"), table["halving"], Halving)
        _check_first_rung(draft, halving)
    tries = _read_tries(draft, table["try"]) if "try" in table else ()
    if search is None:
        return None
    if search.wave > search.trials:
        findings.value(("search", "wave"), f"a wave of {search.wave} is more than the {search.trials} trials of the whole search")
    if len(tries) > search.trials:
        findings.key(("search", "try"), f"{len(tries)} settings to try first, but only {search.trials} trials")
    wave = search.wave or min(DEFAULT_WAVE, search.trials)
    settled = tuple(draft.settled(t) for t in tries)
    return dataclasses.replace(search, wave=wave, running=search.running or wave, halving=halving, tries=settled)


def _check_first_rung(draft: Draft, halving: Halving | None) -> None:
    if halving is None or draft.own_job or "epochs" in draft.broken or any(t.name == "epochs" for t, _ in draft.tuned):
        return
    default = draft.fixed.get("epochs", DEFAULTS["epochs"])
    given = [value for _, value in draft.compare.get("epochs", ())] or [v.settings.get("epochs", default) for v in draft.variants]
    fewest = min(int(value) for value in given)
    if halving.first >= fewest:
        draft.findings.value(("search", "halving", "first"),
                             f"the first rung, {halving.first} epochs, is not below the {fewest} epochs of the training")


def _read_tries(draft: Draft, blocks: object) -> tuple[dict[str, Value], ...]:
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
                continue
            checked = draft.check(path, name, value)
            if checked is not None and not any(_inside(t, checked) for t, _ in draft.tuned if t.name == name):
                findings.value(path, f"`{name}`: {text_of(checked)} is not in the search space, {_space_text(draft, name)}")
            elif checked is not None:
                clean[name] = checked
        tries.append(clean)
    return tuple(tries)


def _inside(tuned: Tuned, value: Value) -> bool:
    if tuned.choices:
        return any(value == c and type(value) is type(c) for c in tuned.choices)
    return isinstance(value, (int, float)) and tuned.low is not None and tuned.high is not None and tuned.low <= value <= tuned.high


def _space_text(draft: Draft, name: str) -> str:
    return " or ".join(", ".join(text_of(c) for c in t.choices) if t.choices else f"{t.low} to {t.high}"
                       for t, _ in draft.tuned if t.name == name)


def read_confirm(draft: Draft, table: object, search: Search | None) -> Confirm | None:
    """[confirm]."""
    confirm = read_section(draft.findings, ("confirm",), table, Confirm)
    if confirm is not None and search is not None and confirm.top > search.trials:
        path: Path = ("confirm", "top") if isinstance(table, dict) and "top" in table else ("confirm",)
        draft.findings.value(path, f"the best {confirm.top} of {search.trials} trials cannot be confirmed")
    return confirm
