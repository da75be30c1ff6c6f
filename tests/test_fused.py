"""Trials trained as one program: the same numbers as alone, whatever happens to one of them, and checkpoints that either can go on from."""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jobs.train
from jobs import checkpoint, cnns
from jobs.config import Config, Trial
from jobs.contract import Context, Interrupted, Outcome
from jobs.fused import fuse_key, fused_is_faster, run_fused

SMALL: dict[str, Any] = {"dataset": "digits", "model": "plain_cnn", "precision": "fp64", "batch_size": 8, "train_images": 80,
                         "val_fraction": 0.05, "epochs": 5, "depth": 2, "filters": 4, "hidden": 16, "lr": 0.01}
"""50 steps, 10 in each epoch."""
LIMIT = 1e-9
"""Of a difference that is only rounding, over 50 steps in fp64."""


def trial(seed: int = 0, *, budget: int | None = None, **config: Any) -> Trial:
    return Trial(config={**SMALL, **config}, seed=seed, budget=budget, metric="val_loss", mode="min")


def alone(of: Trial, folder: Path, data: Path, **context: Any) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    return jobs.train.run(of, Context(folder=folder, data=data, **context))


def fused(trials: Sequence[Trial], folder: Path, data: Path, *, works: bool = True, **context: Any) -> list[Outcome]:
    """Member i has the folder of its number.

    Args:
        works: whether they are expected to be one program, not to be found unfit for it and trained one after the other.
    """
    outcomes: dict[int, Outcome] = {}

    def ended(member: int, outcome: Outcome) -> None:
        assert member not in outcomes
        outcomes[member] = outcome

    folders = [folder / str(member) for member in range(len(trials))]
    for own in folders:
        own.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_fused(trials, [Context(folder=own, data=data, **context) for own in folders], ended)
    assert ("cannot be trained as one program" in said.getvalue()) != works
    return [outcomes[member] for member in range(len(trials))]


def assert_same(one: Outcome, other: Outcome, limit: float = LIMIT) -> None:
    """But for rounding."""
    assert (one.status, one.reason, one.epoch, one.finished) == (other.status, other.reason, other.epoch, other.finished)
    assert [row["epoch"] for row in one.rows] == [row["epoch"] for row in other.rows]
    for ours, theirs in zip([*one.rows, one.test], [*other.rows, other.test], strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=limit)


def weights(folder: Path) -> dict[str, Tensor]:
    """Of a trial that is over."""
    found: dict[str, Tensor] = torch.load(folder / "selected.pt", weights_only=True)["model"]
    return found


def stop_at(step: int) -> Callable[[], bool]:
    """A `Context.stop` that says so when it is asked for this time."""
    asked = iter(range(1, 1_000_000))
    return lambda: next(asked) == step


# ---------------------------------------------------------------------------------------------------- equal to training alone


@pytest.mark.parametrize(("optimizer", "batch_norm"), [("sgd", True), ("sgd", False), ("adam", True), ("adamw", False)])
def test_every_parameter_that_may_differ(optimizer: str, batch_norm: bool, tmp_path: Path, data: Path) -> None:
    """Each member but the first differs from the first in one thing."""
    common = {"optimizer": optimizer, "batch_norm": batch_norm, "lr": 0.01 if optimizer == "sgd" else 0.001, "weight_decay": 0.01,
              "schedule": "step", "step_size": 2, "dropout": 0.2, "dropout_features": 0.1}
    differs: list[dict[str, Any]] = [{}, {"lr": common["lr"] / 2}, {"weight_decay": 0.0}, {"dropout": 0.0}, {"dropout_features": 0.3},
                                     {"schedule": "cosine"}, {"step_size": 1}, {"gamma": 0.5}]
    differs += [{"momentum": 0.0}, {"momentum": 0.5}] if optimizer == "sgd" else []
    trials = [trial(seed=0, **{**common, **one}) for one in differs] + [trial(seed=1, **common)]
    assert len({fuse_key(one) for one in trials}) == 1
    outcomes = fused(trials, tmp_path / "fused", data)
    finals = set()
    for member, one in enumerate(trials):
        expected = alone(one, tmp_path / "alone" / str(member), data)
        assert_same(outcomes[member], expected)
        finals.add(expected.rows[-1]["train_loss"])
        ours, theirs = weights(tmp_path / "fused" / str(member)), weights(tmp_path / "alone" / str(member))
        assert list(ours) == list(theirs)
        for name, value in theirs.items():
            assert float((ours[name] - value).abs().max()) <= LIMIT, name
    assert len(finals) == len(trials)  # or the test could not fail


