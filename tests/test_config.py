"""Parameters of one training run: every mistake of a config is found, and all of them at once."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.grid import parse_grid
from jobs import alone
from jobs.config import PARAMETERS, Config, ConfigError, Trial, check_value, metric_mode, parse_classes

ROOT = Path(__file__).resolve().parents[1]


def test_defaults_are_a_config_that_can_be_trained() -> None:
    config = Config.from_dict({})
    assert (config.dataset, config.model, config.optimizer, config.epochs) == ("digits", "dynamic_cnn", "sgd", 10)
    assert Config.from_dict(config.as_dict()) == config
    assert set(config.as_dict()) == {*PARAMETERS, "weights_digest"}


def test_all_mistakes_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"learning_rat": 1, "lr": "0.1", "epochs": 1.5, "model": "alexnett", "dropout": 2, "batch_norm": 1,
                          "momentum": True})
    problems = dict(caught.value.problems)
    assert list(problems) == ["learning_rat", "lr", "epochs", "model", "dropout", "batch_norm", "momentum"]
    assert "write 0.1 without quotes" in problems["lr"]
    assert "a whole number is meant" in problems["epochs"]
    assert "did you mean `alexnet`?" in problems["model"]
    assert "2.0 is outside 0 to 0.99" in problems["dropout"]
    assert "true or false is meant" in problems["batch_norm"] and "a number is meant" in problems["momentum"]
    assert all(message in str(caught.value) for message in problems.values())


def test_values_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"classes": "5-10", "weights": "imagenet"})
    messages = dict(caught.value.problems)
    assert 'dynamic_cnn has no weights "imagenet"' in messages["weights"] and "study:NAME" in messages["weights"]
    assert messages["classes"] == "digits has classes 0 to 9, not 10"
    assert Config.from_dict({"model": "alexnet", "weights": "imagenet"}).weights == "imagenet"
    assert Config.from_dict({"weights": "study:digits_pretrain"}).weights == "study:digits_pretrain"


@pytest.mark.parametrize("name", [
    "", "../other", "/etc/x", "a/b", ".", "Digits", "digits pretrain", "-a", "_a", "a" * 65, "é", "a\n", "a\x00"])
def test_weights_of_something_that_can_be_no_study(name: str) -> None:
    with pytest.raises(ValueError, match="names no study: .* lowercase ASCII letters, digits, _ and -, .* at most 64"):
        check_value("weights", f"study:{name}")
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"weights": f"study:{name}"})
    assert [parameter for parameter, _ in caught.value.problems] == ["weights"]


@pytest.mark.parametrize("name", ["a", "0", "digits_pretrain", "2-b_", "a" * 64])
def test_weights_of_a_study(name: str) -> None:
    assert check_value("weights", f"study:{name}") == f"study:{name}"


def test_a_grid_shows_where_weights_name_no_study() -> None:
    with pytest.raises(Exception, match="names no study") as caught:
        parse_grid('[study]\nname = "s"\n[fixed]\nweights = "study:../x"\n', name="bad.toml")
    text = str(caught.value)
    assert "bad.toml:4:11" in text
    lines = text.splitlines()
    code = next(n for n, line in enumerate(lines) if line.startswith("4 |"))
    assert lines[code + 1].rstrip() == " " * 2 + "|" + " " * 11 + "^" * len('"study:../x"')


def test_a_batch_larger_than_the_training_images() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_dict({"train_images": 40})  # the default batch_size is 64
    assert caught.value.problems == [
        ("batch_size", "batch_size 64 is more than the 40 images that train_images keeps, so that there would be no step; 40 is the most")]
    for values in ({"train_images": 40, "batch_size": 40}, {"train_images": 64}, {"train_images": 0, "batch_size": 100_000}):
        Config.from_dict(values)


@pytest.mark.parametrize("name, value, clean", [
    ("lr", 1, 1.0), ("lr", 1e-300, 1e-300), ("weight_decay", 0, 0.0), ("epochs", 100_000, 100_000), ("batch_norm", False, False),
    ("gamma", 1, 1.0), ("classes", "0-4", "0-4")])
def test_legal_values_get_the_parameters_own_type(name: str, value: Any, clean: Any) -> None:
    got = check_value(name, value)
    assert got == clean and type(got) is type(clean)


@pytest.mark.parametrize("name, value, reason", [
    ("lr", 0, "not above 0"), ("lr", -1.0, "not above 0"), ("lr", math.nan, "not a finite number"), ("lr", math.inf, "not a finite number"),
    ("lr", 10**400, "too large"), ("lr", None, "a number is meant"), ("lr", [0.1], "a list"), ("lr", {"low": 1}, "a table"),
    ("epochs", 0, "outside 1 to 100000"), ("epochs", True, "a whole number is meant"), ("epochs", "3", "write 3 without quotes"),
    ("epochs", 3.0, "a whole number is meant"), ("dataset", 3, 'write "3" with quotes'), ("optimizer", "SGD", "did you mean `sgd`"),
    ("dataset", "mnist", "fashion_mnist"), ("schedule", "", "valid: none, step, cosine"), ("classes", "a-b", "is not a list of classes")])
def test_illegal_values_are_refused_with_what_is_allowed(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_value(name, value)


@pytest.mark.parametrize("text, classes", [
    ("all", ()), ("0-4", (0, 1, 2, 3, 4)), ("7,0, 2", (0, 2, 7)), ("0,2,7-9", (0, 2, 7, 8, 9)), ("1,1-2", (1, 2))])
def test_classes(text: str, classes: tuple[int, ...]) -> None:
    assert parse_classes(text) == classes


@pytest.mark.parametrize("text, reason", [
    ("", "not a list"), ("0-", "not a list"), ("-3", "not a list"), ("1,,2", "not a list"), ("0–4", "not a list"), ("٣,٤", "not a list"),
    ("1-2-3", "not a list"), ("1.5,2", "not a list"), ("9" * 30 + ",1", "not a list"), ("3", "at least 2"), ("3,3", "at least 2"),
    ("1,2,9-3", "runs backwards")])
def test_what_is_no_list_of_classes(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_classes(text)


@pytest.mark.parametrize("values, unread, read", [
    ({}, {"step_size", "gamma"}, {"momentum", "depth", "test_fraction"}),
    ({"optimizer": "adam", "schedule": "step"}, {"momentum"}, {"step_size", "gamma"}),
    ({"model": "resnet18"}, {"depth", "filters", "kernel_size", "hidden", "batch_norm", "dropout"}, {"momentum"}),
    ({"model": "alexnet"}, {"depth", "filters", "batch_norm"}, {"dropout"}),
    ({"model": "dynamic_cnn"}, {"filters_2", "filters_3", "dropout_features"}, {"filters", "kernel_size"}),
    ({"model": "simple_cnn"}, {"depth", "kernel_size", "hidden", "dropout_features"}, {"filters", "filters_2", "filters_3"}),
    ({"model": "plain_cnn"}, {"filters_2", "filters_3"}, {"depth", "filters", "kernel_size", "hidden", "dropout_features"}),
    ({"dataset": "cifar10"}, {"test_fraction"}, {"val_fraction", "depth"})])
def test_parameters_that_a_config_does_not_read(values: dict[str, Any], unread: set[str], read: set[str]) -> None:
    inactive = Config.from_dict(values).inactive()
    assert unread <= inactive and not read & inactive


def test_trial_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"lr": 0.1}, "seed": 3, "hash_version": 1, "variant": "x"}))
    assert Trial.load(path) == Trial(config={"lr": 0.1}, seed=3)


@pytest.mark.parametrize("content, reason", [
    (b"", "no JSON"), (b"{", "no JSON"), (b"\xff\xfe", "no JSON"), (b"[]", '"config" object'), (b'{"lr": 1}', '"config" object'),
    (b'{"config": 3}', '"config" object'), (b'{"config": {}, "seed": "0"}', "`seed`"), (b'{"config": {}, "seed": -1}', "`seed`"),
    (b'{"config": {}, "budget": 0}', "`budget`"), (b'{"config": {}, "mode": "up"}', "`mode`"), (b'{"config": {}, "select": 1}', "`select`"),
    (b'{"config": {}, "test": "no"}', "`test`")])
def test_trial_file_that_cannot_be_used(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: No such file"):
        Trial.load(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        Trial.load(path)


@pytest.mark.parametrize("key, reason", [
    ("sed", "unknown key `sed`; did you mean `seed`? (valid: config, seed, budget, metric, mode, select, test)"),
    ("Budget", "unknown key `Budget`; did you mean `budget`?"),
    ("lr", 'unknown key `lr`; `lr` is a parameter and goes into "config"')])
def test_unknown_keys_of_a_trial_file(key: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {}, key: 1, "seed": -1}))
    with pytest.raises(ConfigError) as caught:
        Trial.load(path)
    assert [name for name, _ in caught.value.problems] == [key, "seed"]
    assert str(caught.value).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("budget", [0, -3, True, 1.0, "2"])
def test_a_budget_is_at_least_one_epoch(budget: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {}, "budget": budget}))
    with pytest.raises(ConfigError, match="`budget` cannot be .*; 1 epoch or more is meant, or null for all of them"):
        Trial.load(path)


def test_the_section_that_a_message_names_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r'see README\.md, "Commands"$'):
        Trial.load(tmp_path / "config.json")
    assert "## Commands" in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("budget", ["0", "-1", "2.5", "two", ""])
def test_a_budget_below_one_is_refused_on_the_command_line(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        alone.main(["config.json", "--budget", budget])
    assert stop.value.code == 2
    assert f"argument --budget: {budget} is no number of epochs; write a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("mode, value, than, better", [
    ("max", 0.5, None, True), ("max", 0.6, 0.5, True), ("max", 0.5, 0.5, False), ("min", 0.4, 0.5, True), ("min", 0.5, 0.5, False),
    ("max", math.nan, None, False), ("max", math.inf, 0.5, False), ("min", -math.inf, 0.5, False)])
def test_better(mode: str, value: float, than: float | None, better: bool) -> None:
    assert Trial(config={}, mode=mode).better(value, than) is better


def test_losses_are_minimised() -> None:
    assert (metric_mode("val_loss"), metric_mode("val_acc")) == ("min", "max")
