"""Asks the cluster, before a study is launched, what would otherwise go wrong hours later: one line for each check.

    python -m harness.launch grids/caltech_transfer.toml --preflight --profile NAME
"""

import getpass
import importlib.metadata
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import slurm
from harness.errors import MissingData, printable
from harness.grid import Grid, Slurm
from harness.needs import missing, needed_configs
from harness.probe import START_S, Found, probe
from harness.profile import Profile, writable_by_others
from harness.slurm_executor import job_parameters, signal_s
from jobs.data import data_folder

_NO_OPTIONS = ("use_srun", "stderr_to_stdout", "wckey", "setup", "additional_parameters")
"""What submitit is told and sbatch is not."""
_BROKEN = ("DOWN", "DRAIN", "FAIL", "INVAL", "UNKNOWN", "ERROR", "FUTURE", "MAINT")
_LITTLE_GB = 1.0


class Report:
    """Prints the checks as they are made, and remembers whether any of them found a mistake."""

    def __init__(self) -> None:
        self.wrongs = 0

    def ok(self, what: str, text: str) -> None:
        """As it should be."""
        self._line("ok", what, text)

    def note(self, what: str, text: str) -> None:
        """Worth knowing; a launch would go through."""
        self._line("note", what, text)

    def wrong(self, what: str, text: str) -> None:
        """A launch would fail, or its trials would; the text says what to do."""
        self.wrongs += 1
        self._line("WRONG", what, text)

    def _line(self, mark: str, what: str, text: str) -> None:
        print(f"{mark:<6} {what:<13} {printable(text)}", flush=True)


def preflight(grid: Grid, root: Path, profile: Profile, *, grid_path: Path, overrides: Sequence[str] = (), start_s: float = START_S) -> int:
    """Makes all checks and prints them; returns the exit status: 0 when a launch would go through, as far as can be told.

    Args:
        root: the study folder, which need not be there.
        grid_path, overrides: what the grid was read from, for commands that are shown.
        start_s: how long the job that looks around on a node may wait for one.
    """
    report = Report()
    if not slurm.available():
        report.wrong("Slurm", "sbatch and squeue are not on the PATH; go to a login node, `module load slurm`, or run here with --local")
        return 1
    try:
        config = slurm.configuration()
    except slurm.Unanswered as error:
        report.wrong("controller", f"Slurm does not answer ({error}); try again later, and ask the site if it stays so")
        return 1
    report.ok("controller", f"Slurm {config.get('SLURM_VERSION', '(unknown version)')} answers, cluster {config.get('ClusterName', '?')}")
    nodes_down = _check_partitions(report, grid.slurm, profile, config)
    _check_account(report, profile, config)
    fits = _check_submission(report, grid.slurm, profile, nodes_down=nodes_down)
    _check_limits(report, grid, profile, config)
    _check_needs(report, grid, root.absolute(), grid_path, overrides)
    if _check_folder(report, root.absolute()) and fits:
        _check_node(report, root.absolute(), grid.slurm, profile, start_s)
    print(f"\n{report.wrongs} {'check says' if report.wrongs == 1 else 'checks say'} WRONG: mend that first" if report.wrongs
          else "\nnothing speaks against a launch", flush=True)
    return 1 if report.wrongs else 0


# ------------------------------------------------------------------------------------------------------- what the controller says


def _fields(line: str) -> dict[str, str]:
    """The Key=value words of a line of scontrol."""
    return dict(word.partition("=")[::2] for word in line.split() if "=" in word)


def _check_partitions(report: Report, wanted: Slurm, profile: Profile, config: dict[str, str]) -> bool:
    """Whether there is a partition of that name that can hold a trial, and what becomes of jobs when others want the nodes; returns whether
    trials only wait for nodes that are down."""
    try:
        there = {line["PartitionName"]: line for line in map(_fields, slurm.ask("scontrol", "--oneliner", "show", "partition").splitlines())
                 if "PartitionName" in line}
    except slurm.Unanswered as error:
        report.wrong("partition", f"Slurm does not list its partitions ({error})")
        return False
    names = profile.partition.split(",") if profile.partition else [n for n, line in there.items() if line.get("Default") == "YES"][:1]
    if not names:
        report.wrong("partition", f"this cluster has no default partition; set `partition` in a profile to one of {', '.join(there)}")
    nodes_down = False
    for name in names:
        if name not in there:
            report.wrong("partition", f"there is no partition {name}; set `partition` in the profile to one of {', '.join(there)}")
            continue
        nodes_down |= _check_partition(report, wanted, profile, there[name])
        _check_preemption(report, there[name], config)
    return nodes_down


