"""Data sets by name: what each holds, where its files lie, and the function that decodes them.

A new data set is one entry of `DATASETS` and one reader. A reader is called once per data folder (`jobs.data` keeps what it
returns as a memory-mapped cache) and may import what it likes; this module itself imports nothing heavy, because every
check of a grid loads it. A user's own images need no entry: `spec("folder:NAME")` describes any folder (`jobs.image_folder`).
"""

import functools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jobs.contract import DataError

if TYPE_CHECKING:
    import numpy as np

    Parts = tuple[Iterable[np.ndarray], np.ndarray]
    """What a reader returns: blocks of images, and labels."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """What is known about a data set before a single file is opened. Of "folder:NAME" that is little: `jobs.data.load` fills in the number
    of classes, mean, deviation and whether there is a test split from what its cache notes."""

    classes: int
    """Number of classes; 0 where only the folder says."""
    shape: tuple[int, int, int]
    """Height, width and channels of the images as cached; height and width are 0 when the images differ in size: they are then cached as
    squares of 256/224 times the size the model sees (short side scaled, centre cut)."""
    mean: tuple[float, ...]
    """Mean of each channel over the training images, in 0 to 1, for normalisation."""
    std: tuple[float, ...]
    """Deviation of each channel, likewise."""
    own_test: bool
    """Whether the data set comes with a test split; if not, `test_fraction` cuts one."""
    folder: str = ""
    """Folder under the data folder that holds the raw files; "" needs none."""
    download_gb: float = 0.0
    """What staging fetches."""
    read: "Callable[[Path, str, int], Parts]"
    """read(data folder, "train" | "test" | "all", side) -> the images as blocks of uint8 (n, H, W, C), one after the other, because all of
    them need not fit into memory; their labels, int64 (N,). "all" where own_test is false. It, or going through the blocks, raises
    DataError, naming every file that is missing or broken."""
    missing: Callable[[Path], list[str]]
    """The raw files that are not there, as paths to show."""
    fetch: Callable[[Path], None] | None = None
    """Downloads the raw files; None when nothing needs to be fetched."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Parameters that only data sets of this kind read."""
        return () if self.own_test else ("test_fraction",)


def _broken(path: Path, why: object) -> DataError:
    return DataError(f"{path} cannot be read: {why}. Delete it and fetch it again with `python -m harness.stage GRID`")


def _absent(root: Path, names: Sequence[str]) -> list[str]:
    """Those of `names`, paths relative to the data folder, that are not there."""
    return [str(root / name) for name in names if not (root / name).exists()]


