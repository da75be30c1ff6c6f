"""Going on with a study after something around it changed: the question, the code, the host."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from launching import Bench


@pytest.fixture
def bench(tmp_path: Path, data: Path) -> Bench:
    return Bench(tmp_path, data)


@pytest.mark.parametrize("change", ["study.select=last", 'study.mode="min"', "job.run=toy_job2:train"])
def test_results_of_another_question_are_not_taken_over(change: str, bench: Bench) -> None:
    """A result that was chosen by another rule, or computed by another function, is not a result of this study."""
    shutil.copyfile(bench.folder / "toy_job.py", bench.folder / "toy_job2.py")
    assert bench.toy(widths="[1, 2]").run()[0] == 0
    status, said = bench.run("--set", change, "--update-grid")
    assert status == 0, said
    assert bench.attempts() == 4  # both trials again
    assert set(pd.read_parquet(bench.store.table_file("trials"))["trial_id"]) == {t.id for t in bench.store.trials()}


def test_a_study_of_a_host_that_is_gone(bench: Bench) -> None:
    assert bench.toy(widths="[1]").run()[0] == 0
    (holder,) = bench.store.launchers()
    elsewhere = {**holder, "host": "elsewhere", "boot": "another", "gone": []}
    (bench.store.root / "launcher" / "000002.json").write_text(json.dumps(elsewhere))
    (bench.store.root / "submit" / "007.json").write_text((bench.store.root / "submit" / "000.json").read_text())
    (bench.store.root / "submit" / "007-0.json").write_text(json.dumps({**elsewhere, "worker": "007-0"}))  # a worker there
    bench.toy(widths="[1, 2]")

    status, said = bench.run("--update-grid")
    assert status == 1 and "on elsewhere since" in said and "--take-over" in said
    status, said = bench.run("--update-grid", "--take-over")
    assert status == 0, said
    assert bench.store.launchers()[-1]["gone"] == ["elsewhere"]
    assert bench.run()[0] == 0  # and it stays gone

    number = len(bench.store.launchers()) + 1
    back = {**elsewhere, "gone": [holder["host"]]}  # it came back and took over from here
    (bench.store.root / "launcher" / f"{number:06d}.json").write_text(json.dumps(back))
    assert bench.run()[0] == 1  # it is seen as holding the study again
    assert bench.run("--take-over")[0] == 0
    assert bench.store.launchers()[-1]["gone"] == ["elsewhere"]  # this host is not among them


def test_changed_code_waits_for_a_decision(bench: Bench) -> None:
    """Workers keep to the study's copy of the source until --update-code."""
    job = bench.folder / "toy_job.py"
    assert bench.toy(widths="[1, 2]", modes='["raise"]').run()[0] == 1
    job.write_text(job.read_text().replace("told to raise", "told otherwise"))
    status, said = bench.run("--retry")
    assert status == 1 and "the code has changed since this study began" in said and "told to raise" in said
    status, said = bench.run("--retry", "--update-code")
    assert status == 1 and "told otherwise" in said
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert attempts.groupby("trial_id")["code"].nunique().tolist() == [2, 2]
    for code, rows in attempts.groupby("code"):
        origin = json.loads((bench.store.code_folder(str(code)) / "origin.json").read_text())
        assert set(rows["commit"]) == {origin["commit"]}


def test_a_path_that_python_cannot_search(bench: Bench) -> None:
    status, said = bench.toy().run("--study-dir", str(bench.folder / f"a{os.pathsep}b"))
    assert status == 1 and "which Python's search path is divided by" in said and not (bench.folder / f"a{os.pathsep}b").exists()


def test_what_a_killed_writer_left_is_swept(bench: Bench) -> None:
    assert bench.toy().run()[0] == 0
    (trial,) = bench.store.trials()
    folder = bench.store.trial_folder(trial.id)
    for name in ("checkpoint-000001-00000000.pt", ".result.json.host-1-0.tmp"):
        (folder / name).write_text("left behind")
    assert bench.run()[0] == 0
    assert not [path.name for path in folder.iterdir() if "left behind" in path.read_text(errors="replace")]


def test_the_command_that_goes_on_has_all_that_is_needed() -> None:
    from harness.launch import again, parser

    options = parser().parse_args(["my grid.toml", "--local", "--set", "epochs=2", "--study-dir", "a b", "--retry"])
    assert again(options, options.grid) == "python -m harness.launch 'my grid.toml' --local --set epochs=2 --study-dir 'a b' --retry"
