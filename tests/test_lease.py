"""One launcher at a time: who holds a study, how a dead holder is told from one that cannot be seen, and what a refusal says."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from slurm_fixture import Cluster, sbatch, wait_for_state

from harness import lease, processes
from harness.errors import StudyError
from harness.lease import Lease
from harness.store import Store

ELSEWHERE = {"host": "elsewhere", "boot": "another", "pid": 77, "pid_started": "5", "since": 1e9, "gone": [], "job_id": ""}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm to ask
    monkeypatch.setattr(lease, "SILENT_S", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    store = Store(tmp_path / "study")
    store.create_folders()
    return store


def take(store: Store, *, take_over: bool = False, slurm: bool = True, notes: list[str] | None = None) -> Lease:
    found = Lease(store)
    found.take("s", take_over=take_over, jobs_outlive_hosts=slurm, note=(notes if notes is not None else []).append)
    return found


def held(store: Store, number: int = 1, *, beat: str = "", **who: Any) -> None:
    """Somebody launched before."""
    (store.root / "launcher" / f"{number:06d}.json").write_text(json.dumps({**ELSEWHERE, **who}))
    if beat:
        store.beat(number, beat)


def a_process(*, ended: bool = False) -> dict[str, Any]:
    """A process of this machine, as it would have written itself down."""
    code = "import json, time; from harness import processes; print(json.dumps(processes.this_process()), flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    who = json.loads(process.stdout.readline())
    if ended:
        process.kill()
        process.communicate()
    return {**who, "process": process}


def test_a_new_study_is_taken_and_counted(store: Store) -> None:
    first = take(store)
    first.keep()
    assert first.number == 1 and store.last_beat(1) == "1"
    assert Lease.holder(store) == {**store.launchers()[0], "number": 1} and store.launchers()[0]["pid"] == os.getpid()


def test_a_living_holder_on_this_host_keeps_it(store: Store) -> None:
    who = a_process()
    process = who.pop("process")
    held(store, **who)
    for words in ({}, {"take_over": True}, {"slurm": False}):
        with pytest.raises(StudyError, match=rf"study s is being launched by process {who['pid']} on {who['host']} since "
                                             r"2001-09-\d\d \d\d:\d\d:40; end it there with Ctrl-C first"):
            take(store, **words)
    store.beat(1, "ended")  # it has said so itself, and may take a moment to go
    assert take(store).number == 2
    process.kill()
    process.communicate()


def test_a_dead_holder_on_this_host_is_replaced(store: Store) -> None:
    who = a_process(ended=True)
    who.pop("process")
    held(store, **who, beat="99")
    notes: list[str] = []
    assert take(store, notes=notes).number == 2 and not notes


def test_a_process_number_that_was_given_again_is_another_process(store: Store) -> None:
    held(store, **{**processes.this_process(), "pid_started": "1"})
    assert take(store).number == 2


@pytest.mark.parametrize("slurm", [True, False])
def test_one_who_said_that_it_ended_is_not_waited_for_wherever_it_was(slurm: bool, store: Store) -> None:
    held(store, beat="ended")
    notes: list[str] = []
    assert take(store, slurm=slurm, notes=notes).number == 2 and not notes


def test_workers_of_a_local_launcher_cannot_be_seen_from_elsewhere(store: Store) -> None:
    held(store)
    with pytest.raises(StudyError, match="on elsewhere since .*cannot be seen from .*add --take-over"):
        take(store, slurm=False)
    assert len(store.launchers()) == 1
    taken = take(store, slurm=False, take_over=True)
    assert taken.gone == ["elsewhere"] and store.launchers()[-1]["gone"] == ["elsewhere"]


def test_a_silent_launcher_elsewhere_is_replaced_where_jobs_can_be_seen_from_everywhere(store: Store) -> None:
    held(store, beat="7")
    notes: list[str] = []
    taken = take(store, notes=notes)
    assert taken.number == 2 and taken.gone == []  # its jobs are Slurm's, and go on
    assert len(notes) == 1 and "process 77 on elsewhere launched this study; waiting up to" in notes[0]


def test_one_that_still_counts_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held(store, beat="7")
    monkeypatch.setattr(lease, "SILENT_S", 60.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: store.beat(1, "8"))
    with pytest.raises(StudyError, match="is being launched by process 77 on elsewhere"):
        take(store)
    assert len(store.launchers()) == 1


def test_one_that_ends_while_it_is_watched_is_replaced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held(store, beat="7")
    monkeypatch.setattr(lease, "SILENT_S", 60.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: store.beat(1, "ended"))
    assert take(store).number == 2


def test_take_over_does_not_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held(store, beat="7")
    monkeypatch.setattr(lease, "SILENT_S", 1e9)
    assert take(store, take_over=True).number == 2


def test_an_earlier_run_of_the_job_that_we_are_is_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held(store, job_id="17", beat="7")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    notes: list[str] = []
    taken = take(store, notes=notes)
    assert taken.number == 2 and not notes and store.launchers()[-1]["job_id"] == "17"


def test_a_host_that_is_back_counts_again(store: Store) -> None:
    ours = processes.this_process()["host"]
    held(store, gone=[ours, "a"], beat="ended")
    assert take(store).gone == ["a"]


def test_the_replaced_one_notices_and_disturbs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(store)
    first.keep()
    held(store, 2)
    first.keep()  # it has looked a moment ago
    assert store.last_beat(1) == "1"
    monkeypatch.setattr(lease, "BEAT_S", 0.0)
    with pytest.raises(StudyError, match="the study was taken over by process 77 on elsewhere.*nothing that runs is disturbed"):
        first.keep()
    first.release()
    assert store.last_beat(2) == "" and store.last_beat(1) == "ended"


def test_of_many_at_the_same_moment_one_wins_and_the_losers_leave_it_alone(store: Store) -> None:
    gate, won, refused = threading.Barrier(8), list[Lease](), list[str]()

    def launch() -> None:
        mine = Lease(store)
        gate.wait()
        try:
            mine.take("s", take_over=False, jobs_outlive_hosts=True, note=refused.append)
            won.append(mine)
            mine.keep()
        except StudyError as error:
            refused.append(str(error))
            mine.release()  # as `Launch.run` does, whatever happened

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 7 and len(store.launchers()) == 1
    assert store.last_beat(1) == "1", "a loser said in the winner's name that it had ended"


def test_nothing_was_taken_and_nothing_is_released(store: Store) -> None:
    Lease(store).release()
    assert not list((store.root / "launcher").iterdir())


@pytest.mark.slurm
def test_a_launcher_in_a_job_is_seen_through_slurm(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.slurm_conf))
    monkeypatch.setattr(lease, "SILENT_S", 0.0)
    store = Store(tmp_path / "it's a study")
    store.create_folders()
    job_id = sbatch(cluster, "--job-name=h-0123456789ab-launcher", script="sleep 600")
    wait_for_state(cluster, job_id, "RUNNING")
    held(store, job_id=job_id, beat="7")
    with pytest.raises(StudyError, match=rf"on elsewhere in job {job_id} since .*harness.cancel --launcher '.*it'\"'\"'s a study'"):
        take(store)
    cluster.run("scancel", job_id)
    wait_for_state(cluster, job_id, "CANCELLED")
    notes: list[str] = []
    assert take(store, notes=notes).number == 2 and not notes  # Slurm has answered: nobody is waited for
