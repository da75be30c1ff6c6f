"""Bad weather on a real Slurm: launchers that die, controllers that do not answer, jobs that vanish, files that come late."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from slurm_fixture import Cluster, job, kill_controller, restore, sbatch, temporary_cluster, until
from slurm_studies import SlurmBench, leave
from studies import kill

from harness import launch, slurm

pytestmark = pytest.mark.slurm


@pytest.fixture
def bench(tmp_path: Path, cluster: Cluster) -> SlurmBench:
    return SlurmBench(tmp_path, cluster)


@pytest.fixture(scope="module")
def bare_cluster() -> Iterator[Cluster]:
    """A cluster without accounting."""
    with temporary_cluster(accounting=False) as cluster:
        yield cluster


@pytest.fixture
def bare(bare_cluster: Cluster, tmp_path: Path) -> SlurmBench:
    restore(bare_cluster)
    return SlurmBench(tmp_path, bare_cluster)


def with_constants(**constants: float) -> list[str]:
    """What stands after the interpreter's name to launch with other values for constants: `slurm_executor__UNSURE_S=1`."""
    lines = ["import sys"]
    for name, value in constants.items():
        module, _, constant = name.partition("__")
        lines += [f"import harness.{module}", f"harness.{module}.{constant} = {value}"]
    return ["-c", "\n".join([*lines, "from harness.launch import main", "sys.exit(main())"])]


def submitted(bench: SlurmBench) -> dict[str, int]:
    """Job name -> how many jobs had it, by what the controller still knows (a minute at least) and, where there is one, the accounting."""
    found = bench.submissions() if bench.cluster.settings()["accounting"] else {}
    for line in bench.cluster.run("squeue", "--noheader", "--states=all", "--format=%F|%j").stdout.splitlines():
        number, _, name = line.partition("|")
        if name.startswith(bench.prefix):
            found.setdefault(name, set()).add(number)
    return {name.removeprefix(bench.prefix): len(numbers) for name, numbers in found.items()}


def causes(bench: SlurmBench) -> list[str]:
    """How the attempts ended, in the order of trials and attempts."""
    return list(pd.read_parquet(bench.store.table_file("attempts")).sort_values(["trial_id", "attempt"])["cause"])


def said_by(launcher: "subprocess.Popen[str]", status: int = 0) -> str:
    """All that a launcher says until it ends, which it must do with that status."""
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == status, said
    return said


def read_until(launcher: "subprocess.Popen[str]", text: str) -> str:
    """What a launcher says up to the line with that text."""
    assert launcher.stdout
    said = ""
    for line in launcher.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it never said {text!r}: {said}")


# ---------------------------------------------------------------------------------------------------------- launchers that die


@pytest.mark.parametrize("step", ["batch.written", "batch.linked", "job.written", "job.linked"])
def test_a_launcher_killed_around_a_submission(step: str, bench: SlurmBench, tmp_path: Path) -> None:
    """job.written is right after sbatch and before its answer is on the disk."""
    bench.before = with_constants(slurm_executor__UNSURE_S=2.0)
    token = tmp_path / "was-killed"
    status, said = bench.toy(seeds="[0, 1, 2]").run(HARNESS_FAILPOINT=f"{step}@{token}")
    assert status == -signal.SIGKILL and token.exists(), said
    said = bench.finish()
    assert bench.attempts() == 3, said
    assert submitted(bench) == {"001" if step == "batch.linked" else "000": 1}


def test_a_launcher_killed_during_sbatch(bench: SlurmBench, tmp_path: Path) -> None:
    """sbatch outlives it and waits for a controller that hangs; the next launcher meets both."""
    waiting_sbatch(bench, tmp_path)
    launcher = bench.toy(seeds="[0, 1]").start()
    until("sbatch to be called", (tmp_path / "called").exists)
    bench.cluster.send("slurmctld", "freeze")
    (tmp_path / "go").touch()
    time.sleep(1)  # sbatch has asked
    leave(launcher)
    launcher = bench.start()
    time.sleep(5)
    bench.cluster.send("slurmctld", "thaw")
    said = said_by(launcher)
    assert bench.attempts() == 2 and submitted(bench) == {"000": 1}, said


