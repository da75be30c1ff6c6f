"""Networks by name: ours, torchvision's, timm's and the user's own, checked before they are built, with a new head and parts that can be
frozen.

    python -m jobs.models --describe config.json      each layer's output shape and parameter count

`config.json` is a trial's file: `{"config": {"model": "resnet18", ...}}`. A parameter `dropout` that torchvision's class accepts is
always passed on: with the default of 0 AlexNet trains without the dropout of 0.5 it was published with. In Swin and vision transformers
torchvision applies it inside the blocks too. Networks of torchvision and timm see a grey image as three equal channels.

A network of the user's own is a function `model = "package.module:function"` that is called as function(config, classes=, channels=,
size=) and returns an nn.Module: images (B, channels, size, size) -> logits (B, classes). It may read any of the model's parameters from
`config`. It is called several times for one trial, so it should do nothing but build; its class need not know of ranks, devices or
freezing. It raises `Infeasible` for parameters that cannot be built.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs import timm_models
from jobs.batch_norm import across_ranks
from jobs.cnns import NETWORKS
from jobs.config import Config, ConfigError, Trial, nearest
from jobs.data import class_count, data_folder, model_size
from jobs.datasets import spec
from jobs.layers import Infeasible, Layer, table, trace, without_memory
from jobs.registry import is_function, is_timm, model_parameters
from jobs.weights import WeightsError, load_weights

__all__ = ["Infeasible", "WeightsError", "build", "classifier", "describe", "freeze", "parts", "set_train", "warm_up"]


def build(config: Config, *, classes: int, channels: int, size: int, weights_file: Path | None = None) -> nn.Module:
    """The config's network for `channels` x `size` x `size` images: (B, C, H, W) float -> logits (B, classes).

    Parameters are drawn from torch's global generator (seed it first), then overwritten from `weights_file` where `config.weights`
    is not "none", the head excepted. With several ranks batch norm is over the global batch. Nothing is frozen yet.

    Raises:
        Infeasible: a feature map shrinks below 1x1, or the network refuses these images; nothing was drawn or allocated.
        WeightsError: a weights file that is missing, damaged, or another model's.
        ConfigError: a network of timm's or the user's own that is not there, or that is no classifier of these images.
    """
    sizes = {"classes": classes, "channels": channels, "size": size}
    trace(_without_memory(config, **sizes), **sizes)
    model = _network(config, **sizes)
    if config.weights != "none":
        resized = functools.partial(timm_models.resized, config=config, classes=classes, size=size) if is_timm(config.model) else None
        load_weights(model, weights_file, config=config, head=_head(config, **sizes), resized=resized)
    return across_ranks(model)


def parts(model: nn.Module) -> dict[str, list[str]]:
    """Parameter names by part: {"classifier": [...], "backbone": [...]}.

    The classifier is the last direct child that has parameters (`classifier` in AlexNet, `fc` in a ResNet, `heads` in a ViT), whole;
    a test holds that against where the class count stands, for every model. In a network of timm, and any other with its method
    `get_classifier`, it is what that returns. The backbone is all the rest.

    Raises:
        ConfigError: the network has no such child.
    """
    prefixes = tuple(f"{name}." for name in _classifiers(model))
    names = [name for name, _ in model.named_parameters()]
    return {"classifier": [name for name in names if name.startswith(prefixes)],
            "backbone": [name for name in names if not name.startswith(prefixes)]}


def freeze(model: nn.Module, part: str) -> None:
    """Takes a part ("none", "backbone", "classifier") out of training: its parameters get no gradients. Before DDP and the optimizer.

    Raises:
        ConfigError: no such part, or nothing would be left to train.
    """
    if part == "none":
        return
    by_part = parts(model)
    if part not in by_part:
        raise ConfigError([("freeze", f'there is no part "{part}"; parts are: none, {", ".join(by_part)}')])
    frozen = set(by_part[part])
    if not any(p.requires_grad for name, p in model.named_parameters() if name not in frozen):
        raise ConfigError([("freeze", f'freeze = "{part}" leaves nothing of {type(model).__name__} to train')])
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def set_train(model: nn.Module, part: str) -> None:
    """Training mode, except in the frozen part: its batch norm statistics stay and its dropout is off. Call it before every epoch.

    What has no parameters and stands beside the classifier (GoogLeNet's dropout before its head) belongs to neither part and stays in
    training mode.
    """
    model.train()
    if part == "none":
        return
    classifiers = _classifiers(model)
    frozen = classifiers if part == "classifier" else _beside(model, classifiers)
    for name in frozen:
        model.get_submodule(name).eval()


def describe(config: Config) -> list[Layer]:
    """Every layer of the config's network with output shape and parameter counts, after freezing; opens no data.

    Raises:
        Infeasible: as `build`; its `layers` are those before the one that failed.
        ConfigError: only a user's own folder of images tells how many classes there are, and it is not there.
    """
    classes, channels, size = class_count(config, data_folder()), spec(config.dataset).shape[2], model_size(config)
    model = _without_memory(config, classes=classes, channels=channels, size=size)
    freeze(model, config.freeze)
    return trace(model, classes=classes, channels=channels, size=size)


def warm_up(config: Config) -> None:
    """Imports what the config's network is built from, for a process that forks later and therefore must not compute; what goes wrong is
    left for `build` to say."""
    with contextlib.suppress(Exception):
        if is_function(config.model):
            importlib.import_module(config.model.partition(":")[0])
        elif is_timm(config.model):
            importlib.import_module("timm")
        else:
            describe(config)


def classifier(model: nn.Module) -> nn.Module:
    """The part that counts the classes, the first where a network has two; see `parts`."""
    return model.get_submodule(_classifiers(model)[0])


def _classifiers(model: nn.Module) -> list[str]:
    """The names of the modules that count the classes: one, or two in networks that learn from a teacher besides (DeiT)."""
    if callable(own := getattr(model, "get_classifier", None)):
        told = own()
        modules = list(told) if isinstance(told, (tuple, list, nn.ModuleList)) else [told]
        found = [name for name, module in model.named_modules() if name and any(module is m for m in modules) and _has_parameters(module)]
    else:
        found = [name for name, child in model.named_children() if _has_parameters(child)][-1:]
    if not found:
        raise ConfigError([("freeze", f"{type(model).__name__} has no layer of parameters that could be its classifier")])
    return found


def _beside(module: nn.Module, names: list[str], prefix: str = "") -> list[str]:
    """The largest submodules with parameters that hold none of the named ones."""
    found = []
    for name, child in module.named_children():
        path = prefix + name
        if any(other.startswith(f"{path}.") for other in names):
            found += _beside(child, names, f"{path}.")
        elif path not in names and _has_parameters(child):
            found.append(path)
    return found


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _head(config: Config, *, classes: int, channels: int, size: int) -> set[str]:
    """Names of the parameters whose shape follows the number of classes."""
    ours = _without_memory(config, classes=classes, channels=channels, size=size)
    one_more = dict(_without_memory(config, classes=classes + 1, channels=channels, size=size).named_parameters())
    return {name for name, parameter in ours.named_parameters() if name not in one_more or parameter.shape != one_more[name].shape}


def _without_memory(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network on the meta device, drawing nothing from torch's generator. A function of the user's own may compute what that device
    cannot, so its network is on the CPU."""
    if config.model == "dynamic_cnn":
        # Halving more often than the side allows fails at the same layer, however deep: spare the widths beyond, which double each time.
        config = dataclasses.replace(config, depth=min(config.depth, size.bit_length()))
    own = is_function(config.model)
    with torch.random.fork_rng(devices=[]), contextlib.nullcontext() if own else without_memory():
        model = _network(config, classes=classes, channels=channels, size=size)
        return model if own else model.to("meta")


def _network(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    if config.model in NETWORKS:
        return NETWORKS[config.model](config, classes=classes, channels=channels, size=size)
    if is_function(config.model):
        return _own_network(config, classes=classes, channels=channels, size=size)
    if is_timm(config.model):
        model = timm_models.create(config, classes=classes, size=size)
    else:
        import torchvision

        try:
            model = torchvision.models.get_model(config.model, **_torchvision_options(config, classes=classes, size=size))
        except (ValueError, AssertionError) as error:  # vision transformers compare the image's size with that of their patches
            raise Infeasible(f"{config.model} cannot be built for {size}x{size} images: {str(error).splitlines()[0]}") from error
    if channels == 1:
        model.register_forward_pre_hook(_grey_to_rgb)
    return model


def _own_network(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    """What the user's own function makes; what goes wrong inside it is raised as it is."""
    module_name, _, function_name = config.model.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError([("model", f"{config.model}: the module {module_name} cannot be imported ({error}); the folder that holds it "
                                     "must be the working directory or on PYTHONPATH")]) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError([("model", f"{config.model}: {module.__file__} has no function `{function_name}`"
                                     f"{nearest(function_name, names)}")])
    model = function(config, classes=classes, channels=channels, size=size)
    if not isinstance(model, nn.Module):
        raise ConfigError([("model", f"{config.model} returned a {type(model).__name__}, and a torch.nn.Module is meant")])
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
