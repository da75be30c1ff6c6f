"""What the development cluster needs of the machine: packages, names in /etc/hosts, free ports, processes' environments. Linux only."""

import contextlib
import fcntl
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ADMIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTS = Path("/etc/hosts")
PACKAGES_LOCK = Path("/var/lock/harness-devcluster-packages")
PORTS = range(17000, 32000, 5)  # below the ports that Linux gives to outgoing connections


class ClusterError(Exception):
    """What could not be done, where to look, and what to do next."""


def wait_for(what: str, ready: Callable[[], bool], *, timeout_s: float = 120, look: str = "") -> None:
    """Waits until ready() is true. Raises ClusterError, which names `what` and the file to `look` into, when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not happen within {timeout_s:g} s." + (f" Look into {look}." if look else ""))
        time.sleep(0.05)


def environment_of(pid: int) -> set[str]:
    """The environment that a process was started with, as `NAME=value`. Raises OSError when it is gone or not ours to look at."""
    return set(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"))


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Writes a file that nobody whom `mode` leaves out can read at any time, whatever the umask is."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)


def free_ports(names: list[str]) -> dict[str, int]:
    """A port for each name, side by side, none of them in use, in a place that another cluster which is made at this moment will hardly
    look at. Raises ClusterError when there are not so many."""
    for first in random.sample(PORTS, len(PORTS)):
        ports = range(first, first + len(names))
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("", port))
            return dict(zip(names, ports, strict=True))
    raise ClusterError(f"No {len(names)} free ports side by side between {PORTS.start} and {PORTS.stop}.")


def set_hosts_line(line: str, *, present: bool) -> bool:
    """Puts a line into /etc/hosts, or takes it out; whether the file changed. Written in place: in a container it cannot be replaced."""
    with HOSTS.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines(keepends=True)
        if (line in lines) == present:
            return False
        kept = [other for other in lines if other != line]
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += "\n"
        file.seek(0)
        file.write("".join([*kept, line] if present else kept))
        file.truncate()
    return True


def resolve(name: str, address: str) -> None:
    """Raises ClusterError unless a host's name means this address."""
    try:
        found = socket.gethostbyname(name)
    except OSError as error:
        found = str(error)
    if found != address:
        raise ClusterError(f"The name {name} should mean {address}, but gives: {found}. Look into {HOSTS}; another line may come first.")


def install_packages(programs: dict[str, str]) -> None:
    """Installs with apt the packages (values) whose programs (keys) are missing; one process at a time, as apt has it. Raises ClusterError
    without apt, or when it fails."""
    if all(shutil.which(program, path=ADMIN_PATH) for program in programs):
        return
    with PACKAGES_LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [package for program, package in programs.items() if not shutil.which(program, path=ADMIN_PATH)]
        if missing:
            _install(missing)


def _install(missing: list[str]) -> None:
    if not shutil.which("apt-get"):
        raise ClusterError(f"This machine has no {' '.join(missing)}, and no apt-get to install them (Debian or Ubuntu) with.")
    print(f"Installing {' '.join(missing)} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:].rstrip()}")
