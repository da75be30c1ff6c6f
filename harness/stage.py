"""Fetches what a grid's trials need, where there is internet: data sets, published weights, and the caches made from them.

    python -m harness.stage grids/caltech_transfer.toml
    python -m harness.stage grids/caltech_transfer.toml --set image_size=128
    python -m harness.stage grids/*.toml --data /shared/data     # where the compute nodes see it; they set HARNESS_DATA to the same

Only this command downloads. What is there already is checked and kept, so it may be given again at any time.
"""

import argparse
import hashlib
import http.client
import os
import shutil
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from harness import command
from harness.errors import MissingData, UsageError

if TYPE_CHECKING:
    from harness.grid import Grid
    from jobs.config import Config

TIMEOUT_S = 60.0
"""A server that sends nothing for so long is given up."""
_CHUNK = 1 << 20
_PROGRESS_S = 0.2


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(
        prog="python -m harness.stage", description="Fetch the data sets and weights that grids need, and build the caches.", epilog=(
            "exit status: 0 everything is there, 1 something could not be fetched or built, 2 a mistake in a grid or the command, "
            "130 interrupted"))
    options.add_argument("grids", nargs="+", type=Path, metavar="GRID", help="TOML file")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                         help="change a key of the grids, as for harness.launch: model=resnet50")
    options.add_argument("--data", type=Path, metavar="DIR", help="the data folder (default: $HARNESS_DATA, or data)")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    from harness.grid import read_grid
    from jobs.data import data_folder

    grids = [(path, read_grid(path, overrides=options.overrides)) for path in options.grids]
    root = (options.data or data_folder()).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the data folder {root} cannot be made: {error.strerror}; "
                         "choose another with --data DIR or HARNESS_DATA") from error
    return stage(grids, root, runs=Path("runs"))


def stage(grids: Iterable[tuple[Path, "Grid"]], root: Path, *, runs: Path) -> int:
    """Fetches and builds what the grids' trials need into the data folder `root`, one line each; returns the exit status.

    Args:
        grids: each with the file it was read from.
        runs: the folder of studies, where earlier ones are looked for.
    """
    from harness.needs import needed_configs
    from jobs.config import ConfigError
    from jobs.contract import DataError
    from jobs.registry import is_timm

    print(f"data folder: {root}")
    sets: dict[str, dict[Path, Config]] = {}
    weights: dict[Path, Config] = {}
    studies: dict[str, Path] = {}
    for path, grid in grids:
        if grid.job is not None:
            _say(grid.name, f"nothing to stage: {grid.job.run} is a job of your own, and what it reads is not known here")
        _collect(needed_configs(grid), root, sets=sets, weights=weights, studies=studies, folder=path.parent)
    failed = 0
    steps = [(f"data set {name}", partial(_stage_dataset, name, configs, root)) for name, configs in sets.items()]
    steps += [(f"weights {config.weights} of {config.model}",
               partial(_stage_timm if is_timm(config.model) else _stage_weights, path, config)) for path, config in weights.items()]
    steps += [(f"study {name}", partial(_look_for_study, runs / name, folder)) for name, folder in studies.items()]
    for what, act in steps:
        try:
            act()
        except (MissingData, DataError, ConfigError, OSError) as error:
            failed += 1
            print(f"FAILED  {what}: {error}", file=sys.stderr)
    print(f"{failed} of {len(steps)} could not be staged" if failed else "everything is staged")
    return 1 if failed else 0


def _collect(configs: "Iterable[Config]", root: Path, *, sets: "dict[str, dict[Path, Config]]", weights: "dict[Path, Config]",
             studies: dict[str, Path], folder: Path) -> None:
    """Notes each thing once: data set -> {cache folder: config}, weights file -> config, earlier study -> folder of its grid."""
    from jobs import registry
    from jobs.data import cache_folder

    for config in configs:
        sets.setdefault(config.dataset, {}).setdefault(cache_folder(config, root), config)
        if config.weights.startswith("study:"):
            studies.setdefault(config.weights.removeprefix("study:"), folder)
        elif path := registry.weights_path(config.model, config.weights, root):
            weights.setdefault(path, config)


def _stage_dataset(name: str, configs: "dict[Path, Config]", root: Path) -> None:
    """The raw files of a data set, and its caches.

    Raises:
        DataError: they cannot be fetched, or are broken.
    """
    import jobs.data
    from jobs.contract import DataError
    from jobs.datasets import is_own
    from jobs.datasets import spec as spec_of

    spec = spec_of(name)
    if not any(jobs.data.missing(config, root) for config in configs.values()):
        _say(name, f"already there: {root / spec.folder}" if spec.folder and (root / spec.folder).exists() else "no download needed")
    elif spec.fetch is None:
        put = ": put your images there, one folder for each class" if is_own(name) else ", and this data set cannot be downloaded"
        raise DataError(f"{', '.join(spec.missing(root))} is not there{put}")
    else:
        print(f"fetching {name}, about {spec.download_gb:.2g} GB", flush=True)
        start = time.perf_counter()
        spec.fetch(root)
        _say(name, f"fetched: {root / spec.folder}", size=_size(root / spec.folder), seconds=time.perf_counter() - start)
    for folder, config in configs.items():
        jobs.data.check_own(config, root)
        there, start = folder.exists(), time.perf_counter()
        jobs.data.prepare(config, root, verify=True)
        _say(f"{name} cache", f"{'checked' if there else 'built'}: {folder}", size=_size(folder), seconds=time.perf_counter() - start)


