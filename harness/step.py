"""The processes of one attempt over several nodes: a Slurm job step of one task for each rank, started with srun by the worker.

The worker runs on the first node of its job, where rank 0 runs too. Ranks meet at a port of that node and tell the worker how it goes
through srun's own output: one line of JSON a message.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import slurm
from harness.errors import printable
from harness.plan import PlannedTrial
from harness.store import Store

END_S = 60.0
"""How long srun may take to end what is left once a rank has failed; --kill-on-bad-exit does it within seconds."""


class TrialStep:
    """The running ranks of one attempt; the same doors as `harness.trial_process.TrialProcesses`."""

    def __init__(self, store: Store, trial: PlannedTrial, *, attempt: int, batch: int, settings: dict[str, Any]):
        self._log = store.attempt_log(trial.id, attempt)
        address = f"tcp://{_this_node()}:{_free_port()}"
        ranks, nodes = settings["ranks"], settings["nodes"]
        # srun of Slurm 22.05 and later does not inherit the job's cpus-per-task. What it prints is line by line, so that the lines of
        # several ranks do not mix.
        command = ["srun", "--kill-on-bad-exit=1", f"--nodes={nodes}", f"--ntasks={ranks}", f"--ntasks-per-node={ranks // nodes}",
                   f"--cpus-per-task={settings['cpus_per_task']}", "--input=none", sys.executable, "-u", "-m", "harness.step",
                   str(store.root), str(batch), trial.id, str(attempt), address]
        log = os.open(self._log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            self._srun = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        finally:
            os.close(log)
        assert self._srun.stdout
        self._out = self._srun.stdout.fileno()
        fcntl.fcntl(self._out, fcntl.F_SETFL, os.O_NONBLOCK)
        self._half, self._lines, self._ended = b"", list[bytes](), False
        self._deaf = ranks
        """Ranks that a signal would still kill, because they do not listen yet."""

    def waits_for(self) -> list[Any]:
        """As in `TrialProcesses`: srun's output."""
        return [self._out]

    def next_message(self) -> dict[str, Any] | None:
        """What a rank has said, {"event": "nothing"} when none has, None when the step has ended. Does not wait."""
        if not self._lines and not self._ended:
            with contextlib.suppress(BlockingIOError):
                self._take(os.read(self._out, 1 << 16))
        if self._lines:
            message = _message(self._lines.pop(0))
            self._deaf -= message["event"] == "listening"
            return message
        return None if self._ended else {"event": "nothing"}

    def _take(self, text: bytes) -> None:
        """Cuts what was read into lines; nothing means that srun has ended."""
        self._ended = not text
        *whole, self._half = (self._half + text).split(b"\n")
        self._lines += whole

    def stop(self) -> None:
        """Asks all ranks to keep their progress and end: srun passes this signal on (and would abort the step for SIGTERM)."""
        if self._srun.poll() is None and not self._deaf:
            self._srun.send_signal(signal.SIGUSR1)

    def collect(self) -> str:
        """Waits for the step and says how it ended."""
        try:
            self._srun.wait(END_S)
        except subprocess.TimeoutExpired:
            self._srun.kill()
            self._srun.wait()
        return f"srun: exit {self._srun.returncode}" + (f" ({said})" if (said := self._first_error()) else "")

    @property
    def killed(self) -> bool:
        """Whether a signal ended the first rank that did not end well. srun then kills the others, and its own status is that of a kill
        in any case."""
        return bool(said := self._first_error()) and re.search(r": tasks? [\d,-]+: (?!Exited)", said) is not None

    def _first_error(self) -> str:
        """The first thing srun complained about: a rank that ended ("n2: task 1: Killed"), or why it could not start any."""
        found = re.search(r"^srun: error: (.+)", self._log.read_text(errors="replace"), re.MULTILINE)
        return printable(found[1])[:200] if found else ""


def _message(line: bytes) -> dict[str, Any]:
    """A message from a line of srun's output; what srun itself prints there says nothing."""
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict) and "event" in message:
            return message
    return {"event": "nothing"}


def _this_node() -> str:
    """The name under which the other nodes of this job know the one we run on: the first of its list."""
    try:
        return slurm.hosts(os.environ["SLURM_JOB_NODELIST"])[0]
    except (KeyError, IndexError, slurm.Unanswered):
        return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def main(root: str, batch: str, trial_id: str, attempt: str, address: str) -> int:
    """One rank, as a task of the step; returns its exit status."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # until the rank listens itself
    from harness.rank import run_rank

    store = Store(Path(root))
    settings = store.batch(int(batch)).settings
    trial = store.trials([trial_id], waves=settings.get("waves", ()))[0]
    told = os.dup(1)  # what the trial prints goes to its log

    def send(message: bytes) -> None:
        os.write(told, message + b"\n")

    good = run_rank(store, trial, attempt=int(attempt), settings=settings, rank=int(os.environ["SLURM_PROCID"]),
                    local_rank=int(os.environ["SLURM_LOCALID"]), address=address, send=send, stop_signal=signal.SIGUSR1)
    return 0 if good else 1


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    os._exit(status)  # a proper end takes torch's threads down with an abort now and then, which would end the other ranks too
