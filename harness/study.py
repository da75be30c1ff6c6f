"""Launching a study: read the disk, see who is alive, decide (`harness.plan`), do it, until nothing is left.

Nothing is remembered that is not on disk. A launcher killed at any line and started again goes on, with nothing lost and nothing run
twice: a batch is written down before it is submitted, a worker takes its place in it by creating a file, a trial's attempt is made by
whoever creates the attempt's file, and a result is published once.
"""

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import needs, snapshot, tables
from harness.budget import Budget
from harness.errors import MissingData, StudyError
from harness.grid import Grid, parse_grid
from harness.lease import Lease
from harness.plan import TAKEN_AWAY, Batch, Plan, PlannedTrial, TrialState, canaries, disk_full, plan, same_error
from harness.search.conduct import Conductor, check_continues
from harness.store import Store
from harness.trials import Planner, job_of, kinds_of, request_of
from harness.waves import Wave
from harness.worker import BEGUN_BEFORE

COMPACT_EVERY_S = 30.0
MEND = ("mend what it complains of (on Slurm: `setup` and `python` in the profile; --preflight tries them on a node), then give the same "
        "command again")
LATE_S = 60.0
"""How long NFS may hide from one machine a file that another has written (acdirmax of nfs(5))."""
LAST_WORDS_S = 10.0
"""How long workers that have nothing left to do get to write their last lines."""


class Executor(Protocol):
    """Where workers run: `harness.local.LocalExecutor` or `harness.slurm_executor.SlurmExecutor`."""

    kind: str
    leaves_workers: bool
    """Whether workers go on when the launcher ends."""
    gone: list[str]
    trouble: str
    """Why the place does not answer just now; "" when it does."""

    @property
    def gpus_per_trial(self) -> float:
        """GPUs that one trial takes up, its part where it shares one."""

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""

    def check(self) -> None:
        """Raises StudyError or UsageError when what the grid asks for cannot be had here."""

    def spare(self, living: dict[str, Batch], *, running: int, waiting: int) -> int:
        """How many more workers would be of use for `waiting` trials that any may begin, beside those that live and run `running`."""

    def divide(self, number: int, trials: list[tuple[str, int]], living: dict[str, Batch]) -> list[Batch]:
        """The batches to submit now, numbered from `number` on, with what their workers must know of the place they run at."""

    def submit(self, batch: Batch) -> bool:
        """Starts the workers of a batch that was written down; whether another may follow at once."""

    def alive(self, batches: list[Batch]) -> set[str]:
        """The workers that are alive, or may yet come."""

    def end_of(self, worker: str) -> dict[str, Any] | None:
        """How a worker ended, where somebody else can tell."""

    def last_words(self, name: str) -> str | None:
        """The end of what a worker printed; None when it never began."""

    def withdraw(self, batches: list[Batch], *, running: bool) -> None:
        """Takes back what waits and, where `running`, asks what runs to keep its progress and end."""

    def news(self) -> str:
        """What there is to say of the place itself."""


class Standby(Protocol):
    """See `harness.detach.Standby`."""

    def keep(self, queue: Any, code: str) -> None:
        """Makes sure that it waits."""


class Display(Protocol):
    """Who is shown how it goes."""

    def update(self, launch: "Launch", now: Plan) -> None:
        """Shows the state after a look."""

    def note(self, text: str) -> None:
        """Says one thing that happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line decides beyond the grid; see `harness.launch`."""

    grid_path: Path
    overrides: tuple[str, ...] = ()
    update_grid: bool = False
    update_code: bool = False
    take_over: bool = False
    retry: bool = False
    again: bool = False


