"""What failed, by cause, with the ends of the logs; and the command that runs a trial again. Of a study's files only logs are read."""

import os
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import Study
from analysis.report.facts import grid_text, listed
from analysis.report.rows import last_attempts

MAX_GROUPS = 12
"""Most groups of failures, the largest first, that are shown with a log."""
MAX_NAMED = 8
TAIL_LINES, TAIL_WIDTH, TAIL_BYTES = 24, 300, 1 << 16
_TRIAL = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]*")
"""What may be a folder's name below trials/; a table that is not ours could name any file of the machine."""
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")
"""Colours and cursor movements: ECMA-48, section 5.4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Trials that ended without a value for one reason."""

    title: str
    error: str
    trials: list[str]
    """The first of them."""
    count: int
    variants: str
    tail: str
    """The end of the log of the first one that has one."""
    log: str
    """Where that log is."""
    command: str
    """What runs the first of them again."""


def failures(study: Study, folder: str) -> tuple[list[Group], int]:
    """The trials that failed, were lost or are infeasible, by cause; the largest groups first, what is infeasible (a result) after the
    others, and how many groups are left out."""
    trials = study.all_trials.drop_duplicates("trial_id")
    trials = trials[~trials["status"].isin(["done", "pruned", "unfinished"])]
    last = last_attempts(study).set_index("trial_id")
    causes, errors, numbers = (trials["trial_id"].map(last[name]) if name in last else pd.Series(None, index=trials.index, dtype=object)
                               for name in ("cause", "error", "attempt"))
    infeasible = trials["status"] == "infeasible"
    reasons = trials.get("reason", errors)
    said = [_text(reason if bad else error) for reason, error, bad in zip(reasons, errors, infeasible, strict=True)]
    titles = [f"{status}: {_text(cause).replace('_', ' ')}" if status == "failed" and _text(cause) else str(status)
              for status, cause in zip(trials["status"], causes, strict=True)]
    trials = trials.assign(said=said, title=titles, attempt=numbers.astype(float).fillna(0), kind=[re.sub(r"\d+", "0", e) for e in said])
    parts = sorted((part for _, part in trials.groupby(["title", "kind"], sort=False)),
                   key=lambda part: (part["status"].iloc[0] == "infeasible", -len(part)))
    return [_group(study, folder, part) for part in parts[:MAX_GROUPS]], max(0, len(parts) - MAX_GROUPS)


def _group(study: Study, folder: str, trials: pd.DataFrame) -> Group:
    names = [str(t) for t in trials["trial_id"].head(MAX_NAMED)]
    log, tail = "", ""
    for name, attempt in zip(names, trials["attempt"], strict=False):
        log = f"trials/{name}/a{int(attempt):03d}.log"
        if _TRIAL.fullmatch(name) and (tail := log_tail(study.folder / log)):
            break
    return Group(title=str(trials["title"].iloc[0]), error=str(trials["said"].iloc[0]), trials=names, count=len(trials), tail=tail,
                 variants=listed([str(v) for v in trials["variant"].unique()]), log=f"{folder}/{log}" if tail else "",
                 command=command(folder, names[0], _digests(trials)[0]) if runs_alone(study) else "")


def log_tail(path: Path) -> str:
    """The last lines of a log as they look on a terminal, without what a terminal would act on; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in _SEQUENCE.sub("", text).split("\n")]
    lines = ["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line.expandtabs())
             for line in lines if line.strip(" ~^")][-TAIL_LINES:]
    return "\n".join(line if len(line) <= TAIL_WIDTH else line[:TAIL_WIDTH] + "…" for line in lines)


def _text(one: object) -> str:
    return "" if one is None or pd.isna(one) else str(one)  # type: ignore[call-overload]


def command(folder: str, trial: str, digest: str = "") -> str:
    """What trains a trial again, without the harness; "" for a name that is none of ours.

    Args:
        folder: the study's, as a command is to name it.
        digest: of the weights it starts from, where those are another study's.
    """
    if not _TRIAL.fullmatch(trial):
        return ""
    weights = ["--weights-file", f"{folder}/weights/{digest}.pt"] if digest else []
    return shlex.join(["python", "-m", "jobs.train", f"{folder}/trials/{trial}/config.json", "--out", f"again/{trial}", *weights])


def commands(study: Study, folder: str, trials: pd.DataFrame) -> dict[str, Any]:
    """The commands of all trials for the page's script: each kind once, with TRIAL for the trial's name, and which of them is whose."""
    if not runs_alone(study):
        return {"commands": [""], "command": [0] * len(trials)}
    digests = _digests(trials)
    kinds = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
    return {"commands": [command(folder, "TRIAL", digest) for digest in kinds], "command": [kinds[digest] for digest in digests]}


def _digests(trials: pd.DataFrame) -> list[str]:
    column = "param_weights_digest"
    return [_text(digest) for digest in trials[column]] if column in trials else [""] * len(trials)


def runs_alone(study: Study) -> bool:
    """Whether trials can be trained without the harness: a job of the user's own (`[job]` in the grid) cannot."""
    try:
        return "job" not in tomllib.loads(grid_text(study))
    except tomllib.TOMLDecodeError:
        return True
