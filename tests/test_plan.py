"""What to do next, as tables of cases: what is on disk and who is alive, against what is decided."""

import dataclasses

import pytest

from harness.grid import Retry
from harness.plan import Attempt, Batch, TrialState, plan

RETRY = dataclasses.asdict(Retry())
GIVE_UP_AFTER = 5
"""Attempts that were killed before they got anywhere, by default."""

NEW = TrialState()
DONE = TrialState(result="done")
DIED = Attempt(worker="000-0")
KILLED = Attempt(worker="000-0", cause="killed")
RAISED = Attempt(worker="000-0", cause="exception", error="ValueError: no")
BATCH = Batch(number=0, workers=1, trials=[("t", 0)])
AGAIN = Batch(number=1, workers=1, trials=[("t", 1)])


def after(*attempts: Attempt) -> TrialState:
    return TrialState(attempts=attempts)


@pytest.mark.parametrize("state, living, status", [
    (NEW, {}, "pending"),
    (NEW, {"000-0": BATCH}, "queued"),
    (NEW, {"007-0": Batch(number=7, workers=1, trials=[("other", 0)])}, "pending"),
    (DONE, {"000-0": BATCH}, "done"),
    (TrialState(result="infeasible"), {}, "infeasible"),
    (after(DIED), {"000-0": BATCH}, "running"),
    (after(DIED), {"000-1": BATCH}, "pending"),
    (after(DIED), {}, "pending"),
    (after(DIED), {"001-0": AGAIN}, "queued"),
    (after(DIED, Attempt(worker="001-0")), {"001-0": AGAIN}, "running"),
    # its worker has created the file and not yet written the first line
    (after(Attempt()), {"000-0": BATCH}, "running"),
    (after(Attempt()), {}, "pending"),
    (after(Attempt()), {"001-0": AGAIN}, "queued"),
    (after(RAISED), {}, "failed"),
    (after(RAISED), {"000-0": BATCH}, "failed"),
    (after(Attempt(cause="out_of_memory")), {}, "pending"),  # once more, in pieces
    (after(*[Attempt(cause="out_of_memory")] * 2), {}, "failed"),
    (after(RAISED, Attempt(worker="001-0")), {"001-0": AGAIN}, "running"),
    (after(Attempt(cause="interrupted")), {}, "pending"),
    (after(Attempt(cause="superseded")), {}, "pending"),
    (after(Attempt(cause="disk_full")), {}, "pending"),
    (after(*[Attempt(cause="interrupted")] * 20), {}, "pending"),
    (after(*[Attempt(cause="disk_full")] * 20), {}, "pending"),
    (after(*[DIED] * (GIVE_UP_AFTER - 1)), {}, "pending"),
    (after(*[DIED] * GIVE_UP_AFTER), {}, "lost"),
    (after(*[KILLED] * GIVE_UP_AFTER), {}, "lost"),
    (after(*[DIED] * GIVE_UP_AFTER), {"000-0": BATCH}, "running"),  # the last one is still at it
    (after(*[KILLED] * (GIVE_UP_AFTER - 1), Attempt(cause="killed", progress=1)), {}, "pending"),  # it got on
    (after(Attempt(cause="killed", progress=1), *[KILLED] * GIVE_UP_AFTER), {}, "lost"),
])
def test_status_of_a_trial(state: TrialState, living: dict[str, Batch], status: str) -> None:
    now = plan(["t"], {"t": state}, living=living, retry=RETRY)
    assert now.status == {"t": status}
    assert now.submit == ([("t", len(state.attempts))] if status == "pending" else [])
    assert now.over is (status in ("done", "infeasible", "failed", "lost"))


@pytest.mark.parametrize("attempts, forgiven, status", [
    ([RAISED], 1, "pending"), ([RAISED, RAISED], 1, "failed"), ([DIED] * 5, 5, "pending"), ([DIED] * 9, 5, "pending"),
    ([DIED] * 10, 5, "lost"), ([], 0, "pending")])
def test_forgiven_attempts_do_not_count_and_keep_their_numbers(attempts: list[Attempt], forgiven: int, status: str) -> None:
    now = plan(["t"], {"t": after(*attempts)}, living={}, retry=RETRY, forgiven={"t": forgiven})
    assert now.status["t"] == status
    assert now.submit == ([("t", len(attempts))] if status == "pending" else [])


def test_what_runs_is_not_begun_again_because_the_past_is_forgiven() -> None:
    """`--retry` while trials run in Slurm without a launcher."""
    states = {"t": after(KILLED, DIED), "u": after(Attempt(worker="000-0", cause="preempted"))}
    now = plan(["t", "u"], states, living={"000-0": BATCH}, retry=RETRY, forgiven={"t": 2, "u": 1})
    assert now.status == {"t": "running", "u": "queued"} and not now.submit


