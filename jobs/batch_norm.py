"""Batch normalisation over the whole global batch, however many ranks share it.

With plain `nn.BatchNorm2d` each rank would normalise by its own slice, so that a result would depend on the number of ranks.
torch's `SyncBatchNorm` mends that on CUDA only; `GlobalBatchNorm` does it wherever `all_reduce` works (gloo on CPU, fp64 too).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def ranks() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def across_ranks(model: nn.Module) -> nn.Module:
    """`model` with every batch norm replaced by one over all ranks; parameters and buffers stay the same objects.

    A model that trains in one process comes back untouched. Under nccl torch's own fused SyncBatchNorm is taken.

    Raises:
        TypeError: a class derived from torch's that does more than batch norm, in a way that is not known here.
    """
    return model if ranks() == 1 else _replace(model, fused="nccl" in dist.get_backend())


def _replace(module: nn.Module, *, fused: bool) -> nn.Module:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if type(module).forward in (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward):
            return nn.SyncBatchNorm.convert_sync_batchnorm(module) if fused else GlobalBatchNorm.like(module)
        if [name for name, _ in module.named_children()] != _AFTER:
            raise TypeError(f"{type(module).__name__} is a batch norm that does more, and how to share it out over {ranks()} ranks is not "
                            "known: train in one process, or build it of nn.BatchNorm2d and the rest")
        return GlobalBatchNorm.like(module)
    for name, child in module.named_children():
        setattr(module, name, _replace(child, fused=fused))
    return module


_AFTER = ["drop", "act"]
"""What timm's BatchNormAct2d does after batch norm: its children, which run in this order."""


class _SumOverRanks(torch.autograd.Function):
    """all_reduce(SUM) whose gradient is the sum of all ranks' gradients (each rank's loss depends on each rank's share)."""

    @staticmethod
    def forward(_ctx: Any, share: Tensor) -> Tensor:
        total = share.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of 1 to 3 dimensions whose training statistics are those of the global batch; bit for bit torch's with one rank. What
    it has as children runs after it.

    The ranks' slices may differ in size, and a slice may be empty. Mean first, then squared deviations from it: the one-pass
    formula E[x^2] - E[x]^2 loses half of the digits when the mean is large.
    """

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm) -> "GlobalBatchNorm":
        """The same layer with the same parameters and buffers, over all ranks."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        made.weight, made.bias, made.training = norm.weight, norm.bias, norm.training
        made.running_mean, made.running_var, made.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
        for name, child in norm.named_children():
            made.add_module(name, child)
        return made

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"batch norm needs a batch of channels, not a tensor of shape {tuple(x.shape)}")

    def forward(self, x_BC: Tensor) -> Tensor:
        """Normalises (B, C), (B, C, L), (B, C, H, W) or (B, C, D, H, W); the dtype stays, statistics are computed in fp32 at least.

        Raises:
            ValueError: training on one value per channel over all ranks, as nn.BatchNorm2d does.
        """
        y = self._over_ranks(x_BC) if self.training and ranks() > 1 else super().forward(x_BC)
        for after in self.children():
            y = after(y)
        return y

    def _over_ranks(self, x_BC: Tensor) -> Tensor:
        self._check_input_dim(x_BC)
        x = x_BC.to(torch.promote_types(x_BC.dtype, torch.float32))
        values = x.new_tensor([x.numel() // x.shape[1]])
        others, every = (0, *range(2, x.dim())), (slice(None), *(None for _ in range(2, x.dim())))
        total = _SumOverRanks.apply(torch.cat([x.sum(others), values]))
        count = total[-1].detach()
        if count <= 1:
            raise ValueError(f"batch norm needs more than one value per channel in training; the global batch is {tuple(x.shape)} per rank")
        mean = total[:-1] / count
        centred = x - mean[every]
        variance = _SumOverRanks.apply(centred.square().sum(others)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        y: Tensor = centred * torch.rsqrt(variance + self.eps)[every]
        if self.affine:
            y = y * self.weight[every] + self.bias[every]
        return y.to(x_BC.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics; momentum None is the plain average over all batches, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean.to(self.running_mean.dtype), alpha=share)
        self.running_var.mul_(1 - share).add_(unbiased_variance.to(self.running_var.dtype), alpha=share)
