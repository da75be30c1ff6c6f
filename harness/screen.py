"""How the verbs print: facts with a label, tables that fit the terminal, commands that can be copied whole. Colours only on a terminal."""

import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import printable

if TYPE_CHECKING:
    pass

LABEL = 10
"""Columns of a label."""
UNBOUNDED = 100_000
"""Where no terminal cuts lines, nothing is cut."""
STYLES = {"done": "green", "infeasible": "yellow", "failed": "red", "lost": "red", "cancelled": "yellow", "running": "cyan"}


class Screen:
    """Collects a screen; `show` prints it at once."""

    def __init__(self, width: int | None = None):
        """
        Args:
            width: columns; by default those of the terminal, and as many as it takes elsewhere.
        """
        from rich.console import Console

        self._out = io.StringIO()
        own = Console()
        columns = width or (own.width if sys.stdout.isatty() else UNBOUNDED)
        self.console: Console = Console(file=self._out, width=columns, highlight=False, markup=False, emoji=False,
                                        force_terminal=own.is_terminal, color_system="auto" if own.is_terminal else None)

    def title(self, text: str, *styled: tuple[str, str], style: str = "bold") -> None:
        """A line of its own; (text, style) pairs follow the first text."""
        from rich.text import Text

        line = Text(_clean(text), style=style if not styled else "")
        if styled:
            line = Text.assemble((_clean(text), style), *((_clean(part), look) for part, look in styled))
        self.console.print(line)

    def fact(self, label: str, text: str, *, style: str = "") -> None:
        """A label, and a text that may go on over several lines below itself."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=LABEL, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label, style="dim"), Text("\n".join(map(_clean, text.split("\n"))), style=style))
        self.console.print(grid)

    def command(self, text: str, *, label: str = "") -> None:
        """A command, never cut or broken, so that it can be copied."""
        from rich.text import Text

        line = Text.assemble((f"{label:<{LABEL}} ", "dim"), (_clean(text), "bold"))
        self.console.print(line, soft_wrap=True)

    def quote(self, lines: Sequence[str]) -> None:
        """Lines of a log, behind a bar, each cut at the edge."""
        from rich.text import Text

        for line in lines:
            self.console.print(Text.assemble((" " * LABEL + " | ", "dim"), _clean(line)), no_wrap=True, overflow="ellipsis")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), wide: str = "",
              red: str = "") -> None:
        """A table below the last fact.

        Args:
            right: columns of numbers.
            wide: the column that is cut first when the terminal is narrow.
            red: a column of what went wrong.
        """
        from rich.cells import cell_len
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        widths = {name: max(map(cell_len, (name, *(row[number] for row in rows)))) for number, name in enumerate(columns)}
        room = self.console.width - sum(widths.values()) - 2 * len(columns) + widths.get(wide, 0)
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis",
                             width=max(10, min(room, widths[name])) if name == wide else widths[name], style="red" if name == red else "")
        for row in rows:
            table.add_row(*(Text(_clean(cell)) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, 2)))

    def blank(self) -> None:
        """An empty line."""
        self.console.print()

    def show(self) -> None:
        """Prints the whole screen."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal or a file that has no "…"
        for line in self._out.getvalue().splitlines():
            print(line.rstrip())
        sys.stdout.flush()


def _clean(text: str) -> str:
    return printable(text.replace("\t", "    "))


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=1, allow_nan=False))
    sys.stdout.flush()
