"""W&B sweep files. The kinds of parameters are those of W&B's schema (wandb/sweeps, src/sweeps/config/schema.json), 19 in all, and their
meaning is that of `HyperParameter.ppf` in the same repository."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

import yaml

from harness.converters import (
    Choice,
    Domain,
    Fixed,
    Parameter,
    Range,
    Sweep,
    Trouble,
    Unmapped,
    beta,
    choice,
    exponents,
    normal,
    quantised,
    rungs,
    uniform,
)
from harness.converters.literal import is_number
from harness.errors import UsageError, printable

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
"""What W&B lets a parameter be called."""
_NEEDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",), "categorical": ("values",), "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"), "uniform": ("min", "max"), "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"), "q_log_uniform": ("min", "max", "q"), "inv_log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"), "q_log_uniform_values": ("min", "max", "q"), "inv_log_uniform_values": ("min", "max"),
    "normal": ("mu", "sigma"), "q_normal": ("mu", "sigma", "q"), "log_normal": ("mu", "sigma"), "q_log_normal": ("mu", "sigma", "q"),
    "beta": ("a", "b"), "q_beta": ("a", "b", "q")}
"""Distribution -> its keys. The nineteenth kind is `parameters`, a table of parameters."""
_DEFAULTS = {"q": 1, "mu": 0.0, "sigma": 1.0, "a": 1, "b": 1}
_WHY = {
    "program": "a grid names no script; [job] run = \"package.module:function\" would (--job)",
    "command": "the launcher makes its own commands",
    "entity": "there are no accounts", "project": "there are no projects; a study is a folder",
    "controller": "the launcher is the only one", "scheduler": "`algorithm` of [search] names what proposes",
    "metrics": "one metric decides", "job": "it is a job of W&B", "image_uri": "trials run where the launcher's environment is",
}
_MOST_NODES = 20_000
"""Values of a YAML file once its aliases are written out; a few lines of aliases can stand for billions."""
_DEEPEST = 30


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for which 1e-4 is a number, as it is in YAML 1.2; PyYAML's YAML 1.1 takes it for a string."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def read_yaml(text: str, name: str) -> object:
    """The content of a YAML file. Tags of Python make nothing: they are an error, as in `yaml.safe_load`.

    Raises:
        UsageError: no YAML, a key given twice, or aliases and nesting beyond reason.
    """
    try:
        loader = _Loader(text)
        document = loader.get_single_node()
        if document is not None:
            _check_node(document, name, 0, [])
        return loader.construct_document(document) if document is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{name}: {where}{printable(str(error.problem or error.context))[:200]}; plain YAML is meant, without tags of "
                         "programs") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{name}: no YAML: {printable(str(error))[:200]}") from None
    except RecursionError:
        raise UsageError(f"{name}: nested too deeply; a sweep file has a handful of levels") from None


def _check_node(node: yaml.Node, name: str, depth: int, visited: list[None]) -> None:
    """Walks the document as if every alias were written out, and ends before that gets too large."""
    visited.append(None)
    where = f"{name}: line {node.start_mark.line + 1}"
    if len(visited) > _MOST_NODES or depth > _DEEPEST:
        raise UsageError(f"{where}: nested too deeply, or too large once its aliases are written out; a sweep file needs neither")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_node(item, name, depth + 1, visited)
    elif isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        for twice in (key for key, count in keys.items() if count > 1):
            raise UsageError(f"{where}: {_shown(twice)[:80]!r} is given twice in one mapping; keep one of them")
        for key, value in node.value:
            _check_node(key, name, depth + 1, visited)
            _check_node(value, name, depth + 1, visited)


def read_json(text: str, name: str) -> object:
    """The content of a JSON file.

    Raises:
        UsageError: no JSON, a key given twice, NaN, or nesting beyond reason.
    """
    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, object] = {}
        for key, value in pairs:
            if key in seen:
                raise UsageError(f"{name}: {_shown(key)[:80]!r} is given twice in one object; keep one of them")
            seen[key] = value
        return seen

    def constant(word: str) -> NoReturn:
        raise UsageError(f"{name}: {word} is no number that a parameter can have; write a finite one")
    try:
        return json.loads(text, object_pairs_hook=table, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}: line {error.lineno}, column {error.colno}: no JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: no JSON that a sweep could be ({str(error)[:100]}); a sweep file has a handful of levels") from None


def convert(content: object, name: str) -> Sweep:
    """The search that a sweep file describes.

    Args:
        content: what was read of YAML, JSON or a Python literal.
        name: of the file, for messages.

    Raises:
        UsageError: no sweep, or parameters that cannot be read at all.
    """
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise UsageError(f"{name}: no W&B sweep: a mapping with `method` and `parameters` is meant, with at least one parameter")
    sweep = Sweep(tool="W&B sweep", name=_text(content.get("name")), question=_text(content.get("description")))
    method = content.get("method")
    if method == "random":
        sweep.algorithm = "RandomSearch"
    elif method == "bayes":
        sweep.approximate.append('method: bayes; proposed by algorithm = "auto"')
    elif method != "grid":
        sweep.lost.append(f"method: {_shown(method)}; grid, random and bayes have counterparts")
    for key, value in content.items():
        if key == "metric":
            _metric(value, sweep)
        elif key == "run_cap":
            _run_cap(value, sweep, grid=method == "grid")
        elif key == "early_terminate":
            _early_terminate(value, sweep)
        elif key not in ("parameters", "method", "name", "description", "apiVersion", "kind"):
            sweep.lost.append(f"{_shown(key)}: {_shown(value)}; {_WHY.get(str(key), 'W&B has no such key')}")
    _parameters(content["parameters"], (), sweep, compared=method == "grid", file=name)
    return sweep


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _shown(value: object) -> str:
    """A value on one line, as JSON where it is one."""
    text = value if isinstance(value, str) else json.dumps(value, default=lambda o: getattr(o, "text", str(o)), ensure_ascii=False)
    return printable(text)


def _parameters(table: Mapping[Any, Any], path: tuple[str, ...], sweep: Sweep, *, compared: bool, file: str) -> None:
    """Adds the parameters of one table and of the tables in it."""
    for key, spec in table.items():
        where = f"{file}: parameter {_shown(key)[:80]}"
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise UsageError(f"{where}: W&B's names are letters, digits, _, - and . and begin with a letter; rename it")
        names = (*path, key)
        if isinstance(spec, dict) and isinstance(spec.get("parameters"), dict):
            _parameters(spec["parameters"], names, sweep, compared=compared, file=file)
            if more := spec.keys() - {"parameters"}:
                sweep.lost.append(f"{'.'.join(names)}: {_shown(sorted(map(str, more)))} beside `parameters`")
            continue
        try:
            if not isinstance(spec, dict):
                raise Trouble("a mapping is meant, such as {value: 3}")
            domain = _domain(spec, where)
        except Trouble as error:
            domain = Unmapped(str(error))
        if compared:
            domain = _every(domain)
        sweep.parameters.append(Parameter(name=".".join(names), domain=domain, spec=_shown(spec)))


def _distribution(spec: Mapping[str, Any]) -> str:
    """The distribution of a parameter, which W&B finds out where the file does not say."""
    if "distribution" in spec:
        named = spec["distribution"]
        return "categorical_w_probabilities" if named == "categorical" and "probabilities" in spec else str(named)
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    whole = all(isinstance(spec.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _domain(spec: Mapping[str, Any], where: str) -> Domain:
    """The distribution of one parameter.

    Raises:
        Trouble: it cannot be read.
        UsageError: a number that is none.
    """
    kind = _distribution(spec)
    if kind not in _NEEDS:
        raise Trouble(f"W&B has no distribution {_shown(kind)}")
    if unknown := spec.keys() - {*_NEEDS[kind], "distribution"}:
        raise Trouble(f"{kind} has no {', '.join(sorted(_shown(key) for key in unknown))}")
    if missing := [key for key in _NEEDS[kind] if key not in spec and key not in _DEFAULTS]:
        raise Trouble(f"{kind} needs {' and '.join(missing)}")
    _check_finite(spec, where)
    if kind == "constant":
        return Fixed(spec["value"])
    if kind.startswith("categorical"):
        values, probabilities = spec["values"], spec.get("probabilities")
        if not isinstance(values, list) or not (probabilities is None or isinstance(probabilities, list) and all(
                is_number(p) and p >= 0 for p in probabilities)):
            raise Trouble("`values` is a list, and `probabilities` are as many numbers from 0 on")
        return choice(values, probabilities)
    numbers = {}
    for key in _NEEDS[kind]:
        value = spec.get(key, _DEFAULTS.get(key))
        if not is_number(value):
            raise Trouble(f"{key} is no number: {_shown(value)}")
        numbers[key] = value
    return _drawn(kind, **numbers)


def _drawn(kind: str, *, q: float | None = None, **n: float) -> Domain:
    """A distribution with numbers; the keys are W&B's."""
    if kind.endswith("normal"):
        return normal(n["mu"], n["sigma"], log="log" in kind, q=q)
    if kind.endswith("beta"):
        return beta(n["a"], n["b"], q=q)
    low, high = n["min"], n["max"]
    if kind == "int_uniform":
        if not isinstance(low, int) or not isinstance(high, int):
            raise Trouble("int_uniform runs between whole numbers")
        return uniform(low, high, whole=True)
    if kind in ("uniform", "q_uniform"):
        return uniform(float(low), float(high)) if q is None else quantised(low, high, q, whole=isinstance(q, int))
    if kind in ("log_uniform_values", "inv_log_uniform_values"):  # log(1/x) is uniform exactly when log(x) is
        return uniform(float(low), float(high), log=True)
    if kind == "inv_log_uniform":  # the bounds are those of log(1/x)
        return exponents(-high, -low)
    if q is None or kind == "q_log_uniform":
        return exponents(low, high, q=q, whole=isinstance(q, int))
    return quantised(low, high, q, log=True, whole=isinstance(q, int))


