"""What a trial printed, or a worker, or the launcher; fit for a terminal.

    python -m harness.logs digits 0a1b2c3d-s0          # the last attempt of a trial, by its name or the beginning of it
    python -m harness.logs digits --variant depth=2 --seed 1 --follow
    python -m harness.logs --launcher -n 50            # of the study that was launched last

It only reads.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import command
from harness.errors import StudyError, UsageError, printable
from harness.logtext import Cleaner, pieces, tail_start
from harness.named import one_of, shown
from harness.overview import Overview, look, study_and_trial
from harness.plan import Batch
from harness.screen import print_json
from harness.store import Store
from jobs.config import nearest

LOOK_S = 0.3
"""How often a log that is followed is read."""
ASK_S = 15.0
"""How often it is found out whether anybody still writes it."""
OVER = ("done", "infeasible", "failed", "lost", "cancelled")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.logs", description="Print the log of a trial, a worker or the launcher.", epilog=(
        "exit status: 0 printed, 1 there is no such log, 2 there is no such study or trial"))
    options.add_argument("study", nargs="?", metavar="STUDY",
                         help="a study's folder, or its name below runs/ (default: the one launched last)")
    options.add_argument("trial", nargs="?", metavar="TRIAL", help="a trial's name, or the beginning of it")
    options.add_argument("--variant", metavar="NAME", help="the trial of this variant")
    options.add_argument("--seed", type=int, metavar="N", help="and of this seed")
    options.add_argument("--attempt", type=int, metavar="N", help="its N-th attempt, from 0 on (default: the last)")
    options.add_argument("--rank", type=int, default=0, metavar="N", help="the log of this rank (default: 0)")
    options.add_argument("-n", "--lines", type=int, metavar="LINES", help="only the last lines")
    options.add_argument("-f", "--follow", action="store_true", help="go on printing until the trial ends")
    options.add_argument("--worker", metavar="NAME", help='what a worker printed, such as "003-1"')
    options.add_argument("--launcher", action="store_true", help="what the launcher job printed")
    options.add_argument("--json", action="store_true", help="print one JSON document instead")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    if options.lines is not None and options.lines < 1:
        raise UsageError(f"-n {options.lines}: at least one line is meant")
    if options.json and options.follow:
        raise UsageError("--json prints one document, and --follow has no end: leave one of them out")
    overview, trial = study_and_trial(options.study, options.trial, ask=False)
    asked = [name for name, given in (("a trial", trial or options.variant is not None), ("--worker", options.worker is not None),
                                      ("--launcher", options.launcher)) if given]
    if len(asked) != 1:
        raise UsageError(f"{' and '.join(asked)}: ask for one log at a time" if asked else (
            f"whose log of {shown(overview.root)}? Name a trial (python -m harness.status lists those that run, python -m harness.why "
            "those that failed), or use --variant NAME --seed N, --worker NAME or --launcher"))
    if options.worker is not None or options.launcher:
        files = _of_worker(overview, options.worker) if options.worker is not None else _of_launcher(overview)
        return _print(overview, files, options, over=_Seldom(lambda: _worker_is_over(overview, options.worker)))
    trial = trial or _by_variant(overview, options.variant, options.seed)
    if options.follow and options.attempt is None:
        return follow(overview, trial, options.rank, lines=options.lines)
    attempts = sum(1 for _ in overview.store.attempts(trial))
    number = attempts - 1 if options.attempt is None else options.attempt
    if not attempts:
        raise StudyError(f"trial {trial} has not begun yet: no attempt has been made")
    if not 0 <= number < attempts:
        raise UsageError(f"trial {trial} has no attempt {number}; it has 0 to {attempts - 1}")
    log = log_of(overview.store, trial, number, options.rank)
    return _print(overview, [log], options, trial=trial, attempt=number, over=_Ended(overview, trial, number))


# ------------------------------------------------------------------------------------------------------------------------- which file


def log_of(store: Store, trial: str, attempt: int, rank: int) -> Path:
    """What a rank of an attempt printed.

    Raises:
        UsageError: the attempt has no such rank; the text says which it has.
    """
    log = store.attempt_log(trial, attempt)
    if rank == 0:
        return log
    own = log.with_suffix(f".rank{rank}.log")
    if not own.exists():
        there = sorted(int(path.stem.rpartition("rank")[2]) for path in log.parent.glob(f"{log.stem}.rank*.log"))
        others = f" and {', '.join(map(str, there))}" if there else ""
        raise UsageError(f"attempt {attempt} of trial {trial} has no log of rank {rank}; there is one of rank 0{others}")
    return own


def _by_variant(overview: Overview, variant: str, seed: int | None) -> str:
    """The trial of a variant and, where it has several, of a seed."""
    variants = dict.fromkeys(trial.variant for trial in overview.trials.values())
    if variant not in variants:
        raise UsageError(f"study {overview.name} has no variant {printable(variant)}{nearest(variant, variants)}")
    found = [trial.id for trial in overview.trials.values() if trial.variant == variant and seed in (None, trial.seed)]
    return one_of(overview.trials, found, f"variant {variant}" + ("" if seed is None else f" with seed {seed}"))


def _of_worker(overview: Overview, worker: str) -> list[Path]:
    """What a worker printed: on Slurm one file, here two of submitit's."""
    batch = overview.batch_of(worker)
    place = worker.rpartition("-")[2]
    if batch is None or not place.isdigit() or int(place) >= batch.workers or worker != batch.worker(int(place)):
        names = [batch.worker(number) for batch in overview.batches.values() for number in range(batch.workers)]
        raise UsageError(f"study {overview.name} has no worker {printable(worker)}{nearest(worker, names)}")
    if overview.on_slurm(worker):
        return [overview.store.worker_log(worker)]
    claim = batch.claims[Batch.place(worker)] or {}
    return [overview.store.submitit_folder / f"{claim.get('job_id', 'none')}_0_log.{stream}" for stream in ("out", "err")]


