"""The search space of one variant: what is tuned, which values it may have, and which of them are active together.

A point is one number in [0, 1] for each tuned parameter. Every discrete parameter cuts [0, 1] into one bin for each of its values, all of
the same width, so that a uniform point gives all of them the same chance, those at the ends too. Whole numbers on a logarithmic range get
the width that [k - 0.5, k + 0.5] has on it. A parameter whose condition does not hold is left out of the values and ignored in the point.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.grid_draft import Tuned
from jobs.config import Value

if TYPE_CHECKING:
    from harness.search.require import Requirement

Point = NDArray[np.float64]
"""(D,) numbers in [0, 1]."""
Points = NDArray[np.float64]
"""(n, D) of them."""
MOST_VALUES = 1000
"""Longer ranges of discrete values are not listed."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One tuned parameter; a name that is tuned under several conditions has one dimension for each."""

    name: str
    kind: str
    """"int", "float", "bool" or "str"."""
    when: tuple[tuple[str, Value], ...]
    """(parameter, value) pairs that must all hold for it to be active."""
    ordered: bool
    """Whether neighbouring values are alike: every range, and the choices that have an order."""
    values: tuple[Value, ...] | None = None
    """All its values in order; None for a continuous range, and for a discrete one of more than `MOST_VALUES`."""
    count: int = 0
    """How many values it has; 0 for a continuous range."""
    log: bool = False
    low: float = 0
    high: float = 0
    step: float | None = None
    """The ends and the step of a range; whole numbers have a step of 1 where the grid gives none."""

    def at(self, part: float) -> Value:
        """The value at `part` of the way, 0 to 1."""
        part = min(max(float(part), 0.0), 1.0)
        if not self.count:
            value = self.low * (self.high / self.low) ** part if self.log else self.low + part * (self.high - self.low)
            return float(min(max(value, self.low), self.high))
        if self.log:
            low, high = self.low - 0.5, self.high + 0.5
            return int(min(max(math.floor(low * (high / low) ** part + 0.5), self.low), self.high))
        return self.nth(min(int(part * self.count), self.count - 1))

    def places(self, parts: Points) -> NDArray[np.intp]:
        """For each of many parts the index among the dimension's values, which are not on a logarithmic range: those of `at`."""
        return np.minimum((parts * self.count).astype(np.intp), self.count - 1)

    def nth(self, index: int) -> Value:
        """The value with that index among all of a discrete dimension, from 0."""
        if self.step is None:
            assert self.values is not None
            return self.values[index]
        value = Decimal(repr(self.low)) + index * Decimal(repr(self.step))  # so that 0.1 and two steps of 0.1 are 0.3
        return int(value) if self.kind == "int" else float(value)

    def part(self, value: Value) -> float:
        """Where a value is, 0 to 1: the middle of its bin if it is discrete. A number off the steps counts as the nearest on them.

        Raises:
            ValueError: it is none of the choices.
        """
        if self.step is None and self.values is not None:
            return (self.values.index(value) + 0.5) / len(self.values)
        number = min(max(float(value), self.low), self.high)
        if not self.count:
            if self.log:
                return math.log(number / self.low) / math.log(self.high / self.low)
            return (number - self.low) / (self.high - self.low)
        if self.log:
            low, high = self.low - 0.5, self.high + 0.5
            return math.log((number - 0.5) * (number + 0.5) / low ** 2) / 2 / math.log(high / low)
        index = math.floor((number - self.low) / (self.step or 1) + 0.5)
        return (min(index, self.count - 1) + 0.5) / self.count

    def holds(self, value: Value) -> bool:
        """Whether it is one of the choices or between the ends of the range, on a step or not."""
        if self.step is None and self.values is not None:
            return any(_equal(value, choice) for choice in self.values)
        if isinstance(value, (str, bool)) or self.kind == "int" and not isinstance(value, int):
            return False
        return self.low <= value <= self.high


def _dimension(tuned: Tuned) -> Dimension:
    """The dimension of one parameter as the grid has it."""
    name, kind, when, values = tuned.name, tuned.kind, tuned.when, tuned.choices
    if values:
        numbers = [value for value in values if not isinstance(value, (str, bool))]
        if tuned.ordered and len(numbers) == len(values):
            values = tuple(sorted(numbers))
        return Dimension(name=name, kind=kind, when=when, values=values, count=len(values), ordered=tuned.ordered)
    assert tuned.low is not None and tuned.high is not None, "a range has ends"
    low, high, step = tuned.low, tuned.high, tuned.step or (1 if kind == "int" else None)
    dim = Dimension(name=name, kind=kind, when=when, ordered=True, log=tuned.log, low=low, high=high, step=step)
    if step is None:
        return dim
    count = int((Decimal(repr(high)) - Decimal(repr(low))) / Decimal(repr(step))) + 1
    last = dim.nth(count - 1)
    assert not isinstance(last, str)
    return replace(dim, count=count, high=last, values=tuple(map(dim.nth, range(count))) if count <= MOST_VALUES else None)


