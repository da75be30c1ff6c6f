"""Two ranks train as one does with the same global batch, and evaluation counts every sample once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from in_fork import _fork, train

import jobs.training
from jobs import data as jobs_data
from jobs import models
from jobs.config import Config, ConfigError, Trial
from jobs.contract import Context
from jobs.ranks import joined

FP64 = {"dataset": "digits", "precision": "fp64", "batch_size": 32, "train_images": 640, "epochs": 1, "filters": 4, "hidden": 16}


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
def test_same_losses_over_20_steps(augment: str, batch_norm: bool, tmp_path: Path, data: Path) -> None:
    config = {**FP64, "augment": augment, "batch_norm": batch_norm}  # 640 images in batches of 32: 20 steps
    one = train(Trial(config=config), tmp_path / "1", data, ranks=1)
    two = train(Trial(config=config), tmp_path / "2", data, ranks=2)
    assert one is not None and two is not None
    for metric in ("train_loss", "train_acc", "val_loss", "val_acc"):
        assert two["rows"][0][metric] == pytest.approx(one["rows"][0][metric], abs=1e-9)
    assert two["test"]["test_loss"] == pytest.approx(one["test"]["test_loss"], abs=1e-9)


def test_each_step_has_the_same_loss(tmp_path: Path, data: Path) -> None:
    """The mean over an epoch could hide steps that differ; one epoch of one step each cannot."""
    config = {**FP64, "train_images": 33, "epochs": 20}  # one step of 32 images per epoch, 20 of them
    one = train(Trial(config=config), tmp_path / "1", data, ranks=1)
    two = train(Trial(config=config), tmp_path / "2", data, ranks=2)
    assert one is not None and two is not None
    losses = [[row["train_loss"] for row in outcome["rows"]] for outcome in (one, two)]
    assert len(losses[0]) == 20 and np.abs(np.subtract(*losses)).max() < 1e-9


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_counts_each_sample_once(ranks: int, tmp_path: Path, data: Path) -> None:
    """With a batcher that remembers whom it was asked for."""
    seen = _fork.Queue()
    processes = [_fork.Process(target=_evaluate, args=(rank, ranks, tmp_path, data, seen)) for rank in range(ranks)]
    for process in processes:
        process.start()
    answers = [seen.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
    splits = jobs_data.load(Config(), data)
    asked = sorted(sample for samples, _, _ in answers for sample in samples)
    assert asked == sorted(splits.test.tolist())  # 360 of 1797 images: no multiple of 3 ranks times anything
    assert len({accuracy for _, accuracy, _ in answers}) == 1
    assert answers[0][1] * len(splits.test) == pytest.approx(round(answers[0][1] * len(splits.test)), abs=1e-9)


def _evaluate(rank: int, ranks: int, tmp_path: Path, data: Path, seen: "torch.multiprocessing.Queue") -> None:  # type: ignore[type-arg]
    with joined(rank, ranks, address=f"file://{tmp_path}/meeting", device="cpu"):
        config = Config()
        splits = jobs_data.load(config, data)
        torch.manual_seed(0)
        model = models.build(config, classes=10, channels=1, size=8)
        context = Context(folder=tmp_path / str(rank), data=data, rank=rank, ranks=ranks)
        training = jobs.training.Training(Trial(config=config.as_dict()), context, config=config, splits=splits, model=model)
        asked: list[int] = []
        plain = training.batcher.plain

        def remember(samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            asked.extend(samples.tolist())
            return plain(samples)

        training.batcher.plain = remember  # type: ignore[method-assign]
        loss, accuracy = training.evaluate(splits.test)
        seen.put((asked, accuracy, loss))


def test_the_metric_of_an_epoch_by_hand(tmp_path: Path, data: Path) -> None:
    """Accuracy and loss of the test split, computed from the selected weights without any of the training code."""
    trial = Trial(config={**FP64, "epochs": 2})
    outcome = train(trial, tmp_path, data)
    assert outcome is not None
    config = Config.from_dict(trial.config)
    splits = jobs_data.load(config, data)
    model = models.build(config, classes=10, channels=1, size=8).double()
    model.load_state_dict(torch.load(tmp_path / "selected.pt", weights_only=True)["model"])
    x_BCHW = torch.from_numpy(splits.images[splits.test]).permute(0, 3, 1, 2).double() / 255
    x_BCHW = (x_BCHW - splits.spec.mean[0]) / splits.spec.std[0]
    y_B = torch.from_numpy(splits.labels[splits.test])
    with torch.no_grad():
        logits = model.eval()(x_BCHW)
    assert outcome["test"]["test_acc"] == (logits.argmax(1) == y_B).double().mean().item()
    # The batcher normalises in float32 at best by one rounding; the loss follows it to about 1e-6.
    assert outcome["test"]["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y_B).item(), rel=1e-5)


@pytest.mark.parametrize(("settings", "words"), [
    ({"batch_size": 2000}, "batch_size 2000 is larger than the training split of"),
    ({"batch_size": 33}, "batch_size 33 cannot be shared evenly by 2 ranks"),
])
def test_batches_that_cannot_be_cut_are_refused(settings: dict[str, int], words: str) -> None:
    config = dataclasses.replace(Config(), **settings)
    with pytest.raises(ConfigError, match=words):
        jobs.training.check_batch(config, ranks=2, train_images=1000)
