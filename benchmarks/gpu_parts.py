"""What the GPU benchmark measures, one function each; each runs in a process of its own and returns plain values.

A rate is images per second over whole epochs of a training that goes on until its time is up: `speeds` of the steps alone (what
`jobs.train` reports), `whole` from one epoch's report to the next, so with validation and all that an epoch costs. The first epoch is left
out: recording a graph, choosing kernels and filling caches are in it. Of several trials at once the rates are those of all together.

Letters in tensor names: K networks, B batch, C channels, H height, W width.
"""

import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import made_data
from benchmarks.training_sides import Task, dataloaders
from jobs import accelerate, augment, data, models
from jobs.config import Config, Trial
from jobs.contract import Context, Interrupted, Outcome
from jobs.train import run, run_fused

Numbers = dict[str, Any]
MEETING_S = 240
"""Within which all of several processes must have come to the end of their first epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What is trained, on what, for how long."""

    config: dict[str, Any]
    root: Path
    folder: Path
    """Empty, for the trials' files."""
    device: str
    seconds: float
    """After the first epoch."""


def make_data(config: dict[str, Any], root: Path, copies: int = 1) -> Numbers:
    """Makes and caches the images of a config; of JPEG files so many hard links each, as making them takes longer than training on them."""
    count = config["train_images"]
    if config["dataset"] == "caltech101":
        made_data.caltech101(root, count=round(count * 1.4 / copies))
        for path in list(root.rglob("*.jpg")):
            for copy in range(1, copies):
                os.link(path, path.with_name(f"{path.stem}_{copy}.jpg"))
    else:
        make = {"fashion_mnist": made_data.fashion_mnist, "cifar10": made_data.cifar10}[config["dataset"]]
        make(root, train=round(count * 1.15), test=100)
    data.prepare(Config.from_dict(config), root)
    return {}


