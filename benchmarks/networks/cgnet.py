"""CGNet: depthwise convolutions beside dilated ones, weighted by the mean over the image.

"CGNet: A Light-weight Context Guided Network for Semantic Segmentation", Wu, Tang, Zhang, Cao and
Zhang, IEEE TIP 2021: table I and figure 4, with M = 3 and N = 21 blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import scaled

_CLASSES = 19  # Cityscapes'.
_EPS = 1e-3


class CGNet(nn.Module):
    """Three stages, the image given to the second and third too.

    Args:
        width: Factor of all channels but those of image and result.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, narrow, wide = (scaled(c, width) for c in (32, 64, 128))
        self.stage1 = nn.Sequential(
            conv_norm_prelu(3, stem, 3, 2),
            conv_norm_prelu(stem, stem, 3),
            conv_norm_prelu(stem, stem, 3),
        )
        self.halve = nn.AvgPool2d(3, 2, 1)
        self.norm1 = norm_prelu(stem + 3)
        self.down2 = ContextDown(stem + 3, narrow, dilation=2, reduction=8)
        self.stage2 = nn.Sequential(*(ContextBlock(narrow, 2, 8) for _ in range(2)))
        self.norm2 = norm_prelu(2 * narrow + 3)
        self.down3 = ContextDown(2 * narrow + 3, wide, dilation=4, reduction=16)
        self.stage3 = nn.Sequential(*(ContextBlock(wide, 4, 16) for _ in range(20)))
        self.norm3 = norm_prelu(2 * wide)
        self.classify = nn.Conv2d(2 * wide, _CLASSES, 1, bias=False)

    def forward(self, frame: Tensor) -> Tensor:
        """Segment.

        Args:
            frame: Images ``(N, 3, H, W)``, H and W multiples of 8.

        Returns:
            Logits ``(N, 19, H, W)``.
        """
        half = self.halve(frame)
        quarter = self.halve(half)
        first = self.down2(self.norm1(torch.cat([self.stage1(frame), half], 1)))
        x = self.norm2(torch.cat([self.stage2(first), first, quarter], 1))
        first = self.down3(x)
        x = self.classify(self.norm3(torch.cat([first, self.stage3(first)], 1)))
        return F.interpolate(x, frame.shape[2:], mode="bilinear", align_corners=False)


class ContextBlock(nn.Module):
    """Local and surrounding features of half the channels each, and the input added.

    Args:
        channels: Of input and output.
        dilation: Of the surrounding features.
        reduction: By which the weights of channels are reckoned from fewer.
    """

    def __init__(self, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        half = channels // 2
        self.reduce = conv_norm_prelu(channels, half, 1)
        self.near = _depthwise(half, 1)
        self.around = _depthwise(half, dilation)
        self.norm = norm_prelu(2 * half)
        self.weigh = ChannelWeights(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, channels, H, W)`` to the same."""
        y = self.reduce(x)
        return x + self.weigh(self.norm(torch.cat([self.near(y), self.around(y)], 1)))


class ContextDown(nn.Module):
    """The same at half the size, without the input.

    Args:
        in_channels: Of the input.
        channels: Of the output.
        dilation: Of the surrounding features.
        reduction: By which the weights of channels are reckoned from fewer.
    """

    def __init__(self, in_channels: int, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        self.reduce = conv_norm_prelu(in_channels, channels, 3, 2)
        self.near = _depthwise(channels, 1)
        self.around = _depthwise(channels, dilation)
        self.norm = norm_prelu(2 * channels)
        self.join = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.weigh = ChannelWeights(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, H / 2, W / 2)``."""
        y = self.reduce(x)
        y = self.norm(torch.cat([self.near(y), self.around(y)], 1))
        return self.weigh(self.join(y))


class ChannelWeights(nn.Module):
    """Each channel times a weight that is made of the means of all.

    Args:
        channels: Of input and output.
        reduction: Of the channels in between.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, channels, H, W)`` to the same."""
        weights = self.layers(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return x * weights[:, :, None, None]


def conv_norm_prelu(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm and PReLU.

    Args:
        in_channels: Of the input.
        channels: Of the output.
        kernel: Side of the kernel, odd.
        stride: Of the convolution.

    Returns:
        The layers.
    """
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, *norm_prelu(channels))


def norm_prelu(channels: int) -> nn.Sequential:
    """Batch norm and PReLU of so many channels."""
    return nn.Sequential(nn.BatchNorm2d(channels, _EPS), nn.PReLU(channels))


def _depthwise(channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, 1, dilation, dilation, channels, bias=False)
