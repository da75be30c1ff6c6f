"""jobs.augment against torchvision's own transforms, and its promise that a sample's changes belong to the sample."""

import math

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.transforms import functional
from torchvision.transforms.v2 import functional as v2

from jobs.augment import Batcher, _by_matrices, boxes, crop_flip, resized_crop_flip, rotate
from jobs.config import Config
from jobs.data import Splits, random_uniforms
from jobs.datasets import DATASETS

AUGMENTS = ("none", "flip", "crop_flip", "crop_flip_rotate", "imagenet")
SETS = {"digits": (8, 8), "fashion_mnist": (28, 28), "cifar10": (32, 32), "caltech101": (73, 64)}


def make_splits(name: str = "cifar10", *, n: int = 64, size: int = 0) -> Splits:
    """Smooth random images, so that scaling is no matter of single pixels."""
    spec, (side, own) = DATASETS[name], SETS[name]
    small = torch.rand(n, spec.shape[2], 5, 5, generator=torch.Generator().manual_seed(0)) * 255
    large = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").round().clamp(0, 255).byte()
    numbers = np.arange(n)
    return Splits(images=large.permute(0, 2, 3, 1).contiguous().numpy(), labels=numbers % spec.classes, train=numbers, val=numbers[:1],
                  test=numbers[:1], classes=spec.classes, spec=spec, size=size or own, channels=spec.shape[2])


def make(splits: Splits, augment: str = "none", dtype: torch.dtype = torch.float32) -> Batcher:
    return Batcher(splits, Config(augment=augment), torch.device("cpu"), dtype)


