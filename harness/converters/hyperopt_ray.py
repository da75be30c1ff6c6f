"""Hyperopt and Ray Tune spaces, written as Python literals: hp.loguniform("lr", -9, -2), tune.choice([16, 32]).

The meaning of each function is that of `hyperopt.pyll_utils` and `ray.tune.search.sample`. Besides the space, `fmin(max_evals=)`,
`TuneConfig(metric=, mode=, num_samples=)`, `tune.run(...)` and `ASHAScheduler(...)` are read where they stand in the same file.
"""

import ast
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.converters import (
    GENERIC,
    Choice,
    Domain,
    Fixed,
    Parameter,
    Range,
    Sweep,
    Trouble,
    Unmapped,
    choice,
    clean,
    discriminator,
    exponents,
    normal,
    quantised,
    rungs,
    uniform,
)
from harness.converters.literal import Call, Opaque, Source, is_number
from harness.errors import UsageError, printable

_HYPEROPT = {
    "uniform": ("low", "high"), "uniformint": ("low", "high"), "quniform": ("low", "high", "q"), "loguniform": ("low", "high"),
    "qloguniform": ("low", "high", "q"), "randint": ("low", "high"), "normal": ("mu", "sigma"), "qnormal": ("mu", "sigma", "q"),
    "lognormal": ("mu", "sigma"), "qlognormal": ("mu", "sigma", "q"), "choice": ("options",), "pchoice": ("p_options",)}
_RAY = {
    "uniform": ("lower", "upper"), "quniform": ("lower", "upper", "q"), "loguniform": ("lower", "upper", "base"),
    "qloguniform": ("lower", "upper", "q", "base"), "randint": ("lower", "upper"), "qrandint": ("lower", "upper", "q"),
    "lograndint": ("lower", "upper", "base"), "qlograndint": ("lower", "upper", "q", "base"), "randn": ("mean", "sd"),
    "qrandn": ("mean", "sd", "q"), "choice": ("categories",), "grid_search": ("values",), "sample_from": ("func",)}
"""Function -> its arguments in order (Hyperopt's after the label)."""
_SPACE_NAMES = ("space", "search_space", "param_space", "config", "hyperparameters", "params")
_MOST_POWERS = 64


class _Number(Protocol):
    """Looks up a number among the arguments of a call."""

    def __call__(self, key: str, default: float | None = None) -> float: ...


def convert(source: Source) -> Sweep:
    """The search in a Python text.

    Raises:
        UsageError: no search space, or more than one.
    """
    tools = {"hyperopt" if name.startswith("hyperopt.") else "ray" for name, _ in _domain_calls(source)}
    if len(tools) != 1:
        raise UsageError(f"{source.name}: " + ("spaces of both Hyperopt and Ray Tune are in it; leave one" if tools else (
            'no search space is in it: space = {"lr": hp.loguniform("lr", -9, -2)} or param_space = {"lr": tune.loguniform(1e-4, 1e-1)} '
            "is meant, or a W&B sweep as a dict with method and parameters")))
    hyperopt = tools == {"hyperopt"}
    reader = _Reader(Sweep(tool="Hyperopt space" if hyperopt else "Ray Tune space"))
    reader.walk(source.read(_space(source)), (), ())
    (_fmin if hyperopt else _tuner)(source, reader.sweep)
    for _, node in _domain_calls(source):
        if id(node) not in source.read_calls:
            reader.sweep.lost.append(f"line {node.lineno}: {source.segment(node)} stands outside the space")
    return reader.sweep


# ------------------------------------------------------------------------------------------------------------ where the space is


