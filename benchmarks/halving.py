"""How many epochs successive halving needs to get as far as a search that trains every config to its end.

    python -m benchmarks.halving                    # short form, minutes: 10 searches of every kind in the two settings that are judged
    python -m benchmarks.halving --full             # 20 of them, in all settings; kept in benchmarks/results/halving.txt

Two settings, both simulated through the code that decides in a real search (benchmarks/search_simulation.py): learning curves from a
formula, and a table of real trainings of the digits (benchmarks/halving_digits.py). The result of a search at any moment is the true value
after the whole training of the config that it would choose then; the epochs are those of all trials together.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import halving_digits, report
from benchmarks.search_simulation import Config, Simulation
from harness.grid import Grid, parse_grid
from harness.search.rungs import most_at, rungs, seeds_at

RESULTS = Path(__file__).parent / "results" / "halving.txt"
AIM = 1 / 3
WORKERS = 16
WAVE = 8
FIRST, FACTOR = 3, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where configs are searched, and their learning curves."""

    name: str
    tune: str
    """[tune], as a grid has it."""
    epochs: int
    configs: int
    """Of the full search."""
    seeds: int
    """Of every config of the full search."""
    curve: Callable[[Config, int, int], Sequence[float]]
    """(config, seed, which search) -> the loss after each epoch."""
    truth: Callable[[Config, int], float]
    """(config, which search) -> the loss after the whole training, without the chance that the search has seen."""
    pace: Callable[[Config], float]
    """Config -> how long an epoch takes, in any unit."""
    repeat: int = 1
    """How many times as many searches are made."""

    @property
    def all_epochs(self) -> int:
        """Of the full search."""
        return self.configs * self.epochs * self.seeds


def _number(*of: object) -> int:
    """A number that always is the same for the same things."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8])


# --- curves from a formula ------------------------------------------------------------------------------------------------------------

_TUNE = """
lr = { low = 1e-4, high = 1.0, log = true }
weight_decay = { low = 1e-6, high = 1e-1, log = true }
optimizer = ["sgd", "adam"]
width = { low = 16, high = 128, step = 8 }
dropout = { low = 0.0, high = 0.6 }
"""
_NOISE = 0.004
"""Standard deviation of the loss between seeds, and of an epoch about its curve."""


def _floor(config: Config) -> float:
    """Where the curve of a config ends: smooth in all parameters, and in the learning rate the steepest."""
    excess = math.log10(config["lr"] / (0.05 if config["optimizer"] == "sgd" else 0.002))
    size = math.log2(config["width"] / 64)
    penalty = (0.10 * excess**2 * (3 if excess > 0 else 1) + (0.01 if config["optimizer"] == "adam" else 0.0) + 0.02 * size**2
               + 0.3 * (config["dropout"] - 0.2 - 0.08 * size) ** 2 + 0.008 * (math.log10(config["weight_decay"]) + 3.5 - 0.3 * size) ** 2)
    return 0.05 + 0.85 * (1 - math.exp(-penalty))


def _steepness(config: Config) -> float:
    """Epochs in which most of the way is gone. What ends lower is often slower, a small learning rate above all, so that curves cross; and
    every config has a speed of its own beside that, which no parameter tells."""
    own = np.random.default_rng(_number("speed", sorted(_parameters(config).items()))).standard_normal()
    return float(1.5 * (0.05 / config["lr"]) ** 0.2 * (config["width"] / 64) ** 0.4 * math.exp(1.5 * (config["dropout"] - 0.2) + 0.5 * own))


def _parameters(config: Config) -> dict[str, Any]:
    return {name: config[name] for name in ("lr", "weight_decay", "optimizer", "width", "dropout")}


def _smooth(config: Config, epochs: int) -> NDArray[np.float64]:
    floor = _floor(config)
    return floor + (0.9 - floor) * (1 + np.arange(1, epochs + 1) / _steepness(config)) ** -1.3


def _synthetic(*, epochs: int, configs: int, seeds: int) -> Setting:
    def curve(config: Config, seed: int, search: int) -> Sequence[float]:
        rng = np.random.default_rng(_number("noise", search, seed, sorted(_parameters(config).items())))
        return list(_smooth(config, epochs) + _NOISE * (rng.standard_normal() + rng.standard_normal(epochs)))

    return Setting(name=f"synthetic curves, {epochs} epochs, {seeds} seed{'s' * (seeds > 1)}", tune=_TUNE, epochs=epochs, configs=configs,
                   seeds=seeds, curve=curve, truth=lambda config, search: float(_smooth(config, epochs)[-1]),
                   pace=lambda config: 0.5 + config["width"] / 64)


# --- real curves ----------------------------------------------------------------------------------------------------------------------


def _digits() -> Setting:
    """A search sees one seed of the table. The truth is the other one, so that luck with the first does not count; there are twice as many
    searches, because it is noisy."""
    table = halving_digits.read()
    tune = "\n".join(f"{name} = [{', '.join(_toml(value) for value in values)}]" for name, values in halving_digits.SPACE.items())

    def curve(config: Config, seed: int, search: int) -> Sequence[float]:
        return [1 - accuracy for accuracy in table[halving_digits.key(config, (seed + search) % 2)]]

    def truth(config: Config, search: int) -> float:
        return 1 - max(table[halving_digits.key(config, (search + 1) % 2)])

    epochs = halving_digits.EPOCHS
    return Setting(name=f"digits, real trainings, {epochs} epochs, 1 seed", tune=tune, epochs=epochs, configs=32, seeds=1, curve=curve,
                   truth=truth, pace=lambda config: 20 / math.sqrt(config["batch_size"]), repeat=2)


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


# --- searching ------------------------------------------------------------------------------------------------------------------------


def grid_of(setting: Setting, *, algorithm: str, configs: int, halving: bool, seed: int) -> Grid:
    """The grid of one search."""
    more = f"[search.halving]\nfirst = {FIRST}\nfactor = {FACTOR}\n" if halving else ""
    return parse_grid(f"""
