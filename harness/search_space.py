"""[tune] and [[require]]: the search space of a grid, read and checked. Nothing here draws a value; harness/search does."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.findings import show
from harness.grid_draft import DEFAULTS, Draft, Tuned, read_choices, text_of, why_not_scalar
from harness.grid_sections import describe
from harness.search.require import Requirement, RequirementError, parse_requirement
from harness.spans import Path, Span
from jobs.config import PARAMETERS, Value, nearest

_RANGE_KEYS = ("low", "high", "log", "step")
_CHOICE_KEYS = ("values", "ordered")
_MOST_REQUIREMENTS = 100


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
    """One parameter: a list of choices, a table with such a list as `values`, or a table with low and high."""
    before = len(draft.findings.problems)
    tuned: Tuned | None = None
    if isinstance(spec, list):
        tuned = _read_choices(draft, path, path, name, spec, None)
    elif not isinstance(spec, dict):
        draft.findings.value(path, f"`{name}`: {{ low = …, high = … }} or a list of choices is meant, not {describe(spec)}; "
                                   "one value goes into [fixed]")
    elif "values" in spec or "ordered" in spec and "low" not in spec and "high" not in spec:
        tuned = _read_choice_table(draft, path, name, spec)
    else:
        tuned = _read_range(draft, path, name, spec)
    if len(draft.findings.problems) > before:
        draft.broken.add(name)
    return tuned


def _read_choice_table(draft: Draft, path: Path, name: str, spec: Mapping[str, Any]) -> Tuned | None:
    """{ values = ["small", "medium", "large"], ordered = true }"""
    findings = draft.findings
    for key in spec:
        if key in _RANGE_KEYS:
            findings.key((*path, key), f"`{key}` and `{'values' if 'values' in spec else 'ordered'}` do not go together: {name} has either "
                                       "a range or choices")
        elif key not in _CHOICE_KEYS:
            findings.key((*path, key), f"unknown key `{show(key)}` in the choices of {name}{nearest(key[:80], _CHOICE_KEYS)}")
    ordered = spec.get("ordered")
    if ordered is not None and not isinstance(ordered, bool):
        findings.value((*path, "ordered"), f"`ordered`: true or false is meant, not {describe(ordered)}")
    if "values" not in spec:
        findings.key(path, f"the choices of {name} need `values`, a list")
    elif not isinstance(spec["values"], list):
        findings.value((*path, "values"), f"`values`: a list of choices is meant, not {describe(spec['values'])}")
    else:
        return _read_choices(draft, path, (*path, "values"), name, spec["values"], ordered if isinstance(ordered, bool) else None)
    return None


def _read_choices(draft: Draft, path: Path, place: Path, name: str, items: list[object], ordered: bool | None) -> Tuned | None:
    """A list of choices at `place`. Numbers are in order by default, and in the order of their size when they are."""
    choices = read_choices(draft, place, name, items)
    if len(items) < 2:
        draft.findings.value(place, f"`{name}`: at least two choices; one value goes into [fixed]")
    if len(choices) < 2:
        return None
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for _, value in choices)
    ordered = numbers if ordered is None else ordered
    if ordered and numbers:
        choices = sorted(choices, key=lambda choice: choice[1])
    draft.choices_at[path] = tuple((*place, n) for n, _ in choices)
    return Tuned(name=name, kind=_kind(draft, name), choices=tuple(value for _, value in choices), ordered=ordered)


def _read_range(draft: Draft, path: Path, name: str, spec: Mapping[str, Any]) -> Tuned | None:
    """{ low = 1e-4, high = 0.1, log = true }"""
    if not draft.own_job and PARAMETERS[name].type not in (int, float):
        kind = "true or false" if PARAMETERS[name].type is bool else "a string"
        draft.findings.value(path, f"`{name}` is {kind}: give a list of choices, not a range")
        return None
    before = len(draft.findings.problems)
    for key in spec:
        if key == "ordered":
            draft.findings.key((*path, key), f"`ordered` is for choices, `values`; the range of {name} has its order")
        elif key not in _RANGE_KEYS:
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


def read_requirements(draft: Draft, blocks: object) -> tuple[Requirement, ...]:
    """[[require]]: what must hold between parameters. After everything else was read, because it may name any parameter."""
    findings = draft.findings
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        findings.key(("require",), "requirements are a list of tables: write [[require]] with two brackets, once for each")
        return ()
    if len(blocks) > _MOST_REQUIREMENTS:
        findings.key(("require", _MOST_REQUIREMENTS), f"{len(blocks):,} requirements; at most {_MOST_REQUIREMENTS}")
        return ()
    kinds, texts = _parameters(draft)
    found: list[Requirement] = []
    for n, block in enumerate(blocks):
        for key in block:
            if key != "that":
                findings.key(("require", n, key), f"unknown key `{show(key)}` in [[require]]{nearest(key[:80], ['that'])}")
        path: Path = ("require", n, "that")
        if "that" not in block:
            findings.key(("require", n), "[[require]] needs `that`, an expression such as that = \"filters * 2 ** depth <= 1024\"")
        elif not isinstance(block["that"], str):
            findings.value(path, f"`that`: an expression in quotes is meant, not {describe(block['that'])}")
        elif any(requirement.text == block["that"] for requirement in found):
            findings.value(path, "this requirement is given twice")
        elif requirement := _read_requirement(draft, path, block["that"], kinds, texts):
            found.append(requirement)
    return tuple(found)


def _read_requirement(draft: Draft, path: Path, text: str, kinds: Mapping[str, str], texts: Mapping[str, list[str]]) -> Requirement | None:
    try:
        requirement = parse_requirement(text, kinds, kinds=kinds, texts=texts)
    except RequirementError as error:
        draft.findings.at(_within(draft, path, text, error.start, error.stop), error.message)
        return None
    if not requirement.names & {*(t.name for t, _ in draft.tuned), *draft.broken}:
        draft.findings.value(path, "this does not depend on anything that is tuned")
        return None
    return requirement


def _parameters(draft: Draft) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The type of every parameter ("" where a mistake hides it), and all the strings that one can be in this grid."""
    settings = [draft.fixed, *(variant.settings for variant in draft.variants)]
    settings += [{name: value} for name, items in draft.compare.items() for _, value in items]
    settings += [{t.name: value} for t, _ in draft.tuned for value in t.choices]
    if draft.own_job:
        kinds = dict.fromkeys(draft.broken, "") | {name: kind.__name__ for name, (kind, _) in draft.kinds.items()}
    else:
        kinds = {name: _kind(draft, name) for name in PARAMETERS}
        settings.append(DEFAULTS)
    texts: dict[str, list[str]] = {}
    for values in settings:
        for name, value in values.items():
            if isinstance(value, str) and name not in draft.broken and value not in texts.setdefault(name, []):
                texts[name].append(value)
    return kinds, texts


def _within(draft: Draft, path: Path, text: str, start: int, stop: int) -> Span | None:
    """The place of a part of a string, where its characters stand in the grid as they are meant; else the place of the whole."""
    span = draft.findings.places.place(path)
    if span is None or start == stop:
        return span
    source = draft.findings.lines[span.line - 1][span.column - 1:span.end_column - 1]
    for quotes in (3, 1):
        if len(source) == len(text) + 2 * quotes and source[quotes:-quotes] == text:
            column = span.column + quotes
            return Span(span.line, column + start, column + stop, 0, 0)
    return span
