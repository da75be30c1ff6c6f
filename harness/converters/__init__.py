"""Search spaces of other tools, in the words that they share; `harness.convert` makes grids of them.

A converter (`wandb`, `hyperopt`, `ray`) turns a file's content into a `Sweep`. A distribution that [tune] has becomes a `Range` or a
`Choice`; one that it lacks becomes the nearest with an `approximation` that says what is lost, or `Unmapped` with the reason.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

CENTRAL = 0.95
"""Share of a distribution without ends (normal, log-normal) or with thin ends (beta) that its range keeps, the middle of it."""
_MOST_LISTED = 32
"""Values that a quantised logarithmic range may have to become a list."""


class Trouble(ValueError):
    """One parameter or option that cannot be read; it is listed as not mapped."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """One value."""

    value: object


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[object, ...]
    compared: bool = False
    """Whether all of them are tried (a grid search) instead of one being drawn."""
    approximation: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """Every value from `low` to `high`, both included; `step` apart where there is one."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False
    """Whether the values are whole numbers."""
    compared: bool = False
    approximation: str = ""


@dataclass(frozen=True, slots=True)
class Unmapped:
    """What no grid can say, and why."""

    why: str


Domain = Fixed | Choice | Range | Unmapped


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as the other tool knows it."""

    name: str
    """Nested names are joined by dots: "model.filters"."""
    domain: Domain
    spec: str
    """How the file says it, on one line."""
    when: tuple[tuple[str, object], ...] = ()
    """(parameter, value) pairs under which it exists."""


@dataclass(slots=True)
class Sweep:
    """A whole search as the other tool knows it."""

    tool: str
    """"W&B sweep", "Hyperopt space" or "Ray Tune space"."""
    parameters: list[Parameter] = field(default_factory=list)
    name: str = ""
    question: str = ""
    metric: str = ""
    mode: str = ""
    """"max", "min", or "" where the file does not say."""
    trials: int | None = None
    repeats: int = 1
    """How often a pure grid is run."""
    algorithm: str = ""
    halving: tuple[int, int] | None = None
    """First rung in epochs, and factor."""
    rung_notes: list[str] = field(default_factory=list)
    """What is approximate about them."""
    epochs: int | None = None
    """The most epochs a trial gets, where only the stopping rule says so."""
    lost: list[str] = field(default_factory=list)
    """What has no counterpart."""
    approximate: list[str] = field(default_factory=list)
    """What has nearly one."""


def clean(number: float) -> float:
    """A number without the last digits that arithmetic has made: 0.30000000000000004 is 0.3.

    Raises:
        Trouble: it is not finite.
    """
    if not math.isfinite(number):
        raise Trouble(f"{number} is not a finite number")
    return number if isinstance(number, int) else float(f"{number:.12g}")


def uniform(low: float, high: float, *, log: bool = False, whole: bool = False) -> Domain:
    """All values from `low` to `high`, on a logarithmic scale with `log`."""
    low, high = clean(low), clean(high)
    if low > high:
        raise Trouble(f"it runs from {low:g} down to {high:g}")
    if log and low <= 0:
        raise Trouble(f"a logarithmic range cannot begin at {low:g}")
    return Fixed(low) if low == high else Range(low, high, log=log, whole=whole)


def exponents(low: float, high: float, *, q: float | None = None, whole: bool = False) -> Domain:
    """A logarithmic range whose ends are given as exponents of e; with `q`, rounded to its multiples."""
    try:
        ends = clean(math.exp(low)), clean(math.exp(high))
    except OverflowError:
        raise Trouble(f"its bounds are exponents of e, and e to the power of {high:g} is too large") from None
    return uniform(*ends, log=True) if q is None else quantised(*ends, q, log=True, whole=whole)


def quantised(low: float, high: float, q: float, *, log: bool = False, whole: bool = False) -> Domain:
    """`round(x / q) * q` for x from `low` to `high`: the multiples of q, of which the two ends are usually drawn less often."""
    if not q > 0:
        raise Trouble(f"q is {q:g}, and has to be above 0")
    uniform(low, high, log=log)
    first, last = math.floor(low / q + 0.5), max(math.floor(low / q + 0.5), math.ceil(high / q - 0.5))
    if first == last:
        return Fixed(clean(first * q))
    even = first - 0.5 == low / q and last + 0.5 == high / q
    ends = "" if even else "the two ends are as likely as the values between them, not about half as likely"
    if not log:
        return Range(clean(first * q), clean(last * q), step=clean(q), whole=whole, approximation=ends)
    if q == 1 and first > 0:
        return Range(first, last, log=True, whole=True, approximation=ends)
    if last - first < _MOST_LISTED:
        values = tuple(clean(k * q) for k in range(first, last + 1))
        return Choice(values, approximation="its values are equally likely, not logarithmically")
    return Range(clean(max(first, 1) * q), clean(last * q), log=True, whole=whole, approximation=f"not rounded to multiples of {q:g}")


def normal(mu: float, sigma: float, *, log: bool = False, q: float | None = None) -> Domain:
    """A normal (with `log`: log-normal) distribution as its central range, evenly drawn."""
    if sigma < 0:
        raise Trouble(f"its standard deviation is {sigma:g}")
    tail = NormalDist(mu, sigma).inv_cdf if sigma else lambda _: mu
    ends = [tail((1 - CENTRAL) / 2), tail((1 + CENTRAL) / 2)]
    kind = f"{'log-normal' if log else 'normal'}({mu:g}, {sigma:g})"
    try:
        return _central([math.exp(end) for end in ends] if log else ends, kind, log=log, q=q)
    except OverflowError:
        raise Trouble(f"{kind} has values that are too large") from None


def beta(a: float, b: float, *, q: float | None = None) -> Domain:
    """A beta distribution as its central range, evenly drawn; beta(1, 1) is uniform."""
    if not (a > 0 and b > 0):
        raise Trouble(f"a and b are {a:g} and {b:g}, and have to be above 0")
    if a == b == 1:
        return uniform(0.0, 1.0) if q is None else quantised(0.0, 1.0, q)
    from scipy.stats import beta as distribution  # a second at import: only for those who use it

    ends = [float(distribution.ppf(share, a, b)) for share in ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2)]
    return _central(ends, f"beta({a:g}, {b:g})", q=q)


def _central(ends: Sequence[float], kind: str, *, log: bool = False, q: float | None = None) -> Domain:
    """The range between the ends (four digits are enough for an approximation), called one."""
    low, high = (float(f"{end:.4g}") for end in ends)
    drawn = uniform(low, high, log=log) if q is None else quantised(low, high, q, log=log)
    what = f"the central {CENTRAL:.0%} of {kind}, {'evenly on a logarithmic scale' if log else 'evenly drawn'}"
    if isinstance(drawn, Range):
        return Range(drawn.low, drawn.high, log=drawn.log, step=drawn.step, whole=drawn.whole, approximation=what)
    return Choice(drawn.values, approximation=what) if isinstance(drawn, Choice) else drawn


def choice(values: Sequence[object], probabilities: Sequence[float] | None = None, *, compared: bool = False) -> Domain:
    """One of the values; what is never drawn is left out, and other probabilities become equal ones."""
    if not values:
        raise Trouble("it has no values")
    if probabilities is not None:
        if len(probabilities) != len(values):
            raise Trouble(f"{len(values)} values but {len(probabilities)} probabilities")
        values = [value for value, p in zip(values, probabilities, strict=True) if p > 0]
        probabilities = [p for p in probabilities if p > 0]
    if len(values) == 1:
        return Fixed(values[0])
    uneven = probabilities is not None and len(set(probabilities)) > 1
    return Choice(tuple(values), compared=compared, approximation="its values are equally likely, not with "
                  f"probabilities {', '.join(f'{p:g}' for p in probabilities or ())}" if uneven else "")


def rungs(first: float, factor: float, *, unit: str) -> tuple[tuple[int, int], list[str]]:
    """Successive halving from another tool's numbers, and what is approximate about it.

    Raises:
        Trouble: no such ladder can be meant.
    """
    if not (math.isfinite(first) and math.isfinite(factor) and first >= 1 and factor > 1):
        raise Trouble(f"rungs from {first:g} with factor {factor:g} cannot be meant")
    whole = int(first), max(2, round(factor))
    notes = [f"the first rung is {whole[0]} epochs with factor {whole[1]}, where the other tool counts {unit}"]
    if whole != (first, factor):
        notes[0] += f" and has {first:g} and {factor:g}"
    return whole, notes


GENERIC = ("name", "type", "kind", "class", "_target_", "label")
"""Keys that say which one of several it is, and nothing of what."""


def discriminator(options: Iterable[object]) -> str:
    """The key whose value tells several dicts apart: {"type": "sgd", ...} and {"type": "adam", ...} have "type". "" where none does.

    Options that are no dicts stand for themselves and need no key.
    """
    dicts = [option for option in options if isinstance(option, dict)]
    found = [key for key in (dicts[0] if dicts else {}) if all(isinstance(d.get(key), str) for d in dicts)
             and len({d[key] for d in dicts}) == len(dicts)]
    return next((key for key in found if str(key).lower() in GENERIC), found[0] if found else "")
