"""The name of a trial: equal computations have one name, different ones never."""

import re

import pytest

from harness.identity import HASH_VERSION, config_hash, trial_id
from jobs.config import Config


def name(**values: object) -> str:
    config = Config.from_dict(values)
    return config_hash(config.as_dict(), asked=ASKED, inactive=config.inactive())


ASKED = {"run": "jobs.train:run", "metric": "val_acc", "mode": "max", "select": "best_val", "test": True}


def test_the_rule_has_not_changed() -> None:
    """Results on people's disks are found by these names. Whoever changes the rule, a default or a parameter raises HASH_VERSION or says in
    the change log that old studies start anew, and then puts the new hashes here."""
    assert HASH_VERSION == 1
    assert config_hash({"lr": 0.1, "depth": 2, "model": "x", "batch_norm": True}, asked={}) == "30cde97a32bd76e1"
    assert name() == "35e3d9f29d5055eb"


def test_the_form_of_a_name() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}-s7", trial_id(name(), 7))


def test_1_and_1_0_are_one_config() -> None:
    assert name(lr=1, weight_decay=0) == name(lr=1.0, weight_decay=0.0)
    assert name(lr=0.1) == name(lr=1e-1) == name(lr=0.10000000000000001)


def test_the_order_of_the_keys_does_not_count() -> None:
    assert config_hash({"a": 1, "b": 2}, asked={}) == config_hash({"b": 2, "a": 1}, asked={})


def test_defaults_count_as_if_they_were_written() -> None:
    assert name() == name(depth=2) == name(depth=2, lr=0.05)


def test_what_is_not_read_does_not_count() -> None:
    assert name(optimizer="adam", momentum=0.5) == name(optimizer="adam")
    assert name(optimizer="sgd", momentum=0.5) != name(optimizer="sgd")
    assert name(gamma=0.5) == name() and name(schedule="step", gamma=0.5) != name(schedule="step")


@pytest.mark.parametrize("values", [{"lr": 0.05000000000000001}, {"depth": 3}, {"batch_norm": False}, {"classes": "0-8"}, {"split_seed": 1},
                                    {"train_images": 1000}, {"epochs": 11}, {"precision": "fp64"}])
def test_what_is_read_counts(values: dict[str, object]) -> None:
    assert name(**values) != name()


def test_seeds_share_the_hash_and_not_the_name() -> None:
    assert trial_id(name(), 0).partition("-")[0] == trial_id(name(), 1).partition("-")[0] == name()
    assert trial_id(name(), 0) != trial_id(name(), 1)


def test_a_digest_of_weights_counts() -> None:
    config = Config().as_dict()
    assert config_hash({**config, "weights_digest": "ab"}, asked={}) != config_hash(config, asked={})


def test_true_is_not_1() -> None:
    assert config_hash({"a": True}, asked={}) != config_hash({"a": 1}, asked={})


def test_what_has_no_name() -> None:
    with pytest.raises(ValueError):
        config_hash({"lr": float("nan")}, asked={})


@pytest.mark.parametrize("other", [{"metric": "val_loss"}, {"mode": "min"}, {"select": "last"}, {"test": False}, {"run": "mine:run"}])
def test_what_is_asked_counts(other: dict[str, object]) -> None:
    """A result chosen by another rule is another result."""
    config = Config().as_dict()
    assert config_hash(config, asked={**ASKED, **other}) != config_hash(config, asked=ASKED)
