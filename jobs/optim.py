"""Optimizers and learning-rate schedules by name.

A new one is one function and one entry here, and one line in `registry.OPTIMIZERS` or `registry.SCHEDULES` with the parameters it reads.
"""

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, StepLR

from jobs.config import Config

Parameters = list[nn.Parameter]


def _sgd(config: Config, parameters: Parameters, fused: bool | None) -> Optimizer:
    return SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=fused)


def _adam(config: Config, parameters: Parameters, fused: bool | None) -> Optimizer:
    return Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def _adamw(config: Config, parameters: Parameters, fused: bool | None) -> Optimizer:
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


OPTIMIZERS: dict[str, Callable[[Config, Parameters, bool | None], Optimizer]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
"""`weight_decay` is an L2 term of the gradient in sgd and adam, decoupled from it in adamw."""


def _step(config: Config, optimizer: Optimizer) -> LRScheduler:
    return StepLR(optimizer, step_size=config.step_size, gamma=config.gamma)


def _cosine(config: Config, optimizer: Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=config.epochs)


SCHEDULES: dict[str, Callable[[Config, Optimizer], LRScheduler] | None] = {"none": None, "step": _step, "cosine": _cosine}
"""Learning rate of epoch e (from 1): step `lr * gamma ** ((e - 1) // step_size)`, cosine `lr * (1 + cos(pi * (e - 1) / epochs)) / 2`."""


def build_optimizer(config: Config, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The config's optimizer over the parameters that are trained; frozen ones are left out. One fused kernel on CUDA.

    Move the model to its device first.

    Raises:
        ValueError: every parameter is frozen.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        raise ValueError(f'nothing is left to train with freeze = "{config.freeze}"')
    # None leaves the choice to torch: False would forbid its other fast path.
    fused = True if all(p.is_cuda for p in trained) else None
    return OPTIMIZERS[config.optimizer](config, trained, fused)


def build_schedule(config: Config, optimizer: Optimizer) -> LRScheduler | None:
    """The config's schedule, to be stepped once after every epoch; None for a constant learning rate."""
    schedule = SCHEDULES[config.schedule]
    return schedule(config, optimizer) if schedule else None