def _fetcher(kind: str, folder: str, source: str, **arguments: Any) -> Callable[[Path], None]:
    """A function that downloads with torchvision's data set class `kind` (checksums are torchvision's own).

    The files arrive in a folder aside and are renamed into place when all are there, so that a cut download leaves nothing
    that looks like a data set.
    """
    def fetch(root: Path) -> None:
        import torchvision

        aside = root / f".fetch-{kind}-{os.getpid()}"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            getattr(torchvision.datasets, kind)(str(aside), download=True, **arguments)
            if not (root / folder).exists():
                (root / folder).parent.mkdir(parents=True, exist_ok=True)
                (aside / folder).rename(root / folder)
            else:
                for path in sorted(p for p in (aside / folder).rglob("*") if p.is_file()):
                    target = root / path.relative_to(aside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        except Exception as error:  # network, archive and disk errors of torchvision's downloader have no common class
            raise DataError(f"{kind} could not be fetched into {root}: {type(error).__name__}: {error}. By hand: download {source} "
                            f"where there is internet and unpack it so that {root / folder} holds its files") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return fetch


def _read_digits(root: Path, split: str, side: int) -> "Parts":
    """scikit-learn's 1,797 handwritten digits, 8 x 8, grey 0 to 16 stretched to 0 to 255; part of the package, no file is fetched."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return [images], digits.target.astype(np.int64)


_CIFAR_FILES = {
    "cifar10": {"train": [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)], "test": ["cifar-10-batches-py/test_batch"]},
    "cifar100": {"train": ["cifar-100-python/train"], "test": ["cifar-100-python/test"]},
}


def _missing_cifar(name: str) -> Callable[[Path], list[str]]:
    return lambda root: _absent(root, _CIFAR_FILES[name]["train"] + _CIFAR_FILES[name]["test"])


def _read_cifar(name: str) -> "Callable[[Path, str, int], Parts]":
    """A reader of the "python version" of CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html): pickled dicts with `data`
    (N, 3072) uint8, the three planes one after the other, and `labels` (CIFAR-10) or `fine_labels` (CIFAR-100)."""
    key = "labels" if name == "cifar10" else "fine_labels"

    def read(root: Path, split: str, side: int) -> "Parts":
        import numpy as np

        images, labels = [], []
        for file in _CIFAR_FILES[name][split]:
            data, found = _cifar_batch(root / file, key)
            images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(found)
        return images, np.concatenate(labels)
    return read


def _cifar_batch(path: Path, key: str) -> "tuple[np.ndarray, np.ndarray]":
    """One batch file: data (N, 3072) uint8, labels (N,) int64.

    Raises:
        DataError: cut short, not such a file, or a pickle that names anything but numpy arrays (which could run code).
    """
    import numpy as np

    try:
        with path.open("rb") as file:
            batch = _array_unpickler(file, path).load()
    except DataError:
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(batch, dict):
        raise _broken(path, f"it holds a {type(batch).__name__}, not a CIFAR batch")
    # Python 2 wrote the real files, so their keys are bytes.
    data, labels = (batch.get(name.encode(), batch.get(name)) for name in ("data", key))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise _broken(path, "its `data` is not an (N, 3072) array of bytes")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise _broken(path, f"its `{key}` are not {len(data)} whole numbers, one for each image")
    return data, np.asarray(labels, dtype=np.int64)


def _array_unpickler(file: IO[bytes], path: Path) -> Any:
    """An unpickler that builds numpy arrays and plain containers and refuses every other name, because a pickle may call any
    function it names. https://docs.python.org/3/library/pickle.html#restricting-globals"""
    import pickle

    import numpy as np
    from numpy._core.multiarray import _reconstruct
    from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

    def encode(text: str, encoding: str = "latin1") -> bytes:
        """Bytes in a pickle of protocol 2; other encodings of `codecs.encode` could unpack archives."""
        if encoding != "latin1":
            raise _broken(path, f"it asks for the encoding {encoding!r}")
        return text.encode("latin1")

    allowed: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): encode}
    for package in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
        allowed[f"{package}.multiarray", "_reconstruct"] = _reconstruct
        allowed[f"{package}.numeric", "_frombuffer"] = _frombuffer

    class ArrayUnpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            if (module_name, global_name) not in allowed:
                raise DataError(f"{path} is refused: it is a pickle that names `{module_name}.{global_name}`, and a CIFAR batch "
                                "holds only arrays. Delete it and fetch it again with `python -m harness.stage GRID`")
            return allowed[module_name, global_name]

    return ArrayUnpickler(file, encoding="bytes")


_IDX_STEMS = {"train": "FashionMNIST/raw/train", "test": "FashionMNIST/raw/t10k"}
_IDX_PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _missing_fashion(root: Path) -> list[str]:
    """torchvision leaves both the archive and the unpacked file; either is enough."""
    names = [f"{stem}-{part}" for stem in _IDX_STEMS.values() for part in _IDX_PARTS]
    return _absent(root, [f"{name}.gz" for name in names if not (root / name).exists()])


def _read_fashion(root: Path, split: str, side: int) -> "Parts":
    import numpy as np

    images, labels = (_idx(root / f"{_IDX_STEMS[split]}-{part}") for part in _IDX_PARTS)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(f"{root / _IDX_STEMS[split]}-*: images {images.shape} and labels {labels.shape} do not belong together. "
                        "Delete these files and fetch them again with `python -m harness.stage GRID`")
    return [images[..., None]], labels.astype(np.int64)


def _idx(path: Path) -> "np.ndarray":
    """An IDX file of bytes, `path` itself or `path`.gz: magic 0, 0, 8 (bytes), number of dimensions; the dimensions as big-endian
    32-bit numbers; the bytes. http://yann.lecun.com/exdb/mnist/

    Raises:
        DataError: not such a file, fewer or more bytes than the header says, or an archive that is cut short.
    """
    import gzip
    import struct
    import zlib

    import numpy as np

    dimensions = int(path.name.split("idx")[1][0])
    path = path if path.exists() else path.with_name(path.name + ".gz")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise _broken(path, f"it does not start as an IDX file of bytes with {dimensions} dimension(s) does")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            wanted = math.prod(shape)
            if wanted > 2**32:
                raise _broken(path, f"its header promises {wanted} bytes")
            data = file.read(wanted + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, error) from error
    if len(data) != wanted:
        held = f"{len(data)} bytes where its header promises {wanted}" if len(data) < wanted else "there is more than its header promises"
        raise _broken(path, held)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


_CALTECH = "caltech101/101_ObjectCategories"
_PICTURES = (".jpg", ".jpeg", ".png")


