"""Talking to Slurm: its commands, what their answers mean, and how to tell "no" from "nobody answered".

Nothing here decides anything. An answer that does not come is never taken for "there is no such job": `Unanswered` says so.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import HarnessError, printable

FINAL = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
                   "TIMEOUT"})
"""States from which a job does not go on by itself. Every other state, also one that this version has never heard of, is that of a job
that is there: SUSPENDED, CONFIGURING, REQUEUE_HOLD, STOPPED and the like are not the end."""
CAUSES = {"OUT_OF_MEMORY": "out_of_memory", "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "PREEMPTED": "preempted",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "CANCELLED": "cancelled", "REVOKED": "cancelled", "FAILED": "killed"}
"""What a final state says of a worker that ended without a word."""
ANSWER_S = 60.0
"""How long an answer of squeue, sacct or scontrol is waited for; they give up by themselves after about ten seconds."""
SUBMIT_S = 200.0
"""sbatch tries again up to 15 times, 1, 2, 3 ... seconds apart, when the controller is busy (MAX_RETRIES in its source)."""

_UNKNOWN = ("timed out", "Zero Bytes were transmitted", "Transport endpoint", "Unexpected message received",
            "Job got killed for an unknown reason", "Could not make sense of sbatch output")  # the last two are submitit's
_TRANSIENT = ("Unable to contact slurm controller", "Slurm job queue full", "temporarily", "try again", "Connection refused",
              "Slurm backup controller in standby", "Protocol authentication error", "Invalid authentication credential")
_CAPACITY = ("MaxSubmitJob", "GrpSubmitJobs")
"""Of the limits that may not be exceeded, those on the number of jobs: QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit and so on. The
line below their name, "Job violates accounting/QOS policy (job submit limit, ...)", is the same for all limits."""
_LEFT_BY_A_JOB = ("SLURM", "SBATCH_", "SRUN_", "SQUEUE_", "SACCT_", "SUBMITIT_")
_OF_RANKS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SECRET = re.compile(r"key|token|secret|passw|credential|ssh_auth_sock", re.IGNORECASE)


class Unanswered(Exception):
    """Slurm could not be asked just now; nothing is known."""


class Refused(HarnessError):
    """Slurm refused a job for good. The text is Slurm's own."""


class QueueFull(Exception):
    """The user may not have more jobs in the queue just now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """One job, or one element of a job array, as squeue or sacct shows it."""

    job_id: str
    """"123", or "123_4" for element 4 of array 123."""
    name: str
    place: int
    """Index in the array; 0 for a job that is none."""
    state: str
    reason: str = ""
    """Why it waits, in Slurm's words."""
    nodes: str = ""
    used: str = ""
    """Time it has run, as squeue writes it ([days-]hours:minutes:seconds)."""

    @property
    def ended(self) -> bool:
        """Whether it is over for good."""
        return self.state in FINAL

    @property
    def held_by_slurm(self) -> bool:
        """Whether Slurm holds it, and for ever, because a node failed to start it (its daemon died, or the controller forgot that it had
        started). A hold that a person asked for has other reasons."""
        return self.state == "PENDING" and self.reason.replace("_", " ") in ("launch failed requeued held", "JobHoldMaxRequeue")


@dataclass(kw_only=True, slots=True)
class Queue:
    """One answer of squeue: all jobs of this user."""

    jobs: dict[str, dict[int, Element]] = field(default_factory=dict)
    """Job name -> place -> element."""

    def find(self, name: str, place: int) -> Element | None:
        """An element of a named array, None when squeue does not list it."""
        return self.jobs.get(name, {}).get(place)

    def count(self) -> int:
        """How many elements are in the queue, waiting or running."""
        return sum(not element.ended for places in self.jobs.values() for element in places.values())


def available() -> bool:
    """Whether Slurm's commands are on this machine."""
    return all(shutil.which(name) for name in ("sbatch", "squeue"))


def environment() -> dict[str, str]:
    """The environment Slurm's commands, and so the jobs, are given: the caller's, without what an outer job left there (except where
    Slurm's configuration is) and without what looks like a secret."""
    return {name: value for name, value in os.environ.items()
            if name == "SLURM_CONF" or not (name.startswith(_LEFT_BY_A_JOB) or name in _OF_RANKS or _SECRET.search(name))}


