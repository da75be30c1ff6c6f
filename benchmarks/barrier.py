"""How busy a search keeps its slots when trials last 1:5 seconds, until its last config is proposed: with a barrier and without.

    python -m benchmarks.barrier                # six minutes
    python -m benchmarks.barrier --quick        # one

By simulation at 64 slots, where `harness.search.decide` decides, a clock is a number, and configs are drawn at random; and for real at 2
slots, with trials that sleep, by what attempts.parquet says of their starts and ends.
"""

import argparse
import heapq
import random
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report

GRID = """
[study]
name = "barrier"
metric = "score"
seeds = [0]
[job]
run = "benchmarks.sleeps:run"
metrics = ["score"]
[fixed]
shortest = {shortest}
[tune]
part = {{ low = 0.0, high = 1.0 }}
[search]
trials = {trials}
wave = {wave}
running = {running}
algorithm = "{algorithm}"
[local]
running = 2
"""
SLOTS, REAL_SLOTS = 64, 2
AIM = 0.95


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.barrier", description=__doc__.splitlines()[0] if __doc__ else "",
                                     epilog="exit status: 0 when without a barrier the slots are busy 95 % of the time")
    parser.add_argument("--rounds", type=int, help="searches of each kind (default: 20 simulated, 3 real)")
    parser.add_argument("--quick", action="store_true", help="smaller searches: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    load, aims = report.ForeignLoad(), list[report.Aim]()
    simulated = _simulated(options.rounds or 20, trials=256 if options.quick else 1024)
    with tempfile.TemporaryDirectory(prefix="harness-barrier-") as folder:
        real = _real(Path(folder), options.rounds or (1 if options.quick else 3), quick=options.quick)
    print(report.header(f"Busy part of the slots of a search, trials of 1:5 seconds, n={options.rounds or 20} simulated", load=load))
    rows = []
    for where, samples, slots in (("simulated", simulated, SLOTS), ("real", real, REAL_SLOTS)):
        for (wave, running), shares in samples.items():
            spread = report.Spread.of(shares)
            kind = "barrier" if wave == running else "no barrier"
            rows.append([f"{where}, {slots} slots, {kind}", str(wave), str(running), f"{spread.n}", spread.text()])
            if running == slots + wave:  # then a wave is asked for while all slots are busy, and the first to be free finds it there
                text = f"{100 * spread.median:.1f} % {where}, wave {wave} running {running}"
                aims.append(report.Aim(met=spread.median >= AIM, text=text))
    print(report.table(["", "wave", "running", "n", "busy"], rows))
    return report.verdict(f"barrier (aim: {100 * AIM:.0f} % busy without one, n={options.rounds or len(next(iter(real.values())))})", aims)


# --- simulated -----------------------------------------------------------------------------------------------------------------------


def _simulated(rounds: int, *, trials: int) -> dict[tuple[int, int], list[float]]:
    """(wave, running) -> the busy part of each of `rounds` searches."""
    settings = [(SLOTS, SLOTS), *((wave, running) for wave in (8, 16, 32) for running in (SLOTS, SLOTS + wave)), (SLOTS, 2 * SLOTS)]
    return {(wave, running): [simulate(slots=SLOTS, wave=wave, running=running, trials=trials, seed=seed) for seed in range(rounds)]
            for wave, running in settings}


class Drawn:
    """What a `harness.search.proposer.Proposer` does, at random and at once."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def ask(self, n: int) -> list[dict[str, float]]:
        """The next configs."""
        return [{"part": self._random.random()} for _ in range(n)]

    def tell(self, number: int, loss: float | None, share: float = 1.0) -> None:
        """Nothing is learned."""


def simulate(*, slots: int, wave: int, running: int, trials: int, seed: int, shortest: float = 1.0) -> float:
    """The busy part of the slots until the last config is proposed."""
    from harness.grid import parse_grid
    from harness.search.decide import VariantSearch
    from harness.trials import Planner

    grid = parse_grid(GRID.format(shortest=shortest, trials=trials, wave=wave, running=running, algorithm="auto"))
    search = VariantSearch(grid, 0, Planner(grid), lambda: Drawn(seed), list)  # type: ignore[arg-type,return-value]
    now, waiting, ends, status = 0.0, deque[Any](), list[tuple[float, str]](), dict[str, str]()
    spans, last, values = list[tuple[float, float]](), 0.0, dict[str, float]()
    while True:
        while decided := search.next(status, lambda trial, _: values.get(trial)):
            search.take(decided)
            waiting.extend(decided.trials)
            status |= {trial.id: "pending" for trial in decided.trials}
            last = now
        while waiting and len(ends) < slots:
            trial = waiting.popleft()
            seconds = shortest * 5 ** trial.config["part"]
            spans.append((now, now + seconds))
            heapq.heappush(ends, (now + seconds, trial.id))
        if not ends:
            return busy(spans, slots=slots, until=last)
        now, ended = heapq.heappop(ends)
        status[ended], values[ended] = "done", 0.0


def busy(spans: Sequence[tuple[float, float]], *, slots: int, until: float) -> float:
    """The part of the slots' time, from the first start to `until`, that lies in spans (start, end)."""
    first = min(start for start, _ in spans)
    used = sum(max(0.0, min(end, until) - start) for start, end in spans)
    return used / (slots * (until - first))


# --- real ----------------------------------------------------------------------------------------------------------------------------


def _real(folder: Path, rounds: int, *, quick: bool) -> dict[tuple[int, int], list[float]]:
    """(wave, running) -> the busy part of each of `rounds` searches, taken in turns."""
    wave = REAL_SLOTS
    settings = [(wave, wave), (wave, REAL_SLOTS + wave), (4, REAL_SLOTS + 4)]

    def arm(wave: int, running: int) -> report.Sample:
        root = folder / f"study-{len(list(folder.iterdir()))}"
        grid = folder / f"{root.name}.toml"
        shortest, trials = (0.4, 12) if quick else (1.0, 24)
        grid.write_text(GRID.format(shortest=shortest, trials=trials, wave=wave, running=running, algorithm="auto"))
        return {"busy": _launched(grid, root)}

    arms = {f"wave {wave}, running {running}": (lambda wave=wave, running=running: arm(wave, running)) for wave, running in settings}
    samples: Mapping[str, Sequence[report.Sample]] = report.interleave(arms, rounds=rounds)
    return {setting: [sample["busy"] for sample in samples[f"wave {setting[0]}, running {setting[1]}"]] for setting in settings}


def _launched(grid: Path, root: Path) -> float:
    """Runs a search; returns the busy part of its slots.

    Raises:
        RuntimeError: it failed.
    """
    import pyarrow.parquet as pq

    command = [sys.executable, "-m", "harness.launch", str(grid), "--local", "--study-dir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    rows = pq.read_table(root / "attempts.parquet", columns=["started", "ended"]).to_pylist()
    last = max(path.stat().st_mtime for path in (root / "waves").glob("v*.json"))  # there is no [confirm]: all of them propose
    return busy([(row["started"].timestamp(), row["ended"].timestamp()) for row in rows], slots=REAL_SLOTS, until=last)


if __name__ == "__main__":
    sys.exit(main())