def _check_partition(report: Report, wanted: Slurm, profile: Profile, partition: dict[str, str]) -> bool:
    """Whether a partition can hold a trial; returns whether it only lacks nodes that are down."""
    name, problems = partition["PartitionName"], []
    if partition.get("State") != "UP":
        problems.append(f"it is {partition.get('State', 'not there')}, and jobs wait until it is UP")
    limit, most = minutes(partition.get("MaxTime", "")), partition.get("MaxNodes", "")
    if wanted.time_min > limit:
        problems.append(f"time_min = {wanted.time_min} is above its limit of {limit:.0f} minutes")
    if most.isdigit() and wanted.nodes > int(most):
        problems.append(f"nodes = {wanted.nodes} is above its limit of {most}")
    try:
        lines = [line.split("|") for line in slurm.ask("sinfo", "--noheader", "--exact", f"--partition={name}",
                                                       "--format=%D|%T|%c|%m|%G").splitlines()]
    except slurm.Unanswered as error:
        problems.append(f"sinfo does not say what nodes it has ({error})")
        lines = []
    nodes = [_Nodes(line) for line in lines if len(line) == 5]
    fitting = [n for n in nodes if not n.lacks(wanted, profile)]
    usable = sum(n.count for n in fitting if n.usable)
    if nodes and sum(n.count for n in fitting) < wanted.nodes:
        problems.append(f"it has {sum(n.count for n in fitting)} nodes for such a trial, which needs {wanted.nodes}: " + "; ".join(
            dict.fromkeys(f"{n.count} of them {n.lacks(wanted, profile)}" for n in nodes if n.lacks(wanted, profile))))
    has = f"{sum(n.count for n in nodes)} nodes, {usable} of them up and large enough; " \
          f"time limit {'none' if limit == math.inf else f'{limit:.0f} min'}"
    if problems:
        report.wrong("partition", f"{name}: {'; '.join(problems)}. Change [slurm] in the grid, or `partition` in the profile")
    elif usable < wanted.nodes:
        report.note("partition", f"{name}: {has}; jobs wait until more of them are up again")
    else:
        report.ok("partition", f"{name}: {has}")
    return not problems and usable < wanted.nodes


class _Nodes:
    """A line of sinfo: nodes that are alike."""

    def __init__(self, fields: list[str]):
        count, state, cpus, memory, gres = fields
        self.count, self.cpus, memory_mb = (int(re.sub(r"\D.*", "", field) or 0) for field in (count, cpus, memory))
        self.memory_gb = memory_mb / 1024
        self.usable = "*" not in state and not state.upper().startswith(_BROKEN)
        self.gpus = gpus_of(gres)

    def lacks(self, wanted: Slurm, profile: Profile) -> str:
        """What these nodes have too little of for a trial; "" when it fits."""
        cpus, gpus = wanted.tasks_per_node * wanted.cpus_per_task, wanted.gpus_per_node
        found = []
        if self.cpus < cpus:
            found.append(f"have {self.cpus} of {cpus} cores")
        if self.memory_gb < wanted.mem_gb:
            found.append(f"have {self.memory_gb:.0f} of {wanted.mem_gb} GB")
        if gpus and profile.gpu_type and profile.gpu_type not in self.gpus:
            types = ", ".join(kind or "some without a type" for kind in self.gpus) or "none"
            found.append(f"have no GPUs of type {profile.gpu_type} (but {types})")
        elif gpus and (have := self.gpus.get(profile.gpu_type, 0) if profile.gpu_type else sum(self.gpus.values())) < gpus:
            found.append(f"have {have} of {gpus} GPUs")
        return " and ".join(found)


