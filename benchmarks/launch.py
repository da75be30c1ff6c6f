"""What 10,000 trials cost the launcher, on a real Slurm: planning, submitting, looking, reconciling; against submitit; and how long
`status` of 100,000 trials takes.

    python -m benchmarks.launch                # a quarter of an hour; root, Debian or Ubuntu: it brings a development cluster up
    python -m benchmarks.launch --quick        # two minutes, a hundredth of everything

The trials have their result at once (`benchmarks/no_training.py`), so that all that is measured is ours. Where jobs are only
submitted, they may not begin for hours. Calls of Slurm's commands are counted by programs that come before the real ones on the PATH.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Process
from pathlib import Path

from benchmarks import on_slurm, report

SEEDS = 10
GRID = """
[study]
name = "launch"
metric = "score"
seeds = {seeds}
[job]
run = "benchmarks.no_training:run"
metrics = ["score"]
[compare]
number = {numbers}
part = {parts}
[slurm]
time_min = 30
trials_per_job = {share}
[retry]
canary = {canary}
"""
OURS, MAP_ARRAY, LOOP = "harness.launch, {} elements", "submitit map_array, {} elements", "submitit submit() x {}"


@dataclass(kw_only=True)
class Bench:
    """Sizes, the folder that everything is in, and what was measured."""

    folder: Path
    trials: int
    elements: int
    loop: int
    large: int
    calls: on_slurm.Calls
    samples: dict[str, list[report.Sample]] = field(default_factory=dict)
    counted: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, name: str, sample: report.Sample) -> None:
        """One measurement more."""
        self.samples.setdefault(name, []).append(sample)

    def spread(self, name: str, quantity: str) -> report.Spread:
        """All measurements of a quantity."""
        return report.Spread.of([sample[quantity] for sample in self.samples[name]])

    def grid(self, name: str, *, trials: int, share: int, canary: int = 8) -> Path:
        """A grid of so many trials, so many in each job."""
        path = self.folder / f"{name}.toml"
        variants = trials // SEEDS
        values = [number / 8 for number in range(min(1000, variants))]
        path.write_text(GRID.format(seeds=list(range(SEEDS)), numbers=values, parts=values[:variants // len(values)], share=share,
                                    canary=canary))
        return path


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launch", description="What many trials cost the launcher, on a real Slurm.",
                                     epilog="exit status: 0 when every aim is met, 1 when one is missed, 2 when there can be no cluster")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of all but the run to the end (default: 5)")
    parser.add_argument("--trials", type=int, default=10_000, help="trials that are launched (default: 10000)")
    parser.add_argument("--large", type=int, default=100_000, help="trials of the study whose status is asked for (default: 100000)")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the trials: shows that it works")
    options = parser.parse_args(arguments)
    if reason := on_slurm.missing():
        print(reason, file=sys.stderr)
        return 2
    report.one_thread()
    load = report.ForeignLoad()
    shrink = 100 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="bench-launch-") as name, on_slurm.temporary_cluster(Path(name), max_array_size=1001) as calls:
        bench = Bench(folder=Path(name), trials=options.trials // shrink, elements=1000 // shrink, loop=200 // shrink,
                      large=options.large // shrink, calls=calls)
        _submissions(bench, options.rounds)
        _to_the_end(bench)
        _reconciles(bench, options.rounds)
        _large_study(bench, options.rounds)
    print(report.header(f"launch: {bench.trials:,} trials on a real Slurm; median (least to greatest) of {options.rounds}", load=load))
    _print(bench)
    return report.verdict("launch", list(_aims(bench, options.rounds)))


# --- submitting ------------------------------------------------------------------------------------------------------------------


def _submissions(bench: Bench, rounds: int) -> None:
    """All trials submitted and never begun, against submitit with as many jobs."""
    grid = bench.grid("submit", trials=bench.trials, share=bench.trials // bench.elements, canary=0)
    later = on_slurm.profile(bench.folder, "later", begin=on_slurm.NEVER)
    arms = {OURS.format(f"{bench.elements:,}"): partial(_ours, bench, grid, later),
            MAP_ARRAY.format(f"{bench.elements:,}"): partial(_by_submitit, bench, "map_array", bench.elements),
            LOOP.format(bench.loop): partial(_by_submitit, bench, "submit", bench.loop)}
    bench.samples |= report.interleave(arms, rounds=rounds)


def _ours(bench: Bench, grid: Path, profile: Path) -> report.Sample:
    """`harness.launch` of a new study until all its batches are submitted."""
    root = bench.folder / f"submitted-{time.monotonic_ns()}"
    bench.calls.take()
    with _launcher(grid, root, profile) as launcher:
        on_slurm.until("the submission", lambda: list(root.glob("submit/*.job.json")))
        launcher.end(signal.SIGINT)
    batches, acks = (sorted(root.glob(f"submit/{pattern}")) for pattern in ("[0-9][0-9][0-9].json", "*.job.json"))
    if len(batches) != len(acks):
        raise RuntimeError("the launcher was ended before all was submitted")
    began, ended = min(_written(path) for path in batches), max(_written(path) for path in acks)
    sample = {"planned": _written(root / "waves" / "000.json") - launcher.began, "submitted": ended - began,
              "command": ended - launcher.began, "files": _files(root), "MB": launcher.peak_mb, "one look": _look_s(root, grid, profile)}
    bench.counted["submitting"] = launcher.calls(bench)
    on_slurm.empty_queue()
    shutil.rmtree(root)
    return sample


def _by_submitit(bench: Bench, how: str, count: int) -> report.Sample:
    """The same with submitit alone."""
    folder = bench.folder / f"submitit-{time.monotonic_ns()}"
    bench.calls.take()
    process = _Process([sys.executable, "-m", "benchmarks.by_submitit", how, str(count), str(folder)], bench.folder)
    process.wait()
    sample = {**json.loads(process.said.splitlines()[-1]), "files": _files(folder), "MB": process.peak_mb}
    bench.counted[how] = process.calls(bench)
    on_slurm.empty_queue()
    shutil.rmtree(folder)
    return {**sample, "each": sample["submitted"] / count}


def _look_s(root: Path, grid: Path, profile: Path) -> float:
    """Seconds of one look of a launcher at a study whose elements all wait: the disk, Slurm and the decision."""
    from harness.grid import read_grid
    from harness.plan import plan
    from harness.profile import read_profile
    from harness.slurm_executor import SlurmExecutor
    from harness.store import Store

    store, read = Store(root), read_grid(grid)
    trials = store.trials()
    executor = SlurmExecutor(store, read.slurm, read_profile(str(profile)))
    batches = store.batches()
    began = time.perf_counter()
    alive = executor.alive(batches)
    living = {batch.worker(place): batch for batch in batches for place in range(batch.workers) if batch.worker(place) in alive}
    now = plan([trial.id for trial in trials], store.scan(trials), living=living, retry={})
    took = time.perf_counter() - began
    if now.count("queued") != len(trials):
        raise RuntimeError(f"{now.count('queued')} of {len(trials)} trials wait")
    return took


# --- from the first trial to the last --------------------------------------------------------------------------------------------


def _to_the_end(bench: Bench) -> None:
    """All trials run, a hundred in each job; once."""
    grid = bench.grid("whole", trials=bench.trials, share=100)
    root = bench.folder / "whole"
    bench.calls.take()
    with _launcher(grid, root, on_slurm.profile(bench.folder, "now")) as launcher:
        launcher.wait()
    began, ended = (pick(map(_written, paths)) for pick, paths in (
        (min, root.glob("submit/[0-9][0-9][0-9].json")), (max, root.glob("trials/*/result.json"))))
    bench.add("whole", {"command": time.time() - launcher.began, "trials": ended - began, "MB": launcher.peak_mb, "files": _files(root)})
    bench.counted["whole"] = launcher.calls(bench)


def _reconciles(bench: Bench, rounds: int) -> None:
    """A launcher that finds all results there, and one that finds half of them: until it has nothing left, or has submitted the rest."""
    grid, root = bench.folder / "whole.toml", bench.folder / "whole"
    later = on_slurm.profile(bench.folder, "later", begin=on_slurm.NEVER)
    for _ in range(rounds):
        with _launcher(grid, root, later) as launcher:
            launcher.wait()
        bench.add("all there", launcher.sample(launcher.ended))
    for folder in sorted((root / "trials").iterdir())[::2]:
        shutil.rmtree(folder)
    for path in (*(root / "submit").iterdir(), root / "env.json"):  # as if another launcher had submitted the half that is there
        path.unlink()
    for _ in range(rounds):
        known = set(root.glob("submit/*.job.json"))
        with _launcher(grid, root, later) as launcher:
            on_slurm.until("the submission", lambda known=known: set(root.glob("submit/*.job.json")) - known)
            launcher.end(signal.SIGINT)
        fresh = max(root.glob("submit/*.job.json"), key=_written)
        bench.add("half there", launcher.sample(_written(fresh)))
        on_slurm.empty_queue()
    shutil.rmtree(root)


# --- a hundred thousand ----------------------------------------------------------------------------------------------------------


def _large_study(bench: Bench, rounds: int) -> None:
    """A finished study, made up on disk by the code that workers use: launched once, which writes its tables, and then looked at."""
    grid, root = bench.grid("large", trials=bench.large, share=100), bench.folder / "large"
    _make_up(grid, root)
    for _ in range(rounds):
        bench.add("status without tables", _status(root, bench.large))
    with _launcher(grid, root, bench.folder / "now.toml") as launcher:
        launcher.wait()
    bench.add("large", launcher.sample(launcher.ended))
    for _ in range(rounds):
        bench.add("status", _status(root, bench.large))
    shutil.rmtree(root)


def _status(root: Path, trials: int) -> report.Sample:
    """`harness.status` of a study."""
    process = _Process([sys.executable, "-m", "harness.status", str(root), "--json"], root.parent)
    process.wait()
    if json.loads(process.said)["trials"]["done"] != trials:
        raise RuntimeError(f"status does not see {trials} finished trials:\n{process.said[:1000]}")
    return process.sample(process.ended)


def _make_up(grid: Path, root: Path) -> None:
    """A finished study without running it."""
    from harness.grid import read_grid
    from harness.store import Store
    from harness.trials import Planner
    from harness.waves import Wave

    store, read = Store(root), read_grid(grid)
    store.create_folders()
    store.freeze_grid(read.text)
    store.write_wave(Wave(trials=tuple(Planner(read).trials())))
    makers = [Process(target=_finish_trials, args=(root, number, os.cpu_count() or 1)) for number in range(os.cpu_count() or 1)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()


def _finish_trials(root: Path, first: int, step: int) -> None:
    """Every step-th trial, as a worker leaves it."""
    from harness.grid import parse_grid
    from harness.store import Store
    from harness.trials import request_of

    os.fsync = lambda _: None  # what would be flushed to the disk is the same
    store = Store(root)
    request, start = request_of(parse_grid(store.grid_file.read_text())), {
        "event": "start", "attempt": 0, "ranks": 1, "device": "cpu", "accumulate": 1, "host": "n1", "pid": 1, "job_id": "1_0",
        "commit": "0" * 40, "dirty": False, "code": "0" * 16, "python": "3.11.7", "torch": "2.15.0"}
    for number, trial in enumerate(store.trials()[first::step], 1):
        log = store.begin_attempt(trial, 0, request)
        if log is None:
            raise RuntimeError(f"{trial.id} is there already")
        row = {"epoch": 1, "score": trial.config["number"] / 7 + trial.seed}
        log.write({**start, "time": 1e9 + number, "worker": f"000-{number * step // 100}"})
        log.write({"event": "epoch", "time": 1e9 + number + 0.5, "seconds": 0.5, **row})
        store.publish_result(trial.id, {"trial": trial.id, "status": "done", "reason": None, "epoch": 1, "rows": [row], "test": {}})
        log.write({"event": "end", "time": 1e9 + number + 1, "cause": "done"})
        log.close()


# --- processes and files ---------------------------------------------------------------------------------------------------------


class _Process:
    """A command that is timed."""

    def __init__(self, command: list[str], folder: Path):
        self.command, self.said, self.ended, self.peak_mb, self.cpu_s = command, "", 0.0, 0.0, 0.0
        self._log = folder / f"said-{time.monotonic_ns()}"
        self.began = time.time()
        with self._log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def end(self, number: int) -> None:
        """Sends a signal to it if it runs, and waits."""
        if self._process.returncode is None:
            self._process.send_signal(number)
            self.wait(may_fail=True)

    def wait(self, *, may_fail: bool = False) -> None:
        """Waits for the end.

        Raises:
            RuntimeError: it failed; the text is what it printed.
        """
        _, status, usage = os.wait4(self._process.pid, 0)
        self.ended, self.peak_mb, self.cpu_s = time.time(), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.said = self._log.read_text()
        if self._process.returncode and not may_fail:
            raise RuntimeError(f"{' '.join(self.command)} ended with {self._process.returncode}:\n{self.said[-4000:]}")

    def sample(self, until: float) -> report.Sample:
        """What it took up to a moment; CPU seconds and memory are those of the whole process."""
        return {"command": until - self.began, "CPU": self.cpu_s, "MB": self.peak_mb}

    @staticmethod
    def calls(bench: Bench) -> Counter[str]:
        """The calls of Slurm's commands since it was started."""
        return bench.calls.take()