def test_sbatch_fails_and_submits_all_the_same(bench: SlurmBench, tmp_path: Path) -> None:
    """Its answer comes after more than the 10 s that it waits for one; the job is found by its name."""
    waiting_sbatch(bench, tmp_path)
    launcher = bench.hold().toy(seeds="[0, 1]").start()
    until("sbatch to be called", (tmp_path / "called").exists)
    bench.cluster.send("slurmctld", "freeze")
    (tmp_path / "go").touch()
    until("sbatch to give up", lambda: (tmp_path / "status").exists() and (tmp_path / "status").read_text())
    bench.cluster.send("slurmctld", "thaw")
    bench.wait_for("submit/000.job.json")
    bench.mended.touch()
    said = said_by(launcher)
    assert (tmp_path / "status").read_text() == "1\n", said
    assert bench.attempts() == 2 and submitted(bench) == {"000": 1}, said
    assert bench.store.batches()[0].job_id


def waiting_sbatch(bench: SlurmBench, folder: Path) -> None:
    """Makes sbatch wait for the file "go", having made the file "called"; its exit status is then in the file "status"."""
    (folder / "bin").mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    script = folder / "bin" / "sbatch"
    script.write_text(f"""#!/bin/bash
touch {folder}/called
while [ ! -e {folder}/go ]; do sleep 0.05; done
{real} "$@"
status=$?
echo $status > {folder}/status
exit $status
""")
    script.chmod(0o755)
    bench.environment["PATH"] = f"{folder}/bin:{os.environ['PATH']}"


@pytest.mark.parametrize("step", ["claim.linked", "attempt.created", "attempt.started", "result.linked", "attempt.ended"])
def test_workers_killed_at_their_steps(step: str, bench: SlurmBench, tmp_path: Path) -> None:
    token = tmp_path / "was-killed"
    said = bench.toy(seeds="[0, 1, 2]").add("[slurm]\ntrials_per_job = 2").finish(HARNESS_FAILPOINT=f"{step}@{token}")
    assert token.exists(), said
    assert bench.attempts() == 3 + (step in ("attempt.created", "attempt.started")), said
    assert bench.epochs() == 9, said


# ------------------------------------------------------------------------------------------------- controllers and accountings


def test_the_controller_is_down_at_the_start_and_during_the_run(bench: SlurmBench) -> None:
    bench.cluster.send("slurmctld", "kill")
    launcher = bench.hold().toy(seeds="[0, 1]").start()
    said = read_until(launcher, "Slurm does not answer (")
    bench.cluster.start("slurmctld")
    said += read_until(launcher, "Slurm answers again")
    bench.wait_for("trials/*/a000.jsonl", count=2)
    kill_controller(bench.cluster)
    said += read_until(launcher, "Slurm does not answer (")
    bench.cluster.start("slurmctld")
    bench.mended.touch()
    said += said_by(launcher)
    assert all(number == 1 for number in submitted(bench).values()), said
    assert bench.attempts() <= 4


def test_the_accounting_is_down(bench: SlurmBench) -> None:
    bench.cluster.send("slurmdbd", "stop")
    try:
        launcher = bench.hold().toy(seeds="[0, 1]").start()
        bench.wait_for("trials/*/a000.jsonl", count=2)
        kill(bench.workers()[0])
        bench.mended.touch()
        said = said_by(launcher)
    finally:
        bench.cluster.start("slurmdbd")
    assert sorted(causes(bench)) == ["done", "done", "killed"], said


