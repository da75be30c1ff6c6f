"""One training run: every parameter with its type, default and bounds, and what the run is asked for.

`Config` holds the parameters that decide what is learned; its fields are the only legal keys of a grid, the columns `param_*` of
the tables and the words of every message. `Trial` is a config with a seed and a request (how many epochs, which epoch counts,
whether the test split is opened). This module imports no torch.
"""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs import datasets, registry

Value = bool | int | float | str
STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
"""What a study may be called; its folder is named after it."""


class ConfigError(ValueError):
    """A configuration that cannot be trained as written. `problems` holds (parameter, message), one for each mistake."""

    def __init__(self, problems: Iterable[tuple[str, str]]):
        self.problems = list(problems)
        super().__init__("; ".join(message for _, message in self.problems))


def _param(default: Value, doc: str, *, choices: tuple[str, ...] = (), low: float = -math.inf, high: float = math.inf,
           above: float = -math.inf) -> Any:
    """A field of Config. `low` and `high` are allowed themselves, `above` is not."""
    return field(default=default, metadata={"doc": doc, "choices": choices, "low": low, "high": high, "above": above})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Every parameter of one training run. All fields have defaults; `registry` says which are read under which choice."""

    dataset: str = _param("digits", "data set", choices=(*datasets.DATASETS, datasets.ANY_OWN))
    classes: str = _param("all", 'classes that are kept and numbered anew: "all", or a list such as "0-4" or "0,2,7-9"')
    train_images: int = _param(0, "training images kept, the same share of every class; 0 keeps all", low=0)
    val_fraction: float = _param(0.2, "share of the images not in the test split that validation gets", above=0, high=0.9)
    test_fraction: float = _param(0.2, "share of all images the test split gets, in data sets that come without one", above=0, high=0.9)
    split_seed: int = _param(0, "seed of the train/val/test split; not the trial's seed", low=0, high=2**31 - 1)
    image_size: int = _param(0, "side of the images in pixels as the model sees them; 0 is the data set's own", low=0, high=1024)
    augment: str = _param("none", "random changes to training images", choices=tuple(registry.AUGMENTS))

    model: str = _param("dynamic_cnn", "network", choices=registry.model_names())
    depth: int = _param(2, "convolution blocks; in plain_cnn convolution layers", low=1, high=64)
    filters: int = _param(16, "channels of the first convolution; each block doubles them, in plain_cnn all layers have as many", low=1,
                          high=4096)
    filters_2: int = _param(0, "channels of the second convolution; 0 is twice those of the first", low=0, high=4096)
    filters_3: int = _param(0, "channels of the third convolution; 0 is twice those of the second", low=0, high=4096)
    kernel_size: int = _param(3, "side of the convolution kernels in pixels", low=1, high=31)
    hidden: int = _param(64, "units of the hidden linear layer", low=1, high=65536)
    batch_norm: bool = _param(True, "batch normalisation between each convolution and its activation, over the whole global batch")
    dropout: float = _param(0.0, "dropout probability in the classifier", low=0, high=0.99)
    dropout_features: float = _param(0.0, "dropout probability after the activation of each convolution", low=0, high=0.99)
    weights: str = _param("none", 'where training starts: "none", "imagenet", one of torchvision\'s names, or "study:NAME"')
    freeze: str = _param("none", "part of the network that is not trained", choices=registry.PARTS)

    optimizer: str = _param("sgd", "optimizer", choices=tuple(registry.OPTIMIZERS))
    lr: float = _param(0.05, "learning rate at the start", above=0)
    momentum: float = _param(0.9, "momentum of sgd", low=0, high=0.9999)
    weight_decay: float = _param(0.0, "weight decay; decoupled in adamw", low=0)
    schedule: str = _param("none", "learning rate over the epochs", choices=tuple(registry.SCHEDULES))
    step_size: int = _param(10, "epochs between two steps of the step schedule", low=1)
    gamma: float = _param(0.1, "factor of each step of the step schedule", above=0, high=1)

    batch_size: int = _param(64, "images of one optimizer step, over all ranks together", low=1)
    epochs: int = _param(10, "epochs of the whole training, also the horizon of the schedule", low=1, high=100_000)
    patience: int = _param(0, "epochs without a better value of the study's metric before training stops; 0 never stops", low=0)
    precision: str = _param("fp32", "arithmetic: bf16 and fp16 are autocast", choices=registry.PRECISIONS)

    weights_digest: str = field(default="", metadata={"internal": True})
    """SHA-256 of the weights file behind weights = "study:NAME"; the launcher fills it in, so that the hash covers it."""

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Config":
        """A checked config from plain values, all mistakes at once.

        Raises:
            ConfigError: an unknown name, a wrong type, a value out of bounds, or values that do not go together.
        """
        problems, clean = [], {}
        known = {f.name for f in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                problems.append((name, f"unknown parameter `{name}`{nearest(name, PARAMETERS)}"))
                continue
            try:
                clean[name] = value if name == "weights_digest" else check_value(name, value)
            except ValueError as error:
                problems.append((name, f"{name}: {error}"))
        if problems:
            raise ConfigError(problems)
        config = cls(**clean)  # type: ignore[arg-type]
        if problems := check_together(config):
            raise ConfigError(problems)
        return config

    def as_dict(self) -> dict[str, Value]:
        """All parameters, defaults included, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # asdict copies deeply, at ten times the time

    def inactive(self) -> frozenset[str]:
        """The parameters this config does not read: `momentum` under adam, `depth` in a ResNet."""
        return frozenset(name for name in PARAMETERS if (read := registry.readers(name))
                         and not any(registry.entry(chooser, getattr(self, chooser)) in names for chooser, names in read.items()))


