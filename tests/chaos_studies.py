"""The studies that `tests.chaos` disturbs: their grids and jobs, their launchers, and which of their processes live."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slurm_fixture import Cluster
from slurm_studies import SlurmBench
from studies import ROOT

from harness.files import read_log
from harness.grid import read_grid
from harness.store import Store
from harness.trials import Planner

OFTEN = 40
"""How often in [retry] a trial may die of one cause before it gets on. Faults are a hundred times as dense here as where the defaults
(3 or 4) are meant for, and a trial that is hit while it starts gets nowhere."""

JOB = '''
"""Sleeps where others compute. A step that is lost, made twice or read from a torn file would change every later score."""
import hashlib, json, os, time
from jobs import durable
from jobs.contract import Interrupted, Outcome


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def newest(folder):
    """(rows, state) of the newest whole checkpoint."""
    for path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
        head, _, body = path.read_text().partition("\\n")
        if head == digest(body):
            return json.loads(body)
    return [], ""


def train(trial, context):
    pause, config, (rows, state) = float(os.environ.get("CHAOS_PAUSE_S", "0")), trial.config, newest(context.folder)
    saved = time.monotonic()

    def save():
        context.fence()
        body = json.dumps([rows, state])
        durable.replace(context.folder / f"checkpoint-{len(rows):06d}.json", f"{digest(body)}\\n{body}".encode(), step="checkpoint")
        for old in sorted(context.folder.glob("checkpoint-*.json"))[:-2]:
            old.unlink(missing_ok=True)

    while len(rows) < config["epochs"]:
        time.sleep(pause)
        state = digest(f"{state} {config['width']} {trial.seed} {len(rows)}")
        rows.append({"epoch": len(rows) + 1, "score": int(state[:8], 16) / 2**32})
        context.report({**rows[-1], "seconds": pause})
        stop = context.stop()
        if stop or time.monotonic() - saved >= context.checkpoint_s:
            save()
            saved = time.monotonic()
        if stop:
            raise Interrupted
    return Outcome(status="done", epoch=len(rows), rows=rows)
'''

GRID = """
[study]
name = "{name}"
seeds = {seeds}
{settings}

[compare]
{compared} = {values}

[slurm]
tasks_per_node = {ranks}
running = {running}
trials_per_job = {share}
time_min = {time_min}

[local]
ranks = {ranks}

[retry]
killed = {often}
cancelled = {often}
lost = {often}
time_limit = {often}
launch_failure = {often}
"""

SLEEPING = """metric = "score"

[job]
run = "chaos_job:train"
metrics = ["score"]

[fixed]
epochs = {epochs}
"""

DIGITS = """
[fixed]
train_images = 160
batch_size = 32
filters = 4
hidden = 16
epochs = {epochs}
schedule = "cosine"
dropout = 0.2
augment = "crop_flip"
"""

PAUSE_S = 0.2
"""How long an epoch of the sleeping job takes on Slurm; the undisturbed run does not sleep at all."""


GONE_AFTER_S = 15
LAUNCH = f"""
import sys
from harness import launch, slurm_executor
slurm_executor.GONE_AFTER_S = {GONE_AFTER_S}
sys.exit(launch.main())
"""
"""The launcher, but with less patience for jobs that Slurm has forgotten: two minutes are for NFS, and here files are seen at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One of the studies."""

    name: str
    partition: str
    weight: int
    """Its share of all trials."""
    variants: int
    epochs: int
    running: int
    share: int
    """Trials of one job."""
    built_in: bool = False
    ranks: int = 1
    time_min: int = 10


KINDS = (Kind(name="sleeping", partition="low", weight=42, variants=4, epochs=50, running=3, share=3),
         Kind(name="cancelled", partition="cancel", weight=30, variants=3, epochs=50, running=2, share=4, time_min=1),
         Kind(name="digits", partition="low", weight=24, variants=2, epochs=120, running=1, share=6, built_in=True),
         Kind(name="two-ranks", partition="main", weight=4, variants=2, epochs=25, running=1, share=2, built_in=True, ranks=2))


def make_studies(folder: Path, cluster: Cluster, *, trials: int) -> "list[ChaosStudy]":
    """The studies, of at least so many trials together."""
    whole = sum(kind.weight for kind in KINDS)
    return [ChaosStudy(folder, cluster, kind, trials=max(kind.variants, math.ceil(trials * kind.weight / whole))) for kind in KINDS]


class ChaosError(Exception):
    """The run cannot go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """A process that trains."""

    pid: int
    trial: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker's process, whichever run of its job it is."""

    study: "ChaosStudy"
    pid: int
    job_id: str
    node: str
    ranks: tuple[Rank, ...]

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.study.name}, job {self.job_id} on {self.node}"

    @property
    def attempts(self) -> frozenset[tuple[str, str, int]]:
        """The (study, trial, attempt) that end when it does."""
        return frozenset((self.study.name, rank.trial, rank.attempt) for rank in self.ranks)


