"""A job of a minute on a node, for `--preflight`: what only a node can say.

The job is a shell script, because it has to say something even where Python does not start. It answers in a folder of its own inside the
study folder, so that seeing the answer here, and the node seeing ours, is what is tested.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import slurm
from harness.errors import printable
from harness.processes import without_ctrl_c
from harness.profile import Profile, preamble

TIME_MIN = 2
START_S = 120.0
"""How long the job may wait in the queue before the preflight gives up."""
SEEN_S = 15.0
"""How long a file written on the node may take to be seen here. A folder is read anew each time, which NFS answers truthfully."""
PYTHON_S = 90.0
SIGNAL_S = 15.0

_PYTHON = """
import os, sys, time
say = lambda *words: os.write(3, (" ".join(map(str, words)) + "\\n").encode())
say("interpreter", "%d.%d.%d" % sys.version_info[:3], sys.executable)
started = time.time()
import torch
say("torch", torch.__version__, "%.1f" % (time.time() - started))
say("gpus", torch.cuda.device_count() if torch.cuda.is_available() else 0)
"""

_SCRIPT = """#!/bin/bash
umask 077
folder={folder}
[ -d "$folder" ] && touch "$folder/report" || exit 97
exec 3>>"$folder/report" >>"$folder/log" 2>&1
say() {{ printf '%s\\n' "$*" >&3; }}
trap 'say signal USR2' USR2
trap 'say signal TERM' TERM
for name in sbatch squeue scontrol srun; do command -v "$name" >/dev/null && say tool "$name"; done
[ -r {data} ] && say data
say node "$(hostname)"
tries=0
until [ -e "$folder/there" ] || [ $((tries += 1)) -gt 300 ]; do ls "$folder" >/dev/null; sleep 0.1; done
date +%s.%N >"$folder/.back" && mv "$folder/.back" "$folder/back"
(
{preamble}
{python} -c {program}
)
say python-ended $?
say listening
tries=0
until grep -q '^signal' "$folder/report" || [ $((tries += 1)) -gt 150 ]; do sleep 0.1; done
"""


@dataclass(kw_only=True, slots=True)
class Found:
    """What a probe found out. What it did not get to stays as it is here."""

    trouble: str = ""
    """Why it ended before it was through; "" when it was not."""
    waiting: bool = False
    """Whether the trouble is that it never got a node: nothing is known then, and nothing is wrong."""
    node: str = ""
    seen_s: float | None = None
    """Seconds from writing a file here until the node's answer to it was seen."""
    clock_s: float = 0.0
    """By how much the node's clock is ahead of ours, to within `seen_s`."""
    interpreter: str = ""
    """Version and path."""
    torch: str = ""
    """Its version; "" when it cannot be imported."""
    import_s: float = 0.0
    gpus: int = 0
    tools: list[str] = field(default_factory=list)
    """Those of Slurm's commands that are there on the node."""
    data: bool = False
    """Whether the data folder can be read there."""
    python_said: str = ""
    """The end of what `setup` and Python printed."""
    signal: str = ""
    """Which signal arrived when USR2 was sent."""


def probe(root: Path, options: Sequence[str], profile: Profile, *, data: Path, start_s: float = START_S) -> Found:
    """Runs the job and asks it; nothing of it stays.

    Args:
        root: the study folder; it is made for as long as the job runs where there is none.
        options: sbatch's options for one task on one node.
        data: the data folder.
        start_s: how long the job may wait for a node.
    """
    found = Found()
    try:
        with _folder(root) as folder:
            job_id = ""
            try:
                with without_ctrl_c():  # else the job would be there, and nobody would know its number
                    job_id = _submit(folder, options, profile, data)
                _converse(_Conversation(folder, job_id), found, profile, start_s)
            finally:
                with contextlib.suppress(slurm.Unanswered):
                    slurm.cancel([job_id] if job_id else [])
    except _Over as error:
        found.trouble, found.waiting = str(error), error.waiting
    except OSError as error:
        found.trouble = f"{error.filename or root}: {error.strerror or error}"
    return found


class _Over(Exception):
    """The probe ends here."""

    def __init__(self, why: str, *, waiting: bool = False):
        super().__init__(why)
        self.waiting = waiting


