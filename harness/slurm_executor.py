"""Runs workers as Slurm jobs: one batch is one job array, each worker one of its elements.

submitit writes the job script and calls sbatch. Waiting, and what is true, are our own: a job is found by its name, which is made of the
study's nonce and the batch's number, so that one whose submission nobody could confirm is found all the same; and what ran is read
from the study folder.
"""

import contextlib
import io
import math
import os
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor as SubmititSlurmExecutor
from submitit.core.utils import CommandFunction, FailedJobError, FailedSubmissionError

from harness import slurm
from harness.errors import StudyError, UsageError
from harness.grid import Slurm
from harness.plan import Batch
from harness.processes import without_ctrl_c
from harness.profile import Profile, preamble
from harness.store import Store

UNSURE_S = 30.0
"""How long a batch whose submission nobody confirmed may still turn up once the controller answers again."""
GONE_AFTER_S = 120.0
"""How long a worker that Slurm does not list any more may still be heard of: twice the time for which NFS may hide a file, nfs(5)."""
RELEASE_S = 60.0
"""How long after a job was released from Slurm's hold it is released again."""
SOONEST_S = 0.5
"""The first pause between two questions; it grows to the profile's `poll_s`."""
LONGEST_BACK_OFF_S = 60.0
FULL_S = 120.0
"""How long a limit on the number of jobs that was met is believed to be what it was."""


