"""A network of one's own, for `model = "small_net:build"`."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from jobs.config import Config


def build(config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network for `channels` x `size` x `size` images. It may read any parameter of a model; this one reads `filters` and `dropout`."""
    return SmallNet(channels, filters=config.filters, dropout=config.dropout, classes=classes)


class SmallNet(nn.Module):
    """Three convolutions; the map's mean and maximum go to one linear layer. The last child with parameters, `classifier`,
    is what `freeze` and a new head mean by the classifier; the rest is the backbone."""

    def __init__(self, channels: int, *, filters: int, dropout: float, classes: int):
        super().__init__()
        widths = [channels, filters, 2 * filters, 4 * filters]
        self.features = nn.Sequential(*(block(a, b) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> logits (B, classes)."""
        x = self.features(x).flatten(2)
        return self.classifier(self.dropout(torch.cat([x.mean(2), x.amax(2)], dim=1)))


def block(a: int, b: int) -> nn.Sequential:
    """A convolution, normalised by groups of channels, which needs no statistics of a batch; half the side."""
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.GroupNorm(4, b), nn.ReLU(), nn.MaxPool2d(2))

