"""Why trials failed, and why others do not begin: by cause and by what the failed ones share, with the command that mends it.

    python -m harness.why                       # the study that was launched last
    python -m harness.why digits 0a1b2c3d-s0    # the story of one trial
    python -m harness.why digits --json

It only reads: also while a launcher runs, without Slurm, and where nothing may be written.
"""

import argparse
import dataclasses
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from harness import command, reasons, slurm
from harness.contrast import in_common
from harness.estimate import duration
from harness.logtext import last_lines
from harness.named import count, short, shown
from harness.overview import Overview, Record, readable, study_and_trial
from harness.remedies import remedies
from harness.screen import STYLES, Screen, print_json
from harness.store import Store

LOG_LINES = 8
SHOWN_TRIALS = 3
_RANK = re.compile(r"rank (\d+): ")
_UNTOLD = re.compile(r"place \S+ is taken or closed|slurmstepd-?\S*: error: .*CANCELLED")
"""What the log of a worker says that was taken back before it began, which is no failure."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.why", description="Show why trials failed or wait; change nothing.", epilog=(
        "exit status: 0 shown, 1 the study cannot be read, 2 there is no such study or trial"))
    options.add_argument("study", nargs="?", metavar="STUDY",
                         help="a study's folder, or its name below runs/ (default: the one launched last)")
    options.add_argument("trial", nargs="?", metavar="TRIAL", help="with a trial's name, or its beginning, the story of that trial")
    options.add_argument("--json", action="store_true", help="print one JSON document instead")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    overview, trial = study_and_trial(options.study, options.trial)
    with readable(overview.root):
        said = causes(overview) if trial is None else story(overview, trial)
    if options.json:
        print_json(said)
    elif trial is None:
        draw(overview, said)
    else:
        draw_story(overview, said)
    return 0


# ------------------------------------------------------------------------------------------------------------------------ the whole study


def causes(overview: Overview) -> dict[str, Any]:
    """Why trials failed or wait, as JSON values; docs/verbs.md has the keys."""
    failed = [trial for trial, status in overview.status.items() if status in ("failed", "lost")]
    groups: dict[tuple[str, str], list[str]] = {}
    records = {trial: overview.records(trial)[-1] for trial in failed}
    for trial in failed:
        groups.setdefault(_kind(records[trial]), []).append(trial)
    compared = _compared(overview) if failed else []
    infeasible: dict[str, list[str]] = {}
    for trial, one in overview.finished.items():
        if one.status == "infeasible":
            infeasible.setdefault(one.reason, []).append(trial)
    again = Counter(attempt.cause for state in overview.states.values() if not state.result
                    for attempt in state.attempts[:-1] if attempt.cause)
    return {
        "study": overview.name, "folder": str(overview.root), "trials": len(overview.trials),
        "slurm": {"asked": overview.queue is not None, "trouble": overview.trouble},
        "failures": [_group(overview, trials, records, compared) for trials in sorted(groups.values(), key=len, reverse=True)],
        "infeasible": [{"reason": reason, "trials": trials, "variants": _variants(overview, trials)}
                       for reason, trials in sorted(infeasible.items(), key=lambda item: -len(item[1]))],
        "cancelled": [trial for trial, status in overview.status.items() if status == "cancelled"],
        "waiting": [dataclasses.asdict(group) for group in reasons.waiting([*overview.elements(), *overview.launcher_jobs()])],
        "launch_failures": launch_failures(overview), "tried_again": dict(again),
    }


def _kind(record: Record) -> tuple[str, str]:
    """What failures of one kind have in common: the cause, and the place in the code or else the text without its numbers."""
    return record.cause or "lost", record.where or re.sub(r"\d+", "#", record.error or record.slurm_state or "")


def _facts(overview: Overview, trial: str, host: str) -> dict[str, Any]:
    return {**overview.settings(trial), "seed": overview.trials[trial].seed, "node": host}


def _compared(overview: Overview) -> list[dict[str, Any]]:
    """What the trials have that are done."""
    return [_facts(overview, trial, one.runs[-1].host if one.runs else "") for trial, one in overview.finished.items()
            if one.status == "done"]


def _variants(overview: Overview, trials: list[str]) -> list[str]:
    return list(dict.fromkeys(overview.trials[trial].variant for trial in trials))


def _group(overview: Overview, trials: list[str], records: dict[str, Record], compared: list[dict[str, Any]]) -> dict[str, Any]:
    """Failures of one kind."""
    first = records[trials[0]]
    rank = int(found[1]) if (found := _RANK.match(first.error or "")) else 0
    log = log_file(overview.store, trials[0], first.number, rank)
    # Where all trials ran on one node, or with one seed, that is nothing they share in particular.
    facts = [_facts(overview, trial, records[trial].host) for trial in trials]
    plain = {name for name in ("seed", "node") if len({one[name] for one in (*facts, *compared)}) == 1}
    own, theirs = ([{name: value for name, value in one.items() if name not in plain} for one in many] for many in (facts, compared))
    return {
        "cause": first.cause or "lost", "error": first.error, "where": first.where, "slurm_state": first.slurm_state,
        "trials": trials, "variants": _variants(overview, trials), "share": in_common(own, theirs), "compared_with": len(compared),
        "log": str(log), "rank": rank, "last_lines": last_lines(log, LOG_LINES),
        "remedies": [dataclasses.asdict(remedy) for remedy in remedies(overview, first)],
    }


def log_file(store: Store, trial: str, attempt: int, rank: int = 0) -> Path:
    """What a rank of an attempt printed."""
    log = store.attempt_log(trial, attempt)
    return log if rank == 0 else log.with_suffix(f".rank{rank}.log")


def launch_failures(overview: Overview) -> list[dict[str, Any]]:
    """Workers of unfinished trials that ended before they could begin, by the last lines that they printed."""
    found: dict[tuple[str, ...], list[str]] = {}
    for batch in overview.batches.values():
        for place, claim in enumerate(batch.claims):
            worker = batch.worker(place)
            began = claim is not None and not claim.get("closed")
            if began or worker in overview.living or all(overview.states[trial].result for trial, _ in batch.trials_of(place)
                                                         if trial in overview.states):
                continue
            log = overview.store.worker_log(worker)
            lines = [line for line in last_lines(log, LOG_LINES) if not _UNTOLD.match(line)]
            if lines:
                found.setdefault(tuple(lines), []).append(worker)
    return [{"workers": workers, "last_lines": list(lines)} for lines, workers in found.items()]


def draw(overview: Overview, said: dict[str, Any]) -> None:
    """Prints the screen."""
    screen = Screen()
    screen.title(f"{said['study']}  ", (shown(overview.root), "dim"))
    failed = sum(len(group["trials"]) for group in said["failures"])
    infeasible = sum(len(group["trials"]) for group in said["infeasible"])
    parts = [(f"{number} {word}  ", style) for number, word, style in (
        (failed, "failed or lost", "red"), (infeasible, "infeasible", "yellow"), (len(said["cancelled"]), "cancelled", "yellow")) if number]
    screen.title("" if parts else "no trial has failed  ", *parts, (f"of {count(said['trials'], 'trial')}", "dim"))
    if overview.trouble:
        screen.fact("Slurm", f"not known: {overview.trouble}", style="yellow")
    for number, group in enumerate(said["failures"], 1):
        _draw_group(screen, overview, group, number)
    for group in said["launch_failures"]:
        screen.blank()
        names = ", ".join(group["workers"][:SHOWN_TRIALS]) + (" …" if len(group["workers"]) > SHOWN_TRIALS else "")
        screen.title(f"{count(len(group['workers']), 'worker')} ended before the first trial", (f"  ({names})", "dim"), style="bold red")
        screen.quote(group["last_lines"])
        screen.command(overview.command("logs", "--worker", group["workers"][0]), label="log")
    if said["infeasible"]:
        screen.blank()
        screen.title(f"{count(infeasible, 'trial')} infeasible, which is a result", style="bold yellow")
        for group in said["infeasible"]:
            names = ", ".join(group["variants"][:SHOWN_TRIALS]) + (" …" if len(group["variants"]) > SHOWN_TRIALS else "")
            screen.fact(str(len(group["trials"])), f"{group['reason']}  ({names})")
    if said["waiting"]:
        screen.blank()
        screen.title("jobs that wait")
        for wait in said["waiting"]:
            what = " ".join(filter(None, [wait["state"] if wait["state"] != "PENDING" else "", wait["reason"]]))
            meaning = f": {wait['meaning']}" if wait["meaning"] else ""
            screen.fact(str(wait["jobs"]), what + meaning, style="" if wait["starts"] else "red")
    if said["tried_again"]:
        screen.blank()
        times = ", ".join(f"{number} {cause}" for cause, number in Counter(said["tried_again"]).most_common())
        screen.fact("attempts", f"that ended and were followed by another: {times}")
    if said["cancelled"]:
        screen.blank()
        screen.command(overview.launch_command("--retry"), label="uncancel")
    screen.show()


def _draw_group(screen: Screen, overview: Overview, group: dict[str, Any], number: int) -> None:
    trials = group["trials"]
    screen.blank()
    state = f", Slurm says {group['slurm_state']}" if group["slurm_state"] else ""
    screen.title(f"{number}  {count(len(trials), 'trial')}: {group['cause']}{state}", style="bold red")
    if group["error"]:
        screen.fact("error", group["error"])
    if group["where"]:
        screen.fact("at", group["where"].replace(" < ", "\n< "))
    if group["share"]:
        whose = "it has" if len(trials) == 1 else f"all {len(trials)} have"
        others = f", and none of the {group['compared_with']} done has" if group["compared_with"] else "; none is done to compare with"
        screen.fact("in common", f"{whose} {', '.join(group['share'][:5])}{others}")
    elif group["compared_with"]:
        screen.fact("in common", f"nothing sets {'it' if len(trials) == 1 else 'them'} apart from the {group['compared_with']} done")
    names = [f"{short(trial)}  {overview.trials[trial].variant}  seed {overview.trials[trial].seed}" for trial in trials[:SHOWN_TRIALS]]
    more = [f"and {len(trials) - SHOWN_TRIALS} more"] if len(trials) > SHOWN_TRIALS else []
    screen.fact("trials", "\n".join(names + more))
    screen.fact("log", f"{short(trials[0])}" + (f", rank {group['rank']}" if group["rank"] else "")
                + ("" if group["last_lines"] else ": it printed nothing"))
    screen.quote(group["last_lines"])
    if group["last_lines"]:
        rank = ["--rank", str(group["rank"])] if group["rank"] else []
        screen.command(overview.command("logs", trials[0], *rank), label="whole log")
    _draw_remedies(screen, group["remedies"])


def _draw_remedies(screen: Screen, remedies: list[dict[str, str]]) -> None:
    for remedy in remedies:
        screen.fact("mend", remedy["text"])
        if remedy["command"]:
            screen.command(remedy["command"])


# ---------------------------------------------------------------------------------------------------------------------------- one trial


def story(overview: Overview, trial_id: str) -> dict[str, Any]:
    """All that happened to one trial, as JSON values; docs/verbs.md has the keys."""
    trial, records = overview.trials[trial_id], overview.records(trial_id)
    one = overview.finished.get(trial_id)
    last = records[-1] if records else None
    waits = [slurm.described(element) for worker, batch in overview.living.items()
             if (trial_id, len(records)) in batch.trials_of(batch.place(worker)) and (element := overview.element(worker))]
    bad = last is not None and overview.status[trial_id] in ("failed", "lost", "pending", "queued") and not last.running
    rank = int(found[1]) if last and (found := _RANK.match(last.error or "")) else 0
    log = log_file(overview.store, trial_id, last.number, rank) if last else None
    return {
        "study": overview.name, "folder": str(overview.root), "trial": trial_id, "variant": trial.variant, "seed": trial.seed,
        "status": overview.status[trial_id], "settings": overview.settings(trial_id), "reason": one.reason if one else "",
        "metric": overview.grid.metric if overview.grid else None, "value": one.value if one else None,
        "attempts": [{**dataclasses.asdict(record), "seconds": round(record.seconds(overview.now), 1)} for record in records],
        "jobs": waits, "log": str(log) if log else None, "last_lines": last_lines(log, LOG_LINES) if bad and log else [],
        "remedies": [dataclasses.asdict(remedy) for remedy in remedies(overview, last)]
                    if last and overview.status[trial_id] in ("failed", "lost", "cancelled") else [],
    }


def draw_story(overview: Overview, said: dict[str, Any]) -> None:
    """Prints the story of a trial."""
    screen = Screen()
    screen.title(f"{said['trial']}  ", (f"{said['variant']}  seed {said['seed']}  in {shown(overview.root)}", "dim"))
    value = f"  {said['metric']} {said['value']:.4f}" if said["value"] is not None else ""
    reason = f": {said['reason']}" if said["reason"] else ""
    screen.title("", (f"{said['status']}{reason}{value}", STYLES.get(said["status"], "bold")))
    for attempt in said["attempts"]:
        screen.blank()
        _draw_attempt(screen, attempt)
    if not said["attempts"]:
        screen.fact("attempts", "none yet")
    for job in said["jobs"]:
        meaning, _ = reasons.explain(job["reason"])
        screen.fact("next", f"job {job['job_id']} {job['state']}: {job['reason']}" + (f", {meaning}" if meaning else ""))
    if said["last_lines"]:
        screen.blank()
        screen.fact("log", shown(Path(said["log"])))
        screen.quote(said["last_lines"])
    _draw_remedies(screen, said["remedies"])
    screen.show()


def _draw_attempt(screen: Screen, attempt: dict[str, Any]) -> None:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt["started"])) if attempt["started"] else "not yet begun"
    process = f"in job {attempt['job_id']}" if attempt["job_id"] else f"as process {attempt['pid']}" if attempt["pid"] else ""
    where = " ".join(filter(None, [f"on {attempt['host']}" if attempt["host"] else "", process,
                                   f"worker {attempt['worker']}" if attempt["worker"] else ""]))
    screen.title(f"attempt {attempt['number']}  ", (f"{began}  {duration(attempt['seconds'])}  {where}", ""))
    first, last = attempt["first_epoch"], attempt["last_epoch"]
    epochs = "no epoch finished" if last is None else f"epochs {first} to {last}" if first != last else f"epoch {last}"
    ranks = f", {attempt['ranks']} ranks" if attempt["ranks"] > 1 else ""
    cut = f", batches in {attempt['accumulate']} pieces" if attempt["accumulate"] > 1 else ""
    screen.fact("did", f"{epochs}{ranks}{cut}")
    state = f" (Slurm: {attempt['slurm_state']})" if attempt["slurm_state"] else ""
    if attempt["running"]:
        screen.fact("ended", "not yet: it runs", style="cyan")
    else:
        screen.fact("ended", f"{attempt['cause'] or 'its worker is gone without a word'}{state}")
    if attempt["error"]:
        screen.fact("error", attempt["error"] + (f"\nat {attempt['where']}" if attempt["where"] else ""))


if __name__ == "__main__":
    sys.exit(main())
