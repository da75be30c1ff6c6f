"""How long do the figures take, and those of optuna on the same trials?

    python -m benchmarks.analysis                   # five minutes: 1,000 trials of 12 parameters, then a million epoch rows
    python -m benchmarks.analysis --quick           # shows that it works: 60 trials

Ours: each figure as users get it (its table, the drawing, PNG, PDF, SVG and CSV), and the whole command in a fresh process, with its peak
memory. Theirs: the figure of optuna.visualization.matplotlib that shows most nearly the same, of the same trials in memory, written as
PNG alone. Both in a fork of a process that has drawn a figure already, so that imports and fonts are there, in turns.
"""

import argparse
import importlib
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report

PAIRS = {"parallel": "plot_parallel_coordinate", "slices": "plot_slice", "importance": "plot_param_importances",
         "curves": "plot_intermediate_values", "progress": "plot_optimization_history", "timeline": "plot_timeline",
         "interactions": "plot_contour"}
"""Our figure -> the one of optuna that shows most nearly the same."""
EACH_S, ALL_S, MILLION_S = 3.0, 20.0, 60.0
"""What is aimed at: seconds for one figure and for all of them at 1,000 trials, and for all at a million epoch rows."""
LIMIT_S = 150.0
"""After which a figure of optuna is stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables and the verdict; returns 1 when an aim is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis", description="Seconds that the figures take.",
                                     epilog="exit status: 0 when every aim is met, else 1")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each figure is drawn (default: 5)")
    parser.add_argument("--quick", action="store_true", help="60 trials, one round: to see that it works")
    arguments = parser.parse_args(argv)
    report.one_thread()
    trials, rounds = (60, 1) if arguments.quick else (1000, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        load = report.ForeignLoad()
        space = _made(Path(folder) / "space", trials=trials, epochs=30)
        figures, samples = _figures(space, Path(folder), rounds=rounds)
        whole = [_command(space) for _ in range(rounds)]
        million = _command(_made(Path(folder) / "million", trials=trials * 20, epochs=50))
        print(report.header(f"{trials:,} trials of 12 parameters, 30 epochs each; n = {rounds}", load=load))
        slowest = _print(figures, samples)
        seconds, memory = (report.Spread.of([sample[name] for sample in whole]) for name in ("seconds", "peak MB"))
        print(f"\nall of them by the command, from a fresh start: {seconds.text()} s, its largest process {memory.text()} MB, n = {rounds}")
        rows_s, rows_mb = million["seconds"], million["peak MB"]
        print(f"{trials * 20:,} trials with {trials * 1000:,} epoch rows: {rows_s:.1f} s, its largest process {rows_mb:,.0f} MB, n = 1")
        aims = [report.Aim(text=f"slowest figure {slowest:.2f} s, below {EACH_S:g}", met=slowest < EACH_S),
                report.Aim(text=f"all {seconds.median:.1f} s, below {ALL_S:g}", met=seconds.median < ALL_S),
                report.Aim(text=f"{trials * 1000:,} epoch rows {rows_s:.1f} s, below {MILLION_S:g}", met=rows_s < MILLION_S)]
        return report.verdict(f"analysis (n={rounds})", aims)


def _made(folder: Path, *, trials: int, epochs: int) -> Path:
    """A made-up search, written by a process of its own, so that its memory is not ours."""
    command = [sys.executable, "-m", "benchmarks.made_up_space", str(folder), "--trials", str(trials), "--epochs", str(epochs)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _figures(space: Path, folder: Path, *, rounds: int) -> tuple[list[str], dict[str, list[report.Sample]]]:
    """The figures that there are of this study, and the samples of ours and theirs."""
    from analysis import load, plots
    from analysis.load import AnalysisError

    study, figures = load.load(space), []
    for name in plots.FIGURES:
        try:
            plots.figure_module(name).table(study)
        except AnalysisError:
            continue
        figures.append(name)
    _ours(space, figures[0], folder / "first")
    log = folder / "log"
    arms: dict[str, Callable[[], report.Sample]] = {}
    rival = _optuna_study(study, folder / "optuna")
    for name in figures:
        arms[name] = partial(_fork, _ours, space, name, folder / "figures", log=log)
        if rival is not None and name in PAIRS:
            arms[PAIRS[name]] = partial(_fork, _theirs, rival, PAIRS[name], folder / "figures", log=log)
    return figures, report.interleave(arms, rounds=rounds)


def _fork(function: Callable[..., report.Sample], *arguments: Any, log: Path) -> report.Sample:
    """What the function measures; more than `LIMIT_S` is infinite."""
    try:
        return report.in_fork(function, *arguments, log=log, limit_s=LIMIT_S)
    except TimeoutError:
        return {"seconds": math.inf}


def _ours(space: Path, name: str, out: Path) -> report.Sample:
    """One figure, of a study that is loaded already but of which nothing is computed."""
    from analysis import load, plots, style

    study, module = load.load(space), plots.figure_module(name)
    began = time.perf_counter()
    with style.context():
        figure, data = style.new_figure(), module.table(study)
        module.draw(figure, data, study)
        style.save(figure, out, module.NAME, data)
    return {"seconds": time.perf_counter() - began}


def _theirs(study: Any, name: str, out: Path) -> report.Sample:
    """One figure of optuna's, as its documentation has it."""
    import matplotlib.pyplot as plt

    plot = getattr(importlib.import_module("optuna.visualization.matplotlib"), name)
    out.mkdir(exist_ok=True)
    began = time.perf_counter()
    plot(study)
    plt.savefig(out / f"{name}.png", dpi=200)
    return {"seconds": time.perf_counter() - began}


