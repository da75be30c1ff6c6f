"""What runs on the node: takes the trials of a batch one after the other, each in processes of its own.

The worker imports torch once and forks for every trial, so that a trial costs a fork and not an import, and a crash or an
out-of-memory takes one trial and not the worker. It is the only writer of the attempt files it creates: the trial's first rank
tells it about epochs and the outcome, and when the trial dies without a word, the worker says how.

On Slurm it is the batch script's own process, so that signals sent to the batch shell reach it alone. They, and its own clock, mean: keep
the progress and end. At the time limit, and when it is told in time that its job is to be preempted, it puts its job back into the
queue; Slurm does so itself with one that it ends. A job that Slurm starts again finds its place taken by itself and goes on with what is
left; one that has nothing left ends at once.

The worker itself must never compute with torch: a forked child of a process with running threads may hang.
"""

import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import processes, slurm
from harness.files import is_full
from harness.lease import ENDED
from harness.plan import Batch, PlannedTrial
from harness.step import TrialStep
from harness.store import AttemptLog, Store
from harness.trial_process import TrialProcesses
from jobs.failpoint import failpoint

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EARLY_S = 65.0
"""Slurm may send the warning of the time limit up to a minute early (sbatch(1), --signal)."""
CANCEL_S = 5.0
"""How often a running trial is looked up among those that were cancelled."""
GOES_ON = (None, "interrupted", "time_limit", "preempted", "node_failure", "cancelled", "lost", "killed")
"""Ends of an attempt after which a job that Slurm started again makes the next one itself."""

FOLLOW_S, FOLLOW_LOOK_S = 10.0, 0.1
"""How long a worker that is kept waits for its place in a later batch, and how often it looks."""
BEGUN_BEFORE = "was begun before, or the trial is over"
"""What a worker prints when a trial is not its to run; who submitted it may be told so by a file that it sees only later."""


def main(study: str, batch: int, place: int) -> None:
    """Takes place `place` of batch `batch` and works until no trial of it is left. submitit calls this for a local worker."""
    Worker(Store(Path(study)), batch=batch, place=place).run()


