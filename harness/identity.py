"""The name of a trial: what it computes, hashed.

`trial_id` is `<config hash>-s<seed>`. The hash covers every parameter that the config reads, defaults included, and what is asked of the
trial (metric, which epoch counts, whether the test split is opened, the job), so that a default that changes or another question gives
another trial, and old results are never taken for new ones. It leaves out the seed, the budget, paths and worker counts.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

HASH_VERSION = 1
"""Of the rule below; part of what is hashed, and kept in every trial's config.json."""


def config_hash(config: Mapping[str, Any], *, asked: Mapping[str, Any], inactive: frozenset[str] = frozenset()) -> str:
    """16 hex digits of SHA-256 over canonical JSON of the typed parameters that are read, and of what is asked.

    Whole numbers in a float parameter are floats already (`jobs.config.check_value`), so that `1` and `1.0` agree.
    """
    read = {name: value for name, value in config.items() if name not in inactive}
    hashed = {"asked": dict(asked), "config": read, "version": HASH_VERSION}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trial_id(of: str, seed: int) -> str:
    """The name of a trial: its config's hash and its seed."""
    return f"{of}-s{seed}"