def _check_finite(value: object, where: str) -> None:
    """Raises UsageError for NaN and infinity anywhere in a parameter: no tool means them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is no number that a parameter can have; write a finite one")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_finite(inner, where)


def _every(domain: Domain) -> Domain:
    """What a grid sweep makes of a parameter: all its values are tried."""
    if isinstance(domain, Choice):
        return Choice(domain.values, compared=True)
    if isinstance(domain, Range):
        if domain.log or not (domain.whole or domain.step):
            return Unmapped("a grid sweep cannot try all values of a continuous range")
        return Range(domain.low, domain.high, step=domain.step, whole=domain.whole, compared=True)
    return domain


def _metric(value: object, sweep: Sweep) -> None:
    """`metric`; W&B minimises where no goal is given."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        sweep.lost.append(f"metric: {_shown(value)}; a mapping with `name` and `goal` is meant")
        return
    sweep.metric, goal = value["name"], value.get("goal")
    sweep.mode = "max" if goal == "maximize" else "min"
    if goal not in ("maximize", "minimize"):
        sweep.approximate.append(f"metric.goal: {_shown(goal)}; W&B minimises then, and so does mode = \"min\". Is it meant?")
    sweep.lost += [f"metric.{_shown(key)}: {_shown(value[key])}" for key in value if key not in ("name", "goal")]


