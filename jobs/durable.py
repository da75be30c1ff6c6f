"""Files that are whole or absent: written aside, flushed to disk, and renamed into place; and whether one is the one that is meant."""

import hashlib
import itertools
import os
import socket
from pathlib import Path
from typing import Any

from jobs.failpoint import failpoint

_counter = itertools.count()


def replace(path: Path, data: bytes, *, step: str) -> None:
    """Puts `data` at `path` whole, over what was there.

    Args:
        step: name of this commit for `jobs.failpoint`: it may die at `step`.written and `step`.linked.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the old file is untouched.
    """
    aside = write_aside(path, data)
    failpoint(f"{step}.written")
    aside.replace(path)
    failpoint(f"{step}.linked")
    sync_folder(path.parent)


def write_aside(path: Path, data: bytes) -> Path:
    """Writes `data` to a hidden file beside `path` that no other process or host has the name of, and flushes it.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left there.
    """
    aside = path.with_name(f".{path.name}.{socket.gethostname()[:40]}-{os.getpid()}-{next(_counter)}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            flush(file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def flush(file: Any) -> None:
    """Makes what was written to an open file durable."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names inside a folder durable: files created, renamed or linked there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
