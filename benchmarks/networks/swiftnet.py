"""SwiftNet: a residual network, spatial pyramid pooling and a light ladder of upsampling modules.

"In Defense of Pre-trained ImageNet Architectures for Real-time Semantic Segmentation of
Road-driving Images", Orsic, Kreso, Bevandic and Segvic, CVPR 2019, single scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import scaled
from .resnet import ResNet

_CLASSES = 19  # Cityscapes'.


class SwiftNet(nn.Module):
    """A segmentor with logits at a quarter of the frame's resolution.

    Args:
        depth: Of the residual network, 18, 34 or 50.
        width: Factor of all channels but the classes.
    """

    def __init__(self, depth: int = 18, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(128, width)
        self.trunk = ResNet(depth, width)
        *finer, coarsest = self.trunk.channels
        self.pyramid = SpatialPyramidPooling(coarsest, channels)
        self.ladder = nn.ModuleList(LateralUpsampling(c, channels) for c in reversed(finer))
        self.classify = norm_relu_conv(channels, _CLASSES, 1, bias=True)

    def forward(self, frame: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            Logits ``(N, 19, H / 4, W / 4)``, rounded up.
        """
        *finer, coarsest = self.trunk(frame)
        x = self.pyramid(coarsest)
        for upsampling, skip in zip(self.ladder, reversed(finer), strict=True):
            x = upsampling(x, skip)
        return self.classify(x)


class SpatialPyramidPooling(nn.Module):
    """Reduce the channels, add means over grids of several sizes, fuse.

    Args:
        in_channels: Of the map.
        channels: After the reduction, and of the result.
        grids: Rows of each level's grid; it has as many times more columns as the map is wider.
    """

    def __init__(self, in_channels: int, channels: int, grids: Sequence[int] = (8, 4, 2)) -> None:
        super().__init__()
        self.grids = tuple(grids)
        of_level = channels // len(self.grids)
        self.reduce = norm_relu_conv(in_channels, channels, 1)
        self.levels = nn.ModuleList(norm_relu_conv(channels, of_level, 1) for _ in self.grids)
        self.fuse = norm_relu_conv(channels + len(self.grids) * of_level, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, H, W)``."""
        height, width = x.shape[2:]
        x = self.reduce(x)
        maps = [x]
        for rows, level in zip(self.grids, self.levels, strict=True):
            pooled = F.adaptive_avg_pool2d(x, (rows, max(1, round(width / height * rows))))
            maps.append(F.interpolate(level(pooled), (height, width), mode="bilinear"))
        return self.fuse(torch.cat(maps, 1))


class LateralUpsampling(nn.Module):
    """Bring a map to the size of a finer one, add that, blend.

    Args:
        skip_channels: Of the finer map.
        channels: Of the coarser map and of the result.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.lateral = norm_relu_conv(skip_channels, channels, 1)
        self.blend = norm_relu_conv(channels, channels, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """From ``(N, channels, h, w)`` and ``(N, skip_channels, H, W)`` to ``(N, channels, H, W)``.

        Args:
            x: The coarser map.
            skip: The finer one.
        """
        skip = self.lateral(skip)
        return self.blend(F.interpolate(x, skip.shape[2:], mode="bilinear") + skip)


def norm_relu_conv(
    in_channels: int, out_channels: int, kernel: int, bias: bool = False
) -> nn.Sequential:
    """Batch norm, ReLU, convolution, in this order; the map's size stays.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the kernel, odd.
        bias: Whether the convolution has one.

    Returns:
        The layers.
    """
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias),
    )
