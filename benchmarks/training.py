"""Images per second of whole trainings on a CPU: `jobs.train` against torchvision's reference script and timm's script.

    python -m benchmarks.training                                   # a quarter of an hour; loops of our own in the scripts' form
    python -m benchmarks.training --torchvision-scripts vision/references/classification --timm-scripts pytorch-image-models

The first form needs nothing more (timm's loader takes part when timm is installed); the second trains with the real scripts of these two
repositories (https://github.com/pytorch/vision, https://github.com/huggingface/pytorch-image-models). See benchmarks/training_sides.py for
what is measured and what the sides have in common.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import loader, report

OURS = "jobs.train"
COMMON = {"optimizer": "sgd", "momentum": 0.9, "schedule": "none", "val_fraction": 0.1}
STUDIES: dict[str, dict[str, Any]] = {
    "28 px, dynamic_cnn 16-32": {"dataset": "fashion_mnist", "model": "dynamic_cnn", "filters": 16, "depth": 2, "augment": "crop_flip",
                                 "lr": 0.02, "batch_size": 128, "train_images": 6400, "epochs": 2},
    "32 px, simple_cnn 64-128-256": {"dataset": "cifar10", "model": "simple_cnn", "filters": 64, "augment": "crop_flip", "lr": 0.02,
                                     "batch_size": 128, "train_images": 1280, "epochs": 2},
    "224 px, alexnet": {"dataset": "caltech101", "model": "alexnet", "augment": "imagenet", "dropout": 0.5, "lr": 0.01, "batch_size": 32,
                        "train_images": 96, "epochs": 2, "test_fraction": 0.1},
}
"""Studies by name; the number of images is a matter of patience, the rest is what the grids of these studies have."""
AIMS = {"28 px, dynamic_cnn 16-32": 2.0, "32 px, simple_cnn 64-128-256": 1.4}
"""Times each rival's images per CPU second."""
NOT_JUDGED = "timm, --channels-last"
"""With an option that timm's script has and does not set by itself; it is ours' memory layout."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description="Images/s of whole trainings on a CPU.", epilog=(
        "exit status: 0 when ours is " + ", ".join(f"{aim} times as fast at {name.partition(',')[0]}" for name, aim in AIMS.items())
        + " at equal accuracy and the loader reaches its aims, 1 when not"))
    parser.add_argument("--torchvision-scripts", type=Path, metavar="DIR", help="references/classification of pytorch/vision")
    parser.add_argument("--timm-scripts", type=Path, metavar="DIR", help="a checkout of huggingface/pytorch-image-models")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of every side in turn, each with its own seed (default: 5)")
    parser.add_argument("--workers", type=int, default=0, metavar="N",
                        help="processes of the others' DataLoaders; their CPU time counts (default: 0, which is the least CPU time; "
                             "timm's has one at least)")
    parser.add_argument("--studies", nargs="+", metavar="PX", choices=("28", "32", "224"), default=["28", "32", "224"], help="only these")
    parser.add_argument("--quick", action="store_true", help="a few images at 28 px: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    import torch

    torch.set_num_threads(1)
    load = report.ForeignLoad()
    studies = {name: config for name, config in STUDIES.items() if name.split()[0] in (["28"] if options.quick else options.studies)}
    if options.quick:
        studies = {name: {**config, "train_images": 384} for name, config in studies.items()}
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        folder = Path(name)
        arms = {f"{study}: {side}": arm for study, config in studies.items() for side, arm in _arms(folder, study, config, options).items()}
        samples = report.interleave(arms, rounds=options.rounds)
    print(report.header(f"training: images/s from the end of the first optimizer step to the end of the last, one thread, DataLoader with "
                        f"{options.workers} workers; median (least to greatest) of {options.rounds}", load=load))
    rows, aims = [], []
    for study in studies:
        measured = {name.partition(": ")[2]: samples[name] for name in samples if name.startswith(f"{study}: ")}
        rows += _rows(study, measured)
        aims += _aims(study, measured)
    print(report.table(["", "images per CPU s", "images/s", "ours is faster by: CPU", "wall", "val_acc"], rows))
    if not options.quick:
        print("\nthe loader alone")
        head, lines, loader_aims = loader.measured(rounds=options.rounds)
        print(report.table(head, lines))
        aims += loader_aims
    return report.verdict(f"training (n={options.rounds})", aims)


def _arms(folder: Path, study: str, config: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Callable[[], report.Sample]]:
    """The sides of one study by the name in the table; its data are made and cached."""
    from benchmarks import training_sides as sides

    root = _make_data(folder, config)
    ways: dict[str, tuple[Callable[..., report.Sample], tuple[Any, ...]]] = {OURS: (sides.ours, ())}
    if options.torchvision_scripts:
        ways["torchvision, references/classification"] = (sides.torchvision_script, (options.torchvision_scripts.resolve(),))
    else:
        ways["torchvision, a loop of its form"] = (sides.written_loop, ("torchvision",))
    if options.timm_scripts:
        scripts = options.timm_scripts.resolve()
        ways["timm, train.py"] = (sides.timm_script, (scripts,))
        ways[NOT_JUDGED] = (sides.timm_script, (scripts, "--channels-last"))
    elif importlib.util.find_spec("timm") and not options.quick:
        ways["timm, a loop of its form"] = (sides.written_loop, ("timm",))
    elif not options.quick:
        print("timm is left out: it is not installed, and --timm-scripts is not given")
    return {name: _Arm(folder, way, *more, config=COMMON | dict(config), root=root, workers=options.workers)
            for name, (way, more) in ways.items()}


class _Arm:
    """One side of one study, each call with the next seed and in a process of its own."""

    def __init__(self, folder: Path, way: Callable[..., report.Sample], *more: Any, **task: Any):
        self._folder, self._way, self._more, self._task, self._seed = folder, way, more, task, -1

    def __call__(self) -> report.Sample:
        from benchmarks.training_sides import Task

        self._seed += 1
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            task = Task(seed=self._seed, folder=Path(name), **self._task)
            sample: report.Sample = report.in_fork(self._way, task, *self._more, log=self._folder / "log.txt")
        return sample


def _make_data(folder: Path, config: Mapping[str, Any]) -> Path:
    """The data folder with what this study reads, cached."""
    from benchmarks import made_data
    from jobs.config import Config
    from jobs.data import prepare

    count = config["train_images"]
    root = folder / config["dataset"]
    if config["dataset"] == "caltech101":
        made_data.caltech101(root, count=round(count * 1.4))
    else:
        make = {"fashion_mnist": made_data.fashion_mnist, "cifar10": made_data.cifar10}[config["dataset"]]
        make(root, train=round(count * 1.15), test=100)
    prepare(Config.from_dict(COMMON | dict(config)), root)
    return root


def _rows(study: str, measured: Mapping[str, list[report.Sample]]) -> list[list[str]]:
    rows = [[study, "", "", "", "", ""]]
    for name, samples in measured.items():
        speeds = [report.Spread.of([s[q] for s in samples]).text() for q in ("images per CPU second", "images per second")]
        gains = ["" if name == OURS else report.ratios(measured[OURS], samples, q).text() + "x"
                 for q in ("images per CPU second", "images per second")]
        rows.append([f"  {name}", *speeds, *gains, report.Spread.of([s["val_acc"] for s in samples]).text()])
    return rows


def _aims(study: str, measured: Mapping[str, list[report.Sample]]) -> list[report.Aim]:
    """Speed against each rival, and that our mean accuracy is not lower than theirs beyond chance."""
    aims, aim = [], AIMS.get(study)
    size = study.partition(",")[0]
    for name, samples in measured.items():
        if name in (OURS, NOT_JUDGED):
            continue
        gain = report.ratios(measured[OURS], samples, "images per CPU second")
        text = f"{size} {gain.median:.2f}x {name} ({gain.low:.2f}-{gain.high:.2f}x" + (f"; aim {aim}x)" if aim else "; no aim)")
        aims.append(report.Aim(met=aim is None or gain.median >= aim, text=text))
        if len(samples) > 1:  # of one seed nothing can be said
            gap, allowed = report.gap([s["val_acc"] for s in samples], [s["val_acc"] for s in measured[OURS]], slack=0.01)
            aims.append(report.Aim(met=gap <= allowed, text=f"their val_acc {gap:+.3f} (allowed {allowed:+.3f})"))
    return aims


if __name__ == "__main__":
    sys.exit(main())
