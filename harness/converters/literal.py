"""What a Python file says as literals, read from its syntax tree: nothing of it is ever run or imported.

Numbers may be computed (`10 ** -3`, `np.log(0.1)`, `[2 ** i for i in range(4)]`) and names may stand for what is assigned once.
Calls of Hyperopt and Ray become `Call`, and all else `Opaque`.
"""

import ast
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from harness.errors import UsageError

_MOST_STEPS = 20_000
"""Nodes that are looked at, names followed: names that stand for names could otherwise multiply without end."""
_MOST_VALUES = 1000
_DEEPEST = 50
_IMPORTED = {"hp": "hyperopt.hp", "scope": "hyperopt.pyll.scope", "fmin": "hyperopt.fmin", "tune": "ray.tune", "np": "numpy",
             **{name: f"ray.tune.schedulers.{name}" for name in ("ASHAScheduler", "AsyncHyperBandScheduler", "HyperBandScheduler")}}
"""What short names mean where the text does not import them."""
_NUMBERS: dict[str, Callable[[float], float]] = {
    **{f"{home}.{name}": getattr(math, name) for home in ("math", "numpy") for name in ("log", "log2", "log10", "exp", "sqrt")},
    "float": float, "int": int, "round": round}
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow}


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the tool, such as hp.uniform("lr", 0, 1)."""

    function: str
    """Its full name: "hyperopt.hp.uniform"; "**" is a power whose exponent is such a call."""
    args: tuple[object, ...]
    keywords: Mapping[str, object]
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """An expression that is no literal."""

    text: str


class Source:
    """A Python text; `read` gives the value of one of its expressions."""

    def __init__(self, text: str, name: str):
        """Parses the text.

        Raises:
            UsageError: it is no Python, or nested beyond reason.
        """
        self.name, self.text, self._steps = name, text, 0
        try:
            self.tree = ast.parse(text)
        except SyntaxError as error:
            raise UsageError(f"{name}: line {error.lineno}: no Python ({error.msg}); a space is a literal such as "
                             'space = {"lr": hp.loguniform("lr", -9, -2)}, and a W&B sweep file ends in .yaml, .yml or .json') from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise UsageError(f"{name}: no Python ({str(error)[:100] or 'nested too deeply'}); keep only the space in the file") from None
        self.lines = re.split(r"\r\n|\r|\n", text)  # as Python counts them
        self.read_calls: set[int] = set()
        """ids of the nodes of the tool's calls that were part of something read."""
        self._imported, self._assigned, self._stores = dict(_IMPORTED), dict[str, ast.expr](), Counter[str]()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self._imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module:
                self._imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        self._assigned[target.id] = node.value
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self._stores[node.id] += 1

    def assigned(self, name: str) -> ast.expr | None:
        """What a name stands for, when it is assigned exactly once."""
        return self._assigned.get(name) if self._stores[name] == 1 else None

    def names(self) -> list[str]:
        """The names that are assigned exactly once, in the order of the text."""
        return [name for name in self._assigned if self._stores[name] == 1]

    def follow(self, node: ast.expr) -> ast.expr:
        """The expression that a name stands for; any other expression itself."""
        found = self.assigned(node.id) if isinstance(node, ast.Name) else None
        return found or node

    def function(self, node: ast.expr) -> str:
        """The full name of what is called: "ray.tune.choice"; "" when it is no plain name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self._imported.get(node.id, node.id), *reversed(parts)])

    def calls(self, *tools: str) -> Iterator[tuple[str, ast.Call]]:
        """The calls whose full name begins with one of the tools' names, from the top of the tree down."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := self.function(node.func)).startswith(tools):
                yield name, node

    def segment(self, node: ast.expr) -> str:
        """The text of an expression on one line."""
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        lines = [line.encode() for line in self.lines[first:last + 1]]  # columns count bytes
        if not lines:
            return ""
        lines[-1] = lines[-1][:node.end_col_offset]
        lines[0] = lines[0][node.col_offset:]
        return " ".join(b" ".join(lines).decode(errors="replace").split())

    def read(self, node: ast.expr) -> object:
        """The value: a scalar, None, a list, a dict with string keys, `Call` or `Opaque`.

        Raises:
            UsageError: a key given twice, or names that multiply or nest without end.
        """
        return self._read(node, {}, 0)

    def _read(self, node: ast.expr, local: Mapping[str, object], depth: int) -> object:
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            raise UsageError(f"{self.name}: line {node.lineno}: nested too deeply, or too large once its names are followed; "
                             "write the space out as one plain literal")
        deeper = depth + 1
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))):
            return node.value
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            return [self._read(item, local, deeper) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self._dict(node, local, deeper)
        if isinstance(node, ast.Name):
            found = self.assigned(node.id)
            return local[node.id] if node.id in local else self._read(found, {}, deeper) if found is not None else self._opaque(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            value = self._read(node.operand, local, deeper)
            return self._opaque(node) if not is_number(value) else -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, self._read(node.left, local, deeper), self._read(node.right, local, deeper))
        if isinstance(node, ast.ListComp):
            return self._comprehension(node, local, deeper)
        if isinstance(node, ast.Call):
            return self._call(node, local, deeper)
        return self._opaque(node)

    def _opaque(self, node: ast.expr) -> Opaque:
        return Opaque(self.segment(node))

    def _dict(self, node: ast.Dict, local: Mapping[str, object], depth: int) -> object:
        found: dict[str, object] = {}
        given: set[str] = set()
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self._read(value_node, local, depth)
            if key_node is None:
                if not isinstance(value, dict):
                    return self._opaque(node)
                found |= value
                continue
            key = self._read(key_node, local, depth)
            if not isinstance(key, str):
                return self._opaque(node)
            if key in given:
                raise UsageError(f"{self.name}: line {key_node.lineno}: {key!r} is given twice; keep one of them")
            given.add(key)
            found[key] = value
        return found

    def _arithmetic(self, node: ast.BinOp, left: object, right: object) -> object:
        if isinstance(node.op, ast.Pow) and is_number(left) and isinstance(right, Call):
            return Call("**", (left, right), {}, self.segment(node), node.lineno)
        compute = _OPERATORS.get(type(node.op))
        if compute is None or not is_number(left) or not is_number(right):
            return self._opaque(node)
        if isinstance(node.op, ast.Pow) and abs(right) > 1000 or max(abs(left), abs(right)) > 1e300:
            return self._opaque(node)
        try:
            value = compute(left, right)
        except (ArithmeticError, ValueError):
            return self._opaque(node)
        return value if is_number(value) and abs(value) < 1e300 else self._opaque(node)

    def _comprehension(self, node: ast.ListComp, local: Mapping[str, object], depth: int) -> object:
        loop = node.generators[0]
        items = self._read(loop.iter, local, depth)
        if len(node.generators) > 1 or loop.ifs or not isinstance(loop.target, ast.Name) or not isinstance(items, list):
            return self._opaque(node)
        return [self._read(node.elt, {**local, loop.target.id: item}, depth) for item in items]

    def _call(self, node: ast.Call, local: Mapping[str, object], depth: int) -> object:
        name = self.function(node.func)
        ours = name.startswith(("hyperopt.", "ray."))
        if ours:
            self.read_calls.add(id(node))
        args = [self._read(arg, local, depth) for arg in node.args]
        keywords = {k.arg: self._read(k.value, local, depth) for k in node.keywords if k.arg}
        if len(keywords) < len(node.keywords) or any(isinstance(arg, ast.Starred) for arg in node.args):
            return self._opaque(node)
        if ours:
            return Call(name, tuple(args), keywords, self.segment(node), node.lineno)
        if name == "dict" and not args:
            return keywords
        if name in ("list", "tuple", "sorted") and len(args) == 1 and isinstance(args[0], list) and not keywords:
            return args[0] if name != "sorted" else self._opaque(node)
        numbers = [arg for arg in args if is_number(arg)]
        if keywords or not numbers or len(numbers) < len(args):
            return self._opaque(node)
        try:
            if name == "range":
                values = range(*[operator.index(n) for n in numbers])  # type: ignore[arg-type]
                return list(values) if len(values) <= _MOST_VALUES else self._opaque(node)
            return _NUMBERS[name](numbers[0]) if name in _NUMBERS and len(numbers) == 1 else self._opaque(node)
        except (ArithmeticError, ValueError, TypeError):
            return self._opaque(node)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and math.isfinite(value)
