"""A light detector: ShuffleNetV2 and one level of separable 5x5 heads, in the manner of FastestDet.

"ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", Ma, Zhang, Zheng and
Sun, ECCV 2018, at 1.0x. Everything is found at a stride of 16, without anchors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm, scaled

_CLASSES = 80  # COCO's.


class ShuffleNetDetector(nn.Module):
    """Trunk, three levels joined at the middle one, depthwise pyramid and head.

    Args:
        width: Factor of all channels but those of the result.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.trunk = ShuffleNetV2(width)
        channels = self.trunk.channels[1]
        self.reduce = conv_norm(sum(self.trunk.channels), channels, 1)
        self.pyramid = nn.ModuleList(
            nn.Sequential(*(_depthwise(channels) for _ in range(count))) for count in (1, 2, 3)
        )
        self.fuse = conv_norm(len(self.pyramid) * channels, channels, 1, relu=False)
        self.head = conv_norm(channels, channels, 1)
        self.objectness, self.box, self.classes = (
            nn.Sequential(_depthwise(channels), conv_norm(channels, results, 1, relu=False))
            for results in (1, 4, _CLASSES)
        )

    def forward(self, frame: Tensor) -> Tensor:
        """Detect.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            ``(N, 85, H / 16, W / 16)``, rounded up: of each cell its objectness from 0 to 1, four
            numbers of its box, and the probabilities of 80 classes.
        """
        fine, middle, coarse = self.trunk(frame)
        fine = F.avg_pool2d(fine, 3, 2, 1)
        coarse = F.interpolate(coarse, middle.shape[2:])
        x = self.reduce(torch.cat([fine, middle, coarse], 1))
        pyramid = torch.cat([level(x) for level in self.pyramid], 1)
        x = self.head(F.relu(x + self.fuse(pyramid), inplace=True))
        return torch.cat([self.objectness(x).sigmoid(), self.box(x), self.classes(x).softmax(1)], 1)


class ShuffleNetV2(nn.Module):
    """The three stages of ShuffleNetV2, without the last 1x1 convolution and the classifier.

    Args:
        width: Factor of all channels, 1 for those of the published 1.0x.

    Attributes:
        channels: Of each stage's output.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem = scaled(24, width)
        self.channels = tuple(scaled(c, width) for c in (116, 232, 464))
        self.stem = conv_norm(3, stem, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(DownUnit(before, after), *(ShuffleUnit(after) for _ in range(units - 1)))
            for before, after, units in zip(
                (stem, *self.channels[:-1]), self.channels, (4, 8, 4), strict=True
            )
        )

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            The output of each stage, ``(N, channels[i], H / s, W / s)`` rounded up, s = 8, 16, 32.
        """
        x = self.pool(self.stem(frame))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)


class ShuffleUnit(nn.Module):
    """Half of the channels through convolutions, half as they are; then the two are mixed.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = _branch(half, half, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, channels, H, W)`` to the same."""
        kept, worked = x.chunk(2, 1)
        return shuffle_channels(torch.cat([kept, self.branch(worked)], 1))


class DownUnit(nn.Module):
    """All channels through two branches of stride 2, each of which makes half of the result.

    Args:
        in_channels: Of the input.
        channels: Of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.shortcut = nn.Sequential(
            conv_norm(in_channels, in_channels, 3, 2, groups=in_channels, relu=False),
            conv_norm(in_channels, half, 1),
        )
        self.branch = _branch(in_channels, half, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, H / 2, W / 2)``, rounded up."""
        return shuffle_channels(torch.cat([self.shortcut(x), self.branch(x)], 1))


def shuffle_channels(x: Tensor) -> Tensor:
    """Let the channels of the two halves alternate.

    Args:
        x: ``(N, C, H, W)``.

    Returns:
        ``(N, C, H, W)``; channel i of the first half is channel 2 i, of the second 2 i + 1.
    """
    images, channels, height, width = x.shape
    halves = x.view(images, 2, channels // 2, height, width)
    return halves.permute(0, 2, 1, 3, 4).reshape(images, channels, height, width)


def _branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(in_channels, channels, 1),
        conv_norm(channels, channels, 3, stride, groups=channels, relu=False),
        conv_norm(channels, channels, 1),
    )


def _depthwise(channels: int) -> nn.Sequential:
    return conv_norm(channels, channels, 5, groups=channels)
