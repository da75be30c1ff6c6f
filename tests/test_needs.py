"""What trials need: an earlier study that is finished, the command that mends, and caches that can be built before anything runs."""

import dataclasses
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import image_fixtures
import pytest
from earlier_study import write_earlier_study

from harness import launch, needs, stage
from harness.errors import MissingData
from harness.needs import Source, find_source
from harness.store import Store
from jobs import data as jobs_data
from jobs import durable
from jobs.config import Config

STARTS = dataclasses.replace(Config(), weights="study:first").as_dict()


def missing(configs: list[dict[str, Any]], folder: Path, *, data: Path, grid: str = "mine.toml",
            overrides: tuple[str, ...] = ()) -> list[needs.Missing]:
    return needs.missing(configs, data=data, runs=folder, grid=folder / grid, overrides=overrides)


# ---------------------------------------------------------------------------------------------------------- an earlier study


def test_weights_come_from_the_variant_with_the_best_mean(tmp_path: Path) -> None:
    # means: 0.7 and 0.75; the single best trial is of depth 1
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.5, (1, 1): 0.9, (2, 0): 0.8, (2, 1): 0.7})
    assert find_source(study) == Source(variant="depth=2", trials={0: "d2-s0", 1: "d2-s1"}, best="d2-s0")
    source = needs.find_source(study)
    assert isinstance(source, needs.Source) and [source.trial(seed) for seed in (0, 1, 5)] == ["d2-s0", "d2-s1", "d2-s0"]


def test_of_a_loss_the_least_is_the_best(tmp_path: Path) -> None:
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.5, (1, 1): 0.4, (2, 0): 0.8, (2, 1): 0.9}, metric="val_loss")
    assert find_source(study) == Source(variant="depth=1", trials={0: "d1-s0", 1: "d1-s1"}, best="d1-s1")


def test_an_unfinished_study_is_missing(tmp_path: Path, data: Path) -> None:
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.9, (1, 1): None, (1, 2): None, (1, 3): None, (1, 4): None})
    assert isinstance(needs.find_source(study), str)
    (lacking,) = missing([STARTS, STARTS], tmp_path, data=data)
    assert lacking.what.startswith("study first has 1 of 5 trials finished") and lacking.where == str(study.root)
    words = shlex.split(lacking.command, comments=True)
    assert words == ["python", "-m", "harness.launch", str(study.grid_file), "--study-dir", str(study.root)]


def test_trials_of_a_worse_variant_are_waited_for_too(tmp_path: Path) -> None:
    """With its last seed it may still have the best mean."""
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.9, (1, 1): 0.9, (2, 0): 0.2, (2, 1): None})
    assert isinstance(lacking := find_source(study), str) and "3 of 4 trials finished" in lacking


def test_what_failed_for_good(tmp_path: Path, data: Path) -> None:
    worse = write_earlier_study(tmp_path / "worse", {(1, 0): 0.9, (1, 1): 0.9, (2, 0): 0.2, (2, 1): "failed"})
    assert isinstance(source := find_source(worse), Source) and source.variant == "depth=1"
    write_earlier_study(tmp_path / "first", {(1, 0): 0.9, (1, 1): "failed", (2, 0): 0.2, (2, 1): 0.2})
    (lacking,) = missing([STARTS], tmp_path, data=data)
    assert "3 of 4 trials finished" in lacking.what and "--retry" in shlex.split(lacking.command, comments=True)


def test_a_variant_that_diverged_is_passed_over(tmp_path: Path) -> None:
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.9, (1, 1): "infeasible", (2, 0): 0.2, (2, 1): 0.3})
    assert isinstance(source := find_source(study), Source) and source.variant == "depth=2"
    study = write_earlier_study(tmp_path / "none", {(1, 0): 0.9, (1, 1): "infeasible"})
    assert isinstance(lacking := find_source(study), str) and "in every variant of study none a trial diverged" in lacking


def test_a_study_that_has_not_begun(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (lacking,) = needs.missing([STARTS], data=data, runs=Path("runs").absolute(), grid=Path("my grids/mine.toml"))
    assert "study first" in lacking.what and lacking.where == str(tmp_path / "runs" / "first")
    assert shlex.split(lacking.command, comments=True) == ["python", "-m", "harness.launch", "my grids/first.toml"]
    assert lacking.command.startswith("python -m harness.launch 'my grids/first.toml'")
    Path("my grids").mkdir()
    for name, text in {"a": "no [TOML", "b": "study = 1", "c": '[study]\nname = "second"', "d": '[study]\nname = "first"'}.items():
        Path(f"my grids/{name}.toml").write_text(text)
    (lacking,) = needs.missing([STARTS], data=data, runs=Path("runs").absolute(), grid=Path("my grids/mine.toml"))
    assert lacking.command.startswith("python -m harness.launch 'my grids/d.toml'")


def test_weights_that_were_removed(tmp_path: Path) -> None:
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.9, (1, 1): 0.8})
    study.selected_weights("d1-s1").unlink()
    assert find_source(study) == "weights of study first (its trial d1-s1 has no selected.pt)"


