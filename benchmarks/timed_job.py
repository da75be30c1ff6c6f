"""`jobs.train` that writes down when its first optimizer step was done; for benchmarks/start.py.

As a job of a grid (`[job] run = "benchmarks.timed_job:run"`) it writes into the trial's folder, as a command
(`python -m benchmarks.timed_job config.json`, or under torchrun) into the file `$FIRST_STEP_FILE`. Training is not touched: the moment
comes from torch's own hook behind every optimizer's step.
"""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.config import Trial
    from jobs.contract import Context, Outcome

FILE_NAME = "first_step"


def note_first_step(path: Path) -> None:
    """Writes the time of this process's first optimizer step (seconds since 1970) to `path`."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def write(*_: Any) -> None:
        handle.remove()
        path.write_text(repr(time.time()))

    handle = register_optimizer_step_post_hook(write)


def run(trial: "Trial", context: "Context") -> "Outcome":
    """`jobs.train.run` as a job of a grid."""
    from jobs import train

    if context.rank == 0:
        note_first_step(context.folder / FILE_NAME)
    return train.run(trial, context)


def warm_up(configs: Iterable[Mapping[str, Any]]) -> None:
    """As `jobs.train` warms up."""
    from jobs import train

    train.warm_up(configs)


def command(arguments: list[str] | None = None) -> None:
    """`python -m jobs.train` with the same arguments; also what the submitit job runs."""
    from jobs import alone

    if os.environ.get("RANK", "0") == "0":
        note_first_step(Path(os.environ["FIRST_STEP_FILE"]))
    alone.main(arguments)


def task(arguments: list[str]) -> None:
    """The same as one task of a job of submitit's on Slurm."""
    import submitit

    submitit.helpers.TorchDistributedEnvironment().export()
    command(arguments)


if __name__ == "__main__":
    command()
