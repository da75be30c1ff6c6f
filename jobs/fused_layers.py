"""Several networks of one shape as one network: every tensor carries the channels of all of them, one network's after the other's.

With K networks an image batch is (B, K * C, H, W) and a layer of F features gives (B, K * F). ReLU, pooling, flattening and the addition
of a residual block then do to each network's part what they did alone, so the network's own `forward` is kept: in a copy of it the layers
with numbers give way to wider ones. A convolution of g groups becomes one of K * g groups, a batch norm of C channels one of K * C, a
linear layer a batched matrix product, dropout a multiplication with the masks that the networks draw alone.

A `forward` that mixes along the channels (DenseNet's `cat`) spoils that; `fused_program.Program` finds it out by trying.

Letters in tensor names: K networks, B batch, N features in, M features out.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ALIGN = 64
"""Blocks begin at multiples of this many numbers, as fast kernels want it (256 bytes of fp32)."""


class Unfusable(Exception):
    """These networks cannot be trained as one; the text says why."""


class FusedLinear(nn.Module):
    """K linear layers side by side: (B, K * in) -> (B, K * out), one batched matrix product."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        first, self.networks = layers[0], len(layers)
        self.weight = nn.Parameter(torch.empty(self.networks * first.out_features, first.in_features, device="meta"))
        bias = nn.Parameter(torch.empty(self.networks * first.out_features, device="meta"))
        self.register_parameter("bias", bias if isinstance(first.bias, Tensor) else None)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Each network's features times its own weights."""
        # Weights times features, not the other way round: so the weights' gradient comes out as the weights lie in memory.
        x_KNB = x_BN.view(len(x_BN), self.networks, -1).permute(1, 2, 0)
        weight_KMN = self.weight.view(self.networks, -1, self.weight.shape[1])
        bias = self._parameters["bias"]
        y_KMB = torch.bmm(weight_KMN, x_KNB) if bias is None else torch.baddbmm(bias.view(self.networks, -1, 1), weight_KMN, x_KNB)
        return y_KMB.permute(2, 0, 1).flatten(1)


