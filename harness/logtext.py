"""Reading logs for a terminal: their last lines without reading all of a large one, and nothing in them that a terminal would act on."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 1 << 16
_LONGEST = 1 << 20
_LONGEST_SEQUENCE = 200
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")
"""Colours, cursor movements, window titles: ECMA-48, section 5.4, and xterm's own."""
_KEPT = "\n\t\r"


def harmless(text: str) -> str:
    """`text` without escape sequences, and with every other character that a terminal would act on replaced by U+FFFD; line ends, tabs and
    the carriage returns of progress bars stay."""
    return "".join(c if c.isprintable() or c in _KEPT or c == "\N{NO-BREAK SPACE}" else "\N{REPLACEMENT CHARACTER}"
                   for c in _SEQUENCE.sub("", text))


def pieces(path: Path, start: int = 0) -> Iterator[str]:
    """A log from a byte on, harmless, in pieces that end with a line."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    with path.open("rb") as handle:
        handle.seek(start)
        while block := handle.read(_BLOCK):
            whole, newline, rest = (rest + decoder.decode(block)).rpartition("\n")
            if len(rest) > _LONGEST:  # a progress bar that never ends its line
                whole, rest = rest, ""
            if whole or newline:
                yield harmless(whole + newline)
    if rest := rest + decoder.decode(b"", final=True):
        yield harmless(rest)


class Cleaner:
    """`harmless` for a text that arrives in pieces of any length."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def take(self, block: bytes) -> str:
        """What can be shown of it now; the beginning of an escape sequence waits for its end."""
        text = self._held + self._decoder.decode(block)
        last = text.rfind("\x1b", max(0, len(text) - _LONGEST_SEQUENCE))
        whole = last < 0 or _SEQUENCE.match(text, last)
        self._held = "" if whole else text[last:]
        return harmless(text if whole else text[:last])


def tail_start(path: Path, lines: int) -> int:
    """The byte at which the last `lines` lines of a file begin."""
    with path.open("rb") as handle:
        end = position = handle.seek(0, 2)
        wanted = lines
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            handle.seek(position)
            block = handle.read(size)
            if position + size == end and block.endswith(b"\n"):
                wanted += 1  # the newline that ends the last line begins none
            found = block.count(b"\n")
            if found >= wanted:
                at = len(block)
                for _ in range(wanted):
                    at = block.rindex(b"\n", 0, at)
                return position + at + 1
            wanted -= found
    return 0


def last_lines(path: Path, lines: int) -> list[str]:
    """The last lines of a log that say something, as they look when a progress bar has been drawn and without a traceback's ^^^^; none when
    there is no log."""
    try:
        text = "".join(pieces(path, max(tail_start(path, 2 * lines), path.stat().st_size - _LONGEST)))
    except OSError:
        return []
    shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in shown if line.strip(" ~^")][-lines:]
