"""What runs on the node: takes the trials of a batch, one after the other or several at once, each in processes of its own.

The worker imports torch once and forks for every trial, so that a trial costs a fork and not an import, and a crash or an
out-of-memory takes one trial and not the worker. It is the only writer of the attempt files it creates: the trial's first rank
tells it about epochs and the outcome, and when the trial dies without a word, the worker says how (`harness.running`).

Where its batch says `at_once`, so many trials run side by side. Where it says `fuse`, up to so many trials that the job can train as one
program get one process, which asks the job whether that is faster, and else leaves them to be trained one by one.

On Slurm it is the batch script's own process, so that signals sent to the batch shell reach it alone. They, and its own clock, mean: keep
the progress and end. At the time limit, and when it is told in time that its job is to be preempted, it puts its job back into the
queue; Slurm does so itself with one that it ends. A job that Slurm starts again finds its place taken by itself and goes on with what is
left; one that has nothing left ends at once.

The worker itself must never compute with torch: a forked child of a process with running threads may hang.
"""

import gc
import importlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from typing import Any

from harness import processes, slurm
from harness.lease import ENDED
from harness.plan import PlannedTrial, to_be_alone
from harness.rank import asked
from harness.running import Begun, Running
from harness.store import Store
from jobs.failpoint import failpoint

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EARLY_S = 65.0
"""Slurm may send the warning of the time limit up to a minute early (sbatch(1), --signal)."""
LISTEN_S = 0.2
"""How long one look at what runs may last; a request to stop is passed on within this time."""
CANCEL_S = 5.0
"""How often running trials are looked up among those that were cancelled."""
LOOK_AHEAD = 1000
"""Among how many of the next trials those are looked for that can be trained as one program with the one to be begun."""
FUSING = ("fuse_key", "fused_is_faster", "run_fused")
"""What a job's module has when trials of it can be trained as one program; see `jobs.contract`."""
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
        self._taken_over = False
        """Whether another has begun a newer attempt at a trial of this worker, which is then to begin nothing more."""
        self._waiting: list[tuple[PlannedTrial, int]] = []
        """What is to be begun, with the attempt to make."""
        self._one_by_one: list[Begun] = []
        """Attempts that were begun to be made in one program, which would not be faster."""
        self._probed: dict[tuple[str | None, int], bool] = {}
        """(key of trials that can be trained together, how many) -> whether that is faster."""
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
        self._waiting = [(trials[trial_id], self._next_attempt(trial_id, attempt)) for trial_id, attempt in mine.items()
                         if trial_id in trials]
        self._work(who)
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

    def _work(self, who: dict[str, Any]) -> None:
        """Begins what waits, as much side by side as is to be, and hears of what runs, until nothing runs and nothing can be begun."""
        running: list[Running] = []
        while True:
            while len(running) < self.batch.settings.get("at_once", 1) and (program := self._begin_next(who)):
                running.append(program)
            if not running:
                break
            connection.wait([it for program in running for it in program.waits_for()], LISTEN_S)
            unwanted = self._unwanted()
            for program in list(running):
                for member in program.left:
                    member.look_up(unwanted)
                if not program.listen(stop=self.stopping):
                    running.remove(program)
                    self._finish(program, running)
        if (self._waiting or self._one_by_one) and not self._taken_over:
            self.why = self.why or "time_limit"  # what is left would not be through before it
        for member in self._one_by_one:
            member.end = {"cause": self.why or "interrupted"}
            member.write_end()
        self._one_by_one = []

    def _begin_next(self, who: dict[str, Any]) -> Running | None:
        """Starts the next program; None when nothing is left to begin, or nothing is to be."""
        while self._one_by_one or self._waiting:
            if self.stopping or self._taken_over or time.monotonic() + self._longest_s > self._deadline:
                return None
            if self._one_by_one:
                member = self._one_by_one.pop(0)
                member.look_up(self.store.cancelled())
                if not member.cancelled:
                    member.log.write({"event": "fused", "members": 1, "time": time.time()})
                    return Running(self.store, self.batch, [member])
                member.end = {"cause": "cancelled"}
                member.write_end()
            elif members := self._begin_together(who):
                probed = self._probed.get(self._group_of(members))
                if probed is False:
                    self._one_by_one += members
                else:
                    return Running(self.store, self.batch, members, probe=len(members) > 1 and probed is None)
        return None

    def _begin_together(self, who: dict[str, Any]) -> list[Begun]:
        """Begins the next trial, with as many as can be trained with it and as this worker may take; empty when another has begun it.

        Where several workers take from the same trials, or several programs run at once, nobody takes more than its part of them all.
        """
        trial, attempt = self._waiting.pop(0)
        if not (first := self._begin(trial, attempt, who)):
            return []
        settings, members, key = self.batch.settings, [first], self._key(trial)
        if key is not None:
            slots = settings.get("at_once", 1) * (1 if self.batch.share else self.batch.workers)
            most = min(settings["fuse"], math.ceil(len(self.batch.trials_of(self.place)) / slots))
            for pair in [pair for pair in islice(self._waiting, LOOK_AHEAD) if self._key(pair[0]) == key]:
                if len(members) >= most:
                    break
                self._waiting.remove(pair)
                if member := self._begin(*pair, who):
                    members.append(member)
        if len(members) > 1:
            for member in members:
                member.log.write({"event": "fused", "members": len(members), "time": time.time()})
        return members

    def _key(self, trial: PlannedTrial) -> str | None:
        """What trials have in common that can be trained as one program; None for one that is to be trained alone, and for one whose job
        fails to say, which is printed."""
        settings = self.batch.settings
        if settings.get("fuse", 1) == 1 or trial.opening or trial.id in settings.get("alone", ()) \
                or settings.get("accumulate", {}).get(trial.id, 1) > 1:
            return None
        module = importlib.import_module(settings["run"].partition(":")[0])
        if not all(hasattr(module, name) for name in FUSING) or (self._restarted and to_be_alone(self.store.scan([trial])[trial.id])):
            return None
        try:
            return module.fuse_key(asked(trial, settings))  # type: ignore[no-any-return]
        except Exception:
            traceback.print_exc()
            return None

    def _group_of(self, members: Sequence[Begun]) -> tuple[str | None, int]:
        """What the answer of a probe holds for."""
        return (self._key(members[0].trial) if len(members) > 1 else None), len(members)

    def _begin(self, trial: PlannedTrial, attempt: int, who: dict[str, Any]) -> Begun | None:
        """Begins one attempt; None when somebody else has, when the trial is over, or not wanted any more."""
        if self.store.cancelled().get(trial.id, -1) >= attempt:
            return None
        settings = self.batch.settings
        log = self.store.begin_attempt(trial, attempt, settings["request"])
        if log is None:
            print(f"{trial.id} attempt {attempt} {BEGUN_BEFORE}", flush=True)
            return None
        print(f"{trial.id} attempt {attempt}", flush=True)
        log.write({"event": "start", "attempt": attempt, "time": time.time(), "queued": settings.get("queued"),
                   "ranks": settings["ranks"], "device": settings["device"], "gpus": settings.get("gpus_per_trial"),
                   "accumulate": settings.get("accumulate", {}).get(trial.id, 1), **who, **settings["origin"]})
        failpoint("attempt.started")
        return Begun(trial=trial, attempt=attempt, log=log)

    def _unwanted(self) -> dict[str, int]:
        """What `Store.cancelled` says, from time to time; else nothing."""
        if time.monotonic() - self._cancel_looked < CANCEL_S:
            return {}
        self._cancel_looked = time.monotonic()
        return self.store.cancelled()

    def _finish(self, program: Running, others: list[Running]) -> None:
        """Takes leave of a program that has ended, and sees to what it leaves."""
        if program.told_by_others and not self.why and slurm.this_job():
            self.why = "preempted"  # only the tasks of the step were told: so Slurm does when the time of grace begins
        if program.finish(self.why):
            for other in others:
                other.memory_kills += 1
        self._got_on = self._got_on or program.got_on
        self._longest_s = max(self._longest_s, time.time() - program.began)
        if program.faster is not None:
            self._probed[self._group_of(program.members)] = program.faster
        self._one_by_one += program.left
        self._taken_over = self._taken_over or any(member.end.get("cause") == "superseded" for member in program.members)
        if len(program.members) > 1 and not (self.stopping or self._taken_over):  # one of them was cancelled: the others go on without it
            self._waiting[:0] = [(member.trial, member.attempt + 1) for member in program.members
                                 if member.end.get("cause") == "interrupted"]


if __name__ == "__main__":  # the job of a worker on Slurm: python -m harness.worker STUDY BATCH
    status = Worker(Store(Path(sys.argv[1])), batch=int(sys.argv[2]), place=int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))).run()
    os._exit(status)  # what torch does at a proper end takes a second and fills the log
