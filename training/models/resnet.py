"""ResNet, a residual network over drawings of molecules: the image encoder."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.models.config import ResNetConfig

IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet's images, from 0 to 1: the published scale of a residual network's inputs."""
STAGES, BLOCKS = 4, 2
"""ResNet-18: stages, and blocks of each. A stage halves the image and doubles the channels of the one before."""
GROUPS = 32
"""Groups of a normalisation (Wu and He 2018); fewer where they do not divide its channels."""


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + N(W2 relu(N(W1 x)))), W of 3 x 3 (He et al. 2016, fig. 2; N is a group normalisation).

    The shortcut is N(W x), W of 1 x 1, where the shape changes, and x elsewhere (option B of section 3.3 there).
    """

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = _convolution(before, channels, 3, stride)
        self.norm1 = _norm(channels)
        self.conv2 = _convolution(channels, channels, 3, 1)
        self.norm2 = _norm(channels)
        same = before == channels and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_convolution(before, channels, 1, stride), _norm(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute channels [g, channels, s / stride, s / stride] from [g, before, s, s]."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class ResNet(nn.Module):
    """Residual network of the layout of ResNet-18 without its classifier: vectors of molecules [g, hidden].

    It has 11,176,512 parameters at the published width, as many as with batch normalisation. Groups of channels are
    normalised within an image instead (Wu and He 2018), so that a vector depends on its molecule alone, in training as
    in evaluation. The size of the images is free; the configuration says which one a model is trained with.
    """

    stacks: ClassVar[tuple[str, ...]] = ()
    """Stages differ in width, so that none can be left out."""
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.register_buffer("mean", _per_channel(IMAGE_MEAN), persistent=False)
        self.register_buffer("deviation", _per_channel(IMAGE_DEVIATION), persistent=False)
        self.stem = nn.Sequential(_convolution(3, config.width, 7, 2), _norm(config.width), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[ResidualBlock] = []
        before = config.width
        for stage in range(STAGES):
            channels = config.width * 2**stage
            for block in range(BLOCKS):
                blocks.append(ResidualBlock(before, channels, 2 if stage and not block else 1))
                before = channels
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Compute vectors [g, hidden] of drawings.

        Args:
            images: uint8 [g, 3, s, s], red, green and blue.
            generator: not used; this encoder has no dropout.
        """
        scaled = (images.to(self.mean.dtype) / 255.0 - self.mean) / self.deviation
        return self.blocks(self.pool(self.stem(scaled))).mean((2, 3))


def _per_channel(values: tuple[float, ...]) -> Tensor:
    """[3, 1, 1]: values of the channels of an image."""
    return torch.tensor(values).view(3, 1, 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


def _convolution(before: int, channels: int, size: int, stride: int) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size, but for the stride (He et al. 2015 for its weights)."""
    convolution = nn.Conv2d(before, channels, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