@contextlib.contextmanager
def _launcher(grid: Path, root: Path, profile: Path) -> Iterator[_Process]:
    """`harness.launch`, which does not outlive the context."""
    command = [sys.executable, "-m", "harness.launch", str(grid), "--study-dir", str(root), "--profile", str(profile)]
    process = _Process(command, root.parent)
    try:
        yield process
    except RuntimeError as error:
        process.end(signal.SIGKILL)
        raise RuntimeError(f"{error}; the launcher said:\n{process.said[-4000:]}") from error


def _written(path: Path) -> float:
    """When a file was written."""
    return path.stat().st_mtime


def _files(folder: Path) -> int:
    """How many files lie below a folder."""
    return sum(len(names) for _, _, names in os.walk(folder))


# --- what is shown ---------------------------------------------------------------------------------------------------------------


def _calls_text(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counted.items())) or "none"


def _print(bench: Bench) -> None:
    ours, array, loop = list(bench.samples)[:3]
    rows = []
    for name, how in ((ours, "submitting"), (array, "map_array"), (loop, "submit")):
        times = bench.spread(name, "submitted")
        longer = "" if name == ours else report.ratios(bench.samples[name], bench.samples[ours], "submitted").text() + "x"
        rows.append([name, times.text(), longer, bench.spread(name, "files").text(5), bench.spread(name, "MB").text(),
                     _calls_text(bench.counted[how])])
    each = bench.spread(loop, "each")
    print(report.table(["", "seconds to submit", "longer than ours by", "files left", "peak MB", "calls"], rows))
    print(f"{loop}: {each.text()} s each, which would be {each.median * bench.elements:,.0f} s for {bench.elements:,} jobs (extrapolated)")
    print(f"ours: {bench.spread(ours, 'planned').text()} s from the command to the plan on disk, {bench.spread(ours, 'command').text()} s "
          f"to the last job\none look at {bench.trials:,} trials in {bench.elements:,} waiting elements: "
          f"{bench.spread(ours, 'one look').text()} s\n")
    whole, calls = bench.samples["whole"][0], bench.counted["whole"]
    print(f"run to the end, n=1: {bench.trials:,} trials, 100 in a job: {whole['trials']:.0f} s from the first batch to the last result, "
          f"{whole['command']:.0f} s in all,\n{whole['MB']:.0f} MB, {whole['files']:,.0f} files, "
          f"{calls['squeue']} looks at the queue: {_calls_text(calls)}\n")
    trials, large = f"{bench.trials:,} trials", f"{bench.large:,} trials"
    named = {"all there": f"reconcile of {trials}, all there", "half there": f"reconcile of {trials}, half there",
             "large": f"reconcile of {large}, all there", "status": f"status of {large}",
             "status without tables": f"status of {large}, no tables yet"}
    print(report.table(["", "n", "seconds", "CPU seconds", "peak MB"], [
        [words, str(len(bench.samples[name])), *(bench.spread(name, what).text() for what in ("command", "CPU", "MB"))]
        for name, words in named.items()]))


def _aims(bench: Bench, rounds: int) -> Iterator[report.Aim]:
    ours, array, loop = list(bench.samples)[:3]
    aims = {"submit": (ours, "submitted", 1.0), "reconcile, all there": ("all there", "command", 5.0),
            "reconcile, half there": ("half there", "command", 5.0), "status": ("status", "command", 10.0)}
    for words, (name, quantity, limit) in aims.items():
        spread = bench.spread(name, quantity)
        yield report.Aim(met=spread.median < limit, text=f"{words} {spread.median:.2f} s (aim below {limit:g} s), n={rounds}")
    calls = bench.counted["whole"]
    yield report.Aim(met=calls["sacct"] <= calls["squeue"] and calls["scontrol"] <= 1,
                     text=f"at most one call of each kind per look ({_calls_text(calls)} in the whole run)")
    for name in (array, loop):
        faster = report.ratios(bench.samples[name], bench.samples[ours], "submitted")
        yield report.Aim(met=faster.median > 1, text=f"submits {faster.median:,.1f} times faster than {name}")


if __name__ == "__main__":
    sys.exit(main())
