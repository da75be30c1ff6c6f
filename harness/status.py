"""Where a study stands, on one screen: what is done, what runs where, why jobs wait, what is best so far, what it cost.

    python -m harness.status             # the study that was launched last
    python -m harness.status digits      # runs/digits, or any study folder
    python -m harness.status digits --json

It only reads: also while a launcher runs, without Slurm, and where nothing may be written.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections import Counter
from typing import Any

from harness import command, reasons, report, slurm
from harness.display import ENDED, ORDER
from harness.estimate import duration, estimate
from harness.leading import leading
from harness.named import count, find_study, short, shown
from harness.overview import Overview, Record, look, readable
from harness.plan import PlannedTrial
from harness.screen import STYLES, Screen, print_json

SHOWN_RUNNING = 20
SHOWN_VARIANTS = 12


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.status", description="Show where a study stands; change nothing.", epilog=(
        "exit status: 0 shown, 1 the study cannot be read, 2 there is no such study"))
    options.add_argument("study", nargs="?", metavar="STUDY",
                         help="a study's folder, or its name below runs/ (default: the one launched last)")
    options.add_argument("--json", action="store_true", help="print one JSON document instead")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    overview = look(find_study(options.study))
    with readable(overview.root):
        said = summary(overview)
    if options.json:
        print_json(said)
    else:
        draw(overview, said, latest=options.study is None)
    return 0


def summary(overview: Overview) -> dict[str, Any]:
    """Where a study stands, as JSON values; docs/verbs.md has the keys."""
    running = [trial for trial, status in overview.status.items() if status == "running"]
    records = {trial: overview.records(trial) for trial, state in overview.states.items() if state.attempts}
    now = Counter(overview.status.values())
    return {
        "study": overview.name, "folder": str(overview.root), "over": overview.plan.over and bool(overview.trials),
        "trials": {"total": len(overview.trials), **{status: now[status] for status in ORDER}},
        "launcher": dataclasses.asdict(overview.launcher) if overview.launcher else None,
        "launcher_jobs": [slurm.described(element) for element in overview.launcher_jobs()],
        "slurm": {"asked": overview.queue is not None, "trouble": overview.trouble}, "unseen_hosts": overview.unseen,
        "running": [_running(overview, trial, records[trial][-1]) for trial in running if records.get(trial)],
        "waiting": [dataclasses.asdict(group) for group in reasons.waiting(overview.elements())],
        "search": _search(overview),
        "metric": overview.grid.metric if overview.grid else None, "mode": overview.grid.mode if overview.grid else None,
        "variants": _variants(overview), "used": _used(overview, records), "left": _left(overview, records),
        "failures": dict(Counter(overview.states[trial].attempts[-1].cause or "lost" for trial, status in overview.status.items()
                                 if status in ("failed", "lost"))),
    }


def _running(overview: Overview, trial_id: str, record: Record) -> dict[str, Any]:
    """A trial that runs."""
    trial, element = overview.trials[trial_id], overview.element(record.worker)
    return {"trial": trial_id, "variant": trial.variant, "seed": trial.seed, "host": record.host,
            "nodes": element.nodes if element and element.nodes else record.host, "job_id": record.job_id, "worker": record.worker,
            "state": element.state if element else None, "epochs_done": record.last_epoch or 0, "epochs": trial.config.get("epochs"),
            "seconds": round(record.seconds(overview.now), 1), "attempt": record.number}


def _search(overview: Overview) -> dict[str, Any] | None:
    """How far a search has come; None for a grid without [tune]."""
    if not overview.grid or not overview.grid.search:
        return None
    trials = overview.trials.values()
    return {"configs": len({(trial.variant, trial.number) for trial in trials if trial.phase == "search"}),
            "of": overview.grid.search.trials * len(overview.grid.variants),
            "confirming": len({(trial.variant, trial.number) for trial in trials if trial.phase == "confirm"}),
            "test_openings": max((trial.opening for trial in trials), default=0)}


def _variants(overview: Overview) -> list[dict[str, Any]]:
    """Trials, and the metric over seeds, of every variant; the best first."""
    of: dict[str, list[PlannedTrial]] = {}
    for trial in overview.trials.values():
        of.setdefault(trial.variant, []).append(trial)
    values_of = {trial: one.value for trial, one in overview.finished.items() if one.value is not None}
    mode = overview.grid.mode if overview.grid else "max"
    rows = {name: (Counter(overview.status[trial.id] for trial in trials), leading(trials, values_of, mode))
            for name, trials in of.items()}
    found = [{"variant": name, "trials": counter.total(), "ended": sum(counter[status] for status in ENDED),
              **{status: counter[status] for status in ORDER}, "n": len(values), "mean": statistics.mean(values) if values else None,
              "sd": statistics.stdev(values) if len(values) > 1 else None} for name, (counter, values) in rows.items()]
    sign = -1 if overview.grid and overview.grid.mode == "max" else 1
    return sorted(found, key=lambda row: (row["mean"] is None, sign * (row["mean"] or 0.0)))


def _used(overview: Overview, records: dict[str, list[Record]]) -> dict[str, Any]:
    """GPU and CPU hours of all attempts; those that run count up to now. Trials that are trained as one program share its time."""
    seconds: Counter[str] = Counter()
    for one in overview.finished.values():
        for run in one.runs:
            seconds[run.worker] += run.seconds / run.fused  # type: ignore[assignment]
    for attempts in records.values():
        for record in attempts:
            seconds[record.worker] += record.seconds(overview.now) / record.fused  # type: ignore[assignment]
    gpu = sum(overview.gpus_per_trial(worker) * taken for worker, taken in seconds.items()) / 3600
    cpu = sum(overview.cpus(worker) * taken for worker, taken in seconds.items()) / 3600
    return {"gpu_hours": round(gpu, 4), "cpu_hours": round(cpu, 4),
            "gpu_hours_limit": overview.grid.limits.gpu_hours or None if overview.grid else None}


def _left(overview: Overview, records: dict[str, list[Record]]) -> dict[str, Any]:
    """How long the rest takes: {"trials", "seconds" or None, "source"}."""
    rest = [trial for trial, status in overview.status.items() if status not in ENDED]
    running = [trial for trial in rest if overview.status[trial] == "running"]
    found: dict[str, Any] = {"trials": len(rest), "at_once": len(running), "seconds": None, "source": ""}
    if not rest:
        return found
    each, source = _seconds_each(overview, rest, records)
    known = [trial for trial in rest if trial in each]
    if not running or not known:
        found["source"] = source and (f"nothing runs; the {count(len(known), 'trial')} would take {duration(sum(each.values()))} "
                                      f"one after the other ({source})") or "no trial of this kind has got far enough yet"
        return found
    spent = {trial: sum(record.seconds(overview.now) for record in records.get(trial, [])) for trial in known}
    ahead = {trial: max(0.0, each[trial] - spent[trial]) for trial in known}
    total = sum(ahead.values()) * len(rest) / len(known)
    return {**found, "seconds": round(max(total / len(running), *ahead.values()), 1), "source": source}


def _seconds_each(overview: Overview, rest: list[str], records: dict[str, list[Record]]) -> tuple[dict[str, float], str]:
    """(trial -> seconds it takes from first to last epoch, where that is known; where that comes from)."""
    by_variant: dict[str, list[float]] = {}
    for trial, one in overview.finished.items():
        if one.status == "done":
            by_variant.setdefault(overview.trials[trial].variant, []).append(one.seconds)
    if by_variant:
        n = sum(map(len, by_variant.values()))
        every = sum(map(sum, by_variant.values())) / n
        means = {variant: sum(values) / len(values) for variant, values in by_variant.items()}
        return {trial: means.get(overview.trials[trial].variant, every) for trial in rest}, (
            f"mean of the {n} that are done, variant by variant")
    paces = [pace for trial in rest if records.get(trial) and (pace := _pace(records[trial][-1]))]
    if paces:
        pace = statistics.median(paces)
        return {trial: pace * overview.trials[trial].config.get("epochs", 1) for trial in rest}, (
            f"median epoch of the {count(len(paces), 'trial')} that run")
    settings = overview.batches[max(overview.batches)].settings if overview.batches else {}
    guess = estimate([overview.trials[trial] for trial in rest], overview.root.parent, device=settings.get("device", "cpu"),
                     ranks=settings.get("ranks", 1))
    return dict.fromkeys(rest, guess.seconds / guess.known) if guess.known else {}, guess.source


def _pace(record: Record) -> float | None:
    """Seconds an epoch of an attempt takes; None before its first."""
    if record.first_epoch is None or record.last_epoch is None or record.started is None or record.last_sign is None:
        return None
    return (record.last_sign - record.started) / (record.last_epoch - record.first_epoch + 1)


def draw(overview: Overview, said: dict[str, Any], *, latest: bool = False) -> None:
    """Prints the screen.

    Args:
        latest: the study was chosen as the one launched last, which is said.
    """
    screen = Screen()
    screen.title(f"{said['study']}  ", (shown(overview.root) + ("  (launched last)" if latest else ""), "dim"))
    trials = said["trials"]
    if not trials["total"]:
        screen.title("no trials are planned yet", style="yellow")
    else:
        parts = [(f"{status} {trials[status]}  ", STYLES.get(status, "")) for status in ORDER if trials[status]]
        screen.title("", *parts, (f"of {count(trials['total'], 'trial')}", "dim"))
    _draw_launcher(screen, overview, said)
    if overview.trouble and not said["over"]:
        screen.fact("Slurm", f"not known: {overview.trouble}; what runs and what waits is as the disk last had it", style="yellow")
    if overview.unseen:
        screen.fact("unseen", f"workers on {', '.join(overview.unseen)} cannot be seen from here and count as running", style="yellow")
    _draw_running(screen, said)
    for number, group in enumerate(said["waiting"]):
        what = " ".join(filter(None, [group["state"] if group["state"] != "PENDING" else "", group["reason"]]))
        meaning = f" ({group['meaning']})" if group["meaning"] else ""
        screen.fact("" if number else "waits", f"{count(group['jobs'], 'job')}: {what}{meaning}", style="" if group["starts"] else "red")
    if search := said["search"]:
        screen.fact("search", f"{search['configs']} of {search['of']} configs proposed" + (
            f", {count(search['confirming'], 'config')} trained again on fresh seeds" if search["confirming"] else "") + (
            f", test split opened {count(search['test_openings'], 'time')}" if search["test_openings"] else ""))
    _draw_variants(screen, said)
    _draw_sums(screen, overview, said)
    screen.show()


def _draw_launcher(screen: Screen, overview: Overview, said: dict[str, Any]) -> None:
    launcher = overview.launcher
    if launcher is None:
        screen.fact("launcher", "nobody has launched it yet")
    else:
        who = f"job {launcher.job_id} on {launcher.host}" if launcher.job_id else f"process {launcher.pid} on {launcher.host}"
        who += f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(launcher.since))}"
        if launcher.alive is None:
            sign = "it has shown no sign of life" if launcher.silent_s is None else f"last sign of life {duration(launcher.silent_s)} ago"
            screen.fact("launcher", f"{who}; cannot be seen from here, {sign}", style="yellow")
        elif launcher.alive:
            screen.fact("launcher", who)
        elif not said["over"] and not said["launcher_jobs"]:
            screen.fact("launcher", f"none: the last one ({who}) has ended; what runs goes on, nothing new is submitted", style="yellow")
            screen.command(overview.launch_command(), label="go on")
    known = launcher is not None and launcher.alive
    for number, job in enumerate(job for job in said["launcher_jobs"] if not known or job["job_id"] != said["launcher"]["job_id"]):
        meaning, starts = reasons.explain(job["reason"])
        reason = f": {job['reason']}" + (f" ({meaning})" if meaning else "") if job["state"] == "PENDING" else ""
        what = "waits to launch it" if job["state"] == "PENDING" else f"begins to launch it on {job['nodes']}"
        screen.fact("" if number or known else "launcher", f"job {job['job_id']} {what}{reason}", style="" if starts else "red")


def _draw_running(screen: Screen, said: dict[str, Any]) -> None:
    rows = said["running"]
    if not rows:
        return
    screen.fact("runs", count(len(rows), "trial"))
    cells = []
    for row in rows[:SHOWN_RUNNING if len(rows) <= SHOWN_RUNNING else SHOWN_RUNNING - 1]:
        odd = "" if row["state"] in (None, "RUNNING", "COMPLETING") else f" {row['state']}"
        node = row["nodes"] if "[" in row["nodes"] or "," in row["nodes"] else row["host"].partition(".")[0]
        epochs = f"{row['epochs_done']}/{row['epochs']}" if row["epochs"] else str(row["epochs_done"])
        cells.append([short(row["trial"]), row["variant"], str(row["seed"]), node, (row["job_id"] or "-") + odd, epochs,
                      duration(row["seconds"]), str(row["attempt"])])
    screen.table(["trial", "variant", "seed", "node", "job", "epochs", "time", "restarts"], cells, wide="variant",
                 right=["seed", "epochs", "time", "restarts"])
    if len(rows) > len(cells):
        screen.fact("", f"and {len(rows) - len(cells)} more")


def _draw_variants(screen: Screen, said: dict[str, Any]) -> None:
    rows = said["variants"]
    if not rows or not any(row["ended"] for row in rows):
        return
    best = "largest" if said["mode"] == "max" else "smallest"
    of = ", of the config that leads each variant" if said["search"] else ""
    screen.fact("so far", f"best first: {best} {said['metric']}{of}")
    cells = []
    for row in rows[:SHOWN_VARIANTS]:
        bad = "  ".join(f"{row[status]} {status}" for status in ("infeasible", "failed", "lost", "cancelled") if row[status])
        cells.append([row["variant"], f"{row['ended']}/{row['trials']}", "" if row["mean"] is None else f"{row['mean']:.4f}",
                      "" if row["sd"] is None else f"{row['sd']:.4f}", str(row["n"] or ""), bad])
    mean = f"{said['metric']}, mean"
    screen.table(["variant", "trials", mean, "sd over seeds", "n", ""], cells, wide="variant", red="",
                 right=["trials", mean, "sd over seeds", "n"])
    if len(rows) > len(cells):
        screen.fact("", f"and {len(rows) - len(cells)} more")


def _draw_sums(screen: Screen, overview: Overview, said: dict[str, Any]) -> None:
    used, left = said["used"], said["left"]
    limit = f" of {used['gpu_hours_limit']} ([limits] gpu_hours)" if used["gpu_hours_limit"] else ""
    if used["gpu_hours"] or limit:
        screen.fact("used", f"{used['gpu_hours']:.2f} GPU-hours{limit}")
    elif used["cpu_hours"]:
        screen.fact("used", f"{used['cpu_hours']:.2f} CPU-hours, no GPUs")
    if left["seconds"] is not None:
        screen.fact("left", f"about {duration(left['seconds'])} for {count(left['trials'], 'trial')}, {left['at_once']} at once; "
                            f"from: {left['source']}")
    elif left["trials"]:
        screen.fact("left", f"unknown: {left['source']}")
    if said["failures"]:
        causes = ", ".join(f"{number} {cause}" for cause, number in Counter(said["failures"]).most_common())
        screen.fact("failed", causes, style="red")
        screen.command(overview.command("why"), label="why")
    if said["over"] and said["trials"]["done"]:
        screen.command(f"python -m analysis.plots {shown(overview.root)}", label="figures")
        if (overview.root / report.NAME).is_file():
            screen.fact("report", shown(overview.root / report.NAME))


if __name__ == "__main__":
    sys.exit(main())
