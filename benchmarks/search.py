"""How good the configs are that a search finds: ours against Nevergrad's, Optuna's and Ray Tune's defaults and against random.

    python -m benchmarks.search                     # short form, minutes: budgets 16/4 and 32/8
    python -m benchmarks.search --full              # all four budgets, 20 seeds; an hour on one core, goes on where it was stopped
    python -m benchmarks.search --full --report     # the tables of the kept results

Simple regret: the true loss of the config whose observed loss was the least, less the task's least loss. A budget of 32/8 is 32 configs in
waves of 8: a wave is asked, then told. Tasks and their least losses are in benchmarks/search_tasks.py, the candidates in
benchmarks/search_rivals.py.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.search_rivals import CANDIDATES, OURS, RANDOM
from benchmarks.search_tasks import TASKS, Task

RESULTS = Path(__file__).parent / "results" / "search.csv"
Budget = tuple[int, int]
BUDGETS: tuple[Budget, ...] = ((16, 4), (32, 8), (64, 8), (128, 32))
"""(configs, configs in a wave)."""
INSTALL = ".venv/bin/python -m pip install -e '.[bench]'"
CHANCE = 0.05
"""A difference counts as found when chance alone would show it less often than this, over all cells that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One search; a line of the results file."""

    candidate: str
    task: str
    budget: int
    wave: int
    seed: int
    regret: float
    cpu_ms: float
    """CPU time of one proposal with its tell, in milliseconds: the mean of this search."""
    made_by: str
    """Of the candidate: packages with versions, or the digest of our sources."""
    task_id: str
    """Fingerprint of the task."""

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What there is one search for."""
        return self.candidate, self.task, self.budget, self.wave, self.seed


