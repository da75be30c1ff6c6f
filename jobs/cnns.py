"""Our own networks: small CNNs whose shape is a matter of parameters. Each has the children `features` and `classifier`.

A new network is one class and one entry of `NETWORKS` here, and one line in `registry.OUR_MODELS` with the parameters it reads.
"""

from collections.abc import Callable

from torch import Tensor, nn

from jobs.config import Config


class FeaturesThenClassifier(nn.Module):
    """A convolution part and a fully connected part, one after the other: (B, C, H, W) -> logits (B, classes)."""

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential):
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images -> logits (B, classes)."""
        logits: Tensor = self.classifier(self.features(x_BCHW))
        return logits


def _block(channels: int, filters: int, kernel_size: int, *, batch_norm: bool) -> list[nn.Module]:
    """Convolution that keeps the image's size [+ batch norm] + ReLU + halving max pool."""
    norm: list[nn.Module] = [nn.BatchNorm2d(filters)] if batch_norm else []
    return [nn.Conv2d(channels, filters, kernel_size, padding="same"), *norm, nn.ReLU(), nn.MaxPool2d(2)]


class DynamicCNN(FeaturesThenClassifier):
    """`depth` blocks, each with twice the filters and half the side of the one before; one hidden linear layer.

    A depth that the images are too small for can be constructed, so that `jobs.layers` can say which layer fails.
    """

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        widths = [channels, *(config.filters << block for block in range(config.depth))]
        blocks = [_block(widths[i], widths[i + 1], config.kernel_size, batch_norm=config.batch_norm) for i in range(config.depth)]
        side = max(1, size >> config.depth)
        super().__init__(
            nn.Sequential(*(layer for block in blocks for layer in block)),
            nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(widths[-1] * side * side, config.hidden), nn.ReLU(),
                          nn.Linear(config.hidden, classes)),
        )


class SimpleCNN(FeaturesThenClassifier):
    """The CIFAR-100 study's network: three 3x3 blocks, then linear 512, 256, classes.

    With 64 filters at 32 pixels the first linear layer reads 256 x 4 x 4 = 4,096 features.
    """

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        widths = [channels, config.filters, 2 * config.filters, 4 * config.filters]
        blocks = [_block(widths[i], widths[i + 1], 3, batch_norm=config.batch_norm) for i in range(3)]
        side = max(1, size >> 3)
        super().__init__(
            nn.Sequential(*(layer for block in blocks for layer in block)),
            nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(widths[-1] * side * side, 512), nn.ReLU(),
                          nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes)),
        )


NETWORKS: dict[str, Callable[..., FeaturesThenClassifier]] = {
    "dynamic_cnn": DynamicCNN,
    "simple_cnn": SimpleCNN,
}
"""Constructors by name: network(config, classes=, channels=, size=)."""