def hardware(device: str, seconds: float) -> Numbers:
    """The device and what it reaches in practice: TFLOP/s of a large bf16 (CPU: fp32) matrix product, TB/s of a copy."""
    cuda = device.startswith("cuda")
    n = 8192 if cuda else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16 if cuda else torch.float32) for _ in range(2))
    source = torch.empty(1 << (31 if cuda else 24), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s, copy_s = (_seconds_each(work, device, seconds / 2) for work in (lambda: a @ b, lambda: target.copy_(source)))
    return {"name": torch.cuda.get_device_name(device) if cuda else "CPU", "cuda": torch.version.cuda, "cpus": os.cpu_count(),
            "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9 if cuda else 0.0,
            "tflop_per_s": 2 * n**3 / product_s / 1e12, "tb_per_s": 2 * source.numel() / copy_s / 1e12}


def _seconds_each(work: Callable[[], Any], device: str, seconds: float) -> float:
    """Mean seconds of one call, over calls that fill about so many seconds."""
    for _ in range(3):
        work()
    _wait_for(device)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            work()
        _wait_for(device)
        done += 5
    return (time.perf_counter() - started) / done


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def cost(config: dict[str, Any], *, channels: int, size: int, classes: int) -> Numbers:
    """What one image costs in training: floating-point operations (torch's count of forward and backward, 2 for a multiplication with its
    addition), and bytes that move, estimated as 12 for every number that a layer puts out (bf16, six passes), as the image's bytes."""
    from torch.utils.flop_counter import FlopCounterMode

    batch, outputs = 8, 0
    with torch.device("meta"):
        model = models.build(Config.from_dict(config), classes=classes, channels=channels, size=size).to("meta")
        x_BCHW = torch.empty(batch, channels, size, size)

    def count(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal outputs
        outputs += output.numel()

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        model(x_BCHW).sum().backward()
    return {"gflop": counter.get_total_flops() / batch / 1e9, "mb": (12 * outputs / batch + channels * size * size) / 1e6}


# ---------------------------------------------------------------------------------------------------------- one at a time


class _Epochs:
    """Collects the reports of one training and stops it when its time is up."""

    def __init__(self, seconds: float, meet: Callable[[], Any] = lambda: None):
        self._seconds, self._meet = seconds, meet
        self._ends: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def report(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == 1:
            self._meet()
        self._ends.append(time.perf_counter())

    def stop(self) -> bool:
        return bool(self._ends) and time.perf_counter() - self._ends[0] > self._seconds

    def numbers(self, images: int, trials: int = 1) -> Numbers:
        """Rates of the epochs after the first (of the first where there was no other), for as many trials like this one."""
        later = self.rows[1:] or self.rows
        whole = [trials * images / (after - before) for before, after in zip(self._ends, self._ends[1:], strict=False)]
        return {"speeds": [trials * row["images_per_s"] for row in later], "whole": whole or [trials * images / self.rows[0]["seconds"]],
                "data_wait": statistics.median(row.get("data_wait", 0.0) for row in later), "first_epoch_s": self.rows[0]["seconds"],
                "peak_memory_gb": self.rows[-1]["peak_memory_gb"], "train_loss": self.rows[-1]["train_loss"]}


def _train_images(study: Study) -> int:
    config = Config.from_dict(study.config)
    return len(data.load(config, study.root).train) // config.batch_size * config.batch_size


def ours(study: Study, seed: int = 0, *, graph: bool = True, constant: bool = False, meet: Callable[[], Any] = lambda: None) -> Numbers:
    """`jobs.train`; without CUDA graphs if `graph` is false; on one batch that stays on the device if `constant`."""
    epochs = _Epochs(study.seconds, meet)
    folder = study.folder / f"ours-{seed}"
    folder.mkdir()
    if not graph:
        accelerate.graph_is_worth_it = lambda **_: False
    context = Context(folder=folder, data=study.root, report=epochs.report, stop=epochs.stop, device=study.device, checkpoint_s=1e9)
    with _constant_batch(Config.from_dict(study.config)) if constant else nullcontext(), suppress(Interrupted):
        run(Trial(config=study.config, seed=seed, test=False), context)
    return epochs.numbers(_train_images(study))


@contextmanager
def _constant_batch(config: Config) -> Iterator[None]:
    """Every training batch is the first one, made once: nothing is looked up, moved, changed or normalised."""
    batcher, held = augment.Batcher, dict[str, Any]()
    raw, made, draw, plain = batcher.raw, batcher.made, batcher.draw, batcher.plain

    def constant_raw(self: Any, samples: np.ndarray) -> Any:
        if held.get("plain") or len(samples) != config.batch_size:
            return raw(self, samples)
        if "raw" not in held:
            held["raw"] = raw(self, samples)
        return held["raw"]

    def constant_made(self: Any, *given: Any) -> Any:
        if "made" not in held:
            held["made"] = made(self, *given)
        return held["made"]

    def constant_draw(self: Any, seed: int, epoch: int) -> None:
        if "drawn" not in held:
            held["drawn"] = draw(self, seed, epoch)

    def real_plain(self: Any, samples: np.ndarray) -> Any:
        held["plain"] = True
        try:
            return plain(self, samples)
        finally:
            held["plain"] = False

    batcher.raw, batcher.made, batcher.draw, batcher.plain = constant_raw, constant_made, constant_draw, real_plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        batcher.raw, batcher.made, batcher.draw, batcher.plain = raw, made, draw, plain  # type: ignore[method-assign]


def dataloader(study: Study, workers: int) -> Numbers:
    """The usual path: DataLoader with PIL transforms and so many workers, pinned memory, the same precision, loss and accuracy read at
    every step as in torchvision's references. Steps alone; the first ones are left out."""
    config, warm_up = Config.from_dict(study.config), 10
    task = Task(config=study.config, seed=0, root=study.root, folder=study.folder, workers=workers)
    loader = dataloaders(task, pin_memory=study.device.startswith("cuda"), persistent_workers=workers > 0)[0]
    model = task.network().to(study.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    criterion = torch.nn.CrossEntropyLoss()
    speeds, steps, began = [], 0, time.perf_counter()
    torch.backends.cudnn.benchmark = True
    while True:
        for x_BCHW, y_B in loader:
            x_BCHW, y_B = (tensor.to(study.device, non_blocking=True) for tensor in (x_BCHW, y_B))
            with _autocast(study):
                logits = model(x_BCHW)
                loss = criterion(logits, y_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), (logits.argmax(1) == y_B).float().mean().item()
            steps += 1
            if steps == warm_up:
                began, counted = time.perf_counter(), steps
            elif steps > warm_up and time.perf_counter() - began > study.seconds / 4:
                speeds.append((steps - counted) * config.batch_size / (time.perf_counter() - began))
                began, counted = time.perf_counter(), steps
                if len(speeds) == 4:
                    return {"speeds": speeds, "workers": workers}


def _low(study: Study) -> torch.dtype | None:
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(study.config.get("precision", "fp32"))


def _autocast(study: Study) -> torch.autocast:
    return torch.autocast(torch.device(study.device).type, dtype=_low(study), enabled=_low(study) is not None)


# -------------------------------------------------------------------------------------------------------- several at once


def fused(study: Study, trials: int) -> Numbers:
    """`jobs.fused`: so many trials with their own seeds and learning rates as one program."""
    epochs = _Epochs(study.seconds)
    made = [Trial(config={**study.config, "lr": study.config["lr"] * (0.5 + k / trials)}, seed=k, test=False) for k in range(trials)]
    contexts = []
    for k in range(trials):
        folder = study.folder / f"fused-{k}"
        folder.mkdir()
        last = {"report": epochs.report} if k == trials - 1 else {}
        contexts.append(Context(folder=folder, data=study.root, stop=epochs.stop, device=study.device, checkpoint_s=1e9, **last))

    def ended(number: int, outcome: Outcome) -> None:
        if outcome.status != "done":
            raise RuntimeError(f"trial {number}: {outcome.reason}")

    with suppress(Interrupted):
        run_fused(made, contexts, ended)
    return epochs.numbers(_train_images(study), trials)


def processes(study: Study, trials: int, graph: bool = True) -> Numbers:
    """So many processes of `jobs.train` on the one device, which gives them time in turns; rates from when all have begun."""
    fork = multiprocessing.get_context("fork")
    meeting, results = fork.Barrier(trials), fork.Queue()

    def one(seed: int) -> None:
        try:
            results.put(ours(study, seed, graph=graph, meet=functools.partial(meeting.wait, MEETING_S)))
        except BaseException as error:
            meeting.abort()
            results.put({"error": f"{type(error).__name__}: {error}"})
            raise

    children = [fork.Process(target=one, args=(k,)) for k in range(trials)]
    for child in children:
        child.start()
    found = [results.get(timeout=MEETING_S + 60) for _ in children]
    for child in children:
        child.join(30)
    if errors := [numbers["error"] for numbers in found if "error" in numbers]:
        raise RuntimeError(f"{len(errors)} of {trials} processes failed: {errors[0]}")
    return {**{name: [sum(statistics.median(numbers[name]) for numbers in found)] for name in ("speeds", "whole")},
            "peak_memory_gb": sum(numbers["peak_memory_gb"] for numbers in found)}


def vmapped(study: Study, trials: int) -> Numbers:
    """torch.func: so many networks stacked, their gradients by vmap, one constant batch each and SGD with momentum; batch norm without
    running statistics, as vmap needs it, and the precision by hand, as autocast fails in it. Steps alone, nothing else of a training."""
    from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap

    config = Config.from_dict(study.config)
    splits = data.load(config, study.root)
    sizes = {"classes": splits.classes, "channels": splits.channels, "size": splits.size}
    networks = [replace_all_batch_norm_modules_(models.build(config, **sizes).to(study.device)) for _ in range(trials)]
    parameters, buffers = stack_module_state(networks)
    x_BCHW, y_B = augment.Batcher(splits, config, torch.device(study.device)).plain(splits.train[:config.batch_size])
    dtype = _low(study) or torch.float32
    x_KBCHW, y_KB = x_BCHW.to(dtype).expand(trials, *x_BCHW.shape).contiguous(), y_B.expand(trials, -1).contiguous()

    def loss(parameters: Any, buffers: Any, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        low = {name: parameter.to(x_BCHW.dtype) for name, parameter in parameters.items()}
        logits = functional_call(networks[0], (low, buffers), (x_BCHW,))
        return torch.nn.functional.cross_entropy(logits.float(), y_B)

    gradients = vmap(grad(loss), randomness="different")
    values = [value.detach() for value in parameters.values()]
    momentum = [torch.zeros_like(value) for value in values]

    @torch.no_grad()
    def step() -> None:
        found = gradients(dict(zip(parameters, values, strict=True)), buffers, x_KBCHW, y_KB)
        torch._foreach_mul_(momentum, config.momentum)
        torch._foreach_add_(momentum, [found[name] for name in parameters])
        torch._foreach_add_(values, momentum, alpha=-config.lr)

    each_s = [_seconds_each(step, study.device, study.seconds / 3) for _ in range(3)]
    speeds = [trials * config.batch_size / s for s in each_s]
    return {"speeds": speeds, "whole": speeds}