def pixels(splits: Splits, x_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalisation undone: uint8 (B, C, H, W)."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (splits.spec.mean, splits.spec.std))
    found = (x_BCHW.double() * std + mean) * 255
    assert (found - found.round()).abs().max() < 1e-3
    return found.round().byte()


def planar(splits: Splits) -> torch.Tensor:
    return torch.from_numpy(splits.images).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------------------------ what it returns


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_and_types(name, augment, dtype):
    splits = make_splits(name, n=12)
    x_BCHW, y_B = make(splits, augment, dtype).train(np.array([3, 3, 11, 0, 7]), seed=1, epoch=2)
    assert x_BCHW.shape == (5, splits.channels, splits.size, splits.size) and x_BCHW.dtype == dtype
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert y_B.dtype == torch.int64 and y_B.tolist() == splits.labels[[3, 3, 11, 0, 7]].tolist()
    assert torch.equal(x_BCHW[0], x_BCHW[1])


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_plain_is_to_tensor_and_normalize(name):
    splits = make_splits(name)
    theirs = transforms.Normalize(splits.spec.mean, splits.spec.std)(planar(splits).double() / 255)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x_BCHW, _ = make(splits, "imagenet", dtype).plain(splits.train)
        assert torch.allclose(x_BCHW.double(), theirs, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", [5, 16, 32, 48])
def test_image_size_resizes_as_torchvision(size):
    splits = make_splits(size=size)
    theirs = functional.resize(planar(splits), [size, size], antialias=True)
    ours = pixels(splits, make(splits).plain(splits.train)[0])
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [64, 63, 73])
def test_images_of_different_sizes_are_cut_in_the_centre(size):
    splits = make_splits("caltech101", n=4, size=size)
    theirs = functional.center_crop(planar(splits), [size, size])
    assert torch.equal(pixels(splits, make(splits).plain(splits.train)[0]), theirs)


# ------------------------------------------------------------------------------------------- (seed, epoch, sample) decide all


@pytest.mark.parametrize("name, size", [("cifar10", 0), ("cifar10", 24), ("caltech101", 0), ("digits", 0)])
@pytest.mark.parametrize("augment", AUGMENTS)
def test_slicing_and_order_change_nothing(name, size, augment):
    splits = make_splits(name, size=size)
    whole, _ = make(splits, augment).train(splits.train, seed=3, epoch=5)
    order = np.random.default_rng(0).permutation(len(splits.train))
    batcher = make(splits, augment)
    batcher.train(order[:9], seed=3, epoch=4)  # another epoch before leaves no trace
    for size_of_batch in (1, 7, 64):
        for first in range(0, len(order), size_of_batch):
            part = order[first:first + size_of_batch]
            assert torch.equal(batcher.train(part, seed=3, epoch=5)[0], whole[part])


def test_more_images_in_the_data_set_change_nothing():
    few, many = make_splits(n=10), make_splits(n=64)
    for augment in AUGMENTS:
        a, b = (make(s, augment)._draw(1, 1) for s in (few, many))
        assert all(torch.equal(a[name], b[name][:10]) for name in a)


@pytest.mark.parametrize("augment", AUGMENTS[1:])
def test_seed_and_epoch_matter(augment):
    splits, batcher = make_splits(), make(make_splits(), augment)
    found = {key: batcher.train(splits.train, seed=key[0], epoch=key[1])[0] for key in ((0, 1), (0, 2), (1, 1), (1, 0))}
    tensors = list(found.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(tensors) for b in tensors[:i])
    assert torch.equal(batcher.train(splits.train, seed=0, epoch=1)[0], found[0, 1])
    assert torch.equal(batcher.plain(splits.train)[0], make(splits).plain(splits.train)[0])


# --------------------------------------------------------------------------------------------------------- pixel by pixel


def test_flip_by_hand():
    x_BHWC = torch.arange(16, dtype=torch.uint8).view(2, 2, 2, 2)
    flipped = crop_flip(x_BHWC, torch.zeros(2, 2, dtype=torch.int64), torch.tensor([True, False]), 0)
    assert flipped.flatten().tolist() == [2, 3, 0, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("name, size", [("cifar10", 0), ("fashion_mnist", 0), ("digits", 0), ("cifar10", 48)])
def test_crop_flip_is_pad_crop_flip(name, size):
    splits = make_splits(name, size=size)
    batcher, pad = make(splits, "crop_flip"), splits.size // 8
    assert pad == {8: 1, 28: 3, 32: 4, 48: 6}[splits.size]
    plain = pixels(splits, make(splits).plain(splits.train)[0])
    ours = pixels(splits, batcher.train(splits.train, seed=0, epoch=1)[0])
    draws = batcher._draw(0, 1)
    for i in range(len(plain)):
        theirs = functional.crop(functional.pad(plain[i], [pad] * 4), *draws["shift"][i].tolist(), splits.size, splits.size)
        assert torch.equal(ours[i], functional.hflip(theirs) if draws["flip"][i] else theirs)


@pytest.mark.parametrize("mirrored", [False, True])
def test_crop_at_every_offset(mirrored):
    side, pad, channels = 6, 2, 3
    image = torch.randint(0, 256, (1, side, side, channels), dtype=torch.uint8)
    offsets = torch.cartesian_prod(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1))
    ours = crop_flip(image.expand(len(offsets), -1, -1, -1), offsets, torch.full((len(offsets),), mirrored), pad)
    padded = functional.pad(image[0].permute(2, 0, 1), [pad] * 4)
    for cut, (top, left) in zip(ours, offsets.tolist(), strict=True):
        window = padded[:, top:top + side, left:left + side]
        assert torch.equal(cut.permute(2, 0, 1), window.flip(2) if mirrored else window)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "digits"])
def test_rotate_is_torchvisions(name):
    splits = make_splits(name)
    degrees = torch.linspace(-20, 20, 64)
    ours = rotate(torch.from_numpy(splits.images), degrees).permute(0, 3, 1, 2)
    theirs = torch.stack([functional.rotate(image, float(angle)) for image, angle in zip(planar(splits), degrees, strict=True)])
    # Where a source lies on the border of two pixels, the last bit of the sine decides.
    assert (ours == theirs).double().mean() > 0.995
    assert torch.equal(rotate(torch.from_numpy(splits.images), torch.zeros(64)), torch.from_numpy(splits.images))


