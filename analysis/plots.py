"""Figures and the results table of finished studies.

    python -m analysis.plots                      the newest study under runs/
    python -m analysis.plots digits               runs/digits, or any study folder
    python -m analysis.plots digits --out paper   written there instead of runs/digits/figures

Writes curves and comparison (PNG, PDF and the CSV behind each) and results.md with results.csv, and prints what the comparison shows. Of a
study with [tune] also search, parameters and, with halving, rungs. A new figure is one file with `NAME`, `table(study)` and
`draw(figure, data, study)`, and one line in `FIGURES`.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from analysis.load import AnalysisError, Study, find_study, load

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES = (
    "analysis.curves",
    "analysis.comparison",
)
"""The modules that make a figure, in the order in which they are written; imported when they are drawn."""
OF_A_SEARCH = (
    "analysis.search",
    "analysis.parameters",
)
"""Those of a study with [tune]."""
OF_HALVING = ("analysis.rungs",)
MAX_SENTENCES = 8


class FigureModule(Protocol):
    """What a module in `FIGURES` holds."""

    NAME: str

    def table(self, study: Study) -> "pd.DataFrame":
        """The data that are drawn; written as CSV."""

    def draw(self, figure: "Figure", data: "pd.DataFrame", study: Study) -> None:
        """Draws that table, and nothing else, and sets the figure's size."""


class _Parser(argparse.ArgumentParser):
    """argparse that names the option an unknown one was meant to be (Python's own does so from 3.14 on, for choices)."""

    def error(self, message: str) -> NoReturn:
        known = [o for action in self._actions for o in action.option_strings]
        wrong = [w for w in message.split() if w.startswith("-")] if message.startswith("unrecognized") else []
        close = [c for w in wrong for c in difflib.get_close_matches(w.split("=")[0], known, n=1, cutoff=0.5)]
        hint = f"; did you mean {' '.join(close)}?" if close else f" (options: {', '.join(known)})" if wrong else ""
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m analysis.plots", description="Draw the figures and the results table of finished studies.",
                     allow_abbrev=False)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="a study's name under runs/, or its folder (default: the newest study)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder that holds the studies (default: runs)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where to write; with several studies a folder for each in there (default: figures/ in the study's folder)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the studies named on the command line. Returns 0, or 2 when one of them could not be drawn."""
    arguments = _parser().parse_args(argv)
    words: list[str | None] = [*dict.fromkeys(arguments.studies)] or [None]
    code = 0
    for word in words:
        try:
            study = load(find_study(word, arguments.runs))
            out = study.folder / "figures" if arguments.out is None else arguments.out / study.name if len(words) > 1 else arguments.out
            write(study, out)
        except AnalysisError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"error: {error.filename or word}: {error.strerror or error}; --out DIR writes elsewhere", file=sys.stderr)
            code = 2
    return code


def write(study: Study, out: Path) -> list[Path]:
    """Writes all figures and the table of a study into `out`, prints each path and what the comparison shows.

    A figure that this study has no data for is left out with a line that says why.

    Raises:
        AnalysisError: the study has no finished trial, or no config of its search has a value.
    """
    from analysis import results_table, stats, style, winners

    if study.search is None or study.search.configs["value"].isna().all():
        study.done()
    written: list[Path] = []
    for name in _figures(study):
        module = cast(FigureModule, importlib.import_module(name))
        try:
            data = module.table(study)
        except AnalysisError as error:
            print(f"left out {module.NAME}: {error}", file=sys.stderr)
            continue
        with style.context():
            figure = style.new_figure()
            module.draw(figure, data, study)
            written += _told(style.save(figure, out, module.NAME, data))
    sentences: list[str] = []
    if (study.trials["status"] == "done").any():
        results, (column, mode) = results_table.table(study), study.headline()
        text = results_table.markdown(results, study)
        written += _told([style.write_whole(out / f"{results_table.NAME}.md", text.encode("utf-8")),
                          style.write_whole(out / f"{results_table.NAME}.csv", style.csv(results))])
        sentences = stats.verdicts(study.done(), column, mode=mode, variants=study.variants, reference=study.reference,
                                   ended=stats.endings(study.trials))
    print(f"\n{study.name}: {study.counts()}")
    if study.warning():
        print(f"  {study.warning()}")
    _tell(sentences, out / f"{results_table.NAME}.md")
    if study.search is not None:
        _tell(winners.sentences(study.search, study.metric, mode=study.mode, variants=study.variants), out / f"{results_table.NAME}.md")
    return written


def _figures(study: Study) -> tuple[str, ...]:
    """The modules whose figures this study has data for."""
    if study.search is None:
        return FIGURES
    return (*FIGURES, *OF_A_SEARCH, *(OF_HALVING if study.search.halved else ()))


def _tell(sentences: Sequence[str], more: Path) -> None:
    for sentence in sentences[:MAX_SENTENCES]:
        print(f"  {sentence}")
    if len(sentences) > MAX_SENTENCES:
        print(f"  … and {len(sentences) - MAX_SENTENCES} more in {_short(more)}")


def _told(paths: list[Path]) -> list[Path]:
    for path in paths:
        print(f"wrote {_short(path)}")
    return paths


def _short(path: Path) -> Path:
    """The path from here where it lies below, else as it is."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
