"""Our own networks: small CNNs whose shape is a matter of parameters, with the children `features` and `classifier`, and ResNets for
small images.

A new network is one class and one entry of `NETWORKS` here, and one line in `registry.OUR_MODELS` with the parameters it reads.
"""

import functools
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from jobs.config import Config
from jobs.registry import PUBLISHED_AS


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


def _layer(channels: int, filters: int, kernel_size: int, *, batch_norm: bool) -> list[nn.Module]:
    """Convolution that keeps the image's size [+ batch norm] + ReLU."""
    norm: list[nn.Module] = [nn.BatchNorm2d(filters)] if batch_norm else []
    return [nn.Conv2d(channels, filters, kernel_size, padding="same"), *norm, nn.ReLU()]


def _blocks(widths: list[int], kernel_size: int, *, batch_norm: bool) -> nn.Sequential:
    """A layer and a halving max pool for each step from one number of channels to the next."""
    blocks = [[*_layer(channels, filters, kernel_size, batch_norm=batch_norm), nn.MaxPool2d(2)] for channels, filters in pairwise(widths)]
    return nn.Sequential(*(layer for block in blocks for layer in block))


def _one_hidden_layer(features: int, config: Config, *, classes: int) -> nn.Sequential:
    """Dropout, then linear layers: features, `hidden`, classes."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(features, config.hidden), nn.ReLU(),
                         nn.Linear(config.hidden, classes))


class DynamicCNN(FeaturesThenClassifier):
    """`depth` blocks, each with twice the filters and half the side of the one before; one hidden linear layer.

    A depth that the images are too small for can be constructed, so that `jobs.layers` can say which layer fails.
    """

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        widths = [channels, *(config.filters << block for block in range(config.depth))]
        side = max(1, size >> config.depth)
        super().__init__(_blocks(widths, config.kernel_size, batch_norm=config.batch_norm),
                         _one_hidden_layer(widths[-1] * side * side, config, classes=classes))


class SimpleCNN(FeaturesThenClassifier):
    """The CIFAR-100 study's network: three 3x3 blocks, then linear 512, 256, classes.

    With 64, 128 and 256 filters at 32 pixels the first linear layer reads 256 x 4 x 4 = 4,096 features.
    """

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        second = config.filters_2 or 2 * config.filters
        widths = [channels, config.filters, second, config.filters_3 or 2 * second]
        side = max(1, size >> 3)
        super().__init__(
            _blocks(widths, 3, batch_norm=config.batch_norm),
            nn.Sequential(nn.Flatten(), nn.Dropout(config.dropout), nn.Linear(widths[-1] * side * side, 512), nn.ReLU(),
                          nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, classes)),
        )


class PlainCNN(FeaturesThenClassifier):
    """The Fashion-MNIST study's network: `depth` convolutions of equally many filters; one hidden linear layer.

    A 2x2 max pool follows each layer whose feature map is at least 4 pixels wide, so that none gets narrower than 2: images of 28 pixels
    are halved to 14, 7 and 3, and further layers keep the 3 pixels. It fits every image, at any depth.
    """

    def __init__(self, config: Config, *, classes: int, channels: int, size: int):
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            layers += _layer(channels, config.filters, config.kernel_size, batch_norm=config.batch_norm)
            layers.append(nn.Dropout(config.dropout_features))
            channels = config.filters
            if size >= 4:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        super().__init__(nn.Sequential(*layers), _one_hidden_layer(config.filters * size * size, config, classes=classes))


def cifar_resnet(published: str, config: Config, *, classes: int, channels: int, size: int) -> nn.Module:
    """torchvision's ResNet `published` changed for images of 32 pixels: a 3x3 stem of stride 1, and a head of three linear layers.

    The study that this comes from names "adaptive average pooling in place of the max pool". To keep the 32 x 32 pixels of the stem, as
    such networks do, that pool has to average windows of one pixel, which changes nothing: `maxpool` is the identity here. (torch's own
    adaptive pool would compute the same in longer, with a backward pass on GPUs that adds up in no fixed order.) The head is linear 512,
    ReLU, dropout, linear 256, ReLU, dropout, linear `classes`: how wide was not handed down, and is that of `SimpleCNN`.

    Everything between stem and head has the names and shapes of torchvision's weights. The stem (`conv1`) reads grey or colour images as
    they are and is drawn anew, as torchvision draws its convolutions; only weights of an earlier study have one like it.
    """
    import torchvision

    network: nn.Module = torchvision.models.get_model(published)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    network.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(512, 256), nn.ReLU(),
                               nn.Dropout(config.dropout), nn.Linear(256, classes))
    return network


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dynamic_cnn": DynamicCNN,
    "simple_cnn": SimpleCNN,
    "plain_cnn": PlainCNN,
    **{name: functools.partial(cifar_resnet, published) for name, published in PUBLISHED_AS.items()},
}
"""Constructors by name: network(config, classes=, channels=, size=)."""