def gpus_of(gres: str) -> dict[str, int]:
    """Type -> number of GPUs, from the generic resources of a node: "gpu:a100:4(S:0-1),nvme:1" gives {"a100": 4}."""
    found: dict[str, int] = {}
    for name, kind, count in re.findall(r"(?:^|,)(\w+):(?:([^,:()]+):)?(\d+)", gres):
        if name == "gpu":
            found[kind] = found.get(kind, 0) + int(count)
    return found


def minutes(text: str) -> float:
    """A time limit as Slurm writes it ([days-]hours:minutes:seconds), in minutes; infinite when there is none."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    return int(match[1] or 0) * 1440 + int(match[2]) * 60 + int(match[3]) + int(match[4]) / 60 if match else math.inf


def _check_preemption(report: Report, partition: dict[str, str], config: dict[str, str]) -> None:
    """What happens to a job whose nodes somebody else may take, and which signal it gets before."""
    name, mode, how = partition["PartitionName"], partition.get("PreemptMode", "OFF").split(",")[0], config.get("PreemptType", "")
    if mode == "OFF" and not how.endswith("/qos") or how.endswith("/none"):
        report.ok("preemption", f"jobs in {name} are not preempted")
        return
    by = "jobs of a better QOS" if how.endswith("/qos") else "jobs of other partitions"
    grace = partition.get("GraceTime", "0")
    if mode == "SUSPEND":
        report.note("preemption", f"jobs in {name} are suspended for {by} and go on by themselves")
        return
    fate = "requeued" if mode == "REQUEUE" else "cancelled, and submitted again by the launcher" if mode == "CANCEL" else "ended"
    if "preempt_send_user_signal" in config.get("SlurmctldParameters", "") and grace != "0":
        report.ok("preemption", f"jobs in {name} may be {fate} for {by}; USR2 arrives {grace} s before, and trials keep all their progress")
    else:
        report.note("preemption", f"jobs in {name} may be {fate} for {by}, and no signal arrives before: trials go on from their last "
                                  "checkpoint. With a GraceTime and SlurmctldParameters=preempt_send_user_signal, which the site's "
                                  "administrators can set, they would lose nothing")


def _check_account(report: Report, profile: Profile, config: dict[str, str]) -> None:
    """Whether the accounting is there, and knows this user with this account and QOS."""
    if not slurm.has_accounting(config):
        report.note("accounting", "this cluster keeps none: how a job ended is known only as long as the controller remembers it "
                                  f"({config.get('MinJobAge', 'minutes')})")
        return
    try:
        slurm.ask("sacct", "--noheader", "--allocations", "--format=JobID", timeout_s=20)
    except slurm.Unanswered as error:
        report.note("accounting", f"sacct does not answer just now ({error}); the harness does without it, a little slower")
        return
    try:
        said = slurm.ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}",
                         f"cluster={config.get('ClusterName', '')}", "format=Account,QOS,MaxJobs,MaxSubmitJobs,MaxWall", timeout_s=20)
    except slurm.Unanswered as error:
        report.ok("accounting", f"sacct answers; sacctmgr does not tell the limits ({error})")
        return
    mine = [line.split("|") for line in said.splitlines() if line.count("|") == 4]
    accounts, qos = {line[0] for line in mine}, {name for line in mine for name in line[1].split(",") if name}
    enforced = re.findall(r"associations|limits|qos", config.get("AccountingStorageEnforce", ""))
    unknown = [f"`{key}` = {value} (yours: {', '.join(sorted(known))})" for key, value, known in
               (("account", profile.account, accounts), ("qos", profile.qos, qos)) if value and known and value not in known]
    if unknown:
        (report.wrong if enforced else report.note)("accounting", f"not in your associations: {'; '.join(unknown)}. Change the profile")
        return
    limits = [f"{name} {value}" for line in mine if not profile.account or line[0] == profile.account
              for name, value in zip(("MaxJobs", "MaxSubmitJobs", "MaxWall"), line[2:], strict=True) if value]
    known_limits = ", ".join(dict.fromkeys(limits)) or "none"
    report.ok("accounting", f"sacct answers; your limits: {known_limits}{'' if enforced else ', not enforced'}")


def options_of(parameters: dict[str, Any]) -> list[str]:
    """sbatch's options for what `job_parameters` tells submitit."""
    options = {name: value for name, value in parameters.items() if name not in _NO_OPTIONS} | parameters["additional_parameters"]
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]


