"""Networks: shapes, sizes that cannot be built, and parts."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from jobs import models
from jobs.cnns import NETWORKS
from jobs.config import Config, ConfigError
from jobs.layers import trace
from jobs.registry import OUR_MODELS, PUBLISHED_AS, torchvision_models

DIGITS = {"classes": 10, "channels": 1, "size": 8}
SMALL = Config(model="dynamic_cnn", depth=2, filters=4, hidden=8)


def build(config: Config, *, seed: int = 0, **sizes: int) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(config, **{**DIGITS, **sizes})


# --- our networks ------------------------------------------------------------------------------------------------------------


def test_networks_are_those_of_the_registry() -> None:
    assert list(NETWORKS) == list(OUR_MODELS)


def test_dynamic_cnn_layer_by_layer() -> None:
    layers = models.describe(dataclasses.replace(SMALL, dataset="digits"))
    found = [(layer.name, layer.kind, layer.shape, layer.parameters) for layer in layers]
    assert found == [
        ("features.0", "Conv2d", (4, 8, 8), 1 * 4 * 9 + 4), ("features.1", "BatchNorm2d", (4, 8, 8), 8),
        ("features.2", "ReLU", (4, 8, 8), 0), ("features.3", "MaxPool2d", (4, 4, 4), 0),
        ("features.4", "Conv2d", (8, 4, 4), 4 * 8 * 9 + 8), ("features.5", "BatchNorm2d", (8, 4, 4), 16),
        ("features.6", "ReLU", (8, 4, 4), 0), ("features.7", "MaxPool2d", (8, 2, 2), 0),
        ("classifier.0", "Flatten", (32,), 0), ("classifier.1", "Dropout", (32,), 0), ("classifier.2", "Linear", (8,), 32 * 8 + 8),
        ("classifier.3", "ReLU", (8,), 0), ("classifier.4", "Linear", (10,), 8 * 10 + 10),
    ]


def test_simple_cnn_reads_4096_features_at_32_pixels() -> None:
    shapes = {layer.name: layer.shape for layer in models.describe(Config(model="simple_cnn", filters=64, dataset="cifar100"))}
    assert shapes["classifier.0"] == (4096,)
    assert [shapes[f"classifier.{i}"] for i in (2, 4, 6)] == [(512,), (256,), (100,)]


@pytest.mark.parametrize(("filters", "channels"), [
    ({}, (64, 128, 256)), ({"filters_2": 40}, (64, 40, 80)), ({"filters_3": 48}, (64, 128, 48)),
    ({"filters_2": 32, "filters_3": 100}, (64, 32, 100))])
def test_each_layer_of_simple_cnn_may_have_filters_of_its_own(filters: dict[str, int], channels: tuple[int, ...]) -> None:
    layers = models.describe(Config(model="simple_cnn", filters=64, dataset="cifar100", **filters))  # type: ignore[arg-type]
    assert [layer.shape for layer in layers if layer.kind == "Conv2d"] == [
        (channels[0], 32, 32), (channels[1], 16, 16), (channels[2], 8, 8)]
    linear = [layer.parameters for layer in layers if layer.kind == "Linear"]
    assert linear == [(channels[2] * 4 * 4 + 1) * 512, (512 + 1) * 256, (256 + 1) * 100]


def test_plain_cnn_layer_by_layer() -> None:
    """Eight pixels are halved to 4 and to 2, and no further."""
    config = Config(model="plain_cnn", depth=3, filters=4, kernel_size=2, hidden=8, dropout=0.5, dropout_features=0.1, batch_norm=True)
    found = [(layer.kind, layer.shape, layer.parameters) for layer in models.describe(config)]

    def convolution(side: int, parameters: int) -> list[tuple[str, tuple[int, ...], int]]:
        shape = (4, side, side)
        return [("Conv2d", shape, parameters), ("BatchNorm2d", shape, 8), ("ReLU", shape, 0), ("Dropout", shape, 0)]

    assert found == [
        *convolution(8, 1 * 4 * 4 + 4), ("MaxPool2d", (4, 4, 4), 0), *convolution(4, 4 * 4 * 4 + 4), ("MaxPool2d", (4, 2, 2), 0),
        *convolution(2, 4 * 4 * 4 + 4),
        ("Flatten", (16,), 0), ("Dropout", (16,), 0), ("Linear", (8,), 16 * 8 + 8), ("ReLU", (8,), 0), ("Linear", (10,), 8 * 10 + 10)]
    network = build(config)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1, 0.1, 0.5]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 28, 32])
@pytest.mark.parametrize("kernel_size", [2, 5])
@pytest.mark.parametrize("depth", [1, 10])
def test_plain_cnn_fits_every_image_at_any_depth(depth: int, kernel_size: int, size: int) -> None:
    config = Config(model="plain_cnn", depth=depth, kernel_size=kernel_size, filters=2, hidden=4)
    network = build(config, size=size)
    assert network(torch.rand(2, 1, size, size)).shape == (2, 10)
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == depth


def test_plain_cnn_at_28_pixels_is_halved_three_times() -> None:
    layers = models.describe(Config(model="plain_cnn", dataset="fashion_mnist", depth=10, filters=16))
    assert [layer.shape[1] for layer in layers if layer.kind == "Conv2d"] == [28, 14, 7] + 7 * [3]


@pytest.mark.parametrize(("model", "blocks"), [("cifar_resnet18", 8), ("cifar_resnet34", 16)])
def test_a_cifar_resnet_keeps_32_pixels_behind_its_stem(model: str, blocks: int) -> None:
    """torchvision's ResNet in all but the stem, the pool behind it and the head."""
    layers = {layer.name: layer for layer in models.describe(Config(model=model, dataset="cifar100", dropout=0.3))}
    assert layers["conv1"].shape == (64, 32, 32) and layers["conv1"].parameters == 3 * 64 * 3 * 3
    assert layers["maxpool"].shape == (64, 32, 32) and layers["maxpool"].kind == "Identity"
    assert [layers[f"layer{n}.0.conv1"].shape for n in (1, 2, 3, 4)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert sum(name.endswith(".conv2") for name in layers) == blocks
    head = [(layer.kind, layer.shape) for name, layer in layers.items() if name.startswith("fc.")]
    assert head == [("Linear", (512,)), ("ReLU", (512,)), ("Dropout", (512,)), ("Linear", (256,)), ("ReLU", (256,)), ("Dropout", (256,)),
                    ("Linear", (100,))]
    network, theirs = build(Config(model=model, dropout=0.3), size=32), torchvision.models.get_model(PUBLISHED_AS[model])
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    assert all(shapes[name] == value.shape for name, value in theirs.state_dict().items() if not name.startswith(("conv1.", "fc.")))
    assert shapes["conv1.weight"] == (64, 1, 3, 3), "grey images are read as they are"
    spread = build(Config(model=model), channels=3, size=32).conv1.weight.std()  # type: ignore[union-attr, operator]
    assert abs(spread - (2 / (64 * 9)) ** 0.5) < 0.004, "as torchvision draws its convolutions: sqrt(2 / fan out)"
    by_part = models.parts(network)
    assert {name.partition(".")[0] for name in by_part["classifier"]} == {"fc"} and len(by_part["classifier"]) == 6


@pytest.mark.parametrize("model", list(OUR_MODELS))
@pytest.mark.parametrize("batch_norm", [True, False])
def test_forward_and_backward(model: str, batch_norm: bool) -> None:
    network = build(Config(model=model, filters=4, batch_norm=batch_norm), size=9).double()
    network(torch.rand(3, 1, 9, 9, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (batch_norm or "batch_norm" not in OUR_MODELS[model])


def test_parameters_follow_torch_seed_alone() -> None:
    first, again, other = build(SMALL), build(SMALL), build(SMALL, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    torch.manual_seed(0)
    direct = NETWORKS["dynamic_cnn"](SMALL, **DIGITS)  # the check on the meta device before must not have drawn anything
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), direct.parameters(), strict=True))


# --- infeasible --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "size", "reason"), [
    (Config(depth=4, filters=4), 8, "features.15 (MaxPool2d): its input is 32x1x1, too small for kernel 2"),
    (Config(depth=4, filters=4, batch_norm=False), 8, "features.11 (MaxPool2d): its input is 32x1x1, too small for kernel 2"),
    (Config(depth=64, filters=4096), 8, "features.15 (MaxPool2d): its input is 32768x1x1, too small for kernel 2"),
    (Config(model="simple_cnn", filters=4), 7, "features.11 (MaxPool2d): its input is 16x1x1, too small for kernel 2"),
    (Config(model="alexnet"), 32, "features.12 (MaxPool2d): its input is 256x1x1, too small for kernel 3"),
    (Config(model="inception_v3"), 32, "Mixed_6a.branch3x3.conv (Conv2d): its input is 288x1x1, too small for kernel 3"),
    (Config(model="vit_b_16"), 30, "vit_b_16 cannot be built for 30x30 images: Input shape indivisible by patch size!"),
])
def test_infeasible_names_the_layer_and_the_sizes(config: Config, size: int, reason: str) -> None:
    with pytest.raises(models.Infeasible) as found:
        build(config, size=size)
    assert str(found.value) == found.value.reason == reason


