"""Starting a network from a weights file: torchvision's published ones, or the checkpoint of an earlier study; and a trial's own.

The head (the layer that counts the classes) is always new where training starts; everything else must fit in name and shape, so that a
checkpoint of another model cannot load in part and train on as if nothing had happened. The CIFAR ResNets draw their stem and
all of their head anew where they start from torchvision's file of a ResNet.
"""

import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs import durable
from jobs.config import Config
from jobs.registry import PUBLISHED_AS, is_timm

_SIDE_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",), **dict.fromkeys(PUBLISHED_AS, ("fc.",))}
"""Parts of torchvision's files that only its own training recipe used, or that ours replaces; the networks are built without them."""
_NEW = dict.fromkeys(PUBLISHED_AS, ("conv1.", "fc."))
"""Parts of our networks that no published file has in their shape."""


class WeightsError(RuntimeError):
    """A weights file that is missing, damaged or another model's: the text names the file and what to do."""


def load_weights(model: nn.Module, path: Path | None, *, config: Config, head: Collection[str],
                 resized: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None) -> None:
    """Copies the weights file at `path` into `model`, except the parameters in `head`, which stay as initialised.

    Args:
        resized: makes weights of the right names fit the size of the images; asked where shapes differ.

    Raises:
        WeightsError: no such file, a wrong checksum, not a weights file, or names and shapes that do not fit.
    """
    remedy, study = _remedy(config), config.weights.startswith("study:")
    if path is None or not path.is_file():
        raise WeightsError(f'weights = "{config.weights}" of {config.model}: there is no file {path or "given"}; {remedy}')
    _check_digest(path, config)
    if not study and is_timm(config.model):
        check_sums(path, remedy)  # its name holds no digest
    state = _read(path, ours=study or is_timm(config.model), remedy=remedy)
    if config.model.startswith("densenet"):  # torchvision's files are older than its names: denselayer1.norm.1 is norm1 today
        for name in list(state):
            state[re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)] = state.pop(name)
    beside = () if study else _SIDE_HEADS.get(config.model, ())
    new = {*head, *(name for name in model.state_dict() if not study and name.startswith(_NEW.get(config.model, ())))}
    for name in new:
        state.pop(name, None)
    shapes = {name: value.shape for name, value in model.state_dict().items() if name not in new}
    if resized and state.keys() == shapes.keys() and any(value.shape != shapes[name] for name, value in state.items()):
        try:
            state = {name: value for name, value in resized(state).items() if name not in new}
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit images of this size: {str(error).splitlines()[-1].strip()}") from error
    problems = _copy(model, _versioned(state, model) if study else state, head=new, beside=beside)
    if problems:
        raise WeightsError(f"{path} is a checkpoint of another model than {config.model} with these parameters or image size: "
                           f"{_first(problems)}. Only the last layer may differ; make the two alike, or choose other `weights`")


def load_selected(model: nn.Module, path: Path) -> None:
    """Copies all that a trial kept as its selected.pt into `model`, which is the trial's own.

    Raises:
        WeightsError: no such file, one that is damaged (a single bit is enough), or another model's.
    """
    remedy = "the trial must be trained again before the test split can be evaluated: remove its folder and launch its study again"
    if not path.is_file():
        raise WeightsError(f"there is no file {path}: the trial is not over, or its weights were removed; {remedy}")
    check_sums(path, remedy)
    if problems := _copy(model, _versioned(_read(path, ours=True, remedy=remedy), model)):
        raise WeightsError(f"{path} holds the weights of another network than the trial's: {_first(problems)}; {remedy}")


def published_digest(file_name: str) -> str:
    """The start of the SHA-256 that torchvision's file names carry (`alexnet-owt-7be5be79.pth`); "" when there is none."""
    found = re.search(r"-([0-9a-f]{8,64})\.pth$", file_name)
    return found[1] if found else ""


def _check_digest(path: Path, config: Config) -> None:
    expected = config.weights_digest if config.weights.startswith("study:") else published_digest(path.name)
    if not expected:
        return
    found = durable.sha256_of(path)
    if not found.startswith(expected):
        raise WeightsError(f"{path} is damaged or another file: its SHA-256 starts with {found[:len(expected)]}, expected {expected}; "
                           f"{_remedy(config)}")


def check_sums(path: Path, remedy: str) -> None:
    """Compares each part of a file that torch.save wrote, a zip archive, with its CRC-32, which torch.load does not look at.

    Raises:
        WeightsError: no such archive, or one that is damaged; the text ends with `remedy`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
        raise WeightsError(f"{path} cannot be read as weights ({type(error).__name__}: {error}); {remedy}") from error
    if broken:
        raise WeightsError(f"{path} is damaged: its part {broken} does not match its checksum; {remedy}")


def _read(path: Path, *, ours: bool, remedy: str) -> dict[str, Tensor]:
    """The file's state dict; `ours` is one that a trial kept, under the key "model"."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise nearly anything: zip, pickle, key and decoding errors
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(f"{path} cannot be read as weights ({type(error).__name__}: {reason}); {remedy}") from error
    if ours:
        state = state.get("model") if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError(f"{path} holds no weights; {remedy}")
    return state


def _versioned(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The same with the version of each module: we save plain dicts, and without them MNASNet refuses to load."""
    state = OrderedDict(state)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return state


def _copy(model: nn.Module, state: dict[str, Tensor], *, head: Collection[str] = (), beside: tuple[str, ...] = ()) -> list[str]:
    """Copies a state dict into `model`; what does not fit, without what `head` leaves out and what begins with `beside`."""
    try:
        fit = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # strict=False still refuses wrong shapes: one line for each
        return [line.strip() for line in str(error).splitlines()[1:]]
    return [*(f"{name} is missing" for name in fit.missing_keys if name not in head),
            *(f"{name} is not in the model" for name in fit.unexpected_keys if not name.startswith(beside))]


def _first(problems: list[str]) -> str:
    return "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")


def _remedy(config: Config) -> str:
    if config.weights.startswith("study:"):
        return f'run the study "{config.weights.removeprefix("study:")}" first, then launch this one again'
    return "run `python -m harness.stage GRID` where there is internet"
