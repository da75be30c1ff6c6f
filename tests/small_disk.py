"""A file system of one megabyte, to be filled for real."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, *, size_kb: int = 1024, options: str = "") -> Iterator[Path]:
    """Mounts a tmpfs at `folder` for the length of a `with` block; skips the test where that is not allowed.

    Args:
        options: further mount options, such as "ro".
    """
    mount = shutil.which("mount")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["-t", "tmpfs", "-o", f"size={size_kb}k{',' + options if options else ''}", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *words], capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted only by root")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)
