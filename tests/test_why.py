"""`harness why`: what failures share, the story of one trial, and the command that mends it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from disk_study import GRID, NONCE, DiskStudy, as_json, verb
from launching import Bench
from made_up_slurm import MadeUpSlurm
from studies import ROOT

from harness.contrast import in_common
from harness.logtext import harmless, last_lines, tail_start

A, B, C, D = "width=1 lr=0.1", "width=1 lr=0.5", "width=2 lr=0.1", "width=2 lr=0.5"
RAISED = {"cause": "exception", "error": "ValueError: told to", "where": "toy.py:3 in train < rank.py:1 in run"}


@pytest.fixture
def study(tmp_path: Path) -> DiskStudy:
    return DiskStudy(tmp_path / "told")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUpSlurm:
    found = MadeUpSlurm(tmp_path, monkeypatch)
    found.says("sbatch")
    return found


# --------------------------------------------------------------------------------------------------------------- what a group has in common


@pytest.mark.parametrize(("group", "finished", "said"), [
    ([{"b": 512, "d": 1}, {"b": 512, "d": 2}], [{"b": 128, "d": 1}, {"b": 128, "d": 2}], ["b = 512"]),
    ([{"b": 512, "d": 1}, {"b": 256, "d": 2}], [{"b": 128, "d": 1}, {"b": 64, "d": 2}], ["b >= 256"]),
    ([{"lr": 0.1}, {"lr": 0.2}], [{"lr": 0.5}, {"lr": 0.3}], ["lr <= 0.2"]),
    ([{"b": 512, "d": 1}], [{"b": 512, "d": 2}, {"b": 128, "d": 1}], ["b = 512 and d = 1"]),
    ([{"b": 512, "d": 1, "w": 3}], [{"b": 512, "d": 2, "w": 3}, {"b": 128, "d": 1, "w": 3}], ["b = 512 and d = 1"]),
    ([{"b": 1}, {"b": 3}], [{"b": 2}], []),
    ([{"b": 1}], [{"b": 1}], []),
    ([{"b": 1, "m": "x"}], [], ["b = 1", "m = x"]),
    ([{"on": True}], [{"on": 1}, {"on": False}], ["on = true"]),
    ([{"m": "x"}, {"m": "y"}], [{"m": "z"}], []),
    ([{"seed": 3}, {"seed": 4}], [{"seed": 1}], []),
    ([{"momentum": 0.9}], [{"other": 1}], ["momentum = 0.9"]),
    ([{"b": 2, "n": "n1"}, {"b": 1, "n": "n1"}], [{"b": 1, "n": "n2"}, {"b": 2, "n": "n2"}], ["n = n1"]),
])
def test_what_only_they_have(group: list[dict[str, object]], finished: list[dict[str, object]], said: list[str]) -> None:
    assert in_common(group, finished) == said


# ------------------------------------------------------------------------------------------------------------------------ the whole study


def test_failures_by_cause_and_by_what_they_share(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch(*study.trials, executor="local", share=0)
    for trial in [(A, 0), (A, 1), (C, 0)]:
        study.done(trial, "000-0", 0.5)
    for trial in [(B, 0), (B, 1), (D, 0)]:
        study.attempt(trial, "000-1", end=RAISED, log="Traceback\n    ^^^^\nValueError: told to\n")
    study.attempt((D, 1), "000-2", end={"cause": "out_of_memory", "error": "rank 1: MemoryError: "})
    study.attempt((D, 1), "000-2", end={"cause": "out_of_memory", "error": "rank 1: MemoryError: "}, accumulate=2)
    log = study.store.attempt_log(study.trials[(D, 1)].id, 1)
    log.with_suffix(".rank1.log").write_text("it was rank 1\n")
    said = as_json(capsys, "why", study.store.root)
    raised, memory = said["failures"]
    assert raised["cause"] == "exception" and len(raised["trials"]) == 3
    assert raised["share"] == ["lr = 0.5"] and raised["compared_with"] == 3
    assert raised["last_lines"] == ["Traceback", "ValueError: told to"], "without the carets"
    assert any("--update-code" in remedy["command"] for remedy in raised["remedies"])
    assert memory["rank"] == 1 and memory["last_lines"] == ["it was rank 1"] and said["tried_again"] == {"out_of_memory": 1}
    status, text, _ = verb(capsys, "why", study.store.root)
    assert status == 0 and "all 3 have lr = 0.5, and none of the 3 done has" in text and "4 failed or lost" in text
    assert re.search(r"^1  3 trials: exception$", text, re.MULTILINE) and re.search(r"^2  1 trial: out_of_memory$", text, re.MULTILINE)
    assert f"--rank 1 {study.trials[(D, 1)].id}" in text or f"{study.trials[(D, 1)].id} --rank 1" in text
    assert "\x1b" not in text


def test_failures_on_one_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = DiskStudy(tmp_path / "told")
    study.batch(*study.trials, executor="local", share=0)
    study.done((A, 0), "000-0", 0.5, host="n1")
    study.done((D, 1), "000-0", 0.5, host="n1")
    study.done((B, 0), "000-0", 0.5, host="n1")
    for trial in [(A, 1), (B, 1), (C, 0), (D, 0)]:
        study.attempt(trial, "000-1", host="n7", end=RAISED)
    assert as_json(capsys, "why", study.store.root)["failures"][0]["share"] == ["node = n7"]


@pytest.mark.parametrize(("end", "expected"), [
    ({"cause": "time_limit"}, "--set slurm.time_min=120 --retry"),
    ({"cause": "out_of_memory", "error": "killed by the kernel"}, "--set slurm.mem_gb=32 --retry"),
    ({"cause": "exception", "error": "DataError: no caltech101. Fetch it with `python -m harness.stage GRID`"}, "harness.stage {grid}"),
])
def test_the_fix_is_a_command(tmp_path: Path, made_up: MadeUpSlurm, end: dict[str, str], expected: str,
                              capsys: pytest.CaptureFixture[str]) -> None:
    grid = GRID + "[slurm]\nmem_gb = 16\ntime_min = 60\n[retry]\ntime_limit = 0\nout_of_memory = 0\n"
    study = DiskStudy(tmp_path / "it's told", grid)
    study.batch((A, 0))
    study.claim("000-0")
    study.attempt((A, 0), "000-0", end=end)
    made_up.says("squeue", "")
    commands = [remedy["command"] for group in as_json(capsys, "why", study.store.root)["failures"] for remedy in group["remedies"]]
    words = [" ".join(shlex.split(command)) for command in commands]
    assert any(expected.format(grid=study.store.grid_file) in command for command in words), words
    assert all(command in verb(capsys, "why", study.store.root)[1] for command in commands), "whole, to be copied"


def test_infeasible_trials_are_results_and_cancelled_ones_can_come_back(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1), executor="local", share=0)
    study.infeasible((A, 0), "000-0", "the loss is nan")
    study.infeasible((A, 1), "000-0", "the loss is nan")
    study.store.write_cancel({study.trials[(B, 0)].id: 1})
    said = as_json(capsys, "why", study.store.root)
    assert said["failures"] == [] and [len(group["trials"]) for group in said["infeasible"]] == [2]
    text = verb(capsys, "why", study.store.root)[1]
    assert "2 trials infeasible, which is a result" in text and "the loss is nan" in text and "--retry" in text


def test_a_study_without_failures(study: DiskStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no trial has failed  of 8 trials" in verb(capsys, "why", study.store.root)[1]


def test_workers_that_ended_before_they_began(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0), (A, 1), (B, 0))
    made_up.says("squeue", f"17|2|PENDING||0:00|AssocGrpGRES|h-{NONCE[:12]}-000\n")
    for worker, text in (("000-0", "Traceback\nModuleNotFoundError: No module named 'torch'\n"),
                         ("000-1", "slurmstepd-n2: error: *** JOB 15 ON n2 CANCELLED AT 2026-01-01 ***\n")):
        study.store.claim_place(*map(int, worker.split("-")), {"closed": True})
        study.store.worker_log(worker).write_text(text)
    said = as_json(capsys, "why", study.store.root)
    assert said["launch_failures"] == [{"workers": ["000-0"], "last_lines": ["Traceback", "ModuleNotFoundError: No module named 'torch'"]}]
    assert [(w["reason"], w["jobs"]) for w in said["waiting"]] == [("AssocGrpGRES", 1)]
    text = verb(capsys, "why", study.store.root)[1]
    assert "1 worker ended before the first trial" in text and "AssocGrpGRES: all of the account together may have no more GPUs" in text


# ---------------------------------------------------------------------------------------------------------------------------- one trial


def test_the_story_of_one_trial(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0))
    study.claim("000-0")
    name = study.attempt((A, 0), "000-0", epochs=2, began=1.7e9)
    study.store.write_end(name, 0, {"cause": "preempted", "state": "PREEMPTED"})
    study.attempt((A, 0), "000-0", epochs=1, end={"cause": "exception", "error": "ValueError: no", "where": "a.py:1 in f"}, log="the end\n")
    made_up.says("squeue", "")
    said = as_json(capsys, "why", study.store.root, f"{name[:8]}-s0")
    assert said["trial"] == name and said["status"] == "failed" and said["settings"] == {"width": 1, "lr": 0.1}
    first, second = said["attempts"]
    assert (first["cause"], first["slurm_state"], first["last_epoch"], first["seconds"], first["host"], first["job_id"]) == (
        "preempted", "PREEMPTED", 2, 120.0, "n1", "17_0")
    assert (second["cause"], second["error"], second["running"], second["seconds"]) == ("exception", "ValueError: no", False, 120.0)
    assert said["last_lines"] == ["the end"] and said["remedies"]
    text = verb(capsys, "why", study.store.root, f"{name[:8]}-s0")[1]
    assert re.search(r"^attempt 0 .*on n1 in job 17_0 worker 000-0$", text, re.MULTILINE)
    assert "preempted (Slurm: PREEMPTED)" in text and "epochs 1 to 2" in text and "ValueError: no" in text


def test_a_trial_that_waits(study: DiskStudy, made_up: MadeUpSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    study.batch((A, 0))
    made_up.says("squeue", f"17|0|PENDING||0:00|Resources|h-{NONCE[:12]}-000\n")
    name = study.trials[(A, 0)].id
    said = as_json(capsys, "why", study.store.root, name)
    assert said["status"] == "queued" and said["attempts"] == [] and said["jobs"][0]["reason"] == "Resources"
    assert "job 17_0 PENDING: Resources, they are next in line" in verb(capsys, "why", study.store.root, name)[1]


def test_which_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    study = DiskStudy(tmp_path / "runs" / "told")
    study.launched(alive=False)
    name = study.trials[(A, 0)].id
    for words in ([name], ["told", f"{name[:5]}-s0"]):
        assert as_json(capsys, "why", *words)["trial"] == name, "of the study launched last, where none is named"
    for words, hint in (([name[:4]], "could be 2 trials"), (["told", "zz"], "there are"), (["told", name[:-1] + "7"], "did you mean"),
                        (["nowhere", name], "there is no study nowhere"), (["0000"], "there is no study 0000"),
                        (["told", ""], "there are")):
        status, _, errors = verb(capsys, "why", *words)
        assert status == 2 and hint in errors and len(errors.splitlines()) == 1, (words, errors)


# ----------------------------------------------------------------------------------------------------------------- a real one, and its logs


def test_a_real_failure(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, data).toy(seeds="[0, 1]", modes='["fine", "raise"]')
    assert bench.run()[0] == 1
    (group,) = as_json(capsys, "why", bench.store.root)["failures"]
    assert group["error"] == "ValueError: told to raise" and group["share"] == ["mode = raise"] and len(group["trials"]) == 2
    assert group["last_lines"][-1] == "ValueError: told to raise"
    bench.mended.touch()
    retry = next(remedy["command"] for remedy in group["remedies"] if "--retry" in remedy["command"])
    python, *words = shlex.split(retry)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=bench.environment, capture_output=True, text=True, check=False)
    assert python == "python" and done.returncode == 0, done.stdout + done.stderr
    assert as_json(capsys, "why", bench.store.root)["failures"] == []


def test_a_log_does_nothing_to_the_terminal() -> None:
    hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b(B ok\ttab\r\n"
    assert harmless(hostile) == "red link\N{REPLACEMENT CHARACTER}(B ok\ttab\r\n"
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", harmless("".join(map(chr, range(0x300))) + "\u202e"))
    assert harmless("ü ✓ █▉ \u00a0 10%|███") == "ü ✓ █▉ \u00a0 10%|███"


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\nb", "a\nb\n", "\n\n\n", "x\n" * 50_000, "x" * 70_000 + "\n" + "y" * 70_000 + "\nz\n"])
@pytest.mark.parametrize("lines", [1, 2, 3])
def test_where_the_last_lines_begin(tmp_path: Path, text: str, lines: int) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    expected = "".join(text.splitlines(keepends=True)[-lines:])
    assert text[tail_start(path, lines):] == expected


def test_last_lines_are_those_that_say_something(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\n\n 10%|x\r 50%|xx\r100%|xxx\n   ^^^^\n\xff\x1b[2Jodd\n\n")
    assert last_lines(path, 2) == ["100%|xxx", "\N{REPLACEMENT CHARACTER}odd"] and last_lines(tmp_path / "none", 2) == []
    path.write_bytes(b"".join(b"\r%d of 1000000" % n for n in range(200_000)))
    assert last_lines(path, 3) == ["199999 of 1000000"]