def test_depth_that_just_fits() -> None:
    assert build(Config(depth=3, filters=4))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_an_empty_feature_map_is_infeasible_though_no_layer_refuses_it() -> None:
    class Slice(nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return x_BCHW[:, :, 8:]

    with pytest.raises(models.Infeasible, match=r"0 \(Slice\): its input is 1x8x8, its output 1x0x8"):
        trace(nn.Sequential(Slice()), channels=1, size=8)


def test_describe_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"depth": 2, "filters": 4, "hidden": 8, "freeze": "backbone"}}))
    assert models.main(["--describe", str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["features.0", "Conv2d", "4x8x8", "40", "frozen"]
    assert out[-1] == "714 parameters: 354 trained, 360 frozen"

    path.write_text(json.dumps({"config": {"depth": 5, "filters": 4}}))
    assert models.main(["--describe", str(path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "infeasible: features.15 (MaxPool2d): its input is 32x1x1, too small for kernel 2"
    assert any(line.startswith("features.14 ") for line in out) and not any(line.startswith("features.15 ") for line in out)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"config": {"depht": 2}}', '{"config": {"depth": "two"}}'])
def test_describe_of_a_bad_file(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert models.main(["--describe", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert models.main(["--describe", str(tmp_path / "absent.json")]) == 2


# --- torchvision -------------------------------------------------------------------------------------------------------------

FEW = ("alexnet", "resnet18", "squeezenet1_1", "googlenet", "regnet_y_400mf", "mnasnet0_5", "vit_b_32")
MANY = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in torchvision_models()]


@pytest.mark.parametrize("name", MANY)
def test_every_torchvision_model_can_be_built_and_parted(name: str) -> None:
    """On the meta device: grey images, a new head, every parameter counted, the classifier part holds the head."""
    config, before = Config(model=name), torch.get_rng_state()
    network, one_more = (models._without_memory(config, classes=classes, channels=1, size=224) for classes in (7, 8))
    layers = trace(network, channels=1, size=224)
    assert torch.equal(before, torch.get_rng_state())
    assert layers[-1].shape[0] == 7
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in network.parameters())
    shapes = {key: p.shape for key, p in one_more.named_parameters()}
    head = {key for key, p in network.named_parameters() if p.shape != shapes[key]}
    by_part = models.parts(network)
    assert head and head <= set(by_part["classifier"])
    assert sorted(by_part["classifier"] + by_part["backbone"]) == sorted(shapes)
    assert by_part["backbone"]


def test_resnet_on_grey_images_takes_the_same_image_three_times() -> None:
    network = build(Config(model="resnet18"), size=32).eval()
    x_BCHW = torch.rand(2, 1, 32, 32)
    assert torch.equal(network(x_BCHW), network(x_BCHW.repeat(1, 3, 1, 1)))


def test_dropout_is_passed_on() -> None:
    network = models._without_memory(Config(model="alexnet", dropout=0.25), classes=10, channels=3, size=224)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


# --- parts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "trained"), [
    ("none", {"features", "classifier"}), ("backbone", {"classifier"}), ("classifier", {"features"}),
])
def test_freeze_and_set_train(part: str, trained: set[str]) -> None:
    network = build(dataclasses.replace(SMALL, dropout=0.5))
    models.freeze(network, part)
    models.set_train(network, part)
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == trained
    assert {name for name, child in network.named_children() if child.training} == trained


def test_a_frozen_backbone_keeps_its_statistics_and_its_outputs() -> None:
    network = build(SMALL)
    models.freeze(network, "backbone")
    models.set_train(network, "backbone")
    before = {name: value.clone() for name, value in network.features.state_dict().items()}  # type: ignore[union-attr]
    network(torch.rand(4, 1, 8, 8)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.features.state_dict().items())  # type: ignore[union-attr]


def test_a_dropout_before_the_head_stays_on_when_the_backbone_is_frozen() -> None:
    network = models._without_memory(Config(model="googlenet"), classes=10, channels=3, size=64)
    models.set_train(network, "backbone")
    assert network.dropout.training and network.fc.training and not network.inception5b.training  # type: ignore[union-attr]


def test_parts_of_torchvision_models() -> None:
    alexnet = models._without_memory(Config(model="alexnet"), classes=10, channels=3, size=224)
    assert {name.split(".")[0] for name in models.parts(alexnet)["backbone"]} == {"features"}
    resnet = models._without_memory(Config(model="resnet18"), classes=10, channels=3, size=224)
    assert models.parts(resnet)["classifier"] == ["fc.weight", "fc.bias"]


def test_a_frozen_backbone_of_a_cifar_resnet_needs_a_stem_that_was_trained() -> None:
    with pytest.raises(ConfigError, match='draws its first convolution anew .* would leave it untrained; .*"study:NAME"'):
        Config.from_dict({"model": "cifar_resnet34", "weights": "imagenet", "freeze": "backbone"})
    assert Config.from_dict({"model": "cifar_resnet34", "weights": "study:first", "freeze": "backbone"}).freeze == "backbone"


def test_bad_freezes() -> None:
    with pytest.raises(ConfigError, match="Linear has no layer of parameters that could be its classifier"):
        models.freeze(nn.Linear(2, 2), "backbone")
    with pytest.raises(ValueError, match='no part "head"; parts are: none, classifier, backbone'):
        models.freeze(build(SMALL), "head")
    with pytest.raises(ValueError, match="leaves nothing of Sequential to train"):
        models.freeze(nn.Sequential(nn.Linear(2, 2)), "classifier")
