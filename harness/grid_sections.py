"""The sections of a grid whose keys do not depend on the job: every key with its type, bounds, default and one line of help.

Each dataclass is a section; `read_section` checks a TOML table against it. `SECTIONS` is what the README and the messages about
unknown keys are made from.
"""

import dataclasses
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.findings import Findings, show
from harness.search.algorithms import ALGORITHMS
from harness.spans import Path
from jobs.config import PARAMETERS, STUDY_NAME, Value, nearest

T = TypeVar("T")
LARGEST_INT = 2**63 - 1
LARGEST_SEED = 2**31 - 1
"""What every library that is seeded takes."""


def _key(doc: str, default: Any = dataclasses.MISSING, *, low: int = 0, high: int = 1_000_000, choices: tuple[str, ...] = ()) -> Any:
    """A key of a section; without a default it is required. `low` and `high` are allowed themselves."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """[study]: what is measured, and how a trial's result is chosen."""

    name: str = _key("name of the study and of its folder: lowercase letters, digits, _ and -, at most 64")
    metric: str = _key('what decides: "val_acc" or "val_loss", or one of job.metrics', "val_acc")
    mode: str = _key('"max" when more of the metric is better, "min" when less is; by default "min" for names that end in "loss"', "",
                     choices=("max", "min"))
    seeds: tuple[int, ...] = _key("seeds; every config is trained once with each", (0,), high=LARGEST_SEED)
    select: str = _key("which epoch is a trial's result: the best by the metric, or the last", "best_val", choices=("best_val", "last"))
    test: str = _key('when the test split is used: once per trial, or only for what [confirm] chose; by default "each" without [tune], '
                     '"confirmed" with it', "", choices=("each", "confirmed"))
    reference: str = _key("variant that the others are compared to; by default the first", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Slurm:
    """[slurm]: what one trial needs from the cluster. What the cluster calls it stands in slurm/profiles/*.toml."""

    nodes: int = _key("nodes of one trial", 1, low=1, high=10_000)
    gpus_per_node: int = _key("GPUs per node", 0, high=64)
    tasks_per_node: int = _key("processes (ranks) per node", 1, low=1, high=1024)
    cpus_per_task: int = _key("CPU cores per process", 1, low=1, high=1024)
    mem_gb: int = _key("memory per node in GB; 0 is the site's default", 0, high=100_000)
    time_min: int = _key("time limit of a job in minutes", 60, low=1, high=366 * 24 * 60)
    running: int = _key("at most so many jobs at once; 0 sets no limit", 0)
    trials_per_job: int = _key("trials that one job runs in all; at least trials_per_gpu times fuse", 1, low=1)
    trials_per_gpu: int = _key("trials side by side on the GPU of a job, each in processes and with cpus_per_task cores of its own", 1,
                               low=1, high=64)
    fuse: int = _key("at most so many trials of one shape trained as one program, where a short probe says that it is faster", 1, low=1,
                     high=64)

    @property
    def trials_of_a_job(self) -> int:
        """Trials that one job runs in all: as many as it can run at once at least."""
        return max(self.trials_per_job, self.trials_per_gpu * self.fuse)


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """[local]: what one trial gets on this machine."""

    ranks: int = _key("processes of one trial", 1, low=1, high=1024)
    cpus_per_trial: int = _key("CPU cores of one trial, over all its processes", 1, low=1, high=1024)
    gpus_per_trial: int = _key("GPUs of one trial; -1 is one for each process where there are GPUs, else none", -1, low=-1, high=64)
    running: int = _key("at most so many workers at once, each with a trial or, with fuse, several; 0 is as many as fit", 0)
    trials_per_gpu: int = _key("trials side by side on one GPU, each in processes of its own; without GPUs it has no effect", 1, low=1,
                               high=64)
    fuse: int = _key("at most so many trials of one shape trained as one program, where a short probe says that it is faster", 1, low=1,
                     high=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """[retry]: how often a trial that ended so is tried again without having got anywhere, to a new epoch or checkpoint, in between.

    -1 is for ever. `exception` and `out_of_memory` count every attempt, whether it got anywhere or not.
    """

    preempted: int = _key("again after the cluster took its job away for another", -1, low=-1)
    node_failure: int = _key("again after its node failed", -1, low=-1)
    time_limit: int = _key("again after its job reached the time limit", 1, low=-1)
    out_of_memory: int = _key("again after it ran out of memory, in smaller pieces of the same batch; all attempts count", 1, low=-1)
    exception: int = _key("again after it raised an exception; all attempts count", 0, low=-1)
    killed: int = _key("again after a signal ended it and nothing says why", 4, low=-1)
    cancelled: int = _key("again after its job was cancelled by hand", 3, low=-1)
    lost: int = _key("again after its worker was gone without a word", 4, low=-1)
    launch_failure: int = _key("workers in a row that may die before they begin, and the launch still goes on", 2)
    canary: int = _key("from so many trials of one kind on, one of them goes first and must finish an epoch before the others are "
                       "submitted; 0: never", 8)
    breaker: int = _key("trials that die of the same error before the launch stops; 0: never", 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """[limits]: what the whole study may use up."""

    gpu_hours: int = _key("GPU hours of all its trials together, after which nothing more is begun; 0 sets no limit", 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """[job]: a training function of one's own in place of the built-in image classification; parameters are then free."""

    run: str = _key('the function, as "package.module:function"')
    metrics: tuple[str, ...] = _key("names of the numbers it reports after every epoch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Halving:
    """[search.halving]: successive halving; the best 1/factor of a rung go on with factor times the epochs, and more seeds."""

    first: int = _key("epochs of the first rung", low=1, high=100_000)
    factor: int = _key("ratio of one rung to the next", 3, low=2, high=100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """[search]: how [tune] is explored, for every variant by itself and with the same budget."""

    trials: int = _key("configs that are tried for every variant", low=1)
    wave: int = _key("configs of a variant that are proposed together; by default 8, or trials or running where that is less", 0, low=1)
    running: int = _key("configs of a variant that run at once; with more than wave the next wave does not wait for the last; by default "
                        "wave, and twice that with [search.halving]", 0, low=1)
    algorithm: str = _key('what proposes: "auto", or the name of a Nevergrad optimizer', "auto", choices=ALGORITHMS)
    seed: int = _key("seed of the proposals; the trials' seeds are those of [study]", 0, high=LARGEST_SEED)
    warm_start: str = _key('"study:NAME" proposes the best config of each variant of an earlier study, after [[search.try]]', "")
    halving: Halving | None = None
    """[search.halving]"""
    tries: tuple[dict[str, Value], ...] = ()
    """[[search.try]]: settings of tuned parameters that are proposed first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirm:
    """[confirm]: the best configs again on fresh seeds, beside the reference, then the test split, once."""

    top: int = _key("configs of every variant that are confirmed", 3, low=1)
    seeds: int = _key("fresh seeds for each", 5, low=1, high=10_000)


def _docs(section: type) -> dict[str, str]:
    return {f.name: f.metadata["doc"] for f in dataclasses.fields(section) if f.metadata}


_PARAMETER_DOCS = {name: spec.metadata["doc"] for name, spec in PARAMETERS.items()}

SECTIONS: dict[str, dict[str, str]] = {
    "study": _docs(Study),
    "fixed": _PARAMETER_DOCS,
    "variant": {"name": "what the variant is called in tables and figures; every other key is a parameter"},
    "compare": {},
    "tune": {"low": "smallest value", "high": "largest value", "log": "true draws evenly on a logarithmic scale",
             "step": "distance between two values", "values": "a list of choices",
             "ordered": "whether choices have an order; by default numbers do"},
    "require": {"that": "an expression that must hold between parameters, in quotes"},
    "search": _docs(Search),
    "search.halving": _docs(Halving),
    "search.try": {},
    "confirm": _docs(Confirm),
    "slurm": _docs(Slurm),
    "local": _docs(Local),
    "retry": _docs(Retry),
    "limits": _docs(Limits),
    "job": _docs(Job),
}
"""Section -> key -> what it is for. In [[variant]], [compare], [tune] and [[search.try]] the job's parameters are keys too."""

SITE_KEYS = frozenset({
    "partition", "account", "qos", "constraint", "reservation", "exclude", "nodelist", "gres", "gpu_type", "export", "mail_user",
    "mail_type", "setup", "modules", "module", "comment", "array_parallelism", "additional_parameters", "srun_args", "signal_delay_s",
    "cluster", "clusters", "licenses", "exclusive", "stderr_to_stdout", "network",
})
"""What sites call things: at home in slurm/profiles/*.toml, refused in [slurm]."""

_ALIASES = {"time": "time_min", "timeout_min": "time_min", "minutes": "time_min", "hours": "time_min", "gpus": "gpus_per_node",
            "gpus_per_task": "gpus_per_node", "mem": "mem_gb", "memory": "mem_gb", "cpus": "cpus_per_task", "ntasks": "tasks_per_node",
            "max_running": "running", "seed": "seeds", "replicates": "seeds", "budget": "trials", "waves": "wave", "processes": "ranks",
            "oom": "out_of_memory", "timeout": "time_limit"}

_KIND = {int: "a whole number", str: "a string", tuple[int, ...]: "a list of whole numbers such as [0, 1, 2]",
         tuple[str, ...]: 'a list of strings such as ["val_loss", "val_acc"]'}


def read_section(findings: Findings, path: Path, table: object, section: type[T], *, skip: tuple[str, ...] = ()) -> T | None:
    """The section's dataclass from a TOML table, defaults filled in; every mistake goes to `findings`.

    Args:
        skip: keys that someone else reads.
    Returns:
        None when a required key is missing or wrong; a wrong optional key counts as not given.
    """
    title = ".".join(map(str, path))
    if not isinstance(table, dict):
        findings.key(path, f"`{title}` is a section: write [{title}] and its keys below it")
        return None
    fields = {f.name: f for f in dataclasses.fields(section) if f.metadata}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in skip:
            continue
        if key not in fields:
            findings.key((*path, key), _unknown_key(title, key, [*fields, *skip]))
            continue
        _read_value(findings, (*path, key), value, fields[key], values)
    missing = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in table]
    for name in missing:
        findings.key(path, f"[{title}] needs `{name}`: {fields[name].metadata['doc']}")
    if any(f.default is dataclasses.MISSING and name not in values for name, f in fields.items()):
        return None
    return section(**values)


def _unknown_key(title: str, key: str, valid: list[str]) -> str:
    if title == "slurm" and key in SITE_KEYS:
        return (f"`{key}` belongs in slurm/profiles/*.toml: a grid says what a trial needs, a profile what this cluster calls it "
                f"(valid here: {', '.join(valid)})")
    if key in PARAMETERS and key not in valid:
        return f"`{key}` is a parameter of the training: it goes into [fixed], [[variant]], [compare] or [tune], not [{title}]"
    alias = _ALIASES.get(key)
    if alias in valid:
        return f"unknown key `{show(key)}` in [{title}]; did you mean `{alias}`? (valid: {', '.join(valid)})"
    homes = [name for name, keys in SECTIONS.items() if key in keys and name not in ("fixed", "tune", "variant", title)]
    home = f"; `{key}` is a key of [{'] and ['.join(homes)}]" if homes else ""
    return f"unknown key `{show(key)}` in [{title}]{home}{nearest(key[:80], valid)}"


def _read_value(findings: Findings, path: Path, value: object, spec: "dataclasses.Field[Any]", values: dict[str, Any]) -> None:
    """Adds one checked value to `values`, or its mistakes to `findings`."""
    name = spec.name
    if spec.type in (int, str):
        message = _wrong(value, spec)
        if message:
            findings.value(path, f"`{name}`: {message}")
        else:
            values[name] = value
        return
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else f"{describe(value)}"
        findings.value(path, f"`{name}`: {_KIND[spec.type]} is meant, not {what}")  # type: ignore[index]
        return
    seen: list[object] = []
    for n, item in enumerate(value):
        message = _wrong(item, spec)
        if not message and item in seen:
            message = f"{show(item)} is given twice"
        if message:
            findings.value((*path, n), f"`{name}`: {message}")
        else:
            seen.append(item)
    if seen:
        values[name] = tuple(seen)


def _wrong(value: object, spec: "dataclasses.Field[Any]") -> str:
    """What is wrong with one value (or one element of a list); "" when nothing is."""
    kind = int if spec.type in (int, tuple[int, ...]) else str
    if type(value) is not kind:
        return f"{_KIND[kind]} is meant, not {describe(value)}"
    if isinstance(value, int):
        low, high = spec.metadata["low"], spec.metadata["high"]
        return "" if low <= value <= high else f"{show_number(value)} is outside {low} to {high}"
    choices = spec.metadata["choices"]
    if choices and value not in choices:
        return f'unknown {spec.name} "{show(value)}"{nearest(str(value)[:80], choices)}'
    return ""


def describe(value: object) -> str:
    """A TOML value in words, for "a string is meant, not ..."."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"the whole number {show_number(value)}"
    if isinstance(value, str):
        return f'the string "{show(value)}"'
    if isinstance(value, float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else f"the date or time {value}"


def show_number(value: float) -> str:
    """A number, or how large it is where its digits would fill the screen."""
    return f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > LARGEST_INT else str(value)


def check_study_name(findings: Findings, name: str) -> None:
    """Names of folders and Slurm jobs: what survives every file system and shell."""
    if STUDY_NAME.fullmatch(name):
        return
    odd = list(dict.fromkeys(_character(c) for c in name if not re.fullmatch("[a-z0-9_-]", c)))
    reason = ("it is empty" if not name else f"it has {len(name)} characters" if len(name) > 64 and not odd
              else f"it has {', '.join(odd[:5])}" if odd else f"it begins with {name[0]}")
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9_-]+", "_", plain).strip("_-")[:64]
    findings.value(("study", "name"), "a study's name is lowercase ASCII letters, digits, _ and -, begins with a letter or digit and has "
                                      f"at most 64 characters, because folders and jobs are named after it; {reason}"
                                      f"{f'; `{plain}` would do' if plain else ''}")


def _character(c: str) -> str:
    if not c.isascii():
        return f"{c if c.isprintable() else ''} ({unicodedata.name(c, f'U+{ord(c):04X}')}, not ASCII)".strip()
    if not c.isprintable():
        return f"the control character {ord(c)}"
    return "a space" if c == " " else "capital letters" if c.isupper() else f"`{c}`"
