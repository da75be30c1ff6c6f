"""Copies of a data set on a node's own disk: made once, whole or not at all, and never a reason to fail."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from small_disk import small_disk

from jobs import cache
from jobs.config import Config
from jobs.data import load


@pytest.fixture
def made(tmp_path: Path) -> Path:
    images = np.arange(30 * 16, dtype=np.uint8).reshape(30, 4, 4, 1)
    cache.write(tmp_path / "made-v1", [images[:20], images[20:]], np.arange(30) % 3,
                shape=(4, 4, 1), facts=lambda whole: {"train": len(whole[:20])})
    np.save(tmp_path / "whole.npy", images)
    assert (tmp_path / "made-v1" / "images.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    return tmp_path / "made-v1"


def nearby_in_fork(made: Path) -> tuple[str, int]:
    copy = cache.nearby(made)
    return str(copy), (copy / "images.npy").stat().st_ino


def test_many_trials_of_a_node_make_one_copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "scratch", size_kb=1024) as scratch:
        monkeypatch.setenv(cache.SCRATCH, str(scratch / "of-me"))
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = set(pool.map(nearby_in_fork, [made] * 12))
        ((copy, _),) = found  # one folder, one file
        assert copy.startswith(str(scratch)) and (Path(copy) / "images.npy").read_bytes() == (made / "images.npy").read_bytes()
        assert (scratch / "of-me" / f"harness-cache-{os.getuid()}").stat().st_mode & 0o777 == 0o700
        (Path(copy) / "labels.npy").write_bytes(b"torn")
        assert cache.meta(cache.nearby(made), verify=True)  # a torn copy is made anew


def test_without_room_the_data_is_read_where_it_lies(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "scratch", size_kb=64) as scratch:
        (scratch / "filler").write_bytes(bytes(60 * 1024))
        monkeypatch.setenv(cache.SCRATCH, str(scratch))
        assert cache.nearby(made) == made
        assert "no copy of" in capsys.readouterr().out
        assert not [path for path in scratch.rglob("*") if path.name.endswith(".npy")]
    monkeypatch.setenv(cache.SCRATCH, "/proc/nowhere")
    assert cache.nearby(made) == made
    monkeypatch.setenv(cache.SCRATCH, str(tmp_path / "same-disk"))
    assert cache.nearby(made) == made
    monkeypatch.delenv(cache.SCRATCH)
    assert cache.nearby(made) == made


def test_a_trial_reads_the_copy(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = load(Config(), data)
    with small_disk(tmp_path / "scratch", size_kb=2048) as scratch:
        monkeypatch.setenv(cache.SCRATCH, str(scratch))
        here = load(Config(), data)
        (mapped,) = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
                     if "images.npy" in line and str(scratch) in line}
        assert mapped.startswith(str(scratch))
        assert np.array_equal(here.images, there.images) and np.array_equal(here.train, there.train)
        del here
