"""What a study will cost is foretold from trials that take as long, and from no others."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.estimate import Estimate, duration, estimate
from harness.plan import PlannedTrial
from jobs.config import PARAMETERS, Config


def write_attempts(study: Path, configs: list[Mapping[str, Any]], *, epoch_s: list[float], device: str = "cpu", ranks: int = 1) -> None:
    """Tables of one attempt for each config, a parameter that a config does not read being null, as `harness.tables` writes them."""
    study.mkdir(parents=True)
    names = dict.fromkeys(name for config in configs for name in config)
    pq.write_table(pa.table({"trial_id": [str(n) for n in range(len(configs))],
                             **{f"param_{name}": [config.get(name) for config in configs] for name in names}}), study / "trials.parquet")
    pq.write_table(pa.table({"trial_id": [str(n) for n in range(len(configs))], "device": [device] * len(configs),
                             "ranks": [ranks] * len(configs), "epoch_s": [epoch_s] * len(configs)}), study / "attempts.parquet")


def read(config: Config) -> dict[str, Any]:
    """As a row of the table."""
    return {name: None if name in config.inactive() else getattr(config, name) for name in PARAMETERS}


def trial(config: Mapping[str, Any]) -> PlannedTrial:
    return PlannedTrial(id="x-s0", variant="x", seed=0, wave=0, config=dict(config))


def guess(config: Config, runs: Path, *, device: str = "cpu", ranks: int = 1) -> Estimate:
    return estimate([trial(config.as_dict())], runs, device=device, ranks=ranks)


def test_the_median_epoch_times_the_epochs(tmp_path: Path) -> None:
    write_attempts(tmp_path / "one", [read(Config())], epoch_s=[1.0, 2.0, 9.0])
    write_attempts(tmp_path / "two", [read(Config(lr=0.5, epochs=3, dropout=0.1))], epoch_s=[3.0])
    found = guess(Config(epochs=4), tmp_path)  # of 1, 2, 3, 9 s: 2.5 s
    assert (found.seconds, found.known) == (10.0, 1)
    assert found.source == "median epoch of 2 attempts on cpu with 1 rank with the same data, network and batch in one, two"


def test_an_epoch_of_one_program_is_noted_as_each_trials_part(tmp_path: Path) -> None:
    write_attempts(tmp_path / "one", [read(Config()), read(Config(lr=0.5))], epoch_s=[2.0])
    attempts = pq.read_table(tmp_path / "one" / "attempts.parquet")
    pq.write_table(attempts.append_column("fused", pa.array([2, 2])), tmp_path / "one" / "attempts.parquet")
    assert guess(Config(epochs=4), tmp_path).seconds == 8.0


@pytest.mark.parametrize("change", [
    {"kernel_size": 5}, {"hidden": 128}, {"freeze": "backbone"}, {"augment": "crop_flip"}, {"batch_norm": False}, {"depth": 3},
    {"filters": 8}, {"batch_size": 32}, {"precision": "bf16"}, {"train_images": 100}, {"classes": "0-4"}, {"val_fraction": 0.5},
    {"test_fraction": 0.5}, {"image_size": 16}, {"model": "resnet18"}])
def test_what_decides_the_time_must_be_the_same(change: dict[str, Any], tmp_path: Path) -> None:
    write_attempts(tmp_path / "one", [read(Config())], epoch_s=[1.0])
    assert guess(Config(), tmp_path).known == 1
    assert guess(dataclasses.replace(Config(), **change), tmp_path) == Estimate(seconds=0, known=0, source="")


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"split_seed": 3}, {"schedule": "cosine"}, {"epochs": 2}])
def test_the_rest_may_differ(change: dict[str, Any], tmp_path: Path) -> None:
    write_attempts(tmp_path / "one", [read(dataclasses.replace(Config(), **change))], epoch_s=[1.0])
    assert guess(Config(), tmp_path).known == 1


def test_what_a_network_does_not_read_does_not_count(tmp_path: Path) -> None:
    write_attempts(tmp_path / "one", [read(Config(model="resnet18", hidden=99))], epoch_s=[1.0])
    assert guess(Config(model="resnet18", hidden=7), tmp_path).known == 1


def test_attempts_elsewhere_say_nothing(tmp_path: Path) -> None:
    write_attempts(tmp_path / "gpu", [read(Config())], epoch_s=[1.0], device="cuda")
    write_attempts(tmp_path / "ranks", [read(Config())], epoch_s=[5.0], ranks=2)
    assert guess(Config(), tmp_path).known == 0
    assert guess(Config(), tmp_path, device="cuda").seconds == 10.0
    assert guess(Config(), tmp_path, ranks=2).seconds == 50.0
    assert "on cpu with 2 ranks" in guess(Config(), tmp_path, ranks=2).source


def test_a_job_of_ones_own_is_compared_as_a_whole(tmp_path: Path) -> None:
    write_attempts(tmp_path / "own", [{"width": 1, "epochs": 3, "only_here": None}, {"width": 1, "epochs": 3, "only_here": 2}],
                   epoch_s=[2.0])
    assert estimate([trial({"width": 1, "epochs": 3})], tmp_path, device="cpu", ranks=1).seconds == 6.0
    assert estimate([trial({"width": 2, "epochs": 3})], tmp_path, device="cpu", ranks=1).known == 0


def test_tables_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    write_attempts(tmp_path / "torn", [read(Config())], epoch_s=[1.0])
    (tmp_path / "torn" / "attempts.parquet").write_bytes(b"PAR1")
    write_attempts(tmp_path / "old", [read(Config())], epoch_s=[1.0])
    pq.write_table(pq.read_table(tmp_path / "old" / "attempts.parquet").drop_columns(["device"]), tmp_path / "old" / "attempts.parquet")
    assert guess(Config(), tmp_path).known == 0


def test_duration() -> None:
    assert [duration(s) for s in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]