def test_rotate_turns_counter_clockwise():
    image = torch.zeros(1, 9, 9, 1, dtype=torch.uint8)
    image[0, 4, 8] = 255  # three o'clock
    assert rotate(image, torch.tensor([90.0]))[0, 0, 4] == 255  # twelve


@pytest.mark.parametrize("name, size", [("caltech101", 64), ("cifar10", 32), ("cifar10", 8), ("cifar10", 100)])
def test_imagenet_is_resized_crop(name, size):
    splits = make_splits(name, size=size)
    batcher = make(splits, "imagenet")
    ours = pixels(splits, batcher.train(splits.train, seed=0, epoch=1)[0])
    draws = batcher._draw(0, 1)
    for i, image in enumerate(planar(splits)):
        theirs = v2.resized_crop(image, *draws["box"][i].tolist(), [size, size], antialias=True)
        assert torch.equal(ours[i], functional.hflip(theirs) if draws["flip"][i] else theirs)
    by_matrices = _by_matrices(torch.from_numpy(splits.images), draws["box"], draws["flip"], size).permute(0, 3, 1, 2)
    assert (by_matrices.int() - ours.int()).abs().max() <= 1, "what other devices do"


def test_a_box_of_the_whole_image_changes_nothing():
    images = torch.from_numpy(make_splits().images)
    box = torch.tensor([[0, 0, 32, 32]]).expand(64, 4)
    assert torch.equal(resized_crop_flip(images, box, torch.zeros(64, dtype=torch.bool), 32), images)


# ---------------------------------------------------------------------------------------------------------- distributions


def test_draws_are_uniform():
    """Half are flipped, every offset is as likely, angles fill -20 to 20: within four standard deviations of 10,000 draws."""
    n = 10_000
    draws = make(make_splits(n=n), "crop_flip_rotate")._draw(7, 3)
    assert abs(draws["flip"].double().mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    for axis in (0, 1):
        counts = torch.bincount(draws["shift"][:, axis], minlength=9)
        assert len(counts) == 9 and (counts - n / 9).abs().max() < 4 * math.sqrt(n / 9 * 8 / 9)
    assert draws["angle"].abs().max() <= 20 and abs(draws["angle"].mean()) < 4 * 11.55 / math.sqrt(n)
    assert abs(draws["angle"].std() - 20 / math.sqrt(3)) < 0.3
    columns = torch.stack([draws["flip"].double(), draws["shift"][:, 0].double(), draws["shift"][:, 1].double(), draws["angle"]])
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max() < 4 / math.sqrt(n), "the draws do not depend on one another"


@pytest.mark.parametrize("height, width", [(256, 256), (32, 32), (60, 200), (200, 60)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    n = 4000
    ours = boxes(random_uniforms(seed=0, epoch=0, tag=19, n=n, draws=40).reshape(n, 10, 4), height, width)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    top, left, tall, wide = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= height).all() and (left + wide <= width).all() and (tall > 0).all()
    for column in range(4):
        # Two-sample Kolmogorov-Smirnov distance; 1.95 * sqrt(2 / n) is its 0.1 % point.
        values = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        a, b = (np.searchsorted(np.sort(sample[:, column]), values, side="right") / n for sample in (ours, theirs))
        assert np.abs(a - b).max() < 1.95 * math.sqrt(2 / n), column
    assert abs((ours[:, 2] * ours[:, 3]).mean() / (theirs[:, 2] * theirs[:, 3]).mean() - 1) < 0.05


def test_box_that_never_fits():
    never = np.full((1, 10, 4), 0.999)
    assert boxes(never, 60, 200).tolist() == [[0, 60, 60, 80]]
    assert boxes(never, 200, 60).tolist() == [[60, 0, 80, 60]]
    assert boxes(never, 100, 100).tolist() == [[0, 0, 100, 100]]


def test_read_only_images(tmp_path):
    """A memory-mapped cache may not be written, and no warning says so."""
    splits = make_splits()
    splits.images.flags.writeable = False
    before = splits.images.copy()
    for augment in AUGMENTS:
        make(splits, augment).train(splits.train[:3], seed=0, epoch=0)
    assert (splits.images == before).all()
