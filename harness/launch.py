"""Launches a study, or goes on with it: the same command does both.

    python -m harness.launch --local                                  # grids/digits.toml, on this machine
    python -m harness.launch grids/digits.toml                        # on Slurm
    python -m harness.launch grids/caltech_transfer.toml --dry-run    # what would run, what it needs, what it costs
    python -m harness.launch grids/digits.toml --local --set epochs=2 --study-dir /tmp/try
"""

import argparse
import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from harness import command, slurm
from harness.errors import HarnessError, StudyError, UsageError

DEFAULT_GRID = Path("grids/digits.toml")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.launch", description="Launch a study, or go on with it.", epilog=(
        "exit status: 0 all trials have a result, 1 some failed or are lost, 2 a mistake in the grid or the command, 130 interrupted"))
    options.add_argument("grid", nargs="?", type=Path, metavar="GRID", help=f"TOML file (default with --local: {DEFAULT_GRID})")
    options.add_argument("--local", action="store_true", help="run on this machine instead of Slurm")
    options.add_argument("--dry-run", action="store_true", help="show what would run, what is missing and what it costs; submit nothing")
    options.add_argument("--profile", metavar="NAME", help="what this cluster calls things: slurm/profiles/NAME.toml or one of your own in "
                         "~/.config/harness/profiles (default: the one that ~/.config/harness/config.toml names)")
    options.add_argument("--preflight", action="store_true",
                         help="ask the cluster, and a node of it, whether the study could run; submit no trial")
    options.add_argument("--export", type=Path, metavar="DIR",
                         help="write DIR/<trial>/config.json of every trial, to train them without the harness; submit nothing")
    options.add_argument("--detach", action="store_true", help="submit the launcher itself as a small job, and return")
    options.add_argument("--standby", action="store_true", help="inside a job: keep another launcher job waiting that takes over should "
                         "this one end before the study does (--detach does so)")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                         help="change a key of the grid for this study: epochs=2, study.seeds=[0,1]")
    options.add_argument("--study-dir", type=Path, metavar="DIR", help="the study folder (default: runs/<name of the study>)")
    options.add_argument("--update-grid", action="store_true", help="let a changed grid replace the one this study was begun with")
    options.add_argument("--update-code", action="store_true", help="let changed code run what has not run yet")
    options.add_argument("--take-over", action="store_true",
                         help="the host that launched this study is gone, with all that ran there: go on here")
    options.add_argument("--retry", action="store_true", help="try again what failed or was lost")
    options.add_argument("--again", action="store_true",
                         help="open the test split once more for the configs that are best now; the tables say how often it was")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    from harness.grid import read_grid

    if options.grid is None and not (options.local or options.dry_run):
        raise UsageError("name a grid, or use --local for the digits demo: python -m harness.launch grids/digits.toml")
    path = options.grid or DEFAULT_GRID
    grid = read_grid(path, overrides=options.overrides)
    if options.again and not (grid.confirm and grid.test == "confirmed"):
        has = f'test = "{grid.test}"' if grid.test != "confirmed" else "no [confirm]"
        raise UsageError(f"--again opens the test split once more for what [confirm] chose; the grid {path} has {has}")
    if options.again and options.detach:
        raise UsageError("--again with --detach: a launcher job would not be told of it; leave one of them out")
    root = options.study_dir or Path("runs") / grid.name
    profile = _profile(options)
    if options.dry_run:
        from harness.dry_run import show

        return show(grid, root, grid_path=path, profile=profile, overrides=options.overrides, update_grid=options.update_grid)
    if options.export:
        return _export(grid, root, options.export)
    if options.preflight:
        from harness.preflight import preflight

        return preflight(grid, root, profile, grid_path=path, overrides=options.overrides)
    return launch(grid, root, options, profile, grid_path=path)


def _export(grid: Any, root: Path, folder: Path) -> int:
    """Writes the trials' configs and says what to do with them."""
    from harness.export import export
    from harness.store import Store

    if grid.tune:
        raise UsageError("--export writes trials that are known before the study begins; those of a grid with [tune] are proposed while it "
                         "runs")
    if grid.job is not None:
        raise UsageError(f"--export is for the built-in training; this grid has a job of its own, {grid.job.run}")
    count = export(grid, Store(root), folder)
    place = shlex.quote(str(folder))
    print(f"{count} configs in {place}\none of them: python -m jobs.train {place}/TRIAL/config.json\n"
          f"all of them: sbatch --array=0-{count - 1} slurm/array.sbatch {place}")
    return 0


def _profile(options: argparse.Namespace) -> Any:
    """The site's profile; None for this machine, which has none."""
    if options.local:
        for name in ("profile", "preflight", "detach", "standby"):
            if getattr(options, name):
                raise UsageError(f"--{name} is for Slurm, and --local runs on this machine: leave one of them out")
        return None
    from harness.profile import read_profile

    return read_profile(options.profile)


