"""One HTML file with all that a study says, to open from disk, to mail and to keep.

    python -m analysis.report                      the newest study under runs/
    python -m analysis.report digits               runs/digits, or any study folder; writes runs/digits/report.html
    python -m analysis.report digits --out for_ada.html
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.command import Parser
from analysis.load import AnalysisError, find_study, load

NAME = "report.html"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(prog="python -m analysis.report", allow_abbrev=False,
                     description="Write one HTML file with all that a study says. It needs no network.")
    options.add_argument("study", nargs="?", metavar="STUDY", help="a study's name under runs/, or its folder (default: the newest study)")
    options.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder that holds the studies (default: runs)")
    options.add_argument("--out", type=Path, metavar="FILE", help=f"where to write (default: {NAME} in the study's folder)")
    options.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report of the study named on the command line. Returns 0, or 2 when it could not be written."""
    arguments = parser().parse_args(argv)
    if arguments.out is not None and arguments.out.is_dir():
        print(f"error: {arguments.out}: is a folder; --out names a file, such as {arguments.out / NAME}", file=sys.stderr)
        return 2
    try:
        study = load(find_study(arguments.study, arguments.runs))
        from analysis import style
        from analysis.report.page import page

        path = style.write_whole(arguments.out or study.folder / NAME, page(study).encode())
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or arguments.study}: {error.strerror or error}; --out FILE writes elsewhere", file=sys.stderr)
        return 2
    if not arguments.quiet:
        print(f"wrote {path} ({path.stat().st_size / 1000:,.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
