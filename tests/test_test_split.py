"""The test split, evaluated by itself after the trial is over: the numbers training would have given, and only from whole weights."""

import dataclasses
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from in_fork import train

import jobs.train
from jobs import models
from jobs.config import Config, Trial
from jobs.contract import Context
from jobs.weights import WeightsError, load_selected

SMALL = {"dataset": "digits", "train_images": 160, "batch_size": 32, "epochs": 3, "filters": 4, "hidden": 16}


@pytest.mark.parametrize(("config", "ranks"), [
    ({"schedule": "cosine", "dropout": 0.3, "augment": "crop_flip"}, 1), ({"precision": "bf16", "optimizer": "adam", "lr": 0.01}, 1),
    ({"precision": "fp64", "freeze": "backbone"}, 1), ({"model": "simple_cnn", "precision": "fp16"}, 1), ({"dropout": 0.3}, 2)])
@pytest.mark.parametrize("select", ["best_val", "last"])
def test_the_numbers_are_those_of_training_to_the_last_bit(config: dict[str, Any], ranks: int, select: str, tmp_path: Path,
                                                           data: Path) -> None:
    trial = Trial(config={**SMALL, **config}, seed=5, select=select)
    opened = train(trial, tmp_path / "opened at once", data, ranks=ranks, every_step=False)
    shut = dataclasses.replace(trial, test=False)
    folder = tmp_path / "opened later"
    outcome = train(shut, folder, data, ranks=ranks, every_step=False)
    assert outcome is not None and opened is not None and outcome == {**opened, "test": {}}
    assert set(opened["test"]) == {"test_loss", "test_acc"} and not (folder / "opened").exists()
    for path in folder.glob("checkpoint-*"):
        path.unlink()  # a trial that is over has none
    kept = (folder / "selected.pt").read_bytes()
    assert train(shut, folder, data, ranks=ranks, every_step=False, job="test") == opened["test"]
    assert (folder / "opened").exists() and (folder / "selected.pt").read_bytes() == kept
    assert train(trial, folder, data, ranks=ranks, every_step=False, job="test") == opened["test"]


def test_where_training_started_from_is_not_read_again(tmp_path: Path, data: Path) -> None:
    """The weights it started from may be gone by the time the test split is opened."""
    torch.manual_seed(1)
    network = models.build(Config.from_dict(SMALL), classes=10, channels=1, size=8)
    torch.save({"model": network.state_dict()}, tmp_path / "earlier.pt")
    trial = Trial(config={**SMALL, "weights": "study:earlier"})
    context = Context(folder=tmp_path, data=data, weights_file=tmp_path / "earlier.pt")
    outcome = jobs.train.run(trial, context)
    (tmp_path / "earlier.pt").unlink()
    assert jobs.train.test(trial, dataclasses.replace(context, weights_file=None)) == outcome.test


def test_a_model_that_refuses_plain_dicts(tmp_path: Path) -> None:
    """MNASNet reads its version from what surrounds a state dict, which selected.pt does not keep."""
    torch.manual_seed(1)
    config = Config(model="mnasnet0_5")
    network, other = (models.build(config, classes=10, channels=1, size=32) for _ in range(2))
    torch.save({"model": dict(network.state_dict())}, tmp_path / "selected.pt")
    load_selected(other, tmp_path / "selected.pt")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


# --- no weights, damaged weights ---------------------------------------------------------------------------------------------


@pytest.fixture
def selected(tmp_path: Path) -> Path:
    """selected.pt of a trial with SMALL."""
    torch.manual_seed(0)
    network = models.build(Config.from_dict(SMALL), classes=10, channels=1, size=8)
    torch.save({"model": network.state_dict()}, tmp_path / "selected.pt")
    return tmp_path / "selected.pt"


def refused(selected: Path, data: Path, config: dict[str, Any] | None = None) -> str:
    """The message about a selected.pt that cannot be used; the test split stays shut."""
    opened: list[bool] = []
    context = Context(folder=selected.parent, data=data, opening_test=lambda: opened.append(True))
    with pytest.raises(WeightsError) as caught:
        jobs.train.test(Trial(config={**SMALL, **(config or {})}), context)
    assert not opened
    message = str(caught.value)
    assert str(selected) in message and "launch its study again" in message
    return message


def test_weights_that_are_not_there(selected: Path, data: Path) -> None:
    selected.unlink()
    assert "the trial is not over, or its weights were removed" in refused(selected, data)
    selected.mkdir()
    assert "there is no file" in refused(selected, data)


def test_a_paused_trial_has_nothing_to_test(tmp_path: Path, data: Path) -> None:
    jobs.train.run(Trial(config=SMALL, budget=1), Context(folder=tmp_path, data=data))
    assert "the trial is not over" in refused(tmp_path / "selected.pt", data)


def test_weights_cut_short_emptied_or_something_else(selected: Path, data: Path) -> None:
    whole = selected.read_bytes()
    for content in (b"", whole[:100], whole[:len(whole) // 2], whole[:-1], b"<html>not here</html>", b"PK\x05\x06" + bytes(18)):
        selected.write_bytes(content)
        assert "cannot be read as weights" in refused(selected, data)


def test_one_flipped_bit_in_the_weights(selected: Path, data: Path) -> None:
    """torch.load would read it as a slightly different number."""
    network = torch.load(selected, weights_only=True)["model"]
    value = struct.pack("<4f", *network["features.0.weight"].flatten()[:4].tolist())
    whole = bytearray(selected.read_bytes())
    place = whole.index(value)
    whole[place] ^= 1
    selected.write_bytes(whole)
    assert not torch.equal(torch.load(selected, weights_only=True)["model"]["features.0.weight"], network["features.0.weight"])
    assert "does not match its checksum" in refused(selected, data)


@pytest.mark.parametrize("content", [{}, [], {"model": 3}, {"model": {"a": 1}}, {"weights": {}}])
def test_a_file_that_holds_no_weights(content: object, selected: Path, data: Path) -> None:
    torch.save(content, selected)
    assert "holds no weights" in refused(selected, data)


@pytest.mark.parametrize(("config", "complaint"), [
    ({"filters": 8}, "size mismatch for features.0.weight"), ({"batch_norm": False}, "features.1.weight is not in the model"),
    ({"depth": 3}, "size mismatch for classifier.2.weight"), ({"classes": "0-4"}, "size mismatch for classifier.4.weight")])
def test_weights_of_another_network(config: dict[str, Any], complaint: str, selected: Path, data: Path) -> None:
    message = refused(selected, data, config)
    assert "holds the weights of another network than the trial's" in message and complaint in message


def test_weights_that_would_run_code(selected: Path, data: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Bomb()}, selected)
    assert "cannot be read as weights" in refused(selected, data)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_is_no_checkpoint(selected: Path, data: Path) -> None:
    with zipfile.ZipFile(selected, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert "cannot be read as weights" in refused(selected, data)
