"""What is tried again, how often, in which order and for how many GPU-hours: the policies of [retry] and [limits], case by case and over
random histories."""

import dataclasses
import random
from collections.abc import Sequence

import pytest

from harness.grid import Retry
from harness.plan import Attempt, Batch, Plan, TrialState, canaries, plan, same_error, within_budget

RETRY = dataclasses.asdict(Retry())
CAUSES = ("preempted", "node_failure", "time_limit", "out_of_memory", "exception", "killed", "cancelled", "lost", "interrupted",
          "superseded", "disk_full")
NEW = TrialState()
DONE = TrialState(result="done")


def ended(cause: str | None, *, progress: int = 0, where: str | None = None, error: str | None = None) -> Attempt:
    return Attempt(worker="000-0", cause=cause, progress=progress, where=where, error=error)


def status(*attempts: Attempt, retry: dict[str, int] = RETRY) -> str:
    return plan(["t"], {"t": TrialState(attempts=attempts)}, living={}, retry=retry).status["t"]


# ------------------------------------------------------------------------------------------------------------ how often, after what

@pytest.mark.parametrize("cause, allowed, given_up", [
    ("killed", 4, "lost"), ("lost", 4, "lost"), ("cancelled", 3, "lost"), ("time_limit", 1, "failed"), ("out_of_memory", 1, "failed"),
    ("exception", 0, "failed")])
def test_defaults(cause: str, allowed: int, given_up: str) -> None:
    """As the grid has it when it says nothing."""
    assert status(*[ended(cause)] * allowed) == "pending"
    assert status(*[ended(cause)] * (allowed + 1)) == given_up


@pytest.mark.parametrize("cause", ["preempted", "node_failure", "interrupted", "superseded", "disk_full"])
def test_what_is_nobodys_fault_is_free(cause: str) -> None:
    assert status(*[ended(cause)] * 50) == "pending"


@pytest.mark.parametrize("cause", [name for name in RETRY if name in CAUSES])
@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_as_often_as_the_grid_allows(cause: str, allowed: int) -> None:
    retry = {**RETRY, cause: allowed}
    assert [status(*[ended(cause)] * n, retry=retry) == "pending" for n in range(1, 6)] == [n <= allowed for n in range(1, 6)]
    assert status(*[ended(cause)] * 40, retry={**RETRY, cause: -1}) == "pending"


def test_a_worker_that_died_without_a_word_counts_as_killed() -> None:
    assert status(*[ended(None)] * 2, *[ended("killed")] * 2) == "pending"
    assert status(*[ended(None)] * 3, *[ended("killed")] * 2) == "lost"


def test_each_cause_is_counted_by_itself() -> None:
    assert status(*[ended("killed"), ended("lost"), ended("preempted")] * 4) == "pending"
    assert status(*[ended("killed"), ended("lost"), ended("preempted")] * 4, ended("killed")) == "lost"


@pytest.mark.parametrize("cause", ["killed", "lost", "time_limit", "cancelled"])
def test_progress_makes_all_that_was_before_it_good(cause: str) -> None:
    often = [ended(cause)] * RETRY[cause]
    assert status(*often, ended(cause, progress=1)) == "pending"
    assert status(*often, ended("preempted", progress=1), *often) == "pending"
    assert status(*often, ended("preempted", progress=1), *often, ended(cause)) in ("lost", "failed")


@pytest.mark.parametrize("cause", ["exception", "out_of_memory"])
def test_what_would_come_again_counts_however_far_it_got(cause: str) -> None:
    retry = {**RETRY, cause: 2}
    far = ended(cause, progress=9)
    assert status(far, ended("preempted", progress=3), far, retry=retry) == "pending"
    assert status(far, ended("preempted", progress=3), far, ended("killed"), far, retry=retry) == "failed"


