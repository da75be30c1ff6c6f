"""How a parameter lies on an axis from 0 to 1: where its settings are, which of them are named, and what they are called.

Choices have a slot each, numbers among them in their order; a range is linear or logarithmic. What every figure of the search space, and
the report, agree on.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import style
from analysis.parameters import Parameter

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The axis of one parameter."""

    choices: tuple[object, ...] = ()
    """Empty for a range."""
    low: float = 0.0
    """The lower end of a range, its logarithm to base 10 where it is logarithmic."""
    high: float = 1.0
    log: bool = False
    whole: bool = False
    """Whether all values are whole numbers."""

    @property
    def slot(self) -> float:
        """The room of one choice; 0 on a range."""
        return 1 / len(self.choices) if self.choices else 0.0

    def at(self, values: "pd.Series[float]") -> npt.NDArray[np.float64]:
        """Where values lie: choices in the middle of their slots, a range from 0 to 1; NaN for what is not there."""
        if self.choices:
            places = {choice: (i + 0.5) * self.slot for i, choice in enumerate(self.choices)}
            return np.array(values.map(places), dtype=float)
        numbers = values.to_numpy(dtype=float, na_value=math.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.log10(numbers) if self.log else 1.0 * numbers
        return np.array(np.clip((moved - self.low) / (self.high - self.low), 0.0, 1.0), dtype=np.float64)

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """About `most` places with what is written there; every choice, where no more than that many."""
        if self.choices:
            every = math.ceil(len(self.choices) / most)
            return [((i + 0.5) * self.slot, said(c)) for i, c in enumerate(self.choices) if i % every == 0]
        if self.log:
            return [((math.log10(v) - self.low) / (self.high - self.low), text) for v, text in _powers(self.low, self.high, most)]
        shown = style.round_ticks(most=most, whole=self.whole).tick_values(self.low, self.high)
        inside = [float(v) for v in shown if self.low - 1e-9 * abs(v) <= v <= self.high + 1e-9 * abs(v)]
        return [((v - self.low) / (self.high - self.low), said(round(v, 12))) for v in inside]


def scale(parameter: Parameter, values: "pd.Series[float]") -> Scale:
    """The axis on which these values of a parameter have their place."""
    if parameter.choices:
        return Scale(choices=parameter.choices)
    numbers = values.to_numpy(dtype=float, na_value=math.nan)
    numbers = numbers[np.isfinite(numbers)]
    log = parameter.log and len(numbers) > 0 and float(numbers.min()) > 0
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    whole = bool((numbers == np.round(numbers)).all())
    low, high = (math.log10(low), math.log10(high)) if log else (low, high)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: in the middle
        pad = 0.5 if log or whole else abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    return Scale(low=low, high=high, log=log, whole=whole)


def said(value: object) -> str:
    """A setting as it is written on an axis."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    return f"{value:g}".replace("-", "−") if isinstance(value, (float, np.floating)) else str(value)


def aside(number: int, *, upwards: bool = False) -> npt.NDArray[np.float64]:
    """Offsets between -0.5 and 0.5 for marks that would hide each other, evenly spread whatever their number; those `upwards` are
    independent of the others (both coordinates of the R2 sequence, Roberts 2018)."""
    step = 0.5698402909980532 if upwards else 0.7548776662466927
    return np.array(np.arange(number) * step % 1 - 0.5, dtype=np.float64)


def _powers(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis between 10^low and 10^high: powers of ten, and what lies between where there are less than two."""
    def inside(digits: tuple[int, ...]) -> list[float]:
        decades = range(math.floor(low) - 1, math.ceil(high) + 2)
        return [v for v in (d * 10.0 ** k for k in decades for d in digits) if low - 1e-9 <= math.log10(v) <= high + 1e-9]

    whole = inside((1,))
    if len(whole) > 2:
        kept = whole[::-1][::math.ceil(len(whole) / most)][::-1]
        return [(v, power(v, always=True)) for v in kept]
    found = next((v for v in (inside((1, 3)), inside((1, 2, 5)), inside((1, 2, 3, 4, 5, 6, 8))) if len(v) > 1), [10 ** low, 10 ** high])
    return [(v, power(v)) for v in found[::math.ceil(len(found) / most)]]


def power(value: float, *, always: bool = False) -> str:
    """A tick of a logarithmic axis: "0.05", "100", "10⁻⁴", "3·10⁻⁴"; powers of ten as such from 10⁻⁴ on, or `always`."""
    digit, _, exponent = f"{value:.0e}".partition("e")
    if -3 <= int(exponent) <= 3 and not (always and int(exponent)):
        return f"{value:.3g}"
    ten = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return ten if digit == "1" else f"{digit}·{ten}"


def short(value: object) -> str:
    """A number in two digits: "0.0012", "1.2·10⁻⁴", "64"; anything else as it is said."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return said(value)
    if float(value) == 0 or 1e-3 <= abs(float(value)) < 1e4:
        return f"{value:.0f}" if abs(float(value)) >= 10 else f"{float(value):.2g}".replace("-", "−")
    digits, _, exponent = f"{float(value):.1e}".partition("e")
    return f"{digits.removesuffix('.0')}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−").removeprefix("1·")
