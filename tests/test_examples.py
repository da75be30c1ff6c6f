"""The examples, as their pages tell a user to run them, only smaller; and that the example of a job keeps the contract it shows."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
from launching import Bench
from slurm_fixture import Cluster
from slurm_studies import SlurmBench
from studies import ROOT

from jobs.config import Trial
from jobs.contract import Context, Interrupted, Outcome, Superseded

OWN_JOB = ROOT / "examples" / "own_job"
SMALLER = {
    "make_images.py": "--images 20",
    "pretrain.toml": "--set epochs=1 --set study.seeds=[0,1]",
    "few_images.toml": "--set epochs=1 --set study.seeds=[0,1] --set train_images=16 --set batch_size=8",
    "char_model.toml": "--set steps=10 --set epochs=3 --set search.trials=2 --set search.wave=2 --set search.halving.first=1 "
                       "--set confirm.seeds=1",
}
"""What is put after a command that names one of these files."""


def commands(page: str, naming: str) -> list[str]:
    """The commands in a page's fenced blocks of shell, of those blocks that name something."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+# .*", "", line) for block in blocks if naming in block for line in block.splitlines()]


def run(lines: list[str], folder: Path) -> str:
    """Gives the commands to a shell in the repository's folder, all that they write going into `folder`; they must succeed."""
    smaller = []
    for line in lines:
        words = [str(folder / word) if word.startswith("runs/") else word for word in shlex.split(line)]
        more = next((shlex.split(options) for name, options in SMALLER.items() if any(word.endswith(f"/{name}") for word in words)), [])
        if "harness.launch" in words:
            name = re.search(r'^name += "(\w+)"', (ROOT / words[3]).read_text(), re.MULTILINE)
            assert name
            more += ["--study-dir", str(folder / "runs" / name[1])]
        elif "harness.stage" in words:
            more = []
        smaller.append(shlex.join([*words, *more]))
    environment = {**os.environ, "HARNESS_DATA": str(folder / "data"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e"], input="\n".join(smaller), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, timeout=900)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("example", ["own_images", "own_job"])
def test_the_pages_have_the_same_commands(example: str) -> None:
    short = commands(f"examples/{example}/README.md", example)
    assert len(short) >= 4 and [line for line in commands("docs/own.md", "") if line in short] == short


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_own_images(tmp_path: Path) -> None:
    lines = commands("docs/own.md", "own_images")
    assert len(lines) == 6
    said = run(lines, tmp_path)
    assert "240 images of 12 classes" in said and "folder:shapes cache" in said and "shapes_few_images: 6 of 6 trials finished" in said
    trials = pq.read_table(tmp_path / "runs" / "shapes_few_images" / "trials.parquet").to_pylist()
    assert {(row["variant"], row["param_model"], row["param_dataset"]) for row in trials} == {
        (name, "small_net:build", "folder:shapes") for name in ("scratch", "fine-tuned", "frozen backbone")}
    assert all(0 <= row["test_acc"] <= 1 for row in trials)


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_own_job(tmp_path: Path) -> None:
    lines = commands("docs/own.md", "char_model")
    assert len(lines) == 4
    said = run([line for line in lines if not line.startswith("python examples")], tmp_path)
    assert "on the test split" in said
    trials = pq.read_table(tmp_path / "runs" / "char_model" / "trials.parquet").to_pylist()
    assert {row["param_context"] for row in trials} == {1, 3, 8}
    confirmed = [row for row in trials if row["phase"] == "confirm"]
    assert len(confirmed) == 3 and all(row["test_loss"] > 0 and row["val_bits"] > row["val_loss"] > 0 for row in confirmed)


# --------------------------------------------------------------------------------------------------------------- the contract


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(OWN_JOB))
    import char_model

    yield char_model
    del sys.modules["char_model"]


TRIAL = Trial(config={"context": 2, "embedding": 4, "hidden": 8, "lr": 0.01, "batch_size": 16, "steps": 7, "epochs": 3}, seed=3,
              metric="val_loss", mode="min")


def context(folder: Path, **more: object) -> Context:
    folder.mkdir(exist_ok=True)
    return Context(folder=folder, data=folder, **more)  # type: ignore[arg-type]


@pytest.fixture
def undisturbed(job: ModuleType, tmp_path: Path) -> Outcome:
    rows: list[dict[str, object]] = []
    opened: list[str] = []
    outcome: Outcome = job.train(TRIAL, context(tmp_path / "whole", report=rows.append, opening_test=lambda: opened.append("test")))
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in rows] == outcome.rows and opened == ["test"]
    assert outcome.status == "done" and outcome.finished and len(outcome.rows) == 3 and outcome.epoch and 0 < outcome.test["test_loss"] < 5
    assert outcome.rows[2]["val_loss"] < outcome.rows[0]["val_loss"] < 4.6  # it learns: 96 letters alike would be ln 96 = 4.56
    return outcome


