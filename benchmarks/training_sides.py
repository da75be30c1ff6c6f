"""One training by each side of the training benchmark: ours, torchvision's reference script, timm's script, on the same images.

Each function runs in a process of its own, trains the task and returns what `_Clock` measured with the accuracy on the same validation
images. All sides train our network from the same initial weights, with SGD at the same settings and the same number of steps.
`torchvision_script` and `timm_script` load the real scripts and call their own `main`; only what those could not know is put in: the
network (through the registry that each library has for that), the images, and at 28 and 32 px the studies' random crop in place of the
ImageNet crop that they are written for. `written_loop` is our own loop of the same form, for machines without the scripts.
"""

import contextlib
import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import Dataset
from torchvision import transforms

from benchmarks import report
from jobs import data, models
from jobs.config import Config, Trial
from jobs.contract import Context
from jobs.training import run, seed_of, seed_torch

NETWORK = "bench_network"
"""Name under which torchvision and timm find our network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What one side trains once."""

    config: dict[str, Any]
    seed: int
    root: Path
    """The data folder."""
    folder: Path
    """Empty, for whatever the side writes."""
    workers: int
    """Of the rivals' DataLoaders; timm's loader has one at least (its workers are persistent, which 0 cannot be)."""

    def splits(self) -> data.Splits:
        """The images with their splits, as ours has them."""
        return data.load(Config.from_dict(self.config), self.root)

    def network(self) -> torch.nn.Module:
        """The network with the weights that ours begins with."""
        splits = self.splits()
        seed_torch(seed_of(self.seed), "cpu")
        return models.build(Config.from_dict(self.config), classes=splits.classes, channels=splits.channels, size=splits.size)


class _Clock:
    """Times a training from the end of its first optimizer step to the end of its last, by torch's hook behind each step; between the
    two lies all that happens at the end of an epoch too (validation, checkpoint, log), start-up does not."""

    def __init__(self, task: Task):
        config = Config.from_dict(task.config)
        self._batch, self._steps = config.batch_size, len(task.splits().train) // config.batch_size * config.epochs
        self._done, self._began, self._ended = 0, (0.0, 0.0), (0.0, 0.0)
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._done += 1
        if self._done in (1, self._steps):
            now = (time.perf_counter(), report.cpu_s() + _live_children_s())
            self._began, self._ended = (now, now) if self._done == 1 else (self._began, now)

    def sample(self, accuracy: float) -> report.Sample:
        """What was measured.

        Raises:
            RuntimeError: another number of steps was made than the task has.
        """
        if self._done != self._steps:
            raise RuntimeError(f"{self._done} optimizer steps were made where the task has {self._steps}")
        images = (self._steps - 1) * self._batch
        wall, cpu = (after - before for before, after in zip(self._began, self._ended, strict=True))
        return {"images per second": images / wall, "images per CPU second": images / cpu, "val_acc": accuracy}


def _live_children_s() -> float:
    """CPU seconds of the child processes that still run (DataLoader's workers), from proc_pid_stat(5); 0 where there is no /proc."""
    total = 0
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):  # it ended meanwhile
                total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


class Pictures(Dataset[tuple[Any, int]]):
    """The images of one split as torchvision's data sets give them to a transform: a PIL image made of an array in memory (CIFAR10,
    FashionMNIST), or a JPEG file opened (ImageFolder). `first` comes before `transform`, which a library may set."""

    def __init__(self, task: Task, split: str, *, transform: Any = None, first: Any = None):
        splits = task.splits()
        self.samples, self.classes = getattr(splits, split), list(range(splits.classes))
        self.transform, self.first = transform, first
        self.labels = splits.labels
        self.files = _jpegs(task.root) if _of_many_sizes(splits) else []
        self.images = None if self.files else np.array(splits.images.squeeze(-1) if splits.channels == 1 else splits.images)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = int(self.samples[index])
        picture = Image.fromarray(self.images[sample]) if self.images is not None else _open(self.files[sample])
        if self.first is not None:
            picture = self.first(picture)
        return (self.transform(picture) if self.transform else picture), int(self.labels[sample])