def given_up(attempts: Sequence[Attempt], retry: dict[str, int]) -> bool:
    """The same rule, told forwards."""
    tries = dict.fromkeys(CAUSES, 0)
    for attempt in attempts:
        cause = attempt.cause or "killed"
        if attempt.progress:
            tries = {name: count if name in ("exception", "out_of_memory") else 0 for name, count in tries.items()}
        if not attempt.progress or cause in ("exception", "out_of_memory"):
            tries[cause] += 1
    return tries[cause] > retry[cause] >= 0 if cause in retry else False


def test_random_histories_against_the_rule_told_forwards() -> None:
    chance, seen = random.Random(1), set()
    for _ in range(5000):
        retry = {**RETRY, **{cause: chance.choice((-1, 0, 1, 2)) for cause in RETRY if cause in CAUSES}}
        few = chance.sample(CAUSES, 3)
        attempts = [ended(chance.choice((*few, None)), progress=chance.choice((0, 0, 0, 2))) for _ in range(chance.randint(1, 8))]
        expected = given_up(attempts, retry)
        last = attempts[-1].cause
        assert status(*attempts, retry=retry) == ("pending" if not expected else
                                                  "failed" if last in ("exception", "out_of_memory", "time_limit") else "lost")
        seen.add((last, expected))
    assert len(seen) >= 20


def test_memory_that_does_not_suffice_is_halved_each_time() -> None:
    states = {"a": NEW, "b": TrialState(attempts=(ended("out_of_memory"),)),
              "c": TrialState(attempts=(ended("out_of_memory", progress=4), ended("preempted"), ended("out_of_memory"))),
              "d": TrialState(attempts=(ended("killed"),)), "e": TrialState(attempts=(ended("out_of_memory"),) * 3)}
    retry = {**RETRY, "out_of_memory": 2}
    assert plan(list("abcde"), states, living={}, retry=retry).accumulate == {"b": 2, "c": 4}
    now = plan(list("abcde"), states, living={}, retry=retry, forgiven=dict.fromkeys("abcde", 3))
    assert now.accumulate == {"b": 2, "c": 4, "e": 8}  # what is forgiven did not fit all the same


# ------------------------------------------------------------------------------------------------------ what must hold whatever is there

def made_up(chance: random.Random) -> tuple[dict[str, TrialState], dict[str, Batch], dict[str, int], dict[str, int]]:
    """Trials with their attempts, living workers, what is cancelled and what is forgiven: anything that a disk could say."""
    names = [f"t{n}" for n in range(chance.randint(1, 6))]
    some = [chance.sample(names, chance.randint(1, len(names))) for _ in range(3)]
    batches = [Batch(number=n, workers=2, share=chance.choice((0, 2)), trials=[(name, chance.randint(0, 2)) for name in some[n]])
               for n in range(3)]
    workers = {batch.worker(place): batch for batch in batches for place in range(2)}
    living = {name: workers[name] for name in workers if chance.random() < 0.4}
    states = {name: chance.choice((NEW, DONE)) if chance.random() < 0.3 else TrialState(attempts=tuple(
        Attempt(worker=chance.choice((*workers, "")), cause=chance.choice((*CAUSES, None, None)), progress=chance.randint(0, 1))
        for _ in range(chance.randint(0, 4)))) for name in names}
    few = [name for name in names if chance.random() < 0.3]
    return states, living, {name: chance.randint(-1, 3) for name in few}, {name: chance.randint(0, 4) for name in names}


def test_nothing_is_submitted_that_may_still_run() -> None:
    chance, submitted = random.Random(2), 0
    for _ in range(3000):
        states, living, cancelled, forgiven = made_up(chance)
        now = plan(list(states), states, living=living, retry=RETRY, cancelled=cancelled, forgiven=forgiven)
        promised = {pair for name, batch in living.items() for pair in batch.trials_of(batch.place(name))}
        for trial, attempt in now.submit:
            last = states[trial].attempts[-1] if states[trial].attempts else None
            assert now.status[trial] == "pending" and attempt == len(states[trial].attempts) and not states[trial].result
            assert (trial, attempt) not in promised and not (last and last.cause is None and last.worker in living)
            assert cancelled.get(trial, -1) < attempt
        assert [trial for trial, _ in now.submit] == [trial for trial in states if now.status[trial] == "pending"]
        assert now.over is not any(value in ("running", "queued", "pending") for value in now.status.values())
        submitted += len(now.submit)
    assert submitted > 1000


