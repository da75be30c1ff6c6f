"""What runs on the node: takes the trials of a batch one after the other, each in processes of its own.

The worker imports torch once and forks for every trial, so that a trial costs a fork and not an import, and a crash or an
out-of-memory takes one trial and not the worker. It is the only writer of the attempt files it creates: the trial's first rank
tells it about epochs and the outcome through a pipe, and when the trial dies without a word, the worker says how.

The worker itself must never compute with torch: a forked child of a process with running threads may hang.
"""

import gc
import importlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from harness import processes
from harness.files import is_full
from harness.plan import PlannedTrial
from harness.store import AttemptLog, Store
from harness.trial_process import TrialProcesses
from jobs.failpoint import failpoint

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main(study: str, batch: int, place: int) -> None:
    """Takes place `place` of batch `batch` and works until no trial of it is left. submitit calls this on the node."""
    Worker(Store(Path(study)), batch=batch, place=place).run()


class Worker:
    """One worker of one batch."""

    def __init__(self, store: Store, *, batch: int, place: int):
        self.store, self.place = store, place
        self.batch = store.batch(batch)
        self.name = self.batch.worker(place)
        self.stopping = False
        for number in STOP_SIGNALS:  # after submitit's own, which would requeue or ignore
            signal.signal(number, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping = True  # only a flag: whatever else a handler does may run in the middle of anything

    def run(self) -> None:
        """The trials of the batch, in order, each whose attempt nobody else has begun."""
        who = {**processes.this_process(), "worker": self.name, "job_id": os.environ.get("SLURM_JOB_ID", str(os.getppid()))}
        if not self.store.claim_place(self.batch.number, self.place, who):
            print(f"place {self.name} is taken or closed; nothing to do", flush=True)
            return
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.batch.settings["gpus"][self.place])  # before torch is imported
        trials = {trial.id: trial for trial in self.store.trials()}
        self._warm_up([trials[name].config for name, _ in self.batch.trials if name in trials])
        for trial_id, attempt in self.batch.trials:
            if self.stopping:
                break
            if trial_id in trials:
                self._make_attempt(trials[trial_id], attempt, who)

    def _warm_up(self, configs: list[dict[str, Any]]) -> None:
        """Imports what the trials need, once; the job's module may know more than its own imports."""
        module = importlib.import_module(self.batch.settings["run"].partition(":")[0])
        if hasattr(module, "warm_up"):
            module.warm_up(configs)
        gc.collect()
        gc.freeze()  # keeps the collector of every child from touching, and so copying, the shared pages

    def _make_attempt(self, trial: PlannedTrial, attempt: int, who: dict[str, Any]) -> None:
        settings = self.batch.settings
        log = self.store.begin_attempt(trial, attempt, settings["request"])
        if log is None:
            return
        print(f"{trial.id} attempt {attempt}", flush=True)
        started = time.time()
        log.write({"event": "start", "attempt": attempt, "time": started, "ranks": settings["ranks"], "device": settings["device"],
                   **who, **settings["origin"]})
        failpoint("attempt.started")
        try:
            end = self._watch(TrialProcesses(self.store, trial, attempt=attempt, settings=settings), trial, log)
        except OSError as error:  # the worker itself could not fork, or make the folder in which ranks meet
            end = {"cause": "disk_full" if is_full(error) else "exception", "error": f"{type(error).__name__}: {error}"}
        log.write({"event": "end", "time": time.time(), **end}, durable=True)
        failpoint("attempt.ended")
        log.close()

    def _watch(self, children: TrialProcesses, trial: PlannedTrial, log: AttemptLog) -> dict[str, Any]:
        """Passes on what the trial tells until it is over; returns the `end` event."""
        end: dict[str, Any] = {}
        while (message := children.next_message()) is not None:
            if self.stopping:
                children.stop()  # again and again: a rank that has just been forked does not listen yet
            if message["event"] in ("epoch", "checkpoint", "test"):
                log.write({**message, "time": time.time()}, durable=message["event"] == "test")
            elif message["event"] == "outcome":
                end = self._publish(children, trial, message["outcome"])
            elif message["event"] == "end" and not end:  # the first rank that fails tells the cause, the others only suffer from it
                end = {key: value for key, value in message.items() if key != "event"}
        exits = children.collect()
        if not end or (end["cause"] == "exception" and children.killed):
            end = {"cause": "killed", "error": f"the trial's process ended with {exits}"}
        return end

    def _publish(self, children: TrialProcesses, trial: PlannedTrial, outcome: dict[str, Any]) -> dict[str, Any]:
        """Makes an outcome the trial's result; returns the `end` event."""
        try:
            self.store.publish_result(trial.id, {"trial": trial.id, **outcome})
        except OSError as error:
            return {"cause": "disk_full" if is_full(error) else "exception", "error": f"the result could not be written: {error}"}
        children.clear_checkpoints()
        return {"cause": outcome["status"]}
