"""[limits] gpu_hours: what a study has used, what its next trials will need, and when it is over. All numbers are computed by hand."""

from pathlib import Path
from typing import Any

import pytest

from harness.budget import Budget
from harness.grid import Grid, parse_grid
from harness.plan import Plan, TrialState, plan
from harness.store import Store
from harness.trials import Planner, kinds_of
from harness.waves import Wave

GRID = """
[study]
name = "paid"
seeds = [0, 1]
[compare]
depth = [1, 2, 3]
[slurm]
nodes = 2
gpus_per_node = 2
time_min = 90
"""
"""Six trials of three kinds, four GPUs each, an hour and a half at most."""
H = 3600.0


class Study:
    """A study with that grid, and attempts as long as a test wants them."""

    def __init__(self, folder: Path, limit: int, text: str = GRID):
        self.grid: Grid = parse_grid(f"{text}[limits]\ngpu_hours = {limit}\n")
        self.store = Store(folder / "study")
        self.store.create_folders()
        self.trials = Planner(self.grid).trials()
        self.store.write_wave(Wave(trials=tuple(self.trials)))
        self.budget = Budget(self.store, self.grid, self.trials, kinds_of(self.trials),
                             gpus=self.grid.slurm.nodes * self.grid.slurm.gpus_per_node)
        self.running: list[str] = []

    def attempt(self, trial: int, hours: float, cause: str | None = "done", *, number: int = 0, began_h: float = 1e5) -> None:
        """An attempt that began at some time by its node's clock and told of an epoch, or of its end, so many hours later."""
        log = self.store.begin_attempt(self.trials[trial], number, {})
        assert log
        log.write({"event": "start", "time": began_h * H, "worker": "000-0"})
        last: dict[str, Any] = {"event": "end", "cause": cause} if cause else {"event": "epoch", "epoch": 1}
        log.write({**last, "time": (began_h + hours) * H})
        log.close()

    def paid(self, *, running: tuple[int, ...] = (), done: tuple[int, ...] = ()) -> list[int]:
        """Which trials may be submitted now, by their place in the grid."""
        states = {t.id: TrialState(result="done") if n in done else TrialState() for n, t in enumerate(self.trials)}
        now = plan([t.id for t in self.trials], states, living={}, retry={})
        status = {t.id: "running" if n in running else now.status[t.id] for n, t in enumerate(self.trials)}
        now = Plan(status=status, submit=[pair for pair in now.submit if status[pair[0]] == "pending"])
        places = {t.id: n for n, t in enumerate(self.trials)}
        return [places[trial] for trial, _ in self.budget.pays_for(now)]


def test_before_anything_has_run_a_trial_is_expected_to_take_its_whole_time(tmp_path: Path) -> None:
    """1.5 h x 4 GPUs = 6 GPU-hours for each."""
    assert Study(tmp_path / "none", 5).paid() == []
    assert Study(tmp_path / "two", 17).paid() == [0, 1]
    assert Study(tmp_path / "all", 36).paid() == [0, 1, 2, 3, 4, 5]


def test_finished_trials_say_what_those_of_their_kind_take(tmp_path: Path) -> None:
    """2 GPU-hours used by the first, so as many for the second, of its kind; 6 for each of the others."""
    study = Study(tmp_path, 16)
    study.attempt(0, 0.5)
    assert study.paid(done=(0,)) == [1, 2, 3] and study.budget.spent_h == 2.0  # 2 + 2 + 6 + 6
    study.attempt(2, 0.25)  # 1 GPU-hour, as will the fourth; what is left pays for 2, 1, 6 and not for another 6
    assert study.paid(done=(0, 2)) == [1, 3, 4] and study.budget.spent_h == 3.0
    study.attempt(1, 1.0)
    assert study.paid(done=(0, 1, 2)) == [3, 4] and study.budget.spent_h == 7.0  # 7 + 1 + 6, and 6 more are 20


def test_all_attempts_are_paid_for_whatever_came_of_them(tmp_path: Path) -> None:
    study = Study(tmp_path, 100)
    study.attempt(0, 0.5, "preempted")
    study.paid()
    assert study.budget.spent_h == 4 * 0.5
    study.attempt(0, 0.25, "out_of_memory", number=1, began_h=5)  # a clock that goes wrong on another node changes nothing
    study.attempt(0, 1.0, None, number=2)
    study.attempt(1, 0.5, "infeasible")
    study.paid()
    assert study.budget.spent_h == 4 * (0.5 + 0.25 + 1.0 + 0.5)


def test_one_that_runs_counts_up_to_its_last_word_and_is_expected_to_need_its_time(tmp_path: Path) -> None:
    study = Study(tmp_path, 20)
    study.attempt(0, 0.5, None)
    assert study.paid(running=(0,)) == [1, 2] and study.budget.spent_h == 2.0  # 2 + 6 for the one that runs + 6 + 6
    assert study.paid(running=(0, 1)) == [2]
    assert not study.budget.overdrawn


def test_used_up_says_how_much_and_what_to_do(tmp_path: Path) -> None:
    study = Study(tmp_path, 16)
    assert study.budget.used_up == "" and not study.budget.overdrawn
    assert study.paid() == [0, 1]
    assert study.budget.used_up == ("the budget of 16 GPU-hours ([limits] gpu_hours) pays for no more trials: 0.00 are used; raise it and "
                                    "give the same command again to go on")
    study.attempt(0, 2.0)
    study.attempt(1, 2.0)
    assert study.budget.overdrawn and "16.00 are used" in study.budget.used_up
    assert study.paid(done=(0, 1)) == []


def test_what_is_left_being_paid_for_there_is_nothing_to_say(tmp_path: Path) -> None:
    study = Study(tmp_path, 36)
    study.paid()
    assert study.budget.used_up == ""


@pytest.mark.parametrize("limit, text", [(0, GRID), (1, GRID.replace("gpus_per_node = 2", "gpus_per_node = 0"))])
def test_without_a_limit_or_without_gpus_everything_is_paid_for(limit: int, text: str, tmp_path: Path) -> None:
    study = Study(tmp_path, limit, text)
    study.attempt(0, 1000.0, None)
    assert study.paid() == [0, 1, 2, 3, 4, 5] and not study.budget.overdrawn and study.budget.spent_h == 0.0
    if not limit:
        assert study.budget.used_up == ""