def _optuna_study(study: Any, folder: Path) -> Any:
    """The same trials in optuna's memory; None when it is not installed."""
    try:
        import optuna
        import optuna.visualization.matplotlib
    except ImportError:
        print("optuna is not installed (pip install .[optuna]): ours alone", file=sys.stderr)
        return None
    from analysis.export import export

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    exported = export(study, folder, to="optuna")
    copy = optuna.create_study(direction="maximize")
    copy.add_trials(optuna.load_study(study_name=study.name, storage=f"sqlite:///{exported.path}").get_trials())
    return copy


def _print(figures: Sequence[str], samples: dict[str, list[report.Sample]]) -> float:
    """Prints a line for each figure; returns the median seconds of the slowest of ours."""
    rows, medians = [], []
    for name in figures:
        ours = report.Spread.of([sample["seconds"] for sample in samples[name]])
        medians.append(ours.median)
        theirs, ratio = samples.get(PAIRS.get(name, "")), ""
        cells = ["", ""]
        if theirs is not None:
            spread = report.Spread.of([sample["seconds"] for sample in theirs])
            over = math.isinf(spread.median)
            ratio = f"over {LIMIT_S / ours.median:.0f}" if over else report.ratios(theirs, samples[name], "seconds").text()
            cells = [PAIRS[name], f"over {LIMIT_S:.0f}" if over else spread.text()]
        rows.append([name, ours.text(), *cells, ratio])
    print(report.table(["figure", "seconds", "optuna's", "seconds", "ratio"], rows))
    return max(medians)


def _command(space: Path) -> report.Sample:
    """The whole command in a process of its own. Its peak memory is that of the largest of its processes; there are up to four, which share
    the study."""
    began = time.perf_counter()
    code = ("import resource, sys\nfrom analysis import plots\nstatus = plots.main(sys.argv[1:])\n"
            "print('PEAK', max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))\n"
            "sys.exit(status)")
    done = subprocess.run([sys.executable, "-c", code, str(space)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"analysis.plots failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    kib = int(done.stdout.rpartition("PEAK ")[2]) / (1024 if sys.platform == "darwin" else 1)  # macOS counts bytes
    return {"seconds": time.perf_counter() - began, "peak MB": kib / 1000}


if __name__ == "__main__":
    sys.exit(main())