def _domain_calls(source: Source) -> list[tuple[str, ast.Call]]:
    """The calls that make search spaces."""
    return [(name, node) for name, node in source.calls("hyperopt.hp.", "ray.tune.") if _last(name) in (
        _HYPEROPT if name.startswith("hyperopt.") else _RAY)]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _space(source: Source) -> ast.expr:
    """The expression that is the space: what the search is called with, or what has its usual name, or the only one there is."""
    makes = {id(node) for _, node in _domain_calls(source)}
    holding: dict[str, bool] = {}  # name -> whether what it stands for holds a call; every name is followed once

    def holds(node: ast.expr) -> bool:
        found = False
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id not in holding:
                value = source.assigned(part.id)
                holding[part.id] = False
                holding[part.id] = value is not None and holds(value)
            found = found or id(part) in makes or isinstance(part, ast.Name) and holding[part.id]
        return found

    called = [k.value for _, node in source.calls("hyperopt.", "ray.") for k in node.keywords
              if k.arg == "param_space" or k.arg in ("space", "config") and _last(source.function(node.func)) in ("fmin", "run")]
    called += [node.args[1] for name, node in source.calls("hyperopt.") if _last(name) == "fmin" and len(node.args) > 1]
    named = {name: value for name in source.names() if isinstance(value := source.assigned(name), (ast.Dict, ast.List, ast.Tuple, ast.Call))
             and (not isinstance(value, ast.Call) or id(value) in makes or source.function(value.func) == "dict")}
    inside = {part.id for value in named.values() for part in ast.walk(value) if isinstance(part, ast.Name)}
    bare = [node.value for node in ast.walk(source.tree) if isinstance(node, (ast.Expr, ast.Return)) and node.value is not None
            and (isinstance(node.value, (ast.Dict, ast.List)) or id(node.value) in makes)]
    for ranked in (called, [value for name, value in named.items() if name in _SPACE_NAMES],
                   [*bare, *(value for name, value in named.items() if name not in inside)]):
        found = {id(node): node for node in map(source.follow, ranked) if holds(node)}
        if len(found) > 1:
            lines = ", ".join(str(node.lineno) for node in found.values())
            raise UsageError(f"{source.name}: several search spaces, on lines {lines}; leave the one that is meant")
        if found:
            return next(iter(found.values()))
    raise UsageError(f"{source.name}: the space is no plain literal; write it out as space = {{...}}")


# --------------------------------------------------------------------------------------------------------- the space, call by call


class _Reader:
    """Collects the parameters of a space, level by level."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep

    def walk(self, value: object, path: tuple[str, ...], when: tuple[tuple[str, object], ...]) -> None:
        """Adds what stands at one place of the space and below."""
        if isinstance(value, dict):
            for key, inner in value.items():
                self.walk(inner, (*path, key), when)
        elif isinstance(value, list) and not path:
            for inner in value:
                self.walk(inner, (), when)
        elif isinstance(value, Call):
            if _last(value.function) not in _SCHEDULERS:
                self._call(value, path, when)
        elif path or not isinstance(value, (Opaque, list)):
            domain = Unmapped("it is no literal") if isinstance(value, Opaque) else Fixed(value)
            self._add(path, domain, value.text if isinstance(value, Opaque) else repr(value), when)
        else:
            self.sweep.lost.append(f"{_shown(value)}: it is no literal")

    def _add(self, path: tuple[str, ...], domain: Domain, spec: str, when: tuple[tuple[str, object], ...]) -> None:
        self.sweep.parameters.append(Parameter(name=".".join(path), domain=domain, spec=spec, when=when))

    def _call(self, call: Call, path: tuple[str, ...], when: tuple[tuple[str, object], ...]) -> None:
        path = path or (_label(call),)
        try:
            options, probabilities = _options(call)
            if any(isinstance(option, dict) for option in options):
                self._cases(call, path, when, options, probabilities)
                return
            domain = _domain(call)
        except Trouble as error:
            domain = Unmapped(str(error))
        self._add(path, domain, call.text, when)

    def _cases(self, call: Call, path: tuple[str, ...], when: tuple[tuple[str, object], ...], options: Sequence[object],
               probabilities: Sequence[float] | None) -> None:
        """One of several dicts: a parameter that says which, and what each of them holds under that value of it."""
        key = discriminator(options)
        if not key or any(isinstance(option, (Call, Opaque, list)) for option in options):
            raise Trouble("its options are dicts that no key with a string tells apart")
        chooser = path if key.lower() in GENERIC else (*path, key)
        values = [option[key] if isinstance(option, dict) else option for option in options]
        self._add(chooser, choice(values, probabilities, compared=_last(call.function) == "grid_search"), call.text, when)
        for option, value in zip(options, values, strict=True):
            if isinstance(option, dict):
                for inner, content in option.items():
                    if inner != key:
                        self.walk(content, (*path, inner), (*when, (".".join(chooser), value)))


def _shown(value: object) -> str:
    return value.text if isinstance(value, (Call, Opaque)) else repr(value)


def _label(call: Call) -> str:
    """Hyperopt's name of a parameter, which may stand inside scope.int(...)."""
    for arg in call.args:
        if isinstance(arg, Call):
            return _label(arg)
    label = call.keywords.get("label", call.args[0] if call.args else "")
    if not isinstance(label, str) or not label:
        raise UsageError(f"line {call.line}: {printable(call.text)[:80]} has no name; put it into a dict")
    return label


def _bound(call: Call) -> dict[str, object]:
    """The arguments of a call by name."""
    hyperopt = call.function.startswith("hyperopt.")
    names = (_HYPEROPT if hyperopt else _RAY).get(_last(call.function))
    if names is None:
        raise Trouble(f"{_last(call.function)} is not known")
    names = ("label", *names) if hyperopt else names
    if len(call.args) > len(names) or call.keywords.keys() - set(names):
        raise Trouble(f"{_last(call.function)} takes {', '.join(names)}")
    return {**dict(zip(names, call.args, strict=False)), **call.keywords}


