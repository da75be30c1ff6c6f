"""Trains one config with one seed, on one process or several, the same code.

A killed run that is started again in the same folder ends with the same numbers, to the last bit on the same hardware: the order
of the data is a function of (seed, epoch), augmentation of (seed, epoch, sample), dropout of (seed, epoch, step, rank), and
checkpoints hold everything else. Where `Context.accumulate` differs between the two, the numbers differ as `Training.step` says.

Shapes: B images of one rank's share of a batch, C channels, H height, W width.
"""

import contextlib
import copy
import dataclasses
import importlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from jobs import accelerate, checkpoint, data, durable, frozen, models, optim
from jobs.augment import Batcher
from jobs.config import Config, ConfigError, Trial
from jobs.contract import Context, Interrupted, Outcome
from jobs.evaluation import Evaluation, sums_of
from jobs.hardware import check_precision, gpu_name, keep_memory, peak_memory_gb
from jobs.ranks import Agreement, add_up, gather, in_parallel
from jobs.weights import load_selected

SELECTED = "selected.pt"
"""File of a trial that is over: the weights of its selected epoch."""
SAVE_SHARE = 20
"""The next checkpoint waits at least this many times as long as writing the last one took: 5 % of the time at most."""


def run(trial: Trial, context: Context) -> Outcome:
    """Trains to the budget; when the trial is over, selects an epoch, evaluates the test split if asked, and returns the result.

    Raises:
        ConfigError: parameters that do not fit each other or the data.
        DataError, WeightsError: files that are missing or damaged.
        Interrupted: `context.stop` said so; the progress is kept.
        Superseded: `context.fence` said so.
    """
    config, splits = prepare(trial, context)
    check_batch(config, ranks=context.ranks, train_images=len(splits.train))
    seed_torch(seed_of(trial.seed), context.device)
    try:
        model = models.build(config, classes=splits.classes, channels=splits.channels, size=splits.size, weights_file=context.weights_file)
    except models.Infeasible as error:
        return Outcome(status="infeasible", reason=str(error))
    return Training(trial, context, config=config, splits=splits, model=model).run()


def test(trial: Trial, context: Context) -> dict[str, float]:
    """Evaluates the test split of a trial that is over, with the weights that its training kept; all ranks call it.

    Returns:
        "test_loss" and "test_acc", with as many ranks to the last bit what training with `trial.test` would have returned.

    Raises:
        DataError: files that are missing or damaged.
        WeightsError: the trial's selected.pt is not there, damaged, or another network's.
    """
    config, splits = prepare(trial, context)
    config = dataclasses.replace(config, weights="none", weights_digest="")  # where training started is all in what it kept
    model = models.build(config, classes=splits.classes, channels=splits.channels, size=splits.size)
    evaluation = Evaluation(context, config=config, splits=splits, model=model)
    load_selected(evaluation.model, context.folder / SELECTED)  # once the model has the precision of what it copies
    return evaluation.test()


def prepare(trial: Trial, context: Context) -> tuple[Config, data.Splits]:
    """The trial's parameters and data, and torch set to compute the same again.

    Raises:
        ConfigError, DataError: as `run`.
    """
    config = Config.from_dict(trial.config)
    _set_up(context.device)
    check_precision(config, torch.device(context.device))
    return config, data.load(config, context.data)


def check_batch(config: Config, *, ranks: int, train_images: int) -> None:
    """Raises ConfigError when the global batch cannot be cut for the ranks or filled from the training images."""
    if train_images < ranks:
        raise ConfigError([("train_images", f"{ranks} ranks have only {train_images} training images between them; each needs one")])
    if config.batch_size % ranks:
        raise ConfigError([("batch_size", f"batch_size {config.batch_size} cannot be shared evenly by {ranks} ranks")])
    if config.batch_size > train_images:
        raise ConfigError([("batch_size", f"batch_size {config.batch_size} is larger than the training split of {train_images} images")])