def main(arguments: list[str] | None = None) -> int:
    """Searches, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description="Simple regret of searches.", epilog=(
        "exit status: 0 when ours has the best mean rank and is nowhere worse than random beyond chance, 1 when not"))
    parser.add_argument("--rounds", type=int, help="seeds of every search (default: 5, with --full 20)")
    parser.add_argument("--full", action="store_true", help=f"all budgets; completes {RESULTS.name} in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="8 configs in waves of 4: shows that it works, measures little")
    parser.add_argument("--only", action="append", choices=CANDIDATES, metavar="CANDIDATE", help=(
        f"runs this one and takes the others from the results there are; may be repeated. Candidates: {', '.join(CANDIDATES)}"))
    parser.add_argument("--results", type=Path, help="another file to keep the results in")
    parser.add_argument("--report", action="store_true", help="runs nothing: the tables of the kept results")
    options = parser.parse_args(arguments)
    report.one_thread()
    load = report.ForeignLoad()
    budgets = ((8, 4),) if options.quick else BUDGETS if options.full else BUDGETS[:2]
    seeds = range(options.rounds or (20 if options.full else 5))
    path = options.results or (RESULTS if options.full else None)
    kept = {result.key: result for result in read(path)} if path else {}
    if not options.report:
        _run(kept, options.only or list(CANDIDATES), budgets, seeds, path)
    results = [r for r in kept.values() if (r.budget, r.wave) in budgets and r.seed in seeds]
    names = [name for name in CANDIDATES if any(r.candidate == name for r in results)]
    text = (report.header(f"search: simple regret, {len(TASKS)} tasks, seeds {seeds.start} to {seeds.stop - 1}", load=load)
            + _sides(results) + "".join(_regrets(results, names, budget) for budget in budgets) + _ranks(results, names, budgets)
            + _worse_text(results, budgets))
    print(text)
    if path and options.full:
        path.with_suffix(".txt").write_text(text.lstrip("\n") + "\n", encoding="utf-8")
    return report.verdict(f"search (aim: best mean rank, nowhere worse than random, n={len(seeds)})", _aims(results, names, budgets))


def read(path: Path) -> list[Result]:
    """The results in a file; where a search stands twice, the later line counts."""
    if not path.exists():
        return []
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Result)}  # int, float or str: each reads its own text
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row.values()]  # the last line of an interrupted run may be cut
    return [Result(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in rows]


def _run(kept: dict[tuple[str, str, int, int, int], Result], names: Sequence[str], budgets: Sequence[Budget], seeds: Iterable[int],
         path: Path | None) -> None:
    """Adds the searches that are missing, or were made by another version, to `kept` and to the file."""
    if absent := [name for name in names if CANDIDATES[name].missing()]:
        print(f"not installed, so left out: {', '.join(absent)}. {INSTALL}", flush=True)
    tasks = [make() for make in TASKS.values()]
    prints = {task.name: task.fingerprint() for task in tasks}
    present = {name: CANDIDATES[name].made_by() for name in names if not CANDIDATES[name].missing()}
    todo = [(name, task, budget, wave, seed) for seed in seeds for budget, wave in budgets for task in tasks for name in present
            if (old := kept.get((name, task.name, budget, wave, seed))) is None
            or (old.made_by, old.task_id) != (present[name], prints[task.name])]
    for name in {name for name, *_ in todo}:
        search(name, tasks[0], budget=8, wave=4, seed=0)  # so that no proposal pays for an import
    for number, (name, task, budget, wave, seed) in enumerate(todo, start=1):
        if sys.stderr.isatty() or number % 100 == 0:
            print(f"\r\033[K{number}/{len(todo)}: {name}, {task.name}, {budget}/{wave}, seed {seed}", end="", file=sys.stderr, flush=True)
        regret, cpu_ms = search(name, task, budget=budget, wave=wave, seed=seed)
        result = Result(candidate=name, task=task.name, budget=budget, wave=wave, seed=seed, regret=float(f"{regret:.6g}"),
                        cpu_ms=float(f"{cpu_ms:.4g}"), made_by=present[name], task_id=prints[task.name])
        kept[result.key] = result
        if path:
            _write(path, [result], more=path.exists())
    if path:
        _write(path, sorted(kept.values(), key=lambda result: result.key), more=False)


def _write(path: Path, results: Sequence[Result], *, more: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if more else "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not more:
            writer.writerow([field.name for field in fields(Result)])
        writer.writerows(astuple(result) for result in results)


def search(name: str, task: Task, *, budget: int, wave: int, seed: int) -> tuple[float, float]:
    """One search to its end.

    Returns:
        (simple regret, CPU milliseconds per proposal).
    """
    began = time.process_time()
    searching = CANDIDATES[name].make(task, seed=seed, trials=budget, wave=wave)
    spent, number = time.process_time() - began, 0
    best_seen, best_true = float("inf"), float("inf")
    while number < budget:
        began = time.process_time()
        configs = searching.ask(min(wave, budget - number))
        spent += time.process_time() - began
        if not configs:
            break
        seen = [task.seen(values, seed, number + n) for n, values in enumerate(configs)]
        for values, loss in zip(configs, seen, strict=True):
            if loss < best_seen:
                best_seen, best_true = loss, task.loss(values)
        began = time.process_time()
        searching.tell(seen)
        spent += time.process_time() - began
        number += len(configs)
    return best_true - task.optimum, 1000 * spent / max(number, 1)


def _sides(results: Sequence[Result]) -> str:
    """Who takes part, in which version, and who does not."""
    lines = []
    for name, candidate in CANDIDATES.items():
        versions = sorted({r.made_by for r in results if r.candidate == name})
        absent = "not installed here" if candidate.missing() else ""
        if not versions:
            absent = f"LEFT OUT, {' and '.join(candidate.missing())} not installed: {INSTALL}" if absent else "not run"
        lines.append(f"  {name}: {'; '.join(part for part in (candidate.note, ', '.join(versions), absent) if part)}")
    return "\n".join(lines) + "\n"


def _cell(results: Sequence[Result], name: str, task: str, budget: Budget) -> list[Result]:
    """The searches of one candidate on one task, in the order of their seeds."""
    return sorted((r for r in results if (r.candidate, r.task, (r.budget, r.wave)) == (name, task, budget)), key=lambda r: r.seed)


def _regrets(results: Sequence[Result], names: Sequence[str], budget: Budget) -> str:
    """The table of one budget: median and quartiles of the regret."""
    rows = []
    for name in names:
        cells = [[r.regret for r in _cell(results, name, task, budget)] for task in TASKS]
        rows.append([name, *(_quartiles(cell) for cell in cells)])
    return f"\n{budget[0]} configs in waves of {budget[1]}: simple regret, median (quartiles)\n{report.table(['', *TASKS], rows)}\n"


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return f"{_short(middle)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    """Three digits: .0123, 4.56, 12.3."""
    return f"{value:.4f}".lstrip("0") if value < 0.9995 else f"{value:.3g}"


def mean_ranks(results: Sequence[Result], names: Sequence[str], budgets: Sequence[Budget], *, of_medians: bool = False) -> dict[str, float]:
    """Mean rank of each candidate over tasks, budgets and seeds, 0 best and 1 worst; equal regrets share a rank.

    Seeds count where all candidates have a result. `of_medians` ranks the medians over them instead of each seed's regrets.
    """
    import numpy as np
    from scipy.stats import rankdata

    ranks = []
    for budget in budgets:
        for task in TASKS:
            by_seed = [{r.seed: r.regret for r in _cell(results, name, task, budget)} for name in names]
            common = sorted(set.intersection(*(set(cell) for cell in by_seed))) if len(names) > 1 else []
            if common:
                regrets = np.array([[cell[seed] for seed in common] for cell in by_seed])
                ranked = rankdata(np.median(regrets, axis=1, keepdims=True) if of_medians else regrets, axis=0)
                ranks.append((ranked.mean(axis=1) - 1) / (len(names) - 1))
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True)) if ranks else {}


def _ranks(results: Sequence[Result], names: Sequence[str], budgets: Sequence[Budget]) -> str:
    """Mean rank per budget and over all, with the CPU time of a proposal."""
    columns = [mean_ranks(results, names, [budget]) for budget in budgets]
    columns += [mean_ranks(results, names, budgets, of_medians=of_medians) for of_medians in (False, True)]
    rows = []
    for name in names:
        times = report.Spread.of([r.cpu_ms for r in results if r.candidate == name])
        rows.append([name, *(f"{column.get(name, float('nan')):.3f}" for column in columns), f"{times.text(2)}, n = {times.n}"])
    head = ["", *(f"{budget}/{wave}" for budget, wave in budgets), "all", "all, of medians", "CPU ms per proposal"]
    return ("\nMean rank over tasks and seeds, 0 best and 1 worst (each seed's regrets ranked; last, the medians); CPU time with the tell\n"
            f"{report.table(head, rows)}\n")


def worse_than_random(results: Sequence[Result], name: str, budgets: Sequence[Budget]) -> list[tuple[str, Budget, float]]:
    """(task, budget, p) wherever a candidate's median regret is above random's; p is the one-sided Mann-Whitney test's, not corrected."""
    from scipy.stats import mannwhitneyu

    found = []
    for budget in budgets:
        for task in TASKS:
            ours, random = ([r.regret for r in _cell(results, who, task, budget)] for who in (name, RANDOM))
            if ours and random and statistics.median(ours) > statistics.median(random):
                found.append((task, budget, float(mannwhitneyu(ours, random, alternative="greater").pvalue)))
    return found


