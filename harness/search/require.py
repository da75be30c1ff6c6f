"""[[require]]: what must hold between parameters, such as `filters * 2 ** depth <= 1024`. Parsed here, and never run as Python.

The text has the syntax of a Python expression. Of that language only numbers, strings, true and false, names of parameters, arithmetic,
comparisons, `and`, `or`, `not`, `in [...]`, and the functions min, max and abs are taken; our own walk works them out, on values whose
size is bounded. Numbers, strings and truth values do not mix: a text is not compared with a number, and nothing is added to `true`.
"""

import ast
import keyword
import math
import operator
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.config import Value, nearest

LONGEST = 1000
"""Characters of one requirement."""
DEEPEST = 50
"""Levels of parentheses and operators within each other; a sum counts one for every term."""
_MOST_BITS = 1024
"""Of a whole power; a larger one goes beyond floating point too."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: lambda a, b: _power(a, b)}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_EQUAL: dict[type[ast.cmpop], bool] = {ast.Eq: True, ast.NotEq: False}
_MEMBER: dict[type[ast.cmpop], bool] = {ast.In: True, ast.NotIn: False}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}
_TRUTH = {"true": True, "false": False}
_ALLOWED = ("a requirement is made of parameters, numbers, strings, true, false, + - * / // % **, == != < <= > >=, and, or, not, "
            "in [...], min, max and abs")
_HINTS = (
    (re.compile(r"&&|&"), "write `and`"), (re.compile(r"\|\|?"), "write `or`"), (re.compile(r"\^"), "a power is written `**`"),
    (re.compile(r"!(?!=)"), "write `not`"), (re.compile(r"<>"), "write `!=`"), (re.compile(r"=[<>]"), "write `<=` or `>=`"),
    (re.compile(r":=|(?<![<>=!])=(?!=)"), "write `==` to compare"),
)
"""What other languages write, and what is meant."""
_NOT_IN_TEXT = re.compile(r""""[^"]*"|'[^']*'""")


class RequirementError(ValueError):
    """A text that is no requirement. `start` and `stop` are offsets into it, in characters, of the part that is wrong."""

    def __init__(self, message: str, start: int, stop: int):
        super().__init__(message)
        self.message, self.start, self.stop = message, start, stop