def _read_caltech(root: Path, split: str, side: int) -> "Parts":
    """One folder of JPEG files per class, in the order of their names, without BACKGROUND_Google, which is no class."""
    import numpy as np

    from jobs.image_folder import decode

    folders = sorted(p for p in (root / _CALTECH).iterdir() if p.is_dir() and p.name != "BACKGROUND_Google" and p.name[0] != ".")
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES and p.name[0] != ".")
        if not found:
            raise DataError(f"the class folder {folder} holds no image. Delete {root / _CALTECH} and fetch it again with "
                            "`python -m harness.stage GRID`, or remove the empty folder")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{root / _CALTECH} holds no class folder. Delete it and fetch it again with `python -m harness.stage GRID`")
    blocks = decode(files, side, folder=root / _CALTECH,
                    advice=f"Delete {root / _CALTECH} and fetch it again with `python -m harness.stage GRID`")
    return blocks, np.asarray(labels, dtype=np.int64)


DATASETS: dict[str, DatasetSpec] = {
    # Mean and deviation of digits: over all its images. CIFAR and FashionMNIST: over the training images, to four digits.
    "digits": DatasetSpec(
        classes=10, shape=(8, 8, 1), mean=(0.3053,), std=(0.3759,), own_test=False, read=_read_digits, missing=lambda root: []),
    "cifar10": DatasetSpec(
        classes=10, shape=(32, 32, 3), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), own_test=True,
        folder="cifar-10-batches-py", download_gb=0.17, read=_read_cifar("cifar10"), missing=_missing_cifar("cifar10"),
        fetch=_fetcher("CIFAR10", "cifar-10-batches-py", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),
    "cifar100": DatasetSpec(
        classes=100, shape=(32, 32, 3), mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762), own_test=True,
        folder="cifar-100-python", download_gb=0.17, read=_read_cifar("cifar100"), missing=_missing_cifar("cifar100"),
        fetch=_fetcher("CIFAR100", "cifar-100-python", "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz")),
    "fashion_mnist": DatasetSpec(
        classes=10, shape=(28, 28, 1), mean=(0.2860,), std=(0.3530,), own_test=True,
        folder="FashionMNIST/raw", download_gb=0.03, read=_read_fashion, missing=_missing_fashion,
        fetch=_fetcher("FashionMNIST", "FashionMNIST/raw", "the four *-ubyte.gz files of https://github.com/zalandoresearch/fashion-mnist")),
    "caltech101": DatasetSpec(
        classes=101, shape=(0, 0, 3), mean=IMAGENET_MEAN, std=IMAGENET_STD, own_test=False,
        folder="caltech101", download_gb=0.14, read=_read_caltech, missing=lambda root: _absent(root, [_CALTECH]),
        fetch=_fetcher("Caltech101", "caltech101", "https://data.caltech.edu/records/mzrjq-6wc02 (caltech-101.zip)")),
}
"""The data sets a configuration may name. Folders and files are torchvision's, so that a data folder made by it works as it is."""


def class_names(name: str) -> tuple[str, ...]:
    """The names of a data set's classes in the order of their numbers; () where they have none, or only the user's own images tell them."""
    return tuple(json.loads((Path(__file__).parent / "class_names.json").read_text(encoding="utf-8")).get(name, ()))


# ------------------------------------------------------------------------------------------------------- images of a user's own

OWN = "folder:"
"""What the name of a data set of the user's own begins with; the rest is a folder under the data folder."""
ANY_OWN = f"{OWN}NAME"
"""How messages and tables speak of all of them."""
_OWN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_TAKEN = ("cache", "weights")


def is_own(name: str) -> bool:
    """Whether this is "folder:NAME"."""
    return name.startswith(OWN)


def check_name(name: str) -> None:
    """Raises ValueError when "folder:NAME" names what no data set of one's own can be called, such as a path to somewhere else."""
    folder = name.removeprefix(OWN)
    shown = ascii(name if len(name) <= 80 else f"{name[:80]}…")
    if not _OWN_NAME.fullmatch(folder):
        raise ValueError(f'{shown} names no data set: after "{OWN}" comes the name of a folder in the data folder: '
                         "ASCII letters, digits, _ - and ., not beginning with . or -, at most 64 characters")
    if folder in _TAKEN:
        raise ValueError(f"{shown}: the folder {folder}/ in the data folder is the harness's own; give the images another name")


def spec(name: str) -> DatasetSpec:
    """What is known about a data set, one of `DATASETS` or "folder:NAME"; nothing is opened.

    Raises:
        KeyError: no such data set.
    """
    return _own_spec(name) if is_own(name) else DATASETS[name]


@functools.cache
def _own_spec(name: str) -> DatasetSpec:
    from jobs import image_folder

    check_name(name)
    folder = name.removeprefix(OWN)
    return DatasetSpec(
        classes=0, shape=(0, 0, 3), mean=(), std=(), own_test=False, folder=folder,
        read=lambda root, split, side: image_folder.read(root / folder, split, side),
        missing=lambda root: image_folder.missing(root / folder))
