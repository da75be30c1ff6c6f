"""What to do next, as tables of cases: what is on disk and who is alive, against what is decided."""

import pytest

from harness.plan import GIVE_UP_AFTER, Attempt, Batch, TrialState, plan

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
    (after(Attempt(cause="out_of_memory")), {}, "failed"),
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
    now = plan(["t"], {"t": state}, living=living, slots=4)
    assert now.status == {"t": status}
    assert now.submit == ([("t", len(state.attempts))] if status == "pending" else [])
    assert now.over is (status in ("done", "infeasible", "failed", "lost"))


@pytest.mark.parametrize("attempts, forgiven, status", [
    ([RAISED], 1, "pending"), ([RAISED, RAISED], 1, "failed"), ([DIED] * 5, 5, "pending"), ([DIED] * 9, 5, "pending"),
    ([DIED] * 10, 5, "lost"), ([], 0, "pending")])
def test_forgiven_attempts_do_not_count_and_keep_their_numbers(attempts: list[Attempt], forgiven: int, status: str) -> None:
    now = plan(["t"], {"t": after(*attempts)}, living={}, slots=1, forgiven={"t": forgiven})
    assert now.status["t"] == status
    assert now.submit == ([("t", len(attempts))] if status == "pending" else [])


@pytest.mark.parametrize("pending, living, slots, workers", [
    (9, 0, 2, 2), (1, 0, 2, 1), (9, 1, 2, 1), (9, 2, 2, 0), (9, 3, 2, 0), (0, 0, 2, 0)])
def test_as_many_workers_as_fit(pending: int, living: int, slots: int, workers: int) -> None:
    trials = [f"t{n}" for n in range(pending)]
    elsewhere = Batch(number=0, workers=3, trials=[("other", 0)])
    now = plan(trials, dict.fromkeys(trials, NEW), living={f"000-{n}": elsewhere for n in range(living)}, slots=slots)
    assert now.workers == workers and len(now.submit) == pending


def test_order_and_counts() -> None:
    states = {"a": DONE, "b": NEW, "c": after(RAISED), "d": after(DIED), "e": TrialState(result="infeasible")}
    now = plan(list("abcde"), states, living={}, slots=2)
    assert now.submit == [("b", 0), ("d", 1)]
    assert (now.count("done", "infeasible"), now.count("failed"), now.count("pending"), now.over) == (2, 1, 2, False)


def test_nothing_to_plan() -> None:
    now = plan([], {}, living={}, slots=1)
    assert now.over and not now.submit and now.workers == 0
