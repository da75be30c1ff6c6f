"""Whether a process that wrote its name down is still the one that runs: pid, start time, boot and host together."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Who we are, to be written down and looked up later with `is_alive`."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "pid_started": _started(os.getpid())}


def is_alive(who: dict[str, Any], gone: Sequence[str] = ()) -> bool | None:
    """Whether the process of `this_process()` still runs; None when it is on another host and cannot be seen from here.

    Args:
        gone: hosts that somebody said are no more.
    """
    same_machine = who["boot"] and who["boot"] == _boot()  # a machine that was only renamed still knows its processes
    if who["host"] != socket.gethostname() and not same_machine:
        return False if who["host"] in gone else None
    return bool(who["boot"] == _boot() and who["pid_started"] and _started(who["pid"]) == who["pid_started"])


def _boot() -> str:
    """What changes when the machine starts anew, and is another in each container; "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, as text to compare, "" when there is none or it has ended and waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # state and starttime of proc_pid_stat(5)
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except ProcessLookupError:
        return ""
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def out_of_memory_kills() -> int:
    """How many processes of this one's control group the kernel has ended for want of memory so far; 0 where it does not count them."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return 0
    files = [Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control") if "memory" in controllers.split(",")  # control groups v1
             else Path(f"/sys/fs/cgroup{path}/memory.events")  # v2, cgroup-v2.rst
             for _, controllers, path in groups if controllers == "" or "memory" in controllers.split(",")]
    count = 0
    for file in files:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            count += int(next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("oom_kill ")))
    return count


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """A child started inside is deaf to Ctrl-C in the terminal it shares with us, for good: a blocked signal stays so through fork and
    exec. The launcher stops it in its own way; a Ctrl-C that comes meanwhile reaches the launcher at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