def test_order_and_counts() -> None:
    states = {"a": DONE, "b": NEW, "c": after(RAISED), "d": after(DIED), "e": TrialState(result="infeasible")}
    now = plan(list("abcde"), states, living={}, retry=RETRY)
    assert now.submit == [("b", 0), ("d", 1)]
    assert (now.count("done", "infeasible"), now.count("failed"), now.count("pending"), now.over) == (2, 1, 2, False)


def test_nothing_to_plan() -> None:
    now = plan([], {}, living={}, retry=RETRY)
    assert now.over and not now.submit


# ------------------------------------------------------------------------------------------------------- workers with their own share

def test_a_worker_has_its_own_share_in_order() -> None:
    batch = Batch(number=3, workers=3, share=2, trials=[(name, 0) for name in "abcde"])
    assert [[name for name, _ in batch.trials_of(place)] for place in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    together = Batch(number=3, workers=3, trials=batch.trials)
    assert all(together.trials_of(place) == batch.trials for place in range(3))


def test_what_a_dead_worker_has_not_begun_is_pending_and_what_others_have_is_not() -> None:
    batch = Batch(number=0, workers=2, share=2, trials=[(name, 0) for name in "abcd"])
    states = {"a": after(Attempt(worker="000-0")), "b": NEW, "c": after(Attempt(worker="000-1")), "d": NEW}
    now = plan(list("abcd"), states, living={"000-1": batch}, retry=RETRY)
    assert now.status == {"a": "pending", "b": "pending", "c": "running", "d": "queued"} and now.submit == [("a", 1), ("b", 0)]
    whole = Batch(number=0, workers=2, trials=batch.trials)  # workers that take from all trials take what the dead one leaves
    now = plan(list("abcd"), states, living={"000-1": whole}, retry=RETRY)
    assert now.status == {"a": "pending", "b": "queued", "c": "running", "d": "queued"}


@pytest.mark.parametrize("cause, status", [
    ("interrupted", "queued"), ("time_limit", "queued"), ("preempted", "queued"),  # its job is on its way back into the queue
    ("killed", "pending"), ("exception", "failed"), ("out_of_memory", "pending"), ("lost", "pending"), ("node_failure", "pending")])
def test_an_attempt_that_ended_while_its_worker_lives(cause: str, status: str) -> None:
    state = after(Attempt(worker="000-0", cause=cause))
    now = plan(["t"], {"t": state}, living={"000-0": Batch(number=0, workers=1, share=1, trials=[("t", 0)])}, retry=RETRY)
    assert now.status["t"] == status


def test_a_job_on_its_way_back_is_waited_for_however_often_it_was_stopped() -> None:
    state = after(*[Attempt(worker="000-0", cause="time_limit")] * 9)
    assert plan(["t"], {"t": state}, living={"000-0": BATCH}, retry=RETRY).status["t"] == "queued"
    assert plan(["t"], {"t": state}, living={}, retry=RETRY).status["t"] == "failed"


# --------------------------------------------------------------------------------------------------------------- what is cancelled

@pytest.mark.parametrize("state, at, living, status", [
    (NEW, 0, {}, "cancelled"),
    (NEW, 0, {"000-0": BATCH}, "cancelled"),  # its worker will look before it begins
    (NEW, -1, {}, "pending"),  # wanted again
    (NEW, -1, {"000-0": BATCH}, "queued"),
    (after(KILLED), 1, {}, "cancelled"),
    (after(KILLED), 0, {}, "pending"),  # a later attempt: it was wanted after that
    (after(KILLED, KILLED), 1, {}, "pending"),
    (after(RAISED), 1, {}, "cancelled"),
    (after(DIED), 1, {"000-0": BATCH}, "running"),  # until its worker has seen it
    (after(Attempt(worker="000-0", cause="cancelled")), 1, {"000-0": BATCH}, "cancelled"),
    (after(Attempt(worker="000-0", cause="preempted")), 1, {"000-0": BATCH}, "cancelled"),
    (DONE, 7, {}, "done"),  # a result counts
])
def test_cancelled(state: TrialState, at: int, living: dict[str, Batch], status: str) -> None:
    now = plan(["t", "other"], {"t": state, "other": NEW}, living=living, retry=RETRY, cancelled={"t": at})
    assert now.status == {"t": status, "other": "pending"}
    assert ("t" in dict(now.submit)) is (status == "pending")


def test_a_study_of_which_the_rest_is_cancelled_is_over() -> None:
    assert plan(["a", "b"], {"a": DONE, "b": NEW}, living={}, retry=RETRY, cancelled={"b": 0}).over