def test_the_accounting_is_asked_for_jobs_of_our_names(bench: SlurmBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that lost its memory begins anew with job 1; what an older job 1 came to says nothing of ours."""
    bench.toy().finish()
    monkeypatch.setenv("SLURM_CONF", str(bench.cluster.slurm_conf))
    number = f"{bench.store.batches()[0].job_id}_0"
    until("the accounting to know", lambda: slurm.accounting([number], [f"{bench.prefix}000"]) == {number: "COMPLETED"})
    assert slurm.accounting([number], [f"{bench.prefix}001", "h-000000000000-000"]) == {}


def test_a_cluster_without_accounting(bare: SlurmBench) -> None:
    """How a worker ended is what squeue says: one is killed, one is cancelled."""
    launcher = bare.hold().toy(seeds="[0, 1, 2]").start()
    bare.wait_for("trials/*/a000.jsonl", count=3)
    number = bare.store.batches()[0].job_id
    kill(next(claim["pid"] for claim in bare.claims() if claim["worker"] == "000-0"))
    bare.cluster.run("scancel", f"{number}_1")
    bare.wait_for("trials/*/a001.jsonl", count=2)
    bare.mended.touch()
    said = said_by(launcher)
    assert sorted(causes(bare)) == ["cancelled", "done", "done", "done", "killed"], said


def test_jobs_vanish_from_both_lists(bare: SlurmBench) -> None:
    """The controller loses its memory, and there is no accounting: the trials are lost after a while, and tried again."""
    bare.before = with_constants(slurm_executor__GONE_AFTER_S=3.0)
    launcher = bare.hold().toy(seeds="[0, 1]").start()
    bare.wait_for("trials/*/a000.jsonl", count=2)
    bare.cluster.send("slurmctld", "stop")
    bare.cluster.launch("slurmctld", [*bare.cluster.command("slurmctld"), "-c"])
    bare.wait_for("trials/*/a001.jsonl", count=2)
    bare.mended.touch()
    said = said_by(launcher)
    until("nodes", bare.cluster.nodes_ready)
    assert causes(bare) == ["lost", "done", "lost", "done"], said


# ----------------------------------------------------------------------------------------------- jobs that wait in unusual ways


def test_unusual_states_are_alive(bench: SlurmBench) -> None:
    """Suspended, held, put back and held: none is over, none is submitted again, each is shown as Slurm calls it."""
    hasty = with_constants(slurm_executor__GONE_AFTER_S=0.5, slurm_executor__UNSURE_S=0.5)
    bench.before = hasty
    launcher = bench.hold().toy(seeds="[0, 1, 2]").add("[slurm]\nrunning = 2").start()
    bench.wait_for("trials/*/a000.jsonl", count=2)
    leave(launcher)
    number = bench.store.batches()[0].job_id
    for command in (["suspend", f"{number}_0"], ["requeuehold", f"{number}_1"], ["uhold", f"{number}_2"]):
        assert bench.cluster.run("scontrol", *command).returncode == 0
    until("the states", lambda: {state for _, _, state, _ in bench.queue()} >= {"SUSPENDED", "PENDING"} and len(bench.queue()) == 3)
    launcher = bench.start()
    said = read_until(launcher, "waiting in Slurm")
    assert all(text in said for text in ("1 SUSPENDED", "1 JobHeldUser", "1 job requeued in held state")), said
    time.sleep(3)
    assert len(bench.store.batches()) == 1 and launcher.poll() is None
    for command in (["resume", f"{number}_0"], ["release", f"{number}_1"], ["release", f"{number}_2"]):
        assert bench.cluster.run("scontrol", *command).returncode == 0
    bench.mended.touch()
    said += said_by(launcher)
    assert len(bench.store.batches()) == 1 and causes(bench).count("done") == 3, said


def test_a_pending_element_is_cancelled(bench: SlurmBench) -> None:
    """sacct forgets it completely; it is noticed, and its trial submitted again."""
    launcher = bench.hold().toy(seeds="[0, 1, 2]").add("[slurm]\nrunning = 1").start()
    bench.wait_for("trials/*/a000.jsonl")
    assert bench.cluster.run("scancel", f"{bench.store.batches()[0].job_id}_2").returncode == 0
    bench.mended.touch()
    said = said_by(launcher)
    assert [batch.workers for batch in bench.store.batches()] == [3, 1] and bench.attempts() == 3, said


def test_preempted_where_jobs_are_cancelled(bench: SlurmBench) -> None:
    """The job stays PREEMPTED for good; its trial goes on in another."""
    launcher = bench.site(partition="cancel").hold().toy().start()
    bench.wait_for("trials/*/a000.jsonl")
    urgent = sbatch(bench.cluster, "--partition=high", "--nodes=2", "--exclusive", "--time=1", script="sleep 1")
    bench.wait_for("trials/*/a001.jsonl")
    bench.mended.touch()
    said = said_by(launcher)
    assert causes(bench) == ["preempted", "done"] and bench.epochs() == 3, said
    assert job(bench.cluster, urgent)["JobState"] == "COMPLETED"


# ------------------------------------------------------------------------------------------------------ what Slurm never takes


@pytest.mark.parametrize("site, resources, text, asked", [
    ({"partition": "nowhere"}, "", "nvalid partition", 'partition = "nowhere"'),
    ({}, "gpus_per_node = 3", "Requested node configuration is not available", "gpus_per_node = 3"),
    ({"text": '[sbatch]\nlicenses = "nonsense:1"'}, "", "nvalid license", "nodes = 1"),
])
def test_what_slurm_refuses(site: dict[str, str], resources: str, text: str, asked: str, bench: SlurmBench) -> None:
    bench.site(**site).toy(seeds="[0, 1]").add(f"[slurm]\n{resources}")  # type: ignore[arg-type]
    status, said = bench.run()
    assert status == 1 and "sbatch refused the job" in said and text in said and asked in said and "Traceback" not in said, said
    assert not bench.queue() and not bench.attempts() and not list(bench.store.submitit_folder.glob(".*"))
    said = bench.site().toy(seeds="[0, 1]").finish()
    assert bench.attempts() == 2, said


# ------------------------------------------------------------------------------------------------------- files and clocks


def test_files_that_come_late_are_waited_for(bench: SlurmBench) -> None:
    """On NFS a file may be seen a minute after it was written. The worker's job is over, and nothing of its trials is there yet."""
    leave(bench.toy(seeds="[0, 1]").add("[slurm]\ntrials_per_job = 2").hand_in())
    bench.wait_for("trials/*/result.json", count=2)
    bench.wait_for_queue()
    hidden = [path for path in bench.store.root.glob("trials/*/*") if path.name in ("result.json", "a000.jsonl")]
    before = {path: path.read_bytes() for path in hidden}
    for path in hidden:
        path.rename(path.with_name(f"hidden-{path.name}"))
    launcher = bench.start()
    time.sleep(5)
    assert launcher.poll() is None
    for path in hidden:
        path.with_name(f"hidden-{path.name}").rename(path)
    said = said_by(launcher)
    assert len(bench.store.batches()) == 1 and {path: path.read_bytes() for path in before} == before, said
    assert bench.attempts() == 2 and causes(bench) == ["done", "done"]


def test_attempts_that_are_seen_late_are_not_made_again(bench: SlurmBench) -> None:
    """The launcher does not see for ten seconds what workers did, as on NFS; a trial has failed meanwhile, and its job too."""
    bench.before = ["-c", """
import sys, time
import harness.study
from harness.plan import TrialState
from harness.store import Store
began, scan = time.monotonic(), Store.scan
Store.scan = lambda self, trials: scan(self, trials) if time.monotonic() > began + 10 else {trial.id: TrialState() for trial in trials}
harness.study.LATE_S = 10.0
from harness.launch import main
sys.exit(main())"""]
    status, said = bench.toy(modes='["raise"]').run()
    assert status == 1 and "ValueError: told to raise" in said and bench.attempts() == 1 and len(bench.store.batches()) <= 3, said


@pytest.mark.parametrize("ahead_s", [86_400, -86_400])
def test_clocks_of_nodes_that_are_a_day_off(ahead_s: int, bench: SlurmBench, tmp_path: Path) -> None:
    (tmp_path / "skew").mkdir()
    (tmp_path / "skew" / "sitecustomize.py").write_text(f"import time\nnow = time.time\ntime.time = lambda: now() + {ahead_s}\n")
    bench.site(f'setup = ["export PYTHONPATH={tmp_path}/skew:$PYTHONPATH", "export SLURM_JOB_START_TIME=$(date +%s)", '
               '"export SLURM_JOB_END_TIME=$((SLURM_JOB_START_TIME + 3600))"]')
    said = bench.toy(seeds="[0, 1, 2]").add("[slurm]\ntrials_per_job = 3\n[limits]\ngpu_hours = 1").finish()
    assert causes(bench) == ["done", "done", "done"] and len(bench.store.batches()) == 1, said
    began = json.loads(next(bench.store.root.glob("trials/*/a000.jsonl")).read_text().splitlines()[0])["time"]
    assert abs(began - time.time() - ahead_s) < 3600  # the clock was off indeed


def test_damaged_files_of_batches_are_one_sentence(bench: SlurmBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                   ) -> None:
    bench.toy(seeds="[0]").finish()
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(bench.folder))
    options = bench.command()[3:]
    for name in ("000.json", "000.job.json", "000-0.json"):
        path = bench.store.root / "submit" / name
        whole = path.read_bytes()
        for damage in (b"", whole[:-5], b"\xff\xfe", b"{}", b"[]", b"null", b'"text"', b"7"):
            path.write_bytes(damage)
            status = launch.main(options)
            said = capsys.readouterr().err
            assert status == 1 and said.count("\n") == 1 and str(path) in said and "damaged" in said, (name, damage, said)
        path.write_bytes(whole)
    assert launch.main(options) == 0


