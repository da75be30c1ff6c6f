"""Images as arrays: the cache every trial on a machine shares, and the fixed train/val/test splits.

A data set is decoded once into `<data folder>/cache/<name>-v1/` (for images of different sizes `<name>-<side>-v1`):

    images.npy   uint8 (N, H, W, C), memory-mapped by every trial, so that all of them share one copy in the page cache
    labels.npy   int64 (N,)
    meta.json    what the two hold, with their checksums; written last

`load` is what a trial calls; `prepare` builds the cache and is what staging calls; `missing` says what must be staged.
This module imports numpy and no torch.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs import durable
from jobs.config import Config, ConfigError, parse_classes
from jobs.datasets import DATASETS, DataError, DatasetSpec

try:
    import fcntl
except ImportError:  # not a POSIX system: builders do not wait for each other, and the first to finish wins
    fcntl = None  # type: ignore[assignment]

CACHE_VERSION = 1
"""Part of the cache folder's name; raised when the same raw files would give other pixels."""
DEFAULT_SIDE = 224
"""`image_size = 0` where the images differ in size: what ImageNet networks were trained on."""
_ABANDONED_S = 24 * 3600
_TAGS = {"test": 1, "val": 2, "train": 3, "order": 4}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """The images of one configuration and which of them train, validate and test."""

    images: np.ndarray
    """uint8 (N, H, W, C), read-only, memory-mapped: the whole data set as cached."""
    labels: np.ndarray
    """int64 (N,), numbered 0 to classes - 1; -1 for images of classes that the configuration leaves out."""
    train: np.ndarray
    """int64, sorted indices into `images`."""
    val: np.ndarray
    test: np.ndarray
    classes: int
    spec: DatasetSpec
    size: int
    """Side in pixels of the images as the model sees them."""
    channels: int
    """1 for grey images, 3 for colour, as cached. Models that need three repeat a grey channel themselves (`jobs.models`)."""


def data_folder() -> Path:
    """The folder of all data sets: `$HARNESS_DATA`, or `data` in the working directory."""
    return Path(os.environ.get("HARNESS_DATA") or "data").expanduser()


def model_size(config: Config) -> int:
    """Side in pixels of the images as the model sees them."""
    return config.image_size or DATASETS[config.dataset].shape[0] or DEFAULT_SIDE


def cache_folder(config: Config, root: Path) -> Path:
    """Where the cache lies. Images of different sizes are cached as squares of 256/224 times the size the model sees (the short
    side of 256 for crops of 224 is the usual evaluation of ImageNet networks); one folder for each such size."""
    side = _side(config)
    name = f"{config.dataset}-{side}" if side else config.dataset
    return root / "cache" / f"{name}-v{CACHE_VERSION}"


def _side(config: Config) -> int:
    """Side of the cached squares, 0 where the images have one size of their own."""
    return 0 if DATASETS[config.dataset].shape[0] else round(model_size(config) * 256 / 224)


def missing(config: Config, root: Path) -> list[str]:
    """The raw files that must be fetched before this configuration can run; none when its cache is there.

    Raises:
        DataError: the data folder may not be read.
    """
    try:
        return [] if _meta(cache_folder(config, root)) else DATASETS[config.dataset].missing(root)
    except OSError as error:
        raise DataError(f"{config.dataset}: the data folder {root} cannot be read: {error}. Set HARNESS_DATA to one that can") from error


def load(config: Config, root: Path) -> Splits:
    """The data of one trial; builds the cache when it is not there and the raw files are.

    Raises:
        DataError: files are missing or broken, the cache cannot be written, or a class has no image.
        ConfigError: more training images are asked than there are, or too few for the classes.
    """
    folder = prepare(config, root)
    meta = _meta(folder) or {}
    spec = DATASETS[config.dataset]
    # A plain array over the mapped file: np.memmap itself adds microseconds to every index.
    images = np.asarray(np.load(folder / "images.npy", mmap_mode="r"))
    labels, classes = _keep_classes(config, np.load(folder / "labels.npy"))
    kept = np.flatnonzero(labels >= 0)
    own_test = meta["train"] if spec.own_test else None
    train, val, test = _split(config, labels, kept, own_test)
    for name, indices in (("train", train), ("val", val), ("test", test)):
        indices.sort()
        if not len(indices):
            raise DataError(f"{config.dataset}: no image is left for the {name} split of {len(kept)} images in {classes} classes")
    without = np.setdiff1d(np.arange(classes), labels[train])
    if len(without):
        raise DataError(f"{config.dataset}: class {without[0]} (of {classes}, numbered after `classes`) has no training image; "
                        "lower `val_fraction` or `test_fraction`, or choose other `classes`")
    return Splits(images=images, labels=labels, train=train, val=val, test=test, classes=classes, spec=spec,
                  size=model_size(config), channels=images.shape[3])


