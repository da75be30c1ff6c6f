"""A training process killed with SIGKILL at any step and started again gives the same numbers to the last bit."""

import random
from pathlib import Path

import pytest
from in_fork import train

from jobs.config import Trial

SMALL = {"dataset": "digits", "train_images": 320, "batch_size": 32, "epochs": 3, "filters": 4, "hidden": 16}
STEPS = 3 * 10
RECIPES = {
    "sgd, cosine, dropout, crops": {"schedule": "cosine", "dropout": 0.3, "augment": "crop_flip"},
    "adamw, steps, rotation": {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01, "schedule": "step", "step_size": 1,
                               "augment": "crop_flip_rotate"},
    "adam, bf16": {"optimizer": "adam", "lr": 0.003, "precision": "bf16", "dropout": 0.2},
    "fp16, frozen backbone": {"precision": "fp16", "freeze": "backbone", "batch_norm": True},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_random_steps(recipe: str, tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, **RECIPES[recipe]}, seed=3)
    undisturbed = train(trial, tmp_path / "whole", data)
    assert undisturbed is not None and len(undisturbed["rows"]) == 3
    chance = random.Random(recipe)
    for folder in ("first", "second"):
        assert train(trial, tmp_path / folder, data, kill=(0, chance.randrange(2, STEPS))) is None
        for _ in range(2):  # steps are counted anew in every process, so these may come too late and end it instead
            train(trial, tmp_path / folder, data, kill=(0, chance.randrange(2, STEPS)))
        assert train(trial, tmp_path / folder, data) == undisturbed


@pytest.mark.parametrize("victim", [0, 1])
def test_two_ranks_killed_at_random_steps(victim: int, tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, **RECIPES["sgd, cosine, dropout, crops"]}, seed=1)
    undisturbed = train(trial, tmp_path / "whole", data, ranks=2)
    assert undisturbed is not None and undisturbed["status"] == "done"
    chance = random.Random(victim)
    for _ in range(2):
        train(trial, tmp_path / "killed", data, ranks=2, kill=(victim, chance.randrange(3, STEPS)))
    assert train(trial, tmp_path / "killed", data, ranks=2) == undisturbed


def test_a_kill_goes_on_from_the_middle_of_an_epoch(tmp_path: Path, data: Path) -> None:
    """Otherwise the tests above would only show that training from the start repeats itself."""
    trial = Trial(config=SMALL)
    assert train(trial, tmp_path, data, kill=(0, 28)) is None
    epochs_and_steps = [tuple(map(int, path.stem.split("-")[1:])) for path in tmp_path.glob("checkpoint-*.pt")]
    assert len(epochs_and_steps) <= 2 and max(epochs_and_steps) > (0, 1)


def test_a_larger_budget_continues_the_smaller_one(tmp_path: Path, data: Path) -> None:
    config = {**SMALL, "schedule": "cosine"}
    whole = train(Trial(config=config), tmp_path / "whole", data)
    first = train(Trial(config=config, budget=1), tmp_path / "rungs", data)
    assert first is not None and whole is not None and first["rows"] == whole["rows"][:1]
    assert train(Trial(config=config), tmp_path / "rungs", data) == whole


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path: Path, data: Path) -> None:
    trial = Trial(config=SMALL)
    undisturbed = train(trial, tmp_path / "whole", data)
    folder = tmp_path / "damaged"
    assert train(trial, folder, data, kill=(0, 29)) is None
    newest = sorted(folder.glob("checkpoint-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert train(trial, folder, data) == undisturbed
    assert [path.name for path in folder.glob("*.bad")] == [f"{newest.name}.bad"]


def test_a_checkpoint_of_another_config_is_not_used(tmp_path: Path, data: Path) -> None:
    assert train(Trial(config=SMALL, seed=1), tmp_path, data, kill=(0, 25)) is None
    assert train(Trial(config=SMALL, seed=2), tmp_path, data) == train(Trial(config=SMALL, seed=2), tmp_path / "alone", data)
