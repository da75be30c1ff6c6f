"""Weights files: what is taken from them, and how wrong, damaged and hostile ones are refused."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from jobs import models
from jobs.config import Config
from jobs.weights import published_digest

SMALL = Config(model="dynamic_cnn", depth=2, filters=4, hidden=8)


def build(config: Config, *, weights_file: Path | None = None, seed: int = 0,
          classes: int = 10, channels: int = 1, size: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(config, classes=classes, channels=channels, size=size, weights_file=weights_file)


def study_file(folder: Path, config: Config = SMALL, **sizes: int) -> tuple[Path, nn.Module]:
    network = build(config, seed=1, **sizes)
    torch.save({"model": dict(network.state_dict())}, folder / "selected.pt")
    return folder / "selected.pt", network


def test_everything_but_the_head_comes_from_an_earlier_study(tmp_path: Path) -> None:
    path, earlier = study_file(tmp_path, classes=5)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = build(dataclasses.replace(SMALL, weights="study:first", weights_digest=digest), weights_file=path)
    fresh, taken = build(SMALL).state_dict(), earlier.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, (fresh if name.startswith("classifier.4.") else taken)[name]), name


def test_the_head_is_new_even_with_as_many_classes(tmp_path: Path) -> None:
    path, earlier = study_file(tmp_path)
    network = build(dataclasses.replace(SMALL, weights="study:first"), weights_file=path)
    assert not torch.equal(network.classifier[4].weight, earlier.classifier[4].weight)  # type: ignore[index, union-attr, operator]


def test_mnasnet_goes_on_from_a_plain_dict(tmp_path: Path) -> None:
    config = Config(model="mnasnet0_5")
    path, earlier = study_file(tmp_path, config, size=32)
    network = build(dataclasses.replace(config, weights="study:first"), weights_file=path, size=32)
    assert torch.equal(network.layers[0].weight, earlier.layers[0].weight)  # type: ignore[index, union-attr, operator]


@pytest.mark.parametrize(("change", "complaint"), [
    ({"filters": 8}, "size mismatch for features.0.weight"),
    ({"kernel_size": 5}, "size mismatch for features.0.weight"),
    ({"hidden": 9}, "size mismatch for classifier.2.weight"),
    ({"batch_norm": False}, "features.3.weight is missing"),
])
def test_a_checkpoint_of_another_shape(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    path, _ = study_file(tmp_path)
    with pytest.raises(models.WeightsError, match=f"selected.pt is a checkpoint of another model than dynamic_cnn .*: {complaint}"):
        build(dataclasses.replace(SMALL, weights="study:first", **change), weights_file=path)


def test_a_checkpoint_with_other_names(tmp_path: Path) -> None:
    path, earlier = study_file(tmp_path)
    state = dict(earlier.state_dict())
    for number in range(5):
        state[f"extra.{number}"] = state["features.0.bias"]
    del state["features.0.bias"]
    torch.save({"model": state}, path)
    with pytest.raises(models.WeightsError, match=r"features.0.bias is missing; extra.0 is not in the model; .*; and 2 more\."):
        build(dataclasses.replace(SMALL, weights="study:first"), weights_file=path)


def test_damaged_and_missing_weights_files(tmp_path: Path) -> None:
    path, _ = study_file(tmp_path)
    config = dataclasses.replace(SMALL, weights="study:first")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<html>not here</html>"):
        path.write_bytes(content)
        with pytest.raises(models.WeightsError, match='selected.pt cannot be read as weights .* run the study "first" first'):
            build(config, weights_file=path)
    path.write_bytes(whole)
    with pytest.raises(models.WeightsError, match="its SHA-256 starts with"):
        build(dataclasses.replace(config, weights_digest="0" * 64), weights_file=path)
    torch.save({"weights": 1}, path)
    with pytest.raises(models.WeightsError, match="holds no weights"):
        build(config, weights_file=path)
    for absent in (None, tmp_path / "absent.pt"):
        with pytest.raises(models.WeightsError, match="there is no file"):
            build(config, weights_file=absent)


def test_a_weights_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"model": Bomb()}, tmp_path / "selected.pt")
    with pytest.raises(models.WeightsError, match="cannot be read as weights"):
        build(dataclasses.replace(SMALL, weights="study:first"), weights_file=tmp_path / "selected.pt")
    assert not (tmp_path / "ran").exists()


def published(folder: Path, state: dict[str, Tensor], stem: str) -> Path:
    """A file named as torchvision names its own, with the start of its SHA-256."""
    torch.save(state, folder / "made.pth")
    digest = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()
    return (folder / "made.pth").rename(folder / f"{stem}-{digest[:8]}.pth")


def test_published_weights_with_the_side_heads_of_googlenet(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.googlenet(aux_logits=True, init_weights=True)
    path = published(tmp_path, theirs.state_dict(), "googlenet")
    network = build(Config(model="googlenet", weights="imagenet"), weights_file=path, size=64)
    taken = theirs.state_dict()
    assert all(torch.equal(v, taken[k]) for k, v in network.state_dict().items() if not k.startswith("fc."))
    assert network.fc.weight.shape == (10, 1024)  # type: ignore[union-attr]
    assert network.transform_input is True


def test_published_weights_with_densenet_names_of_old(tmp_path: Path) -> None:
    config = Config(model="densenet121", weights="imagenet")
    theirs = build(dataclasses.replace(config, weights="none"), seed=1, channels=3, size=32).state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.").replace("conv2.", "conv.2.")
           if "denselayer" in name else name: value for name, value in theirs.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    network = build(config, weights_file=published(tmp_path, old, "densenet121"), channels=3, size=32)
    assert all(torch.equal(v, theirs[k]) for k, v in network.state_dict().items() if not k.startswith("classifier."))


def test_published_weights_of_a_resnet_in_a_cifar_resnet(tmp_path: Path) -> None:
    """The stem, whose shape no published file has, and the whole of the head are drawn anew; all the rest is taken."""
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    path, config = published(tmp_path, theirs, "resnet18"), Config(model="cifar_resnet18")
    network = build(dataclasses.replace(config, weights="imagenet"), weights_file=path, channels=3, size=32).state_dict()
    fresh = build(config, channels=3, size=32).state_dict()
    new = {name for name in network if name.startswith(("conv1.", "fc."))}
    assert new == {"conv1.weight", *(f"fc.{i}.{part}" for i in (0, 3, 6) for part in ("weight", "bias"))}
    assert all(torch.equal(value, (fresh if name in new else theirs)[name]) for name, value in network.items())


def test_a_cifar_resnet_takes_its_stem_from_an_earlier_study(tmp_path: Path) -> None:
    config = Config(model="cifar_resnet18")
    path, earlier = study_file(tmp_path, config, classes=5, channels=3, size=32)
    network, taken = build(dataclasses.replace(config, weights="study:first"), weights_file=path, channels=3, size=32), earlier.state_dict()
    differ = [name for name, value in network.state_dict().items() if not torch.equal(value, taken[name])]
    assert differ == ["fc.6.weight", "fc.6.bias"]


@pytest.mark.parametrize("model", ["resnet18", "cifar_resnet18"])
def test_published_weights_of_another_model(model: str, tmp_path: Path) -> None:
    """A deeper ResNet under the name of this one: nothing of it is loaded, though all that this one has would fit."""
    path = published(tmp_path, torchvision.models.resnet34().state_dict(), "resnet18")
    with pytest.raises(models.WeightsError, match=f"another model than {model} .*: layer1.2.conv1.weight is not in the model"):
        build(Config(model=model, weights="imagenet"), weights_file=path, channels=3, size=32)


def test_published_weights_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-f37072fd.pth"
    path.write_bytes(b"half a download")
    found = hashlib.sha256(b"half a download").hexdigest()[:8]
    with pytest.raises(models.WeightsError, match=f"resnet18-f37072fd.pth .* starts with {found}, expected f37072fd; .*harness.stage GRID"):
        build(Config(model="resnet18", weights="imagenet"), weights_file=path, size=32)
    assert published_digest("mnasnet0.5_top1_67.823-3ffadce67.pth") == "3ffadce67"
    assert published_digest("weights.pth") == ""