def test_a_job_stopped_at_any_step_ends_alike(job: ModuleType, undisturbed: Outcome, tmp_path: Path) -> None:
    place = context(tmp_path / "stopped")
    for steps in (1, 5, 4, 7, 1):  # in the first epoch, at its end, at the first step of the next, ...
        left = iter(range(steps - 1, -1, -1))
        with pytest.raises(Interrupted):
            job.train(TRIAL, dataclasses.replace(place, stop=lambda left=left: next(left) == 0))
    outcome = job.train(TRIAL, place)
    assert outcome == undisturbed
    assert job.test(TRIAL, place) == undisturbed.test


def test_a_job_granted_more_and_more_ends_alike(job: ModuleType, undisturbed: Outcome, tmp_path: Path) -> None:
    place = context(tmp_path / "granted")
    for budget in (1, 2):
        paused = job.train(dataclasses.replace(TRIAL, budget=budget), place)
        assert not paused.finished and not paused.test and paused.rows == undisturbed.rows[:budget]
        assert not (place.folder / "selected.pt").exists()
    assert job.train(dataclasses.replace(TRIAL, budget=3), place) == undisturbed


def test_a_job_that_was_superseded_writes_nothing(job: ModuleType, tmp_path: Path) -> None:
    def fence() -> None:
        raise Superseded

    with pytest.raises(Superseded):
        job.train(TRIAL, context(tmp_path / "old", fence=fence))
    assert list((tmp_path / "old").iterdir()) == []


def test_a_job_that_diverges_is_infeasible(job: ModuleType, tmp_path: Path) -> None:
    outcome = job.train(dataclasses.replace(TRIAL, config={**TRIAL.config, "lr": 1e37}), context(tmp_path / "far"))
    assert outcome.status == "infeasible" and "stopped being finite in epoch 1" in outcome.reason


# ------------------------------------------------------------------------------------------------------------ under a launcher

GRID = """
[study]
name = "chars"
metric = "val_loss"
[job]
run = "char_model:train"
metrics = ["train_loss", "val_loss", "val_bits"]
[fixed]
embedding = 4
hidden = 16
lr = 0.01
batch_size = 64
steps = {steps}
epochs = {epochs}
[compare]
context = [1, 4]
[local]
running = 2
[slurm]
trials_per_job = 2
"""


def write(bench: Bench, *, steps: int, epochs: int) -> Bench:
    bench.grid.write_text(GRID.format(steps=steps, epochs=epochs))
    bench.environment["PYTHONPATH"] = str(OWN_JOB)
    return bench


@pytest.mark.slow
def test_a_job_killed_in_the_middle_gives_the_same_tables(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    whole = write(Bench(tmp_path / "one", tmp_path), steps=60, epochs=16)
    status, said = whole.run()
    assert status == 0, said

    bench = write(Bench(tmp_path / "two", tmp_path), steps=60, epochs=16)
    status, said = bench.run(HARNESS_FAILPOINT=f"checkpoint.linked@{tmp_path}/was-killed")
    assert status == 0, said
    attempts = pq.read_table(bench.store.table_file("attempts")).to_pylist()
    assert {row["cause"] for row in attempts} == {"killed", "done"}
    assert max(row["first_epoch"] or 0 for row in attempts) > 1, "nobody went on from a checkpoint"
    assert bench.tables() == whole.tables()


@pytest.mark.slurm
def test_a_job_on_slurm_gives_the_same_tables(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    here = write(Bench(tmp_path / "here", tmp_path), steps=20, epochs=2)
    assert here.run()[0] == 0
    there = write(SlurmBench(tmp_path / "there", cluster), steps=20, epochs=2)
    there.finish()  # type: ignore[attr-defined]
    assert there.tables() == here.tables()
