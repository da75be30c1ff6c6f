"""Collects every mistake of one grid with its place, and turns tomllib's complaints into the same form."""

import json
import re
import tomllib
from typing import Any

from harness.errors import GridError, Problem
from harness.spans import DEEPEST, Index, Path, Span, TooDeep, index

MOST_PROBLEMS = 100
LONGEST_LINE = 20_000


class Findings:
    """The mistakes found so far in one text. Nothing is raised until `close`, except past `MOST_PROBLEMS`."""

    def __init__(self, text: str, name: str):
        self.name = name
        self.places = Index()
        self.lines = text.split("\n")
        self.problems: list[Problem] = []

    def value(self, path: Path, message: str) -> None:
        """A mistake in the value at `path` (or its key or table, where no value stands there)."""
        self.at(self.places.place(path), message)

    def key(self, path: Path, message: str) -> None:
        """A mistake in the key itself, or in the name of a table."""
        self.at(self.places.keys.get(path) or self.places.place(path), message)

    def at(self, span: Span | None, message: str) -> None:
        """A mistake at a place; None is the first line."""
        line, column, end = (span.line, span.column, span.end_column) if span else (1, 1, 1)
        if line > len(self.lines):
            line, column, end = len(self.lines), len(self.lines[-1]) + 1, 0
        problem = Problem(message=message, file=self.name, line=line, column=column, end_column=end,
                          source=self.lines[line - 1].removesuffix("\r"))
        if problem not in self.problems:
            self.problems.append(problem)
        if len(self.problems) >= MOST_PROBLEMS:
            self.close(f"these are the first {MOST_PROBLEMS} that were found")

    def line_of(self, path: Path) -> int:
        """The line of the key at `path`, for "set on line N too"."""
        span = self.places.keys.get(path) or self.places.place(path)
        return span.line if span else 1

    def close(self, closing: str = "") -> None:
        """Raises what was found, if anything.

        Raises:
            GridError: with all problems, in the order of the file.
        """
        if self.problems:
            raise GridError(self.problems, closing)


def show(value: object) -> str:
    """A key or value in a message: on one line, without control characters, at most 60 characters."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def load_toml(text: str, name: str) -> tuple[dict[str, Any], Findings]:
    """The document and an empty list of findings that knows the place of everything in it. `text` has no byte order mark.

    Raises:
        GridError: no TOML, or nothing a grid could be (endless lines, nesting beyond reason).
    """
    findings = Findings(text, name)
    for number, line in enumerate(findings.lines, 1):
        if len(line) > LONGEST_LINE:
            findings.at(Span(number, 1, 2, 0, 0), f"a line of {len(line):,} characters; at most {LONGEST_LINE:,} are read")
            findings.close()
    try:
        document = tomllib.loads(text)
        findings.places = index(text)
    except TooDeep as error:
        findings.at(error.span, f"nested more than {DEEPEST} levels deep; a grid needs at most eight")
        findings.close()
    except (ValueError, RecursionError) as error:
        _syntax_error(text, findings, error)
        findings.close("nothing after a syntax error is checked, so there may be more")
    return document, findings


def _syntax_error(text: str, findings: Findings, error: Exception) -> None:
    """Adds what tomllib says, at the place it means."""
    try:
        repeated = index(text).repeated
    except TooDeep as deep:
        findings.at(deep.span, f"nested more than {DEEPEST} levels deep; a grid needs at most eight")
        return
    except (ValueError, IndexError):
        repeated = []
    if not str(error).startswith(("Cannot ", "Duplicate ")):
        repeated = []
    for path, first, second in repeated:
        findings.at(second, f"`{show('.'.join(map(str, path)))}` is given twice; the first is on line {first.line}")
    if repeated:
        return
    message = str(error)
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        digits = re.search(r"\d[\d_]{4000,}", text)
        line = text.count("\n", 0, digits.start()) + 1 if digits else 1
        column = digits.start() - text.rfind("\n", 0, digits.start()) if digits else 1
        findings.at(Span(line, column, column + 1, 0, 0), "a number with thousands of digits" if digits else f"no TOML: {message[:200]}")
        return
    message = message[:place.start()]
    if place[1] is None:
        last = len(text.rstrip().split("\n"))
        column = len(findings.lines[last - 1].rstrip()) + 1
        findings.at(Span(last, column, column + 1, 0, 0), f"syntax: {_plain(message, '')}, and the file ends here")
        return
    line, column = int(place[1]), int(place[2])
    rest = findings.lines[line - 1][column - 1:] if line <= len(findings.lines) else ""
    word = re.match(r"[^\s,\]}#=]*", rest)
    length = max(1, len(word[0]) if word else 1)
    findings.at(Span(line, column, column + length, 0, 0), f"syntax: {_plain(message, rest)}")


def _plain(message: str, rest: str) -> str:
    """tomllib's message, with what to do where that is clear from the text at the place."""
    word = re.match(r"[A-Za-z_][\w./:+-]*", rest)
    if message == "Invalid value" and word:
        proper = {"true": "true", "false": "false", "yes": "true", "no": "false", "none": '"none"'}.get(word[0].lower())
        return f"{show(word[0])} is no value; " + (f"write {proper}" if proper else f'a string needs quotes: "{show(word[0])}"')
    if message == "Invalid value" and rest[:1] == ".":
        return "a number needs a digit before the point: 0.1, not .1"
    if message.startswith("Expected newline") and re.match(r"[eE.]", rest):
        return "not a number as TOML writes it: 1e-3, 0.1 and 1.0 are"
    if message in ("Found invalid character '\\n'", "Illegal character '\\n'"):  # Python 3.14, 3.11
        return "the line ends inside a string; close it, or use three quotes"
    message = message[:1].lower() + message[1:]
    return re.sub(r"[^\x20-\x7e]", "?", message)[:200]
