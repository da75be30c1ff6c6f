"""The study folder: the one owner of its paths and files. State is what is on disk; nothing is kept twice.

    runs/<study>/
      grid.toml env.json          the frozen grid; packages and the study's nonce
      code/<digest>/              the source that workers import
      launcher/000001.json        who launches; the highest number holds the study, until its process is gone
      launcher/000001.beat        a number it counts up, for those who cannot see its process
      waves/000.json              what was proposed, in order, and which results had been told when it was asked
      weights/<sha256>.pt         weights taken over from an earlier study
      submit/000.json             a batch, before it is submitted: trials with the attempt each may make
      submit/000.job.json         Slurm's number for it, once it is submitted
      submit/000-1.json           the worker that took place 1 of batch 0, or a launcher's note that nobody may
      cancel/000.json             trials that are not wanted any more, or are wanted again
      trials/<trial_id>/          config.json a000.jsonl a000.log checkpoint-*.pt selected.pt result.json
      trials/<trial_id>/a000.end.json   how an attempt ended whose worker could not say so itself
      submitit/                   job scripts and what the workers print; never the truth
      trials.parquet epochs.parquet attempts.parquet
"""

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import StudyError
from harness.plan import Attempt, Batch, PlannedTrial, TrialState
from jobs.failpoint import failpoint


class Store:
    """Paths, reads and commits of one study."""

    def __init__(self, root: Path):
        self.root = root.absolute()
        self._trials = self.root / "trials"
        self._batches: dict[int, Batch] = {}

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
        """`trials`, `epochs` or `attempts`."""
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

    def write_wave(self, wave: int, trials: list[PlannedTrial], *, told: list[str], anew: bool = False) -> None:
        """Records what was proposed; the first wins, unless the grid was changed on purpose and the wave is written anew. What all
        configs have in common is written once: a hundred thousand trials are then a file of some megabytes."""
        first = trials[0].config if trials else {}
        configs = {id(t.config): t.config for t in trials}.values()  # seeds may share theirs
        common = {name: value for name, value in first.items() if all(name in c and _same(c[name], value) for c in configs)}
        content = files.to_json({"wave": wave, "told": told, "common": common, "trials": [
            {"id": t.id, "variant": t.variant, "seed": t.seed,
             "config": {name: value for name, value in t.config.items() if name not in common}} for t in trials]})
        path = self.root / "waves" / f"{wave:03d}.json"
        if anew:
            files.replace(path, content, step="wave")
        else:
            files.publish(path, content, step="wave")

    def trials(self, only: Collection[str] | None = None) -> list[PlannedTrial]:
        """All trials of all waves, in order; or only those with the names that are wanted."""
        found = []
        for path in sorted((self.root / "waves").glob("[0-9]*.json")):
            content = files.read_json(path, "trials")
            configs: dict[tuple[str, str], dict[str, Any]] = {}  # the seeds of a variant share theirs, which a large study feels
            for line in content["trials"] if only is None else [line for line in content["trials"] if line["id"] in only]:
                of = line["variant"], line["id"].partition("-")[0]
                config = configs.get(of) or configs.setdefault(of, {**content.get("common", {}), **line["config"]})
                found.append(PlannedTrial(wave=content["wave"], **{**line, "config": config}))
        return found

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

    def write_cancel(self, trials: dict[str, int]) -> None:
        """Records that trials are not wanted any more: trial -> how many attempts it had then."""
        self._write_wish({"trials": trials, "forgiven": {}})

    def forgive(self, trials: dict[str, int]) -> None:
        """Records that trials are wanted again, whatever became of them: trial -> how many attempts do not count against it."""
        self._write_wish({"trials": dict.fromkeys(trials, -1), "forgiven": trials})

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

    # --- trials and attempts -------------------------------------------------------------------------------------------------

    def begin_attempt(self, trial: PlannedTrial, attempt: int, request: dict[str, Any]) -> "AttemptLog | None":
        """Creates the attempt's file, which is the right to make the attempt; None when somebody else has it, or a result is there.

        Args:
            request: what `jobs.config.Trial` needs besides config and seed.
        """
        folder = self.trial_folder(trial.id)
        folder.mkdir(exist_ok=True)
        if (folder / "result.json").exists():
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

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """The trial's result, None when it has none."""
        return files.read_json(self._trials / f"{trial_id}/result.json", "status")  # type: ignore[no-any-return]

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

    def scan(self, trial_ids: list[str]) -> dict[str, TrialState]:
        """What the disk says of each trial."""
        try:
            begun = {entry.name for entry in os.scandir(self.root / "trials")}  # one question for all those that have nothing yet
        except FileNotFoundError:
            begun = set()
        return {trial_id: self._state(trial_id) if trial_id in begun else TrialState() for trial_id in trial_ids}

    def _state(self, trial_id: str) -> TrialState:
        if result := self.result(trial_id):
            return TrialState(result=result["status"])
        attempts = tuple(_summary(events) for events in self.attempts(trial_id))
        if attempts and attempts[-1].cause in ("done", "infeasible") and (result := self.result(trial_id)):
            return TrialState(result=result["status"])  # it came between the two looks
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


def _same(one: object, other: object) -> bool:
    """Whether two values are written alike: 1, 1.0 and true are not, nor are 0.0 and -0.0."""
    return one is other or (one == other and repr(one) == repr(other))


def _summary(events: list[dict[str, Any]]) -> Attempt:
    """An attempt as planning sees it."""
    start = next((e for e in events if e["event"] == "start"), {})
    end = next((e for e in events if e["event"] == "end"), None)
    return Attempt(worker=start.get("worker", ""), cause=end["cause"] if end else None, error=end.get("error") if end else None,
                   where=end.get("where") if end else None, progress=sum(e["event"] in ("epoch", "checkpoint") for e in events))
