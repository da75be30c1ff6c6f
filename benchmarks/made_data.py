"""Made images in the file formats of real data sets, for benchmarks that train: learnable, and hard enough that accuracies tell apart.

Every class has a coarse pattern of its own; an image is that pattern, moved a little, under noise, and some labels are wrong. The patterns
follow from the number of classes and the side alone, so that training and test images belong together.
"""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

WRONG_LABELS = 0.1
"""Share of the labels that are drawn anew."""
CLASSES = 10


def images(labels: np.ndarray, *, height: int, width: int, channels: int, seed: int, contrast: float = 40.0) -> np.ndarray:
    """uint8 (N, height, width, channels); `contrast` is the deviation of the patterns in grey levels, where the noise has 50."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng([CLASSES, height, width, channels])
    patterns = np.stack([_smooth(fixed.standard_normal((7, 7, channels)), height + 4, width + 4) for _ in range(CLASSES)])
    made = np.empty((len(labels), height, width, channels), dtype=np.uint8)
    for i, (label, (top, left)) in enumerate(zip(labels, rng.integers(0, 5, size=(len(labels), 2)), strict=True)):
        noise = rng.standard_normal((height, width, channels), dtype=np.float32) * 50
        made[i] = np.clip(128 + contrast * patterns[label, top:top + height, left:left + width] + noise, 0, 255)
    return made


def _smooth(coarse_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """A coarse pattern at full size, float32, scaled to a deviation of 1."""
    planes = [np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
              for plane in np.moveaxis(coarse_HWC, -1, 0)]
    smooth = np.stack(planes, -1)
    return (smooth - smooth.mean()) / smooth.std()


def _labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the images show, all classes equally often, and the labels in the file, some of which are wrong."""
    rng = np.random.default_rng([seed, 1])
    shown = rng.permutation(np.arange(count) % CLASSES)
    wrong = rng.random(count) < WRONG_LABELS
    return shown, np.where(wrong, rng.integers(0, CLASSES, count), shown)


def fashion_mnist(root: Path, *, train: int, test: int) -> None:
    """The four files of `FashionMNIST/raw`, 28 x 28 grey."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, (stem, count) in enumerate((("train", train), ("t10k", test))):
        shown, labels = _labels(count, seed)
        pixels = images(shown, height=28, width=28, channels=1, seed=seed, contrast=28)[..., 0]
        for name, array in ((f"{stem}-images-idx3-ubyte", pixels), (f"{stem}-labels-idx1-ubyte", labels.astype(np.uint8))):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


def cifar10(root: Path, *, train: int, test: int) -> None:
    """The files of `cifar-10-batches-py`, 32 x 32 in colour."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, (names, count) in enumerate((([f"data_batch_{i}" for i in range(1, 6)], train), (["test_batch"], test))):
        shown, labels = _labels(count, seed)
        pixels = images(shown, height=32, width=32, channels=3, seed=seed).transpose(0, 3, 1, 2).reshape(count, 3072)
        for name, part in zip(names, np.array_split(np.arange(count), len(names)), strict=True):
            batch = {b"data": np.ascontiguousarray(pixels[part]), b"labels": labels[part].tolist()}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def caltech101(root: Path, *, count: int) -> None:
    """`caltech101/101_ObjectCategories/<class>/image_0001.jpg`, about the size and weight of the real ones (300 x 200, 25 kB)."""
    shown, labels = _labels(count, 0)
    pixels = images(shown, height=200, width=300, channels=3, seed=0)
    for i, (label, picture) in enumerate(zip(labels, pixels, strict=True)):
        folder = root / "caltech101" / "101_ObjectCategories" / f"class{label}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(picture).resize((150, 100), Image.Resampling.BILINEAR).resize((300, 200), Image.Resampling.BILINEAR)
        coarse.save(folder / f"image_{i:04d}.jpg", quality=92)
