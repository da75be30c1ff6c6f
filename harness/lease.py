"""Who launches a study: one launcher at a time, and a dead one is noticed.

The highest number in launcher/ holds the study. Its process can be looked up on its own host; from another, by the job it runs in, or by
whether it still counts in its beat file. No clocks are compared.
"""

import shlex
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness import processes, slurm
from harness.errors import StudyError
from harness.store import Store

BEAT_S = 20.0
"""How often a launcher shows that it lives."""
SILENT_S = 90.0
"""A launcher on another host that has not counted on for so long is dead: more than NFS may keep a new file content to itself, nfs(5)."""
ENDED = "ended"


class Lease:
    """The right to launch a study."""

    def __init__(self, store: Store):
        self.store, self.number = store, 0
        self.gone: list[str] = []
        """Hosts that somebody said are no more, with all that ran there."""
        self._count, self._beat_at = 0, 0.0

    def take(self, study: str, *, take_over: bool, jobs_outlive_hosts: bool, note: Callable[[str], None]) -> None:
        """Becomes the study's launcher.

        Args:
            take_over: the host of the last launcher is known to be gone.
            jobs_outlive_hosts: trials run as Slurm jobs, which are seen from everywhere; a silent launcher may then be replaced.
        Raises:
            StudyError: another launcher is alive, or may be. The text says who, since when, and what to do.
        """
        holder = self.holder(self.store)
        self.gone = list(holder["gone"]) if holder else []
        if holder and (alive := lives(self.store, holder, self.gone)) is not False:
            if alive is None and not take_over and jobs_outlive_hosts:
                note(f"process {holder['pid']} on {holder['host']} launched this study; waiting up to {SILENT_S:.0f} s for a sign of life")
                alive = self._watch(holder)
            if alive or (alive is None and not take_over):
                raise StudyError(f"study {study} is being launched by {described(holder)}; {self._how_to_end(holder, alive)}")
            if not jobs_outlive_hosts:
                self.gone.append(holder["host"])
        self.gone = [host for host in self.gone if host != socket.gethostname()]  # it is back, and its workers count for others again
        me = {**processes.this_process(), "since": time.time(), "gone": self.gone, "job_id": slurm.this_job()}
        number = (holder["number"] if holder else 0) + 1
        if not self.store.take_over(number, me):
            raise StudyError(f"another launcher took hold of study {study} at the same moment; let it go on")
        self.number = number

    def _how_to_end(self, holder: dict[str, Any], alive: bool | None) -> str:
        if alive is None:
            return (f"it cannot be seen from {socket.gethostname()}: end it there first, or, if that host is gone, add --take-over")
        if holder.get("job_id"):
            return f"end it with python -m harness.cancel --launcher {shlex.quote(str(self.store.root))}"
        return "end it there with Ctrl-C first"

    @staticmethod
    def holder(store: Store) -> dict[str, Any] | None:
        """Who launched last, with the "number" of the launch; None before anybody did."""
        launchers = store.launchers()
        return {**launchers[-1], "number": len(launchers)} if launchers else None

    def _watch(self, holder: dict[str, Any]) -> bool:
        """Whether a holder that cannot be seen shows a sign of life."""
        before, until = self.store.last_beat(holder["number"]), time.monotonic() + SILENT_S
        while time.monotonic() < until:
            time.sleep(1)
            if (now := self.store.last_beat(holder["number"])) != before:
                return now != ENDED
        return False

    def keep(self) -> None:
        """Shows a sign of life, when it is time to.

        Raises:
            StudyError: another launcher has taken over.
        """
        if time.monotonic() - self._beat_at < BEAT_S and self._beat_at:
            return
        if self.store.newest_launcher() != self.number:
            holder = self.holder(self.store) or {}
            raise StudyError(f"the study was taken over by {described(holder)}; this launcher ends, and nothing that runs is disturbed")
        self._count += 1
        self.store.beat(self.number, str(self._count))
        self._beat_at = time.monotonic()

    def release(self) -> None:
        """Lets the next launcher begin at once, wherever it is."""
        if self.number:
            self.store.beat(self.number, ENDED)


def lives(store: Store, holder: dict[str, Any], gone: Sequence[str] = (), queue: Callable[[], slurm.Queue] = slurm.queue) -> bool | None:
    """Whether a launcher lives, None when that cannot be seen.

    Args:
        gone: hosts that somebody said are no more.
        queue: asks Slurm; may raise slurm.Unanswered.
    """
    if store.last_beat(holder["number"]) == ENDED:
        return False
    alive = processes.is_alive(holder, gone)
    if alive is not None or not (job := holder.get("job_id")):
        return alive
    if job == slurm.this_job():
        return False  # an earlier run of the job that we are
    try:
        elements = [element for places in queue().jobs.values() for element in places.values() if element.job_id == job]
    except slurm.Unanswered:
        return None
    return any(not element.ended for element in elements)


def described(holder: dict[str, Any]) -> str:
    """A launcher in words."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    job = f" in job {holder['job_id']}" if holder.get("job_id") else ""
    return f"process {holder['pid']} on {holder['host']}{job} since {since}"
