"""jobs.data: splits that never move, and a cache that survives crashes, crowds and full disks."""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_fixtures import write_caltech101, write_cifar10, write_fashion_mnist

from jobs import cache, data
from jobs.config import Config, ConfigError, parse_classes
from jobs.contract import DataError
from jobs.data import Splits, cache_folder, epoch_order, load, missing, prepare, random_uniforms, stratified_order
from jobs.datasets import DATASETS

FIRST_TEST, FIRST_ORDER = [2, 4, 6, 7, 8], [6, 3, 1, 7, 5, 0, 4, 2]


def config(**values) -> Config:
    return Config.from_dict({"dataset": "digits", **values})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data folder in which the digits are cached already."""
    folder = tmp_path_factory.mktemp("data")
    prepare(config(), folder)
    return folder


def cache_bytes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------------------- splits


def test_digits_load(root):
    splits = load(config(), root)
    assert splits.images.shape == (1797, 8, 8, 1) and not splits.images.flags.writeable
    assert (splits.classes, splits.size, splits.channels) == (10, 8, 1)
    # The digits come 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180 times. 20 % of each are tested (35.6 is rounded to 36),
    # 20 % of what is left of each validate.
    assert np.bincount(splits.labels[splits.test]).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.bincount(splits.labels[splits.val]).tolist() == [28, 29, 28, 29, 29, 29, 29, 29, 28, 29]
    assert (len(splits.test), len(splits.val), len(splits.train)) == (359, 287, 1151)
    together = np.concatenate([splits.train, splits.val, splits.test])
    assert np.array_equal(np.sort(together), np.arange(1797))
    for part in (splits.train, splits.val, splits.test):
        assert part.dtype == np.int64 and (np.diff(part) > 0).all()


def test_stratified_order_by_hand():
    labels = np.array([0] * 6 + [1] * 4)
    for seed in range(20):
        order = stratified_order(labels, np.arange(10), seed=seed)
        # Places: class 0 at 0, 1.5/6, 2.5/6, 3.5/6, 4.5/6, 5.5/6; class 1 at 0, 1.5/4, 2.5/4, 3.5/4.
        assert labels[order].tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
        assert sorted(order) == list(range(10))


def test_stratified_order_is_uniform_within_a_class():
    labels = np.array([0] * 4 + [1] * 2)
    first = [stratified_order(labels, np.arange(6), seed=seed)[0] for seed in range(2000)]
    # 500 expected each, standard deviation 19.4.
    assert np.abs(np.bincount(first) - 500).max() < 100


def test_val_and_test_do_not_change_with_train_images(root):
    whole = load(config(), root)
    before = None
    for count in (10, 37, 200, 1151):
        splits = load(config(train_images=count, batch_size=1), root)
        assert np.array_equal(splits.val, whole.val) and np.array_equal(splits.test, whole.test)
        assert len(splits.train) == count and np.isin(splits.train, whole.train).all()
        kept = np.bincount(splits.labels[splits.train], minlength=10)
        share = np.bincount(whole.labels[whole.train]) * count / 1151
        assert kept.min() >= 1 and np.abs(kept - share).max() < 1.5
        assert before is None or np.isin(before, splits.train).all(), "fewer images are part of more"
        before = splits.train


def test_test_split_does_not_change_with_val_fraction(root):
    assert np.array_equal(load(config(val_fraction=0.5), root).test, load(config(), root).test)


def test_a_subset_of_the_classes_is_split_as_the_whole_is(root):
    """A network pretrained on some classes and fine-tuned on others or on all must never have trained on their test images."""
    whole = load(config(), root)
    original = DATASETS["digits"].read(root, "all", 0)[1]
    for classes in ("0-4", "5-9", "1,7-8"):
        some = load(config(classes=classes), root)
        for name in ("train", "val", "test"):
            of_whole = getattr(whole, name)
            assert np.array_equal(getattr(some, name), of_whole[np.isin(original[of_whole], parse_classes(classes))]), (classes, name)


def test_a_subset_is_validated_as_the_whole_is_where_the_test_split_is_given(tmp_path):
    write_cifar10(tmp_path, per_class=11)  # 0.3 of 11 are 3.3
    whole, some = (load(config(dataset="cifar10", val_fraction=0.3, classes=classes), tmp_path) for classes in ("all", "2,5,9"))
    assert len(whole.val) == 30 and np.array_equal(some.val, whole.val[np.isin(whole.labels[whole.val], (2, 5, 9))])


def test_larger_fractions_contain_smaller_ones(root):
    fractions = [0.001, 0.1, 0.2, 0.21, 0.5, 0.9]
    tests = [load(config(test_fraction=share), root).test for share in fractions[1:]]
    vals = [load(config(val_fraction=share), root).val for share in fractions[1:]]
    for parts in (tests, vals):
        assert all(len(a) < len(b) and np.isin(a, b).all() for a, b in itertools.pairwise(parts))
    with pytest.raises(DataError, match="no image is left for the test split"):  # 0.001 of each class is less than half an image
        load(config(test_fraction=fractions[0]), root)


def test_fractions_are_rounded_for_each_class(tmp_path):
    write_caltech101(tmp_path, per_class=6)
    # 0.25 of 6 are 1.5: 2 are tested; 0.1 of the other 4 are 0.4, 0.2 of them 0.8, 0.625 of them 2.5
    for share, count in ((0.2, 1), (0.625, 3)):
        splits = load(config(dataset="caltech101", image_size=28, test_fraction=0.25, val_fraction=share), tmp_path)
        counts = [np.bincount(splits.labels[part]).tolist() for part in (splits.test, splits.val, splits.train)]
        assert counts == [[2] * 3, [count] * 3, [4 - count] * 3]
    with pytest.raises(DataError, match="no image is left for the val split"):
        load(config(dataset="caltech101", image_size=28, test_fraction=0.25, val_fraction=0.1), tmp_path)


def test_test_and_val_are_uniform_within_a_class(root):
    counts = np.zeros((2, 1797), dtype=int)
    for seed in range(400):
        splits = load(config(split_seed=seed), root)
        counts[0][splits.test] += 1
        counts[1][splits.val] += 1
    # An image is tested in 20 % of 400 splits and validates in 16 %: standard deviations 8 and 7.3, of which five are allowed.
    assert np.abs(counts[0] - 80).max() < 40 and np.abs(counts[1] - 64).max() < 37


def test_splits_follow_split_seed_and_nothing_else(root):
    first, again = load(config(split_seed=3), root), load(config(split_seed=3, lr=0.5, epochs=2, augment="flip"), root)
    assert np.array_equal(first.train, again.train) and np.array_equal(first.val, again.val)
    other = load(config(split_seed=4), root)
    assert not np.array_equal(first.test, other.test) and not np.array_equal(first.val, other.val)
    # The split is part of what a study means: these numbers may never change.
    assert load(config(), root).test[:5].tolist() == FIRST_TEST and epoch_order(8, 0, 1).tolist() == FIRST_ORDER


def test_classes_are_numbered_anew(root):
    splits = load(config(classes="1,7-8"), root)
    original = DATASETS["digits"].read(root, "all", 0)[1]
    assert splits.classes == 3
    for number, name in enumerate((1, 7, 8)):
        assert np.array_equal(splits.labels == number, original == name)
    used = np.concatenate([splits.train, splits.val, splits.test])
    assert np.array_equal(np.sort(used), np.flatnonzero(np.isin(original, (1, 7, 8))))
    assert (splits.labels[~np.isin(original, (1, 7, 8))] == -1).all()


@pytest.mark.parametrize("count", [9, 1152])
def test_train_images_out_of_bounds(root, count):
    with pytest.raises(ConfigError, match=rf"train_images: {count} is outside 10 .* to 1151") as caught:
        load(config(train_images=count, batch_size=1), root)
    assert caught.value.problems[0][0] == "train_images"


def test_own_test_split(tmp_path):
    write_cifar10(tmp_path, per_class=10, test_per_class=4)
    splits = load(config(dataset="cifar10", val_fraction=0.3), tmp_path)
    assert splits.test.tolist() == list(range(100, 140)) and len(splits.val) == 30 and len(splits.train) == 70
    assert np.bincount(splits.labels[splits.val]).tolist() == [3] * 10
    some = load(config(dataset="cifar10", classes="0,9"), tmp_path)
    assert some.test.tolist() == [i for i in range(100, 140) if i % 10 in (0, 9)] and some.labels[some.test].tolist() == [0, 1] * 4


def test_images_of_different_sizes(tmp_path):
    write_caltech101(tmp_path)
    splits = load(config(dataset="caltech101", image_size=28), tmp_path)
    assert splits.images.shape == (18, 32, 32, 3) and (splits.size, splits.channels, splits.classes) == (28, 3, 3)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name[0] != "."] == ["caltech101-32-v1"]
    assert cache_folder(config(dataset="caltech101"), tmp_path).name == "caltech101-256-v1"
    with pytest.raises(ConfigError, match="has classes 0 to 2, not 5"):
        load(config(dataset="caltech101", image_size=28, classes="0-5"), tmp_path)


def test_a_split_without_images(tmp_path):
    write_caltech101(tmp_path, per_class=1)
    with pytest.raises(DataError, match=r"(no image is left for|has no training image)"):
        load(config(dataset="caltech101", image_size=28), tmp_path)


def test_epoch_order():
    orders = {(seed, epoch): epoch_order(1000, seed, epoch) for seed in range(3) for epoch in range(1, 4)}
    assert all(np.array_equal(np.sort(order), np.arange(1000)) for order in orders.values())
    assert len({order.tobytes() for order in orders.values()}) == 9
    assert np.array_equal(epoch_order(1000, 2, 3), orders[2, 3])
    assert epoch_order(0, 0, 0).tolist() == [] and epoch_order(1, 5, 5).tolist() == [0]


def test_random_uniforms_belong_to_their_row():
    few, many = (random_uniforms(seed=5, epoch=2, tag=16, n=n, draws=3) for n in (10, 1000))
    assert np.array_equal(few, many[:10])
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.03
    assert not np.array_equal(few, random_uniforms(seed=5, epoch=2, tag=17, n=10, draws=3))


# ----------------------------------------------------------------------------------------------------------------- cache


def test_cache_is_the_same_bytes_when_built_again(tmp_path, root):
    assert cache_bytes(prepare(config(), tmp_path)) == cache_bytes(cache_folder(config(), root))


def test_cache_outlives_the_raw_files(tmp_path):
    folder = write_fashion_mnist(tmp_path)
    chosen = config(dataset="fashion_mnist")
    assert missing(chosen, tmp_path) == []
    before = load(chosen, tmp_path)
    shutil.rmtree(folder)
    assert missing(chosen, tmp_path) == []
    after = load(chosen, tmp_path)
    assert np.array_equal(before.images, after.images) and np.array_equal(before.train, after.train)


def test_raw_files_missing(tmp_path):
    (write_cifar10(tmp_path) / "data_batch_4").unlink()
    chosen = config(dataset="cifar10")
    assert missing(chosen, tmp_path) == [str(tmp_path / "cifar-10-batches-py" / "data_batch_4")]
    with pytest.raises(DataError, match=r"cifar10: missing .*data_batch_4.*harness\.stage.*HARNESS_DATA"):
        load(chosen, tmp_path)
    assert not (tmp_path / "cache").exists()


def tear_images(folder: Path) -> None:
    os.truncate(folder / "images.npy", 5000)


def tear_meta(folder: Path) -> None:
    os.truncate(folder / "meta.json", 20)


def tear_away(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def tear_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def tear_version(folder: Path) -> None:
    (folder / "meta.json").write_text(json.dumps([1, 2]))


@pytest.mark.parametrize("tear", [tear_images, tear_meta, tear_away, tear_labels, tear_version])
def test_torn_cache_is_built_again(tmp_path, root, tear):
    folder = prepare(config(), tmp_path)
    tear(folder)
    load(config(), tmp_path)
    assert cache_bytes(folder) == cache_bytes(cache_folder(config(), root))
    assert not [p for p in folder.parent.iterdir() if p.is_dir() and p != folder]


def test_verify_finds_a_flipped_bit(tmp_path, root):
    folder = prepare(config(), tmp_path)
    raw = bytearray((folder / "images.npy").read_bytes())
    raw[5000] ^= 1
    (folder / "images.npy").write_bytes(raw)
    prepare(config(), tmp_path, verify=True)
    assert cache_bytes(folder) == cache_bytes(cache_folder(config(), root))


def build_at_once(root: str, barrier, results) -> None:
    barrier.wait()
    splits = load(config(), Path(root))
    results.put(hashlib.sha256(splits.images.tobytes() + splits.train.tobytes()).hexdigest())


@pytest.mark.parametrize("locks", [True, False])
def test_concurrent_builders(tmp_path, root, monkeypatch, locks):
    if not locks:
        monkeypatch.setattr(cache, "fcntl", None)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    builders = [context.Process(target=build_at_once, args=(str(tmp_path), barrier, results)) for _ in range(4)]
    for builder in builders:
        builder.start()
    digests = {results.get(timeout=60) for _ in builders}
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    assert len(digests) == 1
    folder = cache_folder(config(), tmp_path)
    assert cache_bytes(folder) == cache_bytes(cache_folder(config(), root))
    assert [p for p in folder.parent.iterdir() if p.is_dir()] == [folder]


def test_the_second_builder_waits_and_reads_nothing(tmp_path):
    """With locks, a process that comes while another builds decodes nothing itself."""
    write_cifar10(tmp_path)
    code = ("import sys, time; from pathlib import Path; from jobs import data; from jobs.config import Config\n"
            "inner = data._check_labels\n"
            "def slow(*args):\n    print('reading', flush=True); time.sleep(1); inner(*args)\n"
            "data._check_labels = slow\n"
            "data.prepare(Config(dataset='cifar10'), Path(sys.argv[1])); print('done', flush=True)")
    command = [sys.executable, "-c", code, str(tmp_path)]
    here = Path(__file__).parents[1]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here)
    assert first.stdout and first.stdout.readline() == "reading\n"
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=here, timeout=60)
    assert second.stdout == "done\n" and first.communicate(timeout=60)[0] == "done\n"


def test_builder_that_was_killed_leaves_nothing_in_the_way(tmp_path, root):
    left = tmp_path / "cache" / ".digits-v1.0123"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    os.utime(left, (time.time() - 2e5,) * 2)
    young = tmp_path / "cache" / ".digits-v1.4567"
    young.mkdir()
    folder = prepare(config(), tmp_path)
    assert cache_bytes(folder) == cache_bytes(cache_folder(config(), root))
    assert not left.exists() and young.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_while_writing(tmp_path, monkeypatch, number):
    def save(file, array):
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(DataError, match=rf"digits needs 0\.000\d+ GB in {tmp_path}/cache, and writing it failed.*HARNESS_DATA"):
        prepare(config(), tmp_path)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_too_little_room_is_said_before_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5, 5))
    with pytest.raises(DataError, match=r"needs .* GB in .*, and 5e-09 GB are free"):
        prepare(config(), tmp_path)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_data_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match="cannot be read from or written to .*HARNESS_DATA"):
        load(config(), tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_data_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="Permission denied.*HARNESS_DATA"):
            load(config(), tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_data_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match="Permission denied.*HARNESS_DATA"):
        load(config(), tmp_path)


def test_a_full_cache_in_a_read_only_folder_is_enough(tmp_path, monkeypatch):
    prepare(config(), tmp_path)
    monkeypatch.setattr(cache, "building", lambda folder: pytest.fail("nothing is to be built"))
    assert len(load(config(), tmp_path).images) == 1797


@pytest.mark.parametrize("label", [10, -1])
def test_labels_out_of_range(tmp_path, label):
    folder = write_fashion_mnist(tmp_path, zipped=False)
    path = folder / "train-labels-idx1-ubyte"
    raw = bytearray(path.read_bytes())
    raw[20] = label % 256
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"labels from 0 to (10|255), where classes 0 to 9 .*harness\.stage"):
        load(config(dataset="fashion_mnist"), tmp_path)


def test_data_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    monkeypatch.delenv("HARNESS_DATA")
    assert data.data_folder() == Path("data")


def test_splits_has_what_the_model_needs(root):
    assert {"images", "labels", "train", "val", "test", "classes", "class_names", "spec", "size", "channels"} == set(
        Splits.__dataclass_fields__)
    assert load(config(image_size=16), root).size == 16
