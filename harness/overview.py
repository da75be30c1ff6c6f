"""A study as it stands, for those who only look: what the disk says, what Slurm says, and what `harness.plan` makes of both.

Nothing here writes. Where Slurm does not answer, what it was told to run counts as running or waiting still, and `trouble` says so.
"""

import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import processes, slurm
from harness.errors import StudyError, UsageError, printable
from harness.events import began, members
from harness.finished import Finished, finished, read_finished
from harness.grid import Grid, parse_grid
from harness.lease import Lease, lives
from harness.named import RUNS, find_study, find_trial, shown
from harness.plan import Attempt, Batch, Plan, PlannedTrial, TrialState, plan
from harness.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Launcher:
    """Who launched a study last."""

    host: str
    pid: int
    job_id: str
    """The Slurm job it runs in, "" for an attached one."""
    since: float
    alive: bool | None
    """None: on a host that cannot be seen from here."""
    silent_s: float | None
    """How long ago it last showed that it lives, if the clocks agree; it does so every 20 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One attempt, as its file and Slurm tell it."""

    number: int
    worker: str
    host: str
    job_id: str
    """Slurm's, "" for a worker on this machine."""
    pid: int | None
    started: float | None
    ended: float | None
    """None while it runs, and when nobody could write it down."""
    last_sign: float | None
    """When it was last heard of."""
    running: bool
    cause: str | None
    """None while it runs, or when nobody can say."""
    slurm_state: str | None
    """What Slurm said of its job, where that decided the cause."""
    error: str | None
    where: str | None
    first_epoch: int | None
    """The first epoch it finished; later than 1 when it went on from a checkpoint."""
    last_epoch: int | None
    ranks: int
    accumulate: int
    """Pieces its batches were cut into."""
    fused: int
    """How many trials were trained as one program, this one of them."""

    def seconds(self, now: float) -> float:
        """How long it took, or has been running."""
        if self.started is None:
            return 0.0
        end = max(now, self.last_sign or now) if self.running else self.ended or self.last_sign or self.started
        return max(0.0, end - self.started)


