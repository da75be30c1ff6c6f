"""Whether a process that wrote its name down is still the one that runs: pid, start time, boot and host together."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Who we are, to be written down and looked up later with `is_alive`."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "pid_started": _started(os.getpid())}


def is_alive(who: dict[str, Any]) -> bool | None:
    """Whether the process of `this_process()` still runs; None when it is on another host and cannot be seen from here."""
    if who["host"] != socket.gethostname():
        return None
    return bool(who["boot"] == _boot() and who["pid_started"] and _started(who["pid"]) == who["pid_started"])


def _boot() -> str:
    """What changes when the machine starts anew, "" where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
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
