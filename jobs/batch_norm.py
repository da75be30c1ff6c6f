"""Batch normalisation over the whole global batch, however many ranks share it.

With plain `nn.BatchNorm2d` each rank would normalise by its own slice, so that a result would depend on the number of ranks.
torch's `SyncBatchNorm` mends that on CUDA only; `GlobalBatchNorm2d` does it wherever `all_reduce` works (gloo on CPU, fp64 too).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def ranks() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def across_ranks(model: nn.Module) -> nn.Module:
    """`model` with every BatchNorm2d replaced by one over all ranks; parameters and buffers stay the same objects.

    A model that trains in one process comes back untouched. Under nccl torch's own fused SyncBatchNorm is taken.
    """
    if ranks() == 1:
        return model
    if "nccl" in dist.get_backend():
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    return _replace(model)


def _replace(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        return GlobalBatchNorm2d.like(module)
    for name, child in module.named_children():
        setattr(module, name, _replace(child))
    return module


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


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the global batch; bit for bit nn.BatchNorm2d with one rank.

    The ranks' slices may differ in size, and a slice may be empty. Mean first, then squared deviations from it: the one-pass
    formula E[x^2] - E[x]^2 loses half of the digits when the mean is large.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> "GlobalBatchNorm2d":
        """The same layer with the same parameters and buffers, over all ranks."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
        made.weight, made.bias, made.training = norm.weight, norm.bias, norm.training
        made.running_mean, made.running_var, made.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
        return made

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalises (B, C, H, W); the dtype stays, statistics are computed in fp32 at least.

        Raises:
            ValueError: training on one value per channel over all ranks, as nn.BatchNorm2d does.
        """
        if not self.training or ranks() == 1:
            return super().forward(x_BCHW)
        self._check_input_dim(x_BCHW)
        x = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        values = x.new_tensor([x.numel() // x.shape[1]])
        total = _SumOverRanks.apply(torch.cat([x.sum((0, 2, 3)), values]))
        count = total[-1].detach()
        if count <= 1:
            raise ValueError(f"batch norm needs more than one value per channel in training; the global batch is {tuple(x.shape)} per rank")
        mean = total[:-1] / count
        centred = x - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        y: Tensor = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x_BCHW.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        """Moves the running statistics; momentum None is the plain average over all batches, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean.to(self.running_mean.dtype), alpha=share)
        self.running_var.mul_(1 - share).add_(unbiased_variance.to(self.running_var.dtype), alpha=share)