def _run_cap(value: object, sweep: Sweep, *, grid: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        sweep.lost.append(f"run_cap: {_shown(value)}; a whole number above 0 is meant")
    elif grid:
        sweep.lost.append(f"run_cap: {value}; a grid is tried as a whole")
    else:
        sweep.trials = value


def _early_terminate(value: object, sweep: Sweep) -> None:
    """Hyperband's bands as rungs: from min_iter up, or from max_iter down in s steps."""
    spec = value if isinstance(value, dict) else {}
    numbers = {key: n for key in ("min_iter", "max_iter", "s", "eta") if is_number(n := spec.get(key))}
    eta = numbers.get("eta", 3)
    try:
        if spec.get("type") != "hyperband" or eta <= 1:
            raise Trouble("hyperband with eta above 1 is meant")
        if "max_iter" in numbers and "s" in numbers:
            bands = [numbers["max_iter"] / eta ** k for k in range(1, min(int(numbers["s"]), 1000) + 1)]
            first = min((math.floor(band) for band in bands if band >= 1), default=0)
        elif "min_iter" in numbers:
            first = math.floor(numbers["min_iter"])
        else:
            raise Trouble("it needs min_iter, or max_iter and s")
        sweep.halving, sweep.rung_notes = rungs(first, eta, unit="logged values of the metric")
    except (Trouble, ArithmeticError) as error:
        sweep.lost.append(f"early_terminate: {_shown(value)}; {error}")
        return
    for key in spec:
        if key not in ("type", "eta", *(("max_iter", "s") if "max_iter" in numbers and "s" in numbers else ("min_iter",))):
            sweep.lost.append(f"early_terminate.{_shown(key)}: {_shown(spec[key])}")
