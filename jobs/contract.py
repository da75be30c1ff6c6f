"""What a job is given and what it gives back: the contract between the launcher's worker and any training function.

A job is a function `run(trial, context) -> Outcome`; the built-in one is `jobs.train.run`. It may be stopped, killed and called
again for the same trial in the same folder at any time, so it keeps what it needs to go on in `context.folder`. Its module may
have a function `warm_up(configs)` that imports what its trials need; it runs once in a process that forks for each of them, so it
must not compute.

Its module may also have a function `test(trial, context) -> dict[str, float]`: it evaluates the test split of a trial that is over, in
the trial's folder, at the selected epoch, and returns what `Outcome.test` would hold. A study with test = "confirmed" calls it for the
few configs that it chose; without the function such a study has no test numbers. What it says of each test image may be kept with
`jobs.predictions.save`, here and where `run` evaluates the test split: the study's figures then tell which classes are confused.

`trial.budget` grants a trial only so many of its epochs for now. A job that minds it keeps its progress in the folder, returns an outcome
with `finished=False`, and goes on from there when it is called with a larger budget, as if it had never paused. A job that does not may
train to the end at once.

Trials that cost little may be trained several in one process (`fuse` in the grid). The module of a job that can do so has three functions
more, which `jobs.fused` describes: `fuse_key(trial)`, equal for trials that fit together; `fused_is_faster(trials, contexts)`, which tries;
and `run_fused(trials, contexts, ended)`, which calls `ended(i, outcome)` as soon as the i-th is over.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Interrupted(Exception):
    """The job was asked to stop and has kept its progress; calling it again goes on."""


class Superseded(Exception):
    """A newer attempt at the same trial has begun; this one must write nothing more."""


class DataError(RuntimeError):
    """A data set that cannot be read: the text says which files, and what to do."""


def _ignore(row: dict[str, Any]) -> None:
    """Reports nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where a job runs and whom it tells."""

    folder: Path
    """The trial's own folder; it exists. What a job needs only to go on is named `checkpoint-*` and dropped once there is a result; other
    files stay."""
    data: Path
    """The data folder ($HARNESS_DATA). Nothing is downloaded into it here."""
    weights_file: Path | None = None
    """The file behind `weights` when it is not "none"."""
    report: Callable[[dict[str, Any]], None] = _ignore
    """Called once per epoch, on rank 0, with the row of metrics and what else is known: "seconds", "images_per_s", "data_wait" (the share
    of the training time in which it waited for data), "peak_memory_gb", "gpu"."""
    opening_test: Callable[[], None] = lambda: None
    """Called on rank 0 just before the test split is evaluated; a study records when that was."""
    stop: Callable[[], bool] = lambda: False
    """Asked at every step: true means keep your progress and raise Interrupted."""
    fence: Callable[[], None] = lambda: None
    """Called before anything is written to the folder; raises Superseded."""
    rank: int = 0
    """This process among `ranks`."""
    ranks: int = 1
    """Processes that train this trial together; when more than one, torch.distributed is already initialised."""
    device: str = "cpu"
    """"cpu" or "cuda:N"."""
    accumulate: int = 1
    """Pieces that each rank's share of a batch is trained in, one after the other, their gradients added: the same global batch in less
    memory. May differ between two attempts at a trial."""
    checkpoint_s: float = 1.0
    """Seconds between two checkpoints; they come less often when writing them would take more than 5 % of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a trial: the same, to the last bit, however often it was interrupted."""

    status: str
    """"done", or "infeasible": it diverged or cannot be built, which is a result."""
    reason: str | None = None
    """Why it is infeasible."""
    epoch: int | None = None
    """The selected epoch, counted from 1; its row in `rows` is the result."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One row of metrics per epoch, each with "epoch"."""
    test: dict[str, float] = field(default_factory=dict)
    """Metrics of the test split at the selected epoch; empty when it was not opened."""
    finished: bool = True
    """False when only the budget ended it: a larger one would go on. True when all epochs are done, patience is over, or it is
    infeasible."""
