"""Launching a study: read the disk, see who is alive, decide (`harness.plan`), do it, until nothing is left.

Nothing is remembered that is not on disk. A launcher killed at any line and started again goes on, with nothing lost and nothing run
twice: a batch is written down before it is submitted, a worker takes its place in it by creating a file, a trial's attempt is made by
whoever creates the attempt's file, and a result is published once.
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import needs, processes, snapshot, tables
from harness.errors import MissingData, StudyError
from harness.grid import Grid
from harness.local import LocalExecutor
from harness.plan import Batch, Plan, PlannedTrial, TrialState, plan
from harness.store import Store
from harness.trials import job_of, plan_trials, request_of

SHORTEST_LOOK_S = 0.2
"""Pause between two looks at the disk; longer when a look takes long, so that looking stays below a tenth of the time."""
COMPACT_EVERY_S = 30.0
DEAD_STARTS = 3
"""Workers in a row that may die before they take their place, or batches that begin no trial; then the launch ends with what the last
one printed."""
LAST_WORDS_S = 10.0
"""How long workers that have nothing left to do get to write their last lines."""


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


class Launch:
    """One launcher on one study."""

    def __init__(self, store: Store, grid: Grid, *, data: Path, display: Display, options: Options):
        self.store, self.grid, self.data, self.display, self.options = store, grid, data.absolute(), display, options
        self.executor = LocalExecutor(store, grid.local)
        self.stopping = False
        self.started = time.monotonic()
        self._finished: dict[str, TrialState] = {}
        self._dead_starts, self._idle_batches = 0, 0
        self._last_batch: Batch | None = None
        self._code = ""
        self._weights_files: dict[str, str] = {}

    def run(self) -> Plan:
        """Goes on with the study until nothing is left, or until `stopping` and all workers have kept their progress.

        Raises:
            StudyError: another launcher holds the study; the grid differs from the frozen one; workers die before they begin.
            MissingData: something must be staged first; nothing was submitted.
            OSError: the disk is full; nothing finished is lost.
        """
        self._prepare()
        trials = self.store.trials()
        at_start = self._scan(trials)
        forgiven = {trial: len(state.attempts) for trial, state in at_start.items()} if self.options.retry else {}
        full = None
        compacted_at, compacted = time.monotonic(), -1
        while True:
            looked = time.monotonic()
            living = self._living()
            states = self._scan(trials)
            now = plan([t.id for t in trials], states, living=living, slots=self.executor.slots, forgiven=forgiven)
            look_s = time.monotonic() - looked
            if full is None and (full := _disk_full(states, at_start)):
                self.stopping = True
            self.display.update(self, now)
            done = len(trials) - now.count("running", "queued", "pending")
            if now.over or (self.stopping and not living):
                break
            if self.stopping:
                self._stop_workers()
            elif now.workers:
                self._submit(now, living)
            if done != compacted and time.monotonic() - compacted_at > COMPACT_EVERY_S:
                self.compact(now, living)
                compacted_at, compacted = time.monotonic(), done
            self._pause(max(SHORTEST_LOOK_S, 10 * look_s))
        self.compact(now, self._wait_for_last_words())
        if full and not now.over:
            raise StudyError(f"no space left: {full}; nothing that was finished is lost: free some space and give the same command again")
        return now

    def _pause(self, seconds: float) -> None:
        """Sleeps, but not on once the study is to be stopped."""
        until, stopping = time.monotonic() + seconds, self.stopping
        while (left := until - time.monotonic()) > 0 and self.stopping == stopping:
            time.sleep(min(left, SHORTEST_LOOK_S))

    def compact(self, now: Plan, living: dict[str, Batch]) -> None:
        """Writes the tables as things stand."""
        ended = {trial: status for trial, status in now.status.items() if status in ("failed", "lost")}
        tables.compact(self.store, self.grid, living=frozenset(living), states=ended)

    def _wait_for_last_words(self) -> dict[str, Batch]:
        """Lets workers that have published their last result say so in their attempt files too; returns those that still live."""
        until = time.monotonic() + LAST_WORDS_S
        while True:
            living = self._living()
            living = {name: batch for name, batch in living.items() if batch.claims[batch.place(name)]}
            if not living or time.monotonic() > until:
                return living
            time.sleep(0.02)

    # --- before the first look ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Takes hold of the study and freezes everything that is decided before the first trial; every step may be repeated."""
        store, grid = self.store, self.grid
        trials = plan_trials(grid, needs.source_digests(grid, store))
        configs = [t.config for t in trials] if grid.job is None else []
        options = self.options
        if gone := needs.missing(configs, data=self.data, runs=store.root.parent, grid=options.grid_path, overrides=options.overrides):
            raise MissingData(needs.missing_text(gone))
        self.executor.check()
        needs.build_caches(configs, self.data, note=self.display.note)
        store.create_folders()
        self._hold()
        if store.frozen_grid() is None or self.options.update_grid:
            store.freeze_grid(grid.text)
        self._choose_code()
        self._take_over_weights()
        store.write_wave(0, trials, told=[], anew=self.options.update_grid)
        planned = store.trials()
        if [t.id for t in planned] != [t.id for t in trials]:
            raise StudyError(f"{store.root} was planned with other trials than this grid and this version make now (a default or an "
                             "earlier study's weights changed): start anew with --study-dir DIR, or take the new plan with --update-grid; "
                             "finished trials that are in both are kept")
        self._weights_files = self._files_of_weights(planned)

    def _choose_code(self) -> None:
        """The snapshot that workers import: the study's own, or today's source for a new study and with --update-code."""
        source = snapshot.Source.of_this_process(self.grid.job.run if self.grid.job else None)
        self.store.write_environment(snapshot.environment(source))
        batches = self.store.batches()
        self._code = batches[-1].settings["code"] if batches else self.store.environment()["code"]
        if self._code != source.digest and self.store.code_folder(self._code).exists() and not self.options.update_code:
            self.display.note(f"the code has changed since this study began; its workers go on with the study's own copy, "
                              f"{self.store.code_folder(self._code)} (--update-code takes today's for what has not run yet)")
            return
        self._code = source.digest
        source.copy_into(self.store)

    def _hold(self) -> None:
        """Becomes the study's launcher, if no other is alive."""
        launchers = self.store.launchers()
        gone: list[str] = launchers[-1]["gone"] if launchers else []
        if launchers and (alive := processes.is_alive(launchers[-1], gone)) is not False:
            holder = launchers[-1]
            if alive or not self.options.take_over:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
                end = ("end it there with Ctrl-C first" if alive else
                       f"it cannot be seen from {socket.gethostname()}: end it there first, or, if that host is gone, add --take-over")
                raise StudyError(f"study {self.grid.name} is being launched by process {holder['pid']} on {holder['host']} "
                                 f"since {since}; {end}")
            gone = [*gone, holder["host"]]
        gone = [host for host in gone if host != socket.gethostname()]  # it is back, and its workers count for others again
        me = {**processes.this_process(), "since": time.time(), "gone": gone}
        self.executor.gone = gone
        if not self.store.take_over(len(launchers) + 1, me):
            raise StudyError(f"another launcher took hold of study {self.grid.name} at the same moment; let it go on")

    def _take_over_weights(self) -> None:
        """Copies the weights that come from earlier studies into this one."""
        for source, trial in needs.sources(self.grid, self.store).values():
            needs.take_over_weights(source, trial, self.store)

    def _files_of_weights(self, trials: list[PlannedTrial]) -> dict[str, str]:
        """trial -> the file its weights are read from, for trials that start from weights."""
        from jobs.registry import weights_path

        found = {}
        for trial in trials if self.grid.job is None else []:
            if digest := trial.config["weights_digest"]:
                found[trial.id] = str(self.store.weights_file(digest))
            elif path := weights_path(trial.config["model"], trial.config["weights"], self.data):
                found[trial.id] = str(path)
        return found

    # --- looking and acting ------------------------------------------------------------------------------------------------------

    def _scan(self, trials: list[PlannedTrial]) -> dict[str, TrialState]:
        """The state of every trial; what is finished is not read twice."""
        fresh = self.store.scan([t.id for t in trials if t.id not in self._finished])
        finished = {trial: state for trial, state in fresh.items() if state.result}
        for trial in finished:
            self.store.tidy(trial)
        self._finished |= finished
        return {**self._finished, **fresh}

    def _living(self) -> dict[str, Batch]:
        """The workers that are alive, or were started and have not taken their place yet. A place that nobody can take any more is
        closed, so that a worker which comes late ends at once."""
        batches = self.store.batches()
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

    def _close(self, batch: Batch, place: int) -> None:
        """Closes the place of a worker that never came."""
        if not self.store.claim_place(batch.number, place, {"closed": True}):
            return
        if (said := self.executor.last_words(batch.worker(place))) is not None:
            self._dead_starts += 1
            if self._dead_starts >= DEAD_STARTS:
                raise StudyError(f"{DEAD_STARTS} workers ended before they could begin; the last one said:\n{said}")

    def _submit(self, now: Plan, living: dict[str, Batch]) -> None:
        """Writes a batch down and starts its workers.

        Raises:
            StudyError: batch after batch ended without beginning its first trial.
        """
        if self._last_batch and self._last_batch.trials[0] == now.submit[0]:
            self._idle_batches += 1
            if self._idle_batches >= DEAD_STARTS:
                raise StudyError(f"{DEAD_STARTS} batches of workers ended before they began a trial; a worker of the last one said:\n"
                                 f"{self.executor.last_words(self._last_batch.worker(0))}")
        else:
            self._idle_batches = 0
        number = max((b.number for b in self.store.batches()), default=-1) + 1
        weights = {trial: self._weights_files[trial] for trial, _ in now.submit if trial in self._weights_files}
        settings: dict[str, Any] = {
            "run": job_of(self.grid), "request": request_of(self.grid), "data": str(self.data), "weights_files": weights,
            "code": self._code, "origin": {**snapshot.origin_of(self.store, self._code), "code": self._code},
            **self.executor.resources(now.workers, living)}
        batch = Batch(number=number, workers=now.workers, trials=now.submit, settings=settings)
        if not self.store.write_batch(batch):
            return
        self._last_batch = batch
        self.executor.submit(batch)

    def _stop_workers(self) -> None:
        """Asks every worker that took its place to keep its progress and end, and lets no other begin."""
        for batch in self.store.batches():
            for place, claim in enumerate(batch.claims):
                if claim is None:
                    self.store.claim_place(batch.number, place, {"closed": True})
                else:
                    self.executor.stop(claim)


def _disk_full(states: dict[str, TrialState], at_start: dict[str, TrialState]) -> str | None:
    """What an attempt said that met a full disk since the launch began."""
    for trial, state in states.items():
        met, before = ([a for a in s.attempts if a.cause == "disk_full"] for s in (state, at_start[trial]))
        if len(met) > len(before):
            return met[-1].error
    return None
