"""Folders of image files, one folder for each class: decoded to squares of one size, and the data sets of a user's own.

A data set of one's own, `dataset = "folder:NAME"`, lies under the data folder in one of two layouts:

    NAME/<class>/*.jpg                                        val and test are cut from all images, as the fractions say
    NAME/train/<class>/*.jpg  NAME/test/<class>/*.jpg         the test split is given; with NAME/val/<class>/*.jpg so is validation

Classes are the folders' names, numbered in their sorted order. What could be read in two ways, or not at all, is refused with the names
of the files; nothing is skipped silently. This module imports nothing heavy before a file is decoded.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""What counts as an image file; of a file with several pictures the first is taken."""
_LITTER = {"thumbs.db", "desktop.ini"}
"""Files that a file manager leaves behind; hidden ones are passed over too."""
_SPLITS = ("train", "val", "test")
_SHOWN = 10
BLOCK = 512
"""Images that are decoded at a time: 100 MB of 256 x 256."""
_LONG = 16
"""From this ratio of the sides on only the part of an image that is kept is scaled, lest a strip of one pixel becomes a huge image."""


# ------------------------------------------------------------------------------------------------------- a data set of one's own


def missing(folder: Path) -> list[str]:
    """What is not there, as paths to show."""
    return [] if folder.is_dir() else [str(folder)]


def splits(folder: Path) -> tuple[str, ...]:
    """The splits that a data set of one's own comes in: ("all",), ("train", "test") or ("train", "val", "test").

    Raises:
        DataError: a layout that is neither of the two.
    """
    if not any(path.is_dir() for path in _entries(folder / "train")):
        return ("all",)  # `train` may also be what a class is called: then it holds images
    there = {path.name for path in _entries(folder) if path.is_dir()}
    if others := sorted(there - set(_SPLITS)):
        raise DataError(f"{folder} has train/, so that beside it only val/ and test/ can be meant, not {_some(others)}; rename or move "
                        "them, or put all class folders directly into the data set's folder")
    if "test" not in there:
        advice = ("rename val/ to test/ if results are reported on it; images that validate are then cut from train/ by `val_fraction`"
                  if "val" in there else f"move the class folders up into {folder}, and `test_fraction` cuts the test split")
        raise DataError(f"{folder} has {' and '.join(f'{name}/' for name in _SPLITS if name in there)} and no test/: {advice}")
    return tuple(name for name in _SPLITS if name in there)


def class_names(folder: Path) -> list[str]:
    """The names of the classes in the order of their numbers.

    Raises:
        DataError: fewer than two classes, or splits whose classes differ.
    """
    parts = [folder if split == "all" else folder / split for split in splits(folder)]
    first = [path.name for path in _class_folders(parts[0])]
    for part in parts[1:]:
        other = {path.name for path in _class_folders(part)}
        if other != set(first):
            lacking = f"{part} lacks {_some(sorted(set(first) - other))}" if set(first) - other else \
                f"{parts[0]} lacks {_some(sorted(other - set(first)))}"
            raise DataError(f"{parts[0]} and {part} hold different class folders: {lacking}. Every split needs every class, under one name")
    if len(first) < 2:
        raise DataError(f"{parts[0]} holds {len(first)} class folder(s); at least 2 are meant, one folder for each class with its images")
    return first


def read(folder: Path, split: str, side: int) -> "tuple[Iterator[np.ndarray], np.ndarray]":
    """One split of a data set of one's own: images as blocks of `decode`, labels int64 (N,).

    Raises:
        DataError: a class without images, a file that is no image; all of them are named.
    """
    import numpy as np

    part = folder if split == "all" else folder / split
    files, labels, wrong = list[Path](), list[int](), list[str]()
    for label, name in enumerate(class_names(folder)):
        found = _files_of(part / name)
        wrong += [] if found else [f"{part / name}: it holds no image"]
        for path in found:
            if path.is_dir() or path.suffix.lower() not in SUFFIXES:
                wrong.append(f"{path}: {'a folder inside a class folder' if path.is_dir() else 'no image by its name'}")
        files += found
        labels += [label] * len(found)
    advice = f"Mend {folder} and give the command again"
    if wrong:
        raise DataError(f"{part}: class folders hold images and nothing else ({' '.join(SUFFIXES)}):\n  {_lines(wrong)}\n{advice}")
    return decode(files, side, folder=part, advice=advice), np.asarray(labels, dtype=np.int64)


