"""Figures and the results table of finished studies.

    python -m analysis.plots                      the newest study under runs/
    python -m analysis.plots digits               runs/digits, or any study folder
    python -m analysis.plots digits --out paper   written there instead of runs/digits/figures/
    python -m analysis.plots digits --only curves,comparison --size slide

Writes each figure that the study has data for as PNG, PDF and SVG with the CSV behind it, and the results table, and prints what the
comparison shows. A new figure is one file in `analysis/figures/` with `NAME`, `TITLE`, `table(study)` and `draw(figure, data, study)`, and
one line in `FIGURES`.
"""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from analysis.load import AnalysisError, NotForThisStudy, Study, find_study, load, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES = ("curves", "comparison", "search", "slices", "rungs")
"""The modules of `analysis.figures`, each of the figure of its name, in the order in which they are written; imported when drawn."""
SIZES = ("paper", "slide")
"""The names in `analysis.style.SIZES`, which would load matplotlib."""
MAX_SENTENCES = 8


class FigureModule(Protocol):
    """What a module of `FIGURES` holds."""

    NAME: str
    """The name of its files."""
    TITLE: str
    """What it shows, in a few words."""

    def table(self, study: Study) -> "pd.DataFrame":
        """The data that are drawn; written as CSV. Raises NotForThisStudy where the study has nothing of the kind, and AnalysisError where
        something is missing that should be there."""

    def draw(self, figure: "Figure", data: "pd.DataFrame", study: Study) -> None:
        """Draws that table, and nothing else, and sets the figure's size."""


def figure_module(name: str) -> FigureModule:
    """The module of the figure of this name, imported."""
    return cast(FigureModule, importlib.import_module(f"analysis.figures.{name}"))


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
    parser.add_argument("--only", metavar="NAME,...", help=f"these figures only, of {', '.join(FIGURES)}")
    parser.add_argument("--size", choices=SIZES, default="paper", help="what the figures are made for (default: paper)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the studies named on the command line. Returns 0, or 2 when one of them could not be drawn."""
    arguments = _parser().parse_args(argv)
    words: list[str | None] = [*dict.fromkeys(arguments.studies)] or [None]
    code = 0
    for word in words:
        try:
            only = _asked(arguments.only)
            study = load(find_study(word, arguments.runs))
            out = study.folder / "figures" if arguments.out is None else arguments.out / study.name if len(words) > 1 else arguments.out
            write(study, out, only=only, size=arguments.size)
        except AnalysisError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except OSError as error:
            print(f"error: {error.filename or word}: {error.strerror or error}; --out DIR writes elsewhere", file=sys.stderr)
            code = 2
    return code


def _asked(names: str | None) -> tuple[str, ...] | None:
    """The figures that --only names.

    Raises:
        AnalysisError: there is no figure of such a name.
    """
    if names is None:
        return None
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        if name not in FIGURES:
            raise AnalysisError(f"no figure `{name}`{nearest(name, FIGURES)}")
    return tuple(name for name in FIGURES if name in asked)


def write(study: Study, out: Path, *, only: Sequence[str] | None = None, size: str = "paper") -> list[Path]:
    """Writes the figures and the table of a study into `out`, prints each path and what the comparison shows.

    A figure that should be there and cannot be drawn is left out with a line that says why.

    Args:
        only: the figures to draw; by default all that the study has data for, and the table.
        size: one of `SIZES`.

    Raises:
        AnalysisError: the study has no finished trial, or no config of its search has a value; or none that was asked for can be drawn.
    """
    from analysis import results_table, stats, style, winners

    if study.search is None or study.search.configs["value"].isna().all():
        study.done()
    written: list[Path] = []
    for name in FIGURES if only is None else only:
        module = figure_module(name)
        try:
            data = module.table(study)
        except AnalysisError as error:
            if only is not None or not isinstance(error, NotForThisStudy):
                print(f"left out {module.NAME}: {error}", file=sys.stderr)
            continue
        with style.context(size):
            figure = style.new_figure()
            module.draw(figure, data, study)
            written += _told(style.save(figure, out, module.NAME, data))
    if only is not None:
        if not written:
            raise AnalysisError(f"{study.name}: none of these figures could be drawn")
        return written
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


def _tell(sentences: Sequence[str], more: Path) -> None:
    for sentence in sentences[:MAX_SENTENCES]:
        print(f"  {sentence}")
    if len(sentences) > MAX_SENTENCES:
        print(f"  … and {len(sentences) - MAX_SENTENCES} more in {_short(more)}")


def _told(paths: list[Path]) -> list[Path]:
    """Prints where a figure or table was written, one line for all of its files; returns the paths."""
    first, *others = [_short(path) for path in paths]
    print(f"wrote {first}" + (f" (and {', '.join(path.suffix for path in others)})" if others else ""))
    return paths


def _short(path: Path) -> Path:
    """The path from here where it lies below, else as it is."""
    here = Path.cwd()
    return path.resolve().relative_to(here) if path.resolve().is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
