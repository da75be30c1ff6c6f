"""The optimizers of K networks as one: the same formulas as torch's, over all parameters at once, with each network's own numbers.

What torch's optimizers keep (momentum, Adam's moments, the count of steps) becomes parts of the memory here, in place: their
`state_dict()` is at any time what training each network alone would have made of it, and a schedule goes on changing their learning rate.

One pass over all parameters costs a GPU few launches, but it would drive a CPU's caches out between two operations of a formula; there
it goes from piece to piece.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from jobs.fused_layers import Blocks, Unfusable

PIECE = 1 << 15
"""Numbers of a piece on a CPU: some arrays of 128 kB fit into a core's cache."""


class FusedOptimizer(Optimizer):
    """Base of the optimizers below; `advance` takes one step of all networks. To torch it has one parameter, the memory of all.

    Args:
        optimizers: One of torch's for each network, all with one group of parameters.
        blocks, memory: Where the parameters lie; see `fused_layers.together`.
    """

    keeps: tuple[str, ...] = ()
    """What torch's optimizer keeps for each parameter, by its names for it."""
    numbers: tuple[str, ...] = ()
    """What may differ between the networks, by torch's names."""

    def __init__(self, optimizers: Sequence[Optimizer], blocks: Blocks, memory: Tensor):
        super().__init__([memory], {})
        self._blocks, self._memory = blocks, memory
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._gradient = blocks.zeros()
        self._gradients = blocks.fused(self._gradient)
        self._kept = {name: blocks.zeros() for name in self.keeps}
        self.state[memory] = dict(self._kept)
        self._spread: dict[str, Tensor] = {}
        self._last: dict[str, list[float]] = {}
        for number, optimizer in enumerate(optimizers):
            self._take_over(optimizer, number)
            optimizer._opt_called = True  # type: ignore[attr-defined]  # a schedule warns where its optimizer never stepped

    @torch.no_grad()
    def _take_over(self, optimizer: Optimizer, number: int) -> None:
        """Makes what this network's optimizer keeps a part of what is kept here."""
        parameters = optimizer.param_groups[0]["params"]
        for name in self.keeps_of(optimizer):
            for parameter, part in zip(parameters, self._blocks.of(self._kept[name], number), strict=True):
                state = optimizer.state[parameter]
                if isinstance(state.get(name), Tensor):
                    part.copy_(state[name])
                state[name] = part

    def keeps_of(self, optimizer: Optimizer) -> tuple[str, ...]:
        """What this one of the optimizers keeps."""
        return self.keeps

    def read_numbers(self) -> bool:
        """Takes over learning rates and the like, which schedules change between epochs; whether some lie elsewhere in memory now."""
        moved = False
        for name in self.numbers:
            values = [float(group[name]) for group in self._groups]
            if values == self._last.get(name):
                continue
            spread, known, self._last[name] = self._blocks.spread(values), self._spread.get(name), values
            if known is not None and known.shape == spread.shape:
                known.copy_(spread)
            else:
                self._spread[name], moved = spread, True
        return moved

    @torch.no_grad()
    def advance(self, gradients: Sequence[Tensor]) -> None:
        """One step of all networks.

        Args:
            gradients: One for each block, (K * rows, ...).
        """
        self.count()
        for first, gradient in self._in_memory_order(gradients):
            length = PIECE if gradient.device.type == "cpu" else len(gradient)
            for start in range(0, len(gradient), length):
                piece = slice(first + start, first + min(start + length, len(gradient)))
                numbers = {name: value[piece] if value.dim() else value for name, value in self._spread.items()}
                kept = {name: memory[piece] for name, memory in self._kept.items()}
                self.update(self._memory[piece], gradient[start:start + length], kept, numbers)

    def _in_memory_order(self, gradients: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        """The gradients as rows of numbers in the order of the parameters' memory, with where each begins there: on a CPU one for each
        block, without copying those that lie so already, else one of all."""
        if self._blocks.device.type != "cpu":
            torch._foreach_copy_(self._gradients, list(gradients))
            return [(0, self._gradient)]
        rows = []
        for first, gradient, block in zip(self._blocks.firsts, gradients, self._gradients, strict=True):
            given = gradient if gradient.stride() == block.stride() else block.copy_(gradient)
            rows.append((first, given.as_strided((given.numel(),), (1,))))
        return rows

    def count(self) -> None:
        """Told before each step."""

    def update(self, parameters: Tensor, gradient: Tensor, kept: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
        """The formula, over a piece of all parameters; it may overwrite `gradient`."""
        raise NotImplementedError

    def some(self, name: str) -> bool:
        """Whether a number is other than zero in any of the networks."""
        return any(self._last[name])


class FusedSGD(FusedOptimizer):
    """torch.optim.SGD without dampening and Nesterov: g += wd p, b = m b + g, p -= lr b."""

    keeps, numbers = ("momentum_buffer",), ("lr", "momentum", "weight_decay")

    def keeps_of(self, optimizer: Optimizer) -> tuple[str, ...]:
        """Nothing without momentum."""
        return self.keeps if optimizer.param_groups[0]["momentum"] else ()

    def update(self, parameters: Tensor, gradient: Tensor, kept: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
        """b begins at zero, which gives torch's b = g in the first step."""
        if self.some("weight_decay"):
            gradient.addcmul_(parameters, numbers["weight_decay"])
        if self.some("momentum"):
            gradient = kept["momentum_buffer"].mul_(numbers["momentum"]).add_(gradient)
        parameters.addcmul_(gradient, numbers["lr"], value=-1)


class FusedAdam(FusedOptimizer):
    """torch.optim.Adam without AMSGrad (Kingma and Ba, arXiv 1412.6980); `weight_decay` is an L2 term of the gradient."""

    keeps, numbers = ("exp_avg", "exp_avg_sq"), ("lr", "weight_decay")

    def __init__(self, optimizers: Sequence[Optimizer], blocks: Blocks, memory: Tensor):
        counts = {float(state.get("step", 0.0)) for optimizer in optimizers for state in optimizer.state.values()} or {0.0}
        if len(counts) > 1 or any(group["betas"] != optimizers[0].param_groups[0]["betas"] for group in
                                  (optimizer.param_groups[0] for optimizer in optimizers)):
            raise Unfusable("optimizers that have taken different numbers of steps, or with different betas")
        # One count for all: a checkpoint gives every parameter a copy of its own.
        self._count = torch.tensor(counts.pop(), dtype=torch.float32, device=blocks.device)
        for optimizer in optimizers:
            for parameter in optimizer.param_groups[0]["params"]:
                optimizer.state[parameter]["step"] = self._count
        super().__init__(optimizers, blocks, memory)
        self.state[memory]["step"] = self._count

    def count(self) -> None:
        """The count, and what follows from it for all parameters: how far the moments still are from their expectations."""
        self._count += 1
        low, high = self._groups[0]["betas"]
        done = self._count.double()
        self._slow, self._root = (1 - low**done).to(self._blocks.dtype), (1 - high**done).sqrt().to(self._blocks.dtype)

    def update(self, parameters: Tensor, gradient: Tensor, kept: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
        """m and v with their corrections for beginning at zero."""
        self.decay(parameters, gradient, numbers)
        (low, high), eps = self._groups[0]["betas"], self._groups[0]["eps"]
        mean, square = kept["exp_avg"], kept["exp_avg_sq"]
        mean.lerp_(gradient, 1 - low)
        square.mul_(high).addcmul_(gradient, gradient, value=1 - high)
        size = torch.sqrt(square, out=gradient).div_(self._root).add_(eps)
        parameters.addcmul_(torch.div(mean, size, out=size), numbers["lr"] / self._slow, value=-1)

    def decay(self, parameters: Tensor, gradient: Tensor, numbers: dict[str, Tensor]) -> None:
        """What weight decay does before the rest."""
        if self.some("weight_decay"):
            gradient.addcmul_(parameters, numbers["weight_decay"])


class FusedAdamW(FusedAdam):
    """torch.optim.AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam, with the weights shrunk by 1 - lr wd instead."""

    def decay(self, parameters: Tensor, gradient: Tensor, numbers: dict[str, Tensor]) -> None:
        """Of the parameters themselves."""
        if self.some("weight_decay"):
            parameters.mul_(1 - numbers["lr"] * numbers["weight_decay"])


FUSED_OPTIMIZERS: dict[str, type[FusedOptimizer]] = {"sgd": FusedSGD, "adam": FusedAdam, "adamw": FusedAdamW}
"""By the names of `optim.OPTIMIZERS`."""
