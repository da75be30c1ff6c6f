"""A frozen backbone runs once an image, and the results are those of running it at every step."""

import dataclasses
from pathlib import Path
from typing import Any

import in_fork
import numpy as np
import pytest
import torch
from torch import nn

from jobs import frozen, models, training
from jobs.augment import Batcher
from jobs.config import Config, Trial
from jobs.contract import Context
from jobs.data import load

RECIPE = {"train_images": 200, "epochs": 3, "batch_size": 40, "filters": 4, "freeze": "backbone", "precision": "fp64", "dropout": 0.2,
          "schedule": "cosine"}
"""160 of 1,437 images train; digits has 287 for validation and 360 for the test."""


def numbers(outcome: Any) -> np.ndarray:
    """All metrics of all epochs and of the test split."""
    found = outcome if isinstance(outcome, dict) else dataclasses.asdict(outcome)
    return np.array([value for row in (*found["rows"], found["test"]) for value in row.values()])


def test_training_on_kept_features_is_training_of_the_whole(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    build = models.build

    def counted(*args: Any, **kwargs: Any) -> nn.Module:
        model = build(*args, **kwargs)
        model.features.register_forward_hook(lambda module, inputs, output: passed.append(len(inputs[0])))
        return model

    monkeypatch.setattr(models, "build", counted)
    outcomes, images = [], []
    for limit in (frozen.LIMIT_GB, 0.0):
        monkeypatch.setattr(frozen, "LIMIT_GB", limit)
        passed.clear()
        (folder := tmp_path / f"{limit}").mkdir()
        outcomes.append(training.run(Trial(config=RECIPE), Context(folder=folder, data=data)))
        images.append(sum(passed))
    splits = load(Config.from_dict(RECIPE), data)
    every_epoch = 3 * (len(splits.train) + len(splits.val))
    tried = 4 * frozen._TRIED  # twice as in training, once as in validation, and the whole network
    assert images == [len(splits.train) + len(splits.val) + len(splits.test) + tried, every_epoch + len(splits.test) + tried]
    np.testing.assert_allclose(numbers(outcomes[0]), numbers(outcomes[1]), rtol=1e-9)
    kept = [torch.load(tmp_path / f"{limit}" / training.SELECTED, weights_only=True)["model"] for limit in (4.0, 0.0)]
    assert kept[0].keys() == kept[1].keys()  # the whole network, as if it had been trained


def test_two_ranks_share_the_work(tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**RECIPE, "dropout": 0.0})
    one, two = (in_fork.train(trial, tmp_path / f"{ranks}", data, ranks=ranks, every_step=False) for ranks in (1, 2))
    assert one and two
    np.testing.assert_allclose(numbers(two), numbers(one), rtol=1e-9)


class Net(nn.Module):
    """A backbone, something without parameters, and a classifier."""

    def __init__(self, between: nn.Module, *, twice: bool = False):
        super().__init__()
        self.backbone, self.between, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), between, nn.Linear(8, 10)
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.between(self.backbone(x)))
        return logits * 2 if self.twice else logits


@pytest.mark.parametrize("between, twice, augment, freeze, kept", [
    (nn.Identity(), False, "none", "backbone", True),
    (nn.Dropout(0.5), False, "none", "backbone", False),  # random and switched on: it has no parameters to freeze
    (nn.Dropout(0.0), False, "none", "backbone", True),
    (nn.Identity(), True, "none", "backbone", False),  # the logits are not what the classifier says
    (nn.Identity(), False, "flip", "backbone", False), (nn.Identity(), False, "none", "classifier", False),
    (nn.Identity(), False, "none", "none", False)])
def test_what_is_kept(between: nn.Module, twice: bool, augment: str, freeze: str, kept: bool, data: Path) -> None:
    torch.manual_seed(0)
    config = Config(augment=augment, freeze=freeze)
    splits = load(config, data)
    model, batcher = Net(between, twice=twice), Batcher(splits, config, torch.device("cpu"))
    images = splits.val
    found = frozen.keep(model, batcher, config, images, slices=100, rank=0, ranks=1, autocast=torch.autocast("cpu", enabled=False))
    assert (found is not None) == kept
    if found:
        features, labels = found.plain(images[[5, 0, 250]])
        with torch.no_grad():
            expected = model.eval().backbone(batcher.plain(images)[0])[[5, 0, 250]]
        torch.testing.assert_close(features, expected)
        assert labels.tolist() == splits.labels[images[[5, 0, 250]]].tolist()
