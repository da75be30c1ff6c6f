"""The study folder: what is written once stays, and the state is what is on disk."""

import os
from pathlib import Path
from typing import Any

import pytest
from small_disk import small_disk

from harness.errors import StudyError
from harness.plan import Attempt, Batch, PlannedTrial, TrialState
from harness.store import Store

REQUEST = {"budget": None, "metric": "val_acc", "mode": "max", "select": "best_val", "test": True}


def planned(name: str = "ab12-s0", seed: int = 0) -> PlannedTrial:
    return PlannedTrial(id=name, variant="v", seed=seed, wave=0, config={"lr": 0.1})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "study")
    store.create_folders()
    return store


def test_making_a_study_twice_changes_nothing(store: Store) -> None:
    store.write_environment({"nonce": "a"})
    store.create_folders()
    store.write_environment({"nonce": "b"})
    assert store.environment() == {"nonce": "a"}


def test_submitits_pickles_are_nobody_elses(store: Store) -> None:
    assert store.submitit_folder.stat().st_mode & 0o777 == 0o700


def test_grid(store: Store) -> None:
    assert store.frozen_grid() is None
    store.freeze_grid('[study]\nname = "größe"\n')
    assert store.frozen_grid() == '[study]\nname = "größe"\n'
    store.grid_file.write_bytes(b"\xff")
    with pytest.raises(StudyError, match="grid.toml"):
        store.frozen_grid()


def test_a_wave_is_written_once(store: Store) -> None:
    store.write_wave(0, [planned()], told=[])
    store.write_wave(0, [planned("other-s0")], told=[])
    assert store.trials() == [planned()]
    store.write_wave(0, [planned("other-s0")], told=[], anew=True)
    assert [t.id for t in store.trials()] == ["other-s0"]


def test_batches_and_places(store: Store) -> None:
    batch = Batch(number=0, workers=2, trials=[("a", 0), ("b", 3)], settings={"ranks": 1})
    assert store.write_batch(batch) is True
    assert store.write_batch(Batch(number=0, workers=1, trials=[])) is False
    assert store.claim_place(0, 1, {"pid": 7}) is True
    assert store.claim_place(0, 1, {"closed": True}) is False
    assert store.batches() == [Batch(number=0, workers=2, trials=[("a", 0), ("b", 3)], settings={"ranks": 1}, claims=[None, {"pid": 7}])]


def test_batches_beyond_a_thousand_stay_in_order(store: Store) -> None:
    for number in (999, 1000, 2):
        store.write_batch(Batch(number=number, workers=1, trials=[]))
    assert [batch.number for batch in store.batches()] == [2, 999, 1000]


def test_who_launches(store: Store) -> None:
    assert store.take_over(1, {"pid": 1}) and not store.take_over(1, {"pid": 2}) and store.take_over(2, {"pid": 3})
    assert [who["pid"] for who in store.launchers()] == [1, 3]


def test_an_attempt_is_made_once(store: Store) -> None:
    log = store.begin_attempt(planned(), 0, REQUEST)
    assert log is not None and store.begin_attempt(planned(), 0, REQUEST) is None
    assert not store.newer_attempt("ab12-s0", 0)
    assert store.begin_attempt(planned(), 1, REQUEST) is not None
    assert store.newer_attempt("ab12-s0", 0) and not store.newer_attempt("ab12-s0", 1)


def test_no_attempt_after_the_result(store: Store) -> None:
    assert store.begin_attempt(planned(), 0, REQUEST) is not None
    assert store.publish_result("ab12-s0", {"status": "done"}) is True
    assert store.publish_result("ab12-s0", {"status": "infeasible"}) is False
    assert store.begin_attempt(planned(), 1, REQUEST) is None
    assert store.result("ab12-s0") == {"status": "done"} and store.result("other-s0") is None


def test_config_is_what_python_m_jobs_train_takes(store: Store) -> None:
    from jobs.config import Trial

    store.begin_attempt(planned(seed=4), 0, REQUEST)
    assert Trial.load(store.trial_folder("ab12-s0") / "config.json") == Trial(config={"lr": 0.1}, seed=4)


def test_state_is_read_from_the_events(store: Store) -> None:
    first, second = store.begin_attempt(planned(), 0, REQUEST), store.begin_attempt(planned(), 1, REQUEST)
    assert first and second
    events: list[dict[str, Any]] = [{"event": "start", "worker": "000-1"}, {"event": "epoch", "epoch": 1}, {"event": "epoch", "epoch": 2},
                                    {"event": "end", "cause": "killed", "error": "signal SIGKILL"}]
    for event in events:
        first.write(event)
    second.write({"event": "start", "worker": "001-0"})
    second.write({"event": "epoch", "epoch": 3})
    store.begin_attempt(planned("c-s0"), 0, REQUEST)
    assert store.scan(["ab12-s0", "c-s0", "none-s0"]) == {
        "ab12-s0": TrialState(attempts=(Attempt(worker="000-1", cause="killed", error="signal SIGKILL", progress=2),
                                        Attempt(worker="001-0", progress=1))),
        "c-s0": TrialState(attempts=(Attempt(),)), "none-s0": TrialState()}


def test_a_torn_attempt_file_keeps_what_is_whole(store: Store) -> None:
    log = store.begin_attempt(planned(), 0, REQUEST)
    assert log
    log.write({"event": "start", "worker": "000-0"})
    log.write({"event": "epoch", "epoch": 1})
    path = store.attempt_file("ab12-s0", 0)
    with path.open("ab") as file:
        file.write(b'{"event":"epoch","epo')
    assert store.scan(["ab12-s0"])["ab12-s0"].attempts == (Attempt(worker="000-0", progress=1),)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StudyError, match="Not a directory.*--study-dir"):
        Store(tmp_path / "file" / "study").create_folders()
    assert Store(tmp_path / "file" / "study").frozen_grid() is None
    with pytest.raises(StudyError, match="Not a directory.*--study-dir"):
        Store(tmp_path / "file").create_folders()


def test_a_read_only_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", options="ro") as disk, pytest.raises(StudyError, match="Read-only file system.*--study-dir"):
        Store(disk / "study").create_folders()


def test_an_event_that_cannot_be_written_does_not_end_the_training(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    log = store.begin_attempt(planned(), 0, REQUEST)
    assert log
    log.close()
    os.close(os.open("/dev/null", os.O_RDONLY))
    log.write({"event": "epoch", "epoch": 1})
    assert "could not record epoch: Bad file descriptor" in capfd.readouterr().out
