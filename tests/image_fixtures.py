"""Small data sets in the real on-disk formats, for tests: `write_caltech101(root)` and so on make a data folder `root` that the readers
accept as they accept the real one. Every class has a colour of its own, so that a network can learn them."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

CALTECH_CLASSES = ("Faces", "accordion", "airplanes")


def class_images(labels: np.ndarray, height: int, width: int, channels: int, *, classes: int, seed: int = 0) -> np.ndarray:
    """uint8 (N, height, width, channels): noise about a colour that the class decides."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(classes).integers(30, 226, size=(classes, 1, 1, channels))
    return np.clip(colours[labels] + rng.integers(-20, 21, size=(len(labels), height, width, channels)), 0, 255).astype(np.uint8)


def write_caltech101(root: Path, *, classes: tuple[str, ...] = CALTECH_CLASSES, per_class: int = 6) -> Path:
    """`caltech101/101_ObjectCategories/<class>/image_0001.jpg`: mixed sizes and shapes, every third image grey, and the folder
    BACKGROUND_Google with its stray file, which is no class. Returns the folder of the classes."""
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate((*classes, "BACKGROUND_Google")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            size = (40 + 7 * i, 60 - 5 * i)
            pixels = class_images(np.array([label]), *size, 3, classes=len(classes) + 1, seed=i)[0]
            image = Image.fromarray(pixels)
            (image.convert("L") if i % 3 == 2 else image).save(folder / name / f"image_{i + 1:04d}.jpg", quality=90)
    (folder / "BACKGROUND_Google" / "tmp").write_bytes(b"")
    return folder


def write_cifar10(root: Path, *, per_class: int = 10, test_per_class: int = 4) -> Path:
    """`cifar-10-batches-py/data_batch_1..5, test_batch, batches.meta`; the classes take turns. Returns the folder."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    labels = np.tile(np.arange(10), per_class)
    for i, part in enumerate(np.array_split(labels, 5)):
        _write_batch(folder / f"data_batch_{i + 1}", part, {b"labels": part.tolist()}, classes=10, seed=i)
    labels = np.tile(np.arange(10), test_per_class)
    _write_batch(folder / "test_batch", labels, {b"labels": labels.tolist()}, classes=10, seed=9)
    (folder / "batches.meta").write_bytes(python2_pickle({b"label_names": [b"class%d" % i for i in range(10)]}))
    return folder


def write_cifar100(root: Path, *, per_class: int = 4, test_per_class: int = 2) -> Path:
    """`cifar-100-python/train, test, meta`; the classes take turns. Returns the folder."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", per_class), ("test", test_per_class))):
        labels = np.tile(np.arange(100), count)
        more = {b"fine_labels": labels.tolist(), b"coarse_labels": (labels // 5).tolist()}
        _write_batch(folder / name, labels, more, classes=100, seed=seed)
    (folder / "meta").write_bytes(python2_pickle({b"fine_label_names": [b"class%d" % i for i in range(100)]}))
    return folder


def _write_batch(path: Path, labels: np.ndarray, more: dict[bytes, list[int]], *, classes: int, seed: int) -> None:
    images = class_images(labels, 32, 32, 3, classes=classes, seed=seed)
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(labels), 3072)
    path.write_bytes(python2_pickle({b"batch_label": b"made by a test", b"data": data, **more}))


def python2_pickle(value: object) -> bytes:
    """The bytes that Python 2's cPickle with numpy 1 wrote (protocol 2), as the real CIFAR files hold them: strings are byte strings, and
    arrays name `numpy.core.multiarray._reconstruct`."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<I", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 2
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _python2(b"b") + b"\x87R"
    dtype_state = b"(K\x03" + _python2(b"|") + b"NNN" + _python2(-1) + _python2(-1) + b"K\x00t"
    dtype = b"cnumpy\ndtype\n" + _python2(b"u1") + b"K\x00K\x01\x87R" + dtype_state + b"b"
    shape = _python2(value.shape[0]) + _python2(value.shape[1]) + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def write_fashion_mnist(root: Path, *, per_class: int = 10, test_per_class: int = 4, zipped: bool = True) -> Path:
    """`FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz`, or without `.gz`. Returns the folder."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, (stem, count) in enumerate((("train", per_class), ("t10k", test_per_class))):
        labels = np.tile(np.arange(10, dtype=np.uint8), count)
        images = class_images(labels, 28, 28, 1, classes=10, seed=seed)[..., 0]
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (folder / (name + ".gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def write_own_images(folder: Path, *, classes: tuple[str, ...] = ("a", "b"), per_class: int = 6, seed: int = 0) -> Path:
    """`<class>/0000.png` of mixed sizes, as a user's own images lie. Returns the folder."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            pixels = class_images(np.array([label]), 36 + 3 * i, 50 - i, 3, classes=len(classes), seed=100 * seed + i)[0]
            Image.fromarray(pixels).save(folder / name / f"{i:04d}.png")
    return folder