def _of_launcher(overview: Overview) -> list[Path]:
    """What the newest launcher job printed."""
    logs = sorted(overview.store.submitit_folder.glob("launcher-*.log"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise StudyError(f"no launcher of {shown(overview.root)} ran as a job (--detach); one in a terminal prints there and keeps no log")
    return logs[-1:]


# --------------------------------------------------------------------------------------------------------------------------- printing


def _print(overview: Overview, files: Sequence[Path], options: argparse.Namespace, *, over: Callable[[], bool], trial: str | None = None,
           attempt: int | None = None) -> int:
    """Prints the files one after the other, and what is added to the last of them until `over`."""
    there = [path for path in files if path.exists()]
    if not there and not options.follow:
        raise StudyError(f"there is no log {shown(files[0])}: nothing has been printed yet")
    if options.json:
        text = "".join(piece for path in there for piece in pieces(path, tail_start(path, options.lines) if options.lines else 0))
        print_json({"study": overview.name, "folder": str(overview.root), "trial": trial, "attempt": attempt,
                    "rank": options.rank if trial else None, "worker": options.worker, "files": [str(path) for path in there],
                    "lines": text.split("\n")[:-1] if text.endswith("\n") else text.split("\n") if text else []})
        return 0
    _unbreakable()
    for path in there[:-1] if options.follow else there:
        for piece in pieces(path, tail_start(path, options.lines) if options.lines else 0):
            sys.stdout.write(piece)
    if options.follow:
        _follow_file(files[-1], options.lines, over)
    elif not any(path.stat().st_size for path in there):
        print(f"--- {shown(there[0])} is empty: nothing has been printed", file=sys.stderr)
    sys.stdout.flush()
    return 0


def _unbreakable() -> None:
    """Whatever a log holds can be written."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def _follow_file(path: Path, lines: int | None, over: Callable[[], bool]) -> None:
    """Prints a file and what is added to it, until `over` says that nothing will be."""
    cleaner, position = Cleaner(), None
    last = False
    while True:
        if path.exists():
            position = (tail_start(path, lines) if lines else 0) if position is None else position
            with path.open("rb") as handle:
                handle.seek(position)
                while block := handle.read(1 << 16):
                    position += len(block)
                    sys.stdout.write(cleaner.take(block))
            sys.stdout.flush()
        if last:
            return
        last = over()  # then once more: what was written before it ended is there now
        if not last:
            time.sleep(LOOK_S)


def follow(overview: Overview, trial: str, rank: int, *, lines: int | None) -> int:
    """Prints the log of a trial's last attempt and of those that follow it, until the trial has ended; returns the exit status."""
    _unbreakable()
    store, number = overview.store, max(0, sum(1 for _ in overview.store.attempts(trial)) - 1)
    while True:
        while not store.attempt_file(trial, number).exists():
            status, comes = _fate(overview, trial)
            if status in OVER or not comes:
                return _say_end(overview, trial, status)
            _wait_for(store.attempt_file(trial, number))
        log = store.attempt_log(trial, number)
        _follow_file(log if rank == 0 else log.with_suffix(f".rank{rank}.log"), lines, _Ended(overview, trial, number))
        status, comes = _fate(overview, trial)
        if not store.newer_attempt(trial, number) and (status in OVER or not comes):
            return _say_end(overview, trial, status)
        number, lines = number + 1, None
        print(f"--- attempt {number} of {trial}", file=sys.stderr, flush=True)


def _wait_for(path: Path) -> None:
    """Waits for a file, not longer than to the next question."""
    until = time.monotonic() + ASK_S
    while time.monotonic() < until and not path.exists():
        time.sleep(LOOK_S)


class _Seldom:
    """A question that takes long, asked from time to time; the answer is no in between."""

    def __init__(self, question: Callable[[], bool]):
        self._question, self._next = question, 0.0

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        answer = self._question()
        self._next = time.monotonic() + ASK_S
        return answer


class _Ended:
    """Whether an attempt has ended: by its own word at once, by what is known of its worker from time to time."""

    def __init__(self, overview: Overview, trial: str, attempt: int):
        self.store, self.trial, self.attempt = overview.store, trial, attempt
        self._gone = _Seldom(lambda: _fate(overview, trial)[0] != "running")

    def __call__(self) -> bool:
        if self.store.newer_attempt(self.trial, self.attempt) or self.store.result(self.trial) is not None:
            return True
        events = list(self.store.attempts(self.trial))
        return any(event["event"] == "end" for event in (events[self.attempt] if self.attempt < len(events) else [])) or self._gone()


def _fate(overview: Overview, trial: str) -> tuple[str, bool]:
    """(the trial's status now, whether somebody will go on with it)."""
    now = look(overview.root)
    status = now.status[trial]
    return status, status in ("running", "queued") or (status == "pending" and now.launcher is not None and now.launcher.alive is not False)


def _say_end(overview: Overview, trial: str, status: str) -> int:
    words = f"trial {trial} is {status}" + ("" if status in OVER else f", and nobody launches the study: {overview.launch_command()}")
    if status in ("failed", "lost"):
        words += f"; {overview.command('why', trial)}"
    print(f"--- {words}", file=sys.stderr, flush=True)
    return 0


def _worker_is_over(overview: Overview, worker: str | None) -> bool:
    """Whether a worker, or the launcher, has ended."""
    now = look(overview.root)
    return worker not in now.living if worker else not (now.launcher and now.launcher.alive is not False)


if __name__ == "__main__":
    sys.exit(main())