@dataclass(kw_only=True)
class Overview:
    """One look at a study."""

    store: Store
    now: float
    """Seconds since 1970 on this machine."""
    grid: Grid | None
    """None before there is any."""
    trials: dict[str, PlannedTrial]
    """In the order of the plan."""
    finished: dict[str, Finished]
    states: dict[str, TrialState]
    plan: Plan
    batches: dict[int, Batch]
    living: dict[str, Batch]
    """The workers that are alive or may yet come."""
    launcher: Launcher | None
    queue: slurm.Queue | None
    """Slurm's answer; None when it was not asked, or did not answer."""
    trouble: str
    """Why Slurm did not answer, "" when it did or had not to be asked."""
    unseen: list[str] = field(default_factory=list)
    """Hosts of workers that count as alive because they cannot be seen from here."""
    cancelled: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The study folder."""
        return self.store.root

    @property
    def name(self) -> str:
        """What the study is called."""
        return self.grid.name if self.grid else printable(self.root.name)

    @property
    def status(self) -> dict[str, str]:
        """trial -> done | infeasible | failed | lost | cancelled | running | queued | pending."""
        return self.plan.status

    @cached_property
    def nonce(self) -> str:
        """What the names of its jobs are made of."""
        return str(self.store.environment().get("nonce", ""))

    def batch_of(self, worker: str) -> Batch | None:
        """The batch of a worker, from the worker's name."""
        number = worker.partition("-")[0]
        return self.batches.get(int(number)) if number.isdigit() else None

    def element(self, worker: str) -> slurm.Element | None:
        """The job of a worker, as Slurm shows it."""
        if self.queue is None or not self.on_slurm(worker):
            return None
        number, _, place = worker.partition("-")
        return self.queue.find(slurm.job_name(self.nonce, int(number)), int(place))

    def elements(self) -> list[slurm.Element]:
        """Its trials' jobs that run or wait in the queue."""
        prefix = slurm.job_name(self.nonce, "")
        return [element for name, places in (self.queue.jobs.items() if self.queue and self.nonce else ())
                if name.startswith(prefix) and name.removeprefix(prefix).isdigit() for element in places.values() if not element.ended]

    def launcher_jobs(self) -> list[slurm.Element]:
        """Its launcher jobs that run or wait in the queue."""
        from harness.detach import launcher_jobs

        return launcher_jobs(self.store, self.queue) if self.queue and self.nonce else []

    def on_slurm(self, worker: str) -> bool:
        """Whether a worker is a Slurm job."""
        batch = self.batch_of(worker)
        return batch is not None and batch.settings.get("executor") == "slurm"

    def gpus(self, worker: str) -> int:
        """GPUs that a worker holds."""
        if (batch := self.batch_of(worker)) is None:
            return 0
        local: list[list[str]] = batch.settings.get("gpus", [])
        place = Batch.place(worker)
        return len(local[place]) if place < len(local) else int(batch.settings.get("gpus_per_job", 0))

    def gpus_per_trial(self, worker: str) -> float:
        """GPUs that one trial of a worker takes up: where it shares one, its part."""
        batch = self.batch_of(worker)
        return float(batch.settings.get("gpus_per_trial", self.gpus(worker))) if batch else 0.0

    def cpus(self, worker: str) -> int:
        """CPU cores of one trial of a worker."""
        settings = batch.settings if (batch := self.batch_of(worker)) else {}
        ranks = int(settings.get("ranks", 1))
        if "cpus_per_task" in settings:
            return ranks * int(settings["cpus_per_task"])
        return max(ranks, self.grid.local.cpus_per_trial if self.grid else 1)

    def records(self, trial_id: str) -> list[Record]:
        """All attempts of a trial, oldest first."""
        attempts = self.states[trial_id].attempts
        return [self._record(number, events, attempts[number] if number < len(attempts) else None)
                for number, events in enumerate(self.store.attempts(trial_id))]

    def _record(self, number: int, events: list[dict[str, Any]], state: Attempt | None) -> Record:
        """
        Args:
            state: what planning was told of it, which knows what Slurm says; None for a finished trial.
        """
        start = next((event for event in events if event["event"] == "start"), {})
        end = next((event for event in events if event["event"] == "end"), {})
        times = [event["time"] for event in events if "time" in event]
        epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
        worker = str(start.get("worker", ""))
        cause = end.get("cause") or (state.cause if state else None)
        element = self.element(worker)
        return Record(
            number=number, worker=worker, host=printable(str(start.get("host", ""))), pid=start.get("pid"),
            job_id=printable(str(start.get("job_id", ""))) if self.on_slurm(worker) else "", started=began(events),
            ended=end.get("time"), last_sign=max(times, default=None), running=cause is None and worker in self.living, cause=cause,
            slurm_state=end.get("state") or (element.state if element and element.ended and not end else None), error=end.get("error"),
            where=end.get("where"), first_epoch=min(epochs, default=None), last_epoch=max(epochs, default=None),
            ranks=int(start.get("ranks", 1)), accumulate=int(start.get("accumulate", 1)),
            fused=members(events))

    def command(self, verb: str, *words: str) -> str:
        """The command line of a verb on this study."""
        return shlex.join(["python", "-m", f"harness.{verb}", shown(self.root), *words])

    def launch_command(self, *words: str) -> str:
        """The command that goes on with the study as it was launched last."""
        last = self.batches[max(self.batches)].settings if self.batches else {}
        place = ["--local"] if last.get("executor") == "local" else ["--profile", last["profile"]] if last.get("profile") else []
        default = self.grid is not None and (RUNS / self.grid.name).absolute() == self.root
        where = [] if default else ["--study-dir", shown(self.root)]
        return shlex.join(["python", "-m", "harness.launch", shown(self.store.grid_file), *place, *where, *words])

    def settings(self, trial_id: str) -> dict[str, Any]:
        """The parameters of a trial that are not the same for all."""
        return {name: self.trials[trial_id].config.get(name) for name in self.varied}

    @cached_property
    def varied(self) -> list[str]:
        """The parameters that differ between trials."""
        configs = [trial.config for trial in self.trials.values()]
        names = dict.fromkeys(name for config in configs for name in config)
        first = configs[0] if configs else {}
        return [name for name in names if any(config.get(name) != first.get(name) for config in configs)]