class _NoValue(ArithmeticError):
    """An expression without a value: a clash of types, or a number that is not finite."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition between parameters. Equal texts are equal requirements."""

    text: str
    names: frozenset[str] = field(compare=False)
    """The parameters it speaks of."""
    _tree: ast.expr = field(compare=False, repr=False)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it holds for these values; also True when one of its parameters is not among them, because it is inactive.

        What cannot be worked out (a division by zero, an overflow, a string compared with a number) does not hold.
        """
        if not self.names <= values.keys():
            return True
        try:
            return _evaluate(self._tree, values) is True
        except (ArithmeticError, ValueError):
            return False


def parse_requirement(text: str, known: Collection[str], *, kinds: Mapping[str, str] | None = None,
                      texts: Mapping[str, Collection[str]] | None = None) -> Requirement:
    """A requirement from its text.

    Args:
        known: names of all parameters.
        kinds: "int", "float", "bool" or "str" of those whose type is known, so that types that clash are found here.
        texts: all the strings a parameter can be, so that a comparison with another one is found here.

    Raises:
        RequirementError: no such expression, an unknown parameter, or types that clash; with the place in the text.
    """
    tree = _parse(text)
    checker = _Checker(text, known, kinds or {}, texts or {})
    if checker.kind(tree, 1) not in ("bool", ""):
        checker.refuse(tree, "this is a value, not a condition: compare it with something")
    return Requirement(text, frozenset(checker.names), tree)


def _parse(text: str) -> ast.expr:
    """The expression as Python's grammar has it."""
    if len(text) > LONGEST:
        raise RequirementError(f"{len(text):,} characters; a requirement has at most {LONGEST:,}", 0, len(text))
    if not text.isprintable():
        at = next(n for n, c in enumerate(text) if not c.isprintable())
        raise RequirementError("a requirement is one line without control characters", at, at + 1)
    if not text.strip():
        raise RequirementError(f"it is empty; {_ALLOWED}", 0, len(text))
    indent = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "is" with a literal, odd escapes: what is wrong with them is said by the whitelist
            return ast.parse(text[indent:], mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _syntax_error(text, error, indent) from None


def _syntax_error(text: str, error: Exception, indent: int) -> RequirementError:
    """What Python's parser says about a text, or the better hint where the words of another language explain it."""
    bare = _NOT_IN_TEXT.sub(lambda m: "_" * len(m[0]), text)
    for pattern, hint in _HINTS:
        if found := pattern.search(bare):
            return RequirementError(f"`{found[0]}` is not known here; {hint}", found.start(), found.end())
    for word in re.finditer(r"[A-Za-z_]\w*", bare):
        if keyword.iskeyword(word[0]) and word[0] not in ("and", "or", "not", "in", "True", "False"):
            return RequirementError(f"`{word[0]}` has no place here; {_ALLOWED}", word.start(), word.end())
    end = len(text.rstrip())
    if not isinstance(error, SyntaxError) or error.offset is None:
        return RequirementError(f"this is no expression; {_ALLOWED}", indent, end)
    if not error.offset:  # Python's parser came to the end and wanted more
        return RequirementError("the expression stops too early", end - 1, end)
    start = min(indent + error.offset - 1, end - 1)
    reason = "" if "syntax" in error.msg else f" ({error.msg})"
    return RequirementError(f"this is no expression{reason}; {_ALLOWED}", start,
                            min(max(start + 1, indent + (error.end_offset or 0) - 1), end))


class _Checker:
    """One look at every node: only what is listed above is let through, each part with the kind of its value."""

    def __init__(self, text: str, known: Collection[str], kinds: Mapping[str, str], texts: Mapping[str, Collection[str]]):
        self.known, self.kinds, self.texts = known, kinds, texts
        self.bytes = text.lstrip().encode()
        self.indent = len(text) - len(text.lstrip())
        self.names: set[str] = set()

    def refuse(self, node: ast.AST, message: str) -> "RequirementError":
        """Raises the mistake at a node; Python counts columns in bytes of UTF-8."""
        start, stop = (len(self.bytes[:at].decode()) for at in (node.col_offset, node.end_col_offset))  # type: ignore[attr-defined]
        raise RequirementError(message, self.indent + start, self.indent + stop)

    def segment(self, node: ast.AST) -> str:
        """The text of a node, short enough for a message."""
        found = self.bytes[node.col_offset:node.end_col_offset].decode()  # type: ignore[attr-defined]
        return found if len(found) <= 40 else found[:39] + "…"

    def kind(self, node: ast.expr, depth: int) -> str:
        """"number", "str" or "bool"; "" where that depends on a parameter of unknown type."""
        if depth > DEEPEST:
            self.refuse(node, f"nested more than {DEEPEST} levels deep")
        match node:
            case ast.Constant() | ast.Name():
                return self.leaf(node)
            case ast.UnaryOp(op=ast.Not()):
                self.want(node.operand, "bool", depth)
                return "bool"
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                self.want(node.operand, "number", depth)
                return "number"
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                self.want(node.left, "number", depth)
                self.want(node.right, "number", depth)
                self.constant(node)
                return "number"
            case ast.BoolOp():
                for operand in node.values:
                    self.want(operand, "bool", depth)
                return "bool"
            case ast.Compare():
                self.comparison(node, depth)
                return "bool"
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                if len(node.args) != 1 if name == "abs" else len(node.args) < 2:
                    self.refuse(node, f"{name} takes {'one value' if name == 'abs' else 'two or more values'}")
                for operand in node.args:
                    self.want(operand, "number", depth)
                return "number"
        hint = next((f"; {hint}" for pattern, hint in _HINTS[:3] if isinstance(node, ast.BinOp) and pattern.search(self.segment(node))), "")
        raise self.refuse(node, f"`{self.segment(node)}` has no place here{hint or f'; {_ALLOWED}'}")

    def constant(self, node: ast.BinOp) -> None:
        """Refuses numbers without a value, such as `1 / 0` and `9 ** 9 ** 9`: such a requirement would never hold."""
        if not any(isinstance(part, ast.Name) and part.id in self.known for part in ast.walk(node)):
            try:
                _evaluate(node, {})
            except (ArithmeticError, ValueError):
                self.refuse(node, f"`{self.segment(node)}` has no value, or one that is too large")

    def leaf(self, node: ast.Constant | ast.Name) -> str:
        """The kind of a literal or a parameter."""
        if isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, bool):
                return "bool"
            if isinstance(value, str):
                return "str"
            if not isinstance(value, (int, float)):
                self.refuse(node, f"`{self.segment(node)}` has no place here; {_ALLOWED}")
            if isinstance(value, float) and not math.isfinite(value) or isinstance(value, int) and value.bit_length() > _MOST_BITS:
                self.refuse(node, f"`{self.segment(node)}` is too large a number")
            return "number"
        if node.id in _TRUTH and node.id not in self.known:
            return "bool"
        if node.id not in self.known or not self.segment(node).isascii():
            self.refuse(node, f"unknown parameter `{self.segment(node)}`{nearest(node.id[:80], self.known)}")
        self.names.add(node.id)
        kind = self.kinds.get(node.id, "")
        return "number" if kind in ("int", "float") else kind

    def want(self, node: ast.expr, wanted: str, depth: int) -> None:
        """Refuses a part of another kind than its place takes."""
        kind = self.kind(node, depth + 1)
        if kind not in (wanted, ""):
            self.refuse(node, f"`{self.segment(node)}` is {_WORDS[kind]}, and {_WORDS[wanted]} is meant here")

    def comparison(self, node: ast.Compare, depth: int) -> None:
        """A chain such as `1 < a <= b`: each neighbour with the next."""
        left, first = node.left, self.kind(node.left, depth + 1)
        for op, right in zip(node.ops, node.comparators, strict=True):
            if type(op) in _MEMBER:
                second = self.members(left, first, right, depth)
            elif type(op) in _ORDER or type(op) in _EQUAL:
                second = self.kind(right, depth + 1)
                self.same(node, first, second)
                if type(op) in _ORDER and "number" not in (first, second) and {first, second} != {""}:
                    self.refuse(node, f"only numbers are compared with {' '.join(_SIGNS)}, not {_WORDS[first or second]}")
                self.possible(left, right)
                self.possible(right, left)
            else:
                raise self.refuse(node, f"`is` compares nothing here; write `==` or `!=`: {_ALLOWED}")
            left, first = right, second

    def members(self, left: ast.expr, kind: str, node: ast.expr, depth: int) -> str:
        """`left in [literals]`."""
        if not isinstance(node, ast.List) or not node.elts:
            raise self.refuse(node, 'after `in` comes a list of values, such as ["sgd", "adam"]')
        for element in node.elts:
            literal = element.operand if isinstance(element, ast.UnaryOp) else element
            if not isinstance(literal, ast.Constant) and not (isinstance(literal, ast.Name) and literal.id in _TRUTH):
                self.refuse(element, f"`{self.segment(element)}`: the list after `in` has numbers, strings, true and false")
            self.same(element, kind, self.kind(element, depth + 1))
            self.possible(left, element)
        return "list"

    def same(self, node: ast.AST, first: str, second: str) -> None:
        if first and second and first != second:
            what = "a list" if "list" in (first, second) else f"{_WORDS[first]} and {_WORDS[second]}"
            self.refuse(node, f"`{self.segment(node)}`: {what} cannot be compared")

    def possible(self, parameter: ast.expr, literal: ast.expr) -> None:
        """Refuses a string that a parameter never is; that comparison would always have the same answer."""
        if isinstance(parameter, ast.Name) and isinstance(literal, ast.Constant) and isinstance(literal.value, str):
            texts = self.texts.get(parameter.id, ())
            if texts and literal.value not in texts:
                self.refuse(literal, f"{parameter.id} never is `{literal.value[:60]}` here{nearest(literal.value[:80], texts)}")