def _keep_classes(config: Config, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels numbered anew for the classes that `config.classes` keeps (-1 for the rest), and how many those are."""
    found = int(labels.max()) + 1
    chosen = parse_classes(config.classes) or tuple(range(found))
    if chosen[-1] >= found:
        raise ConfigError([("classes", f"{config.dataset} as it lies on disk has classes 0 to {found - 1}, not {chosen[-1]}")])
    number = np.full(found, -1, dtype=np.int64)
    number[list(chosen)] = np.arange(len(chosen))
    return number[labels], len(chosen)


# ---------------------------------------------------------------------------------------------------------------- splits


def _split(config: Config, labels: np.ndarray, kept: np.ndarray, own_test: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, val and test as indices into the images. Each is drawn by its own numbers, test before val before train, so that
    `train_images` changes neither of the others and `val_fraction` not the test split. Test and val are drawn for each class by
    itself, so that an image is in the same one of the three whichever other classes are kept."""
    seed = config.split_seed
    if own_test is not None:
        test, rest = kept[kept >= own_test], kept[kept < own_test]
    else:
        test, rest = _beginnings(labels, kept, share=config.test_fraction, seed=seed, tag="test")
    val, train = _beginnings(labels, rest, share=config.val_fraction, seed=seed, tag="val")
    if config.train_images:
        classes = len(np.unique(labels[train]))
        if not classes <= config.train_images <= len(train):
            raise ConfigError([("train_images", f"train_images: {config.train_images} is outside {classes} (one for each class) to "
                                                f"{len(train)} (what {config.dataset} has once val and test are taken)")])
        train = stratified_order(labels, train, seed=seed)[:config.train_images]
    return train, val, test


def _beginnings(labels: np.ndarray, indices: np.ndarray, *, share: float, seed: int, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """`share` of the images of each class, rounded (a half up): the beginning of a random order of that class which no other class
    and no share has a part in, so that a larger share contains a smaller one. Returns them and the others."""
    shuffled, rank, counts = _by_class(labels, indices, seed=seed, tag=tag)
    taken = rank < np.floor(share * counts + 0.5)
    return shuffled[taken], shuffled[~taken]


def stratified_order(labels: np.ndarray, indices: np.ndarray, *, seed: int) -> np.ndarray:
    """`indices` in a random order of which every beginning is stratified: it has one image of each class before a second of any, then
    every class in proportion, and a shorter beginning is part of a longer one.

    The image that comes r-th (from 0) in a random order of a class of n images gets the place (r + 1/2) / n, the first one
    the place 0: Webster's method of apportionment, whose shares never shrink when the total grows.
    """
    shuffled, rank, counts = _by_class(labels, indices, seed=seed, tag="train")
    return shuffled[np.argsort(np.where(rank == 0, 0.0, (rank + 0.5) / counts), kind="stable")]


def _by_class(labels: np.ndarray, indices: np.ndarray, *, seed: int, tag: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`indices` sorted by class and shuffled within each, by numbers that are a function of (seed, tag, index) alone; for every one
    of them its rank in its class (from 0) and how many of its class there are."""
    kept = labels[indices]
    shuffled = indices[np.lexsort((_random_words((seed, 0), _TAGS[tag], len(labels))[indices], kept))]
    counts = np.bincount(kept)
    return shuffled, np.arange(len(indices)) - np.repeat(np.cumsum(counts) - counts, counts), np.repeat(counts, counts)


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which `n` training images are seen: a permutation that follows from (seed, epoch) alone, so that it
    is the same on every rank and after every resume."""
    return np.argsort(_random_words((seed, epoch), _TAGS["order"], n), kind="stable")


def _random_words(key: tuple[int, int], tag: int, n: int) -> np.ndarray:
    """n random 64-bit words, the i-th a function of (key, tag, i) alone.

    Philox is a counter-based generator (Salmon et al., SC 2011), and its raw words are the one stream that numpy promises to
    keep: https://numpy.org/neps/nep-0019-rng-policy.html
    """
    bits = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=np.array([0, 0, 0, tag], dtype=np.uint64))
    return np.asarray(bits.random_raw(n))


def random_uniforms(*, seed: int, epoch: int, tag: int, n: int, draws: int = 1) -> np.ndarray:
    """float64 (n, draws) in [0, 1); row i is a function of (seed, epoch, tag, i) and `draws` alone.

    Tags up to 15 are taken by this module.
    """
    # 53 bits, as numpy's own Generator.random does.
    return (_random_words((seed, epoch), tag, n * draws) >> np.uint64(11)).reshape(n, draws) * 2.0**-53


# ----------------------------------------------------------------------------------------------------------------- cache


def prepare(config: Config, root: Path, *, verify: bool = False) -> Path:
    """The cache folder of this configuration's data, built when it is missing or incomplete.

    Several processes may call this at once: one builds, the others wait. That they wait rests on a file lock, which some network file
    systems lack; that the cache is right does not: it is built aside and renamed into place whole, and the first one stays.

    Args:
        verify: Read the cache again and compare its checksums (staging does; a trial checks the sizes only).

    Raises:
        DataError: raw files are missing or broken, or the folder cannot be written.
    """
    folder = cache_folder(config, root)
    try:
        if _meta(folder, verify=verify):
            return folder
        if absent := DATASETS[config.dataset].missing(root):
            raise DataError(f"{config.dataset}: missing {', '.join(absent)}. Fetch it with `python -m harness.stage GRID` where there is "
                            "internet, or set HARNESS_DATA to the folder that holds it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _building(folder):
            if not _meta(folder, verify=verify):
                _build(config, root, folder)
    except OSError as error:
        raise DataError(f"the cache of {config.dataset} cannot be read from or written to {folder}: {error}. Stage it as a user who may "
                        "write there (`python -m harness.stage GRID`), or set HARNESS_DATA to another folder") from error
    return folder


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Waits until no other process builds this cache, where the file system has locks."""
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


def _build(config: Config, root: Path, folder: Path) -> None:
    """Decodes the raw files and puts the cache in place."""
    spec = DATASETS[config.dataset]
    log.info("building the cache %s", folder)
    _sweep(folder)
    side = _side(config)
    try:
        parts = [spec.read(root, split, side) for split in (("train", "test") if spec.own_test else ("all",))]
    except OSError as error:
        raise DataError(f"the raw files of {config.dataset} cannot be read: {error}") from error
    images, labels = (np.concatenate([part[i] for part in parts]) if len(parts) > 1 else parts[0][i] for i in (0, 1))
    _check_read(config.dataset, spec, images, labels, side)
    needed, free = images.nbytes + labels.nbytes, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DataError(f"the cache of {config.dataset} needs {needed / 1e9:.3g} GB in {folder.parent}, and {free / 1e9:.3g} GB are free. "
                        "Make room there, or set HARNESS_DATA to another folder")
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        meta: dict[str, Any] = {"version": CACHE_VERSION, "dataset": config.dataset, "shape": list(images.shape), "train": len(parts[0][1])}
        for name, array in (("images", images), ("labels", labels)):
            with (aside / f"{name}.npy").open("xb") as file:
                np.save(file, array)
                durable.flush(file)
            meta[name] = {"bytes": (aside / f"{name}.npy").stat().st_size, "sha256": durable.sha256_of(aside / f"{name}.npy")}
        with (aside / "meta.json").open("x", encoding="utf-8") as text:
            text.write(json.dumps(meta, indent=1, sort_keys=True) + "\n")
            durable.flush(text)
        _put_in_place(aside, folder)
    except OSError as error:
        raise DataError(f"the cache of {config.dataset} needs {needed / 1e9:.3g} GB in {folder.parent}, and writing it failed: {error}. "
                        "Make room there (a quota counts too), or set HARNESS_DATA to another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, folder: Path) -> None:
    """Renames a finished cache to its name. A complete one that is there already stays; an incomplete one goes."""
    durable.sync_folder(aside)
    if folder.exists() and not _meta(folder, verify=True):
        torn = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        folder.rename(torn)
        shutil.rmtree(torn, ignore_errors=True)
    try:
        aside.rename(folder)
    except OSError:
        if not _meta(folder):  # nobody else put one there: the rename itself failed
            raise
    durable.sync_folder(folder.parent)


def _check_read(name: str, spec: DatasetSpec, images: np.ndarray, labels: np.ndarray, side: int) -> None:
    """Raises DataError when a reader returned something else than it promises."""
    shape = (side, side, spec.shape[2]) if side else spec.shape
    if images.dtype != np.uint8 or images.shape[1:] != shape or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise DataError(f"{name}: read as images {images.dtype} {images.shape} with labels {labels.dtype} {labels.shape}; uint8 "
                        f"(N, {shape[0]}, {shape[1]}, {shape[2]}) with int64 (N,) is meant. Mend its reader in jobs/datasets.py")
    if not len(labels) or labels.min() < 0 or labels.max() >= spec.classes:
        inside = f"labels from {labels.min()} to {labels.max()}" if len(labels) else "no images"
        raise DataError(f"{name}: the raw files hold {inside}, where classes 0 to {spec.classes - 1} are meant. Delete them and fetch "
                        "them again with `python -m harness.stage GRID`")


def _meta(folder: Path, *, verify: bool = False) -> dict[str, Any] | None:
    """What meta.json says, or None when the cache is missing or incomplete: torn by a crash of the file system, or copied in part."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name in ("images", "labels"):
            path = folder / f"{name}.npy"
            if path.stat().st_size != meta[name]["bytes"] or verify and durable.sha256_of(path) != meta[name]["sha256"]:
                return None
        count, *_ = shape = meta["shape"]
        fits = meta["version"] == CACHE_VERSION and 0 < meta["train"] <= count and math.prod(shape) < meta["images"]["bytes"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, IndexError):
        return None
    return meta if fits else None


def _sweep(folder: Path) -> None:
    """Removes what builders that died left behind; a day old, because without locks another may be at work."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