def look(root: Path, *, ask: bool = True) -> Overview:
    """Looks at a study.

    Args:
        ask: whether Slurm is asked, where the disk alone does not tell.

    Raises:
        StudyError: a file of it is damaged or cannot be read.
    """
    with readable(root):
        return _look(Store(root), ask=ask)


@contextlib.contextmanager
def readable(root: Path) -> Iterator[None]:
    """Inside, what cannot be read of a study, or is not what belongs there, becomes a StudyError."""
    try:
        yield
    except BrokenPipeError:  # nobody reads what we print
        raise
    except OSError as error:
        raise StudyError(f"cannot read {printable(str(error.filename or root))}: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"a file of {shown(root)} is not what this version writes ({type(error).__name__}: {printable(str(error))}); "
                         "restore it from a copy") from error


def _look(store: Store, *, ask: bool) -> Overview:
    text = store.frozen_grid()
    grid = parse_grid(text, name=shown(store.grid_file)) if text is not None else None
    trials = {trial.id: trial for trial in store.trials()}
    known = _still_there(store, read_finished(store, grid.metric, trials)) if grid else {}
    states = {trial: TrialState(result=one.status) for trial, one in known.items()}
    states |= store.scan([trial for name, trial in trials.items() if name not in known])
    settled = {trial for trial, state in states.items() if state.result}
    over = bool(trials) and len(settled) == len(trials) and not (grid and grid.tune)  # a search may have more to come
    for _ in range(3):
        batches = {batch.number: batch for batch in store.batches(settled)}
        holder = Lease.holder(store)
        queue, trouble = _ask(store, batches.values(), holder) if ask and not over else (None, "")
        launcher = _launcher(store, holder, queue)
        nonce = str(store.environment().get("nonce", ""))
        living, ends, unseen = _living(nonce, batches.values(), settled, queue, launcher, holder["gone"] if holder else [])
        # Again: what ended before Slurm was asked has said so now.
        states |= store.scan([trial for name, trial in trials.items() if name not in settled])
        if not any(_is_news(state, batches) for state in states.values()):
            break
    states = {trial: _told(states[trial], living, ends) for trial in trials}
    results = {trial: store.result(trial, budget=trials[trial].budget) for trial, state in states.items()
               if state.result and trial not in known}
    metric = grid.metric if grid else ""
    known |= {trial: finished(result, metric, list(store.attempts(trial))) for trial, result in results.items() if result}
    cancelled, forgiven = store.cancelled(), store.forgiven()
    retry = dataclasses.asdict(grid.retry) if grid else {}
    decided = plan(list(trials), states, living=living, retry=retry, forgiven=forgiven, cancelled=cancelled)
    if grid and grid.tune:
        decided = dataclasses.replace(decided, more=_has_more(store, grid, decided.status))
    return Overview(store=store, now=time.time(), grid=grid, trials=trials, finished=known, states=states, plan=decided, batches=batches,
                    living=living, launcher=launcher, queue=queue, trouble=trouble, unseen=unseen, cancelled=cancelled)


def _has_more(store: Store, grid: Grid, status: Mapping[str, str]) -> bool:
    """Whether a search has something to decide yet."""
    from harness.search.conduct import Conductor
    from harness.trials import Planner

    return Conductor(store, grid, Planner(grid), note=lambda text: None).unfinished(status)


def _still_there(store: Store, known: dict[str, Finished]) -> dict[str, Finished]:
    """Those of the finished trials that somebody has not thrown away to have them run again."""
    if not known:
        return {}
    with os.scandir(store.root / "trials") as entries:
        there = {entry.name for entry in entries}
    return {trial: one for trial, one in known.items() if trial in there}


