"""Which workers are believed to live, by what Slurm says or does not say: with programs in place of its commands and a clock that tests
move."""

from pathlib import Path
from typing import Any

import pytest
from made_up_slurm import DOWN, NAME, Site

from harness.plan import Batch
from harness.slurm_executor import GONE_AFTER_S

WHO = {"worker": "000-0", "pid": 1, "host": "n1"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUE_HOLD", "NEVER_HEARD_OF"])
@pytest.mark.parametrize("who", [None, WHO])
def test_a_worker_that_is_listed_lives(state: str, who: dict[str, Any] | None, site: Site) -> None:
    batch, there = site.written(claims={0: who} if who else {}), site.executor()
    site.listed(f"0 {state}")
    for _ in range(5):
        assert "000-0" in site.asked(there, batch)
    assert there.end_of("000-0") is None


@pytest.mark.parametrize("state, cause", [
    ("FAILED", "killed"), ("TIMEOUT", "time_limit"), ("DEADLINE", "time_limit"), ("PREEMPTED", "preempted"), ("NODE_FAIL", "node_failure"),
    ("BOOT_FAIL", "node_failure"), ("OUT_OF_MEMORY", "out_of_memory"), ("CANCELLED", "cancelled"), ("CANCELLED by 1000", "cancelled"),
    ("REVOKED", "cancelled")])
def test_one_that_is_listed_as_ended_is_dead_and_has_a_cause(state: str, cause: str, site: Site) -> None:
    batch, there = site.written(claims={0: WHO, 1: WHO}), site.executor()
    site.listed(f"0 {state}", "1 RUNNING")
    assert site.asked(there, batch) == {"000-1"}
    assert there.end_of("000-0") == {"cause": cause, "state": state.split()[0]} and there.end_of("000-1") is None


def test_one_that_said_all_is_done_is_given_time_for_its_files_to_be_seen(site: Site) -> None:
    batch, there = site.written(claims={0: WHO}), site.executor()
    site.listed("0 COMPLETED", "1 COMPLETED")
    assert site.asked(there, batch) == {"000-0"}  # the other never took its place: it has no files
    assert site.asked(there, batch, after_s=GONE_AFTER_S - 1) == {"000-0"}
    assert site.asked(there, batch, after_s=2) == set()


def test_one_that_is_listed_no_more_is_not_given_up_at_once(site: Site) -> None:
    batch, there = site.written(claims={0: WHO}), site.executor()
    site.listed("0 RUNNING", "1 RUNNING")
    assert site.asked(there, batch) == {"000-0", "000-1"}
    site.listed()
    assert site.asked(there, batch) == {"000-0", "000-1"}
    assert site.asked(there, batch, after_s=5) == {"000-0"}  # whose place nobody took needs no patience: it is closed
    assert site.asked(there, batch, after_s=GONE_AFTER_S - 10) == {"000-0"} and there.end_of("000-0") is None
    assert site.asked(there, batch, after_s=10) == set()
    assert there.end_of("000-0") == {"cause": "lost", "state": "LOST"}


def test_one_that_was_overlooked_once_has_all_the_patience_again(site: Site) -> None:
    batch, there = site.written(workers=1, claims={0: WHO}), site.executor()
    for listed in ((), ("0 RUNNING",), ()):
        site.listed(*listed)
        assert site.asked(there, batch, after_s=GONE_AFTER_S - 10) == {"000-0"}


def test_the_accounting_knows_sooner(site: Site) -> None:
    batch, there = site.written(claims={0: WHO, 1: WHO}), site.executor()
    site.slurm.says("sacct", "7_0|NODE_FAIL\n7_1|RUNNING\n")
    assert site.asked(there, batch) == {"000-1"} and there.end_of("000-0") == {"cause": "node_failure", "state": "NODE_FAIL"}
    assert "--jobs=7" in site.slurm.calls("sacct")[0]
    site.slurm.says("sacct", "7_0|COMPLETED\n7_1|COMPLETED\n")
    site.asked(there, batch)
    assert there.end_of("000-0") == {"cause": "node_failure", "state": "NODE_FAIL"}  # what is known is not asked for again


def test_without_an_accounting_it_goes_as_well(site: Site) -> None:
    site.slurm.says("scontrol", "MaxArraySize = 1000\nAccountingStorageType = accounting_storage/none\n")
    site.slurm.says("sacct", "7_0|NODE_FAIL\n")
    batch, there = site.written(claims={0: WHO}), site.executor()
    assert "000-0" in site.asked(there, batch)
    assert "000-0" not in site.asked(there, batch, after_s=GONE_AFTER_S + 1) and not site.slurm.calls("sacct")


def test_an_accounting_that_fails_changes_nothing(site: Site) -> None:
    site.slurm.says("sacct", complaint="sacct: error: Problem talking to the database: Connection refused\n", status=1)
    batch, there = site.written(claims={0: WHO}), site.executor()
    assert "000-0" in site.asked(there, batch) and there.trouble == ""
    assert "000-0" not in site.asked(there, batch, after_s=GONE_AFTER_S + 1)


def test_nobody_dies_while_slurm_is_silent(site: Site) -> None:
    batch, there = site.written(claims={0: WHO}), site.executor()
    site.listed("0 RUNNING", "1 PENDING")
    site.asked(there, batch)
    site.slurm.says("squeue", complaint=DOWN, status=1)
    for _ in range(50):
        assert site.asked(there, batch, after_s=1000) == {"000-0", "000-1"}
    site.listed("0 RUNNING", "1 RUNNING")
    assert site.asked(there, batch) == {"000-0", "000-1"} and there.trouble == ""


def test_one_that_slurm_starts_again_lives_again(site: Site) -> None:
    batch, there = site.written(workers=1, claims={0: WHO}), site.executor()
    site.listed("0 NODE_FAIL")
    assert site.asked(there, batch) == set()
    site.listed("0 PENDING")
    assert site.asked(there, batch) == {"000-0"} and there.end_of("000-0") is None
    site.listed()
    assert site.asked(there, batch) == {"000-0"}  # missing anew: the patience begins anew


def test_a_job_of_an_unclaimed_place_that_was_cancelled_is_noticed(site: Site) -> None:
    """squeue and sacct forget a pending element altogether; its worker will never come."""
    batch, there = site.written(), site.executor()
    site.listed("0 PENDING")
    assert site.asked(there, batch) == {"000-0", "000-1"}
    assert site.asked(there, batch) == {"000-0"}


def test_closed_places_and_batches_of_this_machine_are_not_slurms(site: Site) -> None:
    batch = site.written(claims={0: {"closed": True}})
    local = Batch(number=5, workers=1, trials=[], settings={"executor": "local"}, claims=[WHO])
    site.listed("0 RUNNING", "1 RUNNING")
    assert site.asked(site.executor(), batch, local) == {"000-1"}


# ------------------------------------------------------------------------------------------------------------------- ending and telling

def test_what_waits_is_taken_back_and_what_runs_is_asked_to_end(site: Site) -> None:
    batch, there = site.written(workers=4, claims={0: WHO}), site.executor()
    site.listed("0 RUNNING", "1 PENDING", "2 COMPLETED", "3 PENDING", "9|0|PENDING||0:00|Priority|of another study")
    site.asked(there, batch)
    there.withdraw([batch], running=False)
    assert site.slurm.calls("scancel") == ["7_1 7_3"]
    there.withdraw([batch], running=True)
    assert site.slurm.calls("scancel")[1:] == ["7_1 7_3", "--signal=TERM --batch 7_0"]


def test_taking_back_before_any_answer_and_while_nobody_answers_is_no_error(site: Site) -> None:
    batch, there = site.written(), site.executor()
    there.withdraw([batch], running=True)
    assert not site.slurm.calls("scancel")
    site.listed("0 RUNNING", "1 PENDING")
    site.asked(there, batch)
    site.slurm.says("scancel", complaint="scancel: error: Kill job error on job id 7: Socket timed out on send/recv operation", status=140)
    there.withdraw([batch], running=True)
    assert len(site.slurm.calls("scancel")) == 2  # what runs is asked though what waits could not be taken back


def test_why_jobs_wait(site: Site) -> None:
    batch, there = site.written(workers=4), site.executor()
    assert there.news() == ""
    site.listed("7|0|PENDING||0:00|Resources|" + NAME, "7|1|PENDING||0:00|Resources|" + NAME, "7|2|PENDING||0:00|BeginTime|" + NAME,
                "3 RUNNING", "9|0|PENDING||0:00|JobHeldUser|of another study")
    site.asked(there, batch)
    assert there.news() == "waiting in Slurm: 2 Resources, 1 BeginTime"


def test_last_words_of_a_worker(site: Site) -> None:
    there = site.executor()
    assert there.last_words("000-0") is None
    site.store.worker_log("000-0").write_text("")
    assert there.last_words("000-0") == "(it printed nothing)"
    site.store.worker_log("000-0").write_text("x" * 5000 + "ModuleNotFoundError: no\n")
    assert (there.last_words("000-0") or "").endswith("ModuleNotFoundError: no") and len(there.last_words("000-0") or "") < 2001
