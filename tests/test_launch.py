"""The launch command from outside: what it prints, what it returns, what it leaves behind."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from launching import DIGITS_GRID, Bench, ctrl_c
from slurm_fixture import until
from studies import ROOT

from harness import launch


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bench:
    """A finished study of the built-in job: done, diverged, and too deep to be built."""
    bench = Bench(tmp_path_factory.mktemp("finished"), data).digits(DIGITS_GRID.partition("[compare]")[0] + """
        [[variant]]
        name = "plain"
        [[variant]]
        name = "diverges"
        lr = 1e30
        batch_norm = false
        [[variant]]
        name = "too deep"
        depth = 8
        [local]
        running = 1
        """)
    status, said = bench.run()
    assert status == 0, said
    return bench


def test_built_in_job_ends_with_tables_and_the_next_command(finished: Bench) -> None:
    trials = pd.read_parquet(finished.store.table_file("trials")).set_index("variant")
    assert list(trials["status"]) == ["done", "infeasible", "infeasible"]
    assert 0 <= trials.loc["plain", "test_acc"] <= 1 and trials.loc["plain", "epochs"] == 2
    assert re.search(r"loss .* finite|loss is (nan|inf)", trials.loc["diverges", "reason"])
    assert re.search(r"MaxPool2d.*its input is \d+x1x1, too small for kernel 2", trials.loc["too deep", "reason"])
    assert set(pd.read_parquet(finished.store.table_file("attempts"))["cause"]) == {"done", "infeasible"}
    assert not list(finished.store.root.glob("trials/*/checkpoint*"))


def test_the_same_command_again_runs_nothing(finished: Bench) -> None:
    before = {path: path.read_bytes() for path in finished.store.root.glob("*.parquet")}
    assert len(before) == 4
    status, said = finished.run()
    assert status == 0 and "done 1  infeasible 2" in said
    assert f"figures: python -m analysis.plots {finished.store.root}" in said
    assert {path: path.read_bytes() for path in before} == before and finished.attempts() == 3


def test_dry_run_of_a_finished_study_writes_nothing(finished: Bench) -> None:
    finished.wait_for_workers()
    before = sorted(finished.store.root.rglob("*"))
    status, said = finished.run("--dry-run")
    assert status == 0 and "[3 done, 0 to run]" in said and "nothing left to run" in said and "Nothing was submitted" in said
    assert sorted(finished.store.root.rglob("*")) == before


def test_dry_run_of_a_new_study_makes_no_folder(bench: Bench) -> None:
    status, said = bench.digits().run("--dry-run", "--set", "study.seeds=[0,1,2]")
    assert status == 0 and "6 trials = 2 variants x 3 seeds" in said and "[0 done, 6 to run]" in said and "depth: 1 (3), 2 (3)" in said
    assert "unknown: no trial of this kind has run" in said and not bench.store.root.exists()


def test_a_job_of_ones_own_that_raises(bench: Bench) -> None:
    status, said = bench.toy(seeds="[0, 1]", modes='["fine", "raise"]').run()
    assert status == 1, said
    assert re.search(r"\[\d/4\] done  width=1 mode=fine  seed 0  score 2\.1250", said), said
    assert said.count("ValueError: told to raise") == 2 and "--retry" in said
    log = re.findall(r"  log: (.*)", said)[0]
    assert 'raise ValueError("told to raise")' in Path(log).read_text()
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert sorted(attempts["cause"]) == ["done", "done", "exception", "exception"] and (attempts["attempt"] == 0).all()
    trials = pd.read_parquet(bench.store.table_file("trials"))
    assert list(trials["status"]) == ["done", "done", "failed", "failed"]
    assert list(trials["param_mode"]) == ["fine", "fine", "raise", "raise"]

    status, said = bench.run()  # what failed is not tried again by itself
    assert status == 1 and bench.attempts() == 4

    bench.mended.touch()
    status, said = bench.run("--retry")
    assert status == 0 and bench.attempts() == 6, said
    assert list(pd.read_parquet(bench.store.table_file("trials"))["status"]) == ["done"] * 4


@pytest.mark.parametrize("mode, reason", [
    ("nothing", "a job returns a jobs.contract.Outcome, not NoneType"), ("no epoch", 'a whole number "epoch"'),
    ("nan", "score, which the grid decides by, is nan, not a finite number")])
def test_a_job_of_ones_own_that_breaks_the_contract(mode: str, reason: str, bench: Bench) -> None:
    status, said = bench.toy(modes=f'["{mode}"]').run()
    assert status == 1 and reason in said and bench.attempts() == 1, said


def test_a_trial_that_is_killed_is_tried_again_and_one_that_always_is_gets_lost(bench: Bench) -> None:
    status, said = bench.toy(modes='["die", "die once"]').run()
    assert status == 1 and "lost: " in said, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    trials = pd.read_parquet(bench.store.table_file("trials")).set_index("param_mode")
    assert list(trials["status"]) == ["lost", "done"]
    assert list(attempts[attempts["trial_id"] == trials.loc["die", "trial_id"]]["cause"]) == ["killed"] * 5
    assert list(attempts[attempts["trial_id"] == trials.loc["die once", "trial_id"]]["cause"]) == ["killed", "done"]
    assert "SIGKILL" in attempts["error"][0]


def test_a_trial_that_does_not_fit_into_memory_is_tried_again_in_pieces(bench: Bench) -> None:
    status, said = bench.toy(modes='["fine", "too large"]').run("--set", "retry.out_of_memory=1")
    assert status == 0, said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert list(zip(attempts["cause"], attempts["attempt"], attempts["accumulate"], strict=True)) == [
        ("done", 0, 1), ("out_of_memory", 0, 1), ("done", 1, 2)]
    assert list(pd.read_parquet(bench.store.table_file("trials"))["score"]) == [2.125, 2.125]


def test_not_in_pieces_where_the_grid_says_so(bench: Bench) -> None:
    status, said = bench.toy(modes='["too large"]').run("--set", "retry.out_of_memory=0")
    assert status == 1 and "failed: " in said and "MemoryError: told to need more" in said and bench.attempts() == 1
    status, said = bench.run("--set", "retry.out_of_memory=0", "--retry")
    assert status == 0, said  # a person asked for another attempt, and it is known not to fit whole
    assert list(pd.read_parquet(bench.store.table_file("attempts"))["accumulate"]) == [1, 2]


def test_as_often_as_the_grid_says(bench: Bench) -> None:
    status, said = bench.toy(modes='["die"]').run("--set", "retry.killed=1")
    assert status == 1 and "lost: " in said and bench.attempts() == 2, said
    status, said = bench.run("--set", "retry.killed=2")  # how often is no part of the question: the study goes on
    assert status == 1 and bench.attempts() == 3, said


def test_trials_that_die_of_the_same_error_stop_the_launch(bench: Bench) -> None:
    bench.hold("trial.seed > 4").toy(seeds="[0, 1, 2, 3, 4, 5, 6, 7]", modes='["raise"]')
    status, said = bench.run("--set", "local.running=1")
    assert status == 1 and re.search("[3-7] trials died of the same error, so no more are submitted: ValueError: told to raise", said), said
    assert re.search(r"  at toy_job\.py:\d+ in train", said) and 'raise ValueError("told to raise")' in Path(
        re.findall(r"  log: (.*)", said)[0]).read_text()
    assert "--retry" in said and 3 <= bench.attempts() < 8
    assert set(pd.read_parquet(bench.store.table_file("trials"))["status"]) == {"failed", "unfinished"}
    bench.mended.touch()
    status, said = bench.run("--set", "local.running=1", "--retry")
    assert status == 0, said
    assert list(pd.read_parquet(bench.store.table_file("trials"))["status"]) == ["done"] * 8


def test_a_grid_that_wants_every_error_gets_every_error(bench: Bench) -> None:
    status, said = bench.toy(seeds="[0, 1, 2, 3, 4]", modes='["raise"]').run("--set", "retry.breaker=0")
    assert status == 1 and "died of the same error" not in said and bench.attempts() == 5, said


@pytest.mark.slow
def test_what_is_cancelled_ends_and_begins_again_when_it_is_wanted(tmp_path: Path, data: Path) -> None:
    undisturbed, bench = (Bench(tmp_path / name, data) for name in ("one", "two") if not (tmp_path / name).mkdir())
    assert undisturbed.toy(seeds="[0, 1, 2]", epochs=400).run()[0] == 0
    launcher = bench.hold("len(rows) > 9").toy(seeds="[0, 1, 2]", epochs=400).start("--set", "local.running=2")
    bench.wait_for("trials/*/a000.jsonl", count=2)
    first, second, third = bench.store.trials()
    bench.store.write_cancel({first.id: 1, third.id: 0})
    until("the end of the first", lambda: any(event["event"] == "end" for events in bench.store.attempts(first.id) for event in events))
    bench.mended.touch()
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 1 and said.count("cancelled: ") == 2, said
    trials = pd.read_parquet(bench.store.table_file("trials")).set_index("trial_id")["status"]
    assert trials[[first.id, second.id, third.id]].tolist() == ["cancelled", "done", "cancelled"]
    attempts = pd.read_parquet(bench.store.table_file("attempts")).set_index("trial_id")["cause"]
    assert attempts[first.id] == "cancelled" and third.id not in attempts
    status, said = bench.run()
    assert status == 1 and bench.attempts() == 2, said  # still not wanted
    status, said = bench.run("--retry")
    assert status == 0 and bench.attempts() == 4, said
    scores = [pd.read_parquet(b.store.table_file("epochs"))["score"].tolist() for b in (bench, undisturbed)]
    assert scores[0] == scores[1] and len(scores[0]) == 1200


@pytest.mark.parametrize("run, reason", [("no_such_module:train", "no Python package or module `no_such_module`"),
                                         ("toy_job:no_such_function", "no_such_function"), ("broken_job:train", "cannot be imported")])
def test_a_job_that_cannot_be_found(run: str, reason: str, bench: Bench) -> None:
    (bench.folder / "broken_job.py").write_text('raise ImportError("cannot be imported")\n')
    bench.toy()
    bench.grid.write_text(bench.grid.read_text().replace("toy_job:train", run))
    status, said = bench.run()
    assert status in (1, 2) and reason in said and "Traceback (most recent call last):\n  File \"<frozen" not in said, said


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_and_gone_on_with(number: signal.Signals, tmp_path: Path, data: Path) -> None:
    undisturbed, bench = (Bench(tmp_path / name, data) for name in ("one", "two") if not (tmp_path / name).mkdir())
    assert undisturbed.toy(seeds="[0, 1, 2]", epochs=30).run()[0] == 0
    launcher = bench.hold("len(rows) > 9").toy(seeds="[0, 1, 2]", epochs=30).start()
    bench.wait_for("trials/*/a000.jsonl")
    if number == signal.SIGINT:
        ctrl_c(launcher)
    else:
        launcher.send_signal(number)
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 130, said
    assert "keep their progress" in said and f"go on: python -m harness.launch {bench.grid} --local --study-dir {bench.store.root}" in said
    assert "interrupted" in list(pd.read_parquet(bench.store.table_file("attempts"))["cause"])
    assert list(bench.store.root.glob("trials/*/checkpoint-rows.pt"))
    bench.mended.touch()
    status, said = bench.run()
    assert status == 0, said
    assert bench.tables() == undisturbed.tables()


@pytest.mark.slow
def test_the_second_ctrl_c_ends_at_once(bench: Bench) -> None:
    job = bench.folder / "toy_job.py"
    deaf = 'while not os.path.exists(os.environ["TOY_MENDED"]): time.sleep(0.1)'
    job.write_text(job.read_text().replace('time.sleep(config["pause"])', deaf))
    launcher = bench.toy(epochs=1).start()
    bench.wait_for("trials/*/a000.jsonl")
    ctrl_c(launcher)
    time.sleep(2)  # two signals at once would be one
    assert launcher.poll() is None  # the trial is asleep and cannot be asked
    ctrl_c(launcher)
    said, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    bench.mended.touch()
    status, said = bench.run()
    assert status == 0 and bench.attempts() <= 2, said


def test_a_second_launcher_is_refused(bench: Bench) -> None:
    launcher = bench.hold().toy().start()
    bench.wait_for("trials/*/a000.jsonl")
    status, said = bench.run()
    assert status == 1
    assert re.search(rf"study toy is being launched by process {launcher.pid} on {re.escape(os.uname().nodename)} since "
                     r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d; end it there with Ctrl-C first", said), said
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=240)
    assert launcher.returncode == 130
    assert len(bench.store.launchers()) == 1


@pytest.mark.slow
def test_a_changed_grid_needs_a_decision(bench: Bench) -> None:
    assert bench.toy(widths="[1, 2]").run()[0] == 0
    kept = {path.parent.name: path.read_bytes() for path in bench.store.root.glob("trials/*/result.json")}

    bench.grid.write_text("# a comment, and\n" + bench.grid.read_text().replace("pause = 0.0", "pause   = 0e0   # nothing"))
    status, said = bench.run()
    assert status == 0 and bench.attempts() == 2, said  # asks for the same trials

    bench.toy(widths="[2, 1]")
    status, said = bench.run()
    assert status == 1 and "+width = [2, 1]" in said  # the same trials in another order are another plan

    bench.toy(widths="[1, 4]")
    status, said = bench.run()
    assert status == 1 and bench.attempts() == 2
    assert "-width = [1, 2]" in said and "+width = [1, 4]" in said
    assert "--update-grid" in said and f"--study-dir {bench.store.root}-2" in said

    status, said = bench.run("--study-dir", f"{bench.store.root}-2")
    assert status == 0 and len(list(bench.folder.glob("study-2/trials/*"))) == 2

    status, said = bench.run("--update-grid")
    assert status == 0 and bench.attempts() == 3, said
    assert list(pd.read_parquet(bench.store.table_file("trials"))["param_width"]) == [1, 4]
    assert all((bench.store.trial_folder(trial) / "result.json").read_bytes() == data for trial, data in kept.items())
    assert bench.run()[0] == 0  # the new grid is the study's now


def test_set_changes_a_key_for_this_study(bench: Bench) -> None:
    status, said = bench.toy().run("--set", "epochs=5", "--set", "study.seeds=[7]")
    assert status == 0, said
    trials = pd.read_parquet(bench.store.table_file("trials"))
    assert list(trials["epochs"]) == [5] and list(trials["seed"]) == [7]
    assert "epochs = 5" in (bench.store.frozen_grid() or "")
    status, said = bench.run()
    assert status == 1 and "-epochs = 5" in said


def test_live_table_in_a_terminal(bench: Bench) -> None:
    bench.toy(seeds="[0, 1]", widths="[1, 2]", modes='["fine", "raise"]')
    ours, theirs = pty.openpty()
    environment = {**bench.environment, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    launcher = subprocess.Popen(bench.command(), cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
                                start_new_session=True)
    os.close(theirs)
    shown, until = b"", time.monotonic() + 240
    while time.monotonic() < until:
        if select.select([ours], [], [], 1.0)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
        elif launcher.poll() is not None:
            break
    assert launcher.wait(240) == 1
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for word in ("width=1 mode=fine", "width=2 mode=raise", "score, mean", "2/2", "2 failed", "toy  done 4  failed 4"):
        assert word in text, f"{word!r} is not in\n{text}"
    assert "Traceback" not in text and "\x1b[?25h" in shown.decode()  # the cursor is back


def test_without_slurm_one_sentence(bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bench.digits()
    monkeypatch.setenv("PATH", str(bench.folder))
    assert launch.main([str(bench.grid)]) == 2
    assert capsys.readouterr().err == "error: no Slurm here (sbatch is not on the PATH); add --local to run on this machine\n"


@pytest.mark.parametrize("option, nearest", [("--dryrun", "--dry-run"), ("--studydir=x", "--study-dir"), ("--lokal", "--local"),
                                             ("--sets", "--set")])
def test_an_unknown_option_names_the_nearest(option: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        launch.main([option])
    assert caught.value.code == 2 and f"did you mean {nearest}?" in capsys.readouterr().err


def test_no_grid_and_not_local(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main([]) == 2
    assert "use --local for the digits demo" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly(finished: Bench) -> None:
    command = [*finished.command("--dry-run")]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=ROOT, env=finished.environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