class FusedDropout(nn.Module):
    """K dropouts side by side, with the mask that `mask` holds: zero, or 1 / (1 - p) of each network's own p; None drops nothing."""

    def __init__(self, layers: Sequence[nn.Dropout]):
        super().__init__()
        self.rates = [layer.p for layer in layers]
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, K * C, ...) -> the same shape."""
        return x if self.mask is None else x * self.mask


def _conv(layers: Sequence[nn.Conv2d]) -> nn.Module:
    first, many = layers[0], len(layers)
    return nn.Conv2d(many * first.in_channels, many * first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
                     first.dilation, many * first.groups, first.bias is not None, first.padding_mode, device="meta")  # type: ignore[arg-type]


def _norm(layers: Sequence[nn.BatchNorm2d]) -> nn.Module:
    first = layers[0]
    if first.momentum is None:
        raise Unfusable("a batch norm with momentum None weighs by its own count of batches")
    return nn.BatchNorm2d(len(layers) * first.num_features, first.eps, first.momentum, first.affine, first.track_running_stats,
                          device="meta")


_BY_CHANNEL = ("Identity", "Flatten", "ReLU", "ReLU6", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Hardswish", "Hardsigmoid",
               "Hardtanh", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d")
FUSED: dict[type[nn.Module], Callable[[Any], nn.Module] | None] = {
    nn.Conv2d: _conv, nn.BatchNorm2d: _norm, nn.Linear: FusedLinear, nn.Dropout: FusedDropout,
    **{getattr(nn, name): None for name in _BY_CHANNEL}}
"""What K layers of a kind become; None: one of them serves all. A new kind is one entry, or a name above when it works on each channel,
or on each number, by itself."""


class Blocks:
    """Where the parameters of K networks lie in one piece of memory: a block for each parameter, in it the networks one after the other.

    So that an optimizer can run over everything at once, while a layer's K weights are one tensor and a network's own are parts of it.

    Args:
        parameters: Of one of the networks.
        networks: K.
    """

    def __init__(self, parameters: Sequence[Tensor], networks: int):
        self.networks, self.device, self.dtype = networks, parameters[0].device, parameters[0].dtype
        self._shapes = [(parameter.shape, parameter.stride()) for parameter in parameters]
        self.lengths = [networks * parameter.numel() for parameter in parameters]
        """Numbers in each block."""
        self.firsts: list[int] = []
        """Where each block begins."""
        self.size = 0
        for parameter in parameters:
            if (parameter.dtype, parameter.device) != (self.dtype, self.device):
                raise Unfusable("parameters of several kinds, or on several devices")
            if parameter.stride(0) * len(parameter) != parameter.numel():
                raise Unfusable("parameters that do not lie in memory row by row")
            self.firsts.append(self.size)
            self.size += -(-networks * parameter.numel() // ALIGN) * ALIGN

    def zeros(self) -> Tensor:
        """Memory for all blocks."""
        return torch.zeros(self.size, dtype=self.dtype, device=self.device)

    def fused(self, memory: Tensor) -> list[Tensor]:
        """Each block as one tensor (K * rows, ...)."""
        return [memory.as_strided((self.networks * len_, *rest), stride, first)
                for (((len_, *rest), stride), first) in zip(self._shapes, self.firsts, strict=True)]

    def of(self, memory: Tensor, network: int) -> list[Tensor]:
        """The parts of one network, in its own shapes."""
        return [memory.as_strided(shape, stride, first + network * (length // self.networks))
                for (shape, stride), first, length in zip(self._shapes, self.firsts, self.lengths, strict=True)]

    def spread(self, values: Sequence[float]) -> Tensor:
        """One number for each network -> one number for each parameter; a single one where all are equal."""
        value_K = torch.tensor(values, dtype=self.dtype, device=self.device)
        if len(set(values)) == 1:
            return value_K[0]
        memory = self.zeros()
        for first, length in zip(self.firsts, self.lengths, strict=True):
            memory[first:first + length] = value_K.repeat_interleave(length // self.networks)
        return memory


def together(models: Sequence[nn.Module]) -> tuple[nn.Module, Blocks, Tensor]:
    """One network that computes what `models` compute, each on its own channels.

    The parameters and buffers of `models` become parts of the new network's, in place: whatever changes one changes the other. Hooks
    that change a network's input are left out; `inputs` has them.

    Returns:
        The network, and where its parameters lie in the memory that is returned with it.

    Raises:
        Unfusable: a layer of a kind that `FUSED` does not know, or parameters outside of layers.
    """
    kinds = [[(name, type(layer)) for name, layer in model.named_modules()] for model in models]
    if any(found != kinds[0] for found in kinds):
        raise Unfusable("networks of different layers")
    kept = {id(tensor): tensor for tensor in (*models[0].parameters(), *models[0].buffers())}
    network = copy.deepcopy(models[0], dict(kept))  # parameters are replaced below and need not be copied
    network._forward_pre_hooks.clear()
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in list(models[0].named_modules(remove_duplicate=False)):
        if any(True for _ in layer.children()):
            continue
        if type(layer) not in FUSED or not name:
            raise Unfusable(f"{name or 'the network'} is a {type(layer).__name__}")
        if (make := FUSED[type(layer)]) is None:
            continue
        if layer not in made:
            made[layer] = make([model.get_submodule(name) for model in models])
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, made[layer])
    names = [name for name, _ in models[0].named_parameters()]
    if names != [name for name, _ in network.named_parameters()] or any(id(tensor) in kept for tensor in network.parameters()):
        raise Unfusable("parameters outside of layers, or shared between them")
    blocks, memory = _share_parameters(network, models, names)
    _share_buffers(network, models)
    return network, blocks, memory


@torch.no_grad()
def _share_parameters(network: nn.Module, models: Sequence[nn.Module], names: Sequence[str]) -> tuple[Blocks, Tensor]:
    of_each = [[model.get_parameter(name) for name in names] for model in models]
    if any([p.shape for p in own] != [p.shape for p in of_each[0]] for own in of_each):
        raise Unfusable("networks of different shapes")
    blocks = Blocks(of_each[0], len(models))
    memory = blocks.zeros()
    for number, own in enumerate(of_each):
        for parameter, part in zip(own, blocks.of(memory, number), strict=True):
            parameter.data = part.copy_(parameter)
    for name, block in zip(names, blocks.fused(memory), strict=True):
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, nn.Parameter(block))
    return blocks, memory


@torch.no_grad()
def _share_buffers(network: nn.Module, models: Sequence[nn.Module]) -> None:
    for name, buffer in list(models[0].named_buffers()):
        owner, _, attribute = name.rpartition(".")
        values = torch.stack([model.get_buffer(name) for model in models])
        # A batch norm adds one to its number of batches; it may as well be one number for each network.
        setattr(network.get_submodule(owner), attribute, values.flatten(0, 1) if buffer.dim() else values)
        for model, value in zip(models, values, strict=True):
            setattr(model.get_submodule(owner), attribute, value)


def inputs(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What `model` makes of a batch before its first layer, such as colour of grey, by its hooks."""
    for hook in model._forward_pre_hooks.values():
        changed = hook(model, (x_BCHW,))
        x_BCHW = x_BCHW if changed is None else changed[0]
    return x_BCHW
