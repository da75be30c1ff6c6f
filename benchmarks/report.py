"""What the benchmarks share: repetitions in turns (A B A B), median and spread, the header, the table and the verdict.

Ratios are taken within a round, between measurements a few seconds apart, and their median is what counts: a machine that is slower for
a while slows both sides of a pair. No third-party package is imported here, so that `one_thread` comes before torch.
"""

import contextlib
import math
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Sample = Mapping[str, float]
"""One measurement: quantity -> value."""
_END_S = 20
"""Within which a process that has returned its result is to be gone."""
_LOUD_CPUS = 0.2
"""Foreign load above which the header of the result says that the machine was shared."""


def one_thread() -> None:
    """One arithmetic thread per process, for us and for every process started from here; call it before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def interleave(arms: Mapping[str, Callable[[], Sample]], *, rounds: int) -> dict[str, list[Sample]]:
    """Runs all arms in order, `rounds` times over; returns the samples of each arm, one for each round."""
    samples: dict[str, list[Sample]] = {name: [] for name in arms}
    for done in range(rounds):
        for name, arm in arms.items():
            print(f"\r\033[Kround {done + 1}/{rounds}: {name}" if sys.stderr.isatty() else "", end="", file=sys.stderr, flush=True)
            samples[name].append(arm())
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return samples


def in_fork(function: Callable[..., Any], *arguments: Any, log: Path, limit_s: float | None = None) -> Any:
    """What `function` returns in a fork of this process, so that what it loads and changes is gone afterwards; what is printed there goes
    to the file `log`.

    Raises:
        RuntimeError: it failed; the text is the end of the file.
        TimeoutError: it had not returned after `limit_s` seconds and was killed.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_forked, args=(sender, log, function, arguments))
    process.start()
    sender.close()
    try:
        if limit_s is not None and not receiver.poll(limit_s):
            raise TimeoutError(f"{function.__name__} had not ended after {limit_s:.0f} s")
        result = receiver.recv()
        process.join(_END_S)
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed:\n{log.read_text(encoding='utf-8', errors='replace')[-6000:]}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
        process.join()
    return result


def _forked(sender: Any, log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        for descriptor in (1, 2):  # for what other programs print
            os.dup2(file.fileno(), descriptor)
        sys.stdout = sys.stderr = file
        try:
            sender.send(function(*arguments))
        except BaseException:
            traceback.print_exc()
    sender.close()


def timed(command: Sequence[str], *, trials: int) -> Sample:
    """Runs a command that makes so many trials to its end; CPU seconds are those of its processes that were waited for.

    Raises:
        RuntimeError: it failed; the text is what it printed.
    """
    cpu, wall = cpu_s(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - wall
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return {"seconds": seconds, "trials per hour": 3600 * trials / seconds, "CPU seconds": cpu_s() - cpu}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """n values of one quantity: median, least and greatest."""

    n: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(n=len(values), median=statistics.median(values), low=min(values), high=max(values))

    def text(self, digits: int = 3) -> str:
        """`median (least to greatest)`, to so many significant digits."""
        return f"{_number(self.median, digits)} ({_number(self.low, digits)} to {_number(self.high, digits)})"


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def ratios(above: Sequence[Sample], below: Sequence[Sample], quantity: str) -> Spread:
    """The ratio of one quantity of two arms, pair by pair."""
    return Spread.of([a[quantity] / b[quantity] for a, b in zip(above, below, strict=True)])


def gap(theirs: Sequence[float], ours: Sequence[float], *, slack: float) -> tuple[float, float]:
    """How much higher the mean of theirs is than that of ours, and how much may be chance: three standard errors of the difference, or
    `slack` where that is more (with n = 1 there is no error to see)."""
    errors = [statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0 for values in (theirs, ours)]
    return statistics.mean(theirs) - statistics.mean(ours), max(slack, 3 * math.hypot(*errors))


class ForeignLoad:
    """How many CPUs other processes used since this object was made (Linux; None elsewhere)."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._ours = _busy_s(), cpu_s()

    def cpus(self) -> float | None:
        """Mean number of CPUs busy with what is not ours."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        return max(0.0, (busy - self._busy - (cpu_s() - self._ours)) / max(time.monotonic() - self._began, 1e-9))


def cpu_s() -> float:
    """CPU seconds of this process and of all children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _busy_s() -> float | None:
    """Seconds all CPUs together have worked since the system started: /proc/stat of proc_stat(5)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except OSError:
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and iowait


def header(title: str, *, load: ForeignLoad) -> str:
    """What was measured on what."""
    packages = "  ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "numpy", "pillow", "submitit"))
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    foreign = load.cpus()
    shared = "" if foreign is None else f"  other processes used {foreign:.1f} CPUs" + (": SHARED MACHINE" if foreign > _LOUD_CPUS else "")
    return (f"\n{title}\n{cpus} CPUs ({_cpu_model()}){shared}\n"
            f"Python {platform.python_version()}  {packages}  OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """One thing that was to be reached, and whether it was."""

    text: str
    met: bool


def verdict(name: str, aims: Sequence[Aim]) -> int:
    """Prints the last line, PASS or FAIL with every aim, the missed ones marked; returns the exit status."""
    met = all(aim.met for aim in aims)
    print(f"\n{'PASS' if met else 'FAIL'} {name}: " + "; ".join(aim.text if aim.met else f"MISSED {aim.text}" for aim in aims), flush=True)
    return 0 if met else 1
