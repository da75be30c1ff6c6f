"""Training on a GPU: against a DataLoader with 16 workers, against the roofline, and many trials on one GPU in every mode.

    python -m benchmarks.gpu                            # nine minutes on one GPU; benchmarks/results/gpu.txt is written as it goes
    python -m benchmarks.gpu --minutes 5 --out gpu.txt
    python -m benchmarks.gpu --cpu --quick              # without a GPU: shows that it works

The measurements follow one another in the order of their weight. Each has its own process and its own time; one that fails or that no
time is left for is named as such and the others go on, and what there is is in the file at any moment. benchmarks/gpu_parts.py has what is
measured.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report

RESULT = Path(__file__).parent / "results" / "gpu.txt"
MANY = (4, 16, 64)
SEEDS = 5
AIMS = {"dataloader": 10.0, "stall": 0.03, "fused": 5.0, "seeds": 2.0}
"""Times a DataLoader with 16 workers for small networks; share of the speed on a constant batch that the data path costs at most; times one
trial after the other with 16 fused; price of five seeds in units of one."""
PEAKS = {"B200": (2250, 8.0), "H200": (989, 4.8), "H100 PCIe": (756, 2.0), "H100": (989, 3.35), "A100-SXM4-80GB": (312, 2.04),
         "A100 80GB": (312, 1.94), "A100": (312, 1.56), "L40S": (362, 0.864), "L4": (121, 0.3), "A10": (125, 0.6), "V100": (125, 0.9),
         "T4": (65, 0.32), "RTX 4090": (165, 1.01), "RTX 3090": (71, 0.936)}
"""Part of a GPU's name, the first that fits -> TFLOP/s in bf16 (V100, T4: fp16) without sparsity and TB/s of its memory, from NVIDIA's data
sheets."""
COMMON = {"optimizer": "sgd", "momentum": 0.9, "schedule": "none", "val_fraction": 0.1, "lr": 0.02}
SMALL_28, SMALL_32 = "dynamic_cnn 16-32 @28", "simple_cnn 64-128-256 @32"
_SMALL = {"augment": "crop_flip", "batch_size": 128, "train_images": 40_960, "epochs": 5_000}
_LARGE = {"dataset": "caltech101", "augment": "imagenet", "batch_size": 256, "train_images": 8_192, "test_fraction": 0.1, "epochs": 30}
SMALL: dict[str, dict[str, Any]] = {
    SMALL_28: {"dataset": "fashion_mnist", "model": "dynamic_cnn", "filters": 16, "depth": 2, **_SMALL},
    SMALL_32: {"dataset": "cifar10", "model": "simple_cnn", "filters": 64, **_SMALL},
    "cifar_resnet34 @32": {"dataset": "cifar10", "model": "cifar_resnet34", **_SMALL},
}
LARGE: dict[str, dict[str, Any]] = {f"{model} @224": {"model": model, **_LARGE} for model in ("alexnet", "resnet18", "resnet50")}
COPIES = 16
"""Of each JPEG file: making one takes longer than training on it."""
QUICK_SMALL = {SMALL_28: {**SMALL[SMALL_28], "train_images": 256, "batch_size": 32, "filters": 4}}
QUICK_LARGE = {"dynamic_cnn @64, files": {**_LARGE, "model": "dynamic_cnn", "filters": 4, "image_size": 64, "batch_size": 16,
                                          "train_images": 64}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One measurement."""

    key: tuple[str, ...]
    seconds: float
    """That it measures; what comes before (first epoch, processes, kernels) is on top."""
    way: str
    """Function of gpu_parts."""
    more: dict[str, Any]
    """Its arguments beside the study."""
    study: str = ""
    on_top: float = 8.0
    """About what comes before."""


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Training on one GPU.", epilog=(
        f"exit status: 0 when small networks train {AIMS['dataloader']:g} times as fast as with a DataLoader, the data path costs at "
        f"most {AIMS['stall']:.0%} of the speed, 16 fused trials are {AIMS['fused']:g} times as fast as one after the other, and five "
        f"seeds cost at most {AIMS['seeds']:g} times one; 1 when not"))
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything (default: 9)")
    parser.add_argument("--rounds", type=int, default=1, help="how often all is done, each with the whole time (default: 1)")
    parser.add_argument("--out", type=Path, help=f"file for the result (default: {RESULT.parent.parent.name}/results/{RESULT.name}; none "
                                                 "with --quick)")
    parser.add_argument("--workers", type=int, default=16, help="of the DataLoader (default: 16)")
    parser.add_argument("--cpu", action="store_true", help="on the CPU: shows that the script works")
    parser.add_argument("--quick", action="store_true", help="tiny networks and images: shows that it works, measures nothing")
    options = parser.parse_args(arguments)
    report.one_thread()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asks the driver nothing that would forbid to fork afterwards
    import torch

    torch.set_num_threads(1)
    if not options.cpu and not torch.cuda.is_available():
        print("there is no GPU; --cpu --quick shows that the script works")
        return 1
    out = options.out or (None if options.quick else RESULT)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        bench = Bench(Path(name), options, out)
        for _ in range(options.rounds):
            bench.run()
    print(bench.text(), flush=True)
    return report.verdict(f"gpu (n={options.rounds})", bench.aims())


