"""Runs workers on this machine through submitit's local executor, with slots of our own on top.

submitit alone starts every job at once, gives each the same GPU, and takes process ids of the past for jobs of today; so it is
used to start a worker and nothing else: how many run, on which GPUs, and whether they live is decided here and read from the study
folder. A GPU has as many seats as `trials_per_gpu` says, each for a worker of its own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import processes, worker
from harness.errors import StudyError
from harness.grid import Local
from harness.plan import Batch
from harness.processes import without_ctrl_c
from harness.store import Store

FOREVER_MIN = 60 * 24 * 365
"""submitit's local jobs end after two minutes unless told otherwise."""


class LocalExecutor:
    """Starts workers on this machine and knows the ones it started.

    Args:
        keep: whether workers go on with later batches, which is worth while where trials come little by little. A batch then has a place
            for each worker that lives, too: its setting `after` has the first name of the worker that a place is kept for, and "" where
            one is started.
    """

    kind = "local"
    leaves_workers = False
    pause_s = 0.2
    """How long to wait before the next look."""
    trouble = ""

    def __init__(self, store: Store, local: Local, *, keep: bool = False):
        self.store, self.local, self.keep = store, local, keep
        self.gpus = _gpus() if local.gpus_per_trial else []
        self.gone: list[str] = []
        """Hosts that somebody said are no more, with all that ran there."""
        self._jobs: dict[str, Any] = {}

    @property
    def gpus_per_worker(self) -> int:
        """GPUs that one worker sees: as the grid says, or one for each rank where there are GPUs."""
        wanted = self.local.ranks if self.local.gpus_per_trial < 0 else self.local.gpus_per_trial
        return wanted if len(self.gpus) >= wanted else 0

    def check(self) -> None:
        """Raises StudyError when the grid asks for GPUs that this machine has not, or for fewer than its trials have processes."""
        wanted, ranks = self.local.gpus_per_trial, self.local.ranks
        if wanted > len(self.gpus):
            raise StudyError(f"[local] gpus_per_trial = {wanted}, and this machine offers {len(self.gpus)}; "
                             "lower it, or set it to 0 to train on the CPU")
        if 0 < wanted < ranks:
            raise StudyError(f"[local] gpus_per_trial = {wanted} for ranks = {ranks}: each process needs a GPU of its own")

    @property
    def gpus_per_trial(self) -> float:
        """GPUs that one trial takes up: where it shares one, its part."""
        return self.gpus_per_worker / self.local.trials_per_gpu

    @property
    def slots(self) -> int:
        """How many workers fit on this machine at once, at least one."""
        fit = available_cpus() // max(self.local.cpus_per_trial, self.local.ranks)
        if self.gpus_per_worker:
            fit = len(self.gpus) // self.gpus_per_worker * self.local.trials_per_gpu
        return max(1, min(fit, self.local.running) if self.local.running else fit)

    def spare(self, living: dict[str, Batch], *, running: int, waiting: int) -> int:
        """How many more workers fit and would find something to begin: those that live and run nothing take one of the `waiting` each."""
        living_now = len(self._at_work(living, self._kept()))
        return max(0, min(self.slots - living_now, waiting - max(0, living_now - running)))

    def _at_work(self, living: dict[str, Batch], kept: dict[str, tuple[Batch, int]]) -> list[tuple[Batch, int]]:
        """The places at which workers are, or will be; where workers are kept, each at the last place that it took."""
        return [*kept.values(), *((batch, Batch.place(name)) for name, batch in living.items()
                                   if not self.keep or self._is_started(batch, Batch.place(name)))]

    def _kept(self) -> dict[str, tuple[Batch, int]]:
        """First name of a worker that goes on with later batches, and lives -> the place that it took last."""
        return {first: (batch, place) for first, (batch, place) in self._at().items() if self._lives(batch, place)}

    def divide(self, number: int, trials: list[tuple[str, int]], living: dict[str, Batch]) -> list[Batch]:
        """The batch to submit now, if a slot is free: its workers take from all the trials, each on GPUs on which it has a seat."""
        kept = self._kept()
        at_work = self._at_work(living, kept)
        workers = max(0, min(self.slots - len(at_work), len(trials)))
        busy = Counter(gpu for batch, place in at_work for gpu in batch.settings["gpus"][place])
        free = [gpu for seat in range(self.local.trials_per_gpu) for gpu in self.gpus if busy[gpu] <= seat]  # the least busy GPUs first
        each = self.gpus_per_worker
        settings: dict[str, Any] = {"executor": self.kind, "ranks": self.local.ranks, "device": "cuda" if each else "cpu",
                                    "gpus": [free[place * each:(place + 1) * each] for place in range(workers)],
                                    "gpus_per_trial": self.gpus_per_trial,
                                    **({"fuse": self.local.fuse} if self.local.fuse > 1 else {})}
        if self.keep:
            settings |= {"cpus": self.local.cpus_per_trial, "after": [""] * workers}
            for first, (batch, place) in kept.items():  # all of them: who is the first to have nothing left is not known
                gpus, same = batch.settings["gpus"][place], all(batch.settings[key] == settings[key] for key in ("ranks", "device", "cpus"))
                settings["gpus"] += [gpus] if same and len(gpus) == each else []
                settings["after"] += [first] if same and len(gpus) == each else []
            workers = len(settings["after"])
        return [Batch(number=number, workers=workers, trials=trials, settings=settings)] if workers else []

    def submit(self, batch: Batch) -> bool:
        """Starts the workers of a batch. Each takes its own GPUs itself: submitit knows them by number only, and hides them all."""
        import submitit

        executor = submitit.LocalExecutor(folder=self.store.submitit_folder)
        executor.update_parameters(timeout_min=FOREVER_MIN, tasks_per_node=1)
        for place in (place for place in range(batch.workers) if not _kept_for(batch, place)):
            with _environment(self.local, self.store.code_folder(batch.settings["code"])), without_ctrl_c(), _without_output():
                job = executor.submit(worker.main, str(self.store.root), batch.number, place)
            job._cancel_at_deletion = False
            self._jobs[batch.worker(place)] = job
        return True

    def alive(self, batches: list[Batch]) -> set[str]:
        """The workers that run, and those that this launcher started, or that live at another place, and have not taken theirs yet."""
        found, at = set(), self._at()
        for batch in batches:
            if batch.settings.get("executor", self.kind) != self.kind:
                continue
            for place, claim in enumerate(batch.claims):
                name = batch.worker(place)
                if claim is None and (first := _kept_for(batch, place)):
                    lives = first in at and self._lives(*at[first])
                elif claim is None:
                    lives = name in self._jobs and self._jobs[name]._process.poll() is None
                else:
                    last, last_place = at.get(_kept_for(batch, place) or name, (batch, place))
                    lives = (last.number, last_place) == (batch.number, place) and self._lives(batch, place)
                found |= {name} if lives else set()
        return found

    def _at(self) -> dict[str, tuple[Batch, int]]:
        """First name of a worker -> the place that it took last; empty where workers are not kept."""
        batches = [batch for batch in self.store.batches() if "after" in batch.settings] if self.keep else []
        return {_kept_for(batch, place) or batch.worker(place): (batch, place) for batch in batches
                for place, claim in enumerate(batch.claims) if claim and not claim.get("closed")}

    def _lives(self, batch: Batch, place: int) -> bool:
        """Whether the process that took a place lives, there or elsewhere by now."""
        claim = batch.claims[place]
        return claim is not None and not claim.get("closed") and processes.is_alive(claim, self.gone) is not False

    @staticmethod
    def _is_started(batch: Batch, place: int) -> bool:
        """Whether a worker was started for a place that it has not taken yet."""
        return batch.claims[place] is None and not _kept_for(batch, place)

    def last_words(self, name: str) -> str | None:
        """The end of what a worker printed; None when this launcher did not start it."""
        if (job := self._jobs.get(name)) is None:
            return None
        path = job.paths.stderr
        return path.read_text(errors="replace")[-2000:].strip() if path.exists() else "(it printed nothing)"

    def withdraw(self, batches: list[Batch], *, running: bool) -> None:
        """Asks every worker to keep its progress and end, where `running` does not spare those that work."""
        for claim in (claim for batch in batches for claim in batch.claims if running and claim and not claim.get("closed")):
            if processes.is_alive(claim):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(claim["pid"], signal.SIGTERM)

    def end_of(self, worker: str) -> None:
        """Nobody but the worker itself says how it ended."""

    def news(self) -> str:
        """There is nothing to say of this machine."""
        return ""


def _kept_for(batch: Batch, place: int) -> str:
    """The first name of the worker that a place is kept for; "" where a worker is started."""
    return str(batch.settings["after"][place]) if "after" in batch.settings else ""


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The GPUs this process may use, by number or by the UUID or MIG name it was given, without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")]
    if not (command := shutil.which("nvidia-smi")):
        return []
    asked = subprocess.run([command, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return asked.stdout.split() if asked.returncode == 0 else []


@contextlib.contextmanager
def _environment(local: Local, code: Path) -> Iterator[None]:
    """The variables a worker starts with: the study's own source first, and as many threads as the trial may use."""
    threads = str(max(1, local.cpus_per_trial // local.ranks))
    ours = {"PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])), "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """A child started inside writes to nobody: otherwise `launch | tee log` would wait for workers long after the launcher was killed.
    What a worker prints goes to submitit's files."""
    sys.stdout.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for handle in (*kept, nowhere):
            os.close(handle)