class Worker:
    """One worker of one batch."""

    def __init__(self, store: Store, *, batch: int, place: int):
        self.why = ""
        """Why it is to keep its progress and end: time_limit, preempted or interrupted; "" while it is not."""
        self._began = time.monotonic()
        self._deadline = float("inf")
        for number in STOP_SIGNALS:  # after submitit's own, which would requeue or ignore
            signal.signal(number, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
        self.store, self.place = store, place
        self.batch = store.batch(batch)
        self.name = self._first_name = self.batch.worker(place)
        self._restarted = False
        self._got_on, self._longest_s, self._cancel_looked = False, 0.0, 0.0
        if "time_min" in self.batch.settings:
            began, end = (os.environ.get(f"SLURM_JOB_{when}_TIME", "") for when in ("START", "END"))  # Slurm before 23.02 sets neither
            both = began.isdigit() and end.isdigit()  # by the controller's clock, which is not this node's
            length = int(end) - int(began) if both else self.batch.settings["time_min"] * 60
            self._deadline = self._began + length - self.batch.settings["signal_s"]

    def _stop(self, number: int, frame: Any) -> None:  # only a flag: whatever else a handler does may run in the middle of anything
        early = EARLY_S if number == signal.SIGUSR2 else 0.0  # the others come at the time limit itself, or have another reason
        near = time.monotonic() > self._deadline - early
        self.why = self.why or ("time_limit" if near else "preempted" if number == signal.SIGUSR2 else "interrupted")

    @property
    def stopping(self) -> bool:
        """Whether it is to keep its progress and end."""
        if not self.why and time.monotonic() > self._deadline:
            self.why = "time_limit"
        return bool(self.why)

    def run(self) -> int:
        """The trials of the batch that are this worker's, in order, each whose attempt nobody else has begun; then those of later batches
        that have a place for it. Returns an exit status: 0 when none of them is left for another worker."""
        who = {**processes.this_process(), "worker": self.name, "job_id": slurm.this_job() or str(os.getppid())}
        if not self._take_place(who):
            print(f"place {self.name} is taken or closed; nothing to do", flush=True)
            return 0
        status = self._run_batch(who)
        while "after" in self.batch.settings and self._follow(who):
            status = self._run_batch(who | {"worker": self.name})
        return status

    def _follow(self, who: dict[str, Any]) -> bool:
        """Takes the next place that is kept for this worker; false when there is none, and none has come for a while."""
        until = time.monotonic() + FOLLOW_S
        while not self.stopping:
            for batch in self.store.batches():
                after = batch.settings.get("after", ())
                if batch.number > self.batch.number and self._first_name in after and batch.settings["code"] == self.batch.settings["code"]:
                    place = after.index(self._first_name)
                    if self.store.claim_place(batch.number, place, who | {"worker": batch.worker(place)}):
                        self.batch, self.place, self.name = batch, place, batch.worker(place)
                        return True
            if time.monotonic() > until or self.store.last_beat(self.store.newest_launcher()) == ENDED:
                return False  # after one that was killed another may come
            time.sleep(FOLLOW_LOOK_S)
        return False

    def _run_batch(self, who: dict[str, Any]) -> int:
        """The trials of the batch at hand, the place in it being taken; see `run`."""
        if "gpus" in self.batch.settings:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.batch.settings["gpus"][self.place])  # before torch is imported
        mine = dict(self.batch.trials_of(self.place))
        trials = {trial.id: trial for trial in self.store.trials(mine, waves=self.batch.settings.get("waves", ()))}
        left = [trial for trial in trials.values() if not self.store.reached(trial)] if self._restarted else list(trials.values())
        if left:
            self._warm_up([trial.config for trial in left])
        for trial_id, attempt in mine.items():
            if self.stopping or time.monotonic() + self._longest_s > self._deadline:
                self.why = self.why or "time_limit"
                break
            if trial_id in trials and not self._make_attempt(trials[trial_id], self._next_attempt(trial_id, attempt), who):
                break
        finished = all(self.store.reached(trial) for trial in trials.values())
        if slurm.this_job() and not finished and (self.why == "preempted" or (self.why == "time_limit" and self._got_on)):
            slurm.requeue(slurm.this_job())  # ends this run of the job; what does not go back is submitted anew by the launcher
        return 0 if finished else 1

    def _take_place(self, who: dict[str, Any]) -> bool:
        """Claims the worker's place; one that this job has taken before is still its own after Slurm has started it again."""
        if self.store.claim_place(self.batch.number, self.place, who):
            return True
        claim = self.store.claim(self.batch.number, self.place) or {}
        self._restarted = bool(slurm.this_job()) and claim.get("job_id") == who["job_id"]
        return self._restarted

    def _next_attempt(self, trial_id: str, promised: int) -> int:
        """The attempt to make: the promised one, or after a restart the one after those that this worker made itself."""
        if not self._restarted:
            return promised
        attempts = list(self.store.attempts(trial_id))
        for number, events in enumerate(attempts[promised:], promised):
            start = next((event for event in events if event["event"] == "start"), {})
            end = next((event for event in events if event["event"] == "end"), {})
            if start.get("worker", self.name) != self.name or end.get("cause") not in GOES_ON:
                return promised  # another worker has it, or it is not to be tried again: there will be nothing to begin
            verdict = self._how_it_ended() if end.get("cause") in (None, "interrupted") else None
            if verdict and (end.get("cause") is None or verdict["cause"] != "lost"):
                self.store.write_end(trial_id, number, verdict)
        return max(len(attempts), promised)

    def _how_it_ended(self) -> dict[str, Any]:
        """What the accounting says of the run of this job before this one."""
        try:
            state = slurm.history(slurm.this_job())[-2]
        except (slurm.Unanswered, IndexError):
            return {"cause": "lost", "state": "REQUEUED"}
        return {"cause": slurm.CAUSES.get(state, "lost"), "state": state}

    def _warm_up(self, configs: list[dict[str, Any]]) -> None:
        """Imports what the trials need, once; the job's module may know more than its own imports."""
        if self.batch.settings.get("nodes", 1) > 1:
            return  # the ranks are tasks of srun and import it themselves
        module = importlib.import_module(self.batch.settings["run"].partition(":")[0])
        if hasattr(module, "warm_up"):
            module.warm_up(configs)
        gc.collect()
        gc.freeze()  # keeps the collector of every child from touching, and so copying, the shared pages

    def _make_attempt(self, trial: PlannedTrial, attempt: int, who: dict[str, Any]) -> bool:
        """Makes one attempt if nobody else has begun it; false when this worker is to end, because another has taken over from it."""
        if self.store.cancelled().get(trial.id, -1) >= attempt:
            return True
        settings = self.batch.settings
        log = self.store.begin_attempt(trial, attempt, settings["request"])
        if log is None:
            print(f"{trial.id} attempt {attempt} {BEGUN_BEFORE}", flush=True)
            return True
        print(f"{trial.id} attempt {attempt}", flush=True)
        started = time.time()
        log.write({"event": "start", "attempt": attempt, "time": started, "ranks": settings["ranks"], "device": settings["device"],
                   "accumulate": settings.get("accumulate", {}).get(trial.id, 1), **who, **settings["origin"]})
        failpoint("attempt.started")
        try:
            end = self._watch(_ranks(self.store, self.batch, trial, attempt), trial, attempt, log)
        except OSError as error:  # the worker itself could not fork, or make the folder in which ranks meet
            end = {"cause": "disk_full" if is_full(error) else "exception", "error": f"{type(error).__name__}: {error}"}
        log.write({"event": "end", "time": time.time(), **end}, durable=True)
        failpoint("attempt.ended")
        log.close()
        self._longest_s = max(self._longest_s, time.time() - started)
        return bool(end["cause"] != "superseded")

    def _watch(self, ranks: TrialProcesses | TrialStep, trial: PlannedTrial, attempt: int, log: AttemptLog) -> dict[str, Any]:
        """Passes on what the trial tells until it is over; returns the `end` event."""
        end: dict[str, Any] = {}
        cancelled, memory_kills = False, processes.out_of_memory_kills()
        while (message := ranks.next_message()) is not None:
            cancelled = cancelled or self._is_cancelled(trial.id, attempt)
            if self.stopping or cancelled:
                ranks.stop()  # again and again: a rank that has just been started does not listen yet
            if message["event"] in ("epoch", "checkpoint", "test"):
                self._got_on = True
                log.write({**message, "time": time.time()}, durable=message["event"] == "test")
            elif message["event"] == "outcome":
                end = self._published(ranks, trial, message["outcome"])
            elif message["event"] == "tested":
                end = self._write(partial(self.store.publish_test, trial.id, trial.opening, message["metrics"])) or {"cause": "tested"}
            elif message["event"] == "end" and not end:  # the first rank that fails tells the cause, the others only suffer from it
                end = {key: value for key, value in message.items() if key != "event"}
        exits = ranks.collect()
        if not end or (end["cause"] == "exception" and ranks.killed):
            full, told = processes.out_of_memory_kills() > memory_kills, self.stopping or cancelled  # told to end, and killed meanwhile
            end = {"cause": "out_of_memory" if full else "interrupted" if told else "killed",
                   "error": f"the trial's process ended with {exits}"
                   + (", the kernel having run out of the memory this job may use" if full else "")}
        if end["cause"] == "interrupted":
            if not self.why and not cancelled and slurm.this_job():
                self.why = "preempted"  # only the tasks of the step were told: so Slurm does when the time of grace begins
            end["cause"] = "cancelled" if cancelled else self.why or "interrupted"
        return end

    def _is_cancelled(self, trial_id: str, attempt: int) -> bool:
        """Whether somebody does not want the trial any more; looks from time to time."""
        if time.monotonic() - self._cancel_looked < CANCEL_S:
            return False
        self._cancel_looked = time.monotonic()
        return self.store.cancelled().get(trial_id, -1) > attempt

    def _published(self, ranks: TrialProcesses | TrialStep, trial: PlannedTrial, outcome: dict[str, Any]) -> dict[str, Any]:
        """Makes an outcome the trial's result, or its result at the rung where it rests; returns the `end` event."""
        if not outcome.pop("finished") and trial.budget:
            result = {"trial": trial.id, **outcome, "status": "pruned"}
            return self._write(partial(self.store.publish_rung, trial.id, trial.budget, result)) or {"cause": "pruned"}
        if failed := self._write(partial(self.store.publish_result, trial.id, {"trial": trial.id, **outcome})):
            return failed
        ranks.clear_checkpoints()
        return {"cause": outcome["status"]}

    @staticmethod
    def _write(publish: Callable[[], bool]) -> dict[str, Any]:
        """Publishes something; the `end` event when that fails, {} when it does not."""
        try:
            publish()
        except OSError as error:
            return {"cause": "disk_full" if is_full(error) else "exception", "error": f"the result could not be written: {error}"}
        return {}


def _ranks(store: Store, batch: Batch, trial: PlannedTrial, attempt: int) -> TrialProcesses | TrialStep:
    """The processes of an attempt, started: forked here, or over several nodes as a step of the job."""
    if batch.settings.get("nodes", 1) > 1:
        return TrialStep(store, trial, attempt=attempt, batch=batch.number, settings=batch.settings)
    return TrialProcesses(store, trial, attempt=attempt, settings=batch.settings)


if __name__ == "__main__":  # the job of a worker on Slurm: python -m harness.worker STUDY BATCH
    status = Worker(Store(Path(sys.argv[1])), batch=int(sys.argv[2]), place=int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))).run()
    os._exit(status)  # what torch does at a proper end takes a second and fills the log
