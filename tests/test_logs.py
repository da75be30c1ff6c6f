"""`harness logs`: which log, how much of it, until when, and nothing in it that a terminal would act on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk_study import DiskStudy, as_json, listing, verb
from launching import Bench
from studies import ROOT

A, B = "width=1 lr=0.1", "width=1 lr=0.5"


@pytest.fixture
def study(tmp_path: Path) -> DiskStudy:
    """A trial with two attempts of two ranks, one that has printed nothing, and six that have not begun."""
    study = DiskStudy(tmp_path / "told")
    study.batch((A, 0), (A, 1))
    study.claim("000-0")
    study.attempt((A, 0), "000-0", epochs=1, end={"cause": "preempted"}, log="first attempt\n")
    name = study.attempt((A, 0), "000-0", end={"cause": "exception", "error": "no"}, log="".join(f"line {n}\n" for n in range(1, 8)))
    study.store.attempt_log(name, 1).with_suffix(".rank1.log").write_text("the other rank\n")
    study.attempt((A, 1), "000-1", end={"cause": "exception", "error": "no"})
    study.store.worker_log("000-0").write_text("what the worker said\n")
    return study


def test_the_last_attempt_another_or_another_rank(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    root, name = study.store.root, study.trials[(A, 0)].id
    before = listing(root)
    for words, said in (([name], "".join(f"line {n}\n" for n in range(1, 8))), ([name, "-n", "2"], "line 6\nline 7\n"),
                        ([name, "--attempt", "0"], "first attempt\n"), ([name, "--rank", "1"], "the other rank\n"),
                        ([f"{name[:6]}-s0", "--lines", "1"], "line 7\n"), (["--variant", A, "--seed", "0", "-n", "1"], "line 7\n"),
                        (["--worker", "000-0"], "what the worker said\n")):
        assert verb(capsys, "logs", root, *words) == (0, said, "")
    document = as_json(capsys, "logs", root, name, "-n", "2")
    assert document["lines"] == ["line 6", "line 7"] and document["attempt"] == 1 and document["trial"] == name
    assert document["files"] == [str(study.store.attempt_log(name, 1))]
    assert listing(root) == before


@pytest.mark.parametrize(("words", "status", "hint"), [
    (["{0}", "--attempt", "2"], 2, "it has 0 to 1"), (["{0}", "--attempt", "-1"], 2, "it has 0 to 1"),
    (["{0}", "--rank", "3"], 2, "there is one of rank 0 and 1"), (["{0}", "-n", "0"], 2, "at least one line"),
    ([], 2, "whose log of"), (["{0}", "--launcher"], 2, "one log at a time"), (["--launcher"], 1, "keeps no log"),
    (["--variant", "width=1 lr=0.11"], 2, "did you mean `width=1 lr=0.1`?"), (["--variant", A], 2, "could be 2 trials"),
    (["--variant", A, "--seed", "7"], 2, "no variant width=1 lr=0.1 with seed 7"), (["--worker", "000-9"], 2, "(valid: 000-0, 000-1)"),
    (["--worker", "../../etc"], 2, "no worker ../../etc"), (["--worker", "000-1"], 1, "nothing has been printed yet"),
    (["{2}"], 1, "has not begun yet"), (["{0}", "--json", "--follow"], 2, "leave one of them out"), (["{0}x"], 2, "did you mean {0}?"),
    (["--worker", "0-0"], 2, "no worker 0-0"), (["--worker", "000--0"], 2, "no worker"), (["--worker", ""], 2, "no worker"),
])
def test_what_there_is_not(study: DiskStudy, words: list[str], status: int, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = [study.trials[trial].id for trial in [(A, 0), (A, 1), (B, 0)]]
    ended, said, errors = verb(capsys, "logs", study.store.root, *(word.format(*names) for word in words))
    assert ended == status and not said and hint.format(*names) in errors and len(errors.splitlines()) == 1, errors


def test_a_log_without_a_word(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, errors = verb(capsys, "logs", study.store.root, study.trials[(A, 1)].id)
    assert status == 0 and not said and "is empty: nothing has been printed" in errors
    assert as_json(capsys, "logs", study.store.root, study.trials[(A, 1)].id)["lines"] == []


def test_nothing_reaches_the_terminal_that_it_would_act_on(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    name = study.trials[(A, 0)].id
    hostile = b"\x1b[2J\x1b]0;owned\x07\x9b31m 10%\r 20%\r\n\x00\x08\xff\xfe tab\there\xe2\x80\xae\n"
    hostile += b"\x1b[31m" * 3 + b"x" * 200_000 + b"\x1b"
    study.store.attempt_log(name, 1).write_bytes(hostile)
    for words in ((), ("-n", "3"), ("--follow",)):
        status, said, _ = verb(capsys, "logs", study.store.root, name, *words)
        assert status == 0 and not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", said)
        assert " 10%\r 20%\r\n" in said and "tab\there" in said and "x" * 200_000 in said


def test_what_a_local_worker_and_a_launcher_job_printed(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((B, 0), executor="local")
    study.claim("001-0", job_id="4711")
    (study.store.submitit_folder / "4711_0_log.err").write_text("it warned\n")
    (study.store.submitit_folder / "4711_0_log.out").write_text("it said\n")
    assert verb(capsys, "logs", study.store.root, "--worker", "001-0")[1] == "it said\nit warned\n"
    for number, job in enumerate((30, 9)):
        log = study.store.submitit_folder / f"launcher-{job}.log"
        log.write_text(f"launcher {job}\n")
        os.utime(log, (1e9 + number, 1e9 + number))
    assert verb(capsys, "logs", study.store.root, "--launcher")[1] == "launcher 9\n", "the newest"


def test_following_an_ended_trial_ends(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, errors = verb(capsys, "logs", study.store.root, study.trials[(A, 0)].id, "-f", "-n", "1")
    assert status == 0 and said == "line 7\n" and "is failed" in errors
    status, said, errors = verb(capsys, "logs", study.store.root, study.trials[(B, 0)].id, "-f")
    assert status == 0 and not said and "is pending, and nobody launches the study" in errors


def test_following_goes_on_over_attempts_until_the_trial_ends(tmp_path: Path, data: Path) -> None:
    bench = Bench(tmp_path, data).hold("len(rows) == 1").toy(epochs=6, modes='["die once"]')
    toy = tmp_path / "toy_job.py"
    toy.write_text(toy.read_text().replace("        context.report(row)\n", "        print('epoch', row['epoch'], flush=True)\n"
                                           "        context.report(row)\n"))
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.log")
        follow = subprocess.Popen([sys.executable, "-m", "harness.logs", str(bench.store.root), "--variant", "width=1 mode=die once", "-f"],
                                  cwd=ROOT, env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert follow.stdout and follow.stdout.readline() == "epoch 1\n"
        bench.mended.touch()
        said, errors = follow.communicate(timeout=240)
        assert follow.returncode == 0 and said == "".join(f"epoch {n}\n" for n in range(2, 7)), said + errors
        assert "--- attempt 1 of" in errors and "is done" in errors
        assert launcher.wait(240) == 0
    finally:
        launcher.kill()


def test_ctrl_c_ends_following_and_nothing_else(tmp_path: Path, data: Path) -> None:
    bench = Bench(tmp_path, data).toy(epochs=1000, pause=0.05)
    toy = tmp_path / "toy_job.py"
    toy.write_text(toy.read_text().replace("config = trial.config\n", "config = trial.config\n    print('begun', flush=True)\n"))
    launcher = bench.start()
    try:
        bench.wait_for("trials/*/a000.jsonl")
        follow = subprocess.Popen([sys.executable, "-m", "harness.logs", str(bench.store.root), "--variant", "width=1 mode=fine", "-f"],
                                  cwd=ROOT, env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert follow.stdout and follow.stdout.readline() == "begun\n"
        time.sleep(0.5)
        assert follow.poll() is None, "it waits for more"
        follow.send_signal(signal.SIGINT)
        assert follow.wait(240) == 130 and "Traceback" not in (follow.stderr.read() if follow.stderr else "")
        assert launcher.poll() is None
    finally:
        os.killpg(launcher.pid, signal.SIGINT)
        launcher.communicate(timeout=240)
