"""The processes of one program on one machine: forks the ranks, listens to them, ends all when one dies."""

import contextlib
import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

_fork = multiprocessing.get_context("fork")


class TrialProcesses:
    """The running ranks of a program.

    Args:
        run: what a rank does, given `rank`, `local_rank`, `address` and `send` of `harness.rank.run_rank`; whether it ended well.
    """

    def __init__(self, run: Callable[..., bool], *, ranks: int):
        self._meeting = tempfile.mkdtemp(prefix="harness-") if ranks > 1 else ""  # 0700: nobody else can join the process group
        self._pipe, told = _fork.Pipe(duplex=False)
        self._ended = False
        self._ended_by_us: set[int] = set()
        self._ranks = []
        for rank in range(ranks):
            process = _fork.Process(target=_rank_main, args=(run,), kwargs={
                "rank": rank, "address": f"file://{self._meeting}/ranks", "pipe": told, "parent": os.getpid()})
            process.start()
            self._ranks.append(process)
        told.close()

    def waits_for(self) -> list[Any]:
        """What `multiprocessing.connection.wait` is to be given: one of them is ready when there is a message, or a rank has ended."""
        return [self._pipe, *(p.sentinel for p in self._ranks if p.is_alive())]

    def next_message(self) -> dict[str, Any] | None:
        """What a rank has said, {"event": "nothing"} when it has not, None when all ranks have ended. Does not wait."""
        if self._ended:
            return None
        if self._pipe.poll():
            try:
                return json.loads(self._pipe.recv_bytes())  # type: ignore[no-any-return]
            except (EOFError, ValueError):
                self._ended = True
                return None
        if not any(process.is_alive() for process in self._ranks) and not self._pipe.poll():
            self._ended = True  # what a trial has started may outlive it and keep the pipe open
            return None
        if any(process.exitcode not in (None, 0) for process in self._ranks):
            self._end_all()  # the others would wait for the dead one until their time-out
        return {"event": "nothing"}

    def stop(self) -> None:
        """Asks all ranks to keep their progress and end."""
        for process in self._ranks:
            if process.is_alive():
                process.terminate()  # SIGTERM

    def collect(self) -> str:
        """Waits for all ranks and says how they ended."""
        self._end_all(wait_s=10)
        if self._meeting:
            shutil.rmtree(self._meeting, ignore_errors=True)
        self._pipe.close()
        return ", ".join(f"rank {rank}: {_exit_name(process.exitcode)}" for rank, process in enumerate(self._ranks))

    @property
    def killed(self) -> bool:
        """Whether a signal that was not ours ended a rank; an exception of another rank is then only its echo."""
        return any((process.exitcode or 0) < 0 and rank not in self._ended_by_us for rank, process in enumerate(self._ranks))

    def _end_all(self, *, wait_s: float = 1) -> None:
        for rank, process in enumerate(self._ranks):
            process.join(wait_s)
            if process.is_alive():
                self._ended_by_us.add(rank)
                process.kill()
                process.join()
            assert process.pid
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started and left behind


def _exit_name(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit {code}"


def _rank_main(run: Callable[..., bool], *, rank: int, address: str, pipe: connection.Connection, parent: int) -> None:
    """Runs in the forked process of one rank."""
    _die_with(parent)
    os.setpgid(0, 0)  # what the trial starts belongs to this group, and ends with it: `_end_all`
    # The ranks share the pipe: a write below 4096 bytes is never torn, pipe(7).
    good = run(rank=rank, local_rank=rank, address=address, send=pipe.send_bytes)
    sys.stdout.flush()
    os._exit(0 if good else 1)  # Python would wait for the trial's children, which are as deaf to its SIGTERM as the trial itself


def _die_with(parent: int) -> None:
    """Ends this process when the worker does, so that a trial never trains on for nobody (Linux; elsewhere the closed pipe does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of prctl(2)
    if os.getppid() != parent:
        os._exit(1)