def _check_submission(report: Report, wanted: Slurm, profile: Profile, *, nodes_down: bool) -> bool:
    """Whether sbatch would take a job; asked with `--test-only`, which submits nothing, and calls what has to wait for nodes that are down
    not available."""
    command = ["sbatch", "--test-only", *options_of(job_parameters(wanted, profile))]
    try:
        done = subprocess.run(command, input="#!/bin/sh\n", env=slurm.environment(), capture_output=True, text=True, timeout=60,
                              check=False)
    except subprocess.TimeoutExpired:
        report.wrong("submission", "sbatch --test-only does not answer within 60 s")
        return False
    if done.returncode and nodes_down and "not available" in done.stderr:
        report.note("submission", "sbatch --test-only cannot tell while nodes are down")
        return True
    if done.returncode:
        report.wrong("submission", f"sbatch refuses such a job: {slurm.first_line(done.stderr)}. It was asked: {shlex.join(command)}")
        return False
    start = re.search(r"to start at (\S+)", done.stderr)
    warned = signal_s(wanted, profile)
    report.ok("submission", f"sbatch would take such a job{f' and start it about {start[1]}' if start else ''}; USR2 comes {warned} s "
                            "before its time limit, or up to a minute sooner")
    return True


def _check_limits(report: Report, grid: Grid, profile: Profile, config: dict[str, str]) -> None:
    """How the study would be cut into arrays."""
    jobs = math.ceil(grid.trial_count() / grid.slurm.trials_of_a_job)
    size = int(config["MaxArraySize"]) if config.get("MaxArraySize", "").isdigit() else 1
    if size < 2:
        report.note("arrays", "this cluster has no job arrays (MaxArraySize): every job is submitted by itself")
        return
    arrays = math.ceil(jobs / size)
    most = f"; at most {profile.max_jobs} jobs are in the queue at once" if profile.max_jobs else ""
    each = f"array{'' if arrays == 1 else 's'} of {size} at most"
    report.ok("arrays", f"{grid.trial_count()} trials make {jobs} jobs in {arrays} {each}{most}")


# ------------------------------------------------------------------------------------------------------------- what is here


def _check_needs(report: Report, grid: Grid, root: Path, grid_path: Path, overrides: Sequence[str]) -> None:
    """Whether data sets, weights and earlier studies are there."""
    if grid.job is not None:
        report.note("data", f"{grid.job.run} reads its own data, which is not looked at")
        return
    configs = list(needed_configs(grid))
    try:
        gone = missing((config.as_dict() for config in configs), data=data_folder(), runs=root.parent, grid=grid_path, overrides=overrides)
    except MissingData as error:
        report.wrong("data", str(error))
        return
    for item in gone:
        report.wrong("data", f"{item.what}: not found at {item.where}; mend: {item.command}")
    if not gone:
        report.ok("data", f"all that {', '.join(sorted({config.dataset for config in configs}))} needs is in {data_folder()}")