def ask(*command: str, timeout_s: float = ANSWER_S) -> str:
    """What one of Slurm's commands prints.

    Raises:
        Unanswered: it failed, is not there or did not answer in time.
    """
    try:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
                              stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unanswered(first_line(done.stderr) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def first_line(text: str) -> str:
    """The first line that says something, without the name of the command, fit for a terminal."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return printable(re.sub(r"^((sbatch|squeue|sacct|sacctmgr|scontrol|scancel): |slurm_\w+ )?(error: )?", "", first))[:300]


def job_name(nonce: str, what: int | str) -> str:
    """The name of a study's jobs: of a batch's array by the batch's number, or of its launcher.

    Args:
        nonce: the study's own, from its env.json.
    """
    return f"h-{nonce[:12]}-{what if isinstance(what, str) else f'{what:03d}'}"


def queue() -> Queue:
    """All jobs of this user that the controller still knows, those that ended in the last minutes too: one question for all studies.

    Raises:
        Unanswered
    """
    return parse_queue(ask("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%F|%K|%T|%N|%M|%r|%j"))


def parse_queue(text: str) -> Queue:
    """A `Queue` from squeue's lines; a line that cannot be read is passed over (a job name may hold anything)."""
    found = Queue()
    for line in text.splitlines():
        fields = line.split("|", 6)
        if len(fields) == 7 and fields[0].isdigit():
            number, index, state, nodes, used, reason, name = (part.strip() for part in fields)
            place = int(index) if index.isdigit() else 0
            element = Element(job_id=f"{number}_{index}" if index.isdigit() else number, name=name, place=place, state=state.split()[0],
                              reason=printable(reason), nodes=printable(nodes), used=used) if state else None
            known = found.jobs.setdefault(name, {})
            if element and (place not in known or known[place].ended):  # a job that was requeued may be listed with its past
                known[place] = element
    return found


def accounting(job_ids: Iterable[str], names: Iterable[str] = ()) -> dict[str, str]:
    """Job id -> final state, from the accounting, of those that it knows to be over. It is seconds late, and may be absent.

    Args:
        job_ids: "123" or "123_4".
        names: the jobs' names: a controller that lost its memory gives numbers out again, and those of the past are in the accounting.

    Raises:
        Unanswered
    """
    wanted = set(job_ids)
    jobs = sorted({job_id.partition("_")[0] for job_id in wanted})  # one question for the thousand elements of an array
    named = [f"--name={','.join(sorted(set(names)))}"] if names else []
    found = {}
    for first in range(0, len(jobs), 500):  # a command line has an end
        said = ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State", "--starttime=1970-01-01",
                   "--jobs=" + ",".join(jobs[first:first + 500]), *named)
        for line in said.splitlines():
            job_id, _, state = line.partition("|")
            if job_id in wanted and state and state.split()[0] in FINAL:
                found[job_id] = state.split()[0]
    return found


def history(job_id: str) -> list[str]:
    """The states of all runs of a job that was requeued, oldest first.

    Raises:
        Unanswered
    """
    said = ask("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}", timeout_s=10)
    return [line.split()[0] for line in said.splitlines() if line.strip()]


def has_accounting(config: Mapping[str, str]) -> bool:
    """Whether this cluster keeps an accounting that sacct can be asked for."""
    return shutil.which("sacct") is not None and not config.get("AccountingStorageType", "").endswith("/none")


def configuration() -> dict[str, str]:
    """The controller's settings, by name.

    Raises:
        Unanswered
    """
    pairs = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def most_jobs() -> int:
    """How many jobs this user may have in the queue at once by the accounting's limits; 0 when it names none."""
    limits: list[int] = []
    with contextlib.suppress(Unanswered):
        import getpass

        said = ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={getpass.getuser()}", "format=MaxSubmitJobs")
        limits += [int(line) for line in said.split() if line.isdigit()]
    return max(limits, default=0)


def submission_error(said: str) -> Exception:
    """What a failed sbatch means, from what it printed: `Unanswered` when the job may have been submitted all the same or the controller is
    not there, `QueueFull`, or `Refused`."""
    if not said.strip() or any(text in said for text in _UNKNOWN + _TRANSIENT):
        return Unanswered(first_line(said) or "sbatch was killed")
    if any(text in said for text in _CAPACITY):
        return QueueFull(first_line(said))
    return Refused(f"sbatch refused the job: {first_line(said)}")


def cancel(job_ids: Iterable[str], *options: str) -> None:
    """One scancel for all.

    Raises:
        Unanswered
    """
    wanted = list(job_ids)
    for first in range(0, len(wanted), 500):
        ask("scancel", *options, *wanted[first:first + 500])


def release(job_ids: Iterable[str]) -> None:
    """Lets jobs go that are on hold; one that is gone meanwhile does not matter.

    Raises:
        Unanswered
    """
    if wanted := list(job_ids):
        ask("scontrol", "release", *wanted)


def hosts(nodelist: str) -> list[str]:
    """The nodes of a node list such as "n[1-3]".

    Raises:
        Unanswered
    """
    return ask("scontrol", "show", "hostnames", nodelist).split()


def this_job() -> str:
    """The job this process runs in, as "123" or "123_4"; "" outside of Slurm."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")


def requeue(job_id: str) -> bool:
    """Puts a running job back into the queue, which ends this run of it; false when that is not allowed or nobody answered."""
    try:
        ask("scontrol", "requeue", job_id, timeout_s=30)
    except Unanswered as error:
        print(f"could not requeue {job_id}: {error}", flush=True)
        return False
    return True


def described(element: Element | None) -> dict[str, Any]:
    """An element as plain values, for JSON."""
    return {} if element is None else {"job_id": element.job_id, "state": element.state, "reason": element.reason, "nodes": element.nodes,
                                       "used": element.used}
