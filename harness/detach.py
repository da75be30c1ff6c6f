"""The launcher as a small job of its own (`--detach`), so that nobody has to stay logged in.

A launcher job keeps another one waiting that starts when it ends, however that is: killed, cancelled, or told by Slurm that its time
is up. The one that finishes the study takes the waiting one back. A launcher needs nothing that is not in the study folder.
"""

import argparse
import contextlib
import shlex
import time
from pathlib import Path
from typing import Any

from harness import slurm
from harness.errors import StudyError
from harness.profile import Profile, preamble
from harness.slurm_executor import submit, worker_environment
from harness.store import Store

SIGNAL_S = 120
"""Seconds before its time limit at which a launcher job hands over."""
LOOK_AGAIN_S = 60.0


def job_name(store: Store, suffix: str = "") -> str:
    """The name of a study's launcher jobs, or what it begins with."""
    return slurm.job_name(str(store.environment()["nonce"]), f"launcher{suffix}")


def launcher_jobs(store: Store, queue: slurm.Queue) -> list[slurm.Element]:
    """The study's launcher jobs that run or wait."""
    return [element for name, places in queue.jobs.items() if name.startswith(job_name(store)) for element in places.values()
            if not element.ended]


def detach(run: Any, profile: Profile, options: argparse.Namespace) -> int:
    """Prepares a study here, so that what is wrong is said at once, and submits its launcher; returns the exit status.

    Args:
        run: the `harness.study.Launch` that would run attached.

    Raises:
        StudyError: Slurm does not take the job, or does not answer.
    """
    run.prepare()
    if options.retry:
        run.forgive()
    run.lease.release()
    try:
        there = sorted(launcher_jobs(run.store, slurm.queue()), key=lambda element: element.name)  # its successor's name is longer
    except slurm.Unanswered as error:
        raise StudyError(f"Slurm does not answer ({error}); give the same command again") from error
    job_id = there[0].job_id if there else submit_launcher(run.store, profile, run.code)
    if not there:
        with contextlib.suppress(StudyError):  # it submits its successor itself, unless it is killed before it has
            submit_launcher(run.store, profile, run.code, after=job_id)
    root = shlex.quote(str(run.store.root))
    print(f"{'the launcher is there already,' if there else 'submitted the launcher'} as job {job_id}; it submits the trials and needs "
          "nobody to wait for it\n"
          f"look: python -m harness.status {root}\nits log: {_log(run.store, job_id)}\nend everything: python -m harness.cancel {root}")
    return 0


def _log(store: Store, job_id: str) -> Path:
    return store.submitit_folder / f"launcher-{job_id}.log"


def submit_launcher(store: Store, profile: Profile, code: str, *, after: str = "") -> str:
    """Submits a launcher job; returns its number.

    Args:
        code: digest of the code snapshot it runs.
        after: the job that must have ended first.

    Raises:
        StudyError: Slurm does not take the job, or does not answer.
    """
    wanted = profile.launcher
    site = {"partition": wanted.partition or profile.partition, "qos": wanted.qos or profile.qos, "account": profile.account}
    log = str(store.submitit_folder).replace("%", "%%")
    extra: dict[str, Any] = {"signal": f"B:USR2@{min(SIGNAL_S, wanted.time_min * 15)}", "requeue": True, "output": f"{log}/launcher-%j.log"}
    if after:
        extra["dependency"] = f"afterany:{after}"
    parameters = {**{name: value for name, value in site.items() if value}, "job_name": job_name(store, f"-after-{after}" if after else ""),
                  "time": wanted.time_min, "nodes": 1, "ntasks_per_node": 1, "cpus_per_task": wanted.cpus, "mem": f"{wanted.mem_gb}GB",
                  "use_srun": False, "stderr_to_stdout": True, "wckey": None, "additional_parameters": extra,
                  "setup": [*preamble(profile), *worker_environment(store.code_folder(code), 1)]}
    arguments = [str(store.grid_file), "--study-dir", str(store.root), "--standby"]
    if profile.file:
        arguments += ["--profile", profile.file]
    try:
        return submit(store.submitit_folder, parameters, profile.python, "harness.launch", arguments)
    except (slurm.Unanswered, slurm.QueueFull) as error:
        raise StudyError(f"the launcher could not be submitted: {error}; give the same command again") from error
    except slurm.Refused as error:
        raise StudyError(f"{error}\nthe launcher's job is described by [launcher] in the profile") from error


class Standby:
    """The launcher that waits for this one's end. Outside of a job there is none."""

    def __init__(self, store: Store, profile: Profile):
        self.store, self.profile = store, profile
        self.job = slurm.this_job()
        self._looked = 0.0

    def keep(self, queue: slurm.Queue | None, code: str) -> None:
        """Submits the waiting launcher unless it is there already; looks from time to time."""
        if not self.job or queue is None or (self._looked and time.monotonic() - self._looked < LOOK_AGAIN_S):
            return
        self._looked = time.monotonic()
        name = job_name(self.store, f"-after-{self.job}")
        if not any(not element.ended for element in queue.jobs.get(name, {}).values()):
            try:
                submit_launcher(self.store, self.profile, code, after=self.job)
            except StudyError as error:
                print(error, flush=True)  # it is tried again; the study goes on meanwhile

    def end(self) -> None:
        """Takes the waiting launcher back: the study is over, or needs a person."""
        with contextlib.suppress(slurm.Unanswered):  # then it starts, and finds nothing to do
            if self.job:  # that of another launcher, which may be the one that holds the study, is not ours to end
                waiting = slurm.queue().jobs.get(job_name(self.store, f"-after-{self.job}"), {})
                slurm.cancel(element.job_id for element in waiting.values() if not element.ended)