[study]
name = "halving"
metric = "loss"
seeds = {list(range(setting.seeds))}
[job]
run = "benchmarks.halving:nothing"
metrics = ["loss"]
[fixed]
epochs = {setting.epochs}
[tune]
{setting.tune}
[search]
trials = {configs}
wave = {WAVE}
running = {WORKERS}
algorithm = "{algorithm}"
seed = {seed}
{more}""")


def search(setting: Setting, *, algorithm: str, configs: int, halving: bool, seed: int) -> list[tuple[float, float]]:
    """One search: (epochs of all trials so far, what its choice is worth), whenever a trial has come to rest."""
    path: list[tuple[float, float]] = []
    truths: dict[int, float] = {}

    def watch(simulation: Simulation) -> None:
        leading = simulation.leading()
        if leading:
            if leading.number not in truths:
                truths[leading.number] = setting.truth(simulation.trials[next(iter(leading.trials.values()))].config, seed)
            path.append((simulation.epochs, truths[leading.number]))

    Simulation(grid_of(setting, algorithm=algorithm, configs=configs, halving=halving, seed=seed),
               lambda config, of: setting.curve(config, of, seed), pace=setting.pace, watch=watch).run()
    return path


def expected_epochs(setting: Setting, configs: int) -> int:
    """The epochs of a search with halving, if as many go on from each rung as its share is."""
    ladder = rungs(FIRST, FACTOR, setting.epochs)
    total, before = 0, 0
    for rung, budget in enumerate(ladder):
        seeds = seeds_at(rung, len(ladder), setting.seeds)
        older = seeds_at(rung - 1, len(ladder), setting.seeds) if rung else 0
        total += most_at(rung, configs, FACTOR) * (older * (budget - before) + (seeds - older) * budget)
        before = budget
    return total


def configs_for(setting: Setting, epochs: float) -> int:
    """How many configs a search with halving has for so many epochs, at least one."""
    configs = 1
    while expected_epochs(setting, configs + 1) <= epochs:
        configs += 1
    return configs


# --- comparing ------------------------------------------------------------------------------------------------------------------------

Course = Sequence[tuple[float, float]]
"""(epochs so far, what the choice is worth), as `search` returns it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to search."""

    name: str
    algorithm: str
    configs: int
    halving: bool


def arms_of(setting: Setting) -> list[Arm]:
    """The full search first; then, with halving, as many configs, what a third of its epochs pay for, and what all of them pay for."""
    kinds = [(setting.configs, False)] + [(n, True) for n in (setting.configs, configs_for(setting, AIM * setting.all_epochs),
                                                              configs_for(setting, setting.all_epochs))]
    return [Arm(name=f"{name}, {'halving' if halving else 'full'}, {configs} configs", algorithm=algorithm, configs=configs,
                halving=halving)
            for name, algorithm in (("auto", "auto"), ("random", "RandomSearch")) for configs, halving in kinds]


def reached(courses: Sequence[Course], target: float) -> float:
    """Epochs after which the median of the searches is first as good as `target`; infinity when it never is."""
    moments = np.unique([epochs for course in courses for epochs, _ in course])
    worth = np.full((len(courses), len(moments)), math.inf)
    for row, course in zip(worth, courses, strict=True):
        epochs, values = np.array(course).T
        last = np.searchsorted(epochs, moments, side="right") - 1
        row[last >= 0] = values[last[last >= 0]]
    hit = np.flatnonzero(np.median(worth, axis=0) <= target + 1e-12)
    return float(moments[hit[0]]) if len(hit) else math.inf


def share_reached(courses: Sequence[Course], full: Sequence[Course]) -> float:
    """`reached` for the median result of the full searches, as a share of their epochs."""
    epochs, result = np.median([course[-1] for course in full], axis=0)
    return reached(courses, result) / float(epochs)


def interval(courses: Sequence[Course], full: Sequence[Course], draws: int = 400) -> tuple[float, float]:
    """95 % interval of `share_reached`: from searches drawn again, with the same seeds on both sides."""
    rng, n = np.random.default_rng(0), len(full)
    shares = []
    for _ in range(draws):
        drawn = rng.integers(n, size=n)
        shares.append(share_reached([courses[i] for i in drawn], [full[i] for i in drawn]))
    low, high = np.quantile(shares, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def _share(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def _compare(setting: Setting, seeds: int) -> tuple[str, float]:
    """The table of a setting, and the share of the epochs after which `auto` with halving, given a third of them, has the result."""
    arms = arms_of(setting)
    courses: dict[str, list[Course]] = {arm.name: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            print(f"\r\033[K{setting.name}, seed {seed + 1} of {seeds}: {arm.name}" if sys.stderr.isatty() else "", end="", file=sys.stderr,
                  flush=True)
            courses[arm.name].append(search(setting, algorithm=arm.algorithm, configs=arm.configs, halving=arm.halving, seed=seed))
    full = courses[arms[0].name]
    rows, shares = [], {}
    for arm in arms:
        mine = courses[arm.name]
        shares[arm.name] = share_reached(mine, full)
        low, high = interval(mine, full)
        epochs = float(np.median([course[-1][0] for course in mine]) / np.median([course[-1][0] for course in full]))
        rows.append([arm.name, f"{epochs:.2f}", _quartiles([course[-1][1] for course in mine]),
                     f"{_share(shares[arm.name])} ({_share(low)} to {_share(high)})"])
    text = report.table(["", "epochs of all", "result", "epochs to reach it (95 %)"], rows)
    head = (f"\n{setting.name}: {setting.configs} configs x {setting.epochs} epochs x {setting.seeds}, rungs "
            f"{', '.join(map(str, rungs(FIRST, FACTOR, setting.epochs)))}, n={seeds}. Epochs as a share of the first row's; `it` is the\n"
            "median result of the first row; results are true losses, median (quartiles)\n")
    return f"{head}{text}\n", shares[arms[2].name]


def main(arguments: list[str] | None = None) -> int:
    """Searches, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.halving", description="Epochs with successive halving.", epilog=(
        "exit status: 0 when halving needs at most a third of the epochs in both settings that are judged, 1 when not"))
    parser.add_argument("--rounds", type=int, help="searches of every kind (default: 10, with --full 20)")
    parser.add_argument("--full", action="store_true", help=f"two more settings; the text is kept as {RESULTS.name} in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="small searches: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    load = report.ForeignLoad()
    seeds = options.rounds or (20 if options.full else 10)
    judged = [_synthetic(epochs=27, configs=12, seeds=1)] if options.quick else [_synthetic(epochs=81, configs=32, seeds=1), _digits()]
    others = [_synthetic(epochs=27, configs=32, seeds=3), _synthetic(epochs=27, configs=64, seeds=1)] if options.full else []
    tables = {setting.name: _compare(setting, seeds * setting.repeat) for setting in [*judged, *others]}
    text = (report.header("halving: epochs to the result of a search that trains all configs whole", load=load)
            + "".join(table for table, _ in tables.values()))
    print(text)
    aims = [report.Aim(text=f"{setting.name}: {_share(share)} of the epochs (aim: a third)", met=share < AIM + 1e-9)
            for setting in judged for _, share in [tables[setting.name]]]
    if options.full and not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text.lstrip("\n"), encoding="utf-8")
    return report.verdict(f"halving (n={seeds})", aims)


if __name__ == "__main__":
    sys.exit(main())
