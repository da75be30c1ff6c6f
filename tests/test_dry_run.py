"""What a dry run says, above all whether the same command would launch the study."""

import shutil
from pathlib import Path

import pytest
from earlier_study import write_earlier_study
from studies import ROOT

from harness import launch, local
from harness.dry_run import show
from harness.grid import read_grid
from harness.profile import Profile

SURE = "Nothing was submitted. The same command without --dry-run launches it."
GRID = '[study]\nname = "mine"\nseeds = [0, 1]\n'


class Told:
    """A grid in a folder, and what a dry run of it says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys, self.grid, self.study = folder, capsys, folder / "mine.toml", folder / "runs" / "mine"

    def __call__(self, text: str, *, here: bool = True, overrides: tuple[str, ...] = (), update_grid: bool = False) -> str:
        self.grid.write_text(text)
        grid = read_grid(self.grid, overrides=overrides)
        before = sorted(self.folder.rglob("*"))
        profile = None if here else Profile()
        assert show(grid, self.study, grid_path=self.grid, profile=profile, overrides=overrides, update_grid=update_grid) == 0
        assert sorted(self.folder.rglob("*")) == before, "a dry run writes nothing"
        return self.capsys.readouterr().out


@pytest.fixture
def told(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    monkeypatch.setenv("HARNESS_DATA", str(data))
    monkeypatch.setattr(local, "_gpus", list)
    return Told(tmp_path, capsys)


def test_a_study_that_can_be_launched(told: Told) -> None:
    said = told(GRID + "[compare]\ndepth = [1, 2]\n")
    assert "mine  4 trials = 2 variants x 2 seeds        [0 done, 4 to run]" in said and "depth: 1 (2), 2 (2)" in said
    assert said.endswith(f"\n\n{SURE}\n")


def test_without_slurm_it_says_what_to_add(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said = told(GRID, here=False)
    assert SURE not in said and "no Slurm here" in said and "add --local" in said


SEARCH = GRID + '[compare]\ndepth = [1, 2, 3]\n[tune]\nlr = { low = 0.01, high = 0.1 }\nmodel = ["alexnet", "dynamic_cnn"]\n' \
                '[tune.when.model.alexnet]\nweights = ["none", "imagenet"]\n[search]\ntrials = 5\n'


def test_a_search_shows_its_own_trials(told: Told) -> None:
    said = told(SEARCH.replace("[compare]\ndepth = [1, 2, 3]", "[compare]\nlr = [0.1, 0.2, 0.3]").replace("lr = { low", "momentum = { low"))
    assert "mine  30 trials = 3 variants x 5 configs x 2 seeds" in said and "0.1 (10)" in said
    assert "momentum: 0.01 to 0.1\n" in said and "model: alexnet, dynamic_cnn\n" in said
    assert "weights: none, imagenet   (where model is alexnet)" in said
    assert "5 configs of each variant, proposed by auto in waves of 5, the next wave waits for the last" in said
    assert "weights imagenet of alexnet: not found" in said, "what only a search may choose is missing too"


def test_the_confirmation_of_a_search_counts(told: Told) -> None:
    said = told(GRID + "[tune]\nlr = { low = 0.01, high = 0.1 }\n[search]\ntrials = 5\n[confirm]\ntop = 2\nseeds = 3\n")
    assert "mine  16 trials = 1 variant x 5 configs x 2 seeds, and 2 configs of each variant confirmed on 3 seeds" in said
    assert "confirm    the best 2 of each variant on fresh seeds (2, 3, 4), then the test split, once" in said and SURE in said


def test_a_changed_grid_needs_a_decision(told: Told) -> None:
    store = write_earlier_study(told.study, {(1, 0): None})
    said = told(GRID)
    assert f"the grid differs from the one {store.root} was begun with" in said and "--study-dir DIR" in said and "--update-grid" in said
    assert "-seeds = [0]" in said.replace("    ", "") and SURE not in said
    assert SURE in told(GRID, update_grid=True)
    assert SURE in told(store.frozen_grid() or "")


def test_gpus_that_are_not_there(told: Told) -> None:
    said = told(GRID + "[local]\ngpus_per_trial = 3\n")
    assert "[local] gpus_per_trial = 3, and this machine offers 0" in said and SURE not in said


def test_the_command_that_mends_has_the_overrides(told: Told) -> None:
    said = told(GRID, overrides=('dataset="cifar10"',))
    assert f"""mend: python -m harness.stage {told.grid} --set 'dataset="cifar10"'""" in said and SURE not in said
    assert "what is missing has to be mended first" in said


def test_paths_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "my data"))
    (tmp_path / "a b").mkdir()
    said = Told(tmp_path / "a b", capsys)(GRID)
    assert f"digits in '{tmp_path}/my data'" in said and f"free at '{tmp_path}/a b'" in said


def test_it_says_where_each_trial_starts(told: Told) -> None:
    text = '[study]\nname = "mine"\nseeds = [0, 1, 7]\n[fixed]\nweights = "study:first"\n'
    assert "study:first: not decided yet" in told(text)
    write_earlier_study(told.study.parent / "first", {(1, 0): 0.5, (1, 1): 0.9, (2, 0): 0.8, (2, 1): 0.7})
    said = told(text)
    assert "  weights    study:first: variant depth=2, the trial with the same seed, its best trial, d2-s0, for seed 7\n" in said
    said = told(text.replace("[0, 1, 7]", "[0, 1]"))
    assert "  weights    study:first: variant depth=2, the trial with the same seed\n" in said and SURE in said


STAGED = {
    "caltech_transfer": ["data set caltech101", "weights imagenet of alexnet", "weights imagenet of resnet50"],
    "cifar100_bayes": ["data set cifar100"], "cifar100_resnet34": ["data set cifar100", "weights imagenet of cifar_resnet34"],
    "fashion_cnn": ["data set fashion_mnist"],
    "small_cnn": ["data set cifar10", "weights imagenet of resnet18"]}
"""What our grids need that is not here: all of it is named, with the command that gets it."""


@pytest.mark.parametrize("grid", sorted((ROOT / "grids").glob("*.toml")), ids=lambda path: path.name)
def test_every_grid_of_ours(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    assert launch.main([str(grid), "--dry-run", "--local", "--study-dir", str(tmp_path / "study")]) == 0
    said = capsys.readouterr().out
    assert "Nothing was submitted" in said and not list(tmp_path.iterdir())
    lacking = STAGED.get(grid.stem, [])
    assert [line.strip().partition(":")[0] for line in said.splitlines() if ": not found at " in line and "study " not in line] == lacking
    assert (f"python -m harness.stage {grid}" in said) == bool(lacking)
    if grid.name == "caltech_transfer.toml":
        for name in ("alexnet-owt-7be5be79.pth", "resnet50-0676ba61.pth"):
            assert f"not found at {tmp_path / 'data' / 'weights' / name}" in said
    elif grid.name == "digits_transfer.toml":
        assert "study digits_pretrain" in said and f"python -m harness.launch {grid.parent / 'digits_pretrain.toml'}" in said
    else:
        assert (SURE in said) == (not lacking)