def facts(folder: Path, images: "np.ndarray") -> dict[str, Any]:
    """What a cache notes about a data set of one's own.

    Args:
        images: the training images as cached, uint8 (N, H, W, 3).

    Returns:
        "class_names"; "mean" and "std", of each channel in 0 to 1 over these images, for normalisation.
    """
    mean, std = channel_statistics(images)
    return {"class_names": class_names(folder), "mean": mean, "std": std}


def channel_statistics(images: "np.ndarray") -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel in 0 to 1; a deviation of zero is given as 1, because images are divided by it.

    From the exact counts of the 256 values, so that neither order nor number of images rounds anything away.
    """
    import numpy as np

    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 1024):
            counts += np.bincount(images[start:start + 1024, ..., channel].ravel(), minlength=256)
        total, values = int(counts.sum()), np.arange(256)
        mean = int(counts @ values) / total
        variance = float(counts @ (values - mean) ** 2) / total
        means.append(mean / 255)
        deviations.append(variance ** 0.5 / 255 or 1.0)
    return means, deviations


def fingerprint(folder: Path) -> dict[str, Any]:
    """How many files the splits of a data set hold, and a digest of their names, sizes and times of change: it tells that files changed
    without reading them."""
    digest, count = hashlib.sha256(), 0
    for split in splits(folder):
        part = folder if split == "all" else folder / split
        for group in _class_folders(part):
            for path in _files_of(group):
                status = path.stat()
                digest.update(os.fsencode(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"))
                count += 1
    return {"count": count, "sha256": digest.hexdigest()}


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden, in the order of the names; nothing where there is no folder."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _class_folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _files_of(group: Path) -> list[Path]:
    return [path for path in _entries(group) if path.name.lower() not in _LITTER]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _lines(problems: Sequence[str]) -> str:
    return "\n  ".join([*problems[:_SHOWN], *([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])])


# ------------------------------------------------------------------------------------------------------------------- pixels


def decode(files: Sequence[Path], side: int, *, folder: Path, advice: str) -> "Iterator[np.ndarray]":
    """Image files as squares, on all cores: blocks of uint8 (at most BLOCK, side, side, 3), one after the other.

    Every image is decoded even after the first broken one, so that one message, after the last, names them all.

    Raises:
        DataError: some cannot be decoded; `folder` is where they lie, `advice` what to do.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from PIL import Image, ImageOps  # noqa: F401

    Image.init()  # Pillow imports a format's code when it meets the first such file: here and not in several threads at once
    broken = []

    def fill(image: np.ndarray, path: Path) -> None:
        try:
            image[:] = square(path, side)
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, a bomb's error and more
            broken.append(f"{path}: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) as pool:
        for first in range(0, len(files), BLOCK):
            block = files[first:first + BLOCK]
            images = np.empty((len(block), side, side, 3), dtype=np.uint8)
            list(pool.map(fill, images, block))
            yield images
    if broken:
        raise DataError(f"{len(broken)} of {len(files)} images in {folder} cannot be read:\n  {_lines(sorted(broken))}\n{advice}")


def square(path: Path, side: int) -> "np.ndarray":
    """One image file as RGB (side, side, 3): turned as its EXIF says, short side scaled, centre cut; the pixels of torchvision's
    Resize(side) and CenterCrop(side), whose roundings these are."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = rgb(ImageOps.exif_transpose(file), from_png=file.format in ("PNG", "PPM"))
    short = min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    if max(width, height) < _LONG * side:
        image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
    else:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + side) * across, (top + side) * down)
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def rgb(image: "Image", *, from_png: bool = False) -> "Image":
    """An image of any mode as RGB with 8 bits: grey in three equal channels, 16-bit grey scaled (Pillow would clip it at 255), and what is
    transparent laid over white, as a page shows it; Pillow's own conversion would show the colour that hides there.

    Args:
        from_png: the file's format holds at most 16 bits, whatever mode Pillow opened it in.

    Raises:
        ValueError: 32-bit numbers, of which nobody knows what black and white are.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I" and from_png:
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 is 255 x 257; rounded
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (Pillow's mode {image.mode}) without a known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, (255, 255, 255, 255))
        page.alpha_composite(image.convert("RGBA"))
        return page.convert("RGB")
    return image.convert("RGB")

