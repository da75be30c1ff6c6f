"""Hands a study's trials to other tools.

    python -m analysis.export digits --to mlflow             runs/digits/export/mlflow/mlflow.db
    python -m analysis.export digits --to tensorboard,csv    several at once
    python -m analysis.export a b --to optuna --out shared   both studies in shared/optuna.db

May be run again at any time: trials that have ended since are added, those that have changed are replaced, and nothing is there twice.
A new target is one module in `analysis/exporters/` with `export(study, out)` and one entry in `TARGETS`. docs/export.md says what goes
where.
"""

import argparse
import fcntl
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from analysis.command import Parser
from analysis.load import AnalysisError, Study, find_study, load, nearest, plural

if TYPE_CHECKING:
    from analysis.exporters.runs import Outcome

LOCK = ".export-lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A tool that studies are handed to."""

    module: str
    needs: tuple[str, ...] = ()
    """The modules that must be installed; the extra that brings them has the target's name."""
    shared: bool = False
    """Whether several studies fit into one folder."""


TARGETS = {
    "csv": Target(module="to_csv"),
    "tensorboard": Target(module="to_tensorboard", needs=("tensorboard",)),
    "mlflow": Target(module="to_mlflow", needs=("mlflow", "sqlalchemy", "alembic"), shared=True),
    "optuna": Target(module="to_optuna", needs=("optuna",), shared=True),
    "wandb": Target(module="to_wandb", needs=("wandb",), shared=True),
}


class Exporter(Protocol):
    """What a module of `TARGETS` holds."""

    def export(self, study: Study, out: Path) -> "Outcome":
        """Makes what is in `out` the same as the study. Raises AnalysisError, and OSError where it cannot write."""


def export(study: Study, out: Path, *, to: str) -> "Outcome":
    """Hands a study to another tool, in `out`; doing it again adds what is new and replaces what has changed.

    Args:
        to: one of `TARGETS`.

    Raises:
        AnalysisError: there is no such target, its library is missing, nothing can be exported, or another export writes there.
        OSError: `out` cannot be written.
    """
    module = _module(to)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        return module.export(study, out)


def _module(to: str) -> Exporter:
    if to not in TARGETS:
        raise AnalysisError(f"nothing is exported to `{to}`{nearest(to, tuple(TARGETS))}")
    target = TARGETS[to]
    missing = [name for name in target.needs if not _installed(name)]
    if missing:
        raise AnalysisError(f"exporting to {to} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
                            f"`pip install '.[{to}]'` in the checkout brings {'it' if len(missing) == 1 else 'them'}")
    return cast(Exporter, importlib.import_module(f"analysis.exporters.{target.module}"))


def _installed(name: str) -> bool:
    """Whether a package is there to be imported. A mere folder of its name is none, such as the `wandb` that wandb makes where it runs."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps other exports out of a folder. The lock goes with this process, however it ends."""
    with (out / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnalysisError(f"another export is writing to {out}; run this again when it is through") from error
        yield


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis.export", allow_abbrev=False,
                    description="Hand the trials of studies to other tools. May be run again at any time.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="a study's name under runs/, or its folder (default: the newest study)")
    parser.add_argument("--to", required=True, metavar="TOOL,...", help=f"what to export to: {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the folder that holds the studies (default: runs)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: export/TOOL in the study's folder)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the studies named on the command line. Returns 0, or 2 when one of them could not be exported."""
    arguments = _parser().parse_args(argv)
    words: list[str | None] = [*dict.fromkeys(arguments.studies)] or [None]
    targets = [name.strip() for name in arguments.to.split(",") if name.strip()]
    code = 0
    try:
        for to in targets:
            _module(to)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for word in words:
        for to in targets:
            try:
                study = load(find_study(word, arguments.runs))
                _told(study, export(study, _folder(study, to, arguments.out, several=len(words) > 1, tools=len(targets)), to=to))
            except AnalysisError as error:
                print(f"error: {error}", file=sys.stderr)
                code = 2
            except OSError as error:
                print(f"error: {error.filename or word}: {error.strerror or error}; --out DIR writes elsewhere", file=sys.stderr)
                code = 2
    return code


def _folder(study: Study, to: str, out: Path | None, *, several: bool, tools: int) -> Path:
    """Where a study goes: into the study's own folder, or into `out`, with a folder for each tool of several, and for each study of several
    where the tool cannot hold them side by side."""
    if out is None:
        return study.folder / "export" / to
    folder = out / to if tools > 1 else out
    return folder / study.folder.name if several and not TARGETS[to].shared else folder


def _told(study: Study, outcome: "Outcome") -> None:
    """Prints what an export did and what opens it."""
    from analysis.exporters.runs import shown

    count = outcome.new + outcome.changed + outcome.kept
    print(f"{shown(study.name, 80)}: {plural(count, outcome.of)} in {outcome.path} ({outcome.new} new, {outcome.changed} changed, "
          f"{outcome.kept} as before)")
    waiting = int((study.all_trials["status"] == "unfinished").sum())
    if waiting and outcome.of == "trial":
        print(f"  {plural(waiting, 'trial')} not ended yet: run this again when they have")
    print(f"  open it with: {outcome.look}")


if __name__ == "__main__":
    sys.exit(main())
