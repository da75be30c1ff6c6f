"""One step of K trainings at once: their batches, their dropout masks, one forward and backward pass, one optimizer step.

The loss that is differentiated is the sum of the K mean losses, so that each network's gradient is that of its own. Everything random is
what the training alone would draw: the order of the images and their changes by (seed, epoch), dropout by (seed, epoch, step).

Letters in tensor names: K networks, B batch, C channels, H height, W width, N classes.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs import accelerate, data, models
from jobs.augment import Batcher
from jobs.config import Config
from jobs.fused_layers import FusedDropout, Unfusable, inputs, together
from jobs.fused_optim import FUSED_OPTIMIZERS
from jobs.training import Training, seed_of, seed_torch

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-2, "bf16": 1e-1}
"""How far the fused logits may be from those of each network alone, as a share of the largest of them: rounding stays far below
(a GPU multiplies fp32 with 10 bits in TF32), while a wrong dropout mask or channel is about 1."""


class FusedBatcher(Batcher):
    """A `Batcher` that can also make the batches of several trainings at once, at the launches of one; image i of the k-th of K trainings
    has the number k * N + i, and with it random numbers of its own, while all of them look at the same N images."""

    def __init__(self, splits: data.Splits, config: Config, device: torch.device, dtype: torch.dtype):
        super().__init__(splits, config, device, dtype)
        self._seeds: tuple[int, ...] = ()
        self._own_labels = self._labels

    def serve(self, seeds: Sequence[int]) -> None:
        """The trainings' seeds."""
        self._seeds, self._drawn, self._draws = tuple(seeds), None, {}
        self._labels = self._own_labels.repeat(len(seeds))

    def raw_fused(self, samples_KB: np.ndarray) -> tuple[Tensor, ...]:
        """What `made` takes to make x (K * B, C, H, W) and y (K * B,), as each training's `Batcher.train` makes them."""
        index, *images = self.raw(samples_KB.reshape(-1))
        trainings, batch = samples_KB.shape
        offset_K1 = torch.arange(trainings, device=index.device)[:, None] * len(self._own_labels)
        return (index.view(trainings, batch) + offset_K1).view(-1), *images

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        drawn = [super(FusedBatcher, self)._draw(own, epoch) for own in self._seeds]
        return {name: torch.cat([draws[name] for draws in drawn]) for name in drawn[0]}

    def _resident(self, index_B: Tensor) -> Tensor:
        return super()._resident(index_B % len(self._own_labels))


