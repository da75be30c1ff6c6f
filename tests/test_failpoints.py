"""Killed once at each commit step, a study ends with the tables of an undisturbed one.

The steps are read from the source, so that a new one is tested without anybody thinking of it.
"""

import ast
import shutil
from pathlib import Path

import pytest
from studies import ROOT, Study


def steps() -> list[str]:
    """The names of all failpoints in the source."""
    found = set()
    for path in [*ROOT.glob("harness/*.py"), *ROOT.glob("jobs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "failpoint" and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
            for keyword in node.keywords if isinstance(node, ast.Call) else []:
                if keyword.arg == "step" and isinstance(keyword.value, ast.Constant):
                    found |= {f"{keyword.value.value}.written", f"{keyword.value.value}.linked"}
    return sorted(found | {f"table.{name}.{when}" for name in ("trials", "epochs", "attempts") for when in ("written", "linked")})


FAST = ("batch.linked", "claim.linked", "attempt.created", "result.linked")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Study:
    """A study that nothing happened to."""
    study = Study(tmp_path_factory.mktemp("undisturbed"), data)
    study.finish()
    return study


def test_all_steps_are_found() -> None:
    assert len(steps()) >= 34 and set(FAST) <= set(steps())


@pytest.mark.parametrize("step", [pytest.param(step, marks=() if step in FAST else pytest.mark.slow)
                                  for step in steps() if not step.startswith(("weights.", "checkpoint."))])
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
