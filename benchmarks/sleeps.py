"""A job that takes as long as it is told and computes nothing, so that benchmarks/barrier.py measures who waits for whom."""

import time
from typing import TYPE_CHECKING

from jobs.contract import Outcome

if TYPE_CHECKING:
    from jobs.config import Trial
    from jobs.contract import Context


def run(trial: "Trial", context: "Context") -> Outcome:
    """Sleeps from `shortest` seconds to five times that, evenly on a logarithmic scale: as `part` says, 0 to 1."""
    part = trial.config["part"]
    time.sleep(trial.config["shortest"] * 5 ** part)
    row = {"epoch": 1, "score": -abs(part - 0.3)}
    context.report(row)
    return Outcome(status="done", epoch=1, rows=[row])