def _ask(store: Store, batches: Collection[Batch], holder: dict[str, Any] | None) -> tuple[slurm.Queue | None, str]:
    """(Slurm's answer, why there is none); both empty for a study that runs on this machine."""
    local = bool(batches) and all(batch.settings.get("executor") != "slurm" for batch in batches)
    if local and not (holder and holder.get("job_id")):
        return None, ""
    if not batches and not slurm.available():
        return None, ""  # nothing is known to be there
    if not slurm.available():
        return None, "squeue is not on this machine"
    if store.env_file.exists() and (owner := store.env_file.stat().st_uid) != os.getuid():
        return None, f"the study belongs to user {owner}, and squeue was not asked for jobs of others"
    try:
        return slurm.queue(), ""
    except slurm.Unanswered as error:
        return None, str(error)


def _launcher(store: Store, holder: dict[str, Any] | None, queue: slurm.Queue | None) -> Launcher | None:
    if holder is None:
        return None

    def answer() -> slurm.Queue:
        if queue is None:
            raise slurm.Unanswered
        return queue

    return Launcher(host=printable(str(holder["host"])), pid=holder["pid"], job_id=printable(str(holder.get("job_id") or "")),
                    since=holder["since"], alive=lives(store, holder, holder["gone"], answer),
                    silent_s=None if (beat := store.beat_at(holder["number"])) is None else round(max(0.0, time.time() - beat), 1))


def _living(nonce: str, batches: Iterable[Batch], settled: set[str], queue: slurm.Queue | None, launcher: Launcher | None,
            gone: list[str]) -> tuple[dict[str, Batch], dict[str, str], list[str]]:
    """(workers that are alive or may yet come, final states of jobs that are over, hosts that cannot be seen)."""
    living, ends, unseen = dict[str, Batch](), dict[str, str](), set[str]()
    launched = launcher is not None and launcher.alive is not False
    for batch in batches:
        for place, claim in enumerate(batch.claims):
            worker = batch.worker(place)
            if claim and claim.get("closed") or settled and all(trial in settled for trial, _ in batch.trials_of(place)):
                continue
            if batch.settings.get("executor") == "slurm":
                element = queue.find(slurm.job_name(nonce, batch.number), place) if queue else None
                if element and element.ended:
                    ends[worker] = element.state
                # Where a submission is not confirmed yet, the launcher that makes it knows more than the queue.
                lives_on = queue is None or (element is not None and not element.ended) or (
                    element is None and claim is None and batch.job_id is None and launched)
            else:
                seen = processes.is_alive(claim, gone) if claim else launched
                unseen |= {str(claim["host"])} if claim and seen is None else set()
                lives_on = seen is not False
            if lives_on:
                living[worker] = batch
    return living, ends, sorted(unseen)


def _is_news(state: TrialState, batches: dict[int, Batch]) -> bool:
    """Whether an attempt runs whose worker was submitted after the batches were read."""
    worker = state.attempts[-1].worker if state.attempts and state.attempts[-1].cause is None else ""
    number = worker.partition("-")[0]
    return number.isdigit() and int(number) not in batches


def _told(state: TrialState, living: dict[str, Batch], ends: dict[str, str]) -> TrialState:
    """The state with what the launcher would write down of an attempt whose worker could not say how it ended."""
    last = state.attempts[-1] if state.attempts else None
    if last is None or last.cause not in (None, "interrupted") or last.worker in living or last.worker not in ends:
        return state
    cause = slurm.CAUSES.get(ends[last.worker], "lost")
    if last.cause is not None and cause in ("killed", "lost"):
        return state
    return dataclasses.replace(state, attempts=(*state.attempts[:-1], dataclasses.replace(last, cause=cause)))


def study_and_trial(study: str | None, trial: str | None, *, ask: bool = True) -> tuple[Overview, str | None]:
    """The study and the trial in it, or None, that up to two words mean: a single word that is no study is a trial of the study that was
    launched last.

    Args:
        ask: as for `look`.

    Raises:
        UsageError: there is no such study or trial.
        StudyError: as `look`.
    """
    try:
        root = find_study(study)
    except UsageError as error:
        if study is None or trial is not None:
            raise
        try:
            latest = look(find_study(None), ask=ask)
        except UsageError:
            raise error from None
        try:
            return latest, find_trial(latest.trials, study)
        except UsageError as other:
            raise UsageError(f"{error}; and of {latest.name}, the study launched last: {other}") from error
    overview = look(root, ask=ask)
    return overview, find_trial(overview.trials, trial) if trial is not None else None
