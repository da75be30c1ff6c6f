"""Images per second of the input path on one core: `jobs.augment.Batcher` against DataLoader with torchvision's PIL transforms.

    python -m benchmarks.loader                  # about two minutes
    python -m benchmarks.loader --rounds 11

Both sides read the same uint8 images (random pixels: nothing here depends on what they show), in the sizes of CIFAR-10 and FashionMNIST;
at 224 px ours reads its cache of 256 x 256 squares and the other side the JPEG files such a cache is made from. The DataLoader is in
its documented form with `num_workers=0`, everything in this one process, so that the comparison is per core.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report

if TYPE_CHECKING:
    import numpy as np

    from jobs.data import Splits

BATCH = 128
AIMS = {"32x32x3 crop_flip": 15.0, "28x28x1 crop_flip": 40.0, "224x224x3 imagenet": 3.5}
"""Times DataLoader + PIL, on one core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the table."""

    name: str
    ours: Callable[[], int]
    """One pass; returns how many images it made."""
    theirs: Callable[[], int]


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and judges; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description="Images/s of the input path against DataLoader + PIL.",
                                     epilog="exit status: 0 when these are reached, 1 when not: "
                                            + ", ".join(f"{name} {aim:g}x" for name, aim in AIMS.items()))
    parser.add_argument("--rounds", type=int, default=7, help="repetitions, each of every case and both sides in turn (default: 7)")
    parser.add_argument("--quick", action="store_true", help="few images: shows that it works, measures little")
    options = parser.parse_args(arguments)
    report.one_thread()
    import torch

    torch.set_num_threads(1)
    load = report.ForeignLoad()
    head, rows, aims = measured(rounds=options.rounds, scale=50 if options.quick else 1)
    print(report.header(f"loader: images/s of one thread, batch {BATCH}; median (least to greatest) of {options.rounds}", load=load))
    print(report.table(head, rows))
    return report.verdict(f"loader (n={options.rounds})", aims)


def measured(*, rounds: int, scale: int = 1) -> tuple[list[str], list[list[str]], list[report.Aim]]:
    """All cases in turns: head and rows of the table, and the aims. `scale` divides the number of images."""
    from jobs.hardware import keep_memory

    keep_memory()  # as a trial does; the other side gets it too
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        cases = list(_cases(Path(folder), scale=scale))
        for case in cases:  # the first use of anything is slower
            case.ours()
            case.theirs()
        arms = {f"{case.name} {side}": partial(_measure, run) for case in cases
                for side, run in (("ours", case.ours), ("theirs", case.theirs))}
        samples = report.interleave(arms, rounds=rounds)
    rows, aims = [], []
    for case in cases:
        ours, theirs = samples[f"{case.name} ours"], samples[f"{case.name} theirs"]
        gain = report.ratios(ours, theirs, "images per CPU second")
        rows.append([case.name, *(report.Spread.of([s[q] for s in side]).text() for side in (ours, theirs)
                                  for q in ("images per CPU second", "images per second")), gain.text() + "x"])
        if case.name in AIMS:
            aims.append(report.Aim(met=gain.median >= AIMS[case.name], text=(
                f"{case.name} {gain.median:.1f}x (aim {AIMS[case.name]:g}x, {gain.low:.1f}-{gain.high:.1f}x)")))
    return ["", "ours, per CPU s", "ours, per s", "DataLoader + PIL, per CPU s", "per s", "ratio of CPU time"], rows, aims


def _measure(run: Callable[[], int]) -> report.Sample:
    cpu, wall = time.process_time(), time.perf_counter()
    images = run()
    return {"images per CPU second": images / (time.process_time() - cpu), "images per second": images / (time.perf_counter() - wall)}


def _cases(folder: Path, *, scale: int) -> Iterator[Case]:
    """The lines of the table; `scale` divides the number of images."""
    from torchvision import transforms as t

    from jobs.augment import ROTATION_DEGREES

    for dataset, side, channels, augments in (("cifar10", 32, 3, ("none", "crop_flip", "crop_flip_rotate")),
                                              ("fashion_mnist", 28, 1, ("crop_flip",))):
        crop_flip = [t.RandomCrop(side, side // 8), t.RandomHorizontalFlip()]
        changes = {"none": [], "crop_flip": crop_flip, "crop_flip_rotate": [*crop_flip, t.RandomRotation(ROTATION_DEGREES)]}
        images = _random_images(folder / f"{dataset}.npy", (60_000 // scale, side, side, channels))
        splits = _splits(dataset, images, size=side, train=40_000 // scale)
        for augment in augments:
            yield Case(name=f"{side}x{side}x{channels} {augment}", ours=_batcher(splits, dataset, augment),
                       theirs=_dataloader(_pictures(images), changes[augment], splits, images=2_000 // scale))
    shown = max(16, 256 // scale)
    files, squares = _jpegs(folder, shown), _random_images(folder / "squares.npy", (shown, 256, 256, 3))
    splits = _splits("caltech101", squares, size=224, train=shown)
    for augment, decoded in (("none", [t.Resize(256), t.CenterCrop(224)]),
                             ("imagenet", [t.RandomResizedCrop(224), t.RandomHorizontalFlip()])):
        yield Case(name=f"224x224x3 {augment}", ours=_batcher(splits, "caltech101", augment),
                   theirs=_dataloader(_opened(files), decoded, splits, images=shown))


def _random_images(path: Path, shape: tuple[int, int, int, int]) -> "np.ndarray":
    """uint8, memory-mapped as the cache is."""
    import numpy as np

    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(np.load(path, mmap_mode="r"))


def _splits(dataset: str, images: "np.ndarray", *, size: int, train: int) -> "Splits":
    """A data set with the first `train` images as its training split."""
    import numpy as np

    from jobs.data import Splits
    from jobs.datasets import DATASETS

    rest = np.arange(train, len(images))
    return Splits(images=images, labels=np.arange(len(images)) % 10, train=np.arange(train), val=rest, test=rest, classes=10,
                  spec=DATASETS[dataset], size=size, channels=images.shape[3])


def _batcher(splits: "Splits", dataset: str, augment: str) -> Callable[[], int]:
    """One epoch of our batches, a new epoch every time."""
    import torch

    from jobs.augment import Batcher
    from jobs.config import Config
    from jobs.data import epoch_order

    batcher = Batcher(splits, Config(dataset=dataset, augment=augment), torch.device("cpu"))
    epoch = 0

    def run() -> int:
        nonlocal epoch
        epoch += 1
        order = splits.train[epoch_order(len(splits.train), 0, epoch)]
        return sum(len(batcher.train(order[start:start + BATCH], seed=0, epoch=epoch)[0]) for start in range(0, len(order), BATCH))

    return run


def _pictures(images: "np.ndarray") -> Callable[[int], Any]:
    """Image i of an array as torchvision's CIFAR10 and FashionMNIST give it to their transforms."""
    from PIL import Image

    pixels = images[..., 0] if images.shape[3] == 1 else images
    return lambda index: Image.fromarray(pixels[index])


def _opened(files: list[Path]) -> Callable[[int], Any]:
    """Image i of JPEG files as torchvision's ImageFolder opens it."""
    from torchvision.datasets.folder import default_loader

    return lambda index: default_loader(str(files[index]))


def _dataloader(picture: Callable[[int], Any], changes: list[Any], splits: "Splits", *, images: int) -> Callable[[], int]:
    """One pass of DataLoader over as many of the images, the form of torchvision's and PyTorch's tutorials."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    transform = transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(splits.spec.mean, splits.spec.std)])

    class Pictures(Dataset[tuple[Any, int]]):
        def __len__(self) -> int:
            return images

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(picture(index)), int(splits.labels[index])

    loader = DataLoader(Pictures(), batch_size=BATCH, shuffle=True)
    return lambda: sum(len(x_BCHW) for x_BCHW, _ in loader)


def _jpegs(folder: Path, count: int) -> list[Path]:
    """JPEG files of about the size and weight of Caltech-101's (300 x 200 pixels, 25 kB): smooth noise."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (25, 38, 3), dtype=np.uint8)).resize((300, 200), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (200, 300, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{index}.jpg", quality=88)
    return [folder / f"{index}.jpg" for index in range(count)]


if __name__ == "__main__":
    sys.exit(main())
