"""What a cluster calls things, so that a grid need not say it: one TOML file per site, read with `--profile NAME`.

A profile is looked for in the user's own folder (`$XDG_CONFIG_HOME/harness/profiles/NAME.toml`, by default below ~/.config), then in the
repository's `slurm/profiles/`; `slurm/profiles/example.toml` explains every key. Its `setup` lines run as shell commands in every job, so a
profile that somebody else can write is refused. All other values are checked here, character by character, before they reach sbatch.
"""

import dataclasses
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import GridError, Problem, UsageError
from harness.findings import Findings, load_toml, show
from harness.grid_sections import LARGEST_INT, Slurm, describe, read_section
from jobs.config import nearest

REPOSITORY_PROFILES = Path(__file__).resolve().parents[1] / "slurm" / "profiles"
LARGEST_FILE = 100_000
LONGEST_LINE = 2000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_PLAIN = re.compile(r"[\w@%+=:,./-]{1,200}", re.ASCII)
_ALLOWED: dict[str, tuple[re.Pattern[str], str]] = {
    "gpu_type": (re.compile(r"\w[\w.+-]{0,99}", re.ASCII), "letters, digits and _ . + -"),
    "constraint": (re.compile(r"[\w@%+=:,./&|*()\[\]-]{1,200}", re.ASCII), "letters, digits and @ % + = : , . / & | * ( ) [ ] - _"),
    "exclude": (re.compile(r"[\w.,\[\]-]{1,200}", re.ASCII), "node names such as n03,n[07-09]"),
    "python": (re.compile(r"/[\w@%+=:,./-]{1,200}|[\w.+-]{1,100}", re.ASCII), "an absolute path, or a name on the PATH after `setup`"),
    "scratch": (re.compile(r"(?:/|\$[A-Za-z_]\w*(?=/|$))(?:[\w@%+=,./-]|\$[A-Za-z_]\w*){0,200}", re.ASCII),
                "an absolute path, in which $NAME stands for a variable of the job: /scratch/$USER or $SLURM_TMPDIR"),
}
"""What the values of some keys are made of; those of all others match `_PLAIN`."""

SBATCH_OPTIONS: dict[str, tuple[tuple[type, ...], str]] = {
    "begin": ((str,), "when jobs may start at the earliest: now+1hour"),
    "comment": ((str,), "a word for the accounting"),
    "distribution": ((str,), "how processes are laid out over nodes: block:cyclic"),
    "exclusive": ((bool, str), "whole nodes: true, or user"),
    "gres": ((str,), "resources other than GPUs: localtmp:100G"),
    "gres-flags": ((str,), "enforce-binding or disable-binding"),
    "hint": ((str,), "nomultithread, compute_bound or memory_bound"),
    "licenses": ((str,), "licences that the site counts: name:1"),
    "mail-type": ((str,), "NONE, FAIL, END; mind that a study has many jobs"),
    "mail-user": ((str,), "where mails go"),
    "mem-per-cpu": ((str, int), "memory for each core (4G), where a site wants it so; the grid's mem_gb is then 0"),
    "mem-per-gpu": ((str, int), "memory for each GPU (40G), likewise"),
    "network": ((str,), "the site's network options"),
    "nice": ((bool, int), "a lower priority among your own jobs: true, or how much lower"),
    "priority": ((int,), "a priority, where the site lets users give one"),
    "switches": ((str, int), "at most so many network switches: 1 or 1@10:00"),
    "threads-per-core": ((int,), "hardware threads used of each core"),
    "tmp": ((str,), "local disk of a node at least: 50G"),
    "wckey": ((str,), "a key for the accounting"),
}
"""[sbatch]: long options of sbatch that a profile may set -> types of the value, what it is for. Where output goes, what runs, as whom,
and how it is signalled and requeued is the harness's own to say."""

_ELSEWHERE = {
    **dict.fromkeys(("partition", "account", "qos", "constraint", "reservation", "exclude"), "a key of its own, above the tables"),
    **dict.fromkeys(("time", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "cpus-per-gpu", "mem", "gpus", "gpus-per-node",
                     "gpus-per-task"), "what a trial needs, and said in the grid's [slurm]"),
    **dict.fromkeys(("array", "chdir", "clusters", "dependency", "error", "export", "gid", "hold", "job-name", "no-requeue", "open-mode",
                     "output", "prolog", "requeue", "signal", "uid", "wait", "wrap"), "never taken from a profile: the harness sets it"),
}


