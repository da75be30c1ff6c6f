"""Writing so that a kill at any moment leaves the old or the new, never half: the only module that creates files of a study.

What is published once (`publish`) is written aside, flushed, and linked to its name: the first writer wins, on NFS too, and a
link whose answer was lost is recognised by the link count. What is rebuilt (`replace`) is renamed over the old one.
"""

import errno
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from harness.errors import StudyError
from jobs.durable import replace, sync_folder, write_aside
from jobs.failpoint import failpoint

__all__ = ["create_log", "is_full", "publish", "read_json", "read_log", "replace", "to_json"]

CLAIM_S = 5.0
"""How long somebody else's claim is waited for where there are no hard links; a rename takes milliseconds."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, shortest floats, one line. Equal values give equal bytes.

    Raises:
        ValueError: NaN or infinity, which JSON has no word for.
    """
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def read_json(path: Path, *keys: str) -> Any:
    """The content of a published JSON file, or None when there is no such file.

    Args:
        keys: at least one of them must be there; without any, the file may hold anything.

    Raises:
        StudyError: the file is damaged, which no kill of ours can do.
    """
    try:
        content = json.loads(path.read_bytes())
        if keys and not (isinstance(content, dict) and not content.keys().isdisjoint(keys)):
            raise ValueError(f"it does not hold {' or '.join(keys)}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StudyError(f"{path} is damaged ({error}); restore it from a copy, or remove it and launch again: "
                         "what it held is made anew where that can be done") from error
    return content


def is_full(error: BaseException | None) -> bool:
    """Whether an error comes of a full disk or a used-up quota."""
    while error is not None and not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        error = error.__cause__
    return error is not None


def publish(path: Path, data: bytes, *, step: str) -> bool:
    """Creates `path` with `data` unless it is there already; whether this call created it.

    Args:
        step: name of this commit for `jobs.failpoint`: it may die at `step`.written and `step`.linked.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    aside = write_aside(path, data)
    failpoint(f"{step}.written")
    try:
        os.link(aside, path)
        won = True
    except FileExistsError:
        won = aside.stat().st_nlink == 2  # our link did succeed and the answer was lost on the way
    except OSError as error:
        if error.errno not in _NO_LINKS:
            aside.unlink(missing_ok=True)
            raise
        won = _publish_without_links(path, aside)
    failpoint(f"{step}.linked")
    aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return won


def create_log(path: Path) -> int | None:
    """A new file opened for appending, or None when another process created it first."""
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The events of an append-only JSON-lines file. A torn last line, left by a kill or a full disk, is passed over."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    parts = text.rstrip(b"\n").split(b"\n")
    try:
        lines: list[Any] = json.loads(b"[%b]" % b",".join(parts))  # all at once takes half the time
    except ValueError:
        lines = []
    if len(lines) != len(parts):
        lines = [line for part in parts for line in _whole(part)]
    return [event for event in lines if isinstance(event, dict)]


def _whole(line: bytes) -> list[Any]:
    """What a line says; nothing when it is torn."""
    try:
        return [json.loads(line)]
    except ValueError:
        return []


def _publish_without_links(path: Path, aside: Path) -> bool:
    """For file systems without hard links: whoever creates the claim may rename. A claim whose owner died leaves no file behind it;
    whoever has waited for it in vain makes the next claim."""
    for number in itertools.count():
        claim = create_log(path.with_name(f".{path.name}.claim{number}"))
        if claim is not None:
            os.close(claim)
            if path.exists():
                return False
            aside.replace(path)
            return True
        until = time.monotonic() + CLAIM_S
        while time.monotonic() < until:
            if path.exists():
                return False
            time.sleep(0.01)
    raise AssertionError("the count has no end")