def test_when_nobody_lives_nothing_is_waited_for() -> None:
    chance = random.Random(3)
    for _ in range(1000):
        states, _, cancelled, forgiven = made_up(chance)
        now = plan(list(states), states, living={}, retry=RETRY, cancelled=cancelled, forgiven=forgiven)
        assert not now.count("running", "queued")


# ------------------------------------------------------------------------------------------------------------------ one goes first

def pending(count: int, **states: TrialState) -> tuple[Plan, dict[str, TrialState]]:
    """Trials "a0", "a1" ... of kind "a" and "b0" of kind "b", and others with a state of their own."""
    known = {**{f"a{n}": NEW for n in range(count)}, "b0": NEW, **states}
    return plan(list(known), known, living={}, retry=RETRY), known


def first_letter(trial: str) -> str:
    return trial[0]


def names(now: Plan) -> list[str]:
    return [trial for trial, _ in now.submit]


def test_of_many_of_a_kind_one_goes_first() -> None:
    now, states = pending(8)
    assert names(canaries(now, states, first_letter, above=8)) == ["a0", "b0"]
    assert canaries(now, states, first_letter, above=9) == now
    assert canaries(now, states, first_letter, above=0) == now
    now, states = pending(7)
    assert canaries(now, states, first_letter, above=8) == now


@pytest.mark.parametrize("first", [DONE, TrialState(result="infeasible"), TrialState(attempts=(ended("preempted", progress=1),))])
def test_the_others_follow_when_one_has_finished_an_epoch(first: TrialState) -> None:
    now, states = pending(8, a9=first)
    assert canaries(now, states, first_letter, above=8) == now


@pytest.mark.parametrize("attempt", [ended("preempted"), ended("killed")])
def test_one_that_got_nowhere_proves_nothing(attempt: Attempt) -> None:
    now, states = pending(8, a9=TrialState(attempts=(attempt,)))
    assert names(canaries(now, states, first_letter, above=8)) == ["a0", "b0"]


def test_while_the_first_is_under_way_the_others_wait() -> None:
    now, states = pending(9)
    for word in ("running", "queued"):
        begun = dataclasses.replace(now, status={**now.status, "a0": word}, submit=[pair for pair in now.submit if pair[0] != "a0"])
        assert names(canaries(begun, states, first_letter, above=8)) == ["b0"]
    failed = dataclasses.replace(now, status={**now.status, "a0": "failed"}, submit=[pair for pair in now.submit if pair[0] != "a0"])
    assert names(canaries(failed, states, first_letter, above=8)) == ["a1", "b0"]


def test_the_rest_of_the_plan_stays() -> None:
    states = {f"a{n}": TrialState(attempts=(ended("out_of_memory"),)) for n in range(9)}
    now = plan(list(states), states, living={}, retry=RETRY)
    held = canaries(now, states, first_letter, above=8)
    assert (held.status, held.accumulate, held.submit) == (now.status, now.accumulate, [("a0", 1)])


def test_no_kind_ever_waits_for_nobody() -> None:
    chance = random.Random(4)
    for _ in range(1000):
        states, living, _, _ = made_up(chance)
        now = plan(list(states), states, living=living, retry=RETRY)
        groups = {trial: chance.randrange(2) for trial in states}
        held = canaries(now, states, groups.__getitem__, above=chance.randint(0, 4))
        assert [pair for pair in now.submit if pair in held.submit] == held.submit
        for trial, _ in now.submit:
            alike = [other for other in states if groups[other] == groups[trial]]
            assert any(now.status[other] in ("running", "queued") or other in names(held) for other in alike)


# ------------------------------------------------------------------------------------------------------------------ the same error

