"""What only a GPU can show; skipped where there is none. `make bench-gpu` measures on the same machine."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import accelerate, train
from jobs.augment import Batcher
from jobs.config import Config, Trial
from jobs.contract import Context, Interrupted
from jobs.data import load
from jobs.prefetch import Prefetcher

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 32, "filters": 8}


def run(folder: Path, data: Path, config: dict[str, Any], **context: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return train.run(Trial(config=config, seed=1), Context(folder=folder, data=data, device="cuda:0", **context))


@pytest.mark.parametrize("recipe", [
    {"augment": "crop_flip_rotate", "dropout": 0.3, "schedule": "cosine"}, {"optimizer": "adamw", "lr": 0.003, "schedule": "step"},
    {"precision": "bf16", "batch_norm": False}])
def test_a_recorded_step_trains_as_one_that_is_launched(recipe: dict[str, Any], tmp_path: Path, data: Path,
                                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    replayed = []
    replay = accelerate.GraphedStep.__call__
    monkeypatch.setattr(accelerate.GraphedStep, "__call__", lambda self, *inputs: replayed.append(1) or replay(self, *inputs))
    recorded = run(tmp_path / "recorded", data, SMALL | recipe)
    assert len(replayed) == 4 * (len(load(Config(), data).train) // 32), capsys.readouterr().out
    monkeypatch.setattr(accelerate, "graph_is_worth_it", lambda **asked: False)
    launched = run(tmp_path / "launched", data, SMALL | recipe)
    for one, other in zip(recorded.rows, launched.rows, strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-3, atol=0.01)


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path, data: Path) -> None:
    config = SMALL | {"dropout": 0.3, "augment": "crop_flip"}
    whole = run(tmp_path / "whole", data, config)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 50

    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", data, config, stop=stop)
    assert dataclasses.asdict(run(tmp_path / "stopped", data, config)) == dataclasses.asdict(whole)


def test_pinned_rows_arrive_while_the_device_computes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (500, 16, 16, 3), dtype=np.uint8)
    ahead = Prefetcher(images, torch.device("cuda:0"))
    for step in range(20):
        rows = np.arange(step, 500, 20)
        ahead.ask(rows)
        torch.randn(1000, 1000, device="cuda").mm(torch.randn(1000, 1000, device="cuda"))
        assert np.array_equal(ahead.take(rows).cpu().numpy(), images[rows])


@pytest.mark.parametrize("augment", ["none", "crop_flip", "crop_flip_rotate"])
def test_batches_are_those_of_a_cpu(augment: str, data: Path) -> None:
    config = Config(augment=augment)
    splits = load(config, data)
    there, here = (Batcher(splits, config, torch.device(device)) for device in ("cuda:0", "cpu"))
    on_gpu, on_cpu = (batcher.train(splits.train[:64], seed=3, epoch=2) for batcher in (there, here))
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])


def test_a_compiled_network_trains(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate, "SMALL_PX", 4)
    monkeypatch.setattr(accelerate, "compile_is_worth_it", lambda **asked: True)
    outcome = run(tmp_path / "compiled", data, SMALL)
    assert outcome.status == "done" and outcome.rows[-1]["train_acc"] > 0.5
