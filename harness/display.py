"""How a launch is shown: a live table in a terminal, one timestamped line per event elsewhere (nohup, a log, a pipe)."""

import contextlib
import statistics
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO

from harness.estimate import duration
from harness.leading import leading
from harness.plan import Plan, PlannedTrial

if TYPE_CHECKING:
    from harness.study import Launch

HEARTBEAT_S = 300.0
SHOWN_VARIANTS = 60
"""More lines than a terminal has take a second to draw."""
ORDER = ("done", "infeasible", "pruned", "failed", "lost", "cancelled", "running", "queued", "pending")
ENDED = ("done", "infeasible", "pruned", "failed", "lost", "cancelled")


class Board:
    """What is known of a study while it runs: read once for each trial that ends.

    Args:
        past: whether results from before this launch are read too.
    """

    def __init__(self, *, past: bool) -> None:
        self.past = past
        self.trials: dict[str, PlannedTrial] = {}
        self.values: dict[str, float] = {}
        self.ended: dict[str, str] = {}
        self.at_start: int | None = None
        self._planned: list[PlannedTrial] | None = None

    def take(self, launch: "Launch", now: Plan) -> list[str]:
        """Reads what has ended since the last call; returns those trials."""
        if self._planned is not launch.trials:
            self._planned, self.trials = launch.trials, {trial.id: trial for trial in launch.trials}
        for trial in [trial for trial in self.ended if now.status[trial] not in ENDED]:
            del self.ended[trial]  # it was promoted
        fresh = [trial for trial, status in now.status.items() if status in ENDED and trial not in self.ended]
        for trial in fresh:
            self.ended[trial] = now.status[trial]
            result = launch.store.result(trial, budget=self.trials[trial].budget) if self.past or self.at_start is not None else None
            if result and result["epoch"] and result["status"] != "infeasible":
                self.values[trial] = result["rows"][result["epoch"] - 1][launch.grid.metric]
        if self.at_start is None:
            self.at_start = len(self.ended)
        return fresh

    def left_s(self, launch: "Launch") -> float | None:
        """Seconds until all is done at the pace of this launch; None before anything has ended."""
        done = len(self.ended) - (self.at_start or 0)
        if not done:
            return None
        if launch.grid.search and launch.grid.search.halving:
            return None  # trials of very different length, and nobody knows how many
        total = launch.grid.trial_count() if launch.grid.search else len(self.trials)
        return (time.monotonic() - launch.started) / done * max(0, total - len(self.ended))

    def by_variant(self, launch: "Launch") -> list[tuple[str, Counter[str], list[float]]]:
        """(variant, trials by status, metric over the seeds of its leading config) in the grid's order."""
        of: dict[str, list[PlannedTrial]] = {variant.name: [] for variant in launch.grid.variants}
        for trial in launch.trials:
            of.setdefault(trial.variant, []).append(trial)
        return [(name, Counter(self.ended.get(trial.id, "left") for trial in trials), leading(trials, self.values, launch.grid.mode))
                for name, trials in of.items()]


def headline(launch: "Launch", now: Plan, board: Board) -> str:
    """The study in one line: counts, time gone, time left."""
    counts = "  ".join(f"{status} {count}" for status in ORDER if (count := now.count(status)))
    if search := launch.grid.search:
        tried = len({(trial.variant, trial.number) for trial in launch.trials})
        counts = f"configs {tried}/{search.trials * len(launch.grid.variants)}  {counts}"
    left = board.left_s(launch)
    ahead = f", about {duration(left)} left" if left and not now.over else ""
    return f"{launch.grid.name}  {counts}  {duration(time.monotonic() - launch.started)}{ahead}"


class PlainDisplay:
    """Timestamped lines."""

    def __init__(self, out: TextIO | None = None):
        self.out, self.board, self.spoke, self.news, self.trouble = out or sys.stdout, Board(past=False), 0.0, "", ""

    def update(self, launch: "Launch", now: Plan) -> None:
        """A line for each trial that ended, and a sign of life every five minutes."""
        first = not self.board.trials
        news = launch.executor.news()
        if news.partition(" (")[0] != self.news.partition(" (")[0] and (launch.executor.trouble or self.trouble):
            self.note(news or "Slurm answers again")
        self.news, self.trouble = news, launch.executor.trouble
        fresh = self.board.take(launch, now)
        for number, trial_id in enumerate(fresh, len(self.board.ended) - len(fresh) + 1):
            if not first:
                trial = self.board.trials[trial_id]
                value = f"  {launch.grid.metric} {self.board.values[trial_id]:.4f}" if trial_id in self.board.values else ""
                ended = f"[{number}/{len(self.board.trials)}]"
                config = "" if trial.phase == "compare" else f"config {trial.number}  "
                at = f" after {trial.budget} epochs" if trial.budget else " confirmed" if trial.phase == "confirm" else ""
                at = " on the test split" if trial.opening else at
                self.note(f"{ended} {now.status[trial_id]}{at}  {trial.variant}  {config}seed {trial.seed}{value}")
        if first or time.monotonic() - self.spoke > HEARTBEAT_S:
            self.note("  ".join(filter(None, [headline(launch, now, self.board), news])))

    def note(self, text: str) -> None:
        """One line."""
        self.spoke = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more (`| head`): the study goes on all the same
            print(f"{time.strftime('%H:%M:%S')}  {text}", file=self.out, flush=True)

    def close(self) -> None:
        """Nothing to put back."""


class LiveDisplay:
    """A table that is drawn anew in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.board = Board(past=True)
        self.live = Live(console=Console(), auto_refresh=False, transient=False)  # no thread: this process starts others
        self.live.start()

    def update(self, launch: "Launch", now: Plan) -> None:
        """Draws the table."""
        self.board.take(launch, now)
        self.live.update(self._table(launch, now), refresh=True)

    def note(self, text: str) -> None:
        """A line above the table."""
        self.live.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leaves the last table on the screen."""
        self.live.stop()

    def _table(self, launch: "Launch", now: Plan) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("variant", overflow="ellipsis", no_wrap=True, max_width=48)
        table.add_column("trials", justify="right", no_wrap=True)
        table.add_column("", width=16)
        table.add_column(f"{launch.grid.metric}, {'best' if launch.grid.search else 'mean'}", justify="right", no_wrap=True)
        table.add_column("sd over seeds", justify="right", no_wrap=True)
        table.add_column("", style="red", no_wrap=True)
        rows = self.board.by_variant(launch)
        for name, counter, values in rows[:SHOWN_VARIANTS]:
            total = sum(counter.values())
            ended = total - counter["left"]
            mean = f"{statistics.mean(values):.4f}" if values else ""
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
            bad = "  ".join(f"{counter[status]} {status}" for status in ("infeasible", "failed", "lost", "cancelled") if counter[status])
            table.add_row(Text(name), f"{ended}/{total}", ProgressBar(total=total, completed=ended, width=16), mean, spread, bad)
        state = "  stopping: trials keep their progress …" if launch.stopping and not launch.executor.leaves_workers else ""
        news = [Text(text, style="yellow" if launch.executor.trouble else "dim")] if (text := launch.executor.news()) else []
        more = [Text(f"and {len(rows) - SHOWN_VARIANTS} more variants", style="dim")] if len(rows) > SHOWN_VARIANTS else []
        return Group(Text(headline(launch, now, self.board) + state, style="bold"), *news, table, *more)