def _worse_text(results: Sequence[Result], budgets: Sequence[Budget]) -> str:
    """Where ours has a higher median than random, and whether that is more than chance."""
    cells = len(TASKS) * len(budgets)
    lines = [f"  {task} at {budget}/{wave}: p = {p:.3f}, {'WORSE' if p * cells < CHANCE else 'noise' if p >= CHANCE else 'likely noise'}"
             for task, (budget, wave), p in worse_than_random(results, OURS, budgets)]
    return (f"\n{OURS} has a higher median than random in {len(lines)} of {cells} cells (one-sided Mann-Whitney test; WORSE: "
            f"p times {cells}, the number of looks, is below {CHANCE:g})\n" + "\n".join(lines))


def _aims(results: Sequence[Result], names: Sequence[str], budgets: Sequence[Budget]) -> list[report.Aim]:
    """Best mean rank of all; nowhere worse than random."""
    ranks = mean_ranks(results, names, budgets)
    others = [name for name in ranks if name != OURS]
    if OURS not in ranks or not others:
        return [report.Aim(met=False, text=f"no results of {OURS} and another")]
    next_best = min(others, key=lambda name: ranks[name])
    worse = [f"{task} {budget}/{wave}" for task, (budget, wave), p in worse_than_random(results, OURS, budgets)
             if p * len(TASKS) * len(budgets) < CHANCE]
    return [report.Aim(met=ranks[OURS] < ranks[next_best], text=f"mean rank {ranks[OURS]:.3f}, next {next_best} {ranks[next_best]:.3f}"),
            report.Aim(met=not worse, text=f"worse than random on {', '.join(worse) or 'none'}")]


if __name__ == "__main__":
    sys.exit(main())
