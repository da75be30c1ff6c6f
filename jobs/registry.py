"""Which names a configuration may use, and which parameters each of them reads.

This file needs no torch, so that a grid can be checked in milliseconds. A new optimizer, schedule, augmentation or model of
our own is one line here and one function in the file that builds it; data sets stand in `jobs/datasets.py`.

Every table maps a name to the parameters that only it (and its like) reads. A parameter that is named in a table but not read by
the chosen entry is *inactive*: it is null in the result tables, and setting it is a mistake that the grid reports.
"""

import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.datasets import ANY_OWN, DATASETS, is_own

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": (),
    "adamw": (),
}

SCHEDULES: dict[str, tuple[str, ...]] = {
    "none": (),
    "step": ("step_size", "gamma"),
    "cosine": (),
}

AUGMENTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "flip": (),
    "crop_flip": (),
    "crop_flip_rotate": (),
    "imagenet": (),
}

PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
PARTS = ("none", "backbone", "classifier")

OUR_MODELS: dict[str, tuple[str, ...]] = {
    "dynamic_cnn": ("depth", "filters", "kernel_size", "hidden", "batch_norm", "dropout"),
    "simple_cnn": ("filters", "filters_2", "filters_3", "batch_norm", "dropout"),
    "plain_cnn": ("depth", "filters", "kernel_size", "hidden", "batch_norm", "dropout", "dropout_features"),
    "cifar_resnet18": ("dropout",),
    "cifar_resnet34": ("dropout",),
}

PUBLISHED_AS = {"cifar_resnet18": "resnet18", "cifar_resnet34": "resnet34"}
"""Networks of ours that can start from torchvision's weights of another, all but their first convolution and their head."""

TIMM = "timm:"
"""What the name of a model begins with that timm builds: "timm:resnet18", or with a tag of its weights "timm:resnet18.a1_in1k"."""
ANY_TIMM, ANY_FUNCTION = f"{TIMM}NAME", "package.module:function"
"""How messages and tables speak of all models of timm, and of all functions of the user's own that build one."""

_TIMM_NAME = re.compile(rf"{TIMM}\w+(\.\w+)?", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_timm(model: str) -> bool:
    """Whether a model is one of timm's, by the form of its name."""
    return _TIMM_NAME.fullmatch(model) is not None


def is_function(model: str) -> bool:
    """Whether a model is a function of the user's own, by the form of its name."""
    return not model.startswith(TIMM) and _FUNCTION.fullmatch(model) is not None


@functools.cache
def torchvision_models() -> dict[str, dict[str, object]]:
    """torchvision's classification models, from the catalogue that `python -m jobs.catalog` writes.

    Returns:
        name -> {"weights": {weights name: file URL}, "dropout": whether the builder takes a dropout probability,
        "parameters": how many numbers its weights are}.
    """
    return json.loads((Path(__file__).parent / "torchvision_models.json").read_text())  # type: ignore[no-any-return]


@functools.cache
def timm_models() -> frozenset[str]:
    """The architectures of the timm that is installed, as "timm:resnet18"; empty where it is not.

    They are read from its source, in 0.1 s: importing timm loads torch and takes 3 s. A test compares them with `timm.list_models`.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    files = (Path(spec.origin).parent / "models").rglob("*.py")
    register = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
    return frozenset(TIMM + name for file in files for name in register.findall(file.read_text(encoding="utf-8")))


def model_names() -> tuple[str, ...]:
    """What a configuration may name as its model: ours first, then torchvision's, then what stands for the others (`entry`)."""
    return (*OUR_MODELS, *torchvision_models(), ANY_TIMM, ANY_FUNCTION)


def model_parameters(model: str) -> tuple[str, ...]:
    """The parameters that `model` reads beyond those every model has; a function of the user's own may read any of them."""
    if model in OUR_MODELS:
        return OUR_MODELS[model]
    if is_function(model):
        return tuple(dict.fromkeys(name for reads in OUR_MODELS.values() for name in reads))
    return ("dropout",) if is_timm(model) or torchvision_models()[model]["dropout"] else ()


def weights_names(model: str) -> tuple[str, ...]:
    """The values `weights` may take for `model`, apart from "study:NAME"."""
    if is_timm(model):
        return ("none", "imagenet")
    published = torchvision_models().get(PUBLISHED_AS.get(model, model))
    return ("none", "imagenet", *published["weights"]) if published else ("none",)  # type: ignore[misc]


def weights_url(model: str, weights: str) -> str:
    """Where torchvision publishes `weights` of `model`; "imagenet" is the first version, which papers report.

    Raises:
        KeyError: the model has no weights of that name there.
    """
    table: dict[str, str] = torchvision_models()[PUBLISHED_AS.get(model, model)]["weights"]  # type: ignore[assignment]
    return table["IMAGENET1K_V1" if weights == "imagenet" and "IMAGENET1K_V1" in table else
                 next(iter(table)) if weights == "imagenet" else weights]


def weights_path(model: str, weights: str, data: Path) -> Path | None:
    """The file under the data folder that `weights` needs; None for "none" and for "study:NAME", which is no download."""
    if weights == "none" or weights.startswith("study:"):
        return None
    name = f"timm-{model.removeprefix(TIMM)}.pt" if is_timm(model) else weights_url(model, weights).rpartition("/")[2]
    return data / "weights" / name


def parameter_count(config: Mapping[str, Any]) -> int | None:
    """About how many numbers a model's weights are, to foresee disk space: torchvision's own count with its ImageNet head. None where
    it is not known: for our small networks, and for timm's and the user's own, which would have to be built."""
    published = torchvision_models().get(PUBLISHED_AS.get(config["model"], config["model"]))
    return int(published["parameters"]) if published else None  # type: ignore[call-overload]


@functools.cache  # asked for every parameter of every trial
def readers(parameter: str) -> dict[str, tuple[str, ...]]:
    """Which entries read a parameter: {"optimizer": ("sgd",)}; empty when every configuration reads it."""
    found: dict[str, tuple[str, ...]] = {}
    for field, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augment", AUGMENTS)):
        names = tuple(name for name, reads in table.items() if parameter in reads)
        if names:
            found[field] = names
    models = tuple(name for name in model_names() if parameter in model_parameters(name))
    if models:
        found["model"] = models
    sets = tuple(name for name, spec in DATASETS.items() if parameter in spec.reads)
    if sets:
        found["dataset"] = (*sets, ANY_OWN)  # whether the user's folder has a test split of its own is seen when it is there
    return found


def entry(chooser: str, value: object) -> object:
    """What a value is called in `readers`: every data set of a user's own is "folder:NAME" there, every model of timm "timm:NAME", and
    every function of the user's own that builds a model "package.module:function"."""
    if chooser == "dataset" and is_own(str(value)):
        return ANY_OWN
    if chooser == "model" and (is_timm(str(value)) or is_function(str(value))):
        return ANY_TIMM if is_timm(str(value)) else ANY_FUNCTION
    return value
