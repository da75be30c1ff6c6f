"""The study folder: the one owner of its paths and files. State is what is on disk; nothing is kept twice.

    runs/<study>/
      grid.toml env.json          the frozen grid; packages and the study's nonce
      code/<digest>/              the source that workers import
      launcher/000001.json        who launches; the highest number holds the study, until its process is gone
      launcher/000001.beat        a number it counts up, for those who cannot see its process
      waves/000.json              all trials of a grid without [tune]
      waves/v001-004.json         decision 4 on variant 1: what was proposed, promoted or chosen to be confirmed, and what had been told
      waves/test-001.json         trials that the test split was opened for, the first time
      weights/<sha256>.pt         weights taken over from an earlier study
      submit/000.json             a batch, before it is submitted: trials with the attempt each may make
      submit/000.job.json         Slurm's number for it, once it is submitted
      submit/000-1.json           the worker that took place 1 of batch 0, or a launcher's note that nobody may
      cancel/000.json             trials that are not wanted any more, or are wanted again
      trials/<trial_id>/          config.json a000.jsonl a000.log checkpoint-*.pt selected.pt result.json
      trials/<trial_id>/rung-00009.json   the result after 9 epochs of a trial that rests there; it may go on
      trials/<trial_id>/test-001.json     its metrics of the test split, where that was opened after the training
      trials/<trial_id>/predictions.npz   what it said of each test image when the test split was last opened for it (`jobs.predictions`)
      trials/<trial_id>/a000.end.json   how an attempt ended whose worker could not say so itself
      submitit/                   job scripts and what the workers print; never the truth
      trials.parquet epochs.parquet attempts.parquet predictions.parquet
"""

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import StudyError
from harness.events import summary
from harness.plan import Batch, PlannedTrial, TrialState
from harness.waves import Wave, as_content, from_content
from jobs.failpoint import failpoint

OVER = ("done", "infeasible", "pruned", "tested")
"""How an attempt ends that has got as far as was asked."""


