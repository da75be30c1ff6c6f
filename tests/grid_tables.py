"""The tables of docs/grid.md, made from the code that reads a grid.

    python -m tests.grid_tables             prints them
    python -m tests.grid_tables --write     puts them into docs/grid.md, under the headings that are there

`tests/test_shape.py` compares the two row by row.
"""

import dataclasses
import re
import sys
from pathlib import Path

from harness import grid_sections
from jobs import registry
from jobs.config import PARAMETERS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "grid.md"
SECTIONS = {"study": grid_sections.Study, "local": grid_sections.Local, "slurm": grid_sections.Slurm,
            "retry": grid_sections.Retry, "limits": grid_sections.Limits, "job": grid_sections.Job,
            "search": grid_sections.Search, "search.halving": grid_sections.Halving, "confirm": grid_sections.Confirm}
MANY = 8
"""A parameter with more choices than this has them below the table."""


def tables() -> dict[str, list[str]]:
    """Heading in docs/grid.md -> lines of the table below it, the two of its head included."""
    found = {f"### `[{name}]`": ["| key | default | what it is |", "| --- | --- | --- |", *_section_rows(section)]
             for name, section in SECTIONS.items()}
    head = "| parameter | type | default | allowed | read by | what it is |"
    found["## Parameters"] = [head, "| --- | --- | --- | --- | --- | --- |", *map(_parameter_row, PARAMETERS)]
    return found


def tables_of(text: str) -> dict[str, list[str]]:
    """The tables that a Markdown text has: the heading above each -> its lines."""
    found: dict[str, list[str]] = {}
    heading, before = "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line
        if line.startswith("|"):
            assert before.startswith("|") or heading not in found, f"two tables under {heading}"
            found.setdefault(heading, []).append(line)
        before = line
    return found


def with_tables(text: str) -> str:
    """A Markdown text with its tables replaced by those of `tables()`."""
    for heading, lines in tables().items():
        text, count = re.subn(rf"(?m)^({re.escape(heading)}\n(?:(?![#|]).*\n)*)(?:\|.*\n)+", lambda m: m[1] + "\n".join(lines) + "\n", text)  # noqa: B023
        assert count == 1, f"{DOCS.name} has no table under {heading}"
    return text


def _section_rows(section: type) -> list[str]:
    return [_row(f"`{f.name}`", "required" if f.default is dataclasses.MISSING else _default(f.default), f.metadata["doc"])
            for f in dataclasses.fields(section) if f.metadata]


def _parameter_row(name: str) -> str:
    spec = PARAMETERS[name]
    return _row(f"`{name}`", spec.type.__name__, _default(spec.default), _allowed(name), _read_by(name), spec.metadata["doc"])


def _row(*cells: str) -> str:
    return "|" + "|".join(f" {cell.replace('|', chr(92) + '|')} " if cell else " " for cell in cells) + "|"


def _default(value: object) -> str:
    """A default as TOML; nothing for "", which stands for one that the text tells."""
    if value == "":
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{str(value).lower()}`"


def _allowed(name: str) -> str:
    limits = PARAMETERS[name].metadata
    if limits["choices"]:
        return ", ".join(limits["choices"]) if len(limits["choices"]) <= MANY else "see below"
    bounds = [f"{sign} {limits[key]}" for sign, key in (("≥", "low"), (">", "above"), ("≤", "high")) if abs(limits[key]) != float("inf")]
    return ", ".join(bounds)


def _read_by(name: str) -> str:
    """Under which choices a parameter is read; torchvision's models are too many to name."""
    told = []
    for chooser, names in registry.readers(name).items():
        ours = [n for n in names if chooser != "model" or n not in registry.torchvision_models()]
        told.append(f"{chooser} {', '.join(ours)}" + (" and torchvision models that take it" if len(ours) < len(names) else ""))
    return "; ".join(told) or "all"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join("\n".join([heading, "", *lines]) for heading, lines in tables().items()))