@pytest.mark.parametrize("augment", ["flip", "crop_flip_rotate", "imagenet"])
def test_augmentation(augment: str, tmp_path: Path, data: Path) -> None:
    trials = [trial(seed, augment=augment, epochs=2) for seed in (0, 1)]
    for member, outcome in enumerate(fused(trials, tmp_path / "fused", data)):
        assert_same(outcome, alone(trials[member], tmp_path / f"alone-{member}", data))


@pytest.mark.parametrize(("config", "limit"), [
    ({"model": "dynamic_cnn", "precision": "fp32", "dropout": 0.3}, 1e-4),
    ({"model": "simple_cnn", "precision": "fp32", "dropout": 0.3}, 1e-4),
    pytest.param({"model": "resnet18", "precision": "fp32", "batch_size": 16, "train_images": 32, "lr": 1e-4}, 1e-3,
                 marks=pytest.mark.slow),
])
def test_networks(config: dict[str, Any], limit: float, tmp_path: Path, data: Path) -> None:
    trials = [trial(seed, **config, epochs=1) for seed in (0, 1, 2)]
    assert fuse_key(trials[0])
    for member, outcome in enumerate(fused(trials, tmp_path / "fused", data)):
        assert_same(outcome, alone(trials[member], tmp_path / f"alone-{member}", data), limit)


class Residual(cnns.SimpleCNN):
    """A block that adds, layers as functions, and images that a hook makes coloured, as in torchvision's networks on grey images."""

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        super().__init__(config, classes=classes, channels=3, size=size)
        self.block = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(64))
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(64, classes, bias=False)
        self.classifier = nn.Sequential(nn.Identity())
        self.register_forward_pre_hook(lambda _, inputs: (inputs[0].expand(-1, 3, -1, -1),))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.features(x_BCHW)
        y = self.block(x)
        y += x
        logits: Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(self.relu(y), 1), 1))
        return logits


def test_a_network_with_a_forward_of_its_own(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cnns.NETWORKS, "simple_cnn", Residual)
    trials = [trial(seed, model="simple_cnn", filters=16, epochs=2) for seed in (0, 1, 2)]
    for member, outcome in enumerate(fused(trials, tmp_path / "fused", data)):
        assert_same(outcome, alone(trials[member], tmp_path / f"alone-{member}", data))