def _key(doc: str, default: str | int, *, low: int = 0, high: int = 1_000_000) -> Any:
    """A key with its bounds, as `harness.grid_sections.read_section` reads it."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": ()})


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherJob:
    """[launcher]: the small job that launches and watches a study with --detach."""

    partition: str = _key("partition of that job, best one that is never preempted; by default the profile's", "")
    qos: str = _key("its QOS; by default the profile's", "")
    time_min: int = _key("its time limit in minutes; it submits itself again before it is over", 1440, low=1, high=366 * 24 * 60)
    mem_gb: int = _key("its memory in GB", 4, low=1, high=1000)
    cpus: int = _key("its CPU cores", 1, low=1, high=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Everything that belongs to a site. Without a file it says nothing, and Slurm's own defaults hold."""

    name: str = ""
    """The file's name without .toml; "" when there is none."""
    file: str = ""
    """The file itself, as an absolute path."""
    partition: str = _key("partition, or several with commas", "")
    account: str = _key("account that is charged", "")
    qos: str = _key("quality of service", "")
    constraint: str = _key("features that nodes must have: a100|h100", "")
    reservation: str = _key("reservation to run in", "")
    exclude: str = _key("nodes to stay away from: n03,n[07-09]", "")
    gpu_type: str = _key("type of GPU as the site calls it; sbatch is asked for gpus-per-node TYPE:N", "")
    python: str = _key("interpreter on the nodes, as an absolute path or a name that `setup` puts on the PATH; by default the one that "
                       "launches", "")
    scratch: str = _key("folder on a node's own disk, becomes TMPDIR and gets a copy of the data: /scratch/$USER or $SLURM_TMPDIR", "")
    signal_s: int = _key("seconds before the time limit at which jobs keep their progress", 120, low=1, high=65_535)
    poll_s: int = _key("seconds between two questions to Slurm at most", 30, low=1, high=3600)
    max_jobs: int = _key("jobs in the queue at once at most; 0 is what Slurm allows", 0)
    setup: tuple[str, ...] = ()
    """Shell lines that run in every job before Python, under `set -eo pipefail`."""
    launcher: LauncherJob = field(default_factory=LauncherJob)
    """[launcher]"""
    sbatch: dict[str, str | int | bool] = field(default_factory=dict)
    """[sbatch]: further long options, without their dashes; true is an option without a value."""


KEYS = {**{f.name: f.metadata["doc"] for f in dataclasses.fields(Profile) if f.metadata},
        "setup": "shell lines that run in every job before Python: modules, a virtual environment; the first that fails ends the job"}
"""Key above the tables -> what it is for."""


def preamble(profile: Profile) -> list[str]:
    """The shell lines with which every job of ours begins: what fails ends the job with its exit status, a signal that comes before Python
    listens does not."""
    lines = ["set -eo pipefail", "trap '' USR1 USR2", *profile.setup]
    if profile.scratch:
        folder = re.sub(r"\$(\w+)", r"${\1:?is not set here, and the profile names it in scratch}", profile.scratch)
        lines += [f'export TMPDIR="{folder}"', 'mkdir -p "$TMPDIR"', 'export HARNESS_SCRATCH="$TMPDIR"']
    return lines


# ------------------------------------------------------------------------------------------------------------------ finding


def read_profile(name: str | None) -> Profile:
    """The profile of that name, or at that path when it ends in .toml; None is the user's default, or else an empty profile.

    Raises:
        UsageError: there is no such profile, or somebody else can write it.
        GridError: it has mistakes; all of them, each with its place.
    """
    if name is None:
        name = _default_name()
        if name is None:
            return Profile()
    if name.endswith(".toml"):
        return parse_profile(_read(Path(name)), file=name)
    for folder in _folders():
        path = folder / f"{name}.toml"
        if _NAME.fullmatch(name) and path.is_file():
            return parse_profile(_read(path), file=str(path))
    there = profiles()
    hint = nearest(name[:80], there) if there else ""
    raise UsageError(f"there is no profile `{show(name)}` in {' or '.join(map(str, _folders()))}{hint}; "
                     "copy slurm/profiles/example.toml there, or give the path of a .toml file")


