"""Takes back trials that are not finished: those that wait leave the queue, those that run keep their progress and end.

    python -m harness.cancel digits                          # everything that is not finished, and the launcher; asks first
    python -m harness.cancel digits --variant depth=3        # some of it; --trial, --status, --set batch_size=512 likewise
    python -m harness.cancel digits --launcher               # only the launcher: trials go on

What is cancelled is written down before Slurm is told, so that a launcher or a worker that hears of it late does not begin it again.
Finished trials are never touched, and python -m harness.launch ... --retry takes the cancelled ones up again from where they were.
"""

import argparse
import sys
import time
import tomllib
from collections.abc import Collection
from typing import Any

from harness import command, slurm
from harness.errors import StudyError, UsageError, printable
from harness.named import count, find_study, find_trial, shown
from harness.overview import Overview, look
from harness.screen import Screen, print_json
from jobs.config import nearest

STATUSES = ("pending", "queued", "running")
BUSY = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT")
"""States of jobs whose worker sees for itself that its trials are cancelled; every other job is taken out of the queue."""
WATCH_S = 20.0
"""How long the launcher's jobs may take to end. A launcher that is told to end may still submit the one that is to follow it."""
SHOWN_VARIANTS = 8


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.cancel", description="Take back trials that are not finished.", epilog=(
        "several filters: only what passes all of them. exit status: 0 cancelled, 1 not, or not all of it, 2 a mistake in the command"))
    options.add_argument("study", nargs="?", metavar="STUDY", help="a study's folder, or its name below runs/ (default: the one launched "
                         "last)")
    options.add_argument("--variant", action="append", default=[], metavar="NAME", help="trials of this variant")
    options.add_argument("--trial", action="append", default=[], metavar="PREFIX", help="the trial whose name begins so")
    options.add_argument("--status", action="append", default=[], choices=STATUSES, help="trials that are in this state")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="trials with this value of a "
                         "parameter")
    options.add_argument("--launcher", action="store_true", help="the launcher's own jobs; without a filter nothing else")
    options.add_argument("--yes", action="store_true", help="do not ask")
    options.add_argument("--json", action="store_true", help="print one JSON document instead; needs --yes")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    if not options.yes and (options.json or not sys.stdin.isatty()):
        raise UsageError("there is no terminal to ask at: add --yes to cancel without being asked" if not options.json
                         else "--json does not ask: add --yes")
    overview = look(find_study(options.study))
    filtered = bool(options.variant or options.trial or options.status or options.settings)
    trials = [] if options.launcher and not filtered else chosen(overview, options)
    with_launcher = options.launcher or not filtered
    searches = _searches(overview, options)
    found = {"study": overview.name, "folder": str(overview.root), "searches": searches,
             **_what(overview, trials, with_launcher=with_launcher)}
    if not options.json:
        _show(overview, found)
    if not trials and not searches and not found["launcher_jobs"]:
        return _nothing(overview, found, options)
    if not options.yes and not _agreed():
        print("nothing was cancelled")
        return 1
    found |= carry_out(overview, trials, searches=searches, with_launcher=with_launcher)
    if options.json:
        print_json(found)
    else:
        _report(overview, found)
    return 1 if found["trouble"] else 0


