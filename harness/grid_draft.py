"""The parameters of a grid while it is being read: [fixed], [[variant]] and [compare], value by value."""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from harness.findings import Findings, show
from harness.grid_sections import LARGEST_INT, SECTIONS, Job, describe, show_number
from harness.spans import Path
from jobs.config import PARAMETERS, Config, Value, check_value, nearest

_OWN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_LONGEST_STRING = 1000

DEFAULTS: dict[str, Value] = {name: value for name, value in Config().as_dict().items() if name in PARAMETERS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """One parameter of the search space: a range (`low`, `high`, perhaps `log` or `step`) or `choices`."""

    name: str
    kind: str
    """"int", "float", "bool" or "str"."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    ordered: bool = False
    """Whether neighbouring choices are alike: numbers, and what the grid calls ordered."""
    when: tuple[tuple[str, Value], ...] = ()
    """(parameter, value) pairs that must all hold for this one to be active; from [tune.when.PARAMETER.VALUE]."""


@dataclass(kw_only=True, slots=True)
class NamedVariant:
    """One [[variant]] block; `number` is None for the only variant of a grid that has none."""

    number: int | None
    name: str
    settings: dict[str, Value]


@dataclass(kw_only=True, slots=True)
class Draft:
    """What could be read. A value with a mistake is left out and its parameter noted in `broken`, so that no other check blames it too."""

    findings: Findings
    job: Job | None
    own_job: bool
    """Whether the grid has a [job], even a broken one: then any parameter name goes."""
    fixed: dict[str, Value] = field(default_factory=dict)
    variants: list[NamedVariant] = field(default_factory=list)
    compare: dict[str, list[tuple[int, Value]]] = field(default_factory=dict)
    """Parameter -> (position in the list, value)."""
    tuned: list[tuple[Tuned, Path]] = field(default_factory=list)
    choices_at: dict[Path, tuple[Path, ...]] = field(default_factory=dict)
    """Place of a tuned parameter -> the places of its choices, in their order in `Tuned.choices`."""
    broken: set[str] = field(default_factory=set)
    broken_at: set[Path] = field(default_factory=set)
    """The places of the values left out."""
    no_effect: set[Path] = field(default_factory=set)
    """The places of parameters that nothing reads, so that the trials they double are not blamed once more."""
    nameless: bool = False
    """Whether a [[variant]] or its name could not be read."""
    kinds: dict[str, tuple[type, Path]] = field(default_factory=dict)
    """In a grid with [job]: the type of each parameter, and where it was first seen."""

    def broken_in(self, variant: NamedVariant, name: str) -> bool:
        """Whether the value that a variant has for a parameter could not be read."""
        own: Path = ("variant", variant.number or 0, name)
        if own in self.broken_at or name in variant.settings:
            return own in self.broken_at
        return name in self.broken and (("fixed", name) in self.broken_at or name not in self.fixed and not any(
            path[0] == "variant" and path[-1] == name for path in self.broken_at))

    def known(self, path: Path, name: str) -> bool:
        """Whether `name` is a parameter; if not, that is noted at the key."""
        if self.own_job:
            if not _OWN_NAME.fullmatch(name):
                self.findings.key(path, f"`{show(name)}` cannot be a parameter, which names a column: at most 64 letters, digits and _")
                return False
            return True
        if name in PARAMETERS:
            return True
        homes = [section for section, keys in SECTIONS.items() if name in keys and section not in ("fixed", "tune", "variant", path[0])]
        home = f"; `{name}` is a key of [{'] and ['.join(homes)}]" if homes else ""
        home = "; a trial's seed is one of the `seeds` in [study]" if name == "seed" else home
        self.findings.key(path, f"unknown parameter `{show(name)}`{home}{nearest(name[:80], PARAMETERS)}")
        return False

    def check(self, path: Path, name: str, value: object) -> Value | None:
        """One value of a known parameter as its own type; None, with the mistake noted at `path`, when it cannot be."""
        message = why_not_scalar(value)
        if not message and self.own_job:
            message = self._kind_clash(path, name, value)
        if not message and not self.own_job:
            try:
                return check_value(name, value)
            except ValueError as error:
                message = str(error)
        if message:
            self.broken.add(name)
            self.broken_at.add(path)
            self.findings.value(path, f"`{name}`: {message}" if not message.startswith(f"unknown {name}") else message)
            return None
        return value  # type: ignore[return-value]

    def _kind_clash(self, path: Path, name: str, value: object) -> str:
        kind, first = self.kinds.setdefault(name, (type(value), path))
        if {kind, type(value)} == {int, float}:
            self.kinds[name] = (float, first)
        elif kind is not type(value):
            return f"{describe(value)} here, but {_KIND[kind]} on line {self.findings.line_of(first)}; one parameter has one type"
        return ""

    def settle(self) -> None:
        """In a grid with [job]: whole numbers become floats where their parameter has a value with a point anywhere in the grid."""
        self.fixed = self.settled(self.fixed)
        for variant in self.variants:
            variant.settings = self.settled(variant.settings)
        self.compare = {name: [(n, self.settled({name: value})[name]) for n, value in items] for name, items in self.compare.items()}
        self.tuned = [(self._settled_range(t) if t.name in self.kinds else t, path) for t, path in self.tuned]

    def _settled_range(self, tuned: Tuned) -> Tuned:
        kind = self.kinds[tuned.name][0]
        low, high, step = (float(n) if n is not None and kind is float else n for n in (tuned.low, tuned.high, tuned.step))
        return replace(tuned, kind=kind.__name__, low=low, high=high, step=step,
                       choices=tuple(self.settled({tuned.name: c})[tuned.name] for c in tuned.choices))

    def settled(self, values: dict[str, Value]) -> dict[str, Value]:
        """Values of parameters, each with its parameter's type."""
        return {name: float(value) if name in self.kinds and self.kinds[name][0] is float and isinstance(value, int) else value
                for name, value in values.items()}


_KIND = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def why_not_scalar(value: object) -> str:
    """Why a value can be no parameter's; "" when it may be."""
    if isinstance(value, list):
        return "one value is meant, not a list; several values go into [compare]"
    if isinstance(value, dict):
        return "one value is meant, not a table; ranges go into [tune]"
    if not isinstance(value, (bool, int, float, str)):
        return f"a number, a string, true or false is meant, not {describe(value)}; put it in quotes"
    if isinstance(value, int) and not -LARGEST_INT - 1 <= value <= LARGEST_INT:
        return f"{show_number(value)} does not fit into 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, str) and len(value) > _LONGEST_STRING:
        return f"a string of {len(value):,} characters; at most {_LONGEST_STRING:,}"
    if isinstance(value, str) and not value.isprintable():
        return f"{show(value)} has control characters or line breaks"
    return ""


def read_fixed(draft: Draft, table: object) -> None:
    """[fixed]: one value per parameter."""
    if not isinstance(table, dict):
        draft.findings.key(("fixed",), "`fixed` is a section: write [fixed] and its parameters below it")
        return
    for name, value in table.items():
        path = ("fixed", name)
        if draft.known(path, name) and (clean := draft.check(path, name, value)) is not None:
            draft.fixed[name] = clean


def read_compare(draft: Draft, table: object) -> None:
    """[compare]: a list of values per parameter."""
    if not isinstance(table, dict):
        draft.findings.key(("compare",), "`compare` is a section: write [compare] and its parameters below it")
        return
    for name, items in table.items():
        path = ("compare", name)
        if not draft.known(path, name):
            continue
        if not isinstance(items, list) or not items:
            what = "an empty one" if items == [] else describe(items)
            draft.findings.value(path, f"`{name}`: a list of values is meant, not {what}; one value for all goes into [fixed]")
            draft.broken.add(name)
            continue
        draft.compare[name] = _distinct(draft, path, name, items)


def _distinct(draft: Draft, path: Path, name: str, items: list[object]) -> list[tuple[int, Value]]:
    clean: list[tuple[int, Value]] = []
    seen: dict[tuple[bool, Value], int] = {}
    for n, item in enumerate(items):
        value = draft.check((*path, n), name, item)
        if value is None:
            continue
        if seen.setdefault((isinstance(value, bool), value), n) != n:
            draft.findings.value((*path, n), f"`{name}`: {text_of(value)} is given twice")
            continue
        clean.append((n, value))
    return clean


def read_choices(draft: Draft, path: Path, name: str, items: list[object]) -> list[tuple[int, Value]]:
    """The distinct values of a list of choices, each with its position."""
    clean = _distinct(draft, path, name, items)
    if len(clean) < len(items):
        draft.broken.add(name)
    return clean


def read_variants(draft: Draft, blocks: object) -> None:
    """[[variant]]: named settings."""
    if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
        draft.findings.key(("variant",), "variants are a list of tables: write [[variant]] with two brackets, once for each")
        draft.nameless = True
        return
    taken: dict[str, int] = {}
    for number, block in enumerate(blocks):
        base: Path = ("variant", number)
        name = _variant_name(draft, base, block, taken)
        settings: dict[str, Value] = {}
        for key, value in block.items():
            if key == "name":
                continue
            if draft.known((*base, key), key) and (clean := draft.check((*base, key), key, value)) is not None:
                settings[key] = clean
        draft.variants.append(NamedVariant(number=number, name=name, settings=settings))


def _variant_name(draft: Draft, base: Path, block: dict[str, Any], taken: dict[str, int]) -> str:
    """The name of one [[variant]]; a stand-in, with the mistake noted, where it has none."""
    name, path = block.get("name"), (*base, "name")
    problem = ""
    if name is None:
        draft.findings.key(base, "[[variant]] needs a `name`")
    elif not isinstance(name, str):
        problem = f"`name`: a string is meant, not {describe(name)}"
    elif not name or len(name) > 80 or not name.isprintable() or name != name.strip():
        problem = "the name of a variant is 1 to 80 printable characters, without spaces around it"
    elif name in taken:
        problem = f"the variant on line {draft.findings.line_of(('variant', taken[name], 'name'))} is called `{show(name)}` too"
    else:
        taken[name] = int(base[1])
        return name
    if problem:
        draft.findings.value(path, problem)
    draft.nameless = True
    return f"variant {base[1]}"


def text_of(value: Value) -> str:
    """A value as it stands in names of variants and in [tune.when]: true, 3, 0.1, adam."""
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)