def profiles() -> list[str]:
    """Names of the profiles there are, the user's own first."""
    return list(dict.fromkeys(path.stem for folder in _folders() for path in sorted(folder.glob("*.toml"))))


def _config_folder() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home.startswith("/") else Path("~/.config").expanduser()) / "harness"


def _folders() -> tuple[Path, Path]:
    return _config_folder() / "profiles", REPOSITORY_PROFILES


def _default_name() -> str | None:
    """What `profile = "NAME"` in the user's config.toml says."""
    path = _config_folder() / "config.toml"
    if not path.exists():
        return None
    document, findings = load_toml(_read(path), str(path))
    for key in document:
        if key != "profile":
            findings.key((key,), f"unknown key `{show(key)}`{nearest(key[:80], ['profile'])}")
    name = document.get("profile")
    if name is not None and not (isinstance(name, str) and name):
        findings.value(("profile",), f"`profile`: the name of a profile is meant, not {describe(name)}")
    findings.close()
    return name


def _read(path: Path) -> str:
    """The text of a file that nobody but this user (and root) can write."""
    def refuse(message: str) -> GridError:
        return GridError([Problem(message=message, file=str(path))])

    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise refuse("not a file; a profile is a TOML file")
            _refuse_strangers(path, os.fstat(file.fileno()))
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LARGEST_FILE:
        raise refuse(f"larger than {LARGEST_FILE // 1000} kB; no profile is")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise refuse(f"not UTF-8 (byte 0x{data[error.start]:02x} on line {data.count(10, 0, error.start) + 1}); TOML is UTF-8") from error


def _refuse_strangers(path: Path, opened: os.stat_result) -> None:
    """Raises UsageError when somebody else could have written the file, or can put another in its place."""
    folders = {place.parent for place in (path.absolute(), path.resolve())}
    folders |= {folder.parent for folder in folders if folder.parent.name == "harness"}  # ~/.config/harness holds profiles/
    for place, state in [(path, opened), *((folder, folder.stat()) for folder in sorted(folders))]:
        if problem := writable_by_others(place, state):
            raise UsageError(f"the profile {path} holds commands that run in your jobs, and {problem}")


def writable_by_others(place: Path, state: os.stat_result) -> str:
    """Who but this user and root may change a file or folder, and what to do; "" when nobody may. A folder such as /tmp, whose sticky
    bit keeps others from renaming what is not theirs, is as good as one's own."""
    if state.st_uid not in (os.geteuid(), 0):
        return f"{place} belongs to user {state.st_uid}, not to you; use a place of your own"
    if stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX:
        return ""
    who = [name for bit, name in ((stat.S_IWGRP, "its group"), (stat.S_IWOTH, "everybody")) if state.st_mode & bit]
    if not who:
        return ""
    return f"{place} can be written by {' and '.join(who)}; forbid it: {shlex.join(['chmod', 'go-w', str(place)])}"


# ----------------------------------------------------------------------------------------------------------------- checking


def parse_profile(text: str, *, file: str) -> Profile:
    """A profile from its text; `file` is where it came from, for messages and the profile's name.

    Raises:
        GridError: every mistake in it, each with its line and column.
    """
    document, findings = load_toml(text, file)
    tables = {"launcher": LauncherJob, "sbatch": None}
    keys = {key: value for key, value in document.items() if key not in ("setup", *tables)}
    values: Profile | None = _section(findings, (), keys, Profile, valid=[*KEYS, *(f"[{table}]" for table in tables)])
    launcher: LauncherJob | None = _section(findings, ("launcher",), document.get("launcher", {}), LauncherJob, valid=_names(LauncherJob))
    setup = tuple(_setup(findings, document["setup"])) if "setup" in document else ()
    sbatch = dict(_sbatch(findings, document.get("sbatch", {})))
    findings.close()
    assert values is not None and launcher is not None  # only mistakes make them so
    return dataclasses.replace(values, name=Path(file).stem, file=str(Path(file).absolute()), setup=setup, launcher=launcher, sbatch=sbatch)


def _names(section: type) -> list[str]:
    return [f.name for f in dataclasses.fields(section) if f.metadata]