class Launch:
    """One launcher on one study."""

    def __init__(self, store: Store, grid: Grid, executor: Executor, *, data: Path, display: Display, options: Options):
        self.store, self.grid, self.executor = store, grid, executor
        self.data, self.display, self.options = data.absolute(), display, options
        self.stopping = False
        self.started = time.monotonic()
        self.lease = Lease(store)
        self._retry = dataclasses.asdict(grid.retry)
        self._finished: dict[str, TrialState] = {}
        self._looked = False
        self._silent: set[str] = set()
        """Trials that have got their result under our eyes; their workers may not have written the last line yet."""
        self._dead_starts, self._idle_batches = 0, 0
        self._submitted: set[int] = set()
        """Batches that this launch submitted."""
        self._cancelled: Counter[str] = Counter()
        """How often the waiting job of a trial was cancelled by hand."""
        self._last_batch: Batch | None = None
        self._last_submitted = 0.0
        self.trials: list[PlannedTrial] = []
        """All trials that are planned by now."""
        self.conductor: Conductor | None = None
        """What plans more of them in a search."""
        self.code = ""
        """Digest of the code snapshot that workers import."""
        self.standby: Standby | None = None
        """The launcher job that takes over when this one ends."""
        self._weights_files: dict[str, str] = {}
        self._waves_of: dict[str, list[str]] = {}
        self._by_id: dict[str, PlannedTrial] = {}
        self._forgiven: dict[str, int] = {}

    def run(self) -> Plan:
        """Goes on with the study until nothing is left, or until `stopping` and all workers that end with the launcher have kept their
        progress.

        Raises:
            StudyError: another launcher holds the study; the grid differs from the frozen one; workers die before they begin; trials
                die of the same error; the budget is used up.
            MissingData: something must be staged first; nothing was submitted.
            OSError: the disk is full; nothing finished is lost.
        """
        try:
            return self._run()
        finally:
            self.lease.release()

    def _run(self) -> Plan:
        self.prepare()
        kinds, budget, written = self._companions()
        at_start = self._scan(self.trials)
        if self.options.retry:
            self.forgive()
        why = ""
        compacted_at, compacted, compacting_s = time.monotonic(), -1, 0.0
        while True:
            self.lease.keep()
            living = self._living(self._unsettled())
            looked = time.monotonic()  # at the disk: what Slurm takes to answer says nothing of that
            states = self._scan(self.trials)
            self._tell_ends(states, living)
            now = self._plan(states, living)
            look_s = time.monotonic() - looked
            if self.conductor and not (why or self.stopping) and self.conductor.advance(now.status):
                self._take_in(self.store.trials())
                kinds, budget, written = self._companions()
                states = self._scan(self.trials)
                now = self._plan(states, living)
            if not why and (why := self._reason_to_stop(now, states, at_start, budget)):
                self._stop_everything(running=not self.executor.leaves_workers or budget.overdrawn)
            self.display.update(self, now)
            if self.standby and not (now.over or self.stopping or why):
                self.standby.keep(getattr(self.executor, "queue", None), self.code)
            done = len(self.trials) - now.count("running", "queued", "pending")
            if now.over or ((self.stopping or why) and (self.executor.leaves_workers or not living)):
                break
            if self.stopping or why:
                self._stop_everything(running=True)
            elif now.submit or now.open:
                self._submit(now, living, states, kinds, budget)
                why = budget.used_up if budget.used_up and not living else ""
            if done != compacted and time.monotonic() - compacted_at > max(COMPACT_EVERY_S, 10 * compacting_s):
                began = time.monotonic()
                written.write(living=frozenset(living), states=now.ended)
                compacted_at, compacted, compacting_s = time.monotonic(), done, time.monotonic() - began
            self._pause(max(self.executor.pause_s, 10 * look_s))
        for trial in [t.id for t in self.trials if now.over and now.status[t.id] == "pruned"]:
            self.store.tidy(trial)  # nobody goes on from its checkpoint any more
        written = tables.Tables(self.store, self.grid, self.trials)  # nothing but the disk counts in the end
        written.write(living=frozenset(self._wait_for_last_words()), states=now.ended)
        written.write_predictions()
        if why and not now.over:
            raise StudyError(why)
        return now

    def _plan(self, states: dict[str, TrialState], living: dict[str, Batch]) -> Plan:
        """What is to be done about the trials that there are."""
        now = plan([t.id for t in self.trials], states, living=living, retry=self._retry, forgiven=self._forgiven,
                   cancelled=self.store.cancelled())
        return dataclasses.replace(now, more=self.conductor is not None and self.conductor.unfinished(now.status))

    def _companions(self) -> tuple[dict[str, Any], Budget, tables.Tables]:
        """What goes with the trials that there are: their kinds, the budget, the tables."""
        kinds = kinds_of(self.trials)
        return (kinds, Budget(self.store, self.grid, self.trials, kinds, gpus=self.executor.gpus_per_trial),
                tables.Tables(self.store, self.grid, self.trials))

    def _take_in(self, trials: list[PlannedTrial]) -> None:
        """Takes over the trials as the waves have them by now; what was granted more is not finished any more."""
        granted = {trial.id: (trial.budget, trial.opening) for trial in self.trials}
        for trial in trials:
            if granted.get(trial.id) != (trial.budget, trial.opening):
                self._finished.pop(trial.id, None)
        self.trials = trials
        self._by_id = {trial.id: trial for trial in trials}
        self._weights_files = {} if self.grid.job else needs.files_of_weights(trials, self.store, self.data)
        self._waves_of = {}
        for wave in self.store.waves():
            for trial in wave.trials:
                self._waves_of.setdefault(trial.id, []).append(wave.name)

    def forgive(self) -> None:
        """Lets everything that has no result begin anew to count how often it was tried."""
        self.store.forgive({trial: len(state.attempts) for trial, state in self.store.scan(self.trials).items() if not state.result})
        self._forgiven = self.store.forgiven()

    def _reason_to_stop(self, now: Plan, states: dict[str, TrialState], at_start: dict[str, TrialState], budget: Budget) -> str:
        """Why nothing more is to be submitted, though trials are left; "" when there is no reason."""
        if full := disk_full(states, at_start):
            return f"no space left: {full}; nothing that was finished is lost: free some space and give the same command again"
        if budget.overdrawn:
            return budget.used_up
        failed = [trial for trial, status in now.status.items()
                  if status == "failed" and len(states[trial].attempts) > len(at_start.get(trial, TrialState()).attempts)]
        if not now.over and (same := same_error(states, failed, at_least=self._retry["breaker"])):
            last = states[same[0]].attempts[-1]
            log = self.store.attempt_log(same[0], len(states[same[0]].attempts) - 1)
            return (f"{len(same)} trials died of the same error, so no more are submitted: {last.error}\n  at {last.where}\n  log: {log}\n"
                    "mend it, then give the same command with --retry (and --update-code after a change of the code)")
        return ""

    def _pause(self, seconds: float) -> None:
        """Sleeps, but not on once the study is to be stopped."""
        until, stopping = time.monotonic() + seconds, self.stopping
        while (left := until - time.monotonic()) > 0 and self.stopping == stopping:
            time.sleep(min(left, 0.2))

    def _wait_for_last_words(self) -> dict[str, Batch]:
        """Lets workers that have published a result say so in their attempt files too; returns those that still live."""
        until = time.monotonic() + LAST_WORDS_S
        while True:
            living = self._living(self.store.batches())
            for trial in list(self._silent):
                last = list(self.store.attempts(trial))[-1:]
                start = next((event for events in last for event in events if event["event"] == "start"), {})
                if any(event["event"] == "end" for events in last for event in events) or start.get("worker") not in living:
                    self._silent.discard(trial)
            if not self._silent or time.monotonic() > until:
                return {name: batch for name, batch in living.items() if batch.claims[batch.place(name)]}
            time.sleep(0.05)

    # --- before the first look ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Takes hold of the study and freezes everything that is decided before the first trial; every step may be repeated."""
        store, grid = self.store, self.grid
        planner, options = Planner(grid, needs.source_digests(grid, store)), self.options
        trials = [] if grid.tune else planner.trials()
        configs = [config.as_dict() for config in needs.needed_configs(grid)] if grid.tune else [t.config for t in trials if not grid.job]
        frozen = store.frozen_grid()
        if frozen is not None and options.update_grid and (grid.tune or parse_grid(frozen).tune) and store.waves():
            check_continues(frozen, grid)
        if gone := needs.missing(configs, data=self.data, runs=store.root.parent, grid=options.grid_path, overrides=options.overrides):
            raise MissingData(needs.missing_text(gone))
        self.executor.check()
        needs.build_caches(configs, self.data, note=self.display.note)
        store.create_folders()
        self.lease.take(grid.name, take_over=options.take_over, jobs_outlive_hosts=self.executor.leaves_workers, note=self.display.note)
        self.executor.gone = self.lease.gone
        if frozen is None or options.update_grid:
            store.freeze_grid(grid.text)
        self._choose_code()
        needs.take_over_all_weights(grid, store)
        if grid.tune:
            self.conductor = Conductor(store, grid, planner, again=options.again, note=self.display.note)
        else:
            store.write_wave(Wave(trials=tuple(trials)), anew=options.update_grid)
        planned = store.trials()
        if not grid.tune and [t.id for t in planned] != [t.id for t in trials]:
            raise StudyError(f"{store.root} was planned with other trials than this grid and this version make now (a default or an "
                             "earlier study's weights changed): start anew with --study-dir DIR, or take the new plan with --update-grid; "
                             "finished trials that are in both are kept")
        self._forgiven = store.forgiven()
        self._take_in(planned)

    def _choose_code(self) -> None:
        """The snapshot that workers import: the study's own, or today's source for a new study and with --update-code."""
        source = snapshot.Source.of_this_process(*needs.own_functions(self.grid))
        self.store.write_environment(snapshot.environment(source))
        batches = self.store.batches()
        self.code = batches[-1].settings["code"] if batches else self.store.environment()["code"]
        if self.code != source.digest and self.store.code_folder(self.code).exists() and not self.options.update_code:
            self.display.note(f"the code has changed since this study began; its workers go on with the study's own copy, "
                              f"{self.store.code_folder(self.code)} (--update-code takes today's for what has not run yet)")
            return
        self.code = source.digest
        source.copy_into(self.store)

    # --- looking and acting ------------------------------------------------------------------------------------------------------

    def _scan(self, trials: list[PlannedTrial]) -> dict[str, TrialState]:
        """The state of every trial; what is finished is not read twice."""
        fresh = self.store.scan(t for t in trials if t.id not in self._finished)
        finished = {trial: state for trial, state in fresh.items() if state.result}
        for trial, state in finished.items():
            if state.result != "pruned":
                self.store.tidy(trial)
        if self._looked:
            self._silent |= finished.keys()
        self._looked = True
        self._finished |= finished
        return {**self._finished, **fresh}

    def _living(self, batches: list[Batch]) -> dict[str, Batch]:
        """The workers of some batches that are alive, or were started and have not taken their place yet. A place that nobody can take
        any more is closed, so that a worker which comes late ends at once."""
        alive, living = self.executor.alive(batches), dict[str, Batch]()
        for batch in batches:
            for place, claim in enumerate(batch.claims):
                name = batch.worker(place)
                if name in alive:
                    living[name] = batch
                    self._dead_starts = 0 if claim else self._dead_starts
                elif claim is None:
                    self._close(batch, place)
        return living

    def _unsettled(self) -> list[Batch]:
        """The batches that have to do with what is left."""
        return [batch for batch in self.store.batches() if any(trial not in self._finished for trial, _ in batch.trials)]

    def _close(self, batch: Batch, place: int) -> None:
        """Closes the place of a worker that never came."""
        if not self.store.claim_place(batch.number, place, {"closed": True}):
            return
        worker = batch.worker(place)
        cause = (self.executor.end_of(worker) or {}).get("cause")
        if cause == "cancelled":
            self._count_cancelled(batch.trials_of(place))
        ours = batch.number in self._submitted  # what was mended since an earlier launch is not to be held against this one
        if ours and cause not in TAKEN_AWAY and (said := self.executor.last_words(worker)) is not None:
            self._dead_starts += 1
            if self._dead_starts > self._retry["launch_failure"]:
                raise StudyError(f"{self._dead_starts} workers ended before they could begin; the last one said:\n{said}\n{MEND}")

    def _count_cancelled(self, trials: list[tuple[str, int]]) -> None:
        """Takes trials whose waiting job was cancelled by hand again and again for cancelled."""
        self._cancelled.update(trial for trial, _ in trials)
        allowed = self._retry["cancelled"]
        if unwanted := {trial: attempt for trial, attempt in trials if 0 <= allowed < self._cancelled[trial]}:
            self.store.write_cancel(unwanted)
            self.display.note(f"jobs of {', '.join(unwanted)} were cancelled in the queue more than {allowed} times: not submitted again")

    def _tell_ends(self, states: dict[str, TrialState], living: dict[str, Batch]) -> None:
        """Writes down how attempts ended whose workers could not say so, where Slurm can."""
        for trial, state in states.items():
            if state.result or not state.attempts:
                continue
            last = state.attempts[-1]
            if last.cause not in (None, "interrupted") or last.worker in living:
                continue
            end = self.executor.end_of(last.worker)
            if end and (last.cause is None or end["cause"] not in ("killed", "lost")):
                self.store.write_end(trial, len(state.attempts) - 1, end)
                states |= self.store.scan([self._by_id[trial]])

    def _submit(self, now: Plan, living: dict[str, Batch], states: dict[str, TrialState], kinds: dict[str, Any], budget: Budget) -> None:
        """Writes batches down and starts their workers.

        Raises:
            StudyError: batch after batch ended without beginning its first trial; Slurm will never take a batch.
        """
        if self.executor.leaves_workers:  # where trials wait in a queue, one of a kind goes first
            now = canaries(now, states, kinds.__getitem__, above=self._retry["canary"])
        submit = list(budget.pays_for(now))
        mine = {name: batch for name, batch in living.items() if batch.settings.get("executor", "local") == self.executor.kind}
        if now.open and self.executor.spare(mine, running=[*now.status.values()].count("running"), waiting=len(now.open)) > len(submit):
            submit += now.open  # promised to workers that have much to do: whoever begins a trial first has it
        number = max((b.number for b in self.store.batches()), default=-1) + 1
        for batch in self.executor.divide(number, submit, mine) if submit else []:
            if self._is_idle(batch):
                return
            names = [trial for trial, _ in batch.trials]
            batch.settings |= {
                "waves": sorted({wave for trial in names for wave in self._waves_of[trial]}, key=lambda wave: (wave[0] == "t", wave)),
                "run": job_of(self.grid), "request": request_of(self.grid), "data": str(self.data), "code": self.code,
                "weights_files": {trial: self._weights_files[trial] for trial in names if trial in self._weights_files},
                "accumulate": {trial: now.accumulate[trial] for trial in names if trial in now.accumulate}, "queued": time.time(),
                "alone": [trial for trial in names if trial in now.alone],
                "origin": {**snapshot.origin_of(self.store, self.code), "code": self.code}}
            if not self.store.write_batch(batch):
                return
            self._last_batch, self._last_submitted = batch, time.monotonic()
            self._submitted.add(batch.number)
            if not self.executor.submit(batch):
                return

    def _is_idle(self, batch: Batch) -> bool:
        """Whether a batch is to wait: the last one found its first trial begun, or over, of which nothing is seen from here yet.

        Raises:
            StudyError: batches ended again and again without beginning their first trial.
        """
        last = self._last_batch.worker(0) if self._last_batch else ""
        said = self.executor.last_words(last) if last and (self.executor.end_of(last) or {}).get("cause") not in TAKEN_AWAY else None
        same = self._last_batch is not None and self._last_batch.trials[0] == batch.trials[0]
        if same and said and BEGUN_BEFORE in said and time.monotonic() - self._last_submitted < LATE_S:
            return True
        self._idle_batches = self._idle_batches + 1 if same and said is not None else 0
        if self._idle_batches > self._retry["launch_failure"]:
            raise StudyError(f"{self._idle_batches} batches of workers ended before they began a trial; a worker of the last one said:\n"
                             f"{said}\n{MEND}")
        return False

    def _stop_everything(self, *, running: bool) -> None:
        """Lets no worker begin that has not, and asks those that have to keep their progress and end, where `running`."""
        batches = self._unsettled()
        for batch in batches:
            for place, claim in enumerate(batch.claims):
                if claim is None:
                    self.store.claim_place(batch.number, place, {"closed": True})
        self.executor.withdraw(batches, running=running)
