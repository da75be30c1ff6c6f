"""`harness cancel`: what it chooses, that it asks and writes down first, that what runs keeps its progress, and how it is undone."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from disk_study import NONCE, DiskStudy, listing, verb
from launching import Bench
from made_up_slurm import MadeUpSlurm
from slurm_fixture import Cluster, until
from slurm_studies import SlurmBench
from small_disk import small_disk
from studies import ROOT

from harness.overview import look

A, B, C, D = "width=1 lr=0.1", "width=1 lr=0.5", "width=2 lr=0.1", "width=2 lr=0.5"
JOB = f"h-{NONCE[:12]}-000"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStudy:
    """Width 1: done, and running; width 2, learning rate 0.1: queued, two trials a job; the others are pending."""
    made_up = MadeUpSlurm(tmp_path, monkeypatch)
    study = DiskStudy(tmp_path / "told")
    study.batch((A, 0), (A, 1), (B, 0), (B, 1), (C, 0), (C, 1), share=2, gpus_per_job=3)
    study.done((A, 0), "000-0", 0.5)
    study.done((A, 1), "000-0", 0.5)
    study.claim("000-1")
    study.attempt((B, 0), "000-1", epochs=1)
    study.launched(alive=False)
    made_up.says("sbatch")
    made_up.says("squeue", f"17|1|RUNNING|n1|1:00|None|{JOB}\n17|2|PENDING||0:00|Priority|{JOB}\n")
    made_up.says("scancel")
    study.made_up = made_up  # type: ignore[attr-defined]
    return study


def cancelled(study: DiskStudy) -> set[tuple[str, int]]:
    names = {trial.id: key for key, trial in study.trials.items()}
    return {names[trial] for trial in study.store.cancelled()}


EVERYTHING = {(B, 0), (B, 1), (C, 0), (C, 1), (D, 0), (D, 1)}


@pytest.mark.parametrize(("words", "trials", "jobs"), [
    ([], EVERYTHING, ["17_2"]), (["--variant", C], {(C, 0), (C, 1)}, ["17_2"]), (["--status", "running"], {(B, 0)}, []),
    (["--status", "queued"], {(B, 1), (C, 0), (C, 1)}, ["17_2"]), (["--status", "pending"], {(D, 0), (D, 1)}, []),
    (["--set", "width=2"], {(C, 0), (C, 1), (D, 0), (D, 1)}, ["17_2"]), (["--set", "width=2.0", "--set", "lr=0.5"], {(D, 0), (D, 1)}, []),
    (["--variant", B, "--variant", D, "--status", "pending", "--status", "queued"], {(B, 1), (D, 0), (D, 1)}, []),
    (["--trial", "{C}-s1"], {(C, 1)}, []), (["--trial", "{C}"], {(C, 0), (C, 1)}, ["17_2"]),
])
def test_filters(study: DiskStudy, words: list[str], trials: set[tuple[str, int]], jobs: list[str],
                 capsys: pytest.CaptureFixture[str]) -> None:
    """A job leaves the queue when nothing that it would do is wanted; finished trials are never touched."""
    hashes = {"C": study.trials[(C, 0)].id.partition("-")[0]}
    status, said, errors = verb(capsys, "cancel", study.store.root, "--yes", *(word.format(**hashes) for word in words))
    assert status == 0 and not errors and cancelled(study) == trials
    assert study.made_up.calls("scancel") == [" ".join(["--state=PENDING", *jobs]) for _ in range(bool(jobs))]  # type: ignore[attr-defined]
    assert f"cancelled {len(trials)} trial" in said and "undo: python -m harness.launch" in said and said.rstrip().endswith("--retry")
    status, said, _ = verb(capsys, "cancel", study.store.root, "--yes", *(word.format(**hashes) for word in words))
    left = look(study.store.root)
    assert {left.status[study.trials[trial].id] for trial in trials} <= {"cancelled", "running"}
    assert [left.status[study.trials[trial].id] for trial in [(A, 0), (A, 1)]] == ["done", "done"]


def test_it_is_written_down_for_the_attempt_that_may_be_about_to_begin(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker on a node may see the record late and begin one more attempt, which is not wanted either."""
    assert verb(capsys, "cancel", study.store.root, "--yes", "--variant", C)[0] == 0
    study.claim("000-2")
    study.attempt((C, 0), "000-2", end={"cause": "preempted"})
    assert look(study.store.root).status[study.trials[(C, 0)].id] == "cancelled"


