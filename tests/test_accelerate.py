"""What a GPU would run: when it pays, and that it is the same training. Replaying a recorded step needs one: tests/test_gpu.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import accelerate, models, training
from jobs.config import Config, Trial
from jobs.contract import Context
from jobs.prefetch import Prefetcher

GRAPH: dict[str, Any] = {"device": "cuda:0", "size": 32, "ranks": 1, "accumulate": 1, "precision": "bf16", "steps": 1000}


@pytest.mark.parametrize("change", [
    {"device": "cpu"}, {"size": 224}, {"ranks": 2}, {"accumulate": 2}, {"precision": "fp16"}, {"steps": 99}])
def test_when_a_graph_is_recorded(change: dict[str, Any]) -> None:
    assert accelerate.graph_is_worth_it(**GRAPH)
    assert not accelerate.graph_is_worth_it(**GRAPH | change)


def test_compiling_pays_only_for_long_trainings() -> None:
    # ResNet-50: 8 GFLOP forward, 24 GFLOP an image in training; 60 s are saved after 60 / 0.19 = 316 s, 9.5 PFLOP, 395,000 images
    asked: dict[str, Any] = {"device": "cuda:0", "size": 224, "accumulate": 1, "flop_per_image": 8e9}
    assert not accelerate.compile_is_worth_it(**asked, images=390_000)
    assert accelerate.compile_is_worth_it(**asked, images=400_000)
    assert not accelerate.compile_is_worth_it(**asked | {"device": "cpu"}, images=10**9)


def test_operations_of_a_network_counted_by_hand() -> None:
    config = Config(model="dynamic_cnn", depth=1, filters=4, hidden=5, batch_norm=False)
    model = models.build(config, classes=10, channels=1, size=8)
    convolution, linear = 2 * 8 * 8 * 4 * 9, 2 * (4 * 4 * 4 * 5 + 5 * 10)
    assert accelerate.flop_per_image(model, channels=1, size=8) == convolution + linear
    assert next(model.parameters()).device.type == "cpu"  # the network itself is where it was


def test_operations_that_cannot_be_counted() -> None:
    class Peeks(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x  # the meta device has no numbers

    assert accelerate.flop_per_image(Peeks(2, 2), channels=1, size=8) == 0


class OnPaper:
    """In place of a recorded step where there is no GPU: the same inputs, held in the same memory, and the step run again each time."""

    made = 0

    def __init__(self, step: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], *, model: Any, optimizer: Any):
        OnPaper.made += 1
        self._step, self._inputs = step, [tensor.clone() for tensor in inputs]
        restore = accelerate._remember(model, optimizer)
        for _ in range(accelerate.WARM_UPS):
            step(*self._inputs)
        restore()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        return self._step(*self._inputs)


@pytest.mark.parametrize("recipe", [
    {"momentum": 0.9, "augment": "crop_flip_rotate", "dropout": 0.3}, {"momentum": 0.0, "batch_norm": True}])
def test_a_step_made_for_recording_trains_the_same(recipe: dict[str, Any], tmp_path: Path, data: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(config={"train_images": 200, "epochs": 3, "batch_size": 40, "filters": 4, "schedule": "step", "step_size": 1, **recipe})
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    plain = training.run(trial, Context(folder=one, data=data))

    def fast(member: training.Training, network: torch.nn.Module) -> torch.nn.Module:
        accelerate.make_capturable(member.optimizer)
        member._wants_graph = True
        return network

    monkeypatch.setattr(training.Training, "_fast", fast)
    monkeypatch.setattr(accelerate, "GraphedStep", OnPaper)
    assert training.run(trial, Context(folder=two, data=data, checkpoint_s=0)) == plain
    assert OnPaper.made


def test_a_step_that_cannot_be_recorded_is_made_all_the_same(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial(config={"train_images": 200, "epochs": 1, "batch_size": 40, "filters": 4, "dropout": 0.3})
    (one := tmp_path / "one").mkdir()
    (two := tmp_path / "two").mkdir()
    plain = training.run(trial, Context(folder=one, data=data))

    def refuse(*args: Any, **kwargs: Any) -> None:
        torch.rand(3)  # its warm-ups would have drawn
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(accelerate, "GraphedStep", refuse)
    monkeypatch.setattr(training.Training, "_fast", lambda member, network: setattr(member, "_wants_graph", True) or network)
    assert training.run(trial, Context(folder=two, data=data)) == plain
    assert "cannot be recorded as a CUDA graph" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_checkpoints_do_not_know_of_it(optimizer: str) -> None:
    from jobs import optim

    config = Config(optimizer=optimizer, lr=0.125)
    layer = torch.nn.Linear(2, 2)
    made = optim.build_optimizer(config, layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    made.step()
    plain = accelerate.plain_state(made)
    accelerate.make_capturable(made)
    assert isinstance(made.param_groups[0]["lr"], torch.Tensor)
    assert accelerate.plain_state(made)["param_groups"] == plain["param_groups"]
    assert isinstance(made.param_groups[0]["lr"], torch.Tensor)  # the optimizer itself is as it was


def test_rows_fetched_ahead_and_rows_that_were_not(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.arange(60, dtype=np.uint8).reshape(10, 2, 3, 1))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    ahead = Prefetcher(images, torch.device("cpu"))
    first, second = np.array([3, 1, 1]), np.array([9, 0])
    ahead.ask(first)
    assert np.array_equal(ahead.take(first).numpy(), images[first])
    ahead.ask(first)
    assert np.array_equal(ahead.take(second).numpy(), images[second])
    assert np.array_equal(ahead.take(first).numpy(), images[first])  # asked for before and dropped