class Bench:
    """All measurements and what they came to."""

    def __init__(self, folder: Path, options: argparse.Namespace, out: Path | None):
        self._folder, self._options, self._out = folder, options, out
        self._device = "cpu" if options.cpu else "cuda:0"
        self._small, self._large = (QUICK_SMALL, QUICK_LARGE) if options.quick else (SMALL, LARGE)
        precision = {"precision": "fp32" if options.cpu else "bf16"}
        self._studies = {name: COMMON | config | precision for name, config in (self._small | self._large).items()}
        self._found: dict[tuple[str, ...], dict[str, Any]] = {}
        self._missing: dict[tuple[str, ...], str] = {}
        self._load = report.ForeignLoad()
        self._spent = 0.0

    def run(self) -> None:
        """Does all parts that there is time for."""
        from benchmarks import gpu_parts

        began = time.monotonic()
        for number, part in enumerate(self._parts()):
            left = 60 * self._options.minutes - (time.monotonic() - began)
            if left < part.seconds + part.on_top:
                self._missing.setdefault(part.key, "no time was left")
                continue
            arguments = dict(part.more)
            if part.study:
                folder = self._folder / f"{number}-{len(self._found)}"
                folder.mkdir()
                arguments["study"] = gpu_parts.Study(config=self._studies[part.study], root=self._root(part.study), folder=folder,
                                                     device=self._device, seconds=part.seconds)
            print(f"{time.monotonic() - began:5.0f} s  {' / '.join(part.key)}", file=sys.stderr, flush=True)
            way, log = getattr(gpu_parts, part.way), self._folder / f"log-{number}.txt"
            try:
                self._found[part.key] = report.in_fork(_call, way, arguments, log=log,
                                                       limit_s=min(left, 2 * (part.seconds + part.on_top) + 30))
                self._missing.pop(part.key, None)
            except (RuntimeError, TimeoutError) as error:
                self._missing[part.key] = str(error).strip().splitlines()[-1][:300]
            self._spent = time.monotonic() - began
            if self._out:
                self._out.write_text(self.text() + "\n")

    def _root(self, study: str) -> Path:
        return self._folder / "data" / str(self._studies[study]["dataset"])

    def _parts(self) -> Iterator[Part]:
        """Everything to measure, the most important first."""
        quick = self._options.quick
        unit = 0.3 if quick else 1.0
        yield Part(key=("hardware",), seconds=2 * unit, way="hardware", more={"device": self._device, "seconds": 2 * unit})
        yield from self._data(self._small, copies=1)
        for name in self._small:
            yield from self._alone(name, unit)
        first = next(iter(self._small))
        for name in (first, SMALL_32):
            if name in self._small:
                for trials in (2,) if quick else (16, SEEDS, 4, 64):
                    yield Part(key=("many", name, "fused", str(trials)), seconds=6 * unit, study=name, way="fused", more={"trials": trials})
        yield from self._data(self._large, copies=1 if quick else COPIES)
        for name in self._large:
            yield from self._alone(name, unit)
        for name in (first, SMALL_32):
            if name in self._small:
                yield Part(key=("many", name, "eager", "1"), seconds=5 * unit, study=name, way="ours", more={"graph": False})
                for trials in (2,) if quick else (16, 4):
                    yield Part(key=("many", name, "processes", str(trials)), seconds=6 * unit, study=name, way="processes",
                               more={"trials": trials}, on_top=12)
        for trials in (2,) if quick else MANY:
            yield Part(key=("many", first, "vmap", str(trials)), seconds=3 * unit, study=first, way="vmapped", more={"trials": trials},
                       on_top=5)
        if not quick:
            yield Part(key=("many", first, "processes", "64"), seconds=6, study=first, way="processes", more={"trials": 64}, on_top=30)

    def _data(self, studies: dict[str, dict[str, Any]], *, copies: int) -> Iterator[Part]:
        for name in {config["dataset"]: name for name, config in reversed(studies.items())}.values():
            if not self._root(name).exists():
                yield Part(key=("data", name), seconds=0, on_top=20, way="make_data",
                           more={"config": self._studies[name], "root": self._root(name), "copies": copies})

    def _alone(self, name: str, unit: float) -> Iterator[Part]:
        """One network: what it costs, ours, the same on a constant batch, the DataLoader."""
        from jobs.config import Config
        from jobs.data import model_size
        from jobs.datasets import DATASETS

        config = Config.from_dict(self._studies[name])
        sizes = {"channels": DATASETS[config.dataset].shape[2], "size": model_size(config), "classes": 10}
        yield Part(key=("cost", name), seconds=0, on_top=1, way="cost", more={"config": self._studies[name], **sizes})
        yield Part(key=("ours", name), seconds=6 * unit, study=name, way="ours", more={})
        yield Part(key=("constant", name), seconds=6 * unit, study=name, way="ours", more={"constant": True})
        if config.model != "cifar_resnet34":
            yield Part(key=("dataloader", name), seconds=8 * unit, study=name, way="dataloader",
                       more={"workers": 0 if self._options.quick else self._options.workers})

    # ------------------------------------------------------------------------------------------------------------ result

    def _speed(self, *key: str, quantity: str = "speeds") -> report.Spread | None:
        return report.Spread.of(self._found[key][quantity]) if key in self._found else None

    def _peak(self) -> tuple[str, float, float]:
        """Where the peaks are from, TFLOP/s, TB/s."""
        found = self._found.get(("hardware",), {"name": "?", "tflop_per_s": float("nan"), "tb_per_s": float("nan")})
        sheet = next((peak for part, peak in PEAKS.items() if part in found["name"]), None)
        return ("data sheet", *sheet) if sheet else ("measured here", found["tflop_per_s"], found["tb_per_s"])

    def _bound(self, name: str) -> float | None:
        """Images/s that the roofline allows."""
        if ("cost", name) not in self._found:
            return None
        price, (_, tflop, tb) = self._found["cost", name], self._peak()
        return min(tflop * 1e12 / (price["gflop"] * 1e9), tb * 1e12 / (price["mb"] * 1e6))

    def _stall(self, name: str) -> float | None:
        real, constant = self._speed("ours", name), self._speed("constant", name)
        return 1 - real.median / constant.median if real and constant else None

    def _gain(self, name: str) -> float | None:
        real, loader = self._speed("ours", name), self._speed("dataloader", name)
        return real.median / loader.median if real and loader else None

    def _one_after_the_other(self, name: str) -> float | None:
        """Images/s, validation included, of trials that run one by one as `jobs.train` runs them."""
        spread = self._speed("ours", name, quantity="whole")
        return spread.median if spread else None

    def text(self) -> str:
        """The result as it is now."""
        hardware, (source, tflop, tb) = self._found.get(("hardware",), {}), self._peak()
        lines = [report.header(f"gpu: {self._spent / 60:.1f} minutes; median (least to greatest) over epochs", load=self._load).strip("\n")]
        lines += [f"{hardware.get('name', '?')}, {hardware.get('memory_gb', 0):.0f} GB, CUDA {hardware.get('cuda')}, "
                  f"{hardware.get('cpus')} CPU cores; DataLoader with {self._options.workers} workers\n"
                  f"roofline from {tflop:.3g} TFLOP/s and {tb:.3g} TB/s ({source}); here a matrix product reaches "
                  f"{hardware.get('tflop_per_s', 0):.3g} TFLOP/s and a copy {hardware.get('tb_per_s', 0):.3g} TB/s", ""]
        rows = [self._row(name) for name in self._studies]
        lines += [report.table(["images/s, steps alone", "jobs.train", "constant batch", "data stall", "DataLoader", "gain", "GFLOP/image",
                                "MB/image", "of the roofline", "GB", "first epoch, s"], rows), ""]
        head = ["trials on one GPU, validation included", "trials", "images/s of all", "one by one", "gain", "GB"]
        keys = sorted((key for key in self._found if key[0] == "many"), key=lambda key: (*key[1:3], int(key[3])))
        lines += [report.table(head, [self._many_row(key) for key in keys]), ""]
        lines += [f"not measured: {' / '.join(key)}: {why}" for key, why in self._missing.items()]
        return "\n".join(lines)

    def _row(self, name: str) -> list[str]:
        price, numbers = self._found.get(("cost", name), {}), self._found.get(("ours", name), {})
        ours, bound = self._speed("ours", name), self._bound(name)
        speeds = [spread.text() if spread else "-" for spread in (self._speed(way, name) for way in ("ours", "constant", "dataloader"))]
        return [name, *speeds[:2], _percent(self._stall(name)), speeds[2], _times(self._gain(name)),
                f"{price['gflop']:.4g}" if price else "-", f"{price['mb']:.3g}" if price else "-",
                _percent(ours.median / bound if ours and bound else None), f"{numbers.get('peak_memory_gb', 0):.2f}",
                f"{numbers.get('first_epoch_s', 0):.2f}"]

    def _many_row(self, key: tuple[str, ...]) -> list[str]:
        spread, alone = self._speed(*key, quantity="whole"), self._one_after_the_other(key[1])
        assert spread is not None
        return [f"{key[1]}: {key[2]}", key[3], spread.text(), f"{alone:,.0f}" if alone else "-",
                _times(spread.median / alone if alone else None), f"{self._found[key].get('peak_memory_gb', 0):.2f}"]

    def aims(self) -> list[report.Aim]:
        """What was to be reached; what was not measured is missed."""
        aims = []
        for name in self._studies:
            if name in (SMALL_28, SMALL_32):
                gain = self._gain(name)
                aims.append(_aim(f"{name} {_times(gain)} DataLoader", gain, lambda gain: gain >= AIMS["dataloader"]))
            aims.append(_aim(f"{name} data stall {_percent(self._stall(name))}", self._stall(name), lambda stall: stall <= AIMS["stall"]))
        for name in (name for name in (SMALL_28, SMALL_32) if name in self._small):
            alone = self._one_after_the_other(name)
            for trials, what in ((16, "fused"), (SEEDS, "seeds")):
                spread = self._speed("many", name, "fused", str(trials), quantity="whole")
                gain = spread.median / alone if spread and alone else None
                price = trials / gain if gain else None
                aims.append(_aim(f"{name} 16 fused {_times(gain)}", gain, lambda gain: gain >= AIMS["fused"]) if what == "fused" else
                            _aim(f"{name} {SEEDS} seeds cost {_times(price)} one", price, lambda price: price <= AIMS["seeds"]))
        return aims


def _call(way: Callable[..., dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
    return way(**arguments)


def _aim(text: str, value: float | None, is_met: Callable[[float], bool]) -> report.Aim:
    return report.Aim(text=text, met=value is not None and is_met(value))


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _times(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}x"


if __name__ == "__main__":
    sys.exit(main())
