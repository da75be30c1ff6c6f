"""A frozen backbone runs once: what it makes of every image is kept, and the epochs train the classifier alone.

That holds where nothing random happens to an image before the classifier: no augmentation, and no dropout upstream that is switched on.
Whether it holds is not read from a list of networks but tried on a few images. Training on the kept features is training of the whole
network up to rounding, at the price of the classifier: a ResNet-50 costs 24 GFLOP an image and epoch, its last layer 0.0006.
"""

import numpy as np
import torch
from torch import Tensor, nn

from jobs.augment import Batcher
from jobs.config import Config
from jobs.models import classifier, set_train
from jobs.ranks import add_up, gather

LIMIT_GB = 4.0
"""Features of more than this are not kept in the memory of the host; on a GPU at most a quarter of what is free."""
_TRIED = 8


class Features:
    """Batches of features in place of images; like `jobs.augment.Batcher` where a trial without augmentation looks at one.

    Args:
        features_ND: One row per image that `rows` names, on the device.
        row_of: int64, index of an image -> its row, -1 where there is none.
        batcher: Has the labels.
    """

    def __init__(self, features_ND: Tensor, row_of: np.ndarray, batcher: Batcher):
        self._features_ND, self._row_of, self._batcher = features_ND, row_of, batcher

    def plain(self, sample_indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (B, ...) and labels (B,) of the images."""
        rows_B = torch.from_numpy(self._row_of[sample_indices]).to(self._features_ND.device)
        return self._features_ND[rows_B], self._batcher.labels(sample_indices)

    def train(self, sample_indices: np.ndarray, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """The same: nothing random happens to them."""
        return self.plain(sample_indices)

    def expect(self, sample_indices: np.ndarray) -> None:
        """Nothing has to be fetched ahead."""


class _Reached(Exception):
    """The classifier was about to run."""


def _before_classifier(model: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What `model` gives its classifier."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0])
        raise _Reached

    hook = classifier(model).register_forward_pre_hook(stop)
    try:
        model(x_BCHW)
    except _Reached:
        return found[0]
    finally:
        hook.remove()
    raise RuntimeError(f"{type(model).__name__} never called its classifier")


@torch.no_grad()  # not inference_mode: training goes on from these
def keep(model: nn.Module, batcher: Batcher, config: Config, images: np.ndarray, *, slices: int, rank: int, ranks: int,
         autocast: torch.autocast) -> Features | None:
    """The features of `images`, or None where the backbone has to run at every step.

    Slices of fixed size are dealt out to the ranks, so that the features do not depend on how many there are; every rank calls this.

    Args:
        images: Indices of all images that training and validation look at.
        slices: Images that go through the backbone at once.
    """
    if config.freeze != "backbone" or config.augment != "none":
        return None
    with autocast:
        x_BCHW, _ = batcher.plain(images[:_TRIED])
        row = _tried(model, config, x_BCHW)
        fits = row is not None and _fits(len(images) * row.numel() * row.element_size(), row.device)
        if row is None or add_up(torch.tensor(float(fits), device=row.device), ranks) < ranks:  # the ranks' GPUs may differ
            return None
        model.eval()
        parts = [images[start:start + slices] for start in range(0, len(images), slices)]
        mine = {i: _before_classifier(model, batcher.plain(parts[i])[0]) for i in range(rank, len(parts), ranks)}
        rounds = []
        for first in range(0, len(parts), ranks):  # equal shapes on all ranks: the last slices are filled up
            share = mine.get(first + rank, row.new_empty(0, *row.shape))
            filled = torch.cat([share, row.new_zeros(slices - len(share), *row.shape)])
            rounds += [whole[:len(part)] for whole, part in zip(gather(filled, ranks), parts[first:first + ranks], strict=False)]
    row_of = np.full(int(images.max()) + 1, -1, dtype=np.int64)
    row_of[images] = np.arange(len(images))
    return Features(torch.cat([part.to(x_BCHW.device) for part in rounds]), row_of, batcher)


def _tried(model: nn.Module, config: Config, x_BCHW: Tensor) -> Tensor | None:
    """One image's features, if a few images show that the classifier reads nothing but them and that nothing in them is random."""
    set_train(model, config.freeze)
    drawn = [_before_classifier(model, x_BCHW) for _ in range(2)]
    model.eval()
    still = _before_classifier(model, x_BCHW)
    alone = classifier(model)(still)
    same = torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], still) and torch.equal(alone, model(x_BCHW))
    return still[0] if same else None


def _fits(size: int, device: torch.device) -> bool:
    if device.type == "cuda":
        return size < torch.cuda.mem_get_info(device)[0] / 4
    return size < LIMIT_GB * 1e9
