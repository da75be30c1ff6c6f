"""What a study was run with: a copy of the source that its workers import, the commit, and the packages."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.store import Store
from jobs.failpoint import failpoint

PACKAGES = ("torch", "torchvision", "timm", "numpy", "submitit", "nevergrad", "pandas", "pyarrow", "matplotlib")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The source files that workers need, by path, and the digest that names them."""

    files: dict[str, bytes]
    digest: str

    @classmethod
    def of_this_process(cls, *own: str) -> "Source":
        """What runs now: this package, `jobs`, and the package or module of each function of the user's own, "package.module:function".

        Raises:
            UsageError: there is no such package or module.
        """
        names = ["harness", "jobs", *(re.split("[.:]", function)[0] for function in own)]
        files = {name: text for package in dict.fromkeys(names) for name, text in _files_of(package).items()}
        parts = (f"{name}\0{len(text)}\0".encode() + text for name, text in sorted(files.items()))
        return cls(files=files, digest=hashlib.sha256(b"".join(parts)).hexdigest()[:16])

    def copy_into(self, store: Store) -> None:
        """Puts the files into the study's code folder, whole or not at all; does nothing when they are there.

        Raises:
            OSError: the folder cannot be written.
        """
        target = store.code_folder(self.digest)
        if target.exists():
            return
        aside = target.with_name(f".{self.digest}.{os.getpid()}")
        for name, text in self.files.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        (aside / "origin.json").write_text(json.dumps(origin()), encoding="utf-8")
        failpoint("code.written")
        try:
            aside.rename(target)
        except OSError:
            if not target.exists():  # else another launcher made the same copy
                raise
            shutil.rmtree(aside)
        failpoint("code.linked")


def _files_of(package: str) -> dict[str, bytes]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UsageError(f"there is no Python package or module `{package}` to run; the folder that holds it must be the working "
                         "directory or on PYTHONPATH (and a package needs an __init__.py)")
    if not spec.submodule_search_locations:
        return {Path(spec.origin).name: Path(spec.origin).read_bytes()}
    folder = Path(spec.origin).parent
    return {f"{package}/{path.relative_to(folder).as_posix()}": path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.suffix in (".py", ".json")}


def environment(source: Source) -> dict[str, Any]:
    """The content of a new study's env.json: code, packages, Python, and a nonce that tells its jobs from every other study's."""
    return {"code": source.digest, "nonce": secrets.token_hex(6), "python": platform.python_version(), "platform": platform.platform(),
            "packages": {name: _version(name) for name in PACKAGES}, **origin()}


def origin_of(store: Store, code: str) -> dict[str, Any]:
    """`origin()` as it was when a study's copy of the source was made: what its workers run, whatever became of the repository since."""
    return json.loads((store.code_folder(code) / "origin.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def origin() -> dict[str, Any]:
    """Commit of the source that runs now, and whether it was changed since; versions that decide numbers."""
    here = Path(__file__).parent.parent
    commit = _git(here, "rev-parse", "HEAD")
    dirty = bool(_git(here, "status", "--porcelain", "--untracked-files=no")) if commit else None
    return {"commit": commit or None, "dirty": dirty, "python": platform.python_version(), "torch": _version("torch")}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
