"""A batch that is trained in pieces gives what the whole gives, in less memory at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_fork import train

import jobs.training
from jobs import data as jobs_data
from jobs import models
from jobs.config import Config, Trial
from jobs.contract import Context

SMALL = {"dataset": "digits", "precision": "fp64", "batch_size": 32, "train_images": 320, "epochs": 2, "filters": 4, "hidden": 16,
         "augment": "crop_flip", "batch_norm": False}
"""Two epochs of 10 steps, in which nothing depends on what else is in a piece."""


def numbers(outcome: dict[str, Any] | None) -> list[float]:
    """All losses and accuracies of an outcome."""
    assert outcome is not None and outcome["status"] == "done"
    names = ("train_loss", "train_acc", "val_loss", "val_acc")
    return [*(row[name] for row in outcome["rows"] for name in names), *outcome["test"].values()]


def furthest(folder: Path) -> tuple[int, ...]:
    """(whole epochs, steps of the next) of the newest checkpoint."""
    return max(tuple(map(int, path.stem.split("-")[1:])) for path in folder.glob("checkpoint-*.pt"))


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 3), (2, 2)])  # pieces of 11, 11 and 10 images; 8 and 8 on either rank
def test_pieces_give_the_losses_of_the_whole(ranks: int, accumulate: int, tmp_path: Path, data: Path) -> None:
    trial = Trial(config=SMALL)
    whole = train(trial, tmp_path / "whole", data, every_step=False)
    pieces = train(trial, tmp_path / "pieces", data, ranks=ranks, accumulate=accumulate, every_step=False)
    assert numbers(pieces) == pytest.approx(numbers(whole), abs=1e-9)


def test_a_kill_while_training_in_pieces_changes_nothing(tmp_path: Path, data: Path) -> None:
    """With batch norm over two ranks and dropout, to the last bit."""
    trial = Trial(config={**SMALL, "precision": "fp32", "batch_norm": True, "dropout": 0.3})
    undisturbed = train(trial, tmp_path / "whole", data, ranks=2, accumulate=2)
    assert undisturbed != train(trial, tmp_path / "other", data, ranks=2)  # as batch norm and dropout see pieces
    assert train(trial, tmp_path / "killed", data, ranks=2, accumulate=2, kill=(0, 15)) is None
    assert train(trial, tmp_path / "killed", data, ranks=2, accumulate=2) == undisturbed


def test_a_checkpoint_goes_on_with_other_pieces(tmp_path: Path, data: Path) -> None:
    trial = Trial(config=SMALL)
    assert train(trial, tmp_path / "killed", data, kill=(0, 8)) is None
    reached = furthest(tmp_path / "killed")
    assert train(trial, tmp_path / "killed", data, accumulate=3, kill=(0, 6)) is None
    assert furthest(tmp_path / "killed") > reached > (0, 1)  # six steps from the start would not get further
    assert numbers(train(trial, tmp_path / "killed", data)) == pytest.approx(numbers(train(trial, tmp_path / "whole", data)), abs=1e-9)


@pytest.mark.parametrize(("accumulate", "trained", "evaluated"), [
    (1, [32], 359),          # the test split, which is below the 512 that are evaluated at once
    (3, [11, 11, 10], 170),  # 512 // 3
    (100, [2] * 16, 5),      # batch norm cannot train on one image
])
def test_how_many_images_are_in_memory_at_once(accumulate: int, trained: list[int], evaluated: int, tmp_path: Path, data: Path) -> None:
    """With a batcher that notes what it is asked for, over one step and both evaluations."""
    config = Config(batch_size=32, train_images=33, epochs=1)
    splits = jobs_data.load(config, data)
    torch.manual_seed(0)
    model = models.build(config, classes=10, channels=1, size=8)
    context = Context(folder=tmp_path, data=data, accumulate=accumulate)
    training = jobs.training.Training(Trial(config=config.as_dict()), context, config=config, splits=splits, model=model)
    asked: list[int] = []
    raw = training.batcher.raw

    def note(samples: np.ndarray) -> tuple[torch.Tensor, ...]:
        asked.append(len(samples))
        return raw(samples)

    training.batcher.raw = note  # type: ignore[method-assign]
    training.run()
    assert asked[:len(trained)] == trained and max(asked[len(trained):]) == evaluated
    assert sum(asked) == 32 + len(splits.val) + len(splits.test)