class Program:
    """The trainings as one program. While it exists, their models and optimizers are parts of it: each step changes them in place.

    Args:
        trainings: All at the same step of the same epoch.
        proven: whether these and others were one program before; else the networks are tried before the first step.

    Raises:
        Unfusable: their networks cannot be trained as one.
    """

    def __init__(self, trainings: Sequence[Training], batcher: FusedBatcher, *, proven: bool = False):
        self.trainings, self._batcher = list(trainings), batcher
        first = trainings[0]
        self._config, self._splits, self.device = first.config, first.splits, first.device
        self.look_every = 1 if self.device.type == "cpu" else 50
        """Steps from one look at `diverged` to the next, as in `Training`."""
        self.network, blocks, memory = together([training.model for training in trainings])
        self._parameters = list(self.network.parameters())
        self._optimizer = FUSED_OPTIMIZERS[self._config.optimizer]([training.optimizer for training in trainings], blocks, memory)
        self._dropouts: list[tuple[FusedDropout, Tensor]] = []
        """The dropout layers in the order they run, each with ones of the shape and memory layout of its input in one network."""
        steps = first.steps * (self._config.epochs - first.progress.epoch)
        self._graph: accelerate.GraphedStep | None = None
        self._wants_graph = accelerate.graph_is_worth_it(device=first.context.device, size=self._splits.size, ranks=1, accumulate=1,
                                                         precision=self._config.precision, steps=steps)
        batcher.serve([training.trial.seed for training in trainings])
        self.waited_s = 0.0
        """Time since `begin` in which batches were made."""
        self.begin(first.progress.epoch + 1)
        self._try(proven=proven)

    def begin(self, epoch: int) -> None:
        """Before the steps of an epoch, or the rest of them."""
        self.network.train()
        self.waited_s = 0.0
        if self._optimizer.read_numbers():
            self._graph = None  # it would go on with the old ones
        self._epoch, train = epoch, self._splits.train
        self._order_KN = np.stack([train[data.epoch_order(len(train), training.trial.seed, epoch)] for training in self.trainings])
        self.sums_K3 = torch.stack([training.progress.sums.to(self.device) for training in self.trainings])
        """Each training's loss, correct answers and images of the epoch under way."""

    def step(self, number: int) -> None:
        """Trains the step of this number, counted from 0, of the epoch begun."""
        asked = time.perf_counter()
        raw = self._raw(number)
        self.waited_s += time.perf_counter() - asked
        self._draw_masks(number)
        if self._wants_graph and self._graph is None:
            self._record(raw)
        self.sums_K3 += self._graph(*raw) if self._graph else self._whole_step(*raw)

    def _record(self, raw: tuple[Tensor, ...]) -> None:
        try:
            self._graph = accelerate.GraphedStep(self._whole_step, raw, model=self.network, optimizer=self._optimizer)
        except RuntimeError as error:
            print(f"a step of these networks cannot be recorded as a CUDA graph, so each kernel is launched: {error}", flush=True)
            self._wants_graph = False

    def _whole_step(self, *raw: Tensor) -> Tensor:
        """A step from `FusedBatcher.raw_fused` to the new parameters, in nothing but work of the device; (K, 3) as `sums_K3`."""
        x_KB, y_KB = self._batcher.made(*raw)
        y_BK = y_KB.view(len(self.trainings), -1).t()
        with self.trainings[0].autocast():
            logits: Tensor = self.network(self._side_by_side(x_KB))
        loss_K, correct_K = _losses(logits, y_BK)
        self._optimizer.advance(torch.autograd.grad(loss_K.sum() / self._config.batch_size, self._parameters))
        return torch.stack([loss_K.detach().double(), correct_K.double(), torch.full_like(loss_K, len(y_BK)).double()], 1)

    def diverged(self) -> list[Training]:
        """The trainings whose loss is not finite any more."""
        return [training for training, fine in zip(self.trainings, torch.isfinite(self.sums_K3[:, 0]).tolist(), strict=True) if not fine]

    def hand_out(self) -> None:
        """Tells every training's progress the sums so far; parameters and optimizers are theirs at any time."""
        for training, sums in zip(self.trainings, self.sums_K3, strict=True):
            training.progress.sums = sums.clone()

    def _raw(self, number: int) -> tuple[Tensor, ...]:
        """What `_whole_step` takes for a step; says which images come next."""
        size = self._config.batch_size
        self._batcher.draw(0, self._epoch)
        raw = self._batcher.raw_fused(self._order_KN[:, number * size:(number + 1) * size])
        following = self._order_KN[:, (number + 1) * size:(number + 2) * size]
        if following.shape[1] == size:
            self._batcher.expect(following.reshape(-1))
        return raw

    def _side_by_side(self, x_KB: Tensor) -> Tensor:
        """(K * B, C, H, W) -> (B, K * C, H, W), channels last in memory."""
        x_KBCHW: Tensor = inputs(self.trainings[0].model, x_KB).unflatten(0, (len(self.trainings), -1))
        return x_KBCHW.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)

    def _draw_masks(self, step: int) -> None:
        """The masks that each training alone would draw in this step, for all dropout layers: its generator seeded as it would be, its
        layers in the order they run, each drawn by torch's own dropout over a tensor that lies in memory as the layer's input does."""
        if not any(rate for layer, _ in self._dropouts for rate in layer.rates):
            return
        masks: list[list[Tensor]] = [[] for _ in self._dropouts]
        for place, training in enumerate(self.trainings):
            seed_torch(seed_of(training.trial.seed, self._epoch, step, 0), training.context.device)
            for (layer, ones), found in zip(self._dropouts, masks, strict=True):
                found.append(F.dropout(ones, layer.rates[place]))
        for (layer, _), found in zip(self._dropouts, masks, strict=True):
            layer.mask = torch.cat(found, 1, out=layer.mask)  # in the memory of the last one, where a captured graph reads it

    @torch.no_grad()
    def _try(self, *, proven: bool) -> None:
        """Computes the logits of a batch by each network alone and by the program, in training mode, and compares them, unless that is
        `proven` already; the networks are left as they were. Notes the dropout layers on the way."""
        x_KB, _ = self._batcher.made(*self._raw(0))
        many = len(self.trainings)
        tried = self.trainings[:1] if proven else self.trainings
        with _unchanged(self.network):
            alone = [self._alone(training, x_B) for training, x_B in zip(tried, x_KB.chunk(many), strict=False)]
        if proven:
            return
        alone_KBN = torch.stack(alone)
        self._draw_masks(0)
        try:
            with _unchanged(self.network), self.trainings[0].autocast():
                logits = self.network(self._side_by_side(x_KB))
            fused_KBN = logits.view(-1, many, alone_KBN.shape[2]).transpose(0, 1).to(alone_KBN.dtype)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise Unfusable(f"with the channels of {many} networks it fails: {error}") from error
        off_K = (fused_KBN - alone_KBN).abs().amax((1, 2)) / alone_KBN.abs().amax((1, 2)).clamp(min=1e-3)
        if bool((off_K > TOLERANCE[self._config.precision]).any()):  # a network that has diverged gives nan, which is no difference
            raise Unfusable(f"its logits are off by {float(off_K.nan_to_num().max()):.2g} of the largest")

    def _alone(self, training: Training, x_BCHW: Tensor) -> Tensor:
        """The logits of one network in training mode; the dropout layers of the first one are noted as they run."""
        ran: list[tuple[FusedDropout, Tensor]] = []
        names: dict[nn.Module, str] = {layer: name for name, layer in training.model.named_modules() if isinstance(layer, nn.Dropout)}

        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            fused = self.network.get_submodule(names[layer])
            assert isinstance(fused, FusedDropout)
            ran.append((fused, torch.ones_like(given[0])))

        hooks = [layer.register_forward_pre_hook(note) for layer in names]
        seed_torch(seed_of(training.trial.seed, self._epoch, 0, 0), training.context.device)
        models.set_train(training.model, self._config.freeze)
        try:
            with training.autocast():
                logits = training.model(x_BCHW)
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise Unfusable("its output is no (batch, classes)")
        if len({layer for layer, _ in ran}) < len(ran):
            raise Unfusable("a dropout layer runs more than once")
        if training is self.trainings[0]:
            self._dropouts = ran
        return logits


@contextlib.contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Puts the statistics of batch norm back at the end."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


def _losses(logits: Tensor, y_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss and correct answers of each network's batch."""
    logits_BKN = logits.view(*y_BK.shape, -1)
    exact = logits_BKN if logits.dtype == torch.float64 else logits_BKN.float()
    loss_BK = F.cross_entropy(exact.flatten(0, 1), y_BK.flatten(), reduction="none").view(y_BK.shape)
    return loss_BK.sum(0), (logits_BKN.argmax(2) == y_BK).sum(0)
