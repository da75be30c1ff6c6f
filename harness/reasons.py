"""Why jobs wait: Slurm's reasons, as squeue shows them, in plain words. A reason that is not here is shown as it is.

The names are those of squeue(1), "JOB REASON CODES", and of resource_limits(5).
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from harness.slurm import Element


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Jobs that are in the queue and do not run, for the same reason."""

    state: str
    """In Slurm's words; nearly always PENDING."""
    reason: str
    """In Slurm's words, "" when it gives none."""
    jobs: int
    meaning: str
    """In plain words, "" when we know none."""
    starts: bool
    """False when they will never start unless somebody does something."""


_STARTS = {
    "None": "just submitted; Slurm has not looked at them yet",
    "Priority": "jobs with a higher priority are ahead of them",
    "Resources": "they are next in line, as soon as enough of the cluster is free",
    "BeginTime": "Slurm lets a job that was put back into the queue wait about two minutes",
    "Dependency": "another job has to end first",
    "JobArrayTaskLimit": "as many run at once as [slurm] running or the profile lets",
    "Licenses": "the licenses they need are in use",
    "Reservation": "their reservation has not begun yet",
    "NodeDown": "the node they need is down",
    "ReqNodeNotAvail": "nodes they could run on are down, drained, or reserved (often for maintenance that they would run into)",
    "Nodes required for job are DOWN, DRAINED or reserved": "nodes they could run on are down, drained or reserved",
    "PartitionDown": "the partition starts nothing just now: `scontrol show partition`, or ask the site",
    "PartitionInactive": "the partition is switched off: ask the site",
    "Prolog": "the node is being made ready",
    "Cleaning": "the last run of the job is being cleaned up",
    "SystemFailure": "Slurm failed to start them and will try again",
}
_NEVER = {
    "PartitionTimeLimit": "they ask for more time than the partition allows: lower [slurm] time_min, or choose another partition in the "
                          "profile",
    "PartitionNodeLimit": "they ask for more nodes than the partition allows: lower [slurm] nodes, or choose another partition",
    "PartitionConfig": "the partition does not allow what they ask for",
    "BadConstraints": "no node is what they ask for: mend [slurm] or the profile's constraint",
    "DependencyNeverSatisfied": "the job they wait for ended in another way than they hope for: cancel them",
    "JobHeldUser": "somebody holds them: `scontrol release JOB`",
    "JobHeldAdmin": "the site holds them: ask why",
    "job requeued in held state": "Slurm put them back and holds them: `scontrol release JOB`",
    "launch failed requeued held": "Slurm could not start them and holds them: `scontrol show job JOB`, then `scontrol release JOB`",
    "JobLaunchFailure": "Slurm could not start them: `scontrol show job JOB`, or ask the site",
    "AccountNotAllowed": "the account may not use the partition: mend the profile",
    "QOSNotAllowed": "the QOS may not be used in the partition: mend the profile",
    "InvalidAccount": "there is no such account: mend the profile",
    "InvalidQOS": "there is no such QOS: mend the profile",
}
_LIMIT = re.compile(r"(Assoc|QOS)(Grp|Max)(\w*)")
_WHOSE = {"AssocGrp": "all of the account together", "QOSGrp": "all jobs of the QOS together",
          "AssocMax": "one job or user of the account", "QOSMax": "one job or user of the QOS"}
_WHAT = (("Minutes", "time"), ("RunMinutes", "time"), ("GRES", "GPUs"), ("Gres", "GPUs"), ("Submit", "jobs in the queue"),
         ("Job", "jobs at once"), ("Cpu", "CPUs"), ("CPU", "CPUs"), ("Mem", "memory"), ("Node", "nodes"), ("Wall", "time"),
         ("Billing", "billing"))


def explain(reason: str) -> tuple[str, bool]:
    """(a reason in plain words or "", whether the jobs start by themselves some day)."""
    for table, starts in ((_NEVER, False), (_STARTS, True)):  # in this order: some that start have a name that others begin with
        for name, meaning in table.items():
            if reason.replace("_", " ").startswith(name):
                return meaning, starts
    if not (limit := _LIMIT.match(reason)):
        return "", True
    whose = _WHOSE[limit[1] + limit[2]]
    what = next((words for part, words in _WHAT if part in limit[3]), "what is counted")
    if "Wall" in limit[3] and limit[2] == "Max":
        return f"they ask for more time than {whose} may: lower [slurm] time_min", False
    if "Minutes" in limit[3] and "Run" not in limit[3]:
        return f"the time that {whose} may use is used up, or too little is left: ask the site", False
    if "PerJob" in limit[3] or "PerNode" in limit[3]:
        return f"each asks for more {what} than {whose} may have: lower [slurm]", False
    return f"{whose} may have no more {what}; they start when others end", True


def waiting(elements: Iterable[Element]) -> list[Waiting]:
    """The jobs that are in the queue and do not run, grouped by state and reason; the largest group first."""
    groups = Counter((element.state, element.reason) for element in elements
                     if not element.ended and element.state not in ("RUNNING", "COMPLETING"))
    found = []
    for (state, reason), jobs in groups.most_common():
        meaning, starts = explain(reason)
        found.append(Waiting(state=state, reason=reason, jobs=jobs, meaning=meaning, starts=starts))
    return found