PARAMETERS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config) if not f.metadata.get("internal")}
"""The legal parameter names with their fields (type, default, metadata)."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one, and all of them when there are at most 40."""
    names = [str(v) for v in valid]
    lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    hint = f"; did you mean `{lower[close[0]]}`?" if close else ""
    return hint + (f" (valid: {', '.join(names)})" if len(names) <= 40 else f" ({len(names)} are valid: {', '.join(names[:5])}, …)")


def check_value(name: str, value: object) -> Value:
    """One value of one parameter as its own type (an int where a float is meant becomes a float).

    Raises:
        ValueError: wrong type, out of bounds, or not one of the choices; the text says what is allowed.
    """
    spec = PARAMETERS[name]
    kind = spec.type
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError("the number is too large") from None
    if type(value) is not kind:
        raise ValueError(f"{_KIND[kind]} is meant, not {_describe(value)}{_unquote(kind, value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value <= spec.metadata["above"]:
            raise ValueError(f"{value} is not above {spec.metadata['above']}")
        if not spec.metadata["low"] <= value <= spec.metadata["high"]:
            low, high = spec.metadata["low"], spec.metadata["high"]
            raise ValueError(f"{value} is below {low}" if high == math.inf else f"{value} is above {high}" if low == -math.inf
                             else f"{value} is outside {low} to {high}")
    choices = spec.metadata["choices"]
    if name == "dataset" and datasets.is_own(str(value)):
        datasets.check_name(str(value))
    elif name == "model" and (registry.is_timm(str(value)) or registry.is_function(str(value))):
        _check_timm(str(value))
    elif choices and value not in choices:
        raise ValueError(f"unknown {name} {json.dumps(value)}{nearest(str(value), choices)}")
    if name == "classes":
        parse_classes(str(value))
    if name == "weights":
        _check_source(str(value))
    return value  # type: ignore[return-value]


_KIND: dict[object, str] = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _describe(value: object) -> str:
    kind = {bool: "true/false", int: "the whole number", float: "the number", str: "the string", list: "a list", dict: "a table"}
    return f"{kind.get(type(value), type(value).__name__)} {json.dumps(value, default=str)}"[:80]


def _unquote(kind: object, value: object) -> str:
    if kind in (int, float) and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return f"; write {value} without quotes"
    if kind is str and isinstance(value, (int, float)):
        return f'; write "{value}" with quotes'
    return ""


def parse_classes(text: str) -> tuple[int, ...]:
    """The class numbers that "0-4" or "0,2,7-9" names, sorted; () for "all".

    Raises:
        ValueError: not such a list, a range that runs backwards, or fewer than two classes.
    """
    if text == "all":
        return ()
    chosen: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(part) < 20):
            raise ValueError(f'"{text}" is not a list of classes such as "0-4" or "0,2,7-9", nor "all"')
        if int(first) > int(last):
            raise ValueError(f'"{text}" has a range that runs backwards: {part.strip()}')
        chosen.update(range(int(first), min(int(last), int(first) + 100_000) + 1))
    if len(chosen) < 2:
        raise ValueError(f'"{text}" names {len(chosen)} class(es); a comparison needs at least 2')
    return tuple(sorted(chosen))


def _check_source(weights: str) -> None:
    """Raises ValueError when "study:NAME" names what no study can be called, such as a path to somewhere else."""
    prefix, colon, name = weights.partition(":")
    if prefix == "study" and colon and not STUDY_NAME.fullmatch(name):
        shown = json.dumps(weights if len(weights) <= 80 else f"{weights[:80]}…", ensure_ascii=False)
        raise ValueError(f'{shown} names no study: after "study:" comes the name of one beside this study. A study\'s name is lowercase '
                         "ASCII letters, digits, _ and -, begins with a letter or digit and has at most 64 characters")