# ------------------------------------------------------------------------------------------------------------- two launchers


def test_a_second_launcher_says_who_holds_the_study(bench: SlurmBench) -> None:
    launcher = bench.hold().toy().hand_in()
    status, said = bench.run()
    assert status == 1 and f"is being launched by process {launcher.pid} on " in said and " since 20" in said and "Ctrl-C" in said, said
    leave(launcher)
    bench.mended.touch()
    said = bench.finish()  # a dead holder is noticed at once
    assert bench.attempts() == 1 and submitted(bench) == {"000": 1}, said


def test_launchers_that_start_at_the_same_moment(bench: SlurmBench) -> None:
    bench.hold().toy(seeds="[0, 1]")
    launchers = [bench.start() for _ in range(3)]
    until("two of them to end", lambda: sum(launcher.poll() is not None for launcher in launchers) == 2)
    bench.mended.touch()
    said = [launcher.communicate(timeout=240)[0] for launcher in launchers]
    assert sorted(launcher.returncode for launcher in launchers) == [0, 1, 1], said
    assert sum("is being launched by process" in text or "took hold of study" in text for text in said) == 2, said
    assert bench.attempts() == 2 and submitted(bench) == {"000": 1}


@contextlib.contextmanager
def far_away(bench: SlurmBench, before: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A launcher on a machine of another name, whose processes cannot be seen from here."""
    command = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", 'hostname far && exec "$@"', "sh",
               sys.executable, *before, *bench.command()[3:]]
    launcher = subprocess.Popen(command, cwd=Path.cwd(), env=bench.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield launcher
    finally:
        launcher.kill()
        launcher.communicate()


def test_a_launcher_on_another_host(bench: SlurmBench) -> None:
    """It lives as long as it counts, and is dead when it has stopped counting."""
    bench.hold().toy()
    with far_away(bench, with_constants(lease__BEAT_S=0.5)) as launcher:
        bench.wait_for("trials/*/a000.jsonl")
        status, said = bench.run()
        assert status == 1 and " on far since " in said and "waiting up to 90 s for a sign of life" in said, said
        launcher.kill()
        launcher.wait()
    bench.mended.touch()
    bench.before = with_constants(lease__SILENT_S=4.0)
    said = bench.finish()
    assert "waiting up to 4 s for a sign of life" in said and bench.attempts() == 1 and submitted(bench) == {"000": 1}, said