def _agreed() -> bool:
    try:
        return input("Cancel this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


# --------------------------------------------------------------------------------------------------------------------------- choosing


def chosen(overview: Overview, options: argparse.Namespace) -> list[str]:
    """The trials that are not finished and pass all filters.

    Raises:
        UsageError: a variant, trial or parameter that does not exist; the text names the nearest.
    """
    variants = dict.fromkeys(trial.variant for trial in overview.trials.values())
    for name in options.variant:
        if name not in variants:
            raise UsageError(f"study {overview.name} has no variant {printable(name)}{nearest(name, variants)}")
    named = {trial for word in options.trial for trial in _begins(overview, word)}
    settings = [_setting(overview, text) for text in options.settings]
    statuses = options.status or STATUSES
    return [trial.id for trial in overview.trials.values()
            if overview.status[trial.id] in statuses and (not options.variant or trial.variant in options.variant)
            and (not options.trial or trial.id in named) and all(_has(trial.config, key, value) for key, value in settings)]


def _searches(overview: Overview, options: argparse.Namespace) -> list[str]:
    """The variants whose search is to end: those of --variant, or without any filter all, as far as they have more to come."""
    filtered = options.trial or options.status or options.settings or (options.launcher and not options.variant)
    if filtered or not overview.grid or not overview.grid.tune or not overview.plan.more:
        return []
    return [variant.name for variant in overview.grid.variants if not options.variant or variant.name in options.variant]


def _begins(overview: Overview, word: str) -> list[str]:
    """All trials whose names begin so: here several are meant."""
    return (word and [trial for trial in overview.trials if trial.startswith(word)]) or [find_trial(overview.trials, word)]


def _setting(overview: Overview, text: str) -> tuple[str, Any]:
    """A parameter and a value from "key=value"; the value is TOML, or else a string."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key or not value:
        raise UsageError(f"--set {printable(text)}: write it as key=value, for example --set batch_size=512")
    names = dict.fromkeys(name for trial in overview.trials.values() for name in trial.config)
    if key not in names:
        raise UsageError(f"--set {printable(text)}: the trials of {overview.name} have no parameter {printable(key)}{nearest(key, names)}")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value


def _has(config: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a config has a value; 1 and 1.0 are the same, 1 and true are not."""
    return key in config and isinstance(config[key], bool) == isinstance(value, bool) and bool(config[key] == value)


def _what(overview: Overview, trials: list[str], *, with_launcher: bool) -> dict[str, Any]:
    """What would be cancelled."""
    waiting, busy = _jobs(overview, trials)
    gpus = sum(overview.gpus(worker) for worker in busy)
    return {
        "trials": {trial: overview.status[trial] for trial in trials}, "jobs_waiting": list(waiting.values()),
        "workers_running": busy, "gpus": gpus,
        "launcher_jobs": [element.job_id for element in overview.launcher_jobs()] if with_launcher else [],
    }


def _jobs(overview: Overview, trials: list[str]) -> tuple[dict[str, str], list[str]]:
    """(worker -> job that waits and has nothing else to do, workers that run one of the trials)."""
    gone = {*trials, *(trial for trial, status in overview.status.items() if status not in STATUSES)}
    waiting, busy = {}, []
    wanted = set(trials)
    for worker, batch in overview.living.items():
        own = [trial for trial, _ in batch.trials_of(batch.place(worker))]
        if not wanted & set(own):
            continue
        element = overview.element(worker)
        if element is None or element.state in BUSY:
            busy.append(worker)
        elif gone.issuperset(own):
            waiting[worker] = element.job_id
    running = {attempt.worker for trial in trials if overview.status[trial] == "running"
               for attempt in overview.states[trial].attempts[-1:]}
    return waiting, [worker for worker in busy if worker in running]


# ------------------------------------------------------------------------------------------------------------------------------ doing


def carry_out(overview: Overview, trials: list[str], *, with_launcher: bool, searches: Collection[str] = ()) -> dict[str, Any]:
    """Writes down what is cancelled and then tells Slurm; returns {"jobs_cancelled", "trouble"}.

    Raises:
        StudyError: it cannot be written down; nothing was cancelled.
    """
    if trials or searches:
        _record(overview, trials, searches)
    try:
        # What began or was submitted since the question was asked is not forgotten: everything is looked at again.
        now = look(overview.root)
        if now.trouble:
            raise slurm.Unanswered(now.trouble)
        jobs = list(_jobs(now, trials)[0].values())
        slurm.cancel(jobs, "--state=PENDING")
        ended = _end_launchers(now) if with_launcher else []
    except slurm.Unanswered as error:
        return {"jobs_cancelled": [], "launcher_jobs_cancelled": [], "trouble": str(error) or "it did not answer"}
    return {"jobs_cancelled": jobs, "launcher_jobs_cancelled": ended, "trouble": ""}


def _record(overview: Overview, trials: list[str], searches: Collection[str]) -> None:
    """Writes down that trials are cancelled, with one attempt more than each has: the one that a worker may be about to begin, which has
    not heard of it yet."""
    try:
        states = overview.store.scan(overview.trials[trial] for trial in trials)
        overview.store.write_cancel({trial: len(states[trial].attempts) + 1 for trial in trials if not states[trial].result},
                                    variants=searches)
    except OSError as error:
        raise StudyError(f"cannot write to {shown(overview.root)}: {error.strerror or error}; nothing was cancelled") from error


def _end_launchers(overview: Overview) -> list[str]:
    """Ends the launcher's jobs, those that wait first, and watches that none follows; returns their numbers.

    Raises:
        slurm.Unanswered
    """
    asked: list[str] = []
    until = time.monotonic() + WATCH_S
    while left := sorted(overview.launcher_jobs(), key=lambda element: element.state != "PENDING"):
        fresh = [element.job_id for element in left if element.job_id not in asked]
        slurm.cancel(fresh)
        asked += fresh
        if time.monotonic() > until:
            break
        time.sleep(0.5)
        overview.queue = slurm.queue()
    return asked


# ---------------------------------------------------------------------------------------------------------------------------- telling


def _show(overview: Overview, found: dict[str, Any]) -> None:
    """What would be cancelled."""
    screen = Screen()
    screen.title(f"{overview.name}  ", (shown(overview.root), "dim"))
    trials = found["trials"]
    if overview.trouble:
        screen.fact("Slurm", f"not known: {overview.trouble}; jobs cannot be taken out of the queue now", style="yellow")
    if trials:
        counts = ", ".join(f"{number} {status}" for status in reversed(STATUSES) if (number := list(trials.values()).count(status)))
        screen.fact("trials", f"{count(len(trials), 'trial')}: {counts}", style="bold")
        variants: dict[str, int] = {}
        for trial in trials:
            variants[overview.trials[trial].variant] = variants.get(overview.trials[trial].variant, 0) + 1
        lines = [f"{number} {name}" for name, number in list(variants.items())[:SHOWN_VARIANTS]]
        screen.fact("", "\n".join([*lines, *([f"and {len(variants) - len(lines)} more variants"] if len(variants) > len(lines) else [])]))
    if found["searches"]:
        screen.fact("search", f"proposes nothing more for {', '.join(found['searches'][:SHOWN_VARIANTS])}"
                    + (f" and {len(found['searches']) - SHOWN_VARIANTS} more" if len(found["searches"]) > SHOWN_VARIANTS else ""))
    if found["jobs_waiting"]:
        screen.fact("jobs", f"{count(len(found['jobs_waiting']), 'job')} taken out of the queue")
    if found["workers_running"]:
        gpus = f" on {count(found['gpus'], 'GPU')}" if found["gpus"] else ""
        screen.fact("running", f"{count(len(found['workers_running']), 'worker')}{gpus}: each trial keeps its progress and ends within "
                               "seconds")
    if found["launcher_jobs"]:
        screen.fact("launcher", f"{'job' if len(found['launcher_jobs']) == 1 else 'jobs'} {', '.join(found['launcher_jobs'])}")
    screen.show()


def _nothing(overview: Overview, found: dict[str, Any], options: argparse.Namespace) -> int:
    """There is nothing to cancel; says why, and how an attached launcher is ended. Returns the exit status."""
    launcher = overview.launcher
    attached = options.launcher and launcher is not None and launcher.alive is not False and not launcher.job_id
    if options.json:
        print_json({**found, "jobs_cancelled": [], "launcher_jobs_cancelled": [], "trouble": ""})
    elif attached and launcher:
        print(f"the launcher is no job but process {launcher.pid} on {launcher.host}: end it there with Ctrl-C, or\n"
              f"  kill -INT {launcher.pid}")
    elif options.launcher:
        print("no launcher of this study runs" if not overview.trouble else "Slurm cannot be asked for launcher jobs")
    else:
        left = overview.plan.count(*STATUSES)
        print(f"nothing to cancel: none of the {count(left, 'unfinished trial')} passes all filters" if left
              else "nothing to cancel: every trial has ended")
    return 1 if attached or overview.trouble else 0


def _report(overview: Overview, found: dict[str, Any]) -> None:
    """What was done, and how it is undone."""
    trials = found["trials"]
    if trials:
        print(f"cancelled {count(len(trials), 'trial')}" + (f", {count(len(found['jobs_cancelled']), 'job')} taken out of the queue"
                                                            if found["jobs_cancelled"] else ""))
    if found["searches"]:
        print("nothing more is proposed" + ("" if len(found["searches"]) == len(overview.grid.variants if overview.grid else ())
                                            else f" for {', '.join(found['searches'])}"))
    if found["launcher_jobs_cancelled"]:
        rest = "" if trials else "; what runs and waits goes on without it"
        print(f"ended launcher {', '.join(found['launcher_jobs_cancelled'])}{rest}")
    if found["trouble"]:
        then = "give the same command again" + (" to take the jobs out of the queue; it is written down that nobody wants them, so those "
                                                "that start meanwhile end at once" if trials else "")
        print(f"Slurm does not answer ({found['trouble']}): {then}", file=sys.stderr)
    launcher = overview.launcher
    if trials and launcher and launcher.alive and not launcher.job_id:
        print(f"the launcher (process {launcher.pid} on {launcher.host}) sees it" + (
            " and goes on with the rest" if len(trials) < overview.plan.count(*STATUSES) else " and ends when the last worker has"))
    print(f"undo: {overview.launch_command(*(['--retry'] if trials or found['searches'] else []))}")


if __name__ == "__main__":
    sys.exit(main())
