"""Folders of decoded images that are whole or absent, however many processes build them at once; and copies of them on a node's own disk.

    images.npy   uint8 (N, H, W, C)
    labels.npy   int64 (N,)
    meta.json    what the two hold, with their checksums; written last

`jobs.data` knows what belongs into them. This module imports numpy and no torch.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs import durable

try:
    import fcntl
except ImportError:  # not a POSIX system: builders do not wait for each other, and the first to finish wins
    fcntl = None  # type: ignore[assignment]

VERSION = 1
"""Part of the cache folder's name; raised when the same raw files would give other pixels."""
SCRATCH = "HARNESS_SCRATCH"
"""Environment variable with a folder on the node's own disk; a Slurm profile's `scratch` sets it."""
_ABANDONED_S = 24 * 3600

log = logging.getLogger(__name__)


def meta(folder: Path, *, verify: bool = False) -> dict[str, Any] | None:
    """What meta.json says, or None when the cache is missing or incomplete: torn by a crash of the file system, or copied in part.

    Args:
        verify: Read the arrays and compare their checksums too, not the sizes only.
    """
    try:
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name in ("images", "labels"):
            path = folder / f"{name}.npy"
            if path.stat().st_size != found[name]["bytes"] or verify and durable.sha256_of(path) != found[name]["sha256"]:
                return None
        count, *_ = shape = found["shape"]
        fits = found["version"] == VERSION and 0 < found["train"] <= count and math.prod(shape) < found["images"]["bytes"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None
    return found if fits else None


@contextlib.contextmanager
def building(folder: Path) -> Iterator[None]:
    """Waits until no other process builds this folder, where the file system has locks."""
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process builds %s; waiting for it", folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                log.info("no file locks in %s (%s): going on without", folder.parent, error)
        yield


def write(folder: Path, blocks: Iterable[np.ndarray], labels: np.ndarray, *, shape: tuple[int, ...],
          facts: Callable[[np.ndarray], Mapping[str, Any]]) -> None:
    """Puts a folder in place, built aside; one that is there already and whole stays.

    Args:
        blocks: the images, uint8 (n, H, W, C) whose n add up to those of `labels`; one block is in memory at a time.
        shape: (H, W, C).
        facts: what is noted besides, given the images (N, H, W, C) as they lie on the disk.

    Raises:
        OSError: it cannot be written.
        What going through `blocks` raises.
    """
    aside = _aside(folder)
    aside.mkdir()
    try:
        whole = (len(labels), *shape)
        with (aside / "images.npy").open("xb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": whole})
            for block in blocks:
                file.write(np.ascontiguousarray(block).data)
            durable.flush(file)
        with (aside / "labels.npy").open("xb") as file:
            np.save(file, labels)
            durable.flush(file)
        found: dict[str, Any] = {"version": VERSION, "shape": list(whole), **facts(np.load(aside / "images.npy", mmap_mode="r"))}
        for name in ("images", "labels"):
            found[name] = {"bytes": (aside / f"{name}.npy").stat().st_size, "sha256": durable.sha256_of(aside / f"{name}.npy")}
        with (aside / "meta.json").open("x", encoding="utf-8") as text:
            text.write(json.dumps(found, indent=1, sort_keys=True) + "\n")
            durable.flush(text)
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Removes what builders that died left behind; a day old, because without locks another may be at work."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


def nearby(folder: Path) -> Path:
    """A copy of a whole cache on the node's own disk, where $HARNESS_SCRATCH names one, so that trials map pages of that disk and not of
    the network's: the first on a node copies, the others wait. The cache itself when there is none, no room, or no other disk."""
    if not (scratch := os.environ.get(SCRATCH)):
        return folder
    named = hashlib.sha256(str(folder.resolve()).encode() + (folder / "meta.json").read_bytes()).hexdigest()[:12]
    copy = Path(scratch) / f"harness-cache-{os.getuid()}" / f"{folder.name}-{named}"
    try:
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if copy.parent.stat().st_uid != os.getuid():
            raise OSError(f"{copy.parent} is somebody else's")
        if copy.parent.stat().st_dev == folder.stat().st_dev:
            return folder
        with building(copy):
            if not meta(copy):
                _copy(folder, copy)
    except OSError as error:
        print(f"no copy of {folder} on this node, so it is read where it lies: {error}", flush=True)
        return folder
    return copy


def _copy(folder: Path, copy: Path) -> None:
    sweep(copy)
    needed = sum(path.stat().st_size for path in folder.iterdir())
    if needed > (free := shutil.disk_usage(copy.parent).free):
        raise OSError(f"it needs {needed / 1e9:.3g} GB in {copy.parent}, and {free / 1e9:.3g} GB are free")
    aside = _aside(copy)
    try:
        shutil.copytree(folder, aside)
        if not meta(aside, verify=True):
            raise OSError(f"what was copied to {copy.parent} differs from it")
        _put_in_place(aside, copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")


def _put_in_place(aside: Path, folder: Path) -> None:
    """Renames a finished folder to its name. A whole one that is there already stays; an incomplete one goes."""
    durable.sync_folder(aside)
    if folder.exists() and not meta(folder, verify=True):
        torn = _aside(folder)
        folder.rename(torn)
        shutil.rmtree(torn, ignore_errors=True)
    try:
        aside.rename(folder)
    except OSError:
        if not meta(folder):  # nobody else put one there: the rename itself failed
            raise
    durable.sync_folder(folder.parent)