HERE = "toy_job.py:9 in train < harness/rank.py:80 in _run"


def died(*wheres: str | None, cause: str = "exception", finished: int = 0) -> tuple[dict[str, TrialState], list[str]]:
    """Trials that died at these places, each with a text of its own, and some that are done."""
    states = {f"f{n}": TrialState(attempts=(ended(cause, where=where, error=f"ValueError: {n}"),)) for n, where in enumerate(wheres)}
    return {**states, **{f"d{n}": DONE for n in range(finished)}}, list(states)


def test_the_same_place_is_the_same_error_whatever_it_says() -> None:
    states, failed = died(HERE, HERE, HERE)
    assert same_error(states, failed, at_least=3) == ["f0", "f1", "f2"]
    assert same_error(states, failed, at_least=4) == [] and same_error(states, failed, at_least=0) == []
    assert same_error(states, failed[1:], at_least=3) == []  # one of them failed in an earlier launch


def test_other_places_are_other_errors() -> None:
    states, failed = died(HERE, "there", HERE, "there", HERE)
    assert same_error(states, failed, at_least=3) == ["f0", "f2", "f4"]
    assert same_error(states, failed, at_least=4) == []


def test_without_a_place_the_text_decides() -> None:
    states, failed = died(None, None, None)
    assert same_error(states, failed, at_least=3) == []
    same = {name: TrialState(attempts=(ended("exception", error="ValueError: no"),)) for name in failed}
    assert same_error(same, failed, at_least=3) == failed


@pytest.mark.parametrize("finished, stops", [(0, True), (2, True), (3, False), (9, False)])
def test_a_grid_of_which_more_work_than_fail_goes_on(finished: int, stops: bool) -> None:
    states, failed = died(HERE, HERE, HERE, finished=finished)
    assert bool(same_error(states, failed, at_least=3)) is stops


@pytest.mark.parametrize("cause", ["out_of_memory", "killed", "time_limit", "lost"])
def test_only_exceptions_are_the_same_error(cause: str) -> None:
    states, failed = died(HERE, HERE, HERE, cause=cause)
    assert same_error(states, failed, at_least=3) == []


def test_nothing_failed() -> None:
    assert same_error({"a": DONE}, [], at_least=1) == []


# ------------------------------------------------------------------------------------------------------------------- what is paid for

@pytest.mark.parametrize("gpus, spent, promised, budget, paid", [
    (2, 0.0, 0.0, 12, "abc"),  # 2 GPUs x 1, 2 and 3 hours
    (2, 0.0, 0.0, 11, "ab"), (2, 0.0, 0.0, 6, "ab"), (2, 0.0, 0.0, 5, "a"), (2, 0.0, 0.0, 1, ""),
    (2, 4.0, 2.0, 12, "ab"), (2, 6.0, 6.0, 12, ""), (2, 13.0, 0.0, 12, ""),
    (2, 99.0, 99.0, 0, "abc"),  # no limit
    (0, 99.0, 99.0, 1, "abc"),  # no GPUs
    (4, 0.0, 0.0, 12, "ab"),
])
def test_what_the_budget_pays_for(gpus: int, spent: float, promised: float, budget: float, paid: str) -> None:
    states = dict.fromkeys("abc", NEW)
    now = plan(list("abc"), states, living={}, retry=RETRY)
    hours = {"a": 1.0, "b": 2.0, "c": 3.0}
    found = within_budget(now, gpus=gpus, spent_h=spent, promised_h=promised, budget_h=budget, hours_of=hours.__getitem__)
    assert "".join(trial for trial, _ in found) == paid


def test_the_order_is_kept_though_a_later_one_would_fit() -> None:
    """Otherwise the long trials of a grid would never come."""
    now = plan(list("ab"), dict.fromkeys("ab", NEW), living={}, retry=RETRY)
    assert within_budget(now, gpus=1, spent_h=0, promised_h=0, budget_h=2, hours_of={"a": 3.0, "b": 1.0}.__getitem__) == []