def test_nothing_passes_the_filters(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(study.store.root)
    status, said, _ = verb(capsys, "cancel", study.store.root, "--yes", "--variant", A)
    assert status == 0 and "none of the 6 unfinished trials passes all filters" in said
    assert listing(study.store.root) == before and not study.made_up.calls("scancel")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("words", "hint"), [
    (["--variant", "width=2 lr=0.11"], "did you mean `width=2 lr=0.1`?"), (["--trial", "zz"], "no trial zz"), (["--trial", ""], "no trial"),
    (["--set", "widht=2"], "did you mean `width`?"), (["--set", "width"], "write it as key=value"), (["--set", "=2"], "write it as"),
    (["--json"], None), ([], "add --yes"),
])
def test_mistakes_change_nothing(study: DiskStudy, words: list[str], hint: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(study.store.root)
    yes = ["--yes"] if words and hint else []
    status, _, errors = verb(capsys, "cancel", study.store.root, *yes, *words)
    assert status == 2 and (hint or "add --yes") in errors and listing(study.store.root) == before
    assert not study.made_up.calls("scancel")  # type: ignore[attr-defined]


def test_as_a_document(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, errors = verb(capsys, "cancel", study.store.root, "--yes", "--json", "--set", "width=1")
    document = json.loads(said)
    assert status == 0 and not errors
    assert document["trials"] == {study.trials[(B, 0)].id: "running", study.trials[(B, 1)].id: "queued"}
    assert document["workers_running"] == ["000-1"] and document["gpus"] == 3 and document["jobs_cancelled"] == []


def test_a_controller_that_does_not_answer(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wanted no more is written down all the same: workers read it there."""
    study.made_up.says("squeue", complaint="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)  # type: ignore[attr-defined]
    status, _, errors = verb(capsys, "cancel", study.store.root, "--yes")
    assert status == 1 and "Unable to contact slurm controller" in errors and "give the same command again" in errors
    assert cancelled(study) == EVERYTHING


def test_launcher_jobs_go_too_and_no_other(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = study.made_up  # type: ignore[attr-defined]
    lines = [f"20|N/A|RUNNING|n1|1:00|None|h-{NONCE[:12]}-launcher", f"21|N/A|PENDING||0:00|Dependency|h-{NONCE[:12]}-launcher-after-20",
             "22|N/A|RUNNING|n1|1:00|None|h-another0000-launcher", f"17|1|RUNNING|n1|1:00|None|{JOB}"]
    (made_up.folder / "before.out").write_text("\n".join(lines) + "\n")
    (made_up.folder / "after.out").write_text("\n".join(lines[2:]) + "\n")
    made_up.runs("squeue", f"if [ -f {made_up.folder}/scancel.calls ]; then /bin/cat {made_up.folder}/after.out; "
                           f"else /bin/cat {made_up.folder}/before.out; fi")
    status, said, _ = verb(capsys, "cancel", study.store.root, "--launcher", "--yes")
    assert status == 0 and made_up.calls("scancel") == ["21 20"], "first the one that waits, or it would start"
    assert "ended launcher 21, 20; what runs and waits goes on" in said and not study.store.cancelled()
    assert "no launcher of this study runs" in verb(capsys, "cancel", study.store.root, "--launcher", "--yes")[1]


def test_an_attached_launcher_is_ended_by_its_owner(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.launched(alive=True, number=2)
    status, said, _ = verb(capsys, "cancel", study.store.root, "--launcher", "--yes")
    assert status == 1 and f"kill -INT {os.getpid()}" in said and not study.store.cancelled()


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk") as disk:
        DiskStudy(disk / "told").batch((A, 0), executor="local")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        status, _, errors = verb(capsys, "cancel", disk / "told", "--yes")
        assert status == 1 and "nothing was cancelled" in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize(("answer", "status"), [(b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"yes\n", 0), (b"Y\n", 0)])
def test_it_asks_at_a_terminal(study: DiskStudy, answer: bytes, status: int) -> None:
    ours, theirs = pty.openpty()
    asked = subprocess.Popen([sys.executable, "-m", "harness.cancel", str(study.store.root)], cwd=ROOT, stdin=theirs, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.close(theirs)
    os.write(ours, answer)
    said = asked.communicate(timeout=180)[0]
    os.close(ours)
    assert asked.returncode == status and "6 trials: 1 running, 3 queued, 2 pending" in said and "Cancel this? [y/N]" in said
    assert "1 worker on 3 GPUs" in said and "1 job taken out of the queue" in said
    assert bool(study.store.cancelled()) == (status == 0)


# ------------------------------------------------------------------------------------------------------------------------ real studies


def hasty(bench: Bench) -> None:
    """Lets epochs take no time while the file "mended" is there."""
    toy = bench.folder / "toy_job.py"
    text = toy.read_text()
    assert 'time.sleep(config["pause"])' in text
    toy.write_text(text.replace('time.sleep(config["pause"])', 'time.sleep(0 if os.path.exists(os.environ["TOY_MENDED"]) else '
                                                               'config["pause"])'))


@pytest.mark.slow
def test_what_runs_keeps_its_progress_and_comes_back_with_retry(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, data).toy(seeds="[0]", epochs=100, pause=0.5, widths="[1, 2, 4]")
    hasty(bench)
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.jsonl", count=2)
        until("epochs of two", lambda: sum(run["epochs_done"] > 0 for run in _status(bench, capsys)["running"]) == 2)
        status, said, _ = verb(capsys, "cancel", bench.store.root, "--variant", "width=1 mode=fine", "--yes")
        assert status == 0 and "goes on with the rest" in said
        until("the trial to be cancelled", lambda: _status(bench, capsys)["trials"]["cancelled"] == 1)
        assert _status(bench, capsys)["trials"]["running"] >= 1, "others go on"
        assert verb(capsys, "cancel", bench.store.root, "--yes")[0] == 0
        said = launcher.communicate(timeout=240)[0]
        assert launcher.returncode == 1 and len(re.findall(r"\] cancelled ", said)) >= 2, said
    finally:
        launcher.kill()
    now = _status(bench, capsys)["trials"]
    assert now["cancelled"] >= 2 and now["cancelled"] + now["done"] == 3
    assert list(pd.read_parquet(bench.store.table_file("trials"))["status"]).count("cancelled") == now["cancelled"]
    assert bench.run()[0] == 1 and _status(bench, capsys)["trials"] == now, "without --retry they stay cancelled"
    bench.mended.touch()
    status, said = bench.run("--retry")
    assert status == 0, said
    trials = pd.read_parquet(bench.store.table_file("trials"))
    assert list(trials["score"]) == [1 / 8 + 99, 2 / 8 + 99, 4 / 8 + 99], "the last epoch of a hundred, whoever counted the first"
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    resumed = attempts[attempts["attempt"] == 1]
    assert len(resumed) >= 1 and (resumed["first_epoch"].to_numpy() == attempts[attempts["attempt"] == 0].set_index("trial_id").loc[
        resumed["trial_id"], "last_epoch"].fillna(0).to_numpy() + 1).all(), "each went on where it was"


def _status(bench: Bench, capsys: pytest.CaptureFixture[str]) -> dict:  # type: ignore[type-arg]
    return dict(json.loads(verb(capsys, "status", bench.store.root, "--json")[1]))


def test_it_is_written_down_before_slurm_is_told(study: DiskStudy) -> None:
    """Killed in between, it has cancelled: nobody begins those trials any more."""
    done = subprocess.run([sys.executable, "-m", "harness.cancel", str(study.store.root), "--yes"], cwd=ROOT, capture_output=True,
                          env={**os.environ, "HARNESS_FAILPOINT": "cancel.linked"}, check=False)
    assert done.returncode == -signal.SIGKILL and cancelled(study) == EVERYTHING
    assert not study.made_up.calls("scancel")  # type: ignore[attr-defined]


@pytest.fixture
def on_slurm(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> SlurmBench:
    """Twelve trials of four minutes, eight of which run at once on the cluster."""
    bench = SlurmBench(tmp_path / "it's a study", cluster)
    bench.toy(seeds=str(list(range(12))), epochs=240, pause=1.0).add("[retry]\ncanary = 0\n[slurm]\ntime_min = 20\n")
    hasty(bench)
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    return bench


@pytest.mark.slurm
def test_a_study_on_slurm(on_slurm: SlurmBench, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """What runs where and why the rest waits; a job that waits is cancelled, then one that runs, then all, and all come back."""
    bench = on_slurm
    launcher = bench.hand_in()
    try:
        bench.wait_for("trials/*/a000.jsonl", count=8)
        until("eight trials that run", lambda: _status(bench, capsys)["trials"]["running"] == 8)
        now = _status(bench, capsys)
        queue = {job_id: (state, reason) for job_id, _, state, reason in bench.queue()}
        assert {run["nodes"] for run in now["running"]} == {"n1", "n2"}
        assert all(queue[run["job_id"]][0] == run["state"] == "RUNNING" for run in now["running"])
        assert sum(group["jobs"] for group in now["waiting"]) == now["trials"]["queued"] == 4
        assert {group["reason"] for group in now["waiting"]} <= {"Resources", "Priority", "None"}
        jobs = {job_id: state for job_id, (state, _) in queue.items()}
        waiting, job_id = next((trial, job_id) for trial, job_id in _jobs(bench).items() if jobs[job_id] == "PENDING")
        cluster.run("scontrol", "hold", job_id)
        until("a job that is held", lambda: [group["starts"] for group in _status(bench, capsys)["waiting"]
                                             if group["reason"].startswith("JobHeld")] == [False])
        assert "scontrol release" in verb(capsys, "why", bench.store.root)[1] or "the site holds them" in verb(
            capsys, "why", bench.store.root, waiting)[1]
        status, said, errors = verb(capsys, "cancel", bench.store.root, "--trial", waiting, "--yes")
        assert status == 0 and "1 job taken out of the queue" in said, said + errors
        until("that job to leave the queue", lambda: job_id not in {row[0] for row in bench.queue()})
        busy = now["running"][0]
        assert verb(capsys, "cancel", bench.store.root, "--trial", busy["trial"], "--yes")[0] == 0
        until("both to be cancelled", lambda: _status(bench, capsys)["trials"]["cancelled"] == 2)
        assert len(_status(bench, capsys)["running"]) >= 7, "the others go on, and one that waited may have begun"
        assert verb(capsys, "cancel", bench.store.root, "--yes")[0] == 0
        said = launcher.communicate(timeout=240)[0]
        assert launcher.returncode == 1, said
    finally:
        launcher.kill()
    bench.wait_for_queue()
    now = _status(bench, capsys)
    assert now["over"] and now["trials"]["cancelled"] == 12
    assert set(pd.read_parquet(bench.store.table_file("trials"))["status"]) == {"cancelled"}
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert set(attempts["cause"]) == {"cancelled"} and 8 <= len(attempts) <= 11
    bench.mended.touch()
    bench.finish("--retry")
    assert _status(bench, capsys)["trials"]["done"] == 12
    again = pd.read_parquet(bench.store.table_file("attempts"))
    assert len(again) == len(attempts) + 12 and (again["first_epoch"] > 1).sum() == (attempts["last_epoch"] >= 1).sum()


def _jobs(bench: SlurmBench) -> dict[str, str]:
    """Trial -> the array element that is to run it."""
    overview = look(bench.store.root)
    return {trial: element.job_id for worker, batch in overview.living.items() if (element := overview.element(worker))
            for trial, _ in batch.trials_of(batch.place(worker))}


@pytest.mark.slurm
def test_the_launcher_job_ends_and_trials_go_on(on_slurm: SlurmBench, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    bench = on_slurm
    bench.toy(seeds="[0, 1]", epochs=160, pause=1.0).add("[retry]\ncanary = 0\n[slurm]\ntime_min = 20\n")
    assert bench.run("--detach")[0] == 0
    until("the launcher and its successor", lambda: len(_status(bench, capsys)["launcher_jobs"]) == 2)
    until("both trials to run", lambda: _status(bench, capsys)["trials"]["running"] == 2)
    assert _status(bench, capsys)["launcher"]["job_id"] in {job["job_id"] for job in _status(bench, capsys)["launcher_jobs"]}
    assert "job" in verb(capsys, "status", bench.store.root)[1] and verb(capsys, "logs", bench.store.root, "--launcher")[0] == 0
    status, said, errors = verb(capsys, "cancel", bench.store.root, "--launcher", "--yes")
    assert status == 0 and "ended launcher" in said, said + errors
    now = _status(bench, capsys)
    assert now["launcher_jobs"] == [] and now["launcher"]["alive"] is False and now["trials"]["running"] == 2
    cluster.send("slurmctld", "stop")
    try:
        said = verb(capsys, "status", bench.store.root)[1]
        assert "Slurm      not known" in said and "running 2" in said
    finally:
        cluster.start("slurmctld")
    bench.mended.touch()
    until("both trials to be done", lambda: _status(bench, capsys)["trials"]["done"] == 2)
