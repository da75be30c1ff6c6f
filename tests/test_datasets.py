"""The readers of jobs.datasets on small data sets in the real formats, whole and broken."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision
from image_fixtures import python2_pickle, write_caltech101, write_cifar10, write_cifar100, write_fashion_mnist
from PIL import Image

from jobs.contract import DataError
from jobs.datasets import DATASETS


def read(name: str, root: Path, split: str = "all", side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    blocks, labels = DATASETS[name].read(root, split, side)
    return np.concatenate(list(blocks)), labels


def test_module_imports_nothing_heavy():
    code = ("import sys, jobs.datasets, jobs.registry, jobs.config; "
            "print([m for m in ('torch', 'torchvision', 'numpy', 'PIL', 'sklearn', 'pandas') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
    assert done.stdout.strip() == "[]"


def test_digits(tmp_path):
    images, labels = read("digits", tmp_path)
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8 and labels.dtype == np.int64
    # The first row of the first digit is 0 0 5 13 9 1 0 0 of 16.
    assert images[0, 0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert labels[:3].tolist() == [0, 1, 2]
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    spec = DATASETS["digits"]
    assert spec.mean[0] == pytest.approx(images.mean() / 255, abs=1e-4)
    assert spec.std[0] == pytest.approx(images.std() / 255, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------- CIFAR


def test_cifar10_agrees_with_torchvision(tmp_path, monkeypatch):
    write_cifar10(tmp_path)
    # torchvision compares checksums of the real files; the fixture's differ.
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", lambda self: None)
    for split in ("train", "test"):
        theirs = torchvision.datasets.CIFAR10(str(tmp_path), train=split == "train")
        images, labels = read("cifar10", tmp_path, split)
        assert np.array_equal(images, theirs.data) and labels.tolist() == theirs.targets
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8


def test_cifar100_has_fine_labels(tmp_path):
    write_cifar100(tmp_path)
    images, labels = read("cifar100", tmp_path, "train")
    assert images.shape == (400, 32, 32, 3) and np.bincount(labels).tolist() == [4] * 100
    assert read("cifar100", tmp_path, "test")[1].tolist() == list(range(100)) * 2


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_batches_that_python3_wrote(tmp_path, protocol):
    folder = write_cifar10(tmp_path)
    batch = {b"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), b"labels": [3, 9]}
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=protocol))
    images, labels = read("cifar10", tmp_path, "test")
    assert labels.tolist() == [3, 9]
    # Pixel (row 1, column 2) of plane 1 is byte 1024 + 32 + 2 of the image.
    assert images[1, 1, 2, 1] == (3072 + 1024 + 34) % 256


class Planted:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_planted_call_in_a_batch_is_refused(tmp_path):
    folder, marker = write_cifar10(tmp_path), tmp_path / "ran"
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Planted(marker)}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_3 is refused.*`posix\.system`.*harness\.stage"):
        read("cifar10", tmp_path, "train")
    assert not marker.exists()


@pytest.mark.parametrize("name", [("builtins", "eval"), ("numpy", "load"), ("numpy.core.multiarray", "fromfile"), ("builtins", "getattr"),
                                  ("numpy.core.multiarray", "_reconstruct.__globals__")])
def test_other_names_are_refused(tmp_path, name):
    folder = write_cifar10(tmp_path)
    data = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in name) + b"\x93."
    (folder / "test_batch").write_bytes(data)
    with pytest.raises(DataError, match="is refused"):
        read("cifar10", tmp_path, "test")


def test_other_encodings_are_refused(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.")
    with pytest.raises(DataError, match="zlib"):
        read("cifar10", tmp_path, "test")


@pytest.mark.parametrize("cut", [0, 1, 40, 200, 5000])
def test_cut_batch(tmp_path, cut):
    path = write_cifar10(tmp_path) / "data_batch_2"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"data_batch_2 cannot be read: .*harness\.stage"):
        read("cifar10", tmp_path, "train")


@pytest.mark.parametrize("batch, why", [
    ([1, 2], "holds a list"),
    ({b"labels": [1]}, "`data` is not"),
    ({b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]}, "`data` is not"),
    ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, "`labels` are not 2"),
    ({b"data": np.zeros((2, 3072), np.uint8)}, "`labels` are not 2"),
    ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [b"1"]}, "`labels` are not 1"),
])
def test_batch_of_another_kind(tmp_path, batch, why):
    (write_cifar10(tmp_path) / "test_batch").write_bytes(python2_pickle(batch))
    with pytest.raises(DataError, match=why):
        read("cifar10", tmp_path, "test")


# ---------------------------------------------------------------------------------------------------------- FashionMNIST


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path, zipped):
    folder = write_fashion_mnist(tmp_path, zipped=zipped)
    images, labels = read("fashion_mnist", tmp_path, "test")
    assert images.shape == (40, 28, 28, 1) and labels.tolist() == list(range(10)) * 4
    raw = (folder / ("t10k-images-idx3-ubyte" + ".gz" * zipped)).read_bytes()
    raw = gzip.decompress(raw) if zipped else raw
    assert images.tobytes() == raw[16:]
    assert DATASETS["fashion_mnist"].missing(tmp_path) == []


def test_fashion_mnist_broken(tmp_path):
    folder = write_fashion_mnist(tmp_path)
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2, 28, 28)
    for broken, why in ((whole[:-20], "cannot be read"), (b"no archive", "cannot be read"),
                        (gzip.compress(b"\0\0\x0d\3"), "does not start"),
                        (gzip.compress(header + b"\0" * 100), "100 bytes where its header promises 1568"),
                        (gzip.compress(header + b"\0" * 2000), "more than its header promises"),
                        (gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12), "promises"),
                        (gzip.compress(header + b"\0" * 1568), "do not belong together")):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=why) as caught:
            read("fashion_mnist", tmp_path, "train")
        assert "train-" in str(caught.value) and "harness.stage" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ Caltech101


def test_caltech_agrees_with_torchvision(tmp_path):
    folder = write_caltech101(tmp_path, per_class=6)
    images, labels = read("caltech101", tmp_path, side=48)
    assert images.shape == (18, 48, 48, 3) and labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    theirs = torchvision.transforms.Compose([torchvision.transforms.Resize(48), torchvision.transforms.CenterCrop(48)])
    files = [folder / name / f"image_{i:04d}.jpg" for name in ("Faces", "accordion", "airplanes") for i in range(1, 7)]
    for ours, path in zip(images, files, strict=True):
        assert np.array_equal(ours, np.asarray(theirs(Image.open(path).convert("RGB"))))
    assert (images[2][..., 0] == images[2][..., 1]).all(), "a grey image has three equal channels"


def test_caltech_images_are_turned_as_their_exif_says(tmp_path):
    folder = write_caltech101(tmp_path, classes=("a", "b"), per_class=1)
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(folder / "a" / "image_0001.jpg", exif=exif)
    image = read("caltech101", tmp_path, side=40)[0][0]
    assert image[:15].max() < 20 and image[25:].min() > 235


def test_caltech_all_broken_images_in_one_message(tmp_path):
    folder = write_caltech101(tmp_path, per_class=6)
    broken = [folder / name / f"image_{i:04d}.jpg" for name in ("Faces", "airplanes") for i in range(1, 7)]
    for i, path in enumerate(broken):
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2] if i % 2 else b"not a picture")
    with pytest.raises(DataError) as caught:
        read("caltech101", tmp_path)
    text = str(caught.value)
    assert "12 of 18 images" in text and "and 2 more" in text and "harness.stage" in text
    assert all(str(path) in text for path in broken[:10]) and str(broken[10]) not in text


def test_caltech_empty_class_folder(tmp_path):
    (write_caltech101(tmp_path) / "anchor").mkdir()
    with pytest.raises(DataError, match="anchor holds no image"):
        read("caltech101", tmp_path)


def test_caltech_without_classes(tmp_path):
    (tmp_path / "caltech101" / "101_ObjectCategories").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folder"):
        read("caltech101", tmp_path)


# ------------------------------------------------------------------------------------------------------ missing and fetch


@pytest.mark.parametrize("name, write, first", [
    ("cifar10", write_cifar10, "data_batch_1"), ("cifar100", write_cifar100, "train"),
    ("fashion_mnist", write_fashion_mnist, "train-images-idx3-ubyte.gz"), ("caltech101", write_caltech101, "101_ObjectCategories")])
def test_missing(tmp_path, name, write, first):
    absent = DATASETS[name].missing(tmp_path)
    assert absent[0].endswith(first) and str(tmp_path) in absent[0]
    folder = write(tmp_path)
    assert DATASETS[name].missing(tmp_path) == []
    if name != "caltech101":
        (folder / first).unlink()
        assert DATASETS[name].missing(tmp_path) == [str(folder / first)]


def test_fetch_puts_files_in_place_and_mends(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda root, download: write_cifar10(Path(root)))
    spec = DATASETS["cifar10"]
    assert spec.fetch
    spec.fetch(tmp_path)
    assert spec.missing(tmp_path) == []
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    spec.fetch(tmp_path)
    assert spec.missing(tmp_path) == [] and [p.name for p in tmp_path.iterdir()] == ["cifar-10-batches-py"]


def test_fetch_that_fails_says_what_to_do_by_hand(tmp_path, monkeypatch):
    def fails(root, download):
        (Path(root) / "cifar-100-python").mkdir()
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fails)
    fetch = DATASETS["cifar100"].fetch
    assert fetch
    with pytest.raises(DataError, match=r"network is unreachable.*By hand.*https://.*cifar-100-python"):
        fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
