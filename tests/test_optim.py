"""Optimizers and schedules against numbers computed by hand."""

import math

import pytest
import torch
from torch import nn

from jobs import optim, registry
from jobs.config import Config


def one_parameter(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float64))


def rates(config: Config) -> list[float]:
    """The learning rate of each epoch of a whole training."""
    parameter = one_parameter()
    optimizer = optim.build_optimizer(config, [parameter])
    schedule = optim.build_schedule(config, optimizer)
    found = []
    for _ in range(config.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule:
            schedule.step()
    return found


def test_tables_are_the_registry() -> None:
    assert list(optim.OPTIMIZERS) == list(registry.OPTIMIZERS)
    assert list(optim.SCHEDULES) == list(registry.SCHEDULES)


def test_sgd_with_momentum_and_weight_decay() -> None:
    parameter = one_parameter(1.0)
    config = Config(optimizer="sgd", lr=0.1, momentum=0.5, weight_decay=0.2)
    optimizer = optim.build_optimizer(config, [parameter])
    parameter.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()  # velocity 2 + 0.2 * 1 = 2.2; parameter 1 - 0.1 * 2.2
    assert parameter.item() == pytest.approx(0.78, abs=1e-15)
    parameter.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()  # velocity 0.5 * 2.2 + 1 + 0.2 * 0.78 = 2.256; parameter 0.78 - 0.2256
    assert parameter.item() == pytest.approx(0.5544, abs=1e-15)


@pytest.mark.parametrize(("name", "expected"), [
    ("adam", 1.0 - 0.1),            # the L2 term turns a gradient of 0 into 0.5, and Adam's first step is lr * sign
    ("adamw", 1.0 * (1 - 0.1 * 0.5)),  # decoupled: the parameter shrinks by lr * weight_decay, the gradient stays 0
])
def test_weight_decay_of_adam_is_l2_and_of_adamw_decoupled(name: str, expected: float) -> None:
    parameter = one_parameter(1.0)
    optimizer = optim.build_optimizer(Config(optimizer=name, lr=0.1, weight_decay=0.5), [parameter])
    parameter.grad = torch.tensor([0.0], dtype=torch.float64)
    optimizer.step()
    assert parameter.item() == pytest.approx(expected, abs=1e-8)


def test_step_schedule() -> None:
    config = Config(schedule="step", lr=0.8, step_size=2, gamma=0.5, epochs=5)
    assert rates(config) == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2])


def test_cosine_schedule_reaches_zero_after_the_last_epoch() -> None:
    config = Config(schedule="cosine", lr=0.8, epochs=4)
    half = math.sqrt(0.5)
    assert rates(config) == pytest.approx([0.8, 0.4 * (1 + half), 0.4, 0.4 * (1 - half)])


def test_no_schedule() -> None:
    config = Config(schedule="none", lr=0.3, epochs=3)
    assert optim.build_schedule(config, optim.build_optimizer(config, [one_parameter()])) is None
    assert rates(config) == [0.3, 0.3, 0.3]


def test_frozen_parameters_are_left_out() -> None:
    frozen, trained = one_parameter().requires_grad_(False), one_parameter()
    optimizer = optim.build_optimizer(Config(), [frozen, trained])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(trained)]
    with pytest.raises(ValueError, match="nothing is left to train"):
        optim.build_optimizer(Config(freeze="backbone"), [frozen])
