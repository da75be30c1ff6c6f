"""`harness status`: its numbers, its words, what it takes for granted, and that it changes nothing."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk_study import GRID, NONCE, DiskStudy, as_json, listing, verb
from launching import Bench
from made_up_slurm import MadeUpSlurm
from small_disk import small_disk
from studies import ROOT

from harness import processes, reasons
from harness.store import Store

A, B, C, D = "width=1 lr=0.1", "width=1 lr=0.5", "width=2 lr=0.1", "width=2 lr=0.5"
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


# ----------------------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_computed_by_hand(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1), (B, 0), (B, 1), (C, 0), (C, 1), (D, 0), gpus_per_job=2)
    study.launched(alive=True)
    for place, (trial, score) in enumerate([((A, 0), 0.5), ((A, 1), 0.75), ((B, 0), 0.875)]):
        study.claim(f"000-{place}")
        study.done(trial, f"000-{place}", score)
    study.claim("000-3")
    study.attempt((B, 1), "000-3", end={"cause": "exception", "error": "ValueError: no", "where": "a.py:1 in f"})
    study.claim("000-4")
    running = study.attempt((C, 0), "000-4", epochs=2, began=time.time() - 150)
    study.infeasible((C, 1), "000-5", "the loss is not finite")
    made_up.says("squeue", queue("4|RUNNING|n[1-2]|2:30|None", "6|PENDING||0:00|Priority"))
    said = as_json(capsys, "status", study.store.root)
    assert said["study"] == "told" and said["over"] is False and said["slurm"] == {"asked": True, "trouble": ""}
    assert said["trials"] == {"total": 8, "done": 3, "infeasible": 1, "pruned": 0, "failed": 1, "lost": 0, "cancelled": 0, "running": 1,
                              "queued": 1, "pending": 1}
    rows = {row["variant"]: row for row in said["variants"]}
    assert [row["variant"] for row in said["variants"]][:2] == [B, A], "the best comes first"
    assert rows[A]["mean"] == 0.625 and rows[A]["sd"] == pytest.approx(0.25 / 2**0.5) and rows[A]["n"] == 2
    assert rows[B]["n"] == 1 and rows[B]["sd"] is None and rows[B]["failed"] == 1 and rows[D]["mean"] is None
    (run,) = said["running"]
    assert (run["trial"], run["nodes"], run["job_id"], run["epochs_done"], run["epochs"], run["attempt"], run["state"]) == (
        running, "n[1-2]", "17_4", 2, 4, 0, "RUNNING")
    assert 150 <= run["seconds"] < 250
    # Three trials of 300 s, a failure of 60 s, an infeasible one of 60 s, and 150 s of the one that runs; two GPUs and two CPUs each.
    assert said["used"]["gpu_hours"] == said["used"]["cpu_hours"] == pytest.approx(2 * (900 + 60 + 60 + 150) / 3600, abs=0.06)
    # The mean of 300 s is half used up in one of the three that are left, and one runs at a time.
    assert said["left"]["seconds"] == pytest.approx(150 + 300 + 300, abs=60) and said["left"]["trials"] == 3
    assert "mean of the 3 that are done" in said["left"]["source"] and said["failures"] == {"exception": 1}
    assert [(w["reason"], w["jobs"], w["starts"]) for w in said["waiting"]] == [("Priority", 1, True)]
    assert said["launcher"]["pid"] == os.getpid() and said["launcher"]["alive"] is True


def test_before_anything_is_done_the_epochs_that_ran_tell_how_long_it_takes(study: DiskStudy, made_up: MadeUpSlurm,
                                                                            capsys: pytest.CaptureFixture[str]) -> None:
    study.batch(*study.trials)
    study.launched(alive=True)
    for place, trial in enumerate([(A, 0), (A, 1)]):
        study.claim(f"000-{place}")
        study.attempt(trial, f"000-{place}", epochs=1, began=time.time() - 60)
    runs, waits = [f"{place}|RUNNING|n1|1:00|None" for place in (0, 1)], [f"{place}|PENDING||0:00|Resources" for place in range(2, 8)]
    made_up.says("squeue", queue(*runs, *waits))
    left = as_json(capsys, "status", study.store.root)["left"]
    assert left["source"] == "median epoch of the 2 trials that run" and left["trials"] == 8
    assert left["seconds"] == pytest.approx((8 * 240 - 2 * 60) / 2, rel=0.1)


def test_the_screen_says_it_in_words(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1), (B, 0), (B, 1), (C, 0))
    study.launched(alive=False)
    for place, trial in enumerate([(A, 0), (A, 1)]):
        study.claim(f"000-{place}")
        study.done(trial, f"000-{place}", 0.5 + place / 4)
    study.claim("000-2")
    study.attempt((B, 0), "000-2", end={"cause": "exception", "error": "ValueError: no", "where": "a.py:1 in f"})
    made_up.says("squeue", queue("3|PENDING||0:00|PartitionTimeLimit", "4|SPECIAL_EXIT||0:00|SomethingNew"))
    status, said, _ = verb(capsys, "status", study.store.root)
    assert status == 0 and "\x1b" not in said
    assert re.search(r"^done 2  failed 1  queued 2  pending 3  of 8 trials$", said, re.MULTILINE)
    assert "has ended; what runs goes on, nothing new is submitted" in said
    assert f"go on      python -m harness.launch {study.store.grid_file} --profile site --study-dir {study.store.root}\n" in said
    assert re.search(r"1 job: PartitionTimeLimit \(they ask for more time than the partition allows: lower \[slurm\] time_min", said)
    assert "1 job: SPECIAL_EXIT SomethingNew\n" in said, "what is unknown is shown as it is"
    assert re.search(rf"{A} +2/2 +0\.6250 +0\.1768 +2", said) and "score, mean" in said and "sd over seeds" in said
    assert f"why        python -m harness.why {study.store.root}" in said and "no GPUs" in said


def test_at_most_twenty_lines_of_what_runs(tmp_path: Path, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study = DiskStudy(tmp_path / "told", GRID.replace("[0, 1]", str(list(range(6)))))
    study.batch(*study.trials)
    for place, trial in enumerate(study.trials):
        study.claim(f"000-{place}")
        study.attempt(trial, f"000-{place}")
    made_up.says("squeue", queue(*(f"{place}|RUNNING|n1|1:00|None" for place in range(24))))
    said = verb(capsys, "status", study.store.root)[1]
    assert "runs       24 trials" in said and said.count(" 17_") == 19 and "and 5 more" in said


def test_a_gpu_budget_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = DiskStudy(tmp_path / "told", GRID + "[limits]\ngpu_hours = 500\n")
    study.batch((A, 0), gpus_per_job=12)
    study.done((A, 0), "000-0", 0.5)
    assert "used       1.00 GPU-hours of 500 ([limits] gpu_hours)" in verb(capsys, "status", study.store.root)[1]


@pytest.mark.parametrize(("reason", "starts", "words"), [
    ("Priority", True, "higher priority"), ("Resources", True, "next in line"), ("BeginTime", True, "two minutes"),
    ("Dependency", True, "has to end first"), ("DependencyNeverSatisfied", False, "cancel them"),
    ("JobHeldUser", False, "scontrol release"),
    ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", True, "maintenance"), ("PartitionTimeLimit", False, "time_min"),
    ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions", True, "drained"),
    ("AssocGrpGRES", True, "all of the account together may have no more GPUs"),
    ("QOSGrpCpuLimit", True, "all jobs of the QOS together may have no more CPUs"),
    ("QOSMaxSubmitJobPerUserLimit", True, "no more jobs in the queue"), ("AssocMaxJobsLimit", True, "no more jobs at once"),
    ("QOSMaxGRESPerUser", True, "no more GPUs"), ("QOSMaxWallDurationPerJobLimit", False, "time_min"),
    ("QOSMaxCpuPerJobLimit", False, "lower [slurm]"), ("AssocGrpCPUMinutesLimit", False, "used up"),
    ("AssocGrpCPURunMinutesLimit", True, "no more"), ("TomorrowsReason", True, ""), ("", True, "")])
def test_reasons_in_plain_words(reason: str, starts: bool, words: str) -> None:
    meaning, begins = reasons.explain(reason)
    assert begins is starts and words in meaning and bool(meaning) == bool(words)


def test_launcher_jobs_before_the_first_and_after_it(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    """--detach prepares the study here and leaves the rest to a job that has to begin first."""
    name = f"h-{NONCE[:12]}-launcher"
    study.launched(alive=False)
    made_up.says("squeue", f"20|N/A|PENDING||0:00|Resources|{name}\n21|N/A|PENDING||0:00|JobHeldUser|h-another-launcher\n")
    said = verb(capsys, "status", study.store.root)[1]
    assert "launcher   job 20 waits to launch it: Resources" in said and "go on" not in said and "job 21" not in said
    made_up.says("squeue", f"20|N/A|RUNNING|n1|0:01|None|{name}\n")
    assert "launcher   job 20 begins to launch it on n1" in verb(capsys, "status", study.store.root)[1]
    study.launched(alive=True, number=2, job_id="20")
    made_up.says("squeue", f"20|N/A|RUNNING|n1|0:01|None|{name}\n22|N/A|PENDING||0:00|Dependency|{name}-after-20\n")
    said = verb(capsys, "status", study.store.root)[1]
    assert "launcher   job 20 on" in said and "job 22 waits to launch it: Dependency" in said and "begins" not in said


# ------------------------------------------------------------------------------------------------------------------------ real launches


def test_while_a_launcher_runs_and_after_it_was_killed(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, data).toy(seeds="[0, 1]", epochs=1000, pause=0.05)
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.jsonl", count=2)
        before = listing(bench.store.root / "submit")
        said = as_json(capsys, "status", bench.store.root)
        assert said["trials"]["running"] == 2 and said["launcher"]["alive"] is True and said["launcher"]["pid"] == launcher.pid
        assert {run["seed"] for run in said["running"]} == {0, 1}
        launcher.kill()
        launcher.wait()
        assert as_json(capsys, "status", bench.store.root)["launcher"]["alive"] is False
        assert "go on" in verb(capsys, "status", bench.store.root)[1]
        assert listing(bench.store.root / "submit") == before
    finally:
        launcher.kill()
        for claim in (claim for batch in Store(bench.store.root).batches() for claim in batch.claims if claim and "pid" in claim):
            if processes.is_alive(claim):
                os.kill(claim["pid"], 9)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bench:
    """A study that is over: two trials done, two that raised."""
    bench = Bench(tmp_path_factory.mktemp("ended"), data).toy(seeds="[0, 1]", modes='["fine", "raise"]')
    status, said = bench.run()
    assert status == 1, said
    bench.wait_for_workers()  # they write into their logs
    return bench


def test_a_real_study_that_is_over(ended: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    said = as_json(capsys, "status", ended.store.root)
    assert said["over"] and said["trials"]["done"] == 2 and said["failures"] == {"exception": 2}
    assert said["variants"][0]["variant"] == "width=1 mode=fine" and said["variants"][0]["mean"] == 2.125 + 0.5
    page = ended.store.root / "report.html"
    assert "report  " not in verb(capsys, "status", ended.store.root)[1]  # none is written in tests
    page.touch()
    assert f"figures    python -m analysis.plots {ended.store.root}\nreport     {page}\n" in verb(capsys, "status", ended.store.root)[1]
    page.unlink()


VERBS = [("status",), ("why",), ("status", "--json"), ("why", "--json"), ("logs", "--variant", "width=1 mode=raise", "--seed", "1")]


@pytest.mark.parametrize("words", VERBS)
def test_reading_changes_nothing(ended: Bench, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(ended.store.root)
    status, said, _ = verb(capsys, words[0], ended.store.root, *words[1:])
    assert status == 0 and said and listing(ended.store.root) == before


def test_a_read_only_disk(ended: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", size_kb=8192) as disk:
        subprocess.run(["cp", "-a", str(ended.store.root), str(disk / "study")], check=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for words in VERBS:
            status, said, errors = verb(capsys, words[0], disk / "study", *words[1:])
            assert status == 0 and said, errors
        status, _, errors = verb(capsys, "cancel", disk / "study", "--yes")
        assert status == 0, "nothing is left to cancel: " + errors


def test_colours_and_width_belong_to_a_terminal(ended: Bench) -> None:
    command = [sys.executable, "-m", "harness.status", str(ended.store.root)]
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    plain = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in plain
    ours, theirs = pty.openpty()
    shown = subprocess.Popen(command, cwd=ROOT, env={**environment, "TERM": "xterm-256color", "COLUMNS": "60"}, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        while block := os.read(ours, 4096):
            said += block
    except OSError:  # the terminal is closed
        pass
    assert shown.wait() == 0 and b"\x1b[" in said
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in said.decode().splitlines()]
    assert lines and all(len(line) <= 60 for line in lines if "python -m" not in line), lines


def test_it_loads_little(ended: Bench) -> None:
    code = "import sys, atexit; atexit.register(lambda: print('LOADED', *sys.modules)); from harness.main import main; main(sys.argv[1:])"
    for words in (["status", "--help"], ["status", str(ended.store.root)]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = {name.partition(".")[0] for name in done.stdout.partition("LOADED ")[2].split()}
        assert loaded and not loaded & {"torch", "pandas", "pyarrow", "numpy", "nevergrad", "matplotlib"}


# --------------------------------------------------------------------------------------------------------------- half-made and damaged


def test_a_study_that_is_being_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "young"
    (root / "launcher").mkdir(parents=True)
    for words in (["status"], ["why"], ["status", "--json"], ["why", "--json"]):
        status, said, errors = verb(capsys, words[0], root, *words[1:])
        assert status == 0 and said, errors
    assert "no trials are planned yet" in verb(capsys, "status", root)[1]
    Store(root).create_folders()
    Store(root).freeze_grid(GRID)
    said = as_json(capsys, "status", root)
    assert said["study"] == "told" and said["trials"]["total"] == 0 and said["over"] is False and said["launcher"] is None


def test_a_torn_last_line_is_passed_over(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), executor="local", share=0)
    study.claim("000-0", **processes.this_process())
    name = study.attempt((A, 0), "000-0", epochs=2)
    with study.store.attempt_file(name, 0).open("a") as file:
        file.write('{"event":"epoch","epo')
    assert as_json(capsys, "status", study.store.root)["running"][0]["epochs_done"] == 2
    study.store.attempt_file(name, 0).write_text("")
    assert verb(capsys, "why", study.store.root, name)[0] == 0


@pytest.mark.parametrize("name", ["waves/000.json", "submit/000.json", "submit/000-1.json", "submit/000.job.json", "launcher/000001.json",
                                  "env.json", "trials/{}/result.json", "cancel/000.json"])
def test_a_damaged_file_is_one_sentence(study: DiskStudy, made_up: MadeUpSlurm, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of it, or something that is JSON and yet not what belongs there; some of it does not even matter."""
    study.batch((A, 0), (A, 1))
    study.claim("000-1")
    trial = study.done((A, 0), "000-0", 0.5)
    study.launched(alive=False)
    study.store.write_cancel({trial: 1})
    path = study.store.root / name.format(trial)
    for text in ('{"half": ', "[]", "{}", "null", '"words"', "\x00\xff"):
        path.write_text(text)
        for word in ("status", "why"):
            status, _, errors = verb(capsys, word, study.store.root)
            assert status == 0 or (status == 1 and errors.startswith("error: ") and len(errors.splitlines()) == 1
                                   and str(study.store.root) in errors), (text, errors)
            assert status == 1 or text != '{"half": ', "half a file went unnoticed"