class Store:
    """Paths, reads and commits of one study."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self._trials = self.root / "trials"
        self._batches: dict[int, Batch] = {}
        self._waves: dict[str, Wave] = {}

    # --- paths ---------------------------------------------------------------------------------------------------------------

    @property
    def grid_file(self) -> Path:
        """The frozen grid."""
        return self.root / "grid.toml"

    @property
    def env_file(self) -> Path:
        """Nonce and environment, written once."""
        return self.root / "env.json"

    @property
    def submitit_folder(self) -> Path:
        """Where submitit keeps its pickles and logs; nobody but us may write there."""
        return self.root / "submitit"

    def worker_log(self, worker: str) -> Path:
        """What the job of a worker on Slurm printed."""
        return self.submitit_folder / f"{worker}.log"

    def code_folder(self, digest: str) -> Path:
        """A snapshot of the source."""
        return self.root / "code" / digest

    def trial_folder(self, trial_id: str) -> Path:
        """Everything of one trial."""
        return self._trials / trial_id

    def attempt_file(self, trial_id: str, attempt: int) -> Path:
        """The events of one attempt; creating it is the right to make it."""
        return self._trials / f"{trial_id}/a{attempt:03d}.jsonl"

    def attempt_log(self, trial_id: str, attempt: int) -> Path:
        """What the attempt printed."""
        return self.trial_folder(trial_id) / f"a{attempt:03d}.log"

    def selected_weights(self, trial_id: str) -> Path:
        """The state dict of the trial's selected epoch."""
        return self.trial_folder(trial_id) / "selected.pt"

    def weights_file(self, digest: str) -> Path:
        """Weights taken over from an earlier study, by SHA-256."""
        return self.root / "weights" / f"{digest}.pt"

    def table_file(self, table: str) -> Path:
        """`trials`, `epochs`, `attempts` or `predictions`."""
        return self.root / f"{table}.parquet"

    # --- making a study ------------------------------------------------------------------------------------------------------

    def create_folders(self) -> None:
        """Makes the study folder and its parts.

        Raises:
            StudyError: the place cannot be written; nothing was changed.
        """
        if os.pathsep in str(self.root):
            raise StudyError(f"the path of the study folder, {self.root}, has a `{os.pathsep}`, which Python's search path is divided by; "
                             "choose another place with --study-dir DIR")
        try:
            for name in ("code", "launcher", "waves", "weights", "submit", "cancel", "trials", "submitit"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            self.submitit_folder.chmod(0o700)
        except OSError as error:
            raise StudyError(f"cannot make the study folder {self.root}: {error.strerror or error}; "
                             "choose another place with --study-dir DIR") from error

    def frozen_grid(self) -> str | None:
        """The text of the frozen grid, None when there is no study yet.

        Raises:
            StudyError: it cannot be read.
        """
        try:
            return self.grid_file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"cannot read {self.grid_file}: {error}; choose another place with --study-dir DIR") from error

    def freeze_grid(self, text: str) -> None:
        """Makes `text` the study's grid."""
        files.replace(self.grid_file, text.encode(), step="grid")

    def environment(self) -> dict[str, Any]:
        """env.json, empty before it is written."""
        return files.read_json(self.env_file, "nonce") or {}

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Writes env.json once; a second call changes nothing."""
        files.publish(self.env_file, files.to_json(environment), step="env")

    # --- waves ---------------------------------------------------------------------------------------------------------------

    def write_wave(self, wave: Wave, *, anew: bool = False) -> None:
        """Records a decision; the first wins, unless the grid was changed on purpose and the wave is written anew."""
        path, content = self._wave_file(wave.name), files.to_json(as_content(wave))
        if anew:
            files.replace(path, content, step="wave")
            self._waves.pop(wave.name, None)
        else:
            files.publish(path, content, step="wave")

    def waves(self) -> list[Wave]:
        """All decisions; variant by variant, in the order in which they were made, those on the test split last. What was published does
        not change, so nothing is read twice."""
        names = sorted((path.stem for path in (self.root / "waves").glob("[0-9vt]*.json")), key=lambda name: (name[0] == "t", name))
        for name in names:
            if name not in self._waves:
                self._waves[name] = from_content(files.read_json(self._wave_file(name), "trials"))
        return [self._waves[name] for name in names]

    def _wave_file(self, name: str) -> Path:
        return self.root / "waves" / f"{name}.json"

    def trials(self, only: Collection[str] | None = None, *, waves: Collection[str] = ()) -> list[PlannedTrial]:
        """All trials in order, each with what it has been granted by now.

        Args:
            only: the trials that are wanted.
            waves: with `only`, the names of the waves that have them, which need then not show in the folder yet, as NFS may have it.
        """
        found: dict[tuple[str, str], PlannedTrial] = {}
        granted: dict[str, PlannedTrial] = {}
        read = self.waves() if not waves else [from_content(files.read_json(self._wave_file(name), "trials"), only) for name in waves]
        for trial in (trial for wave in read for trial in wave.trials if only is None or trial.id in only):
            of, most = (trial.variant, trial.id), granted.setdefault(trial.id, trial)
            if trial is not most:  # two variants may share one: what was granted to it in either counts
                budget = None if None in (trial.budget, most.budget) else max(trial.budget or 0, most.budget or 0)
                granted[trial.id] = dataclasses.replace(trial, budget=budget, opening=max(trial.opening, most.opening))
            found.setdefault(of, trial)
        found = {of: dataclasses.replace(trial, budget=granted[trial.id].budget, opening=granted[trial.id].opening)
                 if granted[trial.id] is not trial else trial for of, trial in found.items()}
        order = {variant: n for n, variant in enumerate(dict.fromkeys(variant for variant, _ in found))}
        if all(trial.phase == "compare" for trial in found.values()):
            return list(found.values())
        return sorted(found.values(), key=lambda t: (order[t.variant], t.number, t.seed))  # whenever each was decided on

    # --- who launches --------------------------------------------------------------------------------------------------------

    def launchers(self) -> list[dict[str, Any]]:
        """Everybody who ever launched this study, oldest first."""
        return [files.read_json(path, "pid") for path in sorted((self.root / "launcher").glob("[0-9]*.json"))]

    def take_over(self, number: int, who: dict[str, Any]) -> bool:
        """Becomes launcher `number`; false when somebody else did so first."""
        return files.publish(self.root / "launcher" / f"{number:06d}.json", files.to_json(who), step="launcher")

    def newest_launcher(self) -> int:
        """The number of who launched last; 0 before anybody did."""
        return max((int(path.stem) for path in (self.root / "launcher").glob("[0-9]*.json")), default=0)

    def beat(self, number: int, count: str) -> None:
        """Shows that launcher `number` still counts, or that it has ended."""
        files.replace(self._beat_file(number), count.encode(), step="beat")

    def last_beat(self, number: int) -> str:
        """What launcher `number` has counted up to."""
        try:
            return self._beat_file(number).read_text()
        except OSError:
            return ""

    def beat_at(self, number: int) -> float | None:
        """When launcher `number` last showed that it counts, by the clock of the disk; None when it never did."""
        try:
            return self._beat_file(number).stat().st_mtime
        except OSError:
            return None

    def _beat_file(self, number: int) -> Path:
        return self.root / "launcher" / f"{number:06d}.beat"

    # --- batches and workers -------------------------------------------------------------------------------------------------

    def write_batch(self, batch: Batch) -> bool:
        """Records the intent to submit a batch; false when its number is taken."""
        content = {"workers": batch.workers, "share": batch.share, "trials": batch.trials, **batch.settings}
        return files.publish(self._batch_file(batch.number), files.to_json(content), step="batch")

    def submitted(self, batch: int, job_id: str) -> None:
        """Records Slurm's number for a batch."""
        files.publish(self.root / "submit" / f"{batch:03d}.job.json", files.to_json({"job_id": job_id}), step="job")

    def batches(self, settled: Collection[str] = frozenset()) -> list[Batch]:
        """All batches ever intended, with the workers that took their places (None: nobody did yet). What was published does not
        change, so nothing is read twice.

        Args:
            settled: trials that are over; who took a place that has no others is not read.
        """
        names = {entry.name for entry in os.scandir(self.root / "submit")} if (self.root / "submit").is_dir() else set()
        for number in sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()):
            if (batch := self._batches.get(number)) is None:
                batch = self._batches[number] = self.batch(number)
                batch.claims = [None] * batch.workers
            if batch.job_id is None and f"{number:03d}.job.json" in names:
                batch.job_id = files.read_json(self.root / "submit" / f"{number:03d}.job.json", "job_id")["job_id"]
            if None in batch.claims:
                for place, claim in enumerate(batch.claims):
                    if claim is None and f"{number:03d}-{place}.json" in names and (
                            not settled or any(trial not in settled for trial, _ in batch.trials_of(place))):
                        batch.claims[place] = self.claim(number, place)
        return [self._batches[number] for number in sorted(self._batches)]

    def batch(self, number: int) -> Batch:
        """A batch as it was intended. Who took its places is not read: a thousand workers that begin would ask for each other's."""
        content = files.read_json(self._batch_file(number), "trials")
        workers, share, trials = content.pop("workers"), content.pop("share", 0), content.pop("trials")
        return Batch(number=number, workers=workers, share=share, trials=[(t, a) for t, a in trials], settings=content)

    def claim_place(self, batch: int, place: int, who: dict[str, Any]) -> bool:
        """Takes a worker's place in a batch; false when it is taken, or nobody may take it any more."""
        return files.publish(self._claim_file(batch, place), files.to_json(who), step="claim")

    def claim(self, batch: int, place: int) -> dict[str, Any] | None:
        """Who took a place; None when nobody has."""
        return files.read_json(self._claim_file(batch, place), "worker", "closed")  # type: ignore[no-any-return]

    def _batch_file(self, number: int) -> Path:
        return self.root / "submit" / f"{number:03d}.json"

    def _claim_file(self, number: int, place: int) -> Path:
        return self.root / "submit" / f"{number:03d}-{place}.json"

    # --- what is not wanted any more -----------------------------------------------------------------------------------------

    def write_cancel(self, trials: dict[str, int], *, variants: Collection[str] = ()) -> None:
        """Records that trials are not wanted any more: trial -> how many attempts it had then; and variants whose search is to end."""
        self._write_wish({"trials": trials, "forgiven": {}, "variants": sorted(variants)})

    def forgive(self, trials: dict[str, int]) -> None:
        """Records that trials are wanted again, whatever became of them: trial -> how many attempts do not count against it. Searches
        that were to end go on."""
        self._write_wish({"trials": dict.fromkeys(trials, -1), "forgiven": trials, "variants": None})

    def _write_wish(self, content: dict[str, Any]) -> None:
        number = sum(1 for _ in (self.root / "cancel").glob("[0-9]*.json"))
        while not files.publish(self.root / "cancel" / f"{number:03d}.json", files.to_json(content), step="cancel"):
            number += 1

    def forgiven(self) -> dict[str, int]:
        """trial -> how many of its first attempts do not count against it."""
        found: dict[str, int] = {}
        for path in sorted((self.root / "cancel").glob("[0-9]*.json")):
            found |= files.read_json(path, "trials").get("forgiven", {})
        return found

    def cancelled(self) -> dict[str, int]:
        """trial -> how many attempts it had when it was last cancelled, without those that are wanted again."""
        found: dict[str, int] = {}
        for path in sorted((self.root / "cancel").glob("[0-9]*.json")):
            found |= files.read_json(path, "trials")["trials"]
        return {trial: attempts for trial, attempts in found.items() if attempts >= 0}

    def ended_searches(self) -> set[str]:
        """The variants for which nothing more is to be proposed, because somebody said so."""
        ended: set[str] = set()
        for path in sorted((self.root / "cancel").glob("[0-9]*.json")):
            variants = files.read_json(path, "trials").get("variants", [])
            ended = set() if variants is None else ended | set(variants)
        return ended

    # --- trials and attempts -------------------------------------------------------------------------------------------------

    def begin_attempt(self, trial: PlannedTrial, attempt: int, request: dict[str, Any]) -> "AttemptLog | None":
        """Creates the attempt's file, which is the right to make the attempt; None when somebody else has it, or there is nothing left to
        do for the trial.

        Args:
            request: what `jobs.config.Trial` needs besides config and seed.
        """
        folder = self.trial_folder(trial.id)
        folder.mkdir(exist_ok=True)
        if self.reached(trial):
            return None
        if not (folder / "config.json").exists():
            from harness.identity import HASH_VERSION
            described = {"hash_version": HASH_VERSION, "variant": trial.variant, "config": trial.config, "seed": trial.seed, **request}
            files.publish(folder / "config.json", files.to_json(described), step="config")
        handle = files.create_log(self.attempt_file(trial.id, attempt))
        failpoint("attempt.created")
        return None if handle is None else AttemptLog(handle)

    def newer_attempt(self, trial_id: str, attempt: int) -> bool:
        """Whether an attempt after `attempt` has begun: then this one must write nothing more."""
        return self.attempt_file(trial_id, attempt + 1).exists()

    def publish_result(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Publishes the trial's result; the first wins, and a later one has the same bytes."""
        return files.publish(self.trial_folder(trial_id) / "result.json", files.to_json(result), step="result")

    def publish_rung(self, trial_id: str, epochs: int, result: dict[str, Any]) -> bool:
        """Publishes the result of a trial after as many epochs as it was granted; it may go on from there."""
        return files.publish(self._rung_file(trial_id, epochs), files.to_json(result), step="rung")

    def publish_test(self, trial_id: str, opening: int, metrics: dict[str, float]) -> bool:
        """Publishes a trial's metrics of the test split."""
        return files.publish(self._test_file(trial_id, opening), files.to_json({"opening": opening, "test": metrics}), step="test")

    def result(self, trial_id: str, *, budget: int | None = None) -> dict[str, Any] | None:
        """The trial's result, None when it has none; with a `budget`, that after so many epochs where it has no other."""
        whole = files.read_json(self._trials / f"{trial_id}/result.json", "status")
        return whole or (files.read_json(self._rung_file(trial_id, budget), "status") if budget else None)

    def test(self, trial_id: str, opening: int) -> dict[str, float] | None:
        """A trial's metrics of the test split, None when they have not been published; {} when its job reports none."""
        content = files.read_json(self._test_file(trial_id, opening), "test") if opening else None
        return content["test"] if content else None

    def reached(self, trial: PlannedTrial) -> str | None:
        """The status of what has come of a trial, None while it has not got as far as was granted to it."""
        result = self.result(trial.id, budget=trial.budget)
        if result is None or (trial.opening and result["status"] == "done" and self.test(trial.id, trial.opening) is None):
            return None
        return str(result["status"])

    def _rung_file(self, trial_id: str, epochs: int) -> Path:
        return self._trials / f"{trial_id}/rung-{epochs:05d}.json"

    def _test_file(self, trial_id: str, opening: int) -> Path:
        return self._trials / f"{trial_id}/test-{opening:03d}.json"

    def tidy(self, trial_id: str) -> None:
        """Drops what a finished trial needs no more: checkpoints, and what writers that were killed left half-done."""
        for entry in list(os.scandir(self.trial_folder(trial_id))):
            if entry.name.startswith("checkpoint-") or (entry.name.startswith(".") and entry.name.endswith(".tmp")):
                Path(entry.path).unlink(missing_ok=True)

    def write_end(self, trial_id: str, attempt: int, end: dict[str, Any]) -> None:
        """Records how an attempt ended whose worker could not say so itself; the first word counts."""
        files.publish(self._end_file(trial_id, attempt), files.to_json(end), step="end")

    def _end_file(self, trial_id: str, attempt: int) -> Path:
        return self.trial_folder(trial_id) / f"a{attempt:03d}.end.json"

    def attempts(self, trial_id: str) -> Iterator[list[dict[str, Any]]]:
        """The events of each attempt, oldest first."""
        number = 0
        while (path := self.attempt_file(trial_id, number)).exists():
            events = files.read_log(path)
            own = next((e for e in events if e["event"] == "end"), None)
            if (own is None or own["cause"] == "interrupted") and (end := files.read_json(self._end_file(trial_id, number))):
                events = [*(e for e in events if e["event"] != "end"), {"event": "end", **(own or {}), **end}]
            yield events
            number += 1

    def scan(self, trials: Iterable[PlannedTrial]) -> dict[str, TrialState]:
        """What the disk says of each trial."""
        try:
            begun = {entry.name for entry in os.scandir(self.root / "trials")}  # one question for all those that have nothing yet
        except FileNotFoundError:
            begun = set()
        return {trial.id: self._state(trial) if trial.id in begun else TrialState() for trial in trials}

    def _state(self, trial: PlannedTrial) -> TrialState:
        if status := self.reached(trial):
            return TrialState(result=status)
        attempts = tuple(summary(events) for events in self.attempts(trial.id))
        if attempts and attempts[-1].cause in OVER and (status := self.reached(trial)):
            return TrialState(result=status)  # it came between the two looks
        return TrialState(attempts=attempts)


class AttemptLog:
    """Appends events to an attempt's file. Its one writer is the worker that created it."""

    def __init__(self, handle: int):
        self._handle, self._torn = handle, False

    def write(self, event: dict[str, Any], *, durable: bool = False) -> None:
        """Appends one event. A full disk loses the event, not the training: what counts is in the checkpoint and in the result."""
        line = ("\n" if self._torn else "") + json.dumps(event, separators=(",", ":")) + "\n"
        self._torn = True  # until the whole line is there: half a line must not swallow the next one
        try:
            self._torn = os.write(self._handle, line.encode()) < len(line)
            if durable:
                os.fsync(self._handle)
        except OSError as error:
            print(f"could not record {event.get('event')}: {error.strerror}", flush=True)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)