class SlurmExecutor:
    """Submits workers to Slurm and knows those that it, or an earlier launcher of the study, submitted."""

    kind = "slurm"
    leaves_workers = True
    """Whether the workers go on when the launcher ends."""

    def __init__(self, store: Store, resources: Slurm, profile: Profile):
        self.store, self.wanted, self.profile = store, resources, profile
        self.gone: list[str] = []
        self.queue: slurm.Queue | None = None
        """Slurm's last answer; None before there was any."""
        self._silence, self._full = "", ""
        """Why the last question was not answered, "" when it was; which limit on the number of jobs was met, if any."""
        self._asked, self._next_question, self._pause = 0.0, 0.0, SOONEST_S
        self._limits: tuple[int, int, bool] | None = None
        self._window, self._ceiling, self._ceiling_until = 0, 0, 0.0
        """At most so many elements at a time, since a limit was met (0: it was not), and in the queue while that limit is believed in."""
        self._submitted: dict[int, float] = {}
        self._missing: dict[str, float] = {}
        self._released: dict[str, float] = {}
        self._ends: dict[str, str] = {}
        self._ended_at: dict[str, float] = {}
        self._nonce = ""

    # --- before anything is submitted --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises UsageError when there is no Slurm here, StudyError when what the grid asks for cannot be."""
        if not slurm.available() or not SubmititSlurmExecutor.affinity() > 0:
            raise UsageError("no Slurm here (sbatch is not on the PATH); add --local to run on this machine")
        if not str(self.store.root).isprintable() or "\\" in str(self.store.root):
            raise StudyError(f"the path of the study folder, {str(self.store.root)!r}, has control characters or backslashes, which Slurm "
                             "cannot write logs to; choose another place with --study-dir DIR")
        if 0 < self.wanted.gpus_per_node < self.wanted.tasks_per_node:
            raise StudyError(f"[slurm] gpus_per_node = {self.wanted.gpus_per_node} for tasks_per_node = {self.wanted.tasks_per_node}: "
                             "each process needs a GPU of its own")

    @property
    def gpus_per_worker(self) -> int:
        """GPUs that one worker has, over all its nodes."""
        return self.wanted.nodes * self.wanted.gpus_per_node

    @property
    def gpus_per_trial(self) -> float:
        """GPUs that one trial takes up: where it shares one, its part."""
        return self.gpus_per_worker / self.wanted.trials_per_gpu

    @property
    def trouble(self) -> str:
        """Why Slurm does not take trials as it should; "" when it does."""
        return self._silence or self._full

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        return min(self._pause, 5.0)

    def job_name(self, batch: int) -> str:
        """The name of a batch's array."""
        self._nonce = self._nonce or str(self.store.environment()["nonce"])
        return slurm.job_name(self._nonce, batch)

    # --- submitting --------------------------------------------------------------------------------------------------------------

    def divide(self, number: int, trials: list[tuple[str, int]], living: dict[str, Batch]) -> list[Batch]:
        """The batches to submit now, numbered from `number` on: arrays no longer than the cluster allows, all of them together no more
        than `running` at once and no more than the user may have in the queue. What does not fit waits."""
        if self.queue is None or self._silence:
            return []
        try:
            longest, most, _ = self._cluster_limits()
        except slurm.Unanswered as error:
            self._hear_nothing(str(error))
            return []
        share = self.wanted.trials_of_a_job
        workers = math.ceil(len(trials) / share)
        room = min(self._window or workers, workers)
        if most:
            room = min(room, most - self.queue.count())
        if time.monotonic() < self._ceiling_until:
            room = min(room, self._ceiling - self.queue.count())
        free = self._free(living)
        parts = min(math.ceil(max(0, room) / longest), free)
        batches: list[Batch] = []
        for part in range(parts):
            size = min(longest, room)
            if size < 1:
                break
            together = max(1, free // parts + (part < free % parts)) if self.wanted.running else size
            batches.append(Batch(number=number + part, workers=size, share=share, trials=trials[:size * share],
                                 settings={**self._settings(), "parallelism": together}))
            trials, room = trials[size * share:], room - size
            batches[-1].workers = min(size, math.ceil(len(batches[-1].trials) / share))
        return batches

    def spare(self, living: dict[str, Batch], *, running: int, waiting: int) -> int:
        """No worker is of use beside those that wait in the queue: each has trials of its own."""
        return 0

    def _free(self, living: dict[str, Batch]) -> int:
        """How many more jobs may run at once by the grid's `running`."""
        if not self.wanted.running:
            return sys.maxsize
        busy = Counter(batch.number for name, batch in living.items() if name not in self._ends)
        taken = {batch.number: min(batch.settings.get("parallelism", batch.workers), busy[batch.number]) for batch in living.values()}
        return max(0, self.wanted.running - int(sum(taken.values())))

    def _settings(self) -> dict[str, Any]:
        """What the workers are told of their resources."""
        wanted = self.wanted
        return {"executor": self.kind, "nodes": wanted.nodes, "ranks": wanted.nodes * wanted.tasks_per_node,
                "device": "cuda" if wanted.gpus_per_node else "cpu", "cpus_per_task": wanted.cpus_per_task,
                "gpus_per_job": self.gpus_per_worker, "time_min": wanted.time_min,
                "signal_s": signal_s(wanted, self.profile), "profile": self.profile.name,
                "gpus_per_trial": self.gpus_per_trial, **({"at_once": wanted.trials_per_gpu} if wanted.trials_per_gpu > 1 else {}),
                **({"fuse": wanted.fuse} if wanted.fuse > 1 else {})}

    def _cluster_limits(self) -> tuple[int, int, bool]:
        """(longest array, most jobs in the queue or 0, whether there is an accounting); raises slurm.Unanswered."""
        if self._limits is None:
            config = slurm.configuration()
            size = config.get("MaxArraySize", "")
            accounting = slurm.has_accounting(config)
            most = [limit for limit in (slurm.most_jobs() if accounting else 0, self.profile.max_jobs) if limit]
            self._limits = (max(1, int(size)) if size.isdigit() else 1, min(most, default=0), accounting)
        return self._limits

    def submit(self, batch: Batch) -> bool:
        """Submits a batch that has been written down; whether another may follow at once.

        Raises:
            StudyError: Slurm will never take it.
        """
        self._submitted[batch.number] = time.monotonic()
        self._next_question, self._pause = 0.0, SOONEST_S
        try:
            job_id = self._sbatch(batch)
        except slurm.Unanswered as error:
            self._hear_nothing(str(error))  # it may have been submitted: `alive` looks for it by its name
        except slurm.QueueFull as error:
            self._full = f"not all jobs fit into the queue at once ({error}); the others follow as it empties"
            self._window = max(1, batch.workers // 2)
            before = sum(other.workers for other in self.store.batches() if self._submitted.get(other.number, 0.0) > self._asked)
            self._ceiling = (self.queue.count() if self.queue else 0) + before - 1
            self._ceiling_until = time.monotonic() + FULL_S
            self._close(batch)
        except slurm.Refused as error:
            self._close(batch)
            raise StudyError(f"{error}\nit was asked for {self._asked_for()}; python -m harness.launch GRID --preflight says what this "
                             "cluster offers") from error
        else:
            self._window *= 2
            self.store.submitted(batch.number, job_id)
            return True
        return False

    def _close(self, batch: Batch) -> None:
        for place in range(batch.workers):
            self.store.claim_place(batch.number, place, {"closed": True})

    def _asked_for(self) -> str:
        wanted, site = self.wanted, self.profile
        own = {"nodes": wanted.nodes, "gpus_per_node": wanted.gpus_per_node, "tasks_per_node": wanted.tasks_per_node,
               "cpus_per_task": wanted.cpus_per_task, "mem_gb": wanted.mem_gb, "time_min": wanted.time_min}
        theirs = {name: value for name in ("partition", "account", "qos", "constraint", "reservation", "gpu_type")
                  if (value := getattr(site, name))}
        return (", ".join(f"{name} = {value}" for name, value in own.items()) + " by the grid's [slurm], and "
                + (", ".join(f'{name} = "{value}"' for name, value in theirs.items()) or "nothing")
                + (f' by the profile "{site.name}"' if site.name else " by a profile (there is none)"))

    def _sbatch(self, batch: Batch) -> str:
        code = self.store.code_folder(batch.settings["code"])
        command = [str(self.store.root), str(batch.number)]
        parameters = job_parameters(self.wanted, self.profile)
        parameters["setup"] = [*parameters["setup"], *worker_environment(code, self.wanted.cpus_per_task)]
        parameters |= {"job_name": self.job_name(batch.number), "array_parallelism": batch.settings["parallelism"]}
        log = str(self.store.submitit_folder).replace("%", "%%")
        parameters["additional_parameters"]["output"] = f"{log}/{batch.number:03d}-%a.log"
        return submit(self.store.submitit_folder, parameters, self.profile.python, "harness.worker", command, array=batch.workers)

    # --- watching ----------------------------------------------------------------------------------------------------------------

    def alive(self, batches: list[Batch]) -> set[str]:
        """The workers that wait, run, or may do so for all that is known. Asks Slurm when it is time to."""
        mine = [batch for batch in batches if batch.settings.get("executor") == self.kind]
        self._ask(mine)
        return {batch.worker(place) for batch in mine for place, claim in enumerate(batch.claims)
                if not (claim and claim.get("closed")) and self._lives(batch, place, claim)}

    def _ask(self, batches: list[Batch]) -> None:
        """Looks at the queue, if the last look is long enough ago, and asks the accounting about what is missing there."""
        if time.monotonic() < self._next_question:
            return
        try:
            found = slurm.queue()
            self.queue, self._silence, self._asked = found, "", time.monotonic()
            self._adopt(batches)
            self._release(batches)
            if missing := self._missing_ids(batches):
                _, _, accounted = self._cluster_limits()
                if accounted:
                    with contextlib.suppress(slurm.Unanswered):  # it only makes sure sooner
                        of = {job_id.partition("_")[0] for job_id in missing}
                        names = [self.job_name(batch.number) for batch in batches if batch.job_id in of]
                        self._take_ends(batches, slurm.accounting(missing, names))
        except slurm.Unanswered as error:
            self._hear_nothing(str(error))
            return
        self._pause = min(self._pause * 1.3, float(self.profile.poll_s))
        self._next_question = time.monotonic() + self._pause

    def _hear_nothing(self, why: str) -> None:
        """Asks again later, and later each time."""
        self._silence = why
        self._pause = min(max(2.0, self._pause * 2), LONGEST_BACK_OFF_S)
        self._next_question = time.monotonic() + self._pause * random.uniform(0.8, 1.2)

    def _adopt(self, batches: list[Batch]) -> None:
        """Takes batches of an unknown fate that the queue lists for submitted."""
        assert self.queue
        for batch in batches:
            if batch.job_id is None and (elements := self.queue.jobs.get(self.job_name(batch.number))):
                batch.job_id = next(iter(elements.values())).job_id.partition("_")[0]
                self.store.submitted(batch.number, batch.job_id)

    def _release(self, batches: list[Batch]) -> None:
        """Lets go what Slurm put on hold because a node failed to start it; otherwise that would wait for a person. From time to time: a
        node that fails again is asked no more often."""
        assert self.queue
        elements = (self.queue.find(self.job_name(batch.number), place) for batch in batches for place in range(batch.workers))
        held = [element.job_id for element in elements if element and element.held_by_slurm
                and time.monotonic() - self._released.get(element.job_id, -RELEASE_S) >= RELEASE_S]
        self._released |= dict.fromkeys(held, time.monotonic())
        with contextlib.suppress(slurm.Unanswered):
            slurm.release(held)

    def _missing_ids(self, batches: list[Batch]) -> list[str]:
        """Jobs that were submitted, are not listed, and of which nobody has said how they ended."""
        assert self.queue
        return [f"{batch.job_id}_{place}" for batch in batches if batch.job_id for place, claim in enumerate(batch.claims)
                if claim and not claim.get("closed") and batch.worker(place) not in self._ends
                and self.queue.find(self.job_name(batch.number), place) is None]

    def _take_ends(self, batches: list[Batch], states: dict[str, str]) -> None:
        names = {f"{batch.job_id}_{place}": batch.worker(place) for batch in batches for place in range(batch.workers)}
        self._ends |= {names[job_id]: state for job_id, state in states.items() if job_id in names}

    def _lives(self, batch: Batch, place: int, claim: dict[str, Any] | None) -> bool:
        worker = batch.worker(place)
        if self.queue is None or self._asked <= self._submitted.get(batch.number, 0.0):
            return True  # nobody has answered since
        element = self.queue.find(self.job_name(batch.number), place)
        if element and not element.ended:
            self._missing.pop(worker, None)
            self._ends.pop(worker, None)
            return True
        if element:
            self._ends[worker] = element.state
        elif worker not in self._ends:
            first = self._missing.setdefault(worker, self._asked)
            # Nobody can take a place that was closed, so an unclaimed one needs no patience unless its submission is in doubt.
            patience = GONE_AFTER_S if claim else UNSURE_S if batch.job_id is None else 2 * SOONEST_S
            if self._asked - first < patience:
                return True
            self._ends[worker] = "LOST"
        if self._ends[worker] != "COMPLETED" or claim is None:
            return False
        # It says that all its trials have ended; their files may take a while to be seen from here.
        return time.monotonic() - self._ended_at.setdefault(worker, time.monotonic()) < GONE_AFTER_S

    def end_of(self, worker: str) -> dict[str, Any] | None:
        """How Slurm says that a worker ended: {"cause", "state"}; None when it does not say more than the worker itself."""
        state = self._ends.get(worker)
        return {"cause": slurm.CAUSES.get(state, "lost"), "state": state} if state else None

    def last_words(self, name: str) -> str | None:
        """The end of what a worker printed; None when it never ran."""
        try:
            return self.store.worker_log(name).read_text(errors="replace")[-2000:].strip() or "(it printed nothing)"
        except OSError:
            return None

    def news(self) -> str:
        """What there is to say about Slurm: why jobs wait, or that it does not answer."""
        if self._silence:
            again = max(0.0, self._next_question - time.monotonic())
            return f"Slurm does not answer ({self._silence}); what runs goes on; asked again in {again:.0f} s"
        mine = slurm.job_name(self._nonce, "") if self._nonce else "\0"
        waiting = Counter(element.reason if element.state == "PENDING" else element.state
                          for name, places in (self.queue.jobs.items() if self.queue else ()) if name.startswith(mine)
                          for element in places.values() if not element.ended and element.state not in ("RUNNING", "COMPLETING"))
        reasons = "waiting in Slurm: " + ", ".join(f"{count} {reason}" for reason, count in waiting.most_common()) if waiting else ""
        return "; ".join(filter(None, [self._full, reasons]))

    # --- ending ------------------------------------------------------------------------------------------------------------------

    def withdraw(self, batches: list[Batch], *, running: bool) -> None:
        """Takes back what waits in the queue and, where `running`, lets what runs keep its progress and end."""
        queue = self.queue or slurm.Queue()  # before the first answer nothing is known to wait
        waiting: list[str] = []
        busy: list[str] = []
        for batch in batches:
            for place in range(batch.workers):
                if (element := queue.find(self.job_name(batch.number), place)) and not element.ended:
                    (waiting if element.state == "PENDING" else busy).append(element.job_id)
        with contextlib.suppress(slurm.Unanswered):  # one of them may have started or ended meanwhile
            slurm.cancel(waiting)
        if running:
            with contextlib.suppress(slurm.Unanswered):
                slurm.cancel(busy, "--signal=TERM", "--batch")


def signal_s(wanted: Slurm, profile: Profile) -> int:
    """Seconds before the time limit at which a job is told to keep its progress; a quarter of the time at most."""
    return max(1, min(profile.signal_s, wanted.time_min * 15))


def job_parameters(wanted: Slurm, profile: Profile) -> dict[str, Any]:
    """What submitit is told for a trial's job: the grid's resources in the site's words.

    A trial on one node is one task for Slurm, whose worker forks the ranks itself; over several nodes each rank is a task. Trials that
    share a GPU have their own cores.
    """
    ranks = wanted.tasks_per_node
    several = wanted.nodes > 1
    site = {name: value for name in ("partition", "account", "qos", "constraint", "exclude") if (value := getattr(profile, name))}
    gpus = {"gpus_per_node": f"{profile.gpu_type}:{wanted.gpus_per_node}" if profile.gpu_type else wanted.gpus_per_node}
    more: dict[str, Any] = {**profile.sbatch, "signal": f"B:USR2@{signal_s(wanted, profile)}", "requeue": True}
    if profile.reservation:
        more["reservation"] = profile.reservation
    return {**site, **(gpus if wanted.gpus_per_node else {}), **({"mem": f"{wanted.mem_gb}GB"} if wanted.mem_gb else {}),
            "time": wanted.time_min, "nodes": wanted.nodes, "ntasks_per_node": ranks if several else 1,
            "cpus_per_task": wanted.cpus_per_task * (1 if several else ranks * wanted.trials_per_gpu), "use_srun": False,
            "stderr_to_stdout": True, "wckey": None, "setup": preamble(profile), "additional_parameters": more}


def worker_environment(code: Path, threads: int) -> list[str]:
    """Shell lines that put the study's own source first and say how many threads a rank may use."""
    return [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1",
            f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}"]


class _Submission(SubmititSlurmExecutor):
    """submitit's executor with a command of ours in place of a pickled function: nothing is unpickled on the node, and a job does not
    wait for files that are named after its number and only written once that is known."""

    def __init__(self, folder: Path, python: str, module: str, arguments: list[str]):
        super().__init__(folder, python=f"exec {shlex.quote(python or sys.executable)}")
        self._ours = f"{self.python} -u -m {module} {shlex.join(arguments)}"

    def send(self, array: int) -> str:
        """Submits, as an array of so many elements unless it is 0; returns the job's number. submitit's own way to do so names the
        script after that number, and takes a `%j` in the path for it."""
        if array:
            self.parameters["map_count"] = array
        script = Path(self.folder) / f"{self.parameters['job_name']}.sh"
        script.write_text(self._make_submission_file_text(self._ours, ""), encoding="utf-8")
        return str(self._get_job_id_from_submission_command(CommandFunction(self._make_submission_command(script), verbose=False)()))


def submit(folder: Path, parameters: dict[str, Any], python: str, module: str, arguments: list[str], *, array: int = 0) -> str:
    """Submits `python -m module arguments` as a job whose batch shell becomes the process, so that Slurm's signals reach it and it alone.

    Args:
        folder: where the job script is kept.
        parameters: as submitit's Slurm executor takes them.
        array: elements of the array; 0 for a job that is none.
    Returns:
        the job's number.
    Raises:
        slurm.Unanswered: it may have been submitted all the same.
        slurm.QueueFull, slurm.Refused: it was not.
    """
    submission = _Submission(folder, python, module, arguments)
    submission.update_parameters(**parameters)
    try:
        with _environment(), without_ctrl_c(), contextlib.redirect_stderr(io.StringIO()):  # what sbatch says is in the error too
            return submission.send(array)
    except (FailedJobError, FailedSubmissionError) as error:
        raise slurm.submission_error(str(error)) from error


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Only what jobs are to inherit, for as long as sbatch runs. submitit's clean_env would also hide where Slurm's configuration is."""
    kept, inherited = dict(os.environ), slurm.environment()
    os.environ.clear()
    os.environ.update(inherited)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
