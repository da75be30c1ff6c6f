"""What a trained network says of each image of the test split, kept beside the trial's result: what is taken for what, and whether two
trials are wrong about the same images. A job of the user's own may keep the same; it is optional.

This module imports numpy and no torch.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs import durable

FILE = "predictions.npz"
"""Of a trial whose test split was evaluated: that of the last evaluation, as the weights of `selected.pt` have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """One row for each image of the test split."""

    images: np.ndarray
    """int32 (N,): the number of the image in the data set; the same image has the same number in every trial of that data set."""
    labels: np.ndarray
    """int32 (N,): its class, counted from 0 among those that the trial tells apart."""
    predicted: np.ndarray
    """int32 (N,): the class that the network says."""
    class_names: tuple[str, ...] = ()
    """In the order of their numbers; () where they have none."""

    @property
    def accuracy(self) -> float:
        """The share that is right: to the last bit what evaluation gives, which divides the same two whole numbers."""
        return float((self.labels == self.predicted).sum()) / len(self.labels)


def save(folder: Path, *, images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str] = ()) -> None:
    """Writes the predictions of a trial into its folder, whole, over those that were there. Equal values give equal bytes.

    To be called before the trial's metrics of the test split are returned, by one rank, after `Context.fence`. The `test_acc` that is
    returned must be the share that is right here, or the study leaves them out of its tables.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    buffer = io.BytesIO()
    columns = {name: np.asarray(values, np.int32) for name, values in (("images", images), ("labels", labels), ("predicted", predicted))}
    np.savez_compressed(buffer, class_names=np.asarray(class_names, dtype=np.str_), **columns)  # type: ignore[arg-type]
    durable.replace(folder / FILE, buffer.getvalue(), step="predictions")


def load(folder: Path) -> Predictions | None:
    """The predictions of a trial; None when it has none, or its file is damaged or holds something else. Each array has a checksum."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            images, labels, predicted, names = (file[name] for name in ("images", "labels", "predicted", "class_names"))
    except Exception:  # what is no whole zip file of arrays makes numpy and zipfile raise a dozen kinds, some of neither
        return None
    columns = (images, labels, predicted)
    if any(column.dtype != np.int32 or column.ndim != 1 or len(column) != len(images) or not len(column) for column in columns):
        return None
    if names.dtype.kind != "U" or names.ndim != 1 or min(labels.min(), predicted.min()) < 0:
        return None
    return Predictions(images=images, labels=labels, predicted=predicted, class_names=tuple(map(str, names)))
