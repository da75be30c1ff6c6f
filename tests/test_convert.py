"""Grids made of other tools' search spaces: what each distribution becomes, what is listed, and what hostile files do."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from harness import convert, launch, main
from harness.grid import Grid, Tuned, parse_grid

SWEEPS = Path(__file__).parent / "sweeps"
APPROXIMATE = True


@dataclass
class Converted:
    """A grid and what was said about it."""

    grid: Grid
    text: str
    said: str

    def tuned(self, name: str = "lr") -> Tuned:
        """The only range or choice of a parameter."""
        found = [t for t in self.grid.tune or () if t.name == name]
        assert len(found) == 1, self.text
        return found[0]

    def listed(self, title: str) -> list[str]:
        """The lines of one part of the report."""
        parts = self.said.split(f"{title} (")
        lines = parts[1].splitlines()[1:] if len(parts) == 2 else []
        return [line.strip() for n, line in enumerate(lines) if all(x.startswith("  ") for x in lines[:n + 1])]


Convert = Callable[..., Converted]


@pytest.fixture
def converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Writes a sweep file, converts it, and checks that the grid says in its comments all that was said."""
    def run(content: object, *options: str, name: str = "sweep.json") -> Converted:
        file, out = tmp_path / name, tmp_path / "made.toml"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        assert convert.main([str(file), "-o", str(out), "--force", *options]) == 0, capsys.readouterr().err
        said, text = capsys.readouterr().out, out.read_text()
        comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        for line in said.splitlines()[1:]:
            assert " ".join(line.split()) in " ".join(comment.split()), "what is listed stands in the grid too"
        return Converted(parse_grid(text, name="made.toml"), text, said)
    return run


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said of a file that cannot be converted; nothing is written."""
    def run(content: str | bytes, name: str = "sweep.yaml", *options: str) -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        assert convert.main([str(tmp_path / name), "-o", str(tmp_path / "made.toml"), *options]) == 2
        assert sorted(p.name for p in tmp_path.iterdir()) == [name]
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and "Traceback" not in err
        return err
    return run


def sweep(parameters: dict[str, object], **more: object) -> dict[str, object]:
    return {"method": "bayes", "metric": {"name": "val_acc", "goal": "maximize"}, "run_cap": 20, "parameters": parameters, **more}


# ---------------------------------------------------------------------------------------------------- W&B, kind by kind


def log(x: float) -> float:
    return math.log(x)


UNIFORM = [
    # name, W&B's words for it, (low, high, log, step), whether it is an approximation
    ("lr", {"distribution": "uniform", "min": 0.1, "max": 1}, (0.1, 1.0, False, None), False),
    ("lr", {"min": 0.001, "max": 1.0}, (0.001, 1.0, False, None), False),
    ("epochs", {"min": 3, "max": 9}, (3, 9, False, None), False),
    ("epochs", {"distribution": "int_uniform", "min": 3, "max": 9}, (3, 9, False, None), False),
    # multiples of 5 that 30..50 rounds to: 30 from [30, 32.5) and 50 from (47.5, 50], half as often as the others
    ("epochs", {"distribution": "q_uniform", "min": 30, "max": 50, "q": 5}, (30, 50, False, 5), True),
    # [27.5, 52.5) gives each of 30, 35, ... 50 a whole interval
    ("epochs", {"distribution": "q_uniform", "min": 27.5, "max": 52.5, "q": 5}, (30, 50, False, 5), False),
    ("dropout", {"distribution": "q_uniform", "min": 0.05, "max": 0.35, "q": 0.1}, (0.1, 0.3, False, 0.1), True),
    ("dropout", {"distribution": "q_uniform", "min": 0.25, "max": 0.75, "q": 0.5}, None, False),  # half to 0.5 and no width left: 0.5
    # exponents of e, against values
    ("lr", {"distribution": "log_uniform", "min": log(1e-4), "max": log(1e-2)}, (1e-4, 1e-2, True, None), False),
    ("lr", {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, (1e-4, 1e-2, True, None), False),
    # log(1/x) from log(100) to log(10000) is x from 1e-4 to 1e-2, logarithmic as well
    ("lr", {"distribution": "inv_log_uniform", "min": log(100), "max": log(10000)}, (1e-4, 1e-2, True, None), False),
    ("lr", {"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1e-2}, (1e-4, 1e-2, True, None), False),
    ("hidden", {"distribution": "q_log_uniform_values", "min": 16, "max": 256}, (16, 256, True, None), True),
    ("hidden", {"distribution": "q_log_uniform", "min": log(15.5), "max": log(256.4), "q": 1}, (16, 256, True, None), True),
    ("hidden", {"distribution": "q_log_uniform_values", "min": 16, "max": 4096, "q": 8}, (16, 4096, True, None), True),
    # 1.959964 standard deviations to each side hold 95 %
    ("lr", {"distribution": "normal", "mu": 0.1, "sigma": 0.01}, (0.0804, 0.1196, False, None), True),
    ("lr", {"distribution": "log_normal", "mu": -5, "sigma": 1}, (math.exp(-6.959964), math.exp(-3.040036), True, None), True),
    ("epochs", {"distribution": "q_normal", "mu": 40, "sigma": 10}, (20, 60, False, None), True),
    ("hidden", {"distribution": "q_log_normal", "mu": 4, "sigma": 0.5, "q": 1}, (20, 145, True, None), True),
    # 2.5 and 97.5 % of beta(2, 2), whose distribution function is 3x^2 - 2x^3
    ("dropout", {"distribution": "beta", "a": 2, "b": 2}, (0.0943, 0.9057, False, None), True),
    ("dropout", {"distribution": "beta", "a": 1, "b": 1}, (0.0, 0.99, False, None), True),  # uniform, cut to what dropout may be
    ("dropout", {"distribution": "q_beta", "a": 2, "b": 2, "q": 0.25}, (0.0, 0.75, False, 0.25), True),
]


@pytest.mark.parametrize(("name", "spec", "expected", "approximate"), UNIFORM)
def test_distributions_of_wandb(converted: Convert, name: str, spec: dict[str, object], expected: tuple[object, ...] | None,
                                approximate: bool) -> None:
    made = converted(sweep({name: spec, "gamma": {"values": [0.1, 0.2]}, "schedule": {"value": "step"}}))
    said = [line for line in made.listed("approximations") if line.startswith(f"{name}:")]
    if expected is None:
        assert made.grid.fixed[name] == 0.5
        return
    tuned = made.tuned(name)
    low, high, log_scale, step = expected
    assert (tuned.low, tuned.high) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))
    assert (tuned.log, tuned.step) == (log_scale, step) and bool(said) == approximate
    assert isinstance(tuned.low, int) == (name in ("epochs", "hidden"))


def test_choices_and_constants_of_wandb(converted: Convert) -> None:
    made = converted(sweep({
        "batch_size": {"values": [32, 64, 128]}, "augment": {"distribution": "categorical", "values": ["none", "flip"]},
        "optimizer": {"values": ["sgd", "adam", "adamw"], "probabilities": [0.7, 0.3, 0]}, "lr": {"values": [1, 2],
                                                                                                            "probabilities": [0.5, 0.5]},
        "epochs": {"value": 7}, "dropout": {"values": [0.5]}, "batch_norm": {"values": [True, False]}}))
    assert made.tuned("batch_size").choices == (32, 64, 128) and made.tuned("augment").choices == ("none", "flip")
    assert made.tuned("optimizer").choices == ("sgd", "adam"), "what has probability 0 is never drawn"
    assert made.tuned("lr").choices == (1.0, 2.0) and made.tuned("batch_norm").choices == (True, False)
    assert made.grid.fixed == {"epochs": 7, "dropout": 0.5}
    assert made.listed("approximations") == ['method: bayes; proposed by algorithm = "auto"', (
        "optimizer: its values are equally likely, not with probabilities 0.7, 0.3")]


def test_nested_parameters_are_found_by_their_last_name(converted: Convert) -> None:
    made = converted(sweep({"train": {"parameters": {"optimizer": {"parameters": {"name": {"value": "AdamW"}, "learning_rate": {
        "min": 0.1, "max": 0.2}, "eps": {"value": 1e-8}}}, "epochs": {"value": 3}}}}))
    assert made.grid.fixed == {"optimizer": "adamw", "epochs": 3} and made.tuned().high == 0.2
    assert made.listed("not mapped") == ['train.optimizer.eps: {"value": 1e-08}; no parameter of the built-in training (--job keeps it)']


def test_a_grid_sweep_is_compared(converted: Convert) -> None:
    made = converted(sweep({"depth": {"min": 1, "max": 3}, "lr": {"values": [0.1, 0.01]}, "dropout": {"min": 0.0, "max": 0.5},
                            "seed": {"values": [0, 1]}, "epochs": {"value": 4}}, method="grid",
                           early_terminate={"type": "hyperband", "min_iter": 1}))
    assert made.grid.tune is None and made.grid.search is None and made.grid.seeds == (0, 1)
    assert [v.settings for v in made.grid.variants] == [{"depth": d, "lr": lr} for d in (1, 2, 3) for lr in (0.1, 0.01)]
    lost = made.listed("not mapped")
    assert any("cannot try all values of a continuous range" in line for line in lost)
    assert any(line.startswith("run_cap: 20") for line in lost) and any("early stopping" in line for line in lost)


def test_what_is_around_the_parameters(converted: Convert) -> None:
    made = converted(sweep({"lr": {"min": 0.1, "max": 0.2}, "random_seed": {"values": [4, 5]}, "epochs": {"value": 27}},
                           method="random", name="My Sweep (2)", description="Is it the rate?", program="train.py", entity="us",
                           early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "strict": True},
                           metric={"name": "validation/accuracy", "goal": "maximize", "target": 0.9}, spam=3))
    grid = made.grid
    assert grid.search is not None and grid.search.trials == 20 and grid.search.algorithm == "RandomSearch"
    assert grid.search.halving is not None and (grid.search.halving.first, grid.search.halving.factor) == (3, 3)  # 27 / 3 / 3
    assert (grid.name, grid.metric, grid.mode, grid.seeds) == ("my_sweep_2", "val_acc", "max", (4, 5))
    assert made.text.startswith("# Is it the rate?\n") and "sweep.json, a W&B sweep" in made.text
    assert [line.split(":")[0] for line in made.listed("not mapped")] == [
        "metric.target", "program", "entity", "early_terminate.strict", "spam"]


@pytest.mark.parametrize(("said", "rungs"), [
    ({"type": "hyperband", "min_iter": 3}, (3, 3)), ({"type": "hyperband", "min_iter": 2, "eta": 4}, (2, 4)),
    ({"type": "hyperband", "max_iter": 16, "s": 3, "eta": 2}, (2, 2)), ({"type": "hyperband", "max_iter": 8, "s": 9, "eta": 2}, (1, 2)),
    ({"type": "hyperband"}, None), ({"type": "median"}, None), ({"type": "hyperband", "min_iter": 50}, None), ("now", None)])
def test_bands_become_rungs(converted: Convert, said: object, rungs: tuple[int, int] | None) -> None:
    made = converted(sweep({"lr": {"min": 0.1, "max": 0.2}, "epochs": {"value": 40}}, early_terminate=said))
    assert made.grid.search is not None
    halving = made.grid.search.halving
    assert (halving and (halving.first, halving.factor)) == rungs
    assert any("early" in line for line in made.listed("approximations" if rungs else "not mapped"))


@pytest.mark.parametrize(("name", "goal", "metric", "mode", "title"), [
    ("val_acc", "maximize", "val_acc", "max", None), ("val_accuracy", "maximize", "val_acc", "max", "renamed"),
    ("Validation/Accuracy", "maximize", "val_acc", "max", "renamed"), ("validation_loss", "minimize", "val_loss", "min", "renamed"),
    ("valLoss", "minimize", "val_loss", "min", "renamed"), ("accuracy", "maximize", "val_acc", "max", "renamed"),
    ("val_error", "minimize", "val_acc", "max", "approximations"), ("test_acc", "maximize", "val_acc", "max", "approximations"),
    ("val_acc", None, "val_acc", "min", "approximations"), ("f1", "maximize", "val_acc", "max", "not mapped")])
def test_metrics(converted: Convert, name: str, goal: str | None, metric: str, mode: str, title: str | None) -> None:
    made = converted(sweep({"lr": {"min": 0.1, "max": 0.2}}, metric={"name": name} | ({"goal": goal} if goal else {})))
    assert (made.grid.metric, made.grid.mode) == (metric, mode)
    assert title is None or any(name in line or "metric" in line for line in made.listed(title))


def test_values_and_ranges_that_the_training_does_not_have(converted: Convert) -> None:
    made = converted(sweep({
        "optimizer": {"values": ["SGD", "RMSprop", "Adam"]}, "lr": {"min": 0.0, "max": 1},
        "dropout_rate": {"min": 0.0, "max": 1.0},
        "model": {"value": "ResNet-18"}, "depth": {"values": [1, 2]}, "bs": {"values": ["32", 64.0, 0, None, [1]]},
        "warmup": {"value": 5},
        "dataset": {"value": "CIFAR-10"}, "scheduler": {"values": ["CosineAnnealingLR", "StepLR"]}, "learning_rate": {"value": 0.5}}))
    assert made.tuned("optimizer").choices == ("sgd", "adam") and made.tuned("batch_size").choices == (32, 64)
    assert (made.tuned().low, made.tuned().high) == (0.001, 1.0), "0 is no learning rate"
    assert made.grid.fixed == {"model": "resnet18", "dataset": "cifar10"} and made.tuned("schedule").choices == ("cosine", "step")
    assert [line.partition(";")[0].partition(" = ")[0].partition(":")[0] for line in made.listed("not mapped")] == [
        "optimizer", "bs", "bs", "bs", "warmup", "learning_rate", "dropout_rate", "depth"]
    assert any("resnet18; only model dynamic_cnn" in line for line in made.listed("not mapped")), "the grid's own words"


def test_a_job_of_ones_own_keeps_every_name(converted: Convert) -> None:
    made = converted(sweep({"learning_rate": {"min": 1, "max": 2.5}, "beta-1": {"values": ["a", "b\"c"]}, "opt": {"parameters": {"k": {
        "min": 1, "max": 5}}}, "wait": {"value": True}}, metric={"name": "loss/score", "goal": "maximize"}), "--job", "mine.train:run",
        "--metrics", "loss, score")
    assert made.grid.job is not None and made.grid.job.run == "mine.train:run" and (made.grid.metric, made.grid.mode) == ("score", "max")
    assert [(t.name, t.kind, t.low, t.high, t.choices) for t in made.grid.tune or ()] == [
        ("learning_rate", "float", 1.0, 2.5, ()), ("beta_1", "str", None, None, ("a", 'b"c')), ("opt_k", "int", 1, 5, ())]
    assert made.grid.fixed == {"wait": True} and not made.listed("not mapped")


# ------------------------------------------------------------------------------------------------------ Hyperopt and Ray Tune


@pytest.mark.parametrize(("name", "expression", "expected"), [
    ("lr", "hp.uniform('lr', 0.1, 1)", (0.1, 1.0, False, None)),
    ("lr", "hp.uniform('lr', low=0.1, high=1)", (0.1, 1.0, False, None)),
    ("lr", "hp.loguniform('lr', -2, 0)", (math.exp(-2), 1.0, True, None)),
    ("lr", "10 ** hp.uniform('lr', -3, -1)", (1e-3, 1e-1, True, None)),
    ("epochs", "hp.quniform('e', 10, 30, 5)", (10, 30, False, 5)),
    ("epochs", "hp.uniformint('e', 1, 9)", (1, 9, False, None)),
    ("epochs", "hp.randint('e', 10, 20)", (10, 19, False, None)),  # the upper bound is excluded
    ("depth", "1 + hp.randint('d', 3)", None),
    ("epochs", "scope.int(hp.uniform('e', 2, 9))", (2, 8, False, None)),  # int() of a float below 9
    ("hidden", "scope.int(hp.qloguniform('h', np.log(16), np.log(256), 1))", (16, 256, True, None)),
    ("lr", "hp.normal('lr', 0.1, 0.01)", (0.0804, 0.1196, False, None)),
    ("lr", "tune.uniform(0.1, 1)", (0.1, 1.0, False, None)),
    ("lr", "tune.loguniform(1e-4, 1e-1)", (1e-4, 1e-1, True, None)),
    ("dropout", "tune.quniform(0.05, 0.5, 0.1)", (0.1, 0.5, False, 0.1)),
    ("epochs", "tune.randint(3, 9)", (3, 8, False, None)),
    ("epochs", "tune.qrandint(3, 29, 5)", (5, 25, False, 5)),
    ("hidden", "tune.lograndint(16, 257)", (16, 256, True, None)),
    ("hidden", "tune.qlograndint(16, 4096, 8)", (16, 4096, True, None)),
    ("lr", "tune.qloguniform(1e-4, 1e-1, 5e-5)", (1e-4, 1e-1, True, None)),
    ("lr", "tune.randn(0.1, 0.01)", (0.0804, 0.1196, False, None)),
    ("lr", "tune.qrandn(0.1, 0.01, 0.01)", (0.08, 0.12, False, 0.01)),
    ("lr", "tune.sample_from(lambda spec: 3)", None),
])
def test_functions_of_hyperopt_and_ray(converted: Convert, name: str, expression: str, expected: tuple[object, ...] | None) -> None:
    other = "hp.choice('b', [8, 16])" if "hp." in expression else "tune.choice([8, 16])"
    made = converted(f"space = {{'batch_size': {other}, {name!r}: {expression}}}", name="space.py")
    assert made.tuned("batch_size").choices == (8, 16)
    if expected is None:
        assert [line for line in made.listed("not mapped") if expression in line] and len(made.grid.tune or ()) == 1
        return
    tuned = made.tuned(name)
    assert (tuned.low, tuned.high) == (pytest.approx(expected[0], rel=1e-3), pytest.approx(expected[1], rel=1e-3))
    assert (tuned.log, tuned.step) == expected[2:]


def test_a_hyperopt_file(converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = converted((SWEEPS / "hyperopt_space.py").read_text(), name="hyperopt_space.py")
    assert not (tmp_path / "this-file-was-run").exists()
    assert made.grid.search is not None and made.grid.search.trials == 100 and made.grid.seeds == (3,)
    assert [(t.name, t.when, t.choices or (t.low, t.high, t.log, t.step)) for t in made.grid.tune or ()] == [
        ("lr", (), (1e-4, 1e-1, True, None)), ("weight_decay", (), (1e-6, 1e-2, True, None)), ("batch_size", (), (16, 32, 64, 128)),
        ("dropout", (), (0.1, 0.5, False, 0.1)), ("epochs", (), (5, 20, False, 5)), ("optimizer", (), ("sgd", "adam")),
        ("momentum", (("optimizer", "sgd"),), (0.8, 0.99, False, None)),
        ("schedule", (("optimizer", "sgd"),), ("step", "cosine", "none")),
        ("step_size", (("optimizer", "sgd"), ("schedule", "step")), (5, 10))]
    assert [line.partition(";")[0] for line in made.listed("not mapped")] == [
        "fmin: algo = tpe.suggest", "opt = RMSprop", "opt.beta1: hp.uniform(\"beta1\", 0.8, 0.95)",
        "opt.alpha: hp.uniform(\"alpha\", 0.9, 0.99)"]


def test_a_ray_file(converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = converted((SWEEPS / "ray_space.py").read_text(), name="ray_space.py")
    assert not (tmp_path / "this-file-was-run").exists()
    search = made.grid.search
    assert search is not None and search.trials == 40 and search.halving is not None
    assert (search.halving.first, search.halving.factor, made.grid.fixed["epochs"]) == (3, 3, 27)
    assert [v.settings for v in made.grid.variants] == [{"optimizer": "sgd"}, {"optimizer": "adam"}]
    assert (made.grid.metric, made.grid.mode) == ("val_loss", "min")
    assert {t.name: t.choices or (t.low, t.high, t.log, t.step) for t in made.grid.tune or ()} == {
        "lr": (1e-4, 1e-1, True, None), "depth": (1, 3, False, None), "filters": (16, 64, False, 8), "hidden": (16, 256, True, None),
        "batch_size": (16, 32, 64, 128), "weight_decay": (0.00608, 0.01392, False, None)}
    assert [line.partition(":")[0] for line in made.listed("not mapped")] == ["TuneConfig", "l2"]


def test_a_grid_that_ray_repeats_gets_as_many_seeds(converted: Convert) -> None:
    made = converted("tune.run(f, num_samples=3, config={'lr': tune.grid_search([0.1, 1]), 'bs': 8})", name="space.py")
    assert made.grid.tune is None and made.grid.seeds == (0, 1, 2)
    assert [v.settings for v in made.grid.variants] == [{"lr": 0.1}, {"lr": 1.0}]


CHOICES = "space = {'opt': hp.choice('o', [{'name': 'sgd', 'momentum': 0.5}, {'name': 'adamw'%s}]), 'lr': hp.uniform('lr', 0.1, 1)}"


def test_constants_under_a_condition(converted: Convert) -> None:
    made = converted(CHOICES % "", name="space.py")
    assert made.grid.fixed == {"momentum": 0.5} and not made.listed("approximations"), "only sgd reads it"
    made = converted(CHOICES % ", 'weight_decay': 0.1", name="space.py")
    assert made.grid.fixed == {"momentum": 0.5, "weight_decay": 0.1}
    assert made.listed("approximations") == ["weight_decay: 0.1 always, not only under optimizer = adamw"]


def test_a_choice_with_probabilities(converted: Convert) -> None:
    made = converted("space = [hp.pchoice('batch_size', [(0.1, 8), (0.9, 16)]), hp.uniform('lr', 0.1, 1)]", name="space.py")
    assert made.tuned("batch_size").choices == (8, 16) and made.listed("approximations") == [
        "batch_size: its values are equally likely, not with probabilities 0.1, 0.9"]


def test_a_sweep_as_a_python_dict(converted: Convert) -> None:
    text = "import wandb\nsweep_config = {'method': 'random', 'parameters': {'lr': {'max': 0.1, 'min': 0.01}}}\n"
    made = converted(text, name="sweep.py")
    assert (made.tuned().low, made.tuned().high) == (0.01, 0.1) and "a W&B sweep" in made.text


def test_the_space_is_the_one_that_is_searched(converted: Convert) -> None:
    made = converted("rates = hp.uniform('lr', 0.1, 1)\nold = {'lr': hp.uniform('lr', 5, 6)}\nmine = {'lr': rates}\n"
                     "fmin(f, space=mine, max_evals=5)\n", name="space.py")
    assert made.tuned().high == 1.0 and made.listed("not mapped") == ["line 2: hp.uniform('lr', 5, 6) stands outside the space"]


# -------------------------------------------------------------------------------------------------------------- hostile files


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
LR = "method: bayes\nparameters:\n  lr: {min: 0.1, max: 0.2}\n"


@pytest.mark.parametrize(("content", "name", "words"), [
    ("!!python/object/apply:os.system ['touch ran']", "sweep.yaml", "python/object/apply"),
    (LR + "  x: !!python/name:os.system {}\n", "sweep.yaml", "python/name"),
    (LAUGHS, "sweep.yaml", "aliases"), (MERGES, "sweep.yaml", "aliases"), ("a: &a [*a]", "sweep.yaml", "nested"),
    ("[" * 60 + "]" * 60, "sweep.yaml", "nested"), ("- " * 5000, "sweep.yaml", "nested"),
    ("[" * 100_000, "sweep.json", "handful"), ("[" * 100_000, "space.py", "no Python"),
    ("-" * 100_000 + "1", "space.py", "no Python"), ("(" * 150 + "1" + ")" * 150, "space.py", "no search space"),
    (LR + "  lr: {value: 1}\n", "sweep.yaml", "given twice"), ('{"method": 1, "method": 2}', "sweep.json", "given twice"),
    ("space = {'lr': hp.uniform('a', 0, 1), 'lr': 3}", "space.py", "given twice"),
    (b"method: \xff\n", "sweep.yaml", "not UTF-8 (byte 0xff on line 1)"), (b"x" * 10_000_000, "sweep.yaml", "larger than 256 kB"),
    ("a: \x00", "sweep.yaml", "no YAML"), ("a\x00", "space.py", "no Python"), ("method: [", "sweep.yaml", "line 1"),
    (LR.replace("0.1", ".nan"), "sweep.yaml", "nan is no number"), (LR.replace("0.2", "-.inf"), "sweep.yaml", "inf is no number"),
    ('{"parameters": {"lr": {"value": NaN}}}', "sweep.json", "NaN"), ('{"parameters": {"lr": {"value": 1e999}}}', "sweep.json", "inf"),
    (LR + "  'a b\\n[x]': {value: 1}\n", "sweep.yaml", "rename it"), (LR + "  1: {value: 1}\n", "sweep.yaml", "rename it"),
    (LR + '  weights: {value: "a\\u001b[2J"}\n', "sweep.yaml", "control characters"),
    ("", "sweep.yaml", "no W&B sweep"), ("3", "sweep.json", "no W&B sweep"), ("parameters: {}\n", "sweep.yaml", "at least one"),
    ("", "space.py", "no search space"), ("x = 3", "space.py", "no search space"),
    ("space = {'lr': hp.uniform('lr', 0, 1), 'x': tune.uniform(0, 1)}", "space.py", "both Hyperopt and Ray Tune"),
    ("space = {'lr': hp.uniform('lr', 0, 1)}\nparam_space = {'lr': hp.uniform('lr', 0, 2)}", "space.py", "on lines 1, 2"),
    ("b0 = [hp.uniform('lr', 0, 1)]\n" + "".join(f"b{n} = [{', '.join([f'b{n - 1}'] * 9)}]\n" for n in range(1, 12)) + "space = b11",
     "space.py", "once its names are followed"),
    ("b0 = [1]\n" + "".join(f"b{n} = [{', '.join([f'b{n - 1}'] * 9)}]\n" for n in range(1, 30)) + "hp.uniform('lr', 0, 1) + f(b29)",
     "space.py", "no plain literal"),
    ("space = [space, hp.uniform('lr', 0, 1)]", "space.py", "nested too deeply"),
    (LR.replace("lr", "nothing_of_ours"), "sweep.yaml", "--job"), (LR + "run_cap: 99999999999\n", "sweep.yaml", "no grid can be made"),
])
def test_hostile_files_are_refused(refused: Callable[..., str], content: str | bytes, name: str, words: str) -> None:
    assert words in refused(content, name)


def test_hostile_values_do_not_get_out_of_their_line(converted: Convert) -> None:
    """Quotes, line breaks and escape sequences, in names, values and words that go into comments."""
    evil = 'x"\n[slurm]\nmem_gb = 7 #\x1b[2J\u2028'
    made = converted(sweep({"lr": {"min": 0.1, "max": 0.2}, "gadget": {"value": evil}, "classes": {"value": "0-4\n[slurm]"},
                            "optimizer": {"values": ["sgd", evil]}}, name=evil, description=evil, project=evil, spam={evil: evil}))
    assert made.grid.slurm.mem_gb == 0 and made.grid.name == "x_slurm_mem_gb_7_2j" and "\x1b" not in made.said + made.text
    assert not [line for line in made.text.splitlines() if line.startswith("mem_gb")] and "\u2028" not in made.text
    assert len(made.listed("not mapped")) == 5


@pytest.mark.parametrize("expression", ["9 ** 9 ** 9", "10 ** 400", "'a' * 10 ** 9", "(-1) ** 0.5", "1 / 0", "math.log(-1)",
                                        "range(10 ** 9)", "__import__('os').mkdir('ran')", "open('ran', 'w')", "int('9' * 5000)"])
def test_expressions_that_would_hang_or_act_are_only_listed(converted: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           expression: str) -> None:
    monkeypatch.chdir(tmp_path)
    made = converted(f"space = {{'lr': hp.uniform('lr', 0.1, 1), 'epochs': {expression}}}", name="space.py")
    assert [line for line in made.listed("not mapped") if line.startswith("epochs: ")] and not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------------ the command line


def test_nothing_is_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = str(SWEEPS / "cifar100_bayes.yaml"), tmp_path / "made.toml"
    out.write_text("mine")
    assert convert.main([file, "-o", str(out)]) == 2 and out.read_text() == "mine" and "--force" in capsys.readouterr().err
    assert main.main(["convert", file, "-o", str(out), "--force"]) == 0 and "[tune]" in out.read_text()
    written = capsys.readouterr().out
    assert "not mapped (3):" in written
    assert convert.main([file]) == 0
    printed = capsys.readouterr()
    assert parse_grid(printed.out, name="x").identity() == parse_grid(out.read_text(), name="x").identity()
    assert written.split("\n", 1)[1] == printed.err
    assert convert.main([file, "-o", str(tmp_path / "none" / "made.toml")]) == 2 and "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--job", "a.b:c"], ["--metrics", "a"], ["--job", "a b", "--metrics", "a"]])
def test_jobs_need_their_metrics(refused: Callable[..., str], options: list[str]) -> None:
    refused(LR, "sweep.yaml", *options)


# ------------------------------------------------------------------------------------------------------- the study of CIFAR-100


def test_the_cifar100_sweep_is_what_the_study_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "converted.toml"
    assert convert.main([str(SWEEPS / "cifar100_bayes.yaml"), "-o", str(out)]) == 0
    grid = parse_grid(out.read_text(), name="converted.toml")
    assert {t.name: t.choices or (t.low, t.high, t.log, t.step) for t in grid.tune or ()} == {
        "lr": (1e-4, 1e-2, False, None), "momentum": (0.8, 0.99, False, None), "batch_size": (32, 64, 128), "filters": (16, 32, 64),
        "filters_2": (32, 64, 128), "filters_3": (64, 128, 256), "dropout": (0.125, 0.25, 0.5), "epochs": (30, 50, False, 5)}
    assert grid.fixed == {"dataset": "cifar100", "model": "simple_cnn", "optimizer": "sgd"}
    assert (grid.metric, grid.mode) == ("val_acc", "max")
    capsys.readouterr()
    assert launch.main([str(out), "--local", "--dry-run", "--study-dir", str(tmp_path / "study")]) == 0
    assert "64 configs" in capsys.readouterr().out and not (tmp_path / "study").exists()


@pytest.mark.slow
def test_the_cifar100_sweep_runs_on_a_small_stand_in(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, on digits for one or two epochs: every proposed config lies in the space of the sweep."""
    monkeypatch.setenv("HARNESS_DATA", str(data))
    out, study = tmp_path / "converted.toml", tmp_path / "study"
    assert convert.main([str(SWEEPS / "cifar100_bayes.yaml"), "-o", str(out)]) == 0
    overrides = ["dataset=digits", "train_images=256", "tune.epochs={ low = 1, high = 2 }", "search.trials=3", "search.wave=2"]
    assert launch.main([str(out), "--local", "--study-dir", str(study), *(word for o in overrides for word in ("--set", o))]) == 0
    trials = pd.read_parquet(study / "trials.parquet")
    assert len(trials) == 3 and set(trials["status"]) == {"done"} and set(trials["param_dataset"]) == {"digits"}
    assert trials["param_lr"].between(1e-4, 1e-2).all() and set(trials["param_epochs"]) <= {1, 2}
    assert set(trials["param_filters_2"]) <= {32, 64, 128} and set(trials["param_dropout"]) <= {0.125, 0.25, 0.5}
    assert len(trials.drop_duplicates([c for c in trials if c.startswith("param_")])) == 3
