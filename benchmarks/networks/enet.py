"""ENet: bottlenecks with dilated and asymmetric convolutions, PReLU, pooling that is undone.

"ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation", Paszke, Chaurasia,
Kim and Culurciello, arXiv:1606.02147, 2016: table 1 and figure 2. Dropout, which does nothing in
eval mode, is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import scaled

_CLASSES = 19  # Cityscapes'.
# Kernel and dilation of the eight bottlenecks of sections 2 and 3; a kernel of 5 is asymmetric.
_SECTION = ((3, 1), (3, 2), (5, 1), (3, 4), (3, 1), (3, 8), (5, 1), (3, 16))


class ENet(nn.Module):
    """Encoder of stride 8, decoder of stride 1.

    Args:
        width: Factor of all channels but those of the result.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, narrow, wide = (scaled(c, width) for c in (16, 64, 128))
        self.initial = Initial(stem)
        self.down1 = DownBottleneck(stem, narrow)
        self.section1 = nn.Sequential(*(Bottleneck(narrow) for _ in range(4)))
        self.down2 = DownBottleneck(narrow, wide)
        self.section2 = nn.Sequential(*(Bottleneck(wide, k, d) for k, d in _SECTION))
        self.section3 = nn.Sequential(*(Bottleneck(wide, k, d) for k, d in _SECTION))
        self.up4 = UpBottleneck(wide, narrow)
        self.section4 = nn.Sequential(*(Bottleneck(narrow, relu=True) for _ in range(2)))
        self.up5 = UpBottleneck(narrow, stem)
        self.section5 = Bottleneck(stem, relu=True)
        self.classify = nn.ConvTranspose2d(stem, _CLASSES, 2, 2)

    def forward(self, frame: Tensor) -> Tensor:
        """Segment.

        Args:
            frame: Images ``(N, 3, H, W)``, H and W multiples of 8.

        Returns:
            Logits ``(N, 19, H, W)``.
        """
        x, where1 = self.down1(self.initial(frame))
        x, where2 = self.down2(self.section1(x))
        x = self.section3(self.section2(x))
        x = self.section4(self.up4(x, where2))
        return self.classify(self.section5(self.up5(x, where1)))


class Initial(nn.Module):
    """A convolution and a pooling of the image, side by side.

    Args:
        channels: Of both together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels - 3, 3, 2, 1)
        self.pool = nn.MaxPool2d(2, 2)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, 3, H, W)`` to ``(N, channels, H / 2, W / 2)``."""
        return self.act(self.norm(torch.cat([self.conv(x), self.pool(x)], 1)))


class Bottleneck(nn.Module):
    """Projection, a convolution of few channels, expansion, and the input added.

    Args:
        channels: Of input and output.
        kernel: 3, or 5 for a 5x1 and a 1x5 convolution.
        dilation: Of the middle one.
        relu: ReLU in place of PReLU, as in the decoder.
    """

    def __init__(
        self, channels: int, kernel: int = 3, dilation: int = 1, relu: bool = False
    ) -> None:
        super().__init__()
        inner = channels // 4
        if kernel == 5:
            middle = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2)),
            ]
        else:
            middle = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation)]
        self.branch = nn.Sequential(
            *_projection(channels, inner, 1, relu),
            *middle,
            nn.BatchNorm2d(inner),
            _activation(inner, relu),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = _activation(channels, relu)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, channels, H, W)`` to the same."""
        return self.act(x + self.branch(x))


class DownBottleneck(nn.Module):
    """Half the size: a strided projection beside a pooling, padded with channels of zeros.

    Args:
        in_channels: Of the input.
        channels: Of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.more = channels - in_channels
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.branch = nn.Sequential(
            *_projection(in_channels, inner, 2, False),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From ``(N, in_channels, H, W)`` to half the size, and where the maxima were."""
        pooled, where = self.pool(x)
        pooled = F.pad(pooled, (0, 0, 0, 0, 0, self.more))
        return self.act(pooled + self.branch(x)), where


class UpBottleneck(nn.Module):
    """Twice the size: a transposed convolution beside a pooling that is undone.

    Args:
        in_channels: Of the input.
        channels: Of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        inner = in_channels // 4
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.unpool = nn.MaxUnpool2d(2, 2)
        self.branch = nn.Sequential(
            *_projection(in_channels, inner, 1, True),
            nn.ConvTranspose2d(inner, inner, 3, 2, 1, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, 2 H, 2 W)``."""
        return self.act(self.unpool(self.main(x), where) + self.branch(x))


def _projection(in_channels: int, channels: int, stride: int, relu: bool) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, stride, stride, bias=False),
        nn.BatchNorm2d(channels),
        _activation(channels, relu),
    ]


def _activation(channels: int, relu: bool) -> nn.Module:
    return nn.ReLU() if relu else nn.PReLU(channels)