def seed_of(*parts: int) -> int:
    """One 63-bit seed from several whole numbers, the same on every machine."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_torch(seed: int, device: str) -> None:
    """Seeds the generators that one trial draws from. `torch.manual_seed` would also leave a call and its traceback for every GPU
    that is never used: 0.2 ms and some memory at each step."""
    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def warm_up(configs: Iterable[Mapping[str, Any]]) -> None:
    """Loads what the trials of these configs import, without computing anything; a worker calls it once, before it forks for them."""
    for name in ("numpy.ma", "torch.utils.serialization.config"):  # np.unique and torch.save look them up: every trial would import them
        importlib.import_module(name)
    one_of_each = {config["model"]: config for config in configs}
    for config in one_of_each.values():
        with contextlib.suppress(ConfigError):
            models.warm_up(Config.from_dict(config))


def _set_up(device: str) -> None:
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, without its import of the compiler (1.6 s)
    keep_memory()
    # Else every new tensor is filled with NaN first: up to a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = False  # it would choose kernels by their time, and a resumed run might choose others
        torch.set_float32_matmul_precision("high")  # TF32, as torch's convolutions do by default
        torch.cuda.set_device(device)


@dataclass(kw_only=True)
class Progress:
    """How far a training has come; all of it is in a checkpoint."""

    epoch: int = 0
    """Whole epochs done."""
    step: int = 0
    """Steps done of the next epoch."""
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    """This rank's loss, correct answers and images of the epoch under way."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One row per epoch done."""
    best_epoch: int | None = None
    """The epoch with the best metric so far, counted from 1."""
    best_model: dict[str, Any] | None = None
    """The model's state then, kept when the trial's result is the best epoch."""


