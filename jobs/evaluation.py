"""A network on its device with its data, evaluated: what training and testing share.

Shapes: B images of one rank's share of a batch.
"""

import numpy as np
import torch
from torch.nn import functional as F

from jobs import data, frozen, predictions
from jobs.augment import Batcher
from jobs.config import Config
from jobs.contract import Context
from jobs.ranks import add_up, gather

EVAL_SLICE = 512
"""Images evaluated at once at most, divided by `Context.accumulate`; a fixed number, so that sums are added in the same order whatever
the batch size."""


class Evaluation:
    """A model on its device with its data: what training and testing share."""

    def __init__(self, context: Context, *, config: Config, splits: data.Splits, model: torch.nn.Module):
        self.context, self.config, self.splits = context, config, splits
        dtype = torch.float64 if config.precision == "fp64" else torch.float32
        self.device = torch.device(context.device)
        self.model = model.to(device=self.device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        self.batcher = Batcher(splits, config, self.device, dtype)

    def autocast(self) -> torch.autocast:
        """The precision of a forward pass."""
        return torch.autocast(self.device.type, dtype=self._low, enabled=self._low is not None)

    @property
    def eval_slice(self) -> int:
        """Images at once where nothing is trained: where a share of a batch does not fit, EVAL_SLICE of them might not either."""
        return max(1, EVAL_SLICE // self.context.accumulate)

    @torch.inference_mode()
    def evaluate(self, samples: np.ndarray, network: torch.nn.Module | None = None,
                 batches: Batcher | frozen.Features | None = None, said: list[torch.Tensor] | None = None) -> tuple[float, float]:
        """Mean loss and accuracy over `samples`, each counted once: rank r takes every `ranks`-th, from r on.

        Args:
            network, batches: The part of the model to run and what it reads; by default the whole and images.
            said: Gets the classes that the network names for this rank's samples, some (B,) at a time.
        """
        network = self.model if network is None else network  # `or` would ask a Sequential for its length
        batches = batches or self.batcher
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        mine = samples[self.context.rank::self.context.ranks]
        for start in range(0, len(mine), self.eval_slice):
            x_B, y_B = batches.plain(mine[start:start + self.eval_slice])
            with self.autocast():
                logits = network(x_B)
            loss = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), y_B, reduction="sum")
            sums += sums_of(loss, logits, y_B)
            if said is not None:
                said.append(logits.argmax(1))
        loss_sum, correct, images = add_up(sums, self.context.ranks).tolist()
        return loss_sum / images, correct / images

    def test(self) -> dict[str, float]:
        """Opens the test split: its loss and accuracy with the weights that the model has now, whose predictions are kept."""
        if self.context.rank == 0:
            self.context.opening_test()
        said: list[torch.Tensor] = []
        samples = self.splits.test
        loss, accuracy = self.evaluate(samples, said=said)
        predicted = self._of_all_ranks(said, len(samples))
        if self.context.rank == 0:
            self.context.fence()
            predictions.save(self.context.folder, images=samples, labels=self.splits.labels[samples], predicted=predicted,
                             class_names=self.splits.class_names)
        return {"test_loss": loss, "test_acc": accuracy}

    def _of_all_ranks(self, said: list[torch.Tensor], count: int) -> np.ndarray:
        """(count,): what `evaluate` gave each rank, in the order of the samples. All ranks call it."""
        ranks = self.context.ranks
        padded = torch.full((-(-count // ranks),), -1, device=self.device)  # the ranks have as many each, or one more
        mine = torch.cat([padded[:0], *said])
        padded[:len(mine)] = mine
        return gather(padded, ranks).T.reshape(-1)[:count].cpu().numpy()


def sums_of(loss_sum: torch.Tensor, logits: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
    """(3,) float64: summed loss, correct answers and number of images of a batch, on its device."""
    return torch.stack([loss_sum.double(), (logits.argmax(1) == y_B).sum().double(),
                        loss_sum.new_full((), len(y_B), dtype=torch.float64)])
