"""Networks by name: ours and torchvision's, checked before they are built, with a new head and parts that can be frozen.

    python -m jobs.models --describe config.json      each layer's output shape and parameter count

`config.json` is a trial's file: `{"config": {"model": "resnet18", ...}}`. A parameter `dropout` that torchvision's class accepts is
always passed on: with the default of 0 AlexNet trains without the dropout of 0.5 it was published with. In Swin and vision transformers
torchvision applies it inside the blocks too.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jobs.batch_norm import across_ranks
from jobs.cnns import NETWORKS
from jobs.config import Config, ConfigError, Trial, parse_classes
from jobs.data import model_size
from jobs.datasets import DATASETS
from jobs.layers import Infeasible, Layer, table, trace, without_memory
from jobs.registry import model_parameters
from jobs.weights import WeightsError, load_weights

__all__ = ["Infeasible", "WeightsError", "build", "describe", "freeze", "parts", "set_train"]


def build(config: Config, *, classes: int, channels: int, size: int, weights_file: Path | None = None) -> nn.Module:
    """The config's network for `channels` x `size` x `size` images: (B, C, H, W) float -> logits (B, classes).

    Parameters are drawn from torch's global generator (seed it first), then overwritten from `weights_file` where `config.weights`
    is not "none", the head excepted. With several ranks batch norm is over the global batch. Nothing is frozen yet.

    Raises:
        Infeasible: a feature map shrinks below 1x1, or the network refuses these images; nothing was drawn or allocated.
        WeightsError: a weights file that is missing, damaged, or another model's.
    """
    sizes = {"classes": classes, "channels": channels, "size": size}
    trace(_without_memory(config, **sizes), channels=channels, size=size)
    model = _network(config, **sizes)
    if config.weights != "none":
        load_weights(model, weights_file, config=config, head=_head(config, **sizes))
    return across_ranks(model)


def parts(model: nn.Module) -> dict[str, list[str]]:
    """Parameter names by part: {"classifier": [...], "backbone": [...]}.

    The classifier is the last direct child that has parameters (`classifier` in AlexNet, `fc` in a ResNet, `heads` in a ViT), whole;
    a test holds that against where the class count stands, for every model. The backbone is all the rest.
    """
    prefix = _classifier(model) + "."
    names = [name for name, _ in model.named_parameters()]
    return {"classifier": [name for name in names if name.startswith(prefix)],
            "backbone": [name for name in names if not name.startswith(prefix)]}


def freeze(model: nn.Module, part: str) -> None:
    """Takes a part ("none", "backbone", "classifier") out of training: its parameters get no gradients. Before DDP and the optimizer.

    Raises:
        ValueError: no such part, or nothing would be left to train.
    """
    if part == "none":
        return
    by_part = parts(model)
    if part not in by_part:
        raise ValueError(f'there is no part "{part}"; parts are: none, {", ".join(by_part)}')
    frozen = set(by_part[part])
    if not any(p.requires_grad for name, p in model.named_parameters() if name not in frozen):
        raise ValueError(f'freeze = "{part}" leaves nothing of {type(model).__name__} to train')
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def set_train(model: nn.Module, part: str) -> None:
    """Training mode, except in the frozen part: its batch norm statistics stay and its dropout is off. Call it before every epoch.

    Direct children without parameters (GoogLeNet's dropout before its head) belong to neither part and stay in training mode.
    """
    model.train()
    if part == "none":
        return
    classifier = _classifier(model)
    for name, child in model.named_children():
        if (name == classifier) == (part == "classifier") and any(True for _ in child.parameters()):
            child.eval()


def describe(config: Config) -> list[Layer]:
    """Every layer of the config's network with output shape and parameter counts, after freezing; opens no data.

    Raises:
        Infeasible: as `build`; its `layers` are those before the one that failed.
    """
    spec = DATASETS[config.dataset]
    classes, channels, size = len(parse_classes(config.classes)) or spec.classes, spec.shape[2], model_size(config)
    model = _without_memory(config, classes=classes, channels=channels, size=size)
    freeze(model, config.freeze)
    return trace(model, channels=channels, size=size)


def _classifier(model: nn.Module) -> str:
    return [name for name, child in model.named_children() if any(True for _ in child.parameters())][-1]


def _head(config: Config, *, classes: int, channels: int, size: int) -> set[str]:
    """Names of the parameters whose shape follows the number of classes."""
    ours = _without_memory(config, classes=classes, channels=channels, size=size)
    one_more = dict(_without_memory(config, classes=classes + 1, channels=channels, size=size).named_parameters())
    return {name for name, parameter in ours.named_parameters() if parameter.shape != one_more[name].shape}


def _without_memory(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network on the meta device, drawing nothing from torch's generator."""
    if config.model == "dynamic_cnn":
        # Halving more often than the side allows fails at the same layer, however deep: spare the widths beyond, which double each time.
        config = dataclasses.replace(config, depth=min(config.depth, size.bit_length()))
    with without_memory():
        return _network(config, classes=classes, channels=channels, size=size).to("meta")


def _network(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    if config.model in NETWORKS:
        return NETWORKS[config.model](config, classes=classes, channels=channels, size=size)
    import torchvision

    try:
        model: nn.Module = torchvision.models.get_model(config.model, **_torchvision_options(config, classes=classes, size=size))
    except (ValueError, AssertionError) as error:  # vision transformers compare the image's size with that of their patches
        raise Infeasible(f"{config.model} cannot be built for {size}x{size} images: {str(error).splitlines()[0]}") from error
    if channels == 1:
        model.register_forward_pre_hook(_grey_to_rgb)
    return model


def _torchvision_options(config: Config, *, classes: int, size: int) -> dict[str, Any]:
    """Arguments of the torchvision builder beyond its defaults."""
    options: dict[str, Any] = {"num_classes": classes}
    if "dropout" in model_parameters(config.model):
        options["dropout"] = config.dropout
    if config.model in ("googlenet", "inception_v3"):
        # Their published weights want transform_input (a fixed shift and scale per channel); the same in every study, so that one can
        # start from another.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    if config.model.startswith("vit_"):
        options["image_size"] = size
    if config.model.startswith("maxvit"):
        options["input_size"] = (size, size)
    return options


def _grey_to_rgb(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Repeats a grey image three times, for networks whose first layer reads RGB."""
    return (inputs[0].expand(-1, 3, -1, -1),)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 1 for an infeasible network, 2 for a bad file."""
    parser = argparse.ArgumentParser(prog="python -m jobs.models", description="Shows a network layer by layer, without data or training.")
    parser.add_argument("--describe", metavar="CONFIG.JSON", type=Path, required=True, help='trial file: {"config": {...}}')
    path = parser.parse_args(arguments).describe
    try:
        config = Config.from_dict(Trial.load(path).config)
        print(table(describe(config)))
    except (ConfigError, OSError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    except Infeasible as error:
        print(table(error.layers))
        print(f"\ninfeasible: {error.reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
