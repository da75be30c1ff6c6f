"""docs/troubleshooting.md quotes messages and names options and causes: each is in the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in PAGE.splitlines()
        if line.startswith("|") and not line.startswith(("| ---", "| message", "| cause", "| reason", "| status"))]


def code_spans(text: str) -> list[str]:
    return [double or single for double, single in re.findall(r"``(.+?)``|`(.+?)`", text)]


def strings_of(path: Path) -> list[str]:
    """The strings of a file, what an f-string fills in as "…"."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


STRINGS = [text for floor in ("harness", "jobs", "analysis") for path in sorted((ROOT / floor).rglob("*.py")) for text in strings_of(path)]


def is_said(message: str) -> bool:
    """Whether some string of the code holds the parts of a message in their order."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…") if part.strip()), re.DOTALL)
    return any(pattern.search(text) for text in STRINGS)


@pytest.mark.parametrize("message", [span for row in ROWS for span in code_spans(row[0])])
def test_what_is_quoted_is_said(message: str) -> None:
    assert is_said(message), f"no string of the code says {message!r}"


def test_what_is_not_said_is_noticed() -> None:
    assert not is_said("the moon is in the way of …") and is_said("another export is writing to …; run this")


def test_options_and_commands_exist() -> None:
    spans = " ".join([*code_spans(PAGE), *re.findall(r"^    (.*)", PAGE, re.MULTILINE)])
    for option in set(re.findall(r"--[a-z-]+", spans)):
        assert option in STRINGS, f"{option} is no option"
    for module in set(re.findall(r"python -m ([a-z.]+)", spans)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
