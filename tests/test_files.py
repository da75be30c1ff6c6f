"""Commits of single files: the old or the new, never half, and exactly one first writer. Every fault is a real one."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_disk import small_disk

from harness import files
from harness.errors import StudyError
from harness.store import AttemptLog

_fork = multiprocessing.get_context("fork")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert files.publish(path, b"one", step="t") is True
    assert files.publish(path, b"two", step="t") is False
    assert path.read_bytes() == b"one" and names(tmp_path) == ["result.json"]


def test_replace_takes_the_last(tmp_path: Path) -> None:
    path = tmp_path / "table"
    for data in (b"one", b"", b"three"):
        files.replace(path, data, step="t")
        assert path.read_bytes() == data
    assert names(tmp_path) == ["table"]


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def race(folder: Path, links: bool, mine: bytes, gate: Any, wins: Any) -> None:
    if not links:
        os.link = no_links
    for n in range(200):
        gate.wait()
        if files.publish(folder / f"{n:03d}", mine, step="t"):
            wins.send_bytes(f"{n:03d}".encode() + mine)


@pytest.mark.parametrize("links", [True, False])
def test_two_processes_race_and_exactly_one_wins_each_time(links: bool, tmp_path: Path) -> None:
    gate = _fork.Barrier(2)
    ends = [_fork.Pipe(duplex=False) for _ in range(2)]
    both = [_fork.Process(target=race, args=(tmp_path, links, mine, gate, told))
            for mine, (_, told) in zip((b"A", b"B"), ends, strict=True)]
    for process in both:
        process.start()
    for _, told in ends:
        told.close()
    won = []
    for heard, _ in ends:
        while True:
            try:
                won.append(heard.recv_bytes().decode())
            except EOFError:
                break
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(w[:3] for w in won) == [f"{n:03d}" for n in range(200)]
    assert all((tmp_path / w[:3]).read_text() == w[3:] for w in won)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_a_link_whose_answer_was_lost_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """link(2): "on NFS the return code may be wrong in case the server performs the link creation and dies before it can say so"."""
    real = os.link

    def link_then_lie(source: Any, target: Any) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_then_lie)
    assert files.publish(tmp_path / "x", b"mine", step="t") is True
    monkeypatch.setattr(os, "link", real)
    assert files.publish(tmp_path / "x", b"other", step="t") is False
    assert (tmp_path / "x").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_without_hard_links(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "x"
    assert files.publish(path, b"one", step="t") is True
    assert files.publish(path, b"two", step="t") is False
    assert path.read_bytes() == b"one"


def test_without_hard_links_a_claim_left_by_a_kill_is_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(files, "CLAIM_S", 0.05)
    (tmp_path / ".x.claim0").touch()
    assert files.publish(tmp_path / "x", b"two", step="t") is True
    assert (tmp_path / "x").read_bytes() == b"two"


def test_other_errors_of_link_are_raised_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        files.publish(tmp_path / "x", b"one", step="t")
    assert names(tmp_path) == []


def test_killed_between_writing_and_linking_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = f"from harness import files; from pathlib import Path; files.publish(Path({str(tmp_path / 'x')!r}), b'one', step='t')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "HARNESS_FAILPOINT": "t.written"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists() and len(names(tmp_path)) == 1
    assert files.publish(tmp_path / "x", b"two", step="t") is True


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        files.replace(disk / "table", b"old", step="t")
        for write in (files.replace, files.publish):
            with pytest.raises(OSError) as caught:
                write(disk / ("table" if write is files.replace else "new"), os.urandom(2_000_000), step="t")
            assert files.is_full(caught.value) and caught.value.errno == errno.ENOSPC
        assert (disk / "table").read_bytes() == b"old" and names(disk) == ["table"]


def test_is_full_looks_at_what_caused_an_error() -> None:
    try:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError as error:
            raise RuntimeError("cannot write") from error
    except RuntimeError as error:
        assert files.is_full(error)
    assert not files.is_full(OSError(errno.EACCES, "no")) and not files.is_full(ValueError()) and not files.is_full(None)


def test_an_attempt_file_is_created_by_one(tmp_path: Path) -> None:
    handle = files.create_log(tmp_path / "a000.jsonl")
    assert handle is not None and files.create_log(tmp_path / "a000.jsonl") is None
    os.close(handle)


@pytest.mark.parametrize("tail", [
    b'{"event": "epo', b'{"event": "epoch", "epoch": 2', b"\x00" * 512, b'{"event": "\xc3', b"17\n", b"null", b"\n\n"])
def test_a_torn_last_line_is_passed_over(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a000.jsonl"
    path.write_bytes(b'{"event":"start"}\n{"event":"epoch","epoch":1}\n' + tail)
    assert files.read_log(path) == [{"event": "start"}, {"event": "epoch", "epoch": 1}]


@pytest.mark.parametrize("torn", [b'{"event": "epo', b'{"event": "a"\n"b": 1}', b'{"event": "epoch", "of": [1', b""])
def test_torn_lines_in_the_middle_do_not_touch_the_others(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a000.jsonl"
    path.write_bytes(b'{"event":"start"}\n' + torn + b'\n{"event":"end","cause":"done"}\n')
    assert files.read_log(path) == [{"event": "start"}, {"event": "end", "cause": "done"}]


def test_no_attempt_file_has_no_events(tmp_path: Path) -> None:
    assert files.read_log(tmp_path / "a000.jsonl") == []


def test_a_line_torn_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        handle = files.create_log(disk / "a000.jsonl")
        assert handle is not None
        log = AttemptLog(handle)
        log.write({"event": "start"})
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096) == 4096:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        log.write({"event": "epoch", "epoch": 1, "text": "y" * 5000})  # the rest of a page fits, the next page does not
        log.write({"event": "epoch", "epoch": 2, "text": "y" * 5000})
        filler.unlink()
        log.write({"event": "end", "cause": "done"}, durable=True)
        log.close()
        assert [event["event"] for event in files.read_log(disk / "a000.jsonl")] == ["start", "end"]


def test_json_is_canonical() -> None:
    assert files.to_json({"b": 0.1, "a": [1, None, True]}) == b'{"a":[1,null,true],"b":0.1}\n'
    with pytest.raises(ValueError):
        files.to_json({"loss": float("nan")})


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b'{"status": "do')
    with pytest.raises(StudyError, match="result.json is damaged"):
        files.read_json(tmp_path / "result.json")
    assert files.read_json(tmp_path / "none.json") is None


def test_readers_never_see_half_a_table(tmp_path: Path) -> None:
    """A reader that opens the file again and again while it is replaced sees whole contents only."""
    path = tmp_path / "table"
    files.replace(path, json.dumps([0] * 50_000).encode(), step="t")

    def write() -> None:
        for n in range(1, 40):
            files.replace(path, json.dumps([n] * 50_000).encode(), step="t")

    writer = _fork.Process(target=write)
    writer.start()
    until, seen = time.monotonic() + 30, set()
    while writer.is_alive() and time.monotonic() < until:
        content = json.loads(path.read_bytes())
        assert len(content) == 50_000 and len(set(content)) == 1
        seen.add(content[0])
    writer.join()
    assert len(seen) > 1
