"""What can go wrong before or around trials, as one tree of exceptions. Only the command line catches and prints them.

HarnessError            exit code 1; the base, never raised itself
├── GridError           2; the grid has mistakes: all of them, each with its place
├── UsageError          2; the command cannot mean what it says (an option, a --set, a name)
├── StudyError          1; the study folder: not writable, full, held by another launcher, made from another grid
└── MissingData         1; a data set or weights file that has to be staged first
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN_COLUMNS = 150
"""A longer source line is cut around its caret."""


class HarnessError(Exception):
    """Base of everything this package raises on purpose. The text says what, where, and what to do next."""

    exit_code = 1


class UsageError(HarnessError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class StudyError(HarnessError):
    """The study folder cannot be used as asked."""


class MissingData(HarnessError):
    """Files that no job may download are not there; the text names the command that fetches them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One mistake in one file. Lines and columns count from 1, in characters; line 0 means the file as a whole."""

    message: str
    file: str
    line: int = 0
    column: int = 0
    end_column: int = 0
    """The first column after the marked text."""
    source: str = ""
    """The whole line, as it stands in the file."""

    def render(self) -> str:
        """The message, the place, and (unless the whole file is meant) the line with carets under what is wrong."""
        if not self.line:
            return f"error: {self.message}\n  --> {printable(self.file)}"
        shown, blank, carets = _mark(self.source, self.column - 1, self.end_column - 1)
        margin = " " * len(str(self.line))
        return (f"error: {self.message}\n{margin} --> {printable(self.file)}:{self.line}:{self.column}\n"
                f"{margin} |\n{self.line} | {shown}\n{margin} | {blank}{carets}")


class GridError(HarnessError):
    """A grid that cannot be run as written. `problems` holds every mistake that was found, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], closing: str = ""):
        self.problems = sorted(problems, key=lambda p: (p.line, p.column))
        self.closing = closing
        """A last line, after the number of mistakes: why there may be more."""
        super().__init__(self.problems)

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """All mistakes as text for a terminal or a log; no colours."""
        blocks = [p.render() for p in self.problems]
        if self.problems and self.problems[0].line:
            n = len(self.problems)
            blocks.append(f"{n} mistake{'s' if n > 1 else ''} in {printable(self.problems[0].file)}"
                          f"{'; ' + self.closing if self.closing else ''}")
        return "\n\n".join(blocks)


def printable(text: str) -> str:
    """`text` without anything a terminal would act on: each such character becomes U+FFFD."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _mark(source: str, first: int, stop: int) -> tuple[str, str, str]:
    """The line as shown, the space before the carets, and the carets, for characters first..stop of `source`."""
    stop = min(max(stop, first + 1), max(len(source), first + 1))
    before, middle, after = (source[:first], source[first:stop], source[stop:])
    if len(source) > _SHOWN_COLUMNS:
        before = before if len(before) <= 60 else "…" + before[-59:]
        middle = middle[:_SHOWN_COLUMNS - 65]
        room = _SHOWN_COLUMNS - len(before) - len(middle)
        after = source[first + len(middle):]
        after = after if len(after) <= room else after[:room - 1] + "…"
    before, middle, after = (printable(part.replace("\t", "    ")) for part in (before, middle, after))
    return before + middle + after, " " * _width(before), "^" * max(1, _width(middle))


def _width(text: str) -> int:
    """Terminal cells: 2 for wide East Asian characters and emoji, 0 for combining marks."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