def _check_timm(model: str) -> None:
    """Raises ValueError when a model is to be timm's and the timm that is installed does not have it. A tag of its weights, which comes
    after a point, is looked up where the weights are fetched and where the network is built."""
    if not registry.is_timm(model):
        return
    if not registry.timm_models():
        raise ValueError(f'{json.dumps(model)} needs timm, which is not installed here: `pip install .[timm]`')
    if model.partition(".")[0] not in registry.timm_models():
        raise ValueError(f"unknown model {json.dumps(model)} for the timm that is installed"
                         f"{nearest(model.partition('.')[0], sorted(registry.timm_models()))}")


def check_together(config: Config) -> list[tuple[str, str]]:
    """Values that are legal alone and not together: (parameter, message) for each."""
    problems = []
    valid = registry.weights_names(config.model)
    if not config.weights.startswith("study:") and config.weights not in valid:
        problems.append(("weights", f'model {config.model} has no weights "{config.weights}"'
                                    f'{nearest(config.weights, (*valid, "study:NAME"))}'))
    if config.model in registry.PUBLISHED_AS and config.freeze == "backbone" and config.weights in valid[1:]:
        problems.append(("freeze", f'{config.model} draws its first convolution anew where it starts from published weights, and '
                                   'freeze = "backbone" would leave it untrained; train all of it, or start from a "study:NAME"'))
    spec = datasets.spec(config.dataset)
    chosen = parse_classes(config.classes)
    if chosen and spec.classes and chosen[-1] >= spec.classes:
        problems.append(("classes", f"{config.dataset} has classes 0 to {spec.classes - 1}, not {chosen[-1]}"))
    if 0 < config.train_images < config.batch_size:
        problems.append(("batch_size", f"batch_size {config.batch_size} is more than the {config.train_images} images that train_images "
                                       f"keeps, so that there would be no step; {config.train_images} is the most"))
    return problems


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One config with one seed, and what is asked of it. Its JSON file is what `python -m jobs.train` takes."""

    config: dict[str, Any]
    """The parameters; `Config.from_dict` reads them in the built-in job, a job of the user's own reads them as it likes."""
    seed: int = 0
    """Initialisation, order of the data, augmentation and dropout follow from it."""
    budget: int | None = None
    """Epochs to train now, counted from the first; None is the whole of `config.epochs`. A larger budget goes on from a smaller one."""
    metric: str = "val_acc"
    """The column that decides which epoch is selected and when patience ends."""
    mode: str = "max"
    """"max" when more of the metric is better, "min" when less is."""
    select: str = "best_val"
    """The epoch whose row is the result: "best_val", the best by the metric, or "last"."""
    test: bool = True
    """Whether the test split is evaluated once, at the selected epoch, when the trial is over; not when only its budget is."""

    @classmethod
    def load(cls, path: Path) -> "Trial":
        """Reads a trial file; what the launcher notes in it besides (`NOTED`) is passed over.

        Raises:
            ConfigError: no such file, no JSON object, no "config" in it, an unknown key, or a request that cannot be meant.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError([("config", f"{path} cannot be read: {error.strerror}")]) from error
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError([("config", f"{path} is no JSON: {error}")]) from error
        if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
            raise ConfigError([("config", f'{path} must hold an object with a "config" object; see README.md, "Commands"')])
        legal = {"seed": lambda v: type(v) is int and v >= 0, "budget": lambda v: v is None or type(v) is int and v >= 1,
                 "metric": lambda v: isinstance(v, str), "mode": lambda v: v in ("max", "min"),
                 "select": lambda v: v in ("best_val", "last"), "test": lambda v: isinstance(v, bool)}
        known = [f.name for f in dataclasses.fields(cls)]
        wrong = [(name, f"{path}: {_unknown_key(name[:80], known)}") for name in data if name not in known and name not in NOTED]
        wrong += [(name, f"{path}: `{name}` cannot be {json.dumps(data[name])[:80]}{_MEANT.get(name, '')}")
                  for name, is_legal in legal.items() if name in data and not is_legal(data[name])]
        if wrong:
            raise ConfigError(wrong)
        return cls(**{f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data})

    def better(self, value: float, than: float | None) -> bool:
        """Whether one value of the metric is better than another; anything finite is better than None."""
        return math.isfinite(value) and (than is None or (value > than if self.mode == "max" else value < than))


NOTED = ("hash_version", "variant")
"""Keys of a trial's file that the launcher writes for whoever reads it; training does without them."""
_MEANT = {"budget": "; 1 epoch or more is meant, or null for all of them"}


def _unknown_key(key: str, known: Iterable[str]) -> str:
    home = f'; `{key}` is a parameter and goes into "config"' if key in PARAMETERS else nearest(key, known)
    return f"unknown key `{key}`{home}"


def metric_mode(metric: str) -> str:
    """"min" for losses, "max" otherwise."""
    return "min" if metric.endswith("loss") else "max"


METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "lr")
"""What the built-in job reports after every epoch; fractions, never percent."""
TEST_METRICS = ("test_loss", "test_acc")
"""What the built-in job reports once, at the selected epoch."""