def _options(call: Call) -> tuple[Sequence[object], Sequence[float] | None]:
    """The options of a choice with their probabilities, if it says any; none of any other call."""
    name = _last(call.function)
    if name not in ("choice", "pchoice", "grid_search"):
        return (), None
    bound = _bound(call)
    options = bound.get("options", bound.get("p_options", bound.get("categories", bound.get("values"))))
    if not isinstance(options, list) or not options:
        raise Trouble("its options are no literal list")
    if name != "pchoice":
        return options, None
    if not all(isinstance(pair, list) and len(pair) == 2 and is_number(pair[0]) for pair in options):
        raise Trouble("a list of (probability, option) pairs is meant")
    return [pair[1] for pair in options], [pair[0] for pair in options]


def _domain(call: Call) -> Domain:
    """The distribution of a call.

    Raises:
        Trouble: it has no counterpart, or its arguments cannot be read.
    """
    name = _last(call.function)
    if call.function == "**":
        return _power(call)
    if name in ("int", "float") and len(call.args) == 1 and isinstance(call.args[0], Call):
        inner = _domain(call.args[0])
        return _whole(inner) if name == "int" else inner
    options, probabilities = _options(call)
    if options:
        if any(isinstance(option, Call) for option in options):
            raise Trouble("its options are ranges themselves")
        return choice([Unmapped(o.text) if isinstance(o, Opaque) else o for o in options], probabilities, compared=name == "grid_search")
    bound = _bound(call)
    if name == "sample_from":
        raise Trouble("it is a function, which would have to be run")

    def number(key: str, default: float | None = None) -> float:
        value = bound.get(key, default)
        if not is_number(value):
            raise Trouble(f"{key} is {'missing' if value is None else 'no number: ' + _shown(value)}")
        return value
    return (_hyperopt if call.function.startswith("hyperopt.") else _ray)(name, number, bound)


def _hyperopt(name: str, number: _Number, bound: Mapping[str, object]) -> Domain:
    if name == "randint":  # (upper) or (low, high), the upper one excluded
        low, high = (number("low"), number("high")) if "high" in bound else (0, number("low"))
        return uniform(int(low), int(high) - 1, whole=True)
    if name.endswith("normal"):
        return normal(number("mu"), number("sigma"), log="log" in name, q=number("q") if name[0] == "q" else None)
    low, high = number("low"), number("high")
    if name == "uniformint":
        return quantised(low, high, 1, whole=True)
    if name == "uniform":
        return uniform(low, high)
    if name == "quniform":
        return quantised(low, high, number("q"))
    return exponents(low, high, q=number("q") if name == "qloguniform" else None)


def _ray(name: str, number: _Number, bound: Mapping[str, object]) -> Domain:
    if name in ("randn", "qrandn"):
        return normal(number("mean", 0), number("sd", 1), q=number("q") if name[0] == "q" else None)
    if name in ("randint", "lograndint"):  # the upper bound is excluded
        low, high = (number("lower"), number("upper")) if "upper" in bound else (0, number("lower"))
        return uniform(int(low), int(high) - 1, log="log" in name, whole=True)
    low, high = number("lower"), number("upper")
    if name in ("uniform", "loguniform"):
        return uniform(low, high, log="log" in name)
    q = number("q", 1 if name == "qrandint" else None)
    if not q > 0:
        raise Trouble(f"q is {q:g}, and has to be above 0")
    return quantised(math.ceil(low / q) * q, math.floor(high / q) * q, q, log="log" in name, whole="int" in name)


def _whole(domain: Domain) -> Domain:
    """What scope.int makes of a distribution: it cuts off what is behind the point."""
    if isinstance(domain, Range) and not domain.whole and domain.step is None:
        low, high = max(math.floor(domain.low), 1 if domain.log else -math.inf), math.ceil(domain.high) - 1
        drawn = uniform(int(low), high, log=domain.log, whole=True)
        return dataclasses.replace(drawn, approximation=domain.approximation) if isinstance(drawn, Range) else drawn
    if isinstance(domain, Range):
        return dataclasses.replace(domain, whole=True)
    if isinstance(domain, Choice):
        return dataclasses.replace(domain, values=tuple(int(v) if is_number(v) else v for v in domain.values))
    return Fixed(int(domain.value)) if isinstance(domain, Fixed) and is_number(domain.value) else domain