def _check_folder(report: Report, root: Path) -> bool:
    """Who else may write where the study lies, and how much room there is; whether it can be used at all."""
    there = next(place for place in (root, *root.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        report.wrong("study folder", f"{there} cannot be written by you; choose another place with --study-dir DIR")
        return False
    problems = [problem for place in (there, *there.parents) if (problem := writable_by_others(place, place.stat()))]
    worst = [problem for problem in problems if "everybody" in problem or problem.startswith(f"{root} ")]
    if worst:
        report.wrong("study folder", f"{worst[0]}. Your jobs run the code that lies in it")
    elif problems:
        report.note("study folder", f"{problems[0]}. Your jobs run the code that lies in it: trust those who can write there")
    usage, inodes = shutil.disk_usage(there), os.statvfs(there)
    if usage.free < _LITTLE_GB * 1e9 or inodes.f_files > 0 and inodes.f_favail < 1000:
        report.wrong("space", f"{usage.free / 1e9:.1f} GB and {inodes.f_favail:,} files are left at {there}; free some, or choose another "
                              "place with --study-dir DIR")
    else:
        report.ok("space", f"{usage.free / 1e9:.0f} GB free at {there} (a quota may be smaller)")
    return True


# ------------------------------------------------------------------------------------------------------------- what a node says


def _check_node(report: Report, root: Path, wanted: Slurm, profile: Profile, start_s: float) -> None:
    """Runs the probe and says what it found."""
    small = Slurm(gpus_per_node=min(wanted.gpus_per_node, 1), mem_gb=min(wanted.mem_gb, 8), time_min=2)
    parameters = job_parameters(small, profile)
    for name in ("signal", "requeue", "begin", "mail-type", "mail-user", "nice"):
        parameters["additional_parameters"].pop(name, None)
    found = probe(root, [*options_of(parameters), "--no-requeue"], profile, data=data_folder().absolute(), start_s=start_s)
    if found.waiting:
        report.note("node", f"a job of two minutes is still {found.trouble}, and was taken back: what only a node can say is not known; "
                            "try again when the queue is shorter")
        return
    if found.seen_s is None:
        report.wrong("node", f"{found.trouble or 'nothing came back'}; choose a study folder that all nodes share with --study-dir DIR")
        return
    report.ok("node", f"{found.node} sees and writes {root}; a file was seen there and its answer here after {found.seen_s:.1f} s")
    if abs(found.clock_s) > 2 + found.seen_s:
        report.note("clock", f"the clock of {found.node} is {found.clock_s:+.0f} s from the one here; attempts.parquet has nodes' times")
    if not found.data:
        report.wrong("data", f"{found.node} cannot read {data_folder().absolute()}; set HARNESS_DATA to a folder that all nodes share")
    _check_python(report, found, wanted)
    if wanted.nodes > 1 and "srun" not in found.tools:
        report.wrong("commands", f"srun is not found on {found.node}, and starts the processes of a trial over several nodes; put it on "
                                 "the PATH in `setup`")
    if lacking := [name for name in ("sbatch", "squeue", "scontrol") if name not in found.tools]:
        report.note("commands", f"{', '.join(lacking)} not found on {found.node}: --detach cannot work from there, and the launcher, not "
                                "the job, puts interrupted trials back into the queue")
    else:
        report.ok("commands", f"sbatch, squeue and scontrol are there on {found.node}")
    if found.signal == "USR2":
        report.ok("signal", "USR2 reaches the batch shell")
    elif found.interpreter:
        report.note("signal", f"USR2 was sent and {found.signal or 'nothing'} arrived: trials go on from their last checkpoint")


def _check_python(report: Report, found: Found, wanted: Slurm) -> None:
    """Whether Python starts there with what trials import."""
    said = f": {found.python_said}" if found.python_said else ""
    if not found.interpreter or not found.torch:
        what = "imports no torch" if found.interpreter else "does not start"
        report.wrong("python", f"Python {what} on {found.node}{said or found.trouble}. Change `setup` or `python` in the profile")
        return
    report.ok("python", f"{found.interpreter} imports torch {found.torch} in {found.import_s:.1f} s")
    here = importlib.metadata.version("torch").partition("+")[0]
    if found.torch.partition("+")[0] != here:
        report.note("python", f"torch is {found.torch} there and {here} here; checkpoints of one do not go on with the other")
    if wanted.gpus_per_node and not found.gpus:
        report.wrong("gpu", f"torch sees no GPU on {found.node}, in a job that asked for one: is it built for the node's driver, and does "
                            "`setup` load CUDA?")
    elif wanted.gpus_per_node:
        report.ok("gpu", f"torch sees {found.gpus} on {found.node}")
