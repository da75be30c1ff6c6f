"""The results table in LaTeX with booktabs, for `\\input` into a paper. Pure: layouts in, text out.

pandas' own `to_latex` leaves < > | " [ as they are, which pdfLaTeX sets as other signs, or takes for an option at the start of a row.
"""

import re
import textwrap

import pandas as pd

from analysis import results_table
from analysis.load import Study
from analysis.results_table import BEST, LEVEL, Layout

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\char34{}", "[": "{[}", "]": "{]}", "*": "{*}", "`": r"\char96{}",
    "\u2011": "{}", "±": r"$\pm$", "−": "$-$", "–": "--", "†": r"$^\dagger$", "…": r"\ldots{}"}
_ESCAPES = str.maketrans(_SIGNS)


def escape(text: str) -> str:
    """Text that LaTeX sets as it is, on one line. Letters of other scripts stay: pdfLaTeX has Latin ones, XeLaTeX and LuaLaTeX those of
    the font."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    clean = re.sub("--+", lambda dashes: "\u2011".join(dashes[0]), clean)  # -- would be set as one dash
    return clean.translate(_ESCAPES).replace(r" \%", r"~\%")


def latex(data: pd.DataFrame, study: Study) -> str:
    """`results_table.table(study)` as one or two `table` environments. The variants' names are left out where the columns say the same."""
    parts = ["% Written by `python -m analysis.plots`. Needs \\usepackage{booktabs}."]
    if not (text := "".join([study.name, *study.variants])).isascii() and max(text) > "\u024f":
        parts.append("% Holds letters that are not Latin: XeLaTeX or LuaLaTeX, and a font that has them.")
    said = " ".join(["Not confirmed." if study.warning() else "", *results_table.notes(data, study)]).strip()
    parts += _table(results_table.layout(data, study, names=False), f"{study.name}. {said}", f"tab:{_label(study.name)}")
    if curse := results_table.curse_layout(data, study):
        parts += _table(curse, f"{study.name}: what the search said and what was confirmed. {results_table.CURSE_NOTE}",
                        f"tab:{_label(study.name)}-search")
    return "\n".join([*parts, ""])


def _label(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)


def _table(of: Layout, caption: str, label: str) -> list[str]:
    body = [[_marked(escape(c), of.places[i] if j == of.marked else "") for j, c in enumerate(row)] for i, row in enumerate(of.rows)]
    columns = "".join("r" if number else "l" for number in of.numbers)
    return [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}", rf"\label{{{label}}}", rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule", " & ".join(map(_head, of.heads, columns)) + r" \\", r"\midrule", *(" & ".join(cells) + r" \\" for cells in body),
            r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def _head(text: str, side: str) -> str:
    """A head on lines of some 14 letters."""
    lines = [escape(line) for line in textwrap.wrap(text, 14, break_long_words=False, break_on_hyphens=False)] or [""]
    return lines[0] if len(lines) == 1 else rf"\shortstack[{side}]{{" + r" \\ ".join(lines) + "}"


def _marked(text: str, place: str) -> str:
    return rf"\textbf{{\boldmath {text}}}" if place == BEST else rf"{text}$^\dagger$" if place == LEVEL else text