class Training(Evaluation):
    """That with an optimizer and its progress."""

    def __init__(self, trial: Trial, context: Context, *, config: Config, splits: data.Splits, model: torch.nn.Module):
        models.freeze(model, config.freeze)
        super().__init__(context, config=config, splits=splits, model=model)
        self.trial = trial
        self.optimizer = optim.build_optimizer(config, self.model.parameters())
        self.schedule = optim.build_schedule(config, self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.agreement = Agreement(context.ranks, context.device)
        self.progress = Progress()
        self.steps = len(splits.train) // config.batch_size  # the rest is left out, so that every step has the same shape
        self.last_save, self.save_took = time.monotonic(), 0.0
        self._restore()
        self.waited_s = 0.0
        """Time of the epoch under way in which nothing could be computed for want of a batch."""
        self._graph: accelerate.GraphedStep | None = None
        self._wants_graph = False
        features = None if self._is_over() else frozen.keep(
            self.model, self.batcher, config, np.concatenate([splits.train, splits.val]), slices=self.eval_slice, rank=context.rank,
            ranks=context.ranks, autocast=self.autocast())
        self.network: torch.nn.Module = models.classifier(self.model) if features else self.model
        """What is trained: the model, or its classifier alone where its features are kept."""
        self.batches: Batcher | frozen.Features = features or self.batcher
        self.parallel = self._fast(self.network)

    def _fast(self, network: torch.nn.Module) -> Any:
        """What trains `network`: over all ranks, compiled, recorded as a graph, or just itself."""
        context, config, size = self.context, self.config, self.splits.size
        if context.ranks > 1:
            network = in_parallel(network, self.device, same_every_step=context.accumulate == 1)
        steps = self.steps * (config.epochs - self.progress.epoch)
        if self.device.type != "cuda" or network is not self.model:
            return network
        if accelerate.graph_is_worth_it(device=context.device, size=size, ranks=context.ranks, accumulate=context.accumulate,
                                        precision=config.precision, steps=steps):
            accelerate.make_capturable(self.optimizer)
            self._wants_graph = True
        elif size > accelerate.SMALL_PX:
            flop = accelerate.flop_per_image(self.model, channels=self.splits.channels, size=size)
            if accelerate.compile_is_worth_it(device=context.device, size=size, accumulate=context.accumulate, flop_per_image=flop,
                                              images=steps * config.batch_size):
                return accelerate.compiled(network)
        return network

    def run(self) -> Outcome:
        """Trains to the budget or until patience ends; a trial that is over then gets its selected epoch evaluated."""
        progress, budget = self.progress, self.config.epochs
        if self.trial.budget is not None:
            budget = min(budget, self.trial.budget)
        while progress.epoch < budget and not self._is_over():
            started, first_step, self.waited_s = time.monotonic(), progress.step, 0.0
            problem = self._train_epoch()
            if problem:
                return self.infeasible(problem)
            images, trained_s = (self.steps - first_step) * self.config.batch_size, time.monotonic() - started
            if outcome := self.end_epoch(images=images, trained_s=trained_s):
                return outcome
            self._save_when_due()
        if not self._is_over():
            self._save()  # a larger budget goes on from here
            return Outcome(status="done", epoch=self._selected(), rows=progress.rows, finished=False)
        return self._outcome()

    def infeasible(self, reason: str) -> Outcome:
        """The outcome of a training that cannot go on."""
        return Outcome(status="infeasible", reason=reason, epoch=self._selected(), rows=self.progress.rows)

    def end_epoch(self, *, images: int, trained_s: float) -> Outcome | None:
        """Evaluates and reports the epoch whose steps are done; the outcome if that makes the trial infeasible.

        Args:
            images: how many were trained on in `trained_s` seconds, since the epoch was begun or gone on with.
        """
        started = time.monotonic()
        row = self._finish_epoch()
        if not math.isfinite(row["val_loss"]):
            return self.infeasible(f"validation loss is {row['val_loss']} after epoch {row['epoch']}")
        self._account(row)
        if self.context.rank == 0:
            trained_s = max(trained_s, 1e-9)
            self.context.report({**row, "seconds": trained_s + time.monotonic() - started, "images_per_s": images / trained_s,
                                 "data_wait": min(1.0, self.waited_s / trained_s), "peak_memory_gb": peak_memory_gb(self.device),
                                 "gpu": gpu_name(self.device)})
        return None

    def _is_over(self) -> bool:
        """Whether no budget would make it train on: all epochs are done, or patience has ended."""
        patience, best, epoch = self.config.patience, self.progress.best_epoch, self.progress.epoch
        return epoch >= self.config.epochs or bool(patience and best and epoch - best >= patience)

    def _train_epoch(self) -> str | None:
        """The rest of the epoch under way; returns why the trial is infeasible, if it is."""
        progress, context, config = self.progress, self.context, self.config
        epoch = progress.epoch + 1
        order = self.splits.train[data.epoch_order(len(self.splits.train), self.trial.seed, epoch)]
        models.set_train(self.model, config.freeze)
        progress.sums = progress.sums.to(self.device)
        look_every = 1 if self.device.type == "cpu" else 50  # reading the loss makes a GPU wait
        shares = [order[first + context.rank:first + config.batch_size:context.ranks]
                  for first in range(0, self.steps * config.batch_size, config.batch_size)]
        while progress.step < self.steps:
            seed_torch(seed_of(self.trial.seed, epoch, progress.step, context.rank), context.device)
            self.step(shares[progress.step], epoch=epoch)
            progress.step += 1
            if progress.step < self.steps:
                self.batches.expect(shares[progress.step])
            look = progress.step % look_every == 0 or progress.step == self.steps
            broken = look and not math.isfinite(float(progress.sums[0]))
            stop, broken, save = self.agreement.any(context.stop(), broken, self._is_due())
            if broken:
                return f"training loss stopped being finite in epoch {epoch}, by step {progress.step} of {self.steps}"
            if stop or (save and progress.step < self.steps):
                self._save()
            if stop:
                raise Interrupted
        return None

    def step(self, samples: np.ndarray, *, epoch: int) -> None:
        """One optimizer step on this rank's share of the batch; the gradient is that of the mean over the global batch.

        The share is trained in `context.accumulate` nearly equal pieces, or fewer: a piece has at least two images, as batch norm needs
        them. The sum of the pieces' gradients is the gradient of the whole up to rounding, except that batch norm normalises each piece
        by its own statistics (over all ranks) and moves the running ones once for each, and that dropout draws other masks.
        """
        if self._wants_graph and self._replayed(samples, epoch=epoch):
            return
        self.optimizer.zero_grad(set_to_none=True)
        *first, last = np.array_split(samples, max(1, min(self.context.accumulate, len(samples) // 2)))
        for piece in first:
            with self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else contextlib.nullcontext():
                self.progress.sums += self._add_gradient(*self._batch(piece, epoch=epoch))
        self.progress.sums += self._add_gradient(*self._batch(last, epoch=epoch))  # here the ranks exchange what they have added up
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _batch(self, samples: np.ndarray, *, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What `network` reads, and labels."""
        asked = time.perf_counter()
        batch = self.batches.train(samples, seed=self.trial.seed, epoch=epoch)
        self.waited_s += time.perf_counter() - asked
        return batch

    def _add_gradient(self, x_B: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        """Adds this batch's part of the global batch's gradient to the parameters'; returns its sums. Does not wait for the device."""
        with self.autocast():
            logits = self.parallel(x_B)
        loss_sum = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), y_B, reduction="sum")
        # DistributedDataParallel divides by the number of ranks; the batch is the global one.
        self.scaler.scale(loss_sum * (self.context.ranks / self.config.batch_size)).backward()
        with torch.no_grad():
            return sums_of(loss_sum, logits, y_B)

    def _replayed(self, samples: np.ndarray, *, epoch: int) -> bool:
        """Makes the step by a recorded graph; false when it cannot be recorded."""
        asked = time.perf_counter()
        self.batcher.draw(self.trial.seed, epoch)
        inputs = self.batcher.raw(samples)
        self.waited_s += time.perf_counter() - asked
        if self._graph is None:
            try:
                self._graph = accelerate.GraphedStep(self._whole_step, inputs, model=self.model, optimizer=self.optimizer)
            except RuntimeError as error:
                print(f"a step of this network cannot be recorded as a CUDA graph, so each kernel is launched: {error}", flush=True)
                self._wants_graph = False
            # What was tried drew random numbers.
            seed_torch(seed_of(self.trial.seed, epoch, self.progress.step, self.context.rank), self.context.device)
        if self._graph is None:
            return False
        self.progress.sums += self._graph(*inputs)
        return True

    def _whole_step(self, *raw: torch.Tensor) -> torch.Tensor:
        """A step from `Batcher.raw` to the new parameters, in nothing but work of the device."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = self._add_gradient(*self.batcher.made(*raw))
        self.optimizer.step()
        return sums

    def _finish_epoch(self) -> dict[str, Any]:
        """The row of the epoch whose steps are done, with the validation split evaluated."""
        loss, correct, images = add_up(self.progress.sums, self.context.ranks).tolist()
        val_loss, val_acc = self.evaluate(self.splits.val, self.network, self.batches)
        lr = accelerate.learning_rate(self.optimizer)
        if self.schedule is not None:
            self.schedule.step()
        return {"epoch": self.progress.epoch + 1, "train_loss": loss / images, "train_acc": correct / images,
                "val_loss": val_loss, "val_acc": val_acc, "lr": lr}

    def _account(self, row: dict[str, Any]) -> None:
        """Takes a finished epoch into the progress."""
        progress = self.progress
        best = progress.rows[progress.best_epoch - 1][self.trial.metric] if progress.best_epoch else None
        progress.rows.append(row)
        progress.epoch, progress.step, progress.sums = row["epoch"], 0, torch.zeros(3, dtype=torch.float64)
        if self.trial.better(row[self.trial.metric], best):
            progress.best_epoch = progress.epoch
            if self.trial.select == "best_val":
                progress.best_model = copy.deepcopy(self.model.state_dict())  # with its _metadata, which some models need

    def _selected(self) -> int | None:
        """The epoch whose row is the result."""
        if self.trial.select == "last":
            return self.progress.epoch or None
        return self.progress.best_epoch

    def _outcome(self) -> Outcome:
        """Puts the selected epoch's weights into the model, keeps them as selected.pt and evaluates the test split if asked."""
        progress = self.progress
        if self.trial.select == "best_val" and progress.best_model is not None:
            self.model.load_state_dict(progress.best_model)
        numbers = self.test() if self.trial.test else {}
        if self.context.rank == 0:
            self.context.fence()
            state = {name: value.cpu() for name, value in self.model.state_dict().items()}
            durable.replace(self.context.folder / SELECTED, checkpoint.to_bytes({"model": state}), step="selected")
        return Outcome(status="done", epoch=self._selected(), rows=progress.rows, test=numbers)

    def _is_due(self) -> bool:
        return self.context.rank == 0 and time.monotonic() - self.last_save >= max(self.context.checkpoint_s, SAVE_SHARE * self.save_took)

    def _save_when_due(self) -> None:
        """At the end of an epoch: saves when it is time, stops when asked to."""
        stop, save = self.agreement.any(self.context.stop(), self._is_due())
        if stop or save:
            self._save()
        if stop:
            raise Interrupted

    def _save(self) -> None:
        """Writes a checkpoint; every rank calls it, rank 0 writes."""
        started, progress = time.monotonic(), self.progress
        sums = gather(progress.sums.to(self.device), self.context.ranks)
        if self.context.rank == 0:
            self.context.fence()
            state = {"made_by": self._made_by(), "model": self.model.state_dict(), "optimizer": accelerate.plain_state(self.optimizer),
                     "schedule": self.schedule.state_dict() if self.schedule else {}, "scaler": self.scaler.state_dict(),
                     "sums": sums, "epoch": progress.epoch, "step": progress.step, "rows": progress.rows,
                     "best_epoch": progress.best_epoch, "best_model": progress.best_model}
            checkpoint.save(self.context.folder, state, epoch=progress.epoch, step=progress.step)
        self.last_save = time.monotonic()
        self.save_took = self.last_save - started

    def _made_by(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to give the same numbers as going on without it."""
        asked = {name: getattr(self.trial, name) for name in ("seed", "metric", "mode", "select")}
        return {"config": dict(self.trial.config), **asked, "ranks": self.context.ranks,
                "torch": torch.__version__.split("+")[0]}

    def _restore(self) -> None:
        """Goes on from the newest checkpoint, if there is one that this training could have written."""
        state, notes = checkpoint.load(self.context.folder, str(self.device))
        for note in notes:
            print(note, flush=True)
        if state is None:
            return
        if state["made_by"] != self._made_by():
            print(f"the checkpoint was made by {state['made_by']}, not by {self._made_by()}: training starts anew", flush=True)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(epoch=state["epoch"], step=state["step"], sums=state["sums"][self.context.rank], rows=state["rows"],
                                 best_epoch=state["best_epoch"], best_model=state["best_model"])