@contextlib.contextmanager
def _folder(root: Path) -> Iterator[Path]:
    """A folder inside the study folder, which is gone afterwards together with all that had to be made for it."""
    made = []
    for place in reversed([root, *root.parents]):
        if not place.exists():
            place.mkdir()
            made.append(place)
    folder = Path(tempfile.mkdtemp(prefix="preflight-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for place in reversed(made):
            with contextlib.suppress(OSError):  # something else has been put there meanwhile
                place.rmdir()


def _submit(folder: Path, options: Sequence[str], profile: Profile, data: Path) -> str:
    """Submits the job; returns its number."""
    quote = shlex.quote
    script = _SCRIPT.format(folder=quote(str(folder)), data=quote(str(data)), preamble="\n".join(preamble(profile)),
                            python=quote(profile.python or sys.executable), program=quote(_PYTHON))
    command = ["sbatch", "--parsable", *options, f"--time={TIME_MIN}", f"--job-name=h-{folder.name}", "--output=/dev/null", "--chdir=/"]
    try:
        done = subprocess.run(command, input=script, env=slurm.environment(), capture_output=True, text=True, timeout=slurm.SUBMIT_S,
                              check=False)
    except subprocess.TimeoutExpired as error:
        raise _Over("sbatch does not answer") from error
    if done.returncode:
        raise _Over(f"sbatch: {slurm.first_line(done.stderr)}")
    return done.stdout.strip().partition(";")[0]


class _Conversation:
    """The files of the probe, and what Slurm says of its job."""

    def __init__(self, folder: Path, job_id: str):
        self.folder, self.job_id = folder, job_id
        self._state, self._reason, self._asked = "PENDING", "None", 0.0
        self._ended: float | None = None
        self._fields: dict[str, str] = {}

    def words(self, key: str) -> list[str]:
        """What the job has reported under `key`, a text for each time; [] while it has not, or nothing of it is seen here."""
        try:
            os.listdir(self.folder)
            lines = (self.folder / "report").read_text(errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [printable(line[len(key) + 1:]) for line in lines if line == key or line.startswith(f"{key} ")]

    def wait(self, ready: Callable[[], object], *, limit_s: float, why: str) -> None:
        """Returns when `ready`; raises `_Over` when the time is up, or the job's end is longer ago than a file may stay unseen."""
        started = time.monotonic()
        while not ready():
            state, reason = self.state()
            now = time.monotonic()
            if self._ended and (self._blind or now - self._ended > SEEN_S):
                raise _Over(self._end())
            if not self._ended and now - started > limit_s:
                if state == "PENDING":
                    raise _Over(f"pending after {limit_s:.0f} s because {reason}", waiting=True)
                raise _Over(f"{why} within {limit_s:.0f} s")
            time.sleep(0.1)

    def state(self) -> tuple[str, str]:
        """State and reason, asked for every second or two."""
        if time.monotonic() - self._asked > 1.5 and not self._ended:
            with contextlib.suppress(slurm.Unanswered):
                said = slurm.ask("squeue", "--noheader", "--states=all", f"--jobs={self.job_id}", "--format=%T|%r", timeout_s=10)
                self._state, _, self._reason = printable(said.strip()).partition("|")
            self._asked = time.monotonic()
            if self._state in slurm.FINAL:
                self._ended = self._asked
                with contextlib.suppress(slurm.Unanswered):
                    said = slurm.ask("scontrol", "--oneliner", "show", "job", self.job_id, timeout_s=10)
                    self._fields = dict(word.partition("=")[::2] for word in said.split() if "=" in word)
        return self._state, self._reason

    @property
    def _blind(self) -> bool:
        """Whether the job has ended because its folder was not there: nothing of it can turn up any more."""
        return self._fields.get("ExitCode", "").startswith("97:")

    def _end(self) -> str:
        """What to say of a job that ended and left nothing to be seen."""
        node = printable(self._fields.get("NodeList", "the node"))
        if self._blind:
            return f"{node} cannot see or write {self.folder.parent}"
        return f"the job ended on {node} as {self._state} ({self._fields.get('ExitCode', '?')}), and nothing that it wrote is seen here"


def _converse(job: _Conversation, found: Found, profile: Profile, start_s: float) -> None:
    """Fills in `found`, step by step."""
    job.wait(lambda: job.words("node"), limit_s=start_s, why="nothing came")
    found.node = job.words("node")[0]
    found.tools, found.data = job.words("tool"), bool(job.words("data"))
    asked, asked_at = time.monotonic(), time.time()
    (job.folder / "there").touch()
    job.wait((job.folder / "back").exists, limit_s=60, why=f"{found.node} did not see a file that was written here")
    found.seen_s = time.monotonic() - asked
    found.clock_s = float((job.folder / "back").read_text()) - (asked_at + found.seen_s / 2)
    job.wait(lambda: job.words("listening"), limit_s=PYTHON_S, why="`setup` and Python did not come to an end")
    found.interpreter = next(iter(job.words("interpreter")), "")
    if torch := job.words("torch"):
        version, _, seconds = torch[0].partition(" ")
        found.torch, found.import_s, found.gpus = version, float(seconds), int(next(iter(job.words("gpus")), "0"))
    with contextlib.suppress(OSError):
        said = (job.folder / "log").read_text(errors="replace").strip().splitlines()
        found.python_said = " / ".join(printable(line.strip()) for line in said[-2:])[-300:]
    with contextlib.suppress(slurm.Unanswered):
        slurm.cancel([job.job_id], "--signal=USR2", "--batch")
    job.wait(lambda: job.words("signal"), limit_s=SIGNAL_S, why="no signal arrived")
    found.signal = job.words("signal")[0]
