"""Where each key and value of a TOML text stands, and edits at those places.

The standard library's tomllib checks a document and gives its values, without positions. `index` walks the same text again and
notes the place of every key and value; it trusts that tomllib has accepted the text. `apply_override` is what `--set` does: an
edit of the grid's text, so that the frozen grid is the one that was run.
"""

import bisect
import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UsageError

Path = tuple[str | int, ...]
"""Where a value is: ("fixed", "lr"), ("variant", 0, "lr"), ("compare", "weights", 1)."""

DEEPEST = 40
"""Nested tables and arrays beyond this depth are refused; a grid has about eight."""

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_SKIP = re.compile(r"[ \t\r\n]*+(?:#[^\n]*+[ \t\r\n]*+)*+")
_SPACE = re.compile(r"[ \t]*+")
_KEY = re.compile(r"""[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'""")
_STRING = re.compile(r'''"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}|\'\'\'(?:[^']|'(?!''))*+'{3,5}|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+\'''', re.DOTALL)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*+|[^\s,\]}#]++")


class TooDeep(ValueError):
    """Nesting beyond `DEEPEST`; `span` is where it starts."""

    def __init__(self, span: "Span"):
        self.span = span
        super().__init__(f"nested more than {DEEPEST} levels deep")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one text. Lines and columns count from 1, in characters, a byte order mark left out."""

    line: int
    column: int
    end_column: int
    """The column after the last character; of a value over several lines, the column after its first line."""
    start: int
    """Offset of the first character in the text."""
    stop: int
    """Offset after the last one."""


@dataclass(slots=True)
class Index:
    """The places of a document. `keys` has tables too (the name in their header), `values` has what stands after `=` and in arrays."""

    keys: dict[Path, Span] = field(default_factory=dict)
    values: dict[Path, Span] = field(default_factory=dict)
    repeated: list[tuple[Path, Span, Span]] = field(default_factory=list)
    """Keys and tables that are given twice: path, first place, second place. tomllib refuses such a text."""
    bodies: dict[Path, int] = field(default_factory=dict)
    """Offset after the last statement under each `[header]`; () is the part before the first header."""
    dotted: dict[Path, tuple[int, Path]] = field(default_factory=dict)
    """For tables made by dotted keys: offset after the last such statement, and the header it stands under."""

    def place(self, path: Path) -> Span | None:
        """The value at `path`, or its key where it is a table with a header, or the nearest thing around it."""
        while path:
            span = self.values.get(path) or self.keys.get(path)
            if span:
                return span
            path = path[:-1]
        return None


def index(text: str) -> Index:
    """The places of everything in a text that tomllib accepts.

    Raises:
        TooDeep: tables or arrays nested beyond `DEEPEST`.
        ValueError, IndexError: the text is no TOML.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    """One pass over a text; `at` is the offset of the next character."""

    def __init__(self, text: str):
        self.text = text
        self.at = self.first = 1 if text.startswith(_BOM) else 0
        self.found = Index()
        self.header: Path = ()
        self.headers: set[Path] = set()
        self.elements: dict[Path, int] = {}
        self.lines = [self.first, *(m.end() for m in re.finditer("\n", text))]

    def span(self, start: int, stop: int) -> Span:
        line = bisect.bisect_right(self.lines, start)
        begin = self.lines[line - 1]
        newline = self.text.find("\n", start, stop)
        end = stop if newline < 0 else newline - (self.text[newline - 1] == "\r")
        return Span(line, start - begin + 1, end - begin + 1, start, stop)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"no TOML at offset {self.at}")
        self.at = match.end()
        return match[0]

    def expect(self, literal: str) -> None:
        if not self.text.startswith(literal, self.at):
            raise ValueError(f"no {literal} at offset {self.at}")
        self.at += len(literal)

    def document(self) -> None:
        self.found.bodies[()] = self.at
        while True:
            self.take(_SKIP)
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                self.table_header()
            else:
                self.statement(self.header)
                self.found.bodies[self.header] = self.at

    def table_header(self) -> None:
        start, many = self.at, self.text.startswith("[[", self.at)
        self.expect("[[" if many else "[")
        parts = self.key()
        self.expect("]]" if many else "]")
        path: Path = ()
        for n, (name, span) in enumerate(parts):
            path += (name,)
            last = n + 1 == len(parts)
            if last and (path in self.headers or path in self.found.values or (many and path in self.found.bodies)):
                self.found.repeated.append((path, self.found.keys[path], span))
            self.found.keys.setdefault(path, span)
            if last and many:
                self.elements[path] = self.elements.get(path, -1) + 1
            if path in self.elements:
                path += (self.elements[path],)
                self.found.keys.setdefault(path, self.span(start, self.at) if last else span)
        if not many:
            self.headers.add(path)
        self.header = path
        self.found.bodies[path] = self.at

    def key(self) -> list[tuple[str, Span]]:
        parts: list[tuple[str, Span]] = []
        while True:
            self.take(_SPACE)
            start = self.at
            raw = self.take(_KEY)
            name = tomllib.loads(f"v = {raw}")["v"] if raw[0] in "\"'" else raw
            parts.append((name, self.span(start, self.at)))
            if len(parts) > DEEPEST:
                raise TooDeep(parts[0][1])
            self.take(_SPACE)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def statement(self, base: Path) -> None:
        path = base
        parts = self.key()
        for n, (name, span) in enumerate(parts):
            path += (name,)
            first = self.found.keys.setdefault(path, span)
            if first is not span and (n + 1 == len(parts) or path in self.found.values):
                self.found.repeated.append((path, first, span))
        self.expect("=")
        self.take(_SPACE)
        self.value(path)
        for n in range(1, len(parts)):
            self.found.dotted[path[:len(base) + n]] = (self.at, base)

    def value(self, path: Path) -> None:
        start, opening = self.at, self.text[self.at]
        if len(path) > DEEPEST:
            raise TooDeep(self.span(start, start + 1))
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            self.take(_STRING if opening in "\"'" else _SCALAR)
        self.found.values.setdefault(path, self.span(start, self.at))

    def array(self, path: Path) -> None:
        self.expect("[")
        for n in range(len(self.text)):
            self.take(_SKIP)
            if self.text[self.at] == "]":
                break
            self.value((*path, n))
            self.take(_SKIP)
            if self.text[self.at] == ",":
                self.at += 1
        self.expect("]")

    def inline_table(self, path: Path) -> None:
        self.expect("{")
        self.take(_SKIP)
        while self.text[self.at] != "}":
            self.statement(path)
            self.take(_SKIP)
            if self.text[self.at] == ",":
                self.at += 1
                self.take(_SKIP)
        self.expect("}")


