"""Training in rungs: a trial that is granted more epochs later goes on as if it had never paused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from in_fork import train

import jobs.train
from jobs import alone
from jobs.config import Trial
from jobs.contract import Context, Outcome

SMALL = {"dataset": "digits", "train_images": 160, "batch_size": 32, "epochs": 11, "filters": 4, "hidden": 16}
RECIPES = {
    "sgd, cosine, crops, dropout": {"schedule": "cosine", "augment": "crop_flip", "dropout": 0.3},
    "adamw, steps between the rungs, rotation": {"optimizer": "adamw", "lr": 0.003, "schedule": "step", "step_size": 2, "gamma": 0.5,
                                                 "augment": "crop_flip_rotate"},
    "adam, bf16, plain network": {"optimizer": "adam", "lr": 0.003, "precision": "bf16", "model": "plain_cnn", "dropout_features": 0.2},
    "fp16, no batch norm": {"precision": "fp16", "batch_norm": False, "schedule": "cosine", "lr": 0.02},
}


def in_rungs(trial: Trial, folder: Path, data: Path, *, ranks: int = 1,
             rungs: tuple[int | None, ...] = (3, 9, None)) -> list[dict[str, Any]]:
    """The outcomes of a trial trained to each budget in turn, every time in new processes."""
    outcomes = [train(dataclasses.replace(trial, budget=budget), folder, data, ranks=ranks, every_step=False) for budget in rungs]
    assert all(outcomes)
    return outcomes  # type: ignore[return-value]


def newest_checkpoint(folder: Path) -> str:
    return max(path.name for path in folder.glob("checkpoint-*.pt"))


@pytest.mark.parametrize("recipe", [pytest.param(name, marks=pytest.mark.slow if n else ()) for n, name in enumerate(RECIPES)])
def test_rungs_give_what_one_run_gives(recipe: str, tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, **RECIPES[recipe]}, seed=4)
    whole = train(trial, tmp_path / "whole", data, every_step=False)
    assert whole is not None and whole["finished"] and len(whole["rows"]) == 11
    first, second, last = in_rungs(trial, tmp_path / "rungs", data)
    assert (first["rows"], second["rows"]) == (whole["rows"][:3], whole["rows"][:9])
    assert json.dumps(last) == json.dumps(whole)
    assert (tmp_path / "rungs" / "selected.pt").read_bytes() == (tmp_path / "whole" / "selected.pt").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sgd, cosine, crops, dropout", "adam, bf16, plain network"])
def test_rungs_on_two_ranks(recipe: str, tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, **RECIPES[recipe]}, seed=4)
    whole = train(trial, tmp_path / "whole", data, ranks=2, every_step=False)
    *_, last = in_rungs(trial, tmp_path / "rungs", data, ranks=2)
    assert json.dumps(last) == json.dumps(whole)
    assert (tmp_path / "rungs" / "selected.pt").read_bytes() == (tmp_path / "whole" / "selected.pt").read_bytes()


def test_a_paused_trial_keeps_its_end_and_leaves_the_test_split_shut(tmp_path: Path, data: Path) -> None:
    """Though no checkpoint was due: the one of the pause is written anyhow, and is the newest."""
    trial = Trial(config=SMALL, budget=3)
    for budget, name in ((3, "checkpoint-000003-00000000.pt"), (3, "checkpoint-000003-00000000.pt"), (9, "checkpoint-000009-00000000.pt")):
        outcome, = in_rungs(trial, tmp_path, data, rungs=(budget,))
        assert (outcome["status"], outcome["finished"], len(outcome["rows"]), outcome["test"]) == ("done", False, budget, {})
        assert 1 <= outcome["epoch"] <= budget
        assert newest_checkpoint(tmp_path) == name
        assert not (tmp_path / "opened").exists() and not (tmp_path / "selected.pt").exists()


@pytest.mark.parametrize(("budget", "finished"), [(10, False), (11, True), (500, True), (None, True)])
def test_a_budget_of_all_epochs_is_the_whole(budget: int | None, finished: bool, tmp_path: Path, data: Path) -> None:
    outcome = train(Trial(config=SMALL, budget=budget), tmp_path, data, every_step=False)
    assert outcome is not None and outcome["finished"] == finished == (len(outcome["rows"]) == 11)
    assert (tmp_path / "opened").exists() == (tmp_path / "selected.pt").exists() == finished == bool(outcome["test"])


@pytest.mark.slow
def test_a_trial_killed_between_two_rungs_and_within_one(tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, **RECIPES["sgd, cosine, crops, dropout"]}, seed=2)
    whole = train(trial, tmp_path / "whole", data, every_step=False)
    folder = tmp_path / "killed"
    for budget, kill_at in ((3, 9), (3, None), (9, 17), (9, None), (None, 5), (None, None)):  # five steps an epoch
        outcome = train(dataclasses.replace(trial, budget=budget), folder, data, kill=(0, kill_at) if kill_at else None)
        assert (outcome is None) == (kill_at is not None)
    assert outcome == whole
    assert (folder / "selected.pt").read_bytes() == (tmp_path / "whole" / "selected.pt").read_bytes()


def scripted(epochs: int, patience: int) -> Trial:
    """A trial whose best epoch is the first: its learning rate is next to nothing afterwards."""
    config = {**SMALL, "epochs": epochs, "patience": patience, "lr": 1e-30, "optimizer": "adam", "batch_norm": False}
    return Trial(config=config, metric="val_acc")


@pytest.mark.parametrize(("budget", "rows", "finished"), [(2, 2, False), (3, 3, True), (4, 3, True), (None, 3, True)])
def test_patience_ends_a_trial_at_and_before_its_budget(budget: int | None, rows: int, finished: bool, tmp_path: Path, data: Path) -> None:
    """Nothing gets better after epoch 1, so that a patience of 2 ends with epoch 3."""
    outcome = train(dataclasses.replace(scripted(6, 2), budget=budget), tmp_path, data, every_step=False)
    assert outcome is not None and (len(outcome["rows"]), outcome["finished"], outcome["epoch"]) == (rows, finished, 1)
    assert (tmp_path / "selected.pt").exists() == finished


def test_patience_counts_across_rungs(tmp_path: Path, data: Path) -> None:
    whole = train(scripted(6, 3), tmp_path / "whole", data, every_step=False)
    first, second = in_rungs(scripted(6, 3), tmp_path / "rungs", data, rungs=(3, 5))
    assert not first["finished"] and second["finished"] and len(second["rows"]) == 4
    assert second == whole
    assert in_rungs(scripted(6, 3), tmp_path / "rungs", data, rungs=(None,)) == [whole]


def test_a_smaller_budget_than_was_trained_changes_nothing(tmp_path: Path, data: Path) -> None:
    trial = Trial(config={**SMALL, "schedule": "cosine"})
    whole = train(trial, tmp_path / "whole", data, every_step=False)
    _, again = in_rungs(trial, tmp_path / "rungs", data, rungs=(9, 3))
    assert whole is not None and again["rows"] == whole["rows"][:9] and not again["finished"]
    assert in_rungs(trial, tmp_path / "rungs", data, rungs=(None,)) == [whole]


@pytest.mark.parametrize(("config", "reason"), [
    ({"lr": 1e30, "batch_norm": False}, "stopped being finite"), ({"depth": 9}, "too small for kernel 2")])
def test_what_is_infeasible_is_over_whatever_the_budget(config: dict[str, Any], reason: str, tmp_path: Path, data: Path) -> None:
    outcome = train(Trial(config={**SMALL, **config}, budget=3), tmp_path, data, every_step=False)
    assert outcome is not None and (outcome["status"], outcome["finished"]) == ("infeasible", True) and reason in outcome["reason"]


def test_an_outcome_is_finished_unless_it_says_otherwise() -> None:
    assert Outcome(status="done").finished


def test_the_command_line_says_that_it_paused(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(data))
    (tmp_path / "try.json").write_text(json.dumps({"config": {**SMALL, "epochs": 2}}))
    assert alone.main([str(tmp_path / "try.json"), "--cpu", "--budget", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("paused after 1 of 2 epochs  epoch 1")
    assert alone.main([str(tmp_path / "try.json"), "--cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("done  epoch ")
    assert len((tmp_path / "try" / "metrics.jsonl").read_text().splitlines()) == 2


def test_no_epoch_is_trained_twice(tmp_path: Path, data: Path) -> None:
    told: list[int] = []
    context = Context(folder=tmp_path, data=data, report=lambda row: told.append(row["epoch"]), checkpoint_s=1e9)
    for budget in (1, 2, 2, None):
        jobs.train.run(Trial(config={**SMALL, "epochs": 3}, budget=budget), context)
    assert told == [1, 2, 3]