def _stage_weights(path: Path, config: "Config") -> None:
    """A published weights file, checked against the start of its SHA-256 that its name holds.

    Raises:
        MissingData: it cannot be fetched, or what came is something else.
        OSError: it cannot be written.
    """
    from jobs import durable
    from jobs.registry import weights_url
    from jobs.weights import published_digest

    url, name = weights_url(config.model, config.weights), f"{config.model} {config.weights}"
    expected = published_digest(path.name)
    if path.exists():
        if durable.sha256_of(path).startswith(expected):
            _say(name, f"already there: {path}", size=_size(path))
            return
        print(f"{path} is damaged (its SHA-256 does not start with {expected}); fetching it again")
    start = time.perf_counter()
    try:
        download(url, path, sha256=expected)
    except MissingData as error:
        raise MissingData(f"{error}\n        by hand: download {url}\n        where there is internet, and put the file at "
                          f"{path.absolute()}; then give this command again, which checks it") from error
    _say(name, f"fetched: {path}", size=_size(path), seconds=time.perf_counter() - start)


def _stage_timm(path: Path, config: "Config") -> None:
    """The weights that timm publishes for a model, as one file that trials load without timm's downloader.

    Raises:
        ConfigError: timm is not installed, or has no weights of that tag.
        MissingData: they cannot be fetched, or there are none.
        OSError: they cannot be written.
    """
    import torch

    from jobs import durable, timm_models
    from jobs.config import ConfigError
    from jobs.weights import WeightsError, check_sums

    if path.exists():
        try:
            check_sums(path, "fetching it again")
        except WeightsError as error:
            print(error)
        else:
            _say(config.model, f"already there: {path}", size=_size(path))
            return
    start = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".timm-") as folder:  # not the hub's cache: a home folder is often too small
        try:
            state, source = timm_models.download(config.model, folder)
        except ConfigError:
            raise
        except Exception as error:  # of timm, the hub's client and its network library, which have no common class
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            raise MissingData(f"timm cannot fetch them: {reason}\n        by hand: give this command where there is internet, and copy the "
                              f"file that it makes to {path.absolute()}") from error
        torch.save({"model": state, "source": source}, aside := Path(folder) / path.name)
        with aside.open("rb") as file:
            durable.flush(file)
        aside.replace(path)
    durable.sync_folder(path.parent)
    _say(config.model, f"fetched {source}: {path}", size=_size(path), seconds=time.perf_counter() - start)


def _look_for_study(study: Path, grids: Path) -> None:
    """Says whether an earlier study has weights to start from. It is no download, so it is no failure when it has none yet."""
    from harness.needs import missing_source
    from harness.store import Store

    if lacking := missing_source(Store(study), grids=grids):
        _say(f"study {study.name}", f"not there yet: {lacking.what}, in {study}\n{'':<24} run it first: {lacking.command}")
    else:
        _say(f"study {study.name}", f"already there: {study}")


def download(url: str, path: Path, *, sha256: str = "") -> None:
    """Puts the file behind `url` at `path`, whole and flushed to disk, or leaves what was there.

    Args:
        sha256: how its SHA-256 must start; "" when that is not known.

    Raises:
        MissingData: the server cannot be reached, refuses, sends less than it announced or something else. The text says which.
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    host = urlsplit(url).hostname
    try:
        with aside.open("xb") as file:
            digest = _copy(url, file, shown=path.name, free=shutil.disk_usage(path.parent).free)
            file.flush()
            os.fsync(file.fileno())
        if not digest.startswith(sha256):
            raise MissingData(f"what {host} sent is another file: its SHA-256 starts with {digest[:len(sha256)]}, expected {sha256} "
                              f"(a log-in page or a proxy in between, perhaps)")
        aside.replace(path)
    except urllib.error.HTTPError as error:  # a kind of URLError, which is a kind of OSError: the order matters
        raise MissingData(f"{host} can be reached, but answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingData(f"{host} cannot be reached from here ({reason})") from error
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _copy(url: str, into: IO[bytes], *, shown: str, free: int) -> str:
    """Writes what the server sends into the file; returns its SHA-256. Shows progress in a terminal."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise MissingData(f"{url} is no http or https address")
    digest, received, told = hashlib.sha256(), 0, 0.0
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        announced = response.length or 0
        print(f"fetching {shown}{f', {_bytes(announced)}' if announced else ''}", flush=True)
        if announced > free:
            raise MissingData(f"it needs {_bytes(announced)}, and {_bytes(free)} are free")
        while chunk := response.read(_CHUNK):
            digest.update(chunk)
            received += len(chunk)
            into.write(chunk)
            if sys.stderr.isatty() and time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                print(f"\r  {_bytes(received)} of {_bytes(announced) if announced else '?'}  ", end="", file=sys.stderr, flush=True)
    if told:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
    if received < announced:
        raise MissingData(f"the connection to {urlsplit(url).hostname} ended early: {received} of {announced} bytes came; try again")
    return digest.hexdigest()


def _say(name: str, text: str, *, size: int = 0, seconds: float = 0.0) -> None:
    facts = ", ".join(([_bytes(size)] if size else []) + ([f"{seconds:.1f} s"] if seconds else []))
    print(f"{name:<24} {text}{f'  ({facts})' if facts else ''}", flush=True)


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


if __name__ == "__main__":
    sys.exit(main())