def _power(call: Call) -> Domain:
    """2 ** hp.uniform(...) is logarithmic; of whole exponents it is a list."""
    base, inner = call.args[0], call.args[1]
    assert isinstance(inner, Call) and is_number(base)
    domain = _domain(inner)
    if not base > 0 or base == 1:
        raise Trouble(f"powers of {base:g} are no range")
    try:
        if isinstance(domain, Range) and not domain.log and domain.step is None and not domain.whole:
            ends = sorted((float(base) ** domain.low, float(base) ** domain.high))
            drawn = uniform(*ends, log=True)
            return dataclasses.replace(drawn, approximation=domain.approximation) if isinstance(drawn, Range) else drawn
        step = domain.step or 1 if isinstance(domain, Range) else 1
        if isinstance(domain, Range) and not domain.log and (domain.high - domain.low) / step < _MOST_POWERS:
            values = [clean(base ** _int(domain.low + k * step)) for k in range(round((domain.high - domain.low) / step) + 1)]
            return Choice(tuple(values), approximation=domain.approximation)
        if isinstance(domain, Choice) and all(is_number(v) for v in domain.values):
            return dataclasses.replace(domain, values=tuple(clean(base ** v) for v in domain.values if is_number(v)))
    except ArithmeticError:
        raise Trouble("its values are too large") from None
    raise Trouble("powers of such a distribution are not known")


def _int(value: float) -> float:
    return int(value) if value == int(value) else value


# ---------------------------------------------------------------------------------------------------------- what stands beside it


_SCHEDULERS = ("ASHAScheduler", "AsyncHyperBandScheduler")
_OTHER_RULES = ("HyperBandScheduler", "HyperBandForBOHB", "MedianStoppingRule", "PopulationBasedTraining", "PopulationBasedTrainingReplay",
                "PB2", "FIFOScheduler", "ResourceChangingScheduler")
_SETTINGS = ("TuneConfig", "run", "Tuner", *_SCHEDULERS, *_OTHER_RULES)


def _fmin(source: Source, sweep: Sweep) -> None:
    """max_evals of fmin(...); what else it says is listed."""
    for name, node in source.calls("hyperopt."):
        if _last(name) != "fmin":
            continue
        for keyword in node.keywords:
            value = source.read(keyword.value)
            if keyword.arg == "max_evals" and is_number(value):
                sweep.trials = int(value)
            elif keyword.arg not in ("fn", "space"):
                sweep.lost.append(f"fmin: {keyword.arg} = {source.segment(keyword.value)}")


def _tuner(source: Source, sweep: Sweep) -> None:
    """metric, mode and num_samples of Ray Tune, and the stopping rule; what else it says is listed."""
    samples = 1
    for name, node in source.calls("ray."):
        if (last := _last(name)) not in _SETTINGS:
            continue
        told = {k.arg: (source.read(k.value), source.segment(k.value)) for k in node.keywords if k.arg}
        if last in _SCHEDULERS:
            _asha(sweep, told)
        elif last in _OTHER_RULES:
            sweep.lost.append(f"{source.segment(node)}: of the stopping rules only ASHA has a counterpart, [search.halving]")
            continue
        for key, (value, text) in told.items():
            if key in ("metric", "mode") and isinstance(value, str):
                setattr(sweep, key, value)
            elif key == "num_samples" and is_number(value):
                samples = int(value)
            elif key not in ("param_space", "config", "scheduler", "tune_config", *(_ASHA if last in _SCHEDULERS else ())):
                sweep.lost.append(f"{last}: {key} = {text}")
    if sweep.mode not in ("", "max", "min"):
        sweep.lost.append(f"mode = {sweep.mode!r}: max or min is meant")
        sweep.mode = ""
    drawn = any(isinstance(p.domain, (Range, Choice)) and not p.domain.compared for p in sweep.parameters)
    if samples > 1 and drawn:
        sweep.trials = samples
    elif samples > 1:
        sweep.repeats = samples


_ASHA = ("grace_period", "reduction_factor", "max_t", "time_attr", "brackets")


def _asha(sweep: Sweep, told: Mapping[str, tuple[object, str]]) -> None:
    """ASHAScheduler's numbers, with Ray's defaults, as rungs; max_t is when a trial is over."""
    numbers = {key: value for key in _ASHA if is_number(value := told.get(key, (None, ""))[0])}
    sweep.lost += [f"ASHAScheduler: {key} = {told[key][1]}" for key in _ASHA[:3] if key in told and key not in numbers]
    if numbers.get("brackets", 1) != 1:
        sweep.lost.append(f"ASHAScheduler: brackets = {numbers['brackets']:g}; there is one ladder of rungs")
    unit = told.get("time_attr", ("training_iteration", ""))[0]
    try:
        sweep.halving, sweep.rung_notes = rungs(numbers.get("grace_period", 1), numbers.get("reduction_factor", 4), unit=str(unit))
    except Trouble as error:
        sweep.lost.append(f"ASHAScheduler: {error}")
        return
    if "max_t" in numbers:
        sweep.epochs = int(numbers["max_t"])