def test_weights_are_taken_over_by_their_digest(tmp_path: Path) -> None:
    study = write_earlier_study(tmp_path / "first", {(1, 0): 0.9})
    into = Store(tmp_path / "second")
    into.create_folders()
    digest = needs.take_over_weights(study, "d1-s0", into)
    assert digest == hashlib.sha256(b"d1-s0").hexdigest() == durable.sha256_of(into.weights_file(digest))


def test_a_launch_from_an_unfinished_study_is_refused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(data))
    write_earlier_study(tmp_path / "first", {(2, 0): 0.9, (2, 1): None})
    (tmp_path / "mine.toml").write_text('[study]\nname = "mine"\n[fixed]\nweights = "study:first"\n')
    assert launch.main([str(tmp_path / "mine.toml"), "--local", "--study-dir", str(tmp_path / "mine")]) == 1
    assert "study first has 1 of 2 trials finished" in capsys.readouterr().err and not (tmp_path / "mine").exists()


# ------------------------------------------------------------------------------------------------------------------ the mend


def test_the_mend_command_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the overrides of the launch and a path with a space: what staging then sees is what the trials need."""
    root, grid = tmp_path / "data", tmp_path / "a grid's.toml"
    monkeypatch.setenv("HARNESS_DATA", str(root))
    grid.write_text('[study]\nname = "mine"\n[fixed]\nimage_size = 64\n')
    overrides = ('dataset="fashion_mnist"', "image_size=28")
    config = dataclasses.replace(Config(), dataset="fashion_mnist", image_size=28).as_dict()
    (lacking,) = missing([config], tmp_path, data=root, grid=grid.name, overrides=overrides)
    image_fixtures.write_fashion_mnist(root)
    words = shlex.split(lacking.command, comments=True)
    assert words[:3] == ["python", "-m", "harness.stage"]
    assert stage.main(words[3:]) == 0, capsys.readouterr()
    assert jobs_data.cache_folder(Config.from_dict(config), root).exists() and missing([config], tmp_path, data=root) == []


# -------------------------------------------------------------------------------------------------------------------- caches


def caltech(**changes: object) -> dict[str, Any]:
    return Config.from_dict({"dataset": "caltech101", "image_size": 32, **changes}).as_dict()


def test_caches_are_built_once_and_each_is_told(tmp_path: Path) -> None:
    image_fixtures.write_caltech101(tmp_path)
    said: list[str] = []
    configs = [caltech(), caltech(lr=0.5), caltech(image_size=64), Config().as_dict()]
    folders = [jobs_data.cache_folder(Config.from_dict(config), tmp_path) for config in configs]
    needs.build_caches(configs, tmp_path, note=said.append)
    assert all((folder / "meta.json").exists() for folder in folders)
    assert said == [f"building {folders[0]}, {folders[2]}, {folders[3]}"]
    needs.build_caches(configs, tmp_path, note=said.append)
    assert len(said) == 1, "what is there is not built again"


def test_all_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    faces = image_fixtures.write_caltech101(tmp_path) / "Faces" / "image_0002.jpg"
    faces.write_bytes(faces.read_bytes()[:200])
    (train := image_fixtures.write_cifar10(tmp_path) / "data_batch_2").write_bytes(b"torn")
    with pytest.raises(MissingData) as caught:
        needs.build_caches([caltech(), Config(dataset="cifar10").as_dict(), Config().as_dict()], tmp_path)
    assert str(faces) in str(caught.value) and str(train) in str(caught.value)
    assert jobs_data.cache_folder(Config(), tmp_path).exists(), "the others are built"


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "größe\n数").write_text("x")
    with pytest.raises(MissingData, match="größe\n数.*HARNESS_DATA"):
        needs.build_caches([Config().as_dict()], tmp_path / "größe\n数")


def test_a_builder_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs.sys, "executable", "/bin/false")
    with pytest.raises(MissingData, match=r"builds .*digits-v\d+ ended with exit status 1"):
        needs.build_caches([Config().as_dict()], tmp_path)


def test_the_launcher_does_not_load_what_reads_images(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from harness import needs; from jobs.config import Config; "
            "needs.build_caches([Config().as_dict()], Path(sys.argv[1])); "
            "assert not {'sklearn', 'scipy', 'PIL', 'torch'} & set(sys.modules)")
    environment = {**os.environ, "PYTHONPATH": str(Path(needs.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, cwd=tmp_path)
    assert jobs_data.cache_folder(Config(), tmp_path).exists()