def _section(findings: Findings, path: tuple[str, ...], table: object, section: type, *, valid: list[str]) -> Any:
    """Reads one table, and checks what its strings are made of."""
    if not isinstance(table, dict):
        return read_section(findings, path, table, section)
    known = _names(section)
    for key in table.keys() - set(known):
        findings.key((*path, key), f"unknown key `{show(key)}`{f' in [{path[0]}]' if path else ''}{_home(key) or nearest(key[:80], valid)}")
    found = read_section(findings, path, {key: table[key] for key in known if key in table}, section)
    for key in known:
        if isinstance(value := table.get(key), str) and value and (problem := _wrong_text(key, value)):
            findings.value((*path, key), f"`{key}`: {problem}")
    return found


def _home(key: str) -> str:
    """Where a key belongs that is known elsewhere; "" when it is not."""
    option = key.replace("_", "-").lstrip("-")
    if option in SBATCH_OPTIONS:
        return f"; write it as `{option}` under [sbatch]"
    if key in _names(Slurm):
        return "; a trial's resources stand in the grid's [slurm]"
    return f"; `{key}` is a key of [launcher]" if key in _names(LauncherJob) else ""


def _wrong_text(key: str, value: str) -> str:
    """What is wrong with the characters of a value; "" when nothing is."""
    pattern, made_of = _ALLOWED.get(key, (_PLAIN, "letters, digits and @ % + = : , . / - _"))
    if pattern.fullmatch(value) and not value.startswith("-"):
        return ""
    reason = f"it has {len(value):,} characters" if len(value) > 200 else f'not "{show(value)}"'
    return f"{made_of} can stand here, 200 characters at most; {reason}"


def _setup(findings: Findings, value: object) -> Iterator[str]:
    """The shell lines, each as it stands."""
    if not isinstance(value, list):
        findings.value(("setup",), f'`setup`: a list of shell lines is meant, such as ["module load cuda"], not {describe(value)}')
        return
    for number, line in enumerate(value):
        problem = _wrong_line(line)
        if problem:
            findings.value(("setup", number), f"`setup`: {problem}")
        else:
            yield line


def _wrong_line(line: object) -> str:
    """What is wrong with a shell line; "" when nothing is."""
    if not isinstance(line, str):
        return f"a shell line in quotes is meant, not {describe(line)}"
    if not line.strip():
        return "an empty line"
    if len(line) > LONGEST_LINE:
        return f"a line of {len(line):,} characters; {LONGEST_LINE:,} are allowed"
    if not line.replace("\t", " ").isprintable():
        return "one line is meant, without line breaks and control characters; write several lines as several strings"
    return "the line ends with a backslash, which would swallow the next one" if line.rstrip().endswith("\\") else ""


def _sbatch(findings: Findings, table: object) -> Iterable[tuple[str, str | int | bool]]:
    """The options of [sbatch] that are known and of the right kind."""
    if not isinstance(table, dict):
        findings.key(("sbatch",), "`sbatch` is a section: write [sbatch] and its keys below it")
        return
    for key, value in table.items():
        place = ("sbatch", key)
        option = key.replace("_", "-").lstrip("-")
        if key not in SBATCH_OPTIONS:
            where = f"; {option} is {_ELSEWHERE[option]}" if option in _ELSEWHERE else nearest(option[:80], SBATCH_OPTIONS)
            findings.key(place, f"unknown key `{show(key)}` in [sbatch]{where}")
            continue
        if problem := _wrong_option(key, value):
            findings.value(place, f"`{key}`: {problem}")
        else:
            yield key, value


def _wrong_option(key: str, value: object) -> str:
    """What is wrong with the value of an sbatch option; "" when nothing is."""
    kinds, doc = SBATCH_OPTIONS[key]
    if value is False and bool in kinds:
        return "leave the line out instead of writing false"
    if type(value) not in kinds:
        words = {bool: "true", int: "a whole number", str: "a string"}
        return f"{' or '.join(words[kind] for kind in kinds)} is meant ({doc}), not {describe(value)}"
    if isinstance(value, int) and not 0 <= value <= LARGEST_INT:
        return "a whole number from 0 to 2^63 - 1 is meant"
    if isinstance(value, str) and (problem := _wrong_text(key, value)):
        return problem
    if key == "gres" and re.search(r"(^|,)gpu\b", str(value)):
        return "GPUs are asked for with gpus_per_node in the grid and gpu_type here"
    return ""