def replace_value(text: str, path: Path, literal: str) -> str:
    """`text` with the value at `path` replaced by a TOML literal; everything else, comments included, stays.

    Raises:
        KeyError: nothing at `path`, or a table with a header.
    """
    span = index(text).values[path]
    return text[:span.start] + literal + text[span.stop:]


def insert_value(text: str, path: Path, literal: str) -> str:
    """`text` with `path = literal` added: to its table where there is one, else to a new table at the end."""
    found = index(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    parent = path[:-1]
    if parent in found.values:
        span = found.values[parent]
        inside = text[span.start + 1:span.stop - 1]
        comma = ", " if inside.strip() else " "
        return text[:span.start + 1] + inside.rstrip() + f"{comma}{_dotted(path[-1:])} = {literal} " + text[span.stop - 1:]
    if parent in found.bodies and parent:
        return _insert_line(text, found.bodies[parent], f"{_dotted(path[-1:])} = {literal}", newline)
    if parent in found.dotted:
        at, header = found.dotted[parent]
        return _insert_line(text, at, f"{_dotted(path[len(header):])} = {literal}", newline)
    gap = "" if not text or text.endswith("\n") else newline
    return f"{text}{gap}{newline}[{_dotted(parent)}]{newline}{_dotted(path[-1:])} = {literal}{newline}"


def _insert_line(text: str, at: int, line: str, newline: str) -> str:
    """A line of its own after the one that `at` stands in."""
    end = text.find("\n", at)
    if end < 0:
        return text + newline + line + newline
    return text[:end + 1] + line + newline + text[end + 1:]


def _dotted(path: Path) -> str:
    return ".".join(str(p) if re.fullmatch("[A-Za-z0-9_-]+", str(p)) else _quoted(str(p)) for p in path)


def _quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's too, but JSON leaves DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def apply_override(text: str, override: str) -> str:
    """The text of a grid after one `--set key=value`.

    A plain key is a parameter in [fixed], a dotted one names its section: `epochs=2`, `study.seeds=[0, 1]`. The value is TOML;
    what is no TOML and does not look like a list, table or quoted string is taken as a string, so that `model=alexnet` works.

    Raises:
        UsageError: no `key=value`, a key that cannot be set this way, a broken value, or a grid that is no TOML.
    """
    key, equals, value = override.partition("=")
    where = f"--set {_quoted(override)[1:-1][:80]}"
    if not equals or not key.strip() or not value.strip():
        raise UsageError(f"{where}: write it as key=value, for example --set epochs=2 or --set study.seeds=[0,1]")
    path = _override_path(key, where)
    literal = _override_literal(value, where)
    try:
        before = tomllib.loads(text.removeprefix(_BOM))
        found = index(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: the grid itself is no TOML: {error}") from error
    if path in found.keys and path not in found.values:
        raise UsageError(f"{where}: `{_dotted(path)}` is a table; name a key in it")
    edited = replace_value(text, path, literal) if path in found.values else insert_value(text, path, literal)
    try:
        after = tomllib.loads(edited.removeprefix(_BOM))
        if _at(after, path) != tomllib.loads(f"v = {literal}")["v"] and "nan" not in literal:
            raise KeyError
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        what = "a list of tables" if isinstance(before.get(str(path[0])), list) else "no place for it"
        raise UsageError(f"{where}: `{_dotted(path[:-1])}` is {what} in this grid; edit the file instead") from error
    return edited


def _override_path(key: str, where: str) -> Path:
    scanner = _Scanner(key.strip())
    try:
        parts = tuple(name for name, _ in scanner.key())
        whole = scanner.at == len(scanner.text)
    except ValueError:
        parts, whole = (), False
    if not whole:
        raise UsageError(f"{where}: `{_quoted(key.strip())[1:-1][:60]}` is no key; write a name, or section.name")
    return ("fixed", *parts) if len(parts) == 1 else parts


def _override_literal(value: str, where: str) -> str:
    value = value.strip()
    source = f"v = {value}"
    try:
        source.encode()
        if list(tomllib.loads(source)) == ["v"]:
            span = index(source).values[("v",)]
            return source[span.start:span.stop]
        reason = "more than one value"
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: not valid UTF-8") from error
    except RecursionError as error:
        raise UsageError(f"{where}: nested too deeply") from error
    except ValueError as error:
        reason = re.sub(r" \(at .*\)$", "", str(error))
    if value[0] in "[{\"'":
        raise UsageError(f"{where}: the value is no TOML ({reason}); in a shell, put the whole of key=value into single quotes")
    return _quoted(value)


def _at(document: dict[str, Any], path: Path) -> Any:
    value: Any = document
    for part in path:
        value = value[part]
    return value