def _jpegs(root: Path) -> list[Path]:
    """Caltech-101's files in the order in which our cache has them."""
    folders = sorted((root / "caltech101" / "101_ObjectCategories").iterdir())
    return [path for folder in folders for path in sorted(folder.iterdir())]


def _open(path: Path) -> Any:
    from torchvision.datasets.folder import default_loader

    return default_loader(str(path))


def _of_many_sizes(splits: data.Splits) -> bool:
    """Whether the images are files to be decoded and cut to one size (ImageNet's way), not an array."""
    return splits.spec.shape[0] == 0


def _random_changes(task: Task) -> list[Any]:
    """The study's crop and flip as PIL transforms; where images have many sizes, the libraries' own."""
    splits = task.splits()
    return [] if _of_many_sizes(splits) else [transforms.RandomCrop(splits.size, splits.size // 8), transforms.RandomHorizontalFlip()]


# ------------------------------------------------------------------------------------------------------------------ sides


def ours(task: Task) -> report.Sample:
    """The built-in job."""
    clock = _Clock(task)
    outcome = run(Trial(config=task.config, seed=task.seed, select="last", test=False), Context(folder=task.folder, data=task.root))
    return clock.sample(outcome.rows[-1]["val_acc"])


def torchvision_script(task: Task, scripts: Path) -> report.Sample:
    """references/classification/train.py of pytorch/vision, its `main`."""
    sys.path.insert(0, str(scripts))
    script, presets = importlib.import_module("train"), importlib.import_module("presets")
    from torchvision import datasets
    from torchvision.models._api import register_model

    splits, config = task.splits(), Config.from_dict(task.config)
    register_model(NETWORK)(lambda **_: task.network())  # the registry has no public door for networks of others
    normalise = [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float),
                 transforms.Normalize(splits.spec.mean, splits.spec.std)]
    if not _of_many_sizes(splits):
        presets.ClassificationPresetTrain = lambda **_: transforms.Compose([*_random_changes(task), *normalise])
        presets.ClassificationPresetEval = lambda **_: transforms.Compose(normalise)
    datasets.ImageFolder = lambda folder, transform: Pictures(task, Path(folder).name, transform=transform)
    evaluate, accuracies = script.evaluate, []

    def evaluate_and_note(*arguments: Any, **options: Any) -> float:
        accuracies.append(evaluate(*arguments, **options) / 100)
        return float(accuracies[-1])

    script.evaluate = evaluate_and_note
    arguments = {"data-path": task.root, "model": NETWORK, "device": "cpu", "batch-size": config.batch_size, "epochs": config.epochs,
                 "workers": task.workers, "lr": config.lr, "momentum": config.momentum, "weight-decay": config.weight_decay,
                 "output-dir": task.folder}
    clock = _Clock(task)
    script.main(script.get_args_parser().parse_args([word for name, value in arguments.items() for word in (f"--{name}", str(value))]))
    return clock.sample(accuracies[-1])


def timm_script(task: Task, scripts: Path, *extra: str) -> report.Sample:
    """train.py of huggingface/pytorch-image-models, its `main`; with the timm beside it if there is one, and `extra` options."""
    sys.path.insert(0, str(scripts))
    script = importlib.import_module("train")
    splits, config = task.splits(), Config.from_dict(task.config)
    _register_with_timm(task)
    script.create_dataset = lambda *_, split, **__: Pictures(task, split, first=_first(task, split))
    validate, accuracies = script.validate, []

    def validate_and_note(*arguments: Any, **options: Any) -> Any:
        metrics = validate(*arguments, **options)
        accuracies.append(metrics["top1"] / 100)
        return metrics

    script.validate = validate_and_note
    options = {"data-dir": task.root, "seed": task.seed, "train-split": "train", "val-split": "val", "model": NETWORK, "device": "cpu",
               "num-classes": splits.classes, "in-chans": splits.channels, "batch-size": config.batch_size, "epochs": config.epochs,
               "workers": max(1, task.workers), "opt": "momentum", "lr": config.lr, "momentum": config.momentum,
               "weight-decay": config.weight_decay, "sched": "step", "warmup-epochs": 0, "smoothing": 0, "color-jitter": 0,
               "train-interpolation": "bilinear", "interpolation": "bilinear", "crop-pct": 0.875 if _of_many_sizes(splits) else 1,
               "output": task.folder}
    lists = {"input-size": (splits.channels, splits.size, splits.size), "mean": splits.spec.mean, "std": splits.spec.std}
    sys.argv = ["train.py", *([] if _of_many_sizes(splits) else ["--no-aug"]), *extra,
                *(word for name, value in options.items() for word in (f"--{name}", str(value))),
                *(word for name, values in lists.items() for word in (f"--{name}", *map(str, values)))]
    clock = _Clock(task)
    script.main()
    return clock.sample(accuracies[-1])


def _register_with_timm(task: Task) -> None:
    from timm.models import register_model

    def build(pretrained: bool = False, **_: Any) -> torch.nn.Module:
        return task.network()

    build.__name__ = NETWORK
    register_model(build)


def _first(task: Task, split: str) -> Any:
    changes = _random_changes(task) if split == "train" else []
    return transforms.Compose(changes) if changes else None


# ------------------------------------------------------------------------------------------------- loops of the same form


def written_loop(task: Task, form: str) -> report.Sample:
    """A loop of our own: `form` "torchvision" reads loss, top-1 and top-5 accuracy at every step from DataLoader with PIL transforms,
    "timm" reads the loss at every step and has timm's own loader (`timm.data.create_loader`: batches of bytes, normalised as a whole)."""
    config, loaders = Config.from_dict(task.config), {"torchvision": dataloaders, "timm": _timm_loaders}[form](task)
    model = task.network()
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    clock, accuracy = _Clock(task), 0.0
    for _ in range(config.epochs):
        model.train()
        losses, top_1, top_5 = [], [], []
        for x_BCHW, y_B in loaders[0]:
            logits = model(x_BCHW)
            loss = criterion(logits, y_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if form == "torchvision":
                for found, k in ((top_1, 1), (top_5, 5)):
                    found.append((logits.topk(k, 1).indices == y_B[:, None]).any(1).float().mean().item())
        model.eval()
        with torch.inference_mode():
            correct = sum((model(x_BCHW).argmax(1) == y_B).sum().item() for x_BCHW, y_B in loaders[1])
        accuracy = correct / len(loaders[1].dataset)
    return clock.sample(accuracy)


def dataloaders(task: Task, **options: Any) -> tuple[Any, Any]:
    """Training and validation images in the form of torchvision's references and PyTorch's tutorials; `options` of DataLoader."""
    from torch.utils.data import DataLoader

    splits, config = task.splits(), Config.from_dict(task.config)
    many = _of_many_sizes(splits)
    normalise = [transforms.ToTensor(), transforms.Normalize(splits.spec.mean, splits.spec.std)]
    crop = [transforms.RandomResizedCrop(splits.size), transforms.RandomHorizontalFlip()] if many else _random_changes(task)
    whole = [transforms.Resize(round(splits.size * 256 / 224)), transforms.CenterCrop(splits.size)] if many else []
    train, val = (Pictures(task, split, transform=transforms.Compose([*changes, *normalise])) for split, changes in
                  (("train", crop), ("val", whole)))
    return (DataLoader(train, batch_size=config.batch_size, shuffle=True, drop_last=True, num_workers=task.workers, **options),
            DataLoader(val, batch_size=config.batch_size, num_workers=task.workers, **options))


def _timm_loaders(task: Task) -> tuple[Any, Any]:
    """Training and validation images from timm's loader with its prefetcher."""
    from timm.data import create_loader

    splits, config = task.splits(), Config.from_dict(task.config)
    many = _of_many_sizes(splits)

    def loader(split: str) -> Any:
        return create_loader(Pictures(task, split, first=_first(task, split)), input_size=(splits.channels, splits.size, splits.size),
                             batch_size=config.batch_size, is_training=split == "train", no_aug=not many, color_jitter=0.0,
                             interpolation="bilinear", mean=splits.spec.mean, std=splits.spec.std, num_workers=max(1, task.workers),
                             crop_pct=0.875 if many else 1.0, device=torch.device("cpu"))

    return loader("train"), loader("val")
