"""Networks of timm (https://github.com/huggingface/pytorch-image-models), when it is installed: `model = "timm:NAME"`.

A name is an architecture, "timm:resnet18", or one with a tag of its weights, "timm:resnet18.a1_in1k". Without a tag, weights = "imagenet"
are those that the installed timm takes by default, which another version may change. Trials download nothing: `python -m harness.stage`
fetches weights into one file, which holds {"model": state dict, "source": what timm calls it}.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jobs.config import Config, ConfigError, nearest
from jobs.layers import Infeasible
from jobs.registry import TIMM


def create(config: Config, *, classes: int, size: int, **more: Any) -> nn.Module:
    """The config's network for RGB images of `size` x `size` pixels; `dropout` is timm's `drop_rate`, before the last layer.

    Args:
        more: further arguments of `timm.create_model`.

    Raises:
        ConfigError: timm is not installed, has no weights of that tag, or the network is no classifier.
        Infeasible: timm refuses images of this size.
    """
    timm, published = _published(config.model)
    if published is not None and published.fixed_input_size:
        more["img_size"] = size
    try:
        network: nn.Module = timm.create_model(config.model.removeprefix(TIMM), num_classes=classes, drop_rate=config.dropout, **more)
    except TypeError as error:
        raise ConfigError([("model", f"{config.model} is no classifier of images with a dropout probability: {error}")]) from error
    except (ValueError, AssertionError) as error:
        raise Infeasible(f"{config.model} cannot be built for {size}x{size} images: {str(error).partition(chr(10))[0]}") from error
    return network


def resized(state: Mapping[str, Tensor], config: Config, *, classes: int, size: int) -> dict[str, Tensor]:
    """The same weights for images of `size` x `size` pixels: timm's own loader resamples what depends on it, such as the embeddings of
    positions. The head is left out.

    Raises:
        RuntimeError: timm cannot.
    """
    # A network with one class more is what the weights are said to come from, so that timm never takes their head.
    source = {"state_dict": dict(state), "num_classes": classes + 1}
    with torch.random.fork_rng(devices=[]):
        return create(config, classes=classes, size=size, pretrained=True, pretrained_cfg_overlay=source).state_dict()


def download(model: str, cache: str) -> tuple[dict[str, Tensor], str]:
    """The weights that timm publishes for a model, as the state of its network, and what timm calls them. Only staging calls it.

    Args:
        cache: folder that timm's files are downloaded to.

    Raises:
        ConfigError: timm is not installed, or has no weights of that name.
        Exception: they cannot be fetched; timm and the hub's client have no common class of errors.
    """
    timm, published = _published(model)
    if published is None or not published.has_weights:
        names = [TIMM + name for name in timm.list_models(pretrained=True)]
        raise ConfigError([("weights", f"timm publishes no weights of {model}{nearest(model, names)}")])
    network = timm.create_model(model.removeprefix(TIMM), pretrained=True, cache_dir=cache)
    known = network.pretrained_cfg
    tag = f".{known['tag']}" if known.get("tag") else ""
    return network.state_dict(), f"{known['architecture']}{tag} of timm {timm.__version__}"


def _published(model: str) -> tuple[Any, Any]:
    """The module timm, and what it knows of the weights of a model: None where it has never had any.

    Raises:
        ConfigError: timm is not installed, or has no weights of that tag.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError([("model", f"{model} needs timm, which cannot be imported here ({error}): `pip install .[timm]`")]) from error
    name = model.removeprefix(TIMM)
    try:
        return timm, timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [TIMM + tagged for tagged in timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)]
        raise ConfigError([("model", f"{model}: {error}{nearest(model, tags)}")]) from error
