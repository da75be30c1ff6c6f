"""Figures and the results table of finished studies.

    python -m analysis.plots                      the newest study under runs/
    python -m analysis.plots digits               runs/digits, or any study folder
    python -m analysis.plots digits --out paper   written there instead of runs/digits/figures/
    python -m analysis.plots digits --only curves,comparison --size slide
    python -m analysis.plots digits --metric val_loss             compared by another column of its tables
    python -m analysis.plots digits digits_deep --together depth  one comparison over both, in runs/depth/figures/
    python -m analysis.plots results.csv --metric val_acc --params lr,depth --compare optimizer
                                                  a table of another tool, drawn in results-figures/ beside it

Writes each figure that the study has data for as PNG, PDF and SVG with the CSV behind it, and the results table, and prints what the
comparison shows. A new figure is one file in `analysis/figures/` with `NAME`, `TITLE`, `table(study)` and `draw(figure, data, study)`, and
one line in `FIGURES`.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from analysis import foreign, together
from analysis.command import Parser
from analysis.load import TRIALS, AnalysisError, NotForThisStudy, Study, find_study, load, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FIGURES = ("comparison", "isolation", "noise", "curves", "curves_cost", "parallel", "slices", "interactions", "importance", "association",
           "search", "progress", "rungs", "pareto", "first_best", "schedules", "confusion", "timeline")
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


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis.plots", description="Draw the figures and the results table of finished studies.",
                     allow_abbrev=False)
    parser.add_argument("studies", nargs="*", metavar="STUDY",
                        help="a study's name under runs/, its folder, or a table of another tool: CSV, Parquet or JSON lines, a row for "
                             "each run (default: the newest study)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder that holds the studies (default: runs)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="where to write; with several studies a folder for each in there (default: figures/ in the study's folder, "
                             "NAME-figures/ beside a table)")
    parser.add_argument("--only", metavar="NAME,...", help=f"these figures only, of {', '.join(FIGURES)}")
    parser.add_argument("--size", choices=SIZES, default="paper", help="what the figures are made for (default: paper)")
    parser.add_argument("--metric", metavar="NAME", help="the column that variants are compared by (default: the study's own)")
    parser.add_argument("--mode", choices=("max", "min"), help="whether more or less of it is better (default: less of a loss or an error)")
    parser.add_argument("--together", metavar="NAME", help="one comparison over all the studies, written into NAME/figures/ under --runs")
    parser.add_argument("--params", type=_names, default=(), metavar="A,B", help="the columns of a table that are parameters")
    parser.add_argument("--compare", type=_names, default=(), metavar="A,B",
                        help="those of them that are compared and not tuned: each setting of them is a variant")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the studies named on the command line. Returns 0, or 2 when one of them could not be drawn."""
    arguments = _parser().parse_args(argv)
    words: list[str | None] = [*dict.fromkeys(arguments.studies)] or [None]
    if arguments.together is not None:
        return _printing(arguments.together, partial(_draw_together, words, arguments))
    return max(_printing(word, partial(_draw, word, arguments, several=len(words) > 1)) for word in words)


def _printing(word: str | None, draw: Callable[[], object]) -> int:
    """Draws; prints what was wrong in one sentence. Returns 0, or 2 when something was."""
    try:
        draw()
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or word}: {error.strerror or error}; --out DIR writes elsewhere", file=sys.stderr)
    else:
        return 0
    return 2


def _draw(word: str | None, arguments: argparse.Namespace, *, several: bool) -> None:
    only = _asked(arguments.only)
    study = _study(word, arguments)
    beside = study.folder / (f"{study.name}-figures" if foreign.is_table(word) else "figures")
    out = beside if arguments.out is None else arguments.out / study.name if several else arguments.out
    write(study, out, only=only, size=arguments.size)


def _draw_together(words: Sequence[str | None], arguments: argparse.Namespace) -> None:
    only, name = _asked(arguments.only), str(arguments.together)
    folder = arguments.runs / name
    if Path(name).name != name or name in ("", "."):
        raise AnalysisError(f"--together {name}: a plain name is meant; --out DIR says where to write")
    if arguments.out is None and ((folder / TRIALS).exists() or (folder / "grid.toml").exists()):
        raise AnalysisError(f"--together {name}: {folder} is a study; another name, or --out DIR, is needed")
    study = together.join([_study(word, arguments) for word in words], name, folder=folder)
    write(study, arguments.out or folder / "figures", only=only, size=arguments.size)


def _study(word: str | None, arguments: argparse.Namespace) -> Study:
    """The study or the table of another tool that a word of the command line names."""
    if word is not None and foreign.is_table(word):
        return foreign.read(Path(word), foreign.Asked(metric=arguments.metric, mode=arguments.mode, params=arguments.params,
                                                      compare=arguments.compare))
    if word is not None and word.lower().endswith(foreign.KINDS) and not Path(word).exists():
        raise AnalysisError(f"{word}: there is no such file")
    if arguments.params or arguments.compare:
        given = "--params" if arguments.params else "--compare"
        raise AnalysisError(f"{given} says what the columns of a table of another tool are, and {word or 'a study'} is no file that ends "
                            f"in {', '.join(foreign.KINDS)}; a study says it itself")
    return load(find_study(word, arguments.runs), metric=arguments.metric, mode=arguments.mode)


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
    from analysis import drawing, latex, results_table, sentences, style

    if study.search is None or study.search.configs["value"].isna().all():
        study.done()
    def use(study: Study, name: str) -> list[Path]:
        module = figure_module(name)
        data = module.table(study)
        with style.context(size):
            figure = style.new_figure()
            module.draw(figure, data, study)
            return style.save(figure, out, module.NAME, data)

    written: list[Path] = []
    for name, paths in drawing.drawn(study, FIGURES if only is None else only, use):
        if isinstance(paths, AnalysisError):
            if only is not None or study.ours and not isinstance(paths, NotForThisStudy):
                print(f"left out {name}: {paths}", file=sys.stderr)
        elif isinstance(paths, Exception):
            raise paths
        else:
            written += _told(paths)
    if only is not None:
        if not written:
            raise AnalysisError(f"{study.name}: none of these figures could be drawn")
        return written
    said = sentences.of_study(study)
    if (study.trials["status"] == "done").any():
        results = results_table.table(study)
        files = {"md": results_table.markdown(results, study, said), "tex": latex.latex(results, study)}
        paths = [style.write_whole(out / f"{results_table.NAME}.{kind}", text.encode("utf-8")) for kind, text in files.items()]
        written += _told([*paths, style.write_whole(out / f"{results_table.NAME}.csv", style.csv(results))])
    print(f"\n{study.name}: {study.counts()}")
    if study.warning():
        print(f"  {study.warning()}")
    _tell(said, out / f"{results_table.NAME}.md")
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