def launch(grid: Any, root: Path, options: argparse.Namespace, profile: Any, *, grid_path: Path) -> int:
    """Runs a study until it is over or interrupted; returns the exit status.

    Args:
        profile: the site's profile; None runs on this machine.

    Raises:
        StudyError, MissingData: nothing was submitted; the text says what to do.
    """
    from harness import report
    from harness.display import LiveDisplay, PlainDisplay
    from harness.store import Store
    from harness.study import Launch, Options
    from harness.trials import changes
    from jobs.data import data_folder

    store, command_line = Store(root), again(options, grid_path)
    frozen = store.frozen_grid()
    if frozen is not None and not options.update_grid and (difference := changes(frozen, grid, frozen_file=store.grid_file)):
        raise StudyError(f"this grid differs from the one {root} was begun with:\n{difference}\n"
                         f"keep both: {command_line} --study-dir {shlex.quote(f'{root}-2')}\n"
                         f"or let the new one replace it, keeping finished trials that are in both: {command_line} --update-grid")
    display = LiveDisplay() if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else PlainDisplay()
    decisions = Options(grid_path=grid_path, overrides=tuple(options.overrides), update_grid=options.update_grid,
                        update_code=options.update_code, take_over=options.take_over, retry=options.retry, again=options.again)
    run = Launch(store, grid, _executor(store, grid, profile), data=data_folder(), display=display, options=decisions)
    try:
        with _Interrupts(run, display):
            if options.detach:
                from harness.detach import detach

                return detach(run, profile, options)
            now = _with_standby(run, profile) if options.standby else run.run()
    except BrokenPipeError:  # an OSError that has nothing to do with the disk
        raise
    except OSError as error:
        raise _disk_error(error, root) from error
    finally:
        display.close()
    status = _close(run, now, command_line)
    if now.over:
        report.write(store.root, _short(store.root))
    return status


def _executor(store: Any, grid: Any, profile: Any) -> Any:
    """Where workers run: on this machine without a profile, else on Slurm."""
    if profile is None:
        from harness.local import LocalExecutor

        return LocalExecutor(store, grid.local, keep=bool(grid.tune))
    from harness.slurm_executor import SlurmExecutor

    return SlurmExecutor(store, grid.slurm, profile)


def _with_standby(run: Any, profile: Any) -> Any:
    """Runs a study while another launcher waits for our end; only a signal leaves the rest to that one."""
    from harness.detach import Standby

    run.standby = standby = Standby(run.store, profile)
    try:
        return run.run()
    finally:
        if not run.stopping:
            standby.end()


def _close(run: Any, now: Any, command_line: str) -> int:
    """The last lines: what came of it, and the next command."""
    root = _short(run.store.root)
    if run.stopping and not now.over:
        left = (f"{now.count('running')} run and {now.count('queued')} wait in Slurm without the launcher" if run.executor.leaves_workers
                else "the others keep their progress")
        left = f"{pruned} rest at a rung, {left}" if (pruned := now.count("pruned")) else left
        print(f"\nstopped; {now.count('done', 'infeasible')} of {len(now.status)} trials have a result, {left}\ngo on: {command_line}")
        if run.executor.leaves_workers:
            print(f"look: python -m harness.status {shlex.quote(root)}\nend them: python -m harness.cancel {shlex.quote(root)}")
        return 130
    bad = [trial for trial, status in now.status.items() if status in ("failed", "lost", "cancelled")]
    print(f"\nresults: {root}/trials.parquet  epochs.parquet  attempts.parquet\nfigures: python -m analysis.plots {shlex.quote(root)}")
    now_of = run.store.scan(trial for trial in run.trials if trial.id in bad[:5])
    for trial in bad[:5]:
        attempts = now_of[trial].attempts
        last = attempts[-1] if attempts else None
        ended = last.error or f"its last attempt ended with: {last.cause or 'killed'}" if last else "before it began"
        reason = "taken back by somebody" if now.status[trial] == "cancelled" else ended
        print(f"{now.status[trial]}: {trial}  {reason}")
        if attempts:
            print(f"  log: {_short(run.store.attempt_log(trial, len(attempts) - 1))}")
    if len(bad) > 5:
        print(f"and {len(bad) - 5} more; python -m harness.why {shlex.quote(root)} groups them by what they have in common")
    if bad:
        print(f"try them again: {command_line} --retry")
    return 1 if bad else 0


def _short(path: Path) -> str:
    """The path from here where it lies below, else the whole of it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class _Interrupts:
    """The first Ctrl-C (or SIGTERM) lets trials keep their progress, the second ends at once."""

    def __init__(self, run: Any, display: Any):
        self.run, self.display = run, display
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1, signal.SIGUSR2) if slurm.this_job() else ())):
            self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.run.stopping:
            raise KeyboardInterrupt
        self.run.stopping = True


def _disk_error(error: OSError, root: Path) -> HarnessError:
    """What a full or read-only disk means for the study."""
    where = error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StudyError(f"no space left at {where}; nothing that was finished is lost: free some space and give the same command again")
    return StudyError(f"cannot use {where}: {error.strerror or error}; nothing that was finished is lost")


def again(options: argparse.Namespace, grid: Path) -> str:
    """The command that goes on with this study."""
    words = ["python", "-m", "harness.launch", str(grid), *(["--local"] if options.local else [])]
    words += ["--profile", options.profile] if options.profile else []
    for override in options.overrides:
        words += ["--set", override]
    words += ["--study-dir", str(options.study_dir)] if options.study_dir else []
    words += ["--retry"] if options.retry else []
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