def test_mixed_precision(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_EMULATE", "1")
    trials = [trial(seed, precision="bf16", dropout=0.2, epochs=1) for seed in (0, 1)]
    for member, outcome in enumerate(fused(trials, tmp_path / "fused", data)):
        expected = alone(trials[member], tmp_path / f"alone-{member}", data)
        assert outcome.rows[0]["train_loss"] == pytest.approx(expected.rows[0]["train_loss"], rel=0.01)


# ------------------------------------------------------------------------------------------------ what happens to one of them


def test_a_diverging_member_changes_nothing_for_the_others(tmp_path: Path, data: Path) -> None:
    others = [trial(0, dropout=0.2), trial(1, momentum=0.5)]
    sane = fused([others[0], trial(2), others[1]], tmp_path / "sane", data)
    wild = trial(2, lr=1e200)
    one, outcome, other = fused([others[0], wild, others[1]], tmp_path / "wild", data)
    assert outcome.status == "infeasible" and outcome.reason and "in epoch 1, by step" in outcome.reason
    assert outcome == alone(wild, tmp_path / "alone", data)
    assert (one, other) == (sane[0], sane[2])  # to the last bit


def test_each_member_has_its_own_patience(tmp_path: Path, data: Path) -> None:
    trials = [trial(0), trial(1, lr=1e-9, patience=1, batch_norm=True), trial(2, patience=4)]
    outcomes = fused(trials, tmp_path / "fused", data)
    for member, outcome in enumerate(outcomes):
        assert_same(outcome, alone(trials[member], tmp_path / f"alone-{member}", data))
    assert len(outcomes[1].rows) < len(outcomes[0].rows)


def test_a_paused_member_goes_on_alone_and_the_others_to_the_end(tmp_path: Path, data: Path) -> None:
    whole = trial(0, schedule="cosine")
    paused, done = fused([dataclasses.replace(whole, budget=2), trial(1)], tmp_path / "fused", data)
    assert (paused.finished, len(paused.rows)) == (False, 2) and (done.finished, len(done.rows)) == (True, 5)
    assert_same(alone(whole, tmp_path / "fused" / "0", data), alone(whole, tmp_path / "alone", data))


def test_members_report_and_open_the_test_split_by_themselves(tmp_path: Path, data: Path) -> None:
    trials = [trial(0, epochs=2), dataclasses.replace(trial(1, epochs=2), test=False)]
    told: list[list[Any]] = [[], []]
    contexts = [Context(folder=tmp_path / str(member), data=data, report=told[member].append,
                        opening_test=lambda member=member: told[member].append("opened")) for member in (0, 1)]
    for context in contexts:
        context.folder.mkdir()
    outcomes: dict[int, Outcome] = {}
    run_fused(trials, contexts, outcomes.__setitem__)
    for member, (*rows, last) in enumerate([told[0], [*told[1], None]]):
        assert last == ("opened" if member == 0 else None)
        assert [{name: row[name] for name in outcomes[member].rows[0]} for row in rows] == outcomes[member].rows
        assert all(row["seconds"] > 0 and row["images_per_s"] > 0 and 0 <= row["data_wait"] <= 1 for row in rows)
    assert outcomes[0].test and not outcomes[1].test


# ---------------------------------------------------------------------------------------------------------------- interruption


RECIPES = {"sgd": {"schedule": "cosine", "dropout": 0.3, "augment": "crop_flip"},
           "adam": {"optimizer": "adam", "lr": 0.001, "weight_decay": 0.01, "dropout_features": 0.1}}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stop_in_the_middle_of_an_epoch_changes_no_bit(recipe: str, tmp_path: Path, data: Path) -> None:
    trials = [trial(seed, **RECIPES[recipe], epochs=3, precision="fp32") for seed in (0, 1, 2)]
    undisturbed = fused(trials, tmp_path / "whole", data)
    with pytest.raises(Interrupted):
        fused(trials, tmp_path / "stopped", data, stop=stop_at(3 * 13 + 2))  # all three are asked at every step
    assert [path.name for path in (tmp_path / "stopped").glob("*/checkpoint*")] == ["checkpoint-000001-00000003.pt"] * 3
    assert fused(trials, tmp_path / "stopped", data) == undisturbed


def test_a_kill_changes_no_bit(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.fused, "SAVE_SHARE", 0)
    trials = [trial(seed, **RECIPES["sgd"], epochs=3, precision="fp32") for seed in (0, 1, 2)]
    undisturbed = fused(trials, tmp_path / "whole", data)
    asked = iter(range(1_000_000))

    def stop() -> bool:
        if next(asked) == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    process = multiprocessing.get_context("fork").Process(target=fused, args=(trials, tmp_path / "killed", data),
                                                          kwargs={"stop": stop, "checkpoint_s": 0})
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and len(list((tmp_path / "killed").glob("*/checkpoint*"))) == 6
    assert fused(trials, tmp_path / "killed", data) == undisturbed


@pytest.mark.parametrize("recipe", RECIPES)
def test_either_way_of_training_goes_on_from_the_others_checkpoints(recipe: str, tmp_path: Path, data: Path) -> None:
    """The members come from different places: one from the second epoch, one from the first, one from nowhere."""
    trials = [trial(seed, **RECIPES[recipe], epochs=3) for seed in (0, 1, 2)]
    expected = [alone(one, tmp_path / "alone" / str(member), data) for member, one in enumerate(trials)]
    for member, step in ((0, 13), (1, 7)):
        with pytest.raises(Interrupted):
            alone(trials[member], tmp_path / "both" / str(member), data, stop=stop_at(step))
    with pytest.raises(Interrupted):  # the first two steps of the third are made alone, before it has caught up with the second
        fused(trials, tmp_path / "both", data, stop=stop_at(3 * 2))
    with pytest.raises(Interrupted):
        fused(trials, tmp_path / "both", data, stop=stop_at(3 * 12))
    outcomes = [alone(trials[0], tmp_path / "both" / "0", data), *fused(trials[1:], tmp_path / "rest", data)]
    for outcome, wanted in zip(outcomes, expected, strict=True):
        assert_same(outcome, wanted)
    outcomes = fused(trials, tmp_path / "both", data)
    for outcome, wanted in zip(outcomes, expected, strict=True):
        assert_same(outcome, wanted)


@pytest.mark.parametrize("config", [{"momentum": 0.0}, {"optimizer": "adamw", "lr": 0.001}, {"dropout": 0.2}])
def test_a_checkpoint_has_the_form_of_one_of_a_training_alone(config: dict[str, Any], tmp_path: Path, data: Path) -> None:
    """Entry by entry: the same names, kinds, shapes, layouts and amounts of memory, and the same numbers but for rounding."""
    trials = [trial(0, **config), trial(1, **{**config, "weight_decay": 0.01})]
    with pytest.raises(Interrupted):
        fused(trials, tmp_path, data, stop=stop_at(2 * 12))
    with pytest.raises(Interrupted):
        alone(trials[1], tmp_path / "alone", data, stop=stop_at(12))
    ours, theirs = (checkpoint.load(tmp_path / folder, "cpu")[0] for folder in ("1", "alone"))
    assert ours and theirs and ours["best_model"] is not None
    _compare(ours, theirs)
    sizes = [next((tmp_path / folder).glob("checkpoint*")).stat().st_size for folder in ("1", "alone")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def _compare(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name in theirs:
            _compare(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _compare(one, other)
    elif isinstance(theirs, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        for form in (torch.contiguous_format, torch.channels_last) if theirs.dim() == 4 else ():
            assert ours.is_contiguous(memory_format=form) == theirs.is_contiguous(memory_format=form)
        assert ours.untyped_storage().nbytes() == theirs.untyped_storage().nbytes()
        assert torch.allclose(ours, theirs, rtol=0, atol=LIMIT)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=0, abs=LIMIT)
    else:
        assert ours == theirs


# ---------------------------------------------------------------------------------------------- which trials, and when it pays


def test_what_may_differ_in_a_program() -> None:
    first = trial()
    same = [trial(1), trial(budget=1), trial(lr=1.0), trial(momentum=0.1), trial(weight_decay=0.1), trial(dropout=0.5), trial(gamma=0.3),
            trial(dropout_features=0.5), trial(schedule="cosine"), trial(schedule="step", step_size=3), trial(patience=2),
            trial(kernel_size=3), trial(filters_2=7)]  # a default that is written out, and what plain_cnn does not read
    assert {fuse_key(one) for one in same} == {fuse_key(first)} != {None}
    other = [trial(**{name: value}) for name, value in {
        "model": "dynamic_cnn", "depth": 3, "filters": 8, "kernel_size": 5, "hidden": 8, "batch_norm": False, "optimizer": "adam",
        "batch_size": 16, "epochs": 6, "precision": "fp32", "train_images": 64, "split_seed": 1, "augment": "flip", "classes": "0-4",
        "image_size": 16, "val_fraction": 0.2}.items()]
    keys = {fuse_key(one) for one in [first, *other]}
    assert len(keys) == len(other) + 1 and None not in keys


@pytest.mark.parametrize("config", [
    {"precision": "fp16"}, {"model": "resnet18", "freeze": "backbone"}, {"model": "vit_b_16", "image_size": 32},
    {"model": "efficientnet_b0"}, {"model": "dynamic_cnn", "depth": 9}, {"no_such": 1}])
def test_trials_that_cannot_be_fused(config: dict[str, Any]) -> None:
    assert fuse_key(trial(**config)) is None


class Mixing(cnns.SimpleCNN):
    """Known layers, and a `forward` that mixes along the channels."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = self.features(x_BCHW)
        logits: Tensor = self.classifier(x + x.flip(1))
        return logits


def test_a_network_that_mixes_its_channels_is_found_out_and_trained_alone(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str],
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cnns.NETWORKS, "simple_cnn", Mixing)
    trials = [trial(seed, model="simple_cnn", precision="fp32", epochs=1, dropout=0.1) for seed in (0, 1)]
    outcomes = fused(trials, tmp_path / "fused", data, works=False)
    assert outcomes == [alone(one, tmp_path / f"alone-{member}", data) for member, one in enumerate(trials)]
    contexts = [Context(folder=tmp_path, data=data)] * 2
    assert not fused_is_faster(trials, contexts)
    assert "its logits are off by" in capsys.readouterr().out


def test_who_accumulates_is_trained_alone_and_the_rest_together(tmp_path: Path, data: Path) -> None:
    trials = [trial(seed, epochs=1) for seed in (0, 1, 2)]
    folders = [tmp_path / str(member) for member in range(3)]
    for folder in folders:
        folder.mkdir()
    outcomes: dict[int, Outcome] = {}
    run_fused(trials, [Context(folder=folder, data=data, accumulate=2 if member == 1 else 1) for member, folder in enumerate(folders)],
              outcomes.__setitem__)
    assert outcomes[1] == alone(trials[1], tmp_path / "pieces", data, accumulate=2)
    for member in (0, 2):
        assert_same(outcomes[member], alone(trials[member], tmp_path / f"alone-{member}", data))


def test_networks_that_cannot_be_built_are_infeasible(tmp_path: Path, data: Path) -> None:
    trials = [trial(seed, model="dynamic_cnn", depth=9) for seed in (0, 1)]
    assert fused(trials, tmp_path / "fused", data) == [alone(one, tmp_path / "alone", data) for one in trials]


def test_the_probe_leaves_no_trace(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [trial(seed, dropout=0.2) for seed in (0, 1)]
    state = torch.get_rng_state()
    faster = fused_is_faster(trials, [Context(folder=tmp_path, data=data)] * 2)
    assert isinstance(faster, bool) and "a step of 2 trials takes" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state) and not list(tmp_path.iterdir())


def test_the_probe_says_no_where_there_is_nothing_to_fuse(tmp_path: Path, data: Path) -> None:
    context = Context(folder=tmp_path, data=data)
    assert not fused_is_faster([trial()], [context])
    assert not fused_is_faster([trial(0), trial(1)], [context, dataclasses.replace(context, accumulate=2)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path: Path, data: Path) -> None:
    """Long enough for the step to be recorded as a graph."""
    common = {"dropout": 0.2, "dropout_features": 0.1, "augment": "crop_flip", "epochs": 12}
    trials = [trial(seed, lr=0.01 * (1 + seed), **common) for seed in (0, 1, 2)]
    outcomes = fused(trials, tmp_path / "fused", data, device="cuda:0")
    for member, outcome in enumerate(outcomes):
        assert_same(outcome, alone(trials[member], tmp_path / f"alone-{member}", data, device="cuda:0"))
    wild = [trials[0], trial(1, lr=1e200, **common), trials[2]]
    after = fused(wild, tmp_path / "wild", data, device="cuda:0")
    assert after[1].status == "infeasible"
    for member in (0, 2):
        assert_same(after[member], outcomes[member])
