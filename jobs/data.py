"""Images as arrays: the cache every trial on a machine shares, and the fixed train/val/test splits.

A data set is decoded once into `<data folder>/cache/<name>-v1/` (for images of different sizes `<name>-<side>-v1`), which every trial
maps into memory, so that all of them share one copy in the page cache; `jobs.cache` says what such a folder holds.

`load` is what a trial calls; `prepare` builds the cache and is what staging calls; `missing` says what must be staged.
This module imports numpy and no torch.
"""

import dataclasses
import itertools
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs import cache, datasets, image_folder
from jobs.config import PARAMETERS, Config, ConfigError, parse_classes
from jobs.contract import DataError
from jobs.datasets import DatasetSpec

DEFAULT_SIDE = 224
"""`image_size = 0` where the images differ in size: what ImageNet networks were trained on."""
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
    class_names: tuple[str, ...] = ()
    """In the order of their numbers; () where they have none."""
    channels: int
    """1 for grey images, 3 for colour, as cached. Models that need three repeat a grey channel themselves (`jobs.models`)."""


def data_folder() -> Path:
    """The folder of all data sets: `$HARNESS_DATA`, or `data` in the working directory."""
    return Path(os.environ.get("HARNESS_DATA") or "data").expanduser()


def model_size(config: Config) -> int:
    """Side in pixels of the images as the model sees them."""
    return config.image_size or datasets.spec(config.dataset).shape[0] or DEFAULT_SIDE


def class_count(config: Config, root: Path) -> int:
    """Number of classes that a network for this configuration tells apart; of a user's own images from the names in the data folder.

    Raises:
        ConfigError: these images are not there, or not laid out as they should be.
    """
    if count := len(parse_classes(config.classes)) or datasets.spec(config.dataset).classes:
        return count
    folder = root / datasets.spec(config.dataset).folder
    try:
        if meta := cache.meta(cache_folder(config, root)):
            return len(meta["class_names"])
        return len(image_folder.class_names(folder))
    except (DataError, OSError) as error:
        raise ConfigError([("dataset", f"how many classes {config.dataset} has cannot be told: {error}")]) from error


def cache_folder(config: Config, root: Path) -> Path:
    """Where the cache lies. Images of different sizes are cached as squares of 256/224 times the size the model sees (the short
    side of 256 for crops of 224 is the usual evaluation of ImageNet networks); one folder for each such size."""
    side = _side(config)
    plain = config.dataset.replace(":", "-")  # not every file system takes a colon
    name = f"{plain}-{side}" if side else plain
    return root / "cache" / f"{name}-v{cache.VERSION}"


def _side(config: Config) -> int:
    """Side of the cached squares, 0 where the images have one size of their own."""
    return 0 if datasets.spec(config.dataset).shape[0] else round(model_size(config) * 256 / 224)


def missing(config: Config, root: Path) -> list[str]:
    """The raw files that must be fetched before this configuration can run; none when its cache is there.

    Raises:
        DataError: the data folder may not be read.
    """
    try:
        return [] if cache.meta(cache_folder(config, root)) else datasets.spec(config.dataset).missing(root)
    except OSError as error:
        raise DataError(f"{config.dataset}: the data folder {root} cannot be read: {error}. Set HARNESS_DATA to one that can") from error


