"""What each layer of a network makes of an image, found without computing anything: one forward pass on torch's meta device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from jobs.config import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer as it ran."""

    name: str
    """Path in the network, such as "features.3"; "" is the network itself, where it holds parameters of its own."""
    kind: str
    """Class name."""
    shape: tuple[int, ...]
    """Output shape without the batch."""
    parameters: int
    """Numbers it holds; 0 when the layer ran before, parameters being counted once."""
    trained: int
    """Those of them that are not frozen."""


class Infeasible(Exception):
    """A network that cannot be built for these images: a result of the trial, not a failure. The text names layer and sizes."""

    def __init__(self, reason: str, layers: Iterable[Layer] = ()):
        super().__init__(reason)
        self.reason = reason
        self.layers = list(layers)
        """The layers that still worked."""


class _ParametersOnMeta(TorchFunctionMode):
    """Makes parameters and buffers on the meta device, while small helper tensors (linspace, arange) stay real.

    `torch.device("meta")` would move those too, and torchvision's RegNets read numbers back from theirs.
    """

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def without_memory() -> TorchFunctionMode:
    """A context in which networks are constructed without allocating or drawing their parameters; follow it by `.to("meta")`."""
    return _ParametersOnMeta()


def trace(model: nn.Module, *, channels: int, size: int, classes: int = 0) -> list[Layer]:
    """The layers of a network in the order they run on an image of `size` x `size` pixels, on the meta device where the network is there.

    A layer is a module without children, or one that holds parameters itself; the parameters of children that it uses without
    calling them (attention) count as its own.

    Raises:
        Infeasible: a layer refuses its input, or a feature map ends up empty.
        ConfigError: what comes out for a batch is not one number for each of `classes` classes (0 does not look).
    """
    recorder = _Recorder(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image_BCHW = torch.zeros(2, channels, size, size, device=device)
    try:
        with torch.no_grad():
            logits = model.eval()(image_BCHW)
    except NotImplementedError:  # an operator without shape rule is our gap, not the network's
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise Infeasible(recorder.why(error), recorder.layers) from error
    finally:
        recorder.remove()
    if classes and (not isinstance(logits, Tensor) or logits.shape != (2, classes)):
        found = f"a tensor of shape {_by(tuple(logits.shape))}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ConfigError([("model", f"{type(model).__name__} makes {found} of a batch of 2 images, and 2x{classes} logits are meant, "
                                     f"one for each of {classes} classes")])
    return recorder.layers


class _Recorder:
    """Hooks on every module of a network: the layers that ran, and the stack of modules that are running."""

    def __init__(self, model: nn.Module):
        self.layers: list[Layer] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[tuple[nn.Module, tuple[int, ...]]] = []
        self._ran: set[nn.Module] = set()
        self._hooks = [hook for module in self._names
                       for hook in (module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave))]

    def remove(self) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._running.append((module, _shape(inputs)))

    def _leave(self, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        shape = _shape(output)
        if 0 in shape:
            raise Infeasible(f"{self._title(module)}: its input is {_by(self._running[-1][1])}, its output {_by(shape)}", self.layers)
        self._running.pop()
        if module._parameters or not module._modules:
            uncalled = [m for m in module.modules() if m is module or m not in self._ran]
            own = [] if module in self._ran else [p for m in uncalled for p in m._parameters.values() if p is not None]
            self.layers.append(Layer(name=self._names[module], kind=type(module).__name__, shape=shape,
                                     parameters=sum(p.numel() for p in own), trained=sum(p.numel() for p in own if p.requires_grad)))
            self._ran.update(uncalled)
        self._ran.add(module)

    def why(self, error: BaseException) -> str:
        """The reason in a user's words: the innermost module that was running, and its input."""
        if not self._running:
            return str(error).partition("\n")[0]
        module, shape = self._running[-1]
        kernel = _too_large_kernel(module, shape)
        problem = f"too small for kernel {kernel}" if kernel else "which it refuses: " + str(error).partition("\n")[0]
        return f"{self._title(module)}: its input is {_by(shape)}, {problem}"

    def _title(self, module: nn.Module) -> str:
        name = self._names[module]
        return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _shape(value: Any) -> tuple[int, ...]:
    """Shape without the batch of the first tensor among a module's inputs or outputs."""
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "nothing"


def _too_large_kernel(module: nn.Module, shape: tuple[int, ...]) -> str:
    """The kernel's size as text if a convolution or pool cannot fit it into its padded input, else ""."""
    kernel, padding = getattr(module, "kernel_size", None), getattr(module, "padding", 0)
    if kernel is None or len(shape) != 3 or isinstance(padding, str):
        return ""
    sides, pads, gaps = _pair(kernel), _pair(padding), _pair(getattr(module, "dilation", 1))
    fits = all(shape[1 + i] + 2 * pads[i] >= gaps[i] * (sides[i] - 1) + 1 for i in range(2))
    return "" if fits else str(sides[0]) if sides[0] == sides[1] else _by(sides)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def table(layers: list[Layer]) -> str:
    """The layers as an aligned table with the totals trained and frozen beneath."""
    head = ("layer", "type", "output", "parameters", "")
    rows = [(layer.name or "(network)", layer.kind, _by(layer.shape), f"{layer.parameters:,}" if layer.parameters else "",
             "frozen" if layer.trained < layer.parameters else "") for layer in layers]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(5)]
    lines = ["  ".join(cell.rjust(w) if i == 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in (head, *rows)]
    trained, total = sum(layer.trained for layer in layers), sum(layer.parameters for layer in layers)
    return "\n".join([*lines, "", f"{total:,} parameters: {trained:,} trained, {total - trained:,} frozen"])
