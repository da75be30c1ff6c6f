"""Chaos: random faults on studies that run on a real Slurm, and what they did to the results.

    python -m tests.chaos --faults 300 --trials 150 --seed 1

Four studies run at once on a development cluster of their own and fill its eight CPUs: a job that sleeps where others compute, in the
partitions `low` (preempted: requeued) and `cancel` (preempted: cancelled), and the built-in training on the digits with one and with two
ranks. Their launchers are given the same command again whenever one was killed. The seed decides which faults come, and in which order;
what they hit is whatever lives by then. Afterwards the tables must be those of an undisturbed `--local` run of the same grids.

A fault counts when it met something alive: a process that ran, a job that ran or waited, a file that was there. Exit status: 0 all is as
promised, 1 not; what differs is printed and the studies are kept. Every process is ended, on Ctrl-C and after a failure too.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from chaos_studies import ChaosError, ChaosStudy, Worker, make_studies, strike
from chaos_verdict import judge, loss_lines, losses
from slurm_fixture import NODES, Cluster, ClusterError, temporary_cluster

TARGET_S = 12.0
"""How long a fault waits for something that it can hit before another takes its place."""
DEALT_BY = 0.85
"""The share of the training after which all faults are dealt out; what comes later is only for those that have found nothing to hit."""
GAP_S = 0.3
"""Between two faults, at least."""
RESUME_S = 5.0
"""How often drained nodes are looked for."""
STUCK_S = 200.0
"""Nothing that comes right by itself takes longer: not even a controller that asks its nodes what runs there of its own accord."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A fault that met its target."""

    kind: str
    when: float
    what: str
    attempts: frozenset[tuple[str, str, int]] = frozenset()
    """(study, trial, attempt) that it may have ended."""


