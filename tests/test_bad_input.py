"""One test for each kind of bad input: an error or a recovery that says what, where and what next, and nothing finished is lost."""

import errno
import re
import shlex
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from image_fixtures import write_caltech101
from launching import Bench
from small_disk import small_disk

from harness import launch


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, data)


SLOW_DIGITS = """
[study]
name = "small"
[fixed]
train_images = 320
batch_size = 8
filters = 8
epochs = 30
dropout = 0.2
"""


def refusal(bench: Bench, capsys: pytest.CaptureFixture[str]) -> str:
    """What a launch says that ends with 2 before anything is written."""
    bench.wait_for_workers()
    before = sorted(bench.folder.rglob("*"))
    assert launch.main(bench.command()[3:]) == 2
    assert sorted(bench.folder.rglob("*")) == before
    return capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------------- the grid


@pytest.mark.parametrize("text, place, reason", [
    ("[study\nname = 1\n", ":1:7", "syntax"), ("study: {name: x}\n", ":1:6", "syntax"), ('{"study": {}}', ":1:1", "syntax"),
    ('[study]\nname = "a\n', ":2:10", "ends inside a string"), ("[study]\nname = x\n", ":2:8", "a string needs quotes")])
def test_a_grid_that_is_no_toml(text: str, place: str, reason: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.digits(text)
    said = refusal(bench, capsys)
    assert f"{bench.grid}{place}" in said and "^" in said and reason in said


def test_a_grid_of_other_bytes(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.grid.write_bytes(b"[study]\nname = \"\xff\"\n")
    assert "not UTF-8 (byte 0xff on line 2)" in refusal(bench, capsys)


def test_a_grid_that_is_a_directory(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.grid.mkdir()
    (bench.grid / "mine.toml").touch()
    said = refusal(bench, capsys)
    assert "a grid is a file, this is a directory" in said and "mine.toml" in said


def test_a_grid_that_is_not_there(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "grids.toml").touch()
    said = refusal(bench, capsys)
    assert "no such file; did you mean" in said and "grids.toml" in said


@pytest.mark.parametrize("text", ["", "\n\n", " \t"])
def test_an_empty_grid(text: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.digits(text)
    assert "the file is empty" in refusal(bench, capsys)


def test_a_million_trials_are_refused_before_they_are_made(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = ", ".join(map(str, range(1000)))
    values = ", ".join(str(n) for n in range(1, 1001))
    bench.digits(f'[study]\nname = "big"\nseeds = [{seeds}]\n[compare]\nfilters = [{values}]\n')
    said = refusal(bench, capsys)
    assert "1,000,000 trials (1000 filters x 1000 seeds); at most" in said


def test_a_study_name_that_is_not_ascii(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.digits('[study]\nname = "größe"\n')
    said = refusal(bench, capsys)
    assert f"{bench.grid}:2:8" in said and "not ASCII" in said and "`grosse` would do" in said


# ----------------------------------------------------------------------------------------------------------- the study folder


def test_a_study_folder_below_a_file(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.digits()
    (bench.folder / "study").write_text("precious")
    for place in ("study", "study/below"):
        assert launch.main([str(bench.grid), "--local", "--study-dir", str(bench.folder / place)]) == 1
        said = capsys.readouterr().err
        assert "Not a directory" in said and str(bench.folder / place) in said and "--study-dir" in said
    assert (bench.folder / "study").read_text() == "precious"


def test_a_study_folder_that_cannot_be_written(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.digits()
    with small_disk(bench.folder / "disk", options="ro") as disk:
        assert launch.main([str(bench.grid), "--local", "--study-dir", str(disk / "study")]) == 1
        said = capsys.readouterr().err
        assert "Read-only file system" in said and str(disk / "study") in said and "--study-dir" in said


def fill(disk: Path) -> Path:
    """Leaves not a byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


def test_a_full_disk_at_the_launch(bench: Bench) -> None:
    bench.toy()
    with small_disk(bench.folder / "study", size_kb=8192):
        filler = fill(bench.store.root)
        status, said = bench.run()
        assert status == 1 and "no space left" in said and "Traceback" not in said and str(bench.store.root) in said
        filler.unlink()
        assert bench.run()[0] == 0


@pytest.mark.slow
def test_a_disk_that_fills_before_the_result(bench: Bench) -> None:
    bench.toy(epochs=1, pause=2.0, seeds="[0, 1, 2]")
    with small_disk(bench.folder / "study", size_kb=8192):
        launcher = bench.start()
        bench.wait_for("trials/*/a000.jsonl", count=2)
        filler = fill(bench.store.root)
        said, _ = launcher.communicate(timeout=240)
        assert launcher.returncode == 1 and "no space left" in said and "Traceback" not in said, said
        assert "free some space and give the same command again" in said
        filler.unlink()
        status, said = bench.run()
        assert status == 0, said
        trials = pd.read_parquet(bench.store.table_file("trials"))
        assert list(trials["status"]) == ["done"] * 3 and list(trials["score"]) == [0.125, 1.125, 2.125]


@pytest.mark.slow
def test_a_disk_that_fills_before_a_checkpoint(tmp_path: Path, data: Path) -> None:
    (undisturbed := Bench(_folder(tmp_path / "one"), data).digits(SLOW_DIGITS)).run()
    bench = Bench(_folder(tmp_path / "two"), data).digits(SLOW_DIGITS)
    with small_disk(bench.folder / "study", size_kb=8192):
        launcher = bench.start()
        bench.wait_for("trials/*/checkpoint-*.pt")
        filler = fill(bench.store.root)
        said, _ = launcher.communicate(timeout=240)
        assert launcher.returncode == 1 and "no space left" in said and "Traceback" not in said, said
        assert list(bench.store.root.glob("trials/*/checkpoint-*.pt"))
        filler.unlink()
        status, said = bench.run()
        assert status == 0, said
        assert bench.tables() == undisturbed.tables()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def interrupted(bench: Bench, pattern: str) -> None:
    """Launches, waits for the pattern and stops."""
    launcher = bench.start()
    bench.wait_for(pattern)
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 130, said


def test_a_torn_last_line_in_an_attempt_file(bench: Bench) -> None:
    bench.hold("len(rows) > 9").toy(epochs=40)
    interrupted(bench, "trials/*/a000.jsonl")
    bench.mended.touch()
    (path,) = bench.store.root.glob("trials/*/a000.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\n")[:-9])  # the line of the end, cut
    status, said = bench.run()
    assert status == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert list(attempts["cause"]) == ["lost", "done"]
    epochs = pd.read_parquet(bench.store.table_file("epochs"))
    assert list(epochs["epoch"]) == list(range(1, 41)) and list(epochs["score"]) == [n + 0.125 for n in range(40)]


def test_a_parquet_file_half_written(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis import plots

    assert bench.toy(seeds="[0, 1]").run()[0] == 0
    whole = bench.tables()
    path = bench.store.table_file("trials")
    path.write_bytes(whole["trials"][:len(whole["trials"]) // 2])
    bench.store.table_file("epochs").write_bytes(b"")
    assert plots.main([str(bench.store.root)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said and "cut short" in said and "python -m harness.launch" in said and "nothing trained is lost" in said
    assert launch.main([str(bench.grid), "--dry-run", "--study-dir", str(bench.store.root)]) == 0  # its estimate passes over the file
    status, said = bench.run()
    assert status == 0 and bench.tables() == whole and bench.attempts() == 2, said


def test_damaged_json_of_a_study_is_named(bench: Bench) -> None:
    assert bench.toy().run()[0] == 0
    path = bench.store.root / "waves" / "000.json"
    path.write_bytes(path.read_bytes()[:40])
    status, said = bench.run()
    assert status == 1 and f"{path} is damaged" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_checkpoint_cut_short(tmp_path: Path, data: Path) -> None:
    (undisturbed := Bench(_folder(tmp_path / "one"), data).digits(SLOW_DIGITS)).run()
    bench = Bench(_folder(tmp_path / "two"), data).digits(SLOW_DIGITS)
    launcher = bench.start()
    bench.wait_for("trials/*/checkpoint-*.pt")  # the second is written when it is asked to stop
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(240) == 130
    older, newest = sorted(bench.store.root.glob("trials/*/checkpoint-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    status, said = bench.run()
    assert status == 0, said
    (log,) = bench.store.root.glob("trials/*/a001.log")
    assert f"{newest.name} is damaged; set aside as {newest.name}.bad, going on from the one before it" in log.read_text()
    first = int(pd.read_parquet(bench.store.table_file("attempts"))["first_epoch"][1])
    assert first == int(older.name.split("-")[1]) + 1  # not from the beginning
    assert bench.tables() == undisturbed.tables()


# ------------------------------------------------------------------------------------------------------------------- the data


def test_a_data_set_with_a_broken_image(bench: Bench) -> None:
    root = bench.folder / "images"
    image = write_caltech101(root, per_class=10) / "accordion" / "image_0003.jpg"
    whole = image.read_bytes()
    bench.digits('[study]\nname = "c"\n[fixed]\ndataset = "caltech101"\nimage_size = 32\nbatch_size = 4\nfilters = 2\nepochs = 1\n'
                 '[local]\nrunning = 1\n')
    image.write_bytes(whole[:len(whole) // 2])
    status, said = bench.run(HARNESS_DATA=str(root))
    assert status == 1 and said.count("error: ") == 1 and str(image) in said and "harness.stage" in said, said
    assert "Traceback" not in said and bench.attempts() == 0
    image.write_bytes(whole)
    status, said = bench.run(HARNESS_DATA=str(root))
    assert status == 0, said
    assert list(pd.read_parquet(bench.store.table_file("trials"))["status"]) == ["done"]


def test_missing_data_is_told_before_anything_runs(bench: Bench) -> None:
    bench.digits('[study]\nname = "c"\n[compare]\ndataset = ["cifar10", "caltech101", "digits"]\n')
    status, said = bench.run()
    assert status == 1 and "data set cifar10: not found at" in said and "data set caltech101: not found at" in said
    assert said.count(f"python -m harness.stage {bench.grid}") == 1 and not bench.store.root.exists()


# ------------------------------------------------------------------------------------------------------------- names of places

HOSTILE = ["quote's \"double\"", "; touch pwned; $(touch pwned) `touch pwned`", "line\nbreak", "größe-数-🙂", "-rf", "with space",
           "%s {0} \\n *"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if n >= 3 else []) for n, name in enumerate(HOSTILE)])
def test_hostile_names_of_folders_are_only_names(name: str, tmp_path: Path, data: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    bench = Bench(folder, data).toy(epochs=2)
    status, said = bench.run(HARNESS_DATA=str(folder / "data"))
    assert status == 0, said
    assert len(pd.read_parquet(bench.store.table_file("epochs"))) == 2
    shown = re.search(r"figures: (.*)", said, re.DOTALL)
    assert shown and shlex.split(shown[1].strip()) == ["python", "-m", "analysis.plots", str(bench.store.root)]
    assert not list(tmp_path.rglob("pwned")) and not Path("pwned").exists()


@pytest.mark.slow
def test_the_built_in_job_in_a_hostile_place(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' \"c\" ; touch pwned $(touch pwned)\n数"
    folder.mkdir()
    bench = Bench(folder, folder / "data").digits(
        '[study]\nname = "s"\n[fixed]\ntrain_images = 64\nbatch_size = 32\nfilters = 2\nepochs = 1\n[local]\nrunning = 1\n')
    status, said = bench.run()
    assert status == 0, said
    assert (folder / "data" / "cache").is_dir() and not list(tmp_path.rglob("pwned")) and not Path("pwned").exists()


def test_the_command_that_goes_on_can_be_pasted(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "it's; here"
    folder.mkdir()
    bench = Bench(folder, data).toy(epochs=300, pause=0.2)
    launcher = bench.start("--set", "study.seeds=[3]")
    bench.wait_for("trials/*/a000.jsonl")
    time.sleep(0.1)
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=240)
    shown = re.search(r"go on: (.*)", said)
    assert shown and shlex.split(shown[1])[1:] == ["-m", *bench.command()[2:5], "--set", "study.seeds=[3]", *bench.command()[5:]]


def test_a_data_folder_that_is_a_file(bench: Bench) -> None:
    (bench.folder / "data").write_text("x")
    bench.digits()
    status, said = bench.run(HARNESS_DATA=str(bench.folder / "data"))
    assert status == 1 and str(bench.folder / "data") in said and "HARNESS_DATA" in said and "Traceback" not in said, said
    assert said.count("error: ") == 1 and bench.attempts() == 0
