"""Killed once at each commit step, a study ends with the tables of an undisturbed one.

The steps are read from the source, so that a new one is tested without anybody thinking of it.
"""

import ast
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from slurm_fixture import Cluster
from slurm_studies import SlurmBench
from studies import ROOT, Study


def steps() -> list[str]:
    """The names of all failpoints in the source."""
    found = set()
    for path in [*ROOT.glob("harness/**/*.py"), *ROOT.glob("jobs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
            for keyword in node.keywords if isinstance(node, ast.Call) else []:
                if keyword.arg == "step" and isinstance(keyword.value, ast.Constant):
                    found |= {f"{keyword.value.value}.written", f"{keyword.value.value}.linked"}
    tables = ("trials", "epochs", "attempts", "predictions")
    return sorted(found | {f"table.{name}.{when}" for name in tables for when in ("written", "linked")})


FAST = ("batch.linked", "result.linked")
ELSEWHERE = ("weights.", "checkpoint.", "cancel.", "job.", "end.", "rung.", "test.", "convert.")
"""Steps that an undisturbed local study of these short trials does not come by: tested below, those of a search in test_search_kills.py."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Study:
    """A study that nothing happened to."""
    study = Study(tmp_path_factory.mktemp("undisturbed"), data)
    study.finish()
    return study


def test_all_steps_are_found() -> None:
    assert len(steps()) >= 46 and set(FAST) <= set(steps()) and all(any(s.startswith(part) for s in steps()) for part in ELSEWHERE)


def _marks(step: str) -> list[pytest.MarkDecorator]:
    """All tables are written by the same lines, so that the kills at one of them do for every day."""
    of_another_table = step.startswith("table.") and not step.startswith("table.trials.")
    return [] if step in FAST else [pytest.mark.slow, *([pytest.mark.exhaustive] if of_another_table else [])]


@pytest.mark.parametrize("step", [pytest.param(step, marks=_marks(step)) for step in steps() if not step.startswith(ELSEWHERE)])
def test_killed_once_at_each_step(step: str, undisturbed: Study, tmp_path: Path, data: Path) -> None:
    study = Study(tmp_path, data)
    token = tmp_path / "was-killed"
    said = study.finish(HARNESS_FAILPOINT=f"{step}@{token}")
    assert token.exists(), f"nothing was killed at {step}:\n{said}"
    assert study.tables() == undisturbed.tables()
    assert all(len(files) <= 2 for files in study.attempts().values())  # the kill costs at most one attempt of a trial
    assert sum(map(len, study.attempts().values())) <= 5


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, data: Path) -> None:
    """With trials long enough to write one: they do so after a second."""
    plain = Study(tmp_path / "plain", data, epochs=200)
    plain.finish()
    for step in ("checkpoint.written", "checkpoint.linked"):
        study = Study(tmp_path / step, data, epochs=200)
        study.finish(HARNESS_FAILPOINT=f"{step}@{tmp_path / step / 'was-killed'}")
        assert (tmp_path / step / "was-killed").exists()
        assert study.tables() == plain.tables()


@pytest.mark.slow
def test_killed_while_weights_are_taken_over(tmp_path: Path, data: Path) -> None:
    same_network = {"compare": "lr = [0.01, 0.05]"}
    earlier = Study(tmp_path / "earlier", data, **same_network)
    earlier.finish()
    tables = {}
    for step in ("nowhere", "weights.written", "weights.linked"):
        shutil.copytree(earlier.store.root, tmp_path / step / "earlier")
        study = Study(tmp_path / step, data, weights="study:earlier", **same_network)
        study.finish(HARNESS_FAILPOINT=f"{step}@{tmp_path / step / 'was-killed'}")
        assert (tmp_path / step / "was-killed").exists() == (step != "nowhere")
        tables[step] = study.tables()
    assert tables["weights.written"] == tables["weights.linked"] == tables["nowhere"] != earlier.tables()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["cancel.written", "cancel.linked"])
def test_killed_while_what_was_cancelled_is_wanted_again(step: str, undisturbed: Study, tmp_path: Path, data: Path) -> None:
    study = Study(tmp_path, data)
    study.store.create_folders()
    study.store.write_cancel(dict.fromkeys(undisturbed.attempts(), 0))
    status, said = study.run()
    assert status == 1 and said.count("cancelled: ") == 4 and not study.attempts(), said
    study.command.append("--retry")
    study.finish(HARNESS_FAILPOINT=f"{step}@{tmp_path / 'was-killed'}")
    assert (tmp_path / "was-killed").exists() and study.tables() == undisturbed.tables()


@pytest.mark.slurm
@pytest.mark.parametrize("step", ["job.written", "job.linked"])
def test_killed_while_a_job_number_is_written_down(step: str, tmp_path: Path, data: Path, cluster: Cluster) -> None:
    study = SlurmBench(tmp_path, cluster, data).toy(seeds="[0, 1]")
    token = tmp_path / "was-killed"
    launcher = study.start(HARNESS_FAILPOINT=f"{step}@{token}")
    launcher.communicate(timeout=240)
    assert launcher.returncode == -signal.SIGKILL and token.exists()
    study.finish()
    assert study.attempts() == 2 and all(len(numbers) == 1 for numbers in study.submissions().values())


@pytest.mark.slurm
@pytest.mark.parametrize("step", ["end.written", "end.linked"])
def test_killed_while_it_is_written_down_how_a_worker_ended(step: str, tmp_path: Path, data: Path, cluster: Cluster) -> None:
    study = SlurmBench(tmp_path, cluster, data).toy(epochs=100, pause=0.1)
    token = tmp_path / "was-killed"
    launcher = study.start(HARNESS_FAILPOINT=f"{step}@{token}")
    study.wait_for("trials/*/a000.jsonl")
    (worker,) = study.workers()
    os.kill(worker, signal.SIGKILL)
    launcher.communicate(timeout=240)
    assert launcher.returncode == -signal.SIGKILL and token.exists()
    study.finish()
    attempts = pd.read_parquet(study.store.table_file("attempts"))
    assert list(attempts["cause"]) == ["killed", "done"]