_WORDS = {"number": "a number", "str": "a string", "bool": "true or false", "list": "a list"}
_SIGNS = ("<", "<=", ">", ">=")


def _evaluate(node: ast.expr, values: Mapping[str, Value]) -> Value:
    """The value of an expression that the checker let through.

    Raises:
        ArithmeticError, ValueError: it has none.
    """
    match node:
        case ast.Constant():
            return node.value  # type: ignore[return-value]
        case ast.Name():
            return values[node.id] if node.id in values else _TRUTH[node.id]
        case ast.UnaryOp(op=ast.Not()):
            return not _truth(_evaluate(node.operand, values))
        case ast.UnaryOp():
            number = _number(_evaluate(node.operand, values))
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BinOp():
            left, right = (_number(_evaluate(side, values)) for side in (node.left, node.right))
            return _number(_ARITHMETIC[type(node.op)](left, right))
        case ast.BoolOp():
            parts = (_truth(_evaluate(part, values)) for part in node.values)  # one after the other: `a == 0 or 1 / a > 2` has a value
            return all(parts) if isinstance(node.op, ast.And) else any(parts)
        case ast.Compare():
            return all(_compared(node, values))
        case ast.Call(func=ast.Name(id=name)):
            return _number(_FUNCTIONS[name](*(_number(_evaluate(part, values)) for part in node.args)))
    raise _NoValue


def _compared(node: ast.Compare, values: Mapping[str, Value]) -> Iterable[bool]:
    left = _evaluate(node.left, values)
    for op, part in zip(node.ops, node.comparators, strict=True):
        if isinstance(part, ast.List):
            yield any(_equal(left, _evaluate(element, values)) for element in part.elts) is _MEMBER[type(op)]
            continue
        right = _evaluate(part, values)
        yield _ORDER[type(op)](_number(left), _number(right)) if type(op) in _ORDER else _equal(left, right) is _EQUAL[type(op)]
        left = right


def _equal(left: Value, right: Value) -> bool:
    kinds = {bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in (left, right)}
    if len(kinds) > 1:
        raise _NoValue
    return left == right


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise _NoValue
    return value


def _number(value: Any) -> int | float:
    """A number that is finite, also as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _NoValue
    return value


def _power(base: int | float, exponent: int | float) -> int | float:
    """`base ** exponent`: exact for whole numbers that stay small, else in floating point, which overflows before it gets large."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0 and base.bit_length() * exponent <= _MOST_BITS:
        return int(base ** exponent)
    return math.pow(base, exponent)
