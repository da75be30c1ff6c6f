"""Batches for the model: uint8 images in, normalised and randomly changed ones out, a whole batch at a time.

Every random number is a function of (seed, epoch, sample index): what happens to an image in an epoch does not depend on the
batch it falls into, on the number of ranks, nor on where a run was resumed. Every change is the one torchvision's transform of the
same name makes; after each the pixels are whole numbers again, as they are between two transforms of PIL images.

Letters in tensor names: B batch, H height, W width, C channels, K the side the model sees, P a padded side.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jobs.config import Config
from jobs.data import Splits, random_uniforms
from jobs.prefetch import Prefetcher

ROTATION_DEGREES = 20.0
"""`crop_flip_rotate` turns by an angle uniform in plus or minus this."""
CROP_SCALE, CROP_RATIO, CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
"""Of `imagenet`: share of the area, width over height, and tries, as in torchvision's RandomResizedCrop."""
_TAGS = {"flip": 16, "shift": 17, "angle": 18, "box": 19}
_RESIDENT_SHARE = 0.25
"""Share of a device's free memory the data set may take to be kept there whole."""


class Batcher:
    """Makes batches on `device`: `train` with the configuration's random changes, `plain` without.

    Args:
        splits: The data.
        config: Its `augment` decides what `train` does.
        device: On an accelerator the uint8 images are moved there once, unless they would take more than a quarter of its free memory:
            then each batch is fetched while the one before it is computed.
        dtype: Of the images returned.
    """

    def __init__(self, splits: Splits, config: Config, device: torch.device, dtype: torch.dtype = torch.float32):
        self._splits, self._augment, self._device, self._dtype = splits, config.augment, torch.device(device), dtype
        self._math = torch.float64 if dtype == torch.float64 else torch.float32
        size = splits.size
        mean, std = (torch.tensor(v, dtype=torch.float64).repeat(size * size) for v in (splits.spec.mean, splits.spec.std))
        # (x / 255 - mean) / std as one multiplication and one addition over rows of K * K * C.
        self._scale = (1 / (255 * std)).to(self._device, self._math)
        self._shift = (-mean / std).to(self._device, self._math)
        self._pad = 0 if self._augment == "flip" else size // 8
        self._labels = torch.from_numpy(splits.labels).to(self._device)
        self._images: Tensor | None = None
        self._ahead: Prefetcher | None = None
        if self._device.type == "cuda":
            if splits.images.nbytes < _RESIDENT_SHARE * torch.cuda.mem_get_info(self._device)[0]:
                self._images = torch.from_numpy(np.array(splits.images)).to(self._device)
            else:
                self._ahead = Prefetcher(splits.images, self._device)
        self._drawn: tuple[int, int] | None = None
        self._draws: dict[str, Tensor] = {}

    def plain(self, sample_indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images as they are, resized or cut to the side the model sees.

        Args:
            sample_indices: int64 (B,), indices into `splits.images`.

        Returns:
            x_BCHW normalised, channels last in memory; y_B int64.
        """
        index_B, *given = self.raw(sample_indices)
        return self._normalise(self._fit(given[0] if given else self._resident(index_B))), self._labels[index_B]

    def train(self, sample_indices: np.ndarray, *, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Like `plain`, with the random changes of `config.augment` that belong to (seed, epoch, sample index)."""
        self.draw(seed, epoch)
        return self.made(*self.raw(sample_indices))

    def expect(self, sample_indices: np.ndarray) -> None:
        """Says which images the next call will ask for, so that they can be fetched while the device computes."""
        if self._ahead:
            self._ahead.ask(sample_indices)

    def labels(self, sample_indices: np.ndarray) -> Tensor:
        """int64 (B,) on the device."""
        return self._labels[torch.from_numpy(sample_indices).to(self._device)]

    def draw(self, seed: int, epoch: int) -> None:
        """Makes the random numbers of an epoch, unless they are those of the last call; in the same memory as the last ones."""
        if self._augment == "none" or self._drawn == (seed, epoch):
            return
        drawn = self._draw(seed, epoch)
        for name, values in self._draws.items():
            drawn[name] = values.copy_(drawn[name])  # a captured graph reads them where they lay
        self._draws, self._drawn = drawn, (seed, epoch)

    def raw(self, sample_indices: np.ndarray) -> tuple[Tensor, ...]:
        """What `made` takes: the indices on the device, and the uint8 images too unless all images of the data set lie there."""
        index_B = torch.from_numpy(np.ascontiguousarray(sample_indices, dtype=np.int64)).to(self._device)
        if self._images is not None:
            return (index_B,)
        if self._ahead:
            return index_B, self._ahead.take(sample_indices)
        return index_B, torch.from_numpy(self._splits.images[sample_indices]).to(self._device)

    def made(self, index_B: Tensor, x_BHWC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A batch for training, with the random numbers of the last `draw`: nothing but work of the device."""
        x_BHWC = self._resident(index_B) if x_BHWC is None else x_BHWC
        if self._augment == "none":
            return self._normalise(self._fit(x_BHWC)), self._labels[index_B]
        draws = {name: values[index_B] for name, values in self._draws.items()}
        if self._augment == "imagenet":
            x_BHWC = resized_crop_flip(x_BHWC, draws["box"], draws["flip"], self._splits.size)
        else:
            x_BHWC = crop_flip(self._fit(x_BHWC), draws["shift"], draws["flip"], self._pad)
            if self._augment == "crop_flip_rotate":
                x_BHWC = rotate(x_BHWC, draws["angle"])
        return self._normalise(x_BHWC), self._labels[index_B]

    def _resident(self, index_B: Tensor) -> Tensor:
        assert self._images is not None
        return self._images[index_B]

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        """The random numbers of one epoch, for every image of the data set (row = sample index)."""
        def uniforms(name: str, draws: int) -> np.ndarray:
            return random_uniforms(seed=seed, epoch=epoch, tag=_TAGS[name], n=len(self._splits.images), draws=draws)

        found: dict[str, np.ndarray] = {"flip": uniforms("flip", 1)[:, 0] < 0.5}
        if self._augment != "imagenet":
            found["shift"] = (uniforms("shift", 2) * (2 * self._pad + 1)).astype(np.int64)
        if self._augment == "crop_flip_rotate":
            found["angle"] = (2 * uniforms("angle", 1)[:, 0] - 1) * ROTATION_DEGREES
        if self._augment == "imagenet":
            height, width = self._splits.images.shape[1:3]
            found["box"] = boxes(uniforms("box", 4 * CROP_TRIES).reshape(-1, CROP_TRIES, 4), height, width)
        return {name: torch.from_numpy(values).to(self._device) for name, values in found.items()}

    def _fit(self, x_BHWC: Tensor) -> Tensor:
        """The whole image at the side the model sees: images that had sizes of their own are cut in the centre, others resized."""
        size, side = self._splits.size, x_BHWC.shape[1]
        if side == size:
            return x_BHWC
        if self._splits.spec.shape[0] == 0:
            first = round((side - size) / 2)
            return x_BHWC[:, first:first + size, first:first + size].contiguous()
        x_BCKK = functional.interpolate(x_BHWC.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True)
        return _to_bytes(x_BCKK)

    def _normalise(self, x_BHWC: Tensor) -> Tensor:
        flat = x_BHWC.flatten(1).to(self._math)
        torch.addcmul(self._shift, flat, self._scale, out=flat)
        return flat.view(x_BHWC.shape).permute(0, 3, 1, 2).to(self._dtype)


def _to_bytes(x_BCHW: Tensor) -> Tensor:
    """Rounded to uint8 x_BHWC."""
    return x_BCHW.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop_flip(x_BHWC: Tensor, top_left_B2: Tensor, flip_B: Tensor, pad: int) -> Tensor:
    """Cuts a window of the images' own size at (top, left) of the images padded with `pad` zeros on every side, then mirrors it, left
    to right, where `flip_B` is true.

    One gather: a row of a window is a run of K * C bytes of the padded batch, or of its mirror image, so only where the runs
    start is worked out.

    Args:
        x_BHWC: uint8, square.
        top_left_B2: int64, 0 to 2 * pad.
    """
    batch, side, _, channels = x_BHWC.shape
    padded, run = side + 2 * pad, side * channels
    x_BPPC = functional.pad(x_BHWC, (0, 0, pad, pad, pad, pad))
    both = torch.cat([x_BPPC, x_BPPC.flip(2)])
    top_B, left_B = top_left_B2.unbind(1)
    left_B = torch.where(flip_B, 2 * pad - left_B, left_B)
    image_B = torch.arange(batch, device=x_BHWC.device) + batch * flip_B
    row_BK = (image_B * padded + top_B)[:, None] + torch.arange(side, device=x_BHWC.device)
    starts_BK = (row_BK * padded + left_B[:, None]) * channels
    runs = both.as_strided((both.numel() - run + 1, run), (1, 1))
    return runs.index_select(0, starts_BK.flatten()).view(x_BHWC.shape)


def rotate(x_BHWC: Tensor, degrees_B: Tensor) -> Tensor:
    """Turns each image about its centre, counter-clockwise; the nearest pixel is taken, and zero outside (RandomRotation's defaults).

    One gather of whole pixels: grid_sample would go through floating point, at more than twice the time.
    """
    batch, side, _, channels = x_BHWC.shape
    angle_B11 = torch.deg2rad(degrees_B).float()[:, None, None]
    cos_B11, sin_B11 = angle_B11.cos(), angle_B11.sin()
    centre = (side - 1) / 2
    line_H = torch.arange(side, device=x_BHWC.device, dtype=torch.float32) - centre
    column_BHW = torch.addcmul(centre - sin_B11 * line_H[:, None], cos_B11, line_H).round_().to(torch.int64)
    row_BHW = torch.addcmul(centre + cos_B11 * line_H[:, None], sin_B11, line_H).round_().to(torch.int64)
    inside_BHW = (column_BHW >= 0) & (column_BHW < side) & (row_BHW >= 0) & (row_BHW < side)
    first_B11 = torch.arange(batch, device=x_BHWC.device)[:, None, None] * (side * side)
    index_BHW = torch.where(inside_BHW, first_B11 + row_BHW * side + column_BHW, batch * side * side)
    pixels = torch.cat([x_BHWC.reshape(-1, channels), x_BHWC.new_zeros(1, channels)])  # the last one is the outside
    return pixels.index_select(0, index_BHW.flatten()).view(x_BHWC.shape)


def boxes(uniforms_NT4: np.ndarray, height: int, width: int) -> np.ndarray:
    """Random boxes as torchvision's RandomResizedCrop.get_params draws them: the first of T tries that lies in the image, else the
    largest centred box of a legal ratio.

    Args:
        uniforms_NT4: In [0, 1), for T tries each: area, ratio, top, left.

    Returns:
        int64 (N, 4): top, left, height, width.
    """
    area, log_ratio, top, left = np.moveaxis(uniforms_NT4, -1, 0)
    area = height * width * (CROP_SCALE[0] + (CROP_SCALE[1] - CROP_SCALE[0]) * area)
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = np.exp(low + (high - low) * log_ratio)
    wide, tall = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    pick = (np.arange(len(fits)), fits.argmax(1))
    wide, tall = wide[pick], tall[pick]
    rows, columns = top[pick] * (height - tall + 1), left[pick] * (width - wide + 1)
    found = np.stack([rows.astype(np.int64), columns.astype(np.int64), tall, wide], 1)
    wide, tall = width, height
    if width / height < CROP_RATIO[0]:
        tall = round(width / CROP_RATIO[0])
    elif width / height > CROP_RATIO[1]:
        wide = round(height * CROP_RATIO[1])
    found[~fits.any(1)] = ((height - tall) // 2, (width - wide) // 2, tall, wide)
    return found


def resized_crop_flip(x_BHWC: Tensor, box_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """Cuts a box out of each image, scales it to (size, size), bilinear with antialias, and mirrors it where `flip_B` is true.

    The same pixels as torchvision's resized_crop(antialias=True) of uint8 images on a CPU; elsewhere within one grey level of them.
    """
    return (_one_by_one if x_BHWC.device.type == "cpu" else _by_matrices)(x_BHWC, box_B4, flip_B, size)


def _by_matrices(x_BHWC: Tensor, box_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """`resized_crop_flip` of a whole batch at once, for devices that like that: scaling is linear and separable, so it is two matrix
    products, with one matrix per image and direction."""
    top_B, left_B, tall_B, wide_B = box_B4.unbind(1)
    down_BKH = _scaling(top_B, tall_B, size, x_BHWC.shape[1])
    across_BKW = _scaling(left_B, wide_B, size, x_BHWC.shape[2])
    across_BKW = torch.where(flip_B[:, None, None], across_BKW.flip(1), across_BKW)
    x_BCHW = x_BHWC.permute(0, 3, 1, 2).float().contiguous()
    narrowed_BCHK = (x_BCHW.flatten(1, 2) @ across_BKW.transpose(1, 2)).view(*x_BCHW.shape[:3], size)
    return _to_bytes(down_BKH[:, None] @ narrowed_BCHK)


def _one_by_one(x_BHWC: Tensor, box_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """`resized_crop_flip` with torch's own scaling of uint8 images, which has a fast CPU kernel for one image with its channels last:
    16 times as fast there as the matrices."""
    cut_BKKC = x_BHWC.new_empty((len(x_BHWC), size, size, x_BHWC.shape[3]))
    for x_HWC, (top, left, tall, wide), mirror, cut_KKC in zip(x_BHWC, box_B4.tolist(), flip_B.tolist(), cut_BKKC, strict=True):
        x_1CHW = x_HWC[top:top + tall, left:left + wide].permute(2, 0, 1)[None]
        scaled_KKC = functional.interpolate(x_1CHW, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        cut_KKC.copy_(scaled_KKC.flip(1) if mirror else scaled_KKC)
    return cut_BKKC


def _scaling(first_B: Tensor, length_B: Tensor, size: int, side: int) -> Tensor:
    """Matrices that scale the pixels first .. first + length - 1 of a line of `side` pixels to `size` pixels.

    Each output pixel is a mean under a triangle centred on it, as wide as one output pixel or one input pixel, whichever is
    larger (Pillow's and torch's antialias).

    Returns:
        float32 (B, size, side); every row sums to 1.
    """
    first, length = first_B[:, None, None].float(), length_B[:, None, None].float()
    scale = length / size
    centre = first + (torch.arange(size, device=first_B.device)[:, None] + 0.5) * scale
    pixel = torch.arange(side, device=first_B.device) + 0.5
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel > first) & (pixel < first + length))
    return weight / weight.sum(-1, keepdim=True)
