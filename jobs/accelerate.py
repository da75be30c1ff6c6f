"""What makes a step cheaper on a GPU without changing what it computes: a CUDA graph for networks of small images, where launching kernels
takes longer than running them, and compilation for long trainings of large ones.

A graph is recorded once, in about a second, and replaces the launches of a whole step (batch, forward, loss, backward, optimizer) by one.
Compilation takes a minute when nothing is cached, so it is done only where it is predicted to save more. On a CPU neither pays:
torch.compile ran these networks at 0.6 to 0.8 times the speed.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

SMALL_PX = 64
"""Up to this side of the images a step is recorded as a graph; above it the kernels take longer than their launches."""
WARM_UPS = 3
"""Steps before recording, in which libraries choose their kernels; what they change is put back."""
COMPILE_S, SAVED_SHARE, FLOP_PER_S = 60.0, 0.19, 30e12
"""What compiling takes when nothing is cached, what it saves of a step (1.24 times the speed, KellerJordan/cifar10-airbench), and what a
GPU reaches in such trainings without it (an estimate: a tenth of an A100's peak in bf16)."""


def graph_is_worth_it(*, device: str, size: int, ranks: int, accumulate: int, precision: str, steps: int) -> bool:
    """Whether a trial's step is to be recorded: one process, every step of the same shape, no loss scaling (it reads the GPU at every
    step), small images, and enough steps ahead."""
    return (device.startswith("cuda") and size <= SMALL_PX and ranks == 1 and accumulate == 1 and precision != "fp16" and steps >= 100)


def compile_is_worth_it(*, device: str, size: int, accumulate: int, flop_per_image: float, images: int) -> bool:
    """Whether compiling saves more than it takes.

    Args:
        flop_per_image: Of a forward pass; training takes three times as much.
        images: All that the trial still trains on, over its epochs.
    """
    predicted_s = 3 * flop_per_image * images / FLOP_PER_S
    return device.startswith("cuda") and size > SMALL_PX and accumulate == 1 and SAVED_SHARE * predicted_s > COMPILE_S


def flop_per_image(model: nn.Module, *, channels: int, size: int) -> float:
    """Floating-point operations of one image's forward pass, counted by torch without running it; 2 for multiplying and adding. 0 where
    that cannot be told: a network may hold what the meta device does not do."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        on_paper = copy.deepcopy(model).to("meta").eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            on_paper(torch.empty(1, channels, size, size, device="meta"))
    except (RuntimeError, TypeError, ValueError):  # NotImplementedError and want of memory are RuntimeErrors
        return 0.0
    return float(counter.get_total_flops())


def compiled(model: nn.Module) -> nn.Module:
    """`model` compiled for one shape; a network that the compiler refuses runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    made: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return made


def make_capturable(optimizer: Optimizer) -> None:
    """Moves what changes between steps into tensors on the device, where a recorded step reads it: the learning rate and Adam's count."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.as_tensor(float(group["lr"]), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
        for parameter in group["params"]:
            if "step" in (state := optimizer.state.get(parameter, {})):
                state["step"] = state["step"].to(device)


def learning_rate(optimizer: Optimizer) -> float:
    """The learning rate as a number; of one that is held in single precision the seven digits that it has."""
    lr = optimizer.param_groups[0]["lr"]
    return float(f"{float(lr):.7g}") if isinstance(lr, Tensor) and lr.dtype == torch.float32 else float(lr)


def plain_state(optimizer: Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` as it is without `make_capturable`, so that a checkpoint does not depend on it."""
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = learning_rate(optimizer)
        if "capturable" in group:
            group["capturable"] = False
    return state


class GraphedStep:
    """A step that is recorded once and then replayed.

    Args:
        step: Trains one step on what its arguments hold, returns tensors that it computed; it must not wait for the device.
        inputs: Tensors on the device, of the shapes of every step to come.
        model, optimizer: What `step` changes; recording leaves both as they were.
    """

    def __init__(self, step: Callable[..., Tensor], inputs: Sequence[Tensor], *, model: nn.Module, optimizer: Optimizer):
        self._inputs = [tensor.clone() for tensor in inputs]
        restore = _remember(model, optimizer)
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    step(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            optimizer.zero_grad(set_to_none=True)  # so that the gradients lie in the graph's own memory
            with torch.cuda.graph(self._graph):
                self._output = step(*self._inputs)
        finally:
            torch.cuda.current_stream().wait_stream(stream)
            restore()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `step` returns; it is overwritten by the next call."""
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output


@torch.no_grad()
def _remember(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts the numbers of a model and an optimizer back, in place. What the optimizer made meanwhile becomes zero, with
    which the first step of SGD with momentum and of Adam is the same as with nothing."""
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.clone() for tensor in tensors]
    states = {parameter: {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
              for parameter, state in optimizer.state.items()}

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    value.copy_(states[parameter][name]) if name in states.get(parameter, {}) else value.zero_()

    return restore