class Space:
    """What may be proposed for one variant.

    Args:
        tuned: the grid's tuned parameters; a condition only names one that stands before it.
        settings: what the variant sets, [fixed] included.
        requirements: what all parameters together must fulfil.
        defaults: the job's own values, for conditions and requirements on parameters that nobody sets.
    """

    def __init__(self, tuned: Sequence[Tuned], settings: Mapping[str, Value], *, requirements: "Sequence[Requirement]" = (),
                 defaults: Mapping[str, Value]) -> None:
        self.dims: list[Dimension] = [_dimension(t) for t in tuned]
        self._defaults = defaults
        self._requirements = tuple(requirements)
        names = {dim.name for dim in self.dims}
        self._around: dict[str, Value] = {**{name: value for name, value in defaults.items() if name not in names}, **settings}
        """Values of the parameters that are not tuned: one that is tuned, and not active, has no value here."""

    def _active(self, dim: Dimension, values: Mapping[str, Value]) -> bool:
        return all(_equal(values.get(name, self._around.get(name)), wanted) for name, wanted in dim.when)

    def active(self, points: Points) -> NDArray[np.bool_]:
        """Which parameters are active at each of the points (n, D): (n, D)."""
        on = np.ones(points.shape, dtype=bool)
        for index, dim in enumerate(self.dims):
            for name, wanted in dim.when:
                homes = [home for home in range(index) if self.dims[home].name == name]
                hit = np.full(len(points), not homes and _equal(self._around.get(name), wanted))
                for home in homes:
                    values = self.dims[home].values or ()
                    place = next((place for place, value in enumerate(values) if _equal(value, wanted)), -1)
                    hit |= on[:, home] & (self.dims[home].places(points[:, home]) == place)
                on[:, index] &= hit
        return on

    def decode(self, point: Sequence[float] | Point) -> dict[str, Value]:
        """The values of the active parameters at a point of [0, 1]^D, each with its parameter's type."""
        values: dict[str, Value] = {}
        for dim, part in zip(self.dims, point, strict=True):
            if self._active(dim, values):
                values[dim.name] = dim.at(part)
        return values

    def encode(self, values: Mapping[str, Value]) -> Point:
        """The point (D,) of such values: the middle of a discrete value's bin, 0.5 where a parameter is not active.

        Raises:
            ValueError: a choice that is not in the space.
        """
        return np.array([dim.part(values[dim.name]) if dim.name in values and self._active(dim, values) else 0.5 for dim in self.dims])

    def allows(self, values: Mapping[str, Value]) -> bool:
        """Whether all requirements hold for these values, together with what the variant and the job set."""
        known = {**self._around, **values}
        return all(requirement.holds(known) for requirement in self._requirements)

    @cached_property
    def size(self) -> int | None:
        """How many distinct settings there are, with those that a requirement forbids; None when a range is continuous."""
        deciding = {name for dim in self.dims for name, _ in dim.when}

        def count(index: int, values: dict[str, Value]) -> int | None:
            """Of the dimensions from `index` on, those before having `values`."""
            factor = 1
            for place, dim in enumerate(self.dims[index:], index):
                if not self._active(dim, values):
                    continue
                if not dim.count:
                    return None
                if dim.name in deciding and dim.values is not None:
                    parts = [count(place + 1, {**values, dim.name: value}) for value in dim.values]
                    whole = [part for part in parts if part is not None]
                    return factor * sum(whole) if len(whole) == len(parts) else None
                factor *= dim.count
            return factor

        return count(0, {})

    def every(self) -> Iterator[dict[str, Value]]:
        """All settings of a discrete space that the requirements allow, in the order of the grid.

        Raises:
            ValueError: a range is continuous.
        """
        if self.size is None:
            raise ValueError("a continuous range has no list of its values")

        def go_on(index: int, values: dict[str, Value]) -> Iterator[dict[str, Value]]:
            while index < len(self.dims) and not self._active(self.dims[index], values):
                index += 1
            if index == len(self.dims):
                if self.allows(values):
                    yield dict(values)
                return
            dim = self.dims[index]
            for n in range(dim.count):
                yield from go_on(index + 1, {**values, dim.name: dim.nth(n)})

        return go_on(0, {})

    def complete(self, partial: Mapping[str, Value]) -> dict[str, Value]:
        """The settings that `partial` begins: what it leaves open is the job's default where the space has it, else the middle.

        Names in `partial` that are not active together with the rest are left out.
        """
        values: dict[str, Value] = {}
        for dim in self.dims:
            if not self._active(dim, values):
                continue
            default = self._defaults.get(dim.name)
            if dim.name in partial and dim.holds(partial[dim.name]):
                values[dim.name] = _typed(dim, partial[dim.name])
            elif default is not None and dim.holds(default):
                values[dim.name] = dim.at(dim.part(default)) if dim.count else _typed(dim, default)
            else:
                values[dim.name] = dim.at(0.5)
        return values


def _typed(dim: Dimension, value: Value) -> Value:
    return float(value) if dim.kind == "float" else value


def _equal(value: Value | None, wanted: Value) -> bool:
    """Equal in value and not true for 1."""
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
