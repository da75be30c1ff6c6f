"""The slots of this machine: how many workers fit, and which GPUs each gets."""

from pathlib import Path

import pytest

from harness import local
from harness.errors import StudyError
from harness.grid import Local
from harness.local import LocalExecutor
from harness.plan import Batch
from harness.store import Store


def executor(monkeypatch: pytest.MonkeyPatch, *, gpus: str = "", cpus: int = 8, **settings: int) -> LocalExecutor:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(local, "available_cpus", lambda: cpus)
    return LocalExecutor(Store(Path("nowhere")), Local(**settings))


@pytest.mark.parametrize("settings, slots", [
    ({}, 8), ({"cpus_per_trial": 3}, 2), ({"ranks": 2}, 4), ({"ranks": 2, "cpus_per_trial": 4}, 2), ({"running": 3}, 3),
    ({"cpus_per_trial": 16}, 1),  # one always runs, if slowly
])
def test_slots_without_gpus(settings: dict[str, int], slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert executor(monkeypatch, **settings).slots == slots


@pytest.mark.parametrize("gpus, settings, slots, each", [
    ("0,1,2,3", {}, 4, 1), ("0,1,2,3", {"ranks": 2}, 2, 2), ("0,1,2,3", {"gpus_per_trial": 2}, 2, 2), ("3", {"running": 5}, 1, 1),
    ("0,1,2,3", {"gpus_per_trial": 0}, 8, 0), ("MIG-1,MIG-2", {}, 2, 1), ("-1", {}, 8, 0),
])
def test_slots_with_gpus(gpus: str, settings: dict[str, int], slots: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    there = executor(monkeypatch, gpus=gpus, **settings)
    assert (there.slots, there.gpus_per_worker) == (slots, each)
    there.check()


TRIALS = [(f"t{n}", 0) for n in range(9)]


@pytest.mark.parametrize("pending, living, slots, workers", [
    (9, 0, 2, 2), (1, 0, 2, 1), (9, 1, 2, 1), (9, 2, 2, 0), (9, 3, 2, 0)])
def test_as_many_workers_as_fit_take_from_all_trials(pending: int, living: int, slots: int, workers: int,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    there = executor(monkeypatch, cpus=slots)
    busy = Batch(number=0, workers=3, trials=[("other", 0)], settings={"gpus": [[]] * 3})
    found = there.divide(4, TRIALS[:pending], {f"000-{n}": busy for n in range(living)})
    assert [(batch.number, batch.workers, batch.trials, batch.share) for batch in found] == (
        [(4, workers, TRIALS[:pending], 0)] if workers else [])
    assert all(batch.settings == {"executor": "local", "ranks": 1, "device": "cpu", "gpus": [[]] * workers, "gpus_per_trial": 0}
               for batch in found)


def test_no_gpu_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    there = executor(monkeypatch, gpus="GPU-a,GPU-b,GPU-c", running=2)
    (first,) = there.divide(0, TRIALS, {})
    assert first.settings["gpus"] == [["GPU-a"], ["GPU-b"]] and first.settings["device"] == "cuda"
    (second,) = there.divide(1, TRIALS, {"000-1": first})
    assert second.settings["gpus"] == [["GPU-a"]]  # the first worker has ended


@pytest.mark.parametrize("gpus, settings, words", [
    ("0", {"gpus_per_trial": 2}, "gpus_per_trial = 2, and this machine offers 1"),
    ("0,1", {"gpus_per_trial": 1, "ranks": 2}, "each process needs a GPU of its own"),
])
def test_gpus_that_are_not_there_are_refused(gpus: str, settings: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=words):
        executor(monkeypatch, gpus=gpus, **settings).check()
