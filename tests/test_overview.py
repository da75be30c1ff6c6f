"""What a look at a study takes for granted: who is asked, who counts as alive, and when the tables are believed."""

import os
import re
import shutil
from pathlib import Path

import pytest
from disk_study import NONCE, DiskStudy, as_json, verb
from made_up_slurm import MadeUpSlurm

from harness import finished, processes, tables
from harness.overview import look
from harness.status import summary
from harness.store import Store

A, B = "width=1 lr=0.1", "width=1 lr=0.5"
JOB = f"h-{NONCE[:12]}-000"


@pytest.fixture
def study(tmp_path: Path) -> DiskStudy:
    return DiskStudy(tmp_path / "told")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUpSlurm:
    found = MadeUpSlurm(tmp_path, monkeypatch)
    found.says("sbatch")
    return found


def queue(*lines: str) -> str:
    """What squeue prints: place, state, node, time and reason of each element of job 17."""
    return "".join(f"17|{line}|{JOB}\n" for line in lines)


# ------------------------------------------------------------------------------------------------------------------- who is asked, and not


def test_without_slurm_it_says_so_and_believes_the_disk(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1))
    study.claim("000-0")
    study.attempt((A, 0), "000-0", epochs=1)  # and no squeue is there
    said = as_json(capsys, "status", study.store.root)
    assert said["trials"]["running"] == 1 and said["trials"]["queued"] == 1 and said["trials"]["pending"] == 6
    assert said["slurm"] == {"asked": False, "trouble": "squeue is not on this machine"}
    assert "Slurm      not known: squeue is not on this machine" in verb(capsys, "status", study.store.root)[1]


def test_a_controller_that_does_not_answer(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1))
    made_up.says("squeue", complaint="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", status=1)
    status, said, _ = verb(capsys, "status", study.store.root)
    assert status == 0 and "not known: Unable to contact slurm controller" in said and "queued 2" in said


def test_a_local_study_asks_nobody(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.says("squeue", status=1)
    study.batch((A, 0), (A, 1), executor="local", share=0)
    study.launched(alive=False)
    study.claim("000-0", **processes.this_process())
    study.attempt((A, 0), "000-0", epochs=1, **processes.this_process())
    said = as_json(capsys, "status", study.store.root)
    assert said["trials"]["running"] == 1 and said["slurm"] == {"asked": False, "trouble": ""} and made_up.calls("squeue") == []
    assert said["running"][0]["job_id"] == "" and said["running"][0]["host"] == processes.this_process()["host"]


def test_workers_that_cannot_be_seen_from_here_count_as_running(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), executor="local", share=0)
    study.launched(alive=True, host="n1", boot="another boot")
    study.claim("000-0")
    study.attempt((A, 0), "000-0")
    said = as_json(capsys, "status", study.store.root)
    assert said["trials"]["running"] == 1 and said["unseen_hosts"] == ["n1"] and said["launcher"]["alive"] is None
    text = verb(capsys, "status", study.store.root)[1]
    assert "workers on n1 cannot be seen from here" in text and re.search(r"cannot be seen from here, last sign of life \d+ s ago", text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_of_a_colleagues_study_the_queue_is_not_believed(study: DiskStudy, made_up: MadeUpSlurm,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    """squeue shows us our own jobs only, and theirs are no less alive for that."""
    study.batch((A, 0), (A, 1))
    study.claim("000-0")
    study.attempt((A, 0), "000-0")
    made_up.says("squeue", "")
    os.chown(study.store.env_file, 12345, 12345)
    said = as_json(capsys, "status", study.store.root)
    assert said["trials"]["running"] == 1 and said["trials"]["queued"] == 1 and "user 12345" in said["slurm"]["trouble"]
    assert made_up.calls("squeue") == []


def test_what_slurm_says_of_a_dead_worker_decides(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any launcher has written it down: preempted is tried for ever, out of memory once in smaller pieces."""
    study.batch((A, 0), (A, 1), (B, 0), (B, 1))
    for place, trial in enumerate([(A, 0), (A, 1), (B, 0), (B, 1)]):
        study.claim(f"000-{place}")
        if trial == (B, 0):
            study.attempt(trial, "000-2", end={"cause": "out_of_memory"})
        study.attempt(trial, f"000-{place}")
    made_up.says("squeue", queue("0|PREEMPTED||1:00|None", "1|SUSPENDED|n1|1:00|None", "2|OUT_OF_MEMORY||1:00|None"))
    said = as_json(capsys, "status", study.store.root)["trials"]
    assert {name: said[name] for name in ("running", "pending", "failed", "lost")} == {"running": 1, "pending": 6, "failed": 1, "lost": 0}
    status = look(study.store.root).status
    assert [status[study.trials[trial].id] for trial in [(A, 0), (A, 1), (B, 0), (B, 1)]] == ["pending", "running", "failed", "pending"]


def test_a_batch_whose_submission_is_not_confirmed_waits_as_long_as_its_launcher_lives(study: DiskStudy, made_up: MadeUpSlurm) -> None:
    study.batch((A, 0), job_id=None)
    study.launched(alive=True)
    made_up.says("squeue", "")
    assert look(study.store.root).plan.count("queued") == 1
    study.store.beat(1, "ended")
    assert look(study.store.root).plan.count("queued") == 0
    made_up.says("squeue", queue("0|PENDING||0:00|Priority"))
    assert look(study.store.root).plan.count("queued") == 1, "it was submitted all the same"


# ------------------------------------------------------------------------------------------------------------------- tables as a cache


def test_with_the_tables_it_says_the_same_as_without(study: DiskStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finished, "CACHE_FROM", 0)
    study.batch((A, 0), (A, 1), (B, 0), (B, 1), executor="local", share=0)
    study.done((A, 0), "000-0", 0.5)
    study.attempt((A, 1), "000-0", epochs=2)
    study.done((A, 1), "000-1", 0.75)
    study.infeasible((B, 0), "000-0", "too deep")
    study.attempt((B, 1), "000-1", end={"cause": "exception", "error": "no"})
    without = summary(look(study.store.root))
    tables.Tables(study.store, study.grid, list(study.trials.values())).write()
    reads: list[str] = []
    real = Store.result
    monkeypatch.setattr(Store, "result", lambda self, trial, **more: reads.append(trial) or real(self, trial, **more))
    assert summary(look(study.store.root)) == without
    assert study.trials[(A, 0)].id not in reads, "the tables were not used"


def test_the_tables_are_believed_of_nothing_else(study: DiskStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that somebody threw away is to be run again, one that failed may be running by now, and a damaged table is passed over."""
    monkeypatch.setattr(finished, "CACHE_FROM", 0)
    study.batch((A, 0), (A, 1), executor="local", share=0)
    gone = study.done((A, 0), "000-0", 0.5)
    failed = study.attempt((A, 1), "000-0", end={"cause": "exception", "error": "no"})
    tables.Tables(study.store, study.grid, list(study.trials.values())).write(states={failed: "failed"})
    shutil.rmtree(study.store.trial_folder(gone))
    study.batch((A, 1), executor="local", share=0)
    study.claim("001-0", **processes.this_process())
    study.attempt((A, 1), "001-0", **processes.this_process())
    status = look(study.store.root).status
    assert status[gone] == "pending" and status[failed] == "running"
    for name in ("trials", "attempts"):
        study.store.table_file(name).write_bytes(b"PAR1 no longer")
        assert look(study.store.root).status == status
