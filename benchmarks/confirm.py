"""How much too good is what a study reports of its best config, with and without [confirm]?

    python -m benchmarks.confirm                    # a minute: 250 studies of each kind
    python -m benchmarks.confirm --full             # 2,000 of them, kept in benchmarks/results/confirm.txt

Studies on a made truth: the accuracy of every config is known, and a trial shows it with the noise of its seed. Each study is decided by
the code of a real one (benchmarks/search_simulation.py) on configs drawn at random. The bias of a report is what it says of a config less
the truth of that config.

The winner of a confirmation is chosen by the same fresh seeds whose mean is reported, so that this mean is a little too good as well. "Left
out" is the report without that: for each fresh seed the winner by the other seeds is looked up, and its values on the seeds left out are
averaged. That is what `python -m analysis.plots` says beside the winner's mean (`analysis.winners.left_out`), and what is judged here.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.search_simulation import Config, Simulation
from harness.grid import Grid, parse_grid
from harness.search.space import Space
from jobs.config import Value

RESULTS = Path(__file__).parent / "results" / "confirm.txt"
AIM = 1 / 5
TOP, FRESH = 3, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What the studies of one row have in common."""

    configs: int
    seeds: int
    """Of every config in the search."""
    noise: float
    """Standard deviation of the accuracy between seeds. That of the digits networks above 0.9 is 0.0095 (benchmarks/halving_digits.py)."""


KINDS = (Kind(configs=32, seeds=1, noise=0.01), Kind(configs=64, seeds=1, noise=0.01), Kind(configs=64, seeds=1, noise=0.02),
         Kind(configs=32, seeds=3, noise=0.01), Kind(configs=64, seeds=3, noise=0.01))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One study: biases of three reports, and what the confirmation changed."""

    searched: float
    """Of the best config of the search, by the search's own seeds."""
    confirmed: float
    """Of the winner, by the fresh seeds that it was chosen on."""
    left_out: float
    """Of the winner, by the seeds that are left out one after the other."""
    gained: float
    """How much better the winner truly is than the best of the search."""


class Drawn:
    """A proposer of random configs: how they are proposed does not matter here, and Nevergrad takes its time."""

    def __init__(self, space: Space, seed: int):
        self._space, self._rng = space, np.random.default_rng(seed)

    def ask(self, n: int) -> list[dict[str, Value]]:
        """Uniform points."""
        return [self._space.decode(self._rng.random(len(self._space.dims))) for _ in range(n)]

    def tell(self, number: int, loss: float | None, share: float = 1.0) -> None:
        """Nothing is learned."""


def true_accuracy(config: Config) -> float:
    """Between 0 and 0.95; of random configs a tenth is within 0.02 of the best and half within 0.2."""
    excess = math.log10(config["lr"] / 0.03)
    penalty = (0.12 * excess**2 + 0.3 * (config["dropout"] - 0.2) ** 2 + 0.02 * math.log2(config["width"] / 64) ** 2
               + 0.008 * (math.log10(config["weight_decay"]) + 3.5) ** 2)
    return 0.95 * math.exp(-penalty)


def grid_of(kind: Kind) -> Grid:
    """The grid of a study."""
    return parse_grid(f"""
[study]
name = "confirm"
metric = "accuracy"
mode = "max"
seeds = {list(range(kind.seeds))}
[job]
run = "benchmarks.confirm:nothing"
metrics = ["accuracy"]
[tune]
lr = {{ low = 1e-4, high = 1.0, log = true }}
weight_decay = {{ low = 1e-6, high = 1e-1, log = true }}
width = {{ low = 16, high = 128, step = 8 }}
dropout = {{ low = 0.0, high = 0.6 }}
[search]
trials = {kind.configs}
[confirm]
top = {TOP}
seeds = {FRESH}
""")


def study(kind: Kind, grid: Grid, seed: int) -> Outcome:
    """One study from its first proposal to its winner."""
    def curve(config: Config, of: int) -> Sequence[float]:
        entropy = hashlib.sha256(repr((seed, of, sorted(config.items()))).encode()).digest()
        return [true_accuracy(config) + kind.noise * float(np.random.default_rng(int.from_bytes(entropy[:8])).standard_normal())]

    space = Space(grid.tune or (), {}, defaults={})
    simulation = Simulation(grid, curve, proposer=lambda: Drawn(space, seed))
    simulation.run()
    search, measured = simulation.search, simulation.measured
    best, winner = search.ranking(measured)[0], search.winner(measured)
    seen = search.value(best, 0, measured)
    confirmed = [c for c in search.candidates if c.confirms]
    fresh = np.array([[measured(trial, None) for trial in c.confirms.values()] for c in confirmed], dtype=float)  # (TOP, FRESH)
    assert seen is not None and winner is not None and fresh.shape == (TOP, FRESH)
    truth = {c.number: true_accuracy(c.values) for c in confirmed}
    true = truth[winner.number]
    return Outcome(searched=seen - truth[best.number], confirmed=float(fresh[confirmed.index(winner)].mean()) - true,
                   left_out=left_out(fresh) - true, gained=true - truth[best.number])


def left_out(values: NDArray[np.float64]) -> float:
    """What the best of some configs is worth, from the values (configs, seeds) that are to choose it, more being better: each seed is
    left out in turn, the best by the others is looked up, and its values on the seeds left out are averaged."""
    others = values.sum(axis=1, keepdims=True) - values
    return float(np.take_along_axis(values, others.argmax(axis=0)[None], axis=0).mean())


def main(arguments: list[str] | None = None) -> int:
    """Runs the studies, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confirm", description="Bias of what a study reports of its best.", epilog=(
        "exit status: 0 when the confirmed bias is below a fifth of the search's in every row, 1 when not"))
    parser.add_argument("--rounds", type=int, help="studies of each kind (default: 250, with --full 2,000)")
    parser.add_argument("--full", action="store_true", help=f"more of them; the text is kept as {RESULTS.name} in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="one kind of study: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    load = report.ForeignLoad()
    n = options.rounds or (2000 if options.full else 250)
    rows, aims = [], []
    for kind in KINDS[:1] if options.quick else KINDS:
        grid = grid_of(kind)
        outcomes = [study(kind, grid, seed) for seed in range(n)]
        bias = {name: np.array([getattr(outcome, name) for outcome in outcomes]) for name in Outcome.__slots__}
        ratios = {name: float(bias[name].mean() / bias["searched"].mean()) for name in ("confirmed", "left_out")}
        name = f"{kind.configs} configs, {kind.seeds} seed{'s' * (kind.seeds > 1)}, noise {kind.noise}"
        rows.append([name, *(_mean(bias[of]) for of in ("searched", "confirmed", "left_out")),
                     *(f"{ratio:.2f}" for ratio in ratios.values()), _mean(bias["gained"])])
        aims.append(report.Aim(text=f"{name}: {ratios['confirmed']:.2f} confirmed, {ratios['left_out']:.2f} left out (aim 0.20)",
                               met=abs(ratios["left_out"]) < AIM))
    head = ["", "search", "confirmed", "left out", "confirmed/search", "left out/search", "winner is better by"]
    title = f"confirm: bias of the reported accuracy in 1/1000, mean ± standard error; top {TOP} on {FRESH} fresh seeds, n={n}"
    text = report.header(title, load=load) + report.table(head, rows)
    print(text)
    if options.full and not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text.lstrip("\n") + "\n", encoding="utf-8")
    return report.verdict(f"confirm (n={n})", aims)


def _mean(values: NDArray[np.float64]) -> str:
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{1000 * values.mean():.2f} ± {1000 * error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