def test_a_grid_that_cannot_be_read(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.store.grid_file.write_text("[study]\nname = 3\n")
    status, _, errors = verb(capsys, "status", study.store.root)
    assert status == 2 and "grid.toml:2" in errors
    study.store.grid_file.write_bytes(b"\xff\xfe")
    assert verb(capsys, "status", study.store.root)[0] == 1


# ---------------------------------------------------------------------------------------------------------------------- names, hostility


def test_which_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, errors = verb(capsys, "status")
    assert status == 2 and "there is no study in runs/" in errors
    for number, name in enumerate(["digits", "pets"]):
        DiskStudy(tmp_path / "runs" / name).launched(alive=False, since=2e9 - number)
    (tmp_path / "runs" / "notes").mkdir()
    assert as_json(capsys, "status")["folder"] == str(tmp_path / "runs" / "digits"), "the one that was launched last"
    assert "runs/digits  (launched last)" in verb(capsys, "status")[1]
    for word in ("pets", "runs/pets/", "./runs/pets"):
        assert as_json(capsys, "status", word)["folder"] == str(tmp_path / "runs" / "pets")
    for word, hint in (("digit", "did you mean digits?"), ("runs/notes", "is no study"), ("zzz", "there are digits, pets"), ("", "''"),
                       ("x" * 5000, "too long"), ("\x1b[31m", "\N{REPLACEMENT CHARACTER}[31m")):
        status, _, errors = verb(capsys, "status", word)
        assert status == 2 and hint in errors and "\x1b" not in errors and len(errors.splitlines()) == 1


def test_the_verbs_behind_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(capsys)[0] == 2 and verb(capsys, "--help")[0] == 0
    status, _, errors = verb(capsys, "stauts")
    assert status == 2 and "did you mean status?" in errors and "launch, stage, status, why, logs, report, cancel" in errors
    assert "analysis.plots" in verb(capsys, "plots")[2]
    with pytest.raises(SystemExit) as ended:
        verb(capsys, "status", "--jsno")
    assert ended.value.code == 2 and "did you mean --json?" in capsys.readouterr().err
    done = subprocess.run([sys.executable, "-m", "harness", "status", "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Show where a study stands" in done.stdout


def test_hostile_names_reach_no_terminal(tmp_path: Path, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    made_up.says("squeue", queue("0|PENDING||0:00|\x1b]0;owned\x07[red]"))
    study = DiskStudy(tmp_path / "a [b] ; touch pwned", GRID.replace("width = [1, 2]", 'width = ["[bold red]x[/]", "[link=http://x]"]'))
    study.batch(*list(study.trials)[:2])
    study.claim("000-1")
    hostile = {"cause": "exception", "error": "\x1b[2J\r\n[blink]", "where": "\x9b2J"}
    study.attempt(list(study.trials)[1], "000-1", host="\x1b[2J", end=hostile)
    for word in ("status", "why"):
        status, said, errors = verb(capsys, word, study.store.root)
        assert status == 0 and not errors and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
        assert json.dumps(as_json(capsys, word, study.store.root))
    said = verb(capsys, "status", study.store.root)[1]
    assert "[bold red]x[/]" in said and f"'{study.store.root}'" in said