class Chaos:
    """Deals faults out to studies on a cluster."""

    def __init__(self, cluster: Cluster, studies: list[ChaosStudy], *, seed: int, faults: int, until: float, log: Path):
        self.cluster, self.studies, self.faults, self.until = cluster, studies, faults, until
        self.kinds, self.chance = random.Random(f"kinds {seed}"), random.Random(f"targets {seed}")
        self.hits: list[Hit] = []
        self.missed = Counter[str]()
        self.problems: list[str] = []
        self.down = set[str]()
        """Daemons that do not answer just now."""
        self.jobs: dict[str, set[str]] = {}
        """Name of a batch -> the numbers of all jobs that squeue ever showed with it."""
        self._log, self._timers = log, list[tuple[float, Callable[[], object]]]()
        self._furthest, self._moved, self._resumed = 0.0, 0.0, 0.0

    # --- dealing -------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Launches the studies, deals the faults, and waits until the studies are over.

        Raises:
            ChaosError: it takes too long, or a daemon cannot be started again.
        """
        self._moved = time.monotonic()
        for number, study in enumerate(self.studies):
            self._later(0.5 * number, study.launch)
        for kind in self._deck():
            if len(self.hits) >= self.faults or all(study.over for study in self.studies):
                break
            self._pass(GAP_S)
            due = DEALT_BY * (len(self.hits) + self.chance.random()) / self.faults
            while self._progress() < due and not all(study.over for study in self.studies):
                self._pass(0.1)
            self._deal(kind)
        while self._timers or not all(study.over for study in self.studies):
            self._progress()
            self._pass(0.2)

    def _deck(self) -> Iterator[str]:
        """The kinds of all faults in their order, and more for those that find nothing to hit."""
        total, deck = sum(share for share, _ in FAULTS.values()), list[tuple[float, str]]()
        for kind, (share, _) in FAULTS.items():
            deck += [(self.kinds.uniform(*WHEN.get(kind, (0, 1))), kind) for _ in range(max(1, round(self.faults * share / total)))]
        yield from (kind for _, kind in sorted(deck))
        while True:
            yield self.kinds.choices(list(FAULTS), [share for share, _ in FAULTS.values()])[0]

    def _deal(self, kind: str) -> None:
        """Makes one fault, as soon as there is something that it can hit."""
        give_up = time.monotonic() + TARGET_S
        while time.monotonic() < give_up and not all(study.over for study in self.studies):
            if not (kind in NEED_CONTROLLER and "slurmctld" in self.down) and (hit := FAULTS[kind][1](self)):
                self.hits.append(dataclasses.replace(hit, kind=kind))
                self._note(f"{len(self.hits)} {kind}: {hit.what}; {sorted(hit.attempts)}")
                return
            self._pass(0.1)
        self.missed[kind] += 1
        self._note(f"- {kind}: nothing to hit")

    def _progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        now = sum(len(study.trials) * study.progress() for study in self.studies) / sum(len(study.trials) for study in self.studies)
        if now > self._furthest:
            self._furthest, self._moved = now, time.monotonic()
        return now

    def _pass(self, seconds: float) -> None:
        """Waits, and does meanwhile what is due: daemons and launchers that are to come back, nodes that Slurm has drained.

        Raises:
            ChaosError: time is up, or nothing moves any more.
        """
        end = time.monotonic() + seconds
        while True:
            for timer in [timer for timer in self._timers if timer[0] <= time.monotonic()]:
                self._timers.remove(timer)
                timer[1]()
            for study in self.studies:
                self._tend(study)
            self._resume_nodes()
            if time.monotonic() > self.until:
                raise ChaosError(f"the time is up: {self._how_far()}")
            if time.monotonic() - self._moved > STUCK_S:
                raise ChaosError(f"nothing has moved for {STUCK_S:.0f} s: {self._how_far()}")
            if time.monotonic() >= end:
                return
            time.sleep(0.05)

    def _tend(self, study: ChaosStudy) -> None:
        """Takes note of a launcher that ended by itself; one that should not have is given again."""
        if study.over or study.launcher is None or (status := study.launcher.poll()) is None:
            return
        study.launcher, study.over = None, status == 0
        if status:
            self.problems.append(f"the launcher of {study.name} ended with {status}:\n{study.said()}")
            self._note(self.problems[-1])
            if len(self.problems) > 5:
                raise ChaosError("launchers keep failing")
            self._later(1.0, study.launch)

    def _resume_nodes(self) -> None:
        """What an administrator does from time to time: takes nodes back that Slurm has drained for what it met there."""
        if time.monotonic() - self._resumed > RESUME_S and "slurmctld" not in self.down:
            self._resumed = time.monotonic()
            for line in self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").stdout.splitlines():
                node, _, state = line.partition(" ")
                if state.startswith("drain") and node not in self.down:
                    self._ask("scontrol", "update", f"nodename={node}", "state=resume")

    def _how_far(self) -> str:
        done = ", ".join(f"{study.name} {study.finished()}/{len(study.trials)}{' over' if study.over else ''}" for study in self.studies)
        return f"{len(self.hits)} of {self.faults} faults; {done}; not answering: {sorted(self.down) or 'nothing'}"

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        self._timers.append((time.monotonic() + seconds, action))

    def _note(self, text: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{time.time():.3f} {text}\n")

    # --- looking -------------------------------------------------------------------------------------------------------------------

    def workers(self) -> list[Worker]:
        """All workers that are alive."""
        return [worker for study in self.studies for worker in study.workers()]

    def queue(self, *states: str) -> list[tuple[str, str]]:
        """(job id, node) of the studies' jobs in these states; none when the controller does not answer."""
        said = self._ask("squeue", "--noheader", "--array", "--format=%i|%j|%T|%N").stdout
        rows = [line.split("|") for line in said.splitlines() if line.count("|") == 3]
        for job_id, name, _, _ in rows:
            if name.startswith("h-"):
                self.jobs.setdefault(name, set()).add(job_id.partition("_")[0])
        return [(job_id, node) for job_id, name, state, node in rows if name.startswith("h-") and state in states]

    def _ask(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs one of Slurm's commands; one that is not answered has failed."""
        try:
            return self.cluster.run(*command, timeout_s=20)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", "no answer")

    # --- faults: each hits something that lives and says what, or returns None --------------------------------------------------------

    def kill_launcher(self) -> Hit | None:
        """kill -9; the same command is given again."""
        busy = [study for study in self.studies if study.launcher and study.finished() < len(study.trials)]
        if not busy:
            return None
        study = self.chance.choice(busy)
        assert study.launcher
        study.launcher.kill()
        if study.launcher.wait() != -signal.SIGKILL:
            return None  # it had just ended; `_tend` finds out how
        study.launcher = None
        self._later(self.chance.uniform(0, 2), study.launch)
        return _hit(f"{study.name}, launch {study.launches}")

    def kill_worker(self) -> Hit | None:
        """kill -9 of the batch script's process; its ranks die with it."""
        if not (workers := self.workers()):
            return None
        worker = self.chance.choice(workers)
        return _hit(worker.name, worker.attempts) if strike(worker.pid, worker.study) else None

    def kill_rank(self) -> Hit | None:
        """kill -9 of a process that trains."""
        ranks = [(worker, rank) for worker in self.workers() for rank in worker.ranks]
        if not ranks:
            return None
        worker, rank = self.chance.choice(ranks)
        return _hit(f"{worker.name}, {rank.trial}", worker.attempts) if strike(rank.pid, worker.study) else None

    def kill_slurmd(self) -> Hit | None:
        """kill -9 of a node's daemon, which comes back after seconds, or when the controller has given the node up."""
        if not (nodes := sorted(set(NODES) - self.down)):
            return None
        node = self.chance.choice(nodes)
        away_s = self.chance.uniform(2, 8) if self.chance.random() < 0.7 else self.chance.uniform(24, 30)
        attempts = frozenset[tuple[str, str, int]]().union(*(w.attempts for w in self.workers() if w.node == node))
        self.cluster.send(node, "kill")
        self._back_after(node, away_s)
        return _hit(f"{node} for {away_s:.0f} s", attempts)

    def cancel_running(self) -> Hit | None:
        """scancel of an element that runs."""
        return self._to_a_job("scancel")

    def requeue(self) -> Hit | None:
        """scontrol requeue of an element that runs."""
        return self._to_a_job("scontrol", "requeue")

    def _to_a_job(self, *command: str) -> Hit | None:
        """Does something to a job that runs: the controller says so, and its worker is there."""
        running = {job_id for job_id, _ in self.queue("RUNNING")}
        if not (workers := [worker for worker in self.workers() if worker.job_id in running]):
            return None
        worker = self.chance.choice(workers)
        done = self._ask(*command, worker.job_id)
        return None if done.returncode else _hit(worker.name, worker.attempts)

    def cancel_waiting(self) -> Hit | None:
        """scancel of an element that waits, for the first time or again."""
        if not (waiting := self.queue("PENDING")):
            return None
        job_id, _ = self.chance.choice(waiting)
        self._ask("scancel", "--state=PENDING", job_id)
        return None if job_id in {left for left, _ in self.queue("PENDING", "RUNNING", "COMPLETING")} else _hit(job_id)

    def preempt(self) -> Hit | None:
        """A short job in a higher partition that needs the CPUs of ours."""
        workers = self.workers()
        nodes = [node for job_id, node in self.queue("RUNNING") if node in set(NODES) - self.down and job_id in {w.job_id for w in workers}]
        if not nodes:
            return None
        before = time.strftime("%Y-%m-%dT%H:%M:%S")
        job_id = self._ask("sbatch", "--parsable", "--partition=high", f"--nodelist={self.chance.choice(nodes)}", "--job-name=chaos",
                           f"--cpus-per-task={self.chance.choice((2, 3))}", "--output=/dev/null", "--wrap=sleep 0.2").stdout.strip()
        give_up = time.monotonic() + 8
        while job_id and time.monotonic() < give_up:
            said = self._ask("squeue", "--noheader", "--array", "--partition=low,cancel,main",
                                    "--Format=ArrayJobID:20,ArrayTaskID:20,PreemptTime:30").stdout
            victims = {f"{array}_{task}" for array, task, when in map(str.split, said.splitlines()) if before <= when < "N"}
            if victims:
                return _hit(f"{sorted(victims)} by {job_id}", *(w.attempts for w in workers if w.job_id in victims))
            self._pass(0.2)
            if "slurmctld" in self.down:
                break
        if job_id:
            self._ask("scancel", job_id)
        return None

    def kill_slurmctld(self) -> Hit | None:
        """kill -9 of the controller, which comes back after seconds."""
        return self._controller("kill", self.chance.uniform(0.5, 6))

    def restart_slurmctld(self) -> Hit | None:
        """The controller ends properly and starts again."""
        return self._controller("stop", 0)

    def freeze_slurmctld(self) -> Hit | None:
        """The controller does not answer for some seconds; what it is asked meanwhile it may do later, when nobody waits any more."""
        return self._controller("freeze", self.chance.uniform(3, 15))

    def _controller(self, how: str, away_s: float) -> Hit | None:
        if self.cluster.pid("slurmctld") is None:
            return None
        self.cluster.send("slurmctld", how)
        self._back_after("slurmctld", away_s)
        if how == "kill":
            # It takes jobs that ended in its last seconds for running until it asks the nodes, which it does of itself after two minutes.
            self._later(away_s + 25, lambda: self._ask("scontrol", "reconfigure"))
        return _hit(f"{how} for {away_s:.0f} s")

    def _back_after(self, daemon: str, seconds: float) -> None:
        def back() -> None:
            self.cluster.send(daemon, "thaw")
            self.cluster.start(daemon)
            self.down.discard(daemon)

        self.down.add(daemon)
        self._later(seconds, back)

    def tear_checkpoint(self) -> Hit | None:
        """The newest checkpoint of a trial loses its end, and the ranks die: what a power cut may do."""
        found = [(worker, path) for worker in self.workers() for rank in worker.ranks
                 for path in sorted(worker.study.store.trial_folder(rank.trial).glob("checkpoint-*[nt]"))[-1:]]
        if not found:
            return None
        worker, path = self.chance.choice(found)
        with _held(worker, *(rank.pid for rank in worker.ranks)) as held:
            return _hit(str(path), worker.attempts) if held and self._tear(path) else None

    def tear_attempt_log(self) -> Hit | None:
        """The events of a trial that runs lose their end, and the worker that writes them dies."""
        found = [(worker, rank) for worker in self.workers() for rank in worker.ranks]
        if not found:
            return None
        worker, rank = self.chance.choice(found)
        path = worker.study.store.attempt_file(rank.trial, rank.attempt)
        with _held(worker, worker.pid) as held:
            return _hit(str(path), worker.attempts) if held and self._tear(path) else None

    def tear_table(self) -> Hit | None:
        """One of the tables of a study with trials to come loses its end; a finished one's would only be mended by another launch."""
        tables = [path for study in self.studies if study.progress() < 1 for path in sorted(study.store.root.glob("*.parquet"))]
        if not tables:
            return None
        path = self.chance.choice(tables)
        return _hit(str(path)) if self._tear(path) else None

    def _tear(self, path: Path) -> bool:
        """Cuts a file off at a random place; false when it is gone or has nothing to lose."""
        try:
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.truncate(self.chance.randrange(size) if size else 0)
        except FileNotFoundError:
            return False
        return size > 0


FAULTS: dict[str, tuple[int, Callable[[Chaos], Hit | None]]] = {
    "launcher killed": (15, Chaos.kill_launcher), "worker killed": (15, Chaos.kill_worker), "rank killed": (16, Chaos.kill_rank),
    "slurmd killed": (4, Chaos.kill_slurmd), "running job cancelled": (12, Chaos.cancel_running),
    "waiting job cancelled": (7, Chaos.cancel_waiting), "job preempted": (7, Chaos.preempt), "job requeued": (6, Chaos.requeue),
    "slurmctld killed": (2, Chaos.kill_slurmctld), "slurmctld restarted": (2, Chaos.restart_slurmctld),
    "slurmctld frozen": (3, Chaos.freeze_slurmctld), "checkpoint torn": (5, Chaos.tear_checkpoint),
    "attempt log torn": (4, Chaos.tear_attempt_log), "table torn": (2, Chaos.tear_table)}
"""Kind of fault -> its share of all, and what makes it."""
WHEN = {"table torn": (0.4, 1.0), "slurmctld killed": (0.0, 0.7)}
"""The part of a run in which a kind of fault comes: the first tables are written after half a minute; and jobs that a killed controller has
forgotten are waited for, best while there is something else to do."""
NEED_CONTROLLER = {kind for kind, (_, make) in FAULTS.items() if make in (
    Chaos.cancel_running, Chaos.cancel_waiting, Chaos.preempt, Chaos.requeue, Chaos.kill_slurmctld, Chaos.restart_slurmctld,
    Chaos.freeze_slurmctld)}


def _hit(what: str, *attempts: frozenset[tuple[str, str, int]]) -> Hit:
    return Hit(kind="", when=time.time(), what=what, attempts=frozenset[tuple[str, str, int]]().union(*attempts))


@contextlib.contextmanager
def _held(worker: Worker, *pids: int) -> Iterator[bool]:
    """Processes stand still for as long as the context lasts, and are killed then; false when one of them was gone."""
    held = [pid for pid in pids if strike(pid, worker.study, signal.SIGSTOP)]
    try:
        yield len(held) == len(pids)
    finally:
        for pid in held:
            strike(pid, worker.study)


# --- the program -----------------------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description="Random faults on studies that run on a real Slurm.")
    options.add_argument("--faults", type=int, default=300, help="so many, at least (default 300)")
    options.add_argument("--trials", type=int, default=150, help="so many, at least (default 150)")
    options.add_argument("--seed", type=int, default=None, help="which faults come, and in which order (default: another each time)")
    options.add_argument("--limit-s", type=float, default=1800.0, help="all of it may take so long (default 1800)")
    options.add_argument("--folder", type=Path, help="keep the studies there, whatever becomes of them")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("the development cluster needs root: slurm/README.md", file=sys.stderr)
        return 1
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10_000)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    good = False
    try:
        good = _run(options, seed, folder.absolute())
    except (ChaosError, ClusterError, OSError, subprocess.SubprocessError) as error:
        print(f"\nchaos with seed {seed} could not be brought to its end: {error}", flush=True)
    except KeyboardInterrupt:
        print(f"\ninterrupted; all processes of this run are ended (seed {seed})", flush=True)
        return 130
    finally:
        if good and not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the studies, what their launchers said and Slurm's logs are in {folder}", flush=True)
    return 0 if good else 1


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, seed: int, folder: Path) -> bool:
    """Disturbs, repeats undisturbed, judges and prints; whether all is as promised."""
    began, signalled = time.monotonic(), bool(seed % 2)
    with temporary_cluster(preempt_signal=signalled) as cluster:
        print(f"chaos with seed {seed}: {options.faults} faults on {options.trials} trials, on the cluster in {cluster.folder}", flush=True)
        studies = make_studies(folder, cluster, trials=options.trials)
        chaos = Chaos(cluster, studies, seed=seed, faults=options.faults, until=began + options.limit_s, log=folder / "faults.log")
        try:
            chaos.run()
            submissions = [study.submissions() for study in studies]
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # taking everything down takes seconds
                signal.signal(number, signal.SIG_IGN)
            for study in studies:
                study.end()
            shutil.copytree(cluster.folder / "log", folder / "slurm-log", dirs_exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    disturbed_s = time.monotonic() - began
    print(f"the studies are over after {disturbed_s:.0f} s; now the same without faults", flush=True)
    for study in studies:
        study.run_undisturbed()
    verdict = judge(studies, submissions, chaos.jobs)
    found, total_s = losses(studies, chaos.hits)
    enough = len(chaos.hits) >= options.faults and verdict.trials >= options.trials
    lines = [f"\nseed {seed}: {len(chaos.hits)} faults on {verdict.trials} trials in {len(studies)} studies and {verdict.batches} batches; "
             f"{sum(study.launches for study in studies)} launches; preempted jobs are {'' if signalled else 'not '}signalled",
             *loss_lines(found, chaos.hits, chaos.missed, total_s)]
    for what, wrong in (("trials lost", verdict.lost), ("finished trials run again", verdict.again),
                        ("batches submitted twice", verdict.twice), ("tables that differ from the undisturbed run's", verdict.different),
                        ("launchers that failed", chaos.problems), ("faults too few", [] if enough else ["the studies were over before"])):
        lines += [f"{len(wrong):>6} {what}", *(f"       {text}" for text in wrong[:10])]
    good = verdict.good and enough and not chaos.problems
    lines.append(f"{'as promised' if good else 'NOT AS PROMISED'}; {time.monotonic() - began:.0f} s, {disturbed_s:.0f} s of them on the "
                 "cluster")
    print("\n".join(lines), flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
