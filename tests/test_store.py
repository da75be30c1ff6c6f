"""The study folder: what is written once stays, and the state is what is on disk."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from small_disk import small_disk

from harness.errors import StudyError
from harness.plan import Attempt, Batch, PlannedTrial, TrialState
from harness.store import Store
from harness.waves import Wave

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
    store.write_wave(Wave(trials=(planned(),)))
    store.write_wave(Wave(trials=(planned("other-s0"),)))
    assert store.trials() == [planned()]
    store.write_wave(Wave(trials=(planned("other-s0"),)), anew=True)
    assert [t.id for t in store.trials()] == ["other-s0"]


def test_batches_and_places(store: Store) -> None:
    batch = Batch(number=0, workers=2, trials=[("a", 0), ("b", 3)], settings={"ranks": 1})
    assert store.write_batch(batch) is True
    assert store.write_batch(Batch(number=0, workers=1, trials=[])) is False
    assert store.claim_place(0, 1, {"worker": "000-1", "pid": 7}) is True
    assert store.claim_place(0, 1, {"closed": True}) is False
    assert store.batches() == [Batch(number=0, workers=2, trials=[("a", 0), ("b", 3)], settings={"ranks": 1},
                                     claims=[None, {"worker": "000-1", "pid": 7}])]


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
    assert store.scan([planned(), planned("c-s0"), planned("none-s0")]) == {
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
    assert store.scan([planned()])["ab12-s0"].attempts == (Attempt(worker="000-0", progress=1),)


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


# --------------------------------------------------------------------------------------------- what all trials of a wave have in common

def wave(*configs: dict[str, Any]) -> list[PlannedTrial]:
    return [PlannedTrial(id=f"{n}-s0", variant="v", seed=0, wave=0, config=config) for n, config in enumerate(configs)]


@pytest.mark.parametrize("values", [
    (1, 1.0, True), (0, False, 0.0), (0.0, -0.0), ("1", 1), ([1], [1.0]), ([True], [1]), (None, 0), ("", None)])
def test_values_that_only_seem_equal_stay_apart(values: tuple[Any, ...], store: Store) -> None:
    for order in (values, values[::-1]):
        store.write_wave(Wave(trials=tuple(wave(*({"x": value, "same": 3} for value in order)))), anew=True)
        assert [repr(trial.config["x"]) for trial in store.trials()] == [repr(value) for value in order]


def test_what_is_common_is_written_once(store: Store) -> None:
    store.write_wave(Wave(trials=tuple(wave(*({"lr": 0.5 * n, "model": "alexnet"} for n in range(50))))))
    assert (store.root / "waves" / "000.json").read_text().count("alexnet") == 1
    assert [trial.config for trial in store.trials()] == [{"lr": 0.5 * n, "model": "alexnet"} for n in range(50)]


@pytest.mark.parametrize("configs", [
    [], [{}], [{"a": 1}], [{"a": 1}, {"b": 1}], [{"a": 1, "b": 2}, {"a": 1}], [{"a": 1}, {"a": 1, "b": 2}], [{"a": None}, {}],
    [{}, {"a": None}]])
def test_configs_need_not_have_the_same_parameters(configs: list[dict[str, Any]], store: Store) -> None:
    store.write_wave(Wave(trials=tuple(wave(*configs))))
    assert [trial.config for trial in store.trials()] == configs


def test_a_wave_of_an_earlier_version_says_all_of_each(store: Store) -> None:
    line = {"id": "ab12-s0", "variant": "v", "seed": 0, "config": {"lr": 0.1}}
    (store.root / "waves" / "000.json").write_text(json.dumps({"wave": 0, "told": [], "trials": [line]}))
    assert store.trials() == [planned()]


# ------------------------------------------------------------------------------------------ how attempts ended that could not say so

def attempt(store: Store, number: int, *events: dict[str, Any]) -> None:
    log = store.begin_attempt(planned(), number, REQUEST)
    assert log
    for event in ({"event": "start", "worker": "000-0"}, *events):
        log.write(event)
    log.close()


@pytest.mark.parametrize("own, told, cause, error", [
    (None, {"cause": "time_limit", "state": "TIMEOUT"}, "time_limit", None),
    ({"cause": "interrupted"}, {"cause": "preempted", "state": "PREEMPTED"}, "preempted", None),
    ({"cause": "interrupted", "error": "said"}, {"cause": "cancelled"}, "cancelled", "said"),
    # what the worker itself knew better
    ({"cause": "exception", "error": "ValueError: no", "where": "a.py:1"}, {"cause": "killed"}, "exception", "ValueError: no"),
    ({"cause": "time_limit"}, {"cause": "cancelled"}, "time_limit", None),
    ({"cause": "done"}, {"cause": "node_failure"}, "done", None),
])
def test_a_verdict_counts_where_the_worker_did_not_know(own: dict[str, Any] | None, told: dict[str, Any], cause: str, error: str | None,
                                                        store: Store) -> None:
    attempt(store, 0, {"event": "epoch", "epoch": 1}, *([{"event": "end", "time": 5.0, **own}] if own else []))
    attempt(store, 1)
    store.write_end("ab12-s0", 0, told)
    first, second = store.scan([planned()])["ab12-s0"].attempts
    assert (first.cause, first.error, first.progress) == (cause, error, 1) and second.cause is None
    (events, _) = store.attempts("ab12-s0")
    assert sum(event["event"] == "end" for event in events) == 1 and [e["event"] for e in events[:2]] == ["start", "epoch"]
    assert events[-1].get("time") == (5.0 if own else None)  # when it ended is the worker's to say


def test_the_first_verdict_counts(store: Store) -> None:
    attempt(store, 0)
    store.write_end("ab12-s0", 0, {"cause": "node_failure", "state": "NODE_FAIL"})
    store.write_end("ab12-s0", 0, {"cause": "lost", "state": "LOST"})
    assert store.scan([planned()])["ab12-s0"].attempts == (Attempt(worker="000-0", cause="node_failure"),)


# ------------------------------------------------------------------------------------------------------- batches, jobs and cancelling

def test_a_batch_is_read_once_and_what_happens_to_it_is_noticed(store: Store) -> None:
    batch = Batch(number=0, workers=2, share=3, trials=[(name, 0) for name in "abcdef"], settings={"executor": "slurm", "parallelism": 2})
    store.write_batch(batch)
    assert [(b.workers, b.share, b.trials, b.settings, b.claims, b.job_id) for b in store.batches()] == [
        (2, 3, batch.trials, batch.settings, [None, None], None)]
    later = Store(store.root)  # another process takes a place and hears of the job
    later.submitted(0, "123")
    later.claim_place(0, 1, {"worker": "000-1", "pid": 7})
    (found,) = store.batches()
    assert found.job_id == "123" and found.claims == [None, {"worker": "000-1", "pid": 7}]
    later.submitted(0, "124")  # the first word counts
    later.claim_place(0, 0, {"closed": True})
    later.write_batch(Batch(number=1, workers=1, trials=[]))
    first, second = store.batches()
    assert first.job_id == "123" and first.claims == [{"closed": True}, {"worker": "000-1", "pid": 7}] and second.number == 1
    assert store.batch(0) == batch


def test_a_batch_of_an_earlier_version_is_shared_by_all_its_workers(store: Store) -> None:
    (store.root / "submit" / "000.json").write_text(json.dumps({"workers": 2, "trials": [["a", 0], ["b", 1]], "ranks": 1}))
    (batch,) = store.batches()
    assert batch.share == 0 and batch.trials_of(1) == [("a", 0), ("b", 1)] and batch.settings == {"ranks": 1}


def test_before_anything_was_made_there_is_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.batches() == [] and store.cancelled() == {} and store.launchers() == [] and store.newest_launcher() == 0
    assert store.scan([planned("a")]) == {"a": TrialState()} and store.last_beat(1) == ""


def test_cancelled_until_it_is_wanted_again(store: Store) -> None:
    assert store.cancelled() == {}
    store.write_cancel({"a": 0, "b": 2})
    store.write_cancel({"c": 1, "b": 3})
    assert store.cancelled() == {"a": 0, "b": 3, "c": 1}
    store.write_cancel({"a": -1, "c": -1})
    assert store.cancelled() == {"b": 3}
    store.write_cancel({"a": 4})
    assert store.cancelled() == {"a": 4, "b": 3}


def test_two_cancel_at_once_and_both_count(store: Store) -> None:
    def cancel(name: str) -> None:
        for n in range(20):
            store.write_cancel({f"{name}{n}": 0})

    threads = [threading.Thread(target=cancel, args=name) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.cancelled() == {f"{name}{n}": 0 for name in "abc" for n in range(20)}