class ChaosStudy(SlurmBench):
    """A study, its undisturbed twin, and the launcher that is given again whenever it was killed."""

    def __init__(self, folder: Path, cluster: Cluster, kind: Kind, *, trials: int):
        super().__init__(folder / kind.name, cluster, data=folder / "data")
        self.name, self.kind = kind.name, kind
        seeds = math.ceil(trials / kind.variants)
        (self.folder / "chaos_job.py").write_text(JOB)
        self.grid.write_text(GRID.format(**{name: getattr(kind, name) for name in Kind.__slots__}, seeds=list(range(seeds)), often=OFTEN,
                                         settings=(DIGITS if kind.built_in else SLEEPING).format(epochs=kind.epochs),
                                         compared="depth" if kind.built_in else "width", values=list(range(1, kind.variants + 1))))
        self.site(partition=kind.partition)
        self.before = ["-c", LAUNCH]
        self.twin = Store(self.folder / "undisturbed")
        self.launcher: subprocess.Popen[bytes] | None = None
        self.launches, self.over = 0, False
        self.trials = [trial.id for trial in Planner(read_grid(self.grid)).trials()]
        self.attempts_at_result: dict[str, int] = {}
        """Trial -> how many attempts it had when its result was first seen."""
        self._far: dict[str, float] = {}

    def run_undisturbed(self) -> None:
        """The same grid on this machine, with nobody disturbing it."""
        command = [sys.executable, "-m", "harness.launch", str(self.grid), "--local", "--study-dir", str(self.twin.root)]
        with (self.folder / "undisturbed.log").open("wb") as log:
            done = subprocess.run(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, timeout=600, check=False)
        if done.returncode:
            raise ChaosError(f"the undisturbed run of {self.name} failed:\n{(self.folder / 'undisturbed.log').read_text()[-2000:]}")

    def launch(self) -> None:
        """Gives the command, the same each time."""
        self.launches += 1
        with (self.folder / "launcher.log").open("ab") as log:
            log.write(f"--- launch {self.launches}\n".encode())
            log.flush()
            self.launcher = subprocess.Popen(self.command(), cwd=ROOT, env={**self.environment, "CHAOS_PAUSE_S": str(PAUSE_S)}, stdout=log,
                                             stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def end(self) -> None:
        """Ends the launcher and what it is just asking Slurm; its jobs end with the cluster."""
        if self.launcher and self.launcher.poll() is None:
            os.killpg(self.launcher.pid, signal.SIGKILL)
            self.launcher.wait()

    def said(self) -> str:
        """What the launchers printed last."""
        return (self.folder / "launcher.log").read_text(errors="replace")[-2000:]

    def progress(self) -> float:
        """Share of its epochs that are done, 0 to 1."""
        for trial in self.trials:
            if self._far.get(trial, 0.0) >= 1:
                continue
            published = (self.store.trial_folder(trial) / "result.json").exists()
            logs = sorted(self.store.trial_folder(trial).glob("a*.jsonl"))
            if published:
                self._far[trial], self.attempts_at_result[trial] = 1.0, len(logs)
            elif logs:
                epochs = [event["epoch"] for event in read_log(logs[-1]) if event["event"] == "epoch"]
                self._far[trial] = max(self._far.get(trial, 0.0), max(epochs, default=0) / (self.kind.epochs + 1))
        return sum(self._far.values()) / len(self.trials)

    def finished(self) -> int:
        """How many trials have a result, as far as was looked."""
        return sum(share >= 1 for share in self._far.values())

    def workers(self) -> list[Worker]:  # type: ignore[override]
        """The workers that are alive, found by their command line, which names this study's folder and nothing else on the machine does."""
        found, parents = dict[int, list[str]](), dict[int, int]()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if str(self.store.root) in command and "harness.worker" in command:
                        parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                        found[int(entry.name)] = command
                except OSError:
                    continue
        workers = []
        for pid in found:
            if parents[pid] in found or not (variables := _variables(pid)):
                continue
            job_id = f"{variables.get('SLURM_ARRAY_JOB_ID')}_{variables.get('SLURM_ARRAY_TASK_ID')}"
            ranks = tuple(rank for child, parent in parents.items() if parent == pid and (rank := self._rank(child)))
            workers.append(Worker(study=self, pid=pid, job_id=job_id, node=variables.get("SLURMD_NODENAME", ""), ranks=ranks))
        return workers

    def _rank(self, pid: int) -> Rank | None:
        """A child of a worker as a rank: its output goes to the log of its attempt. None while it is not so far, or is something else."""
        try:
            log = Path(f"/proc/{pid}/fd/1").readlink()
        except OSError:
            return None
        if log.parent.parent != self.store.root / "trials":
            return None
        return Rank(pid=pid, trial=log.parent.name, attempt=int(log.name[1:].partition(".")[0]))


def _variables(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when it is gone."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, equals, value in (entry.partition("=") for entry in entries) if equals}


def strike(pid: int, study: ChaosStudy, number: int = signal.SIGKILL) -> bool:
    """Sends a signal to a worker or rank of a study; false when it is gone. The process is held while it is looked at, so that no other
    that has got its number meanwhile can be meant."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if str(study.store.root).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