def load(config: Config, root: Path) -> Splits:
    """The data of one trial; builds the cache when it is not there and the raw files are.

    Raises:
        DataError: files are missing or broken, the cache cannot be written, or a class has no image.
        ConfigError: more training images are asked than there are, or too few for the classes; a fraction of a split that is given.
    """
    folder = cache.nearby(prepare(config, root))
    meta = cache.meta(folder) or {}
    spec = datasets.spec(config.dataset)
    if datasets.is_own(config.dataset):
        _check_own(config, classes=len(meta["class_names"]), splits=meta["splits"])
        spec = dataclasses.replace(spec, classes=len(meta["class_names"]), mean=tuple(meta["mean"]), std=tuple(meta["std"]),
                                   own_test="test" in meta["splits"])
    # A plain array over the mapped file: np.memmap itself adds microseconds to every index.
    images = np.asarray(np.load(folder / "images.npy", mmap_mode="r"))
    labels, classes = _keep_classes(config, np.load(folder / "labels.npy"))
    names = meta.get("class_names") or datasets.class_names(config.dataset)
    kept = np.flatnonzero(labels >= 0)
    given = (meta["train"], meta["train"] + meta.get("val", 0)) if spec.own_test else None
    train, val, test = _split(config, labels, kept, given)
    for name, indices in (("train", train), ("val", val), ("test", test)):
        indices.sort()
        if not len(indices):
            raise DataError(f"{config.dataset}: no image is left for the {name} split of {len(kept)} images in {classes} classes")
    without = np.setdiff1d(np.arange(classes), labels[train])
    if len(without):
        raise DataError(f"{config.dataset}: class {without[0]} (of {classes}, numbered after `classes`) has no training image; "
                        "lower `val_fraction` or `test_fraction`, or choose other `classes`")
    return Splits(images=images, labels=labels, train=train, val=val, test=test, classes=classes, spec=spec,
                  class_names=tuple(names[number] for number in parse_classes(config.classes) or range(len(names))) if names else (),
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


def _split(config: Config, labels: np.ndarray, kept: np.ndarray,
           given: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, val and test as indices into the images; `given` is where a val and a test split begin that the data set comes with. Each is
    drawn by its own numbers, test before val before train, so that `train_images` changes neither of the others and `val_fraction` not the
    test split. Test and val are drawn for each class by itself, so that an image is in the same one of the three whichever other classes
    are kept."""
    seed = config.split_seed
    if given is not None:
        test, rest = kept[kept >= given[1]], kept[kept < given[1]]
    else:
        test, rest = _beginnings(labels, kept, share=config.test_fraction, seed=seed, tag="test")
    if given is not None and given[0] < given[1]:
        val, train = rest[rest >= given[0]], rest[rest < given[0]]
    else:
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
        if cache.meta(folder, verify=verify):
            if verify:
                check_unchanged(config, root)
            return folder
        if absent := datasets.spec(config.dataset).missing(root):
            how = "Put it there" if datasets.is_own(config.dataset) else \
                "Fetch it with `python -m harness.stage GRID` where there is internet"
            raise DataError(f"{config.dataset}: missing {', '.join(absent)}. {how}, or set HARNESS_DATA to the folder that holds it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with cache.building(folder):
            if not cache.meta(folder, verify=verify):
                _build(config, root, folder)
    except OSError as error:
        raise DataError(f"the cache of {config.dataset} cannot be read from or written to {folder}: {error}. Stage it as a user who may "
                        "write there (`python -m harness.stage GRID`), or set HARNESS_DATA to another folder") from error
    return folder


def _build(config: Config, root: Path, folder: Path) -> None:
    """Decodes the raw files and puts the cache in place."""
    spec, own = datasets.spec(config.dataset), datasets.is_own(config.dataset)
    log.info("building the cache %s", folder)
    cache.sweep(folder)
    side = _side(config)
    try:
        files = image_folder.fingerprint(root / spec.folder) if own else {}  # before they are read: a change meanwhile is seen later
        splits = image_folder.splits(root / spec.folder) if own else ("train", "test") if spec.own_test else ("all",)
        parts = [spec.read(root, split, side) for split in splits]
    except OSError as error:
        raise DataError(f"the raw files of {config.dataset} cannot be read: {error}") from error
    labels, train = np.concatenate([labels for _, labels in parts]), len(parts[0][1])
    _check_labels(config.dataset, spec, labels)
    shape = (side, side, spec.shape[2]) if side else spec.shape
    needed, free = len(labels) * math.prod(shape) + labels.nbytes, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DataError(f"the cache of {config.dataset} needs {needed / 1e9:.3g} GB in {folder.parent}, and {free / 1e9:.3g} GB are free. "
                        "Make room there, or set HARNESS_DATA to another folder")

    def facts(images: np.ndarray) -> dict[str, Any]:
        noted = {"dataset": config.dataset, "train": train}
        return noted if not own else {**noted, "splits": list(splits), "val": len(parts[1][1]) if "val" in splits else 0, "files": files,
                                      **image_folder.facts(root / spec.folder, images[:train])}

    try:
        blocks = _checked(config.dataset, itertools.chain.from_iterable(blocks for blocks, _ in parts), len(labels), shape=shape)
        cache.write(folder, blocks, labels, shape=shape, facts=facts)
    except OSError as error:
        raise DataError(f"the cache of {config.dataset} needs {needed / 1e9:.3g} GB in {folder.parent}, and writing it failed: {error}. "
                        "Make room there (a quota counts too), or set HARNESS_DATA to another folder") from error


def check_unchanged(config: Config, root: Path) -> None:
    """Raises DataError when a user's own images changed since their cache was built: trials would go on reading the old ones. Says nothing
    of other data sets, nor where the images or their cache are not there."""
    spec, folder = datasets.spec(config.dataset), cache_folder(config, root)
    meta = cache.meta(folder) if datasets.is_own(config.dataset) else None
    if meta is None or spec.missing(root):
        return
    then, now = meta["files"], image_folder.fingerprint(root / spec.folder)
    if then != now:
        counts = f"{then['count']} files then, {now['count']} now" if then["count"] != now["count"] else "other names, sizes or times"
        raise DataError(f"the files in {root / spec.folder} have changed since the cache {folder} was made from them ({counts}). To use "
                        "the new ones delete that cache, and begin studies of them under another name, because trials that are finished "
                        "have seen the old ones; to go on with the old ones give the new ones another folder")


def check_own(config: Config, root: Path) -> None:
    """What only the folder of a user's own images can tell about a configuration, from its names alone, before they are decoded; nothing
    for other data sets and where there is no folder.

    Raises:
        DataError: the folder is not laid out as `jobs.image_folder` says.
        ConfigError: classes that it does not have, or a fraction of a split that is given.
    """
    spec = datasets.spec(config.dataset)
    if datasets.is_own(config.dataset) and not spec.missing(root):
        folder = root / spec.folder
        _check_own(config, classes=len(image_folder.class_names(folder)), splits=image_folder.splits(folder))


def _check_own(config: Config, *, classes: int, splits: Iterable[str]) -> None:
    problems = []
    if (chosen := parse_classes(config.classes)) and chosen[-1] >= classes:
        problems.append(("classes", f"{config.dataset} has classes 0 to {classes - 1}, not {chosen[-1]}"))
    for split, name in (("val", "val_fraction"), ("test", "test_fraction")):
        if split in splits and getattr(config, name) != PARAMETERS[name].default:
            problems.append((name, f"{name} has no effect: {config.dataset} comes with a folder {split}/. Leave {name} out"))
    if problems:
        raise ConfigError(problems)


def _check_labels(name: str, spec: DatasetSpec, labels: np.ndarray) -> None:
    """Raises DataError when the raw files hold no images, or classes that are not meant."""
    if not len(labels) or labels.min() < 0 or spec.classes and labels.max() >= spec.classes:
        inside = f"labels from {labels.min()} to {labels.max()}" if len(labels) else "no images"
        raise DataError(f"{name}: the raw files hold {inside}, where classes 0 to {spec.classes - 1} are meant. Delete them and fetch "
                        "them again with `python -m harness.stage GRID`")


def _checked(name: str, blocks: Iterable[np.ndarray], count: int, *, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The blocks of a reader; raises DataError when it returned something else than it promises."""
    left = count
    for block in blocks:
        left -= len(block)
        if block.dtype != np.uint8 or block.shape[1:] != shape:
            raise DataError(f"{name}: read as images {block.dtype} {block.shape}, where uint8 (N, {', '.join(map(str, shape))}) is meant. "
                            "Mend its reader in jobs/datasets.py")
        yield block
    if left:
        raise DataError(f"{name}: read as {count - left} images with {count} labels. Mend its reader in jobs/datasets.py")
