"""Which names a configuration may use, and which parameters each of them reads.

This file needs no torch, so that a grid can be checked in milliseconds. A new optimizer, schedule, augmentation or model of
our own is one line here and one function in the file that builds it; data sets stand in `jobs/datasets.py`.

Every table maps a name to the parameters that only it (and its like) reads. A parameter that is named in a table but not read by
the chosen entry is *inactive*: it is null in the result tables, and setting it is a mistake that the grid reports.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.datasets import DATASETS

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
}


@functools.cache
def torchvision_models() -> dict[str, dict[str, object]]:
    """torchvision's classification models, from the catalogue that `python -m jobs.catalog` writes.

    Returns:
        name -> {"weights": {weights name: file URL}, "dropout": whether the builder takes a dropout probability,
        "parameters": how many numbers its weights are}.
    """
    return json.loads((Path(__file__).parent / "torchvision_models.json").read_text())  # type: ignore[no-any-return]


def model_names() -> tuple[str, ...]:
    """Every model a configuration may name: ours first, then torchvision's."""
    return (*OUR_MODELS, *torchvision_models())


def model_parameters(model: str) -> tuple[str, ...]:
    """The parameters that `model` reads beyond those every model has."""
    if model in OUR_MODELS:
        return OUR_MODELS[model]
    return ("dropout",) if torchvision_models()[model]["dropout"] else ()


def weights_names(model: str) -> tuple[str, ...]:
    """The values `weights` may take for `model`, apart from "study:NAME"."""
    if model in OUR_MODELS:
        return ("none",)
    return ("none", "imagenet", *torchvision_models()[model]["weights"])  # type: ignore[misc]


def weights_url(model: str, weights: str) -> str:
    """Where torchvision publishes `weights` of `model`; "imagenet" is the first version, which papers report.

    Raises:
        KeyError: the model has no weights of that name.
    """
    table: dict[str, str] = torchvision_models()[model]["weights"]  # type: ignore[assignment]
    return table["IMAGENET1K_V1" if weights == "imagenet" and "IMAGENET1K_V1" in table else
                 next(iter(table)) if weights == "imagenet" else weights]


def weights_path(model: str, weights: str, data: Path) -> Path | None:
    """The file under the data folder that `weights` needs; None for "none" and for "study:NAME", which is no download."""
    if weights == "none" or weights.startswith("study:"):
        return None
    return data / "weights" / weights_url(model, weights).rpartition("/")[2]


def parameter_count(config: Mapping[str, Any]) -> int | None:
    """About how many numbers a model's weights are, to foresee disk space: torchvision's own count with its ImageNet head; None for
    our networks, which are small."""
    model = config["model"]
    return None if model in OUR_MODELS else int(torchvision_models()[model]["parameters"])  # type: ignore[call-overload]


@functools.cache  # asked for every parameter of every trial
def readers(parameter: str) -> dict[str, tuple[str, ...]]:
    """Which entries read a parameter: {"optimizer": ("sgd",)}; empty when every configuration reads it."""
    found = {}
    for field, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augment", AUGMENTS)):
        names = tuple(name for name, reads in table.items() if parameter in reads)
        if names:
            found[field] = names
    models = tuple(name for name in model_names() if parameter in model_parameters(name))
    if models:
        found["model"] = models
    sets = tuple(name for name, spec in DATASETS.items() if parameter in spec.reads)
    if sets:
        found["dataset"] = sets
    return found
