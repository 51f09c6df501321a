"""A segmentor of 1.3 GMACs at 360x480, in the manner of ENet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm, scaled


class LightSegmentor(nn.Module):
    """Bottlenecks with dilated and asymmetric kernels at a stride of 8.

    The plan is that of Paszke et al., "ENet: A Deep Neural Network Architecture for Real-Time
    Semantic Segmentation", 2016, with ReLUs in place of PReLUs and bilinear upsampling in place of
    unpooling.

    Args:
        width: Factor of the channels.
        classes: Channels of the logits.
    """

    def __init__(self, width: float = 1.0, classes: int = 11) -> None:
        super().__init__()
        stem, middle, deep = (scaled(channels, width) for channels in (16, 64, 128))
        self.stem = conv_norm(3, stem, 3, stride=2)
        self.middle = nn.Sequential(
            Bottleneck(stem, middle, stride=2), *(Bottleneck(middle, middle) for _ in range(4))
        )
        stage = [
            dict(),
            dict(dilation=2),
            dict(asymmetric=True),
            dict(dilation=4),
            dict(),
            dict(dilation=8),
            dict(asymmetric=True),
            dict(dilation=16),
        ]
        self.deep = nn.Sequential(
            Bottleneck(middle, deep, stride=2),
            *(Bottleneck(deep, deep, **options) for options in stage * 2),
        )
        self.up_middle = conv_norm(deep, middle, 1, relu=False)
        self.refine_middle = nn.Sequential(*(Bottleneck(middle, middle) for _ in range(2)))
        self.up_stem = conv_norm(middle, stem, 1, relu=False)
        self.refine_stem = Bottleneck(stem, stem)
        self.classify = nn.Conv2d(stem, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, classes, H, W)`` of frames ``(N, 3, H, W)``."""
        stem = self.stem(x)
        middle = self.middle(stem)
        out = self._up(self.up_middle(self.deep(middle)), middle)
        out = self._up(self.up_stem(self.refine_middle(out)), stem)
        return self._up(self.classify(self.refine_stem(out)), x)

    def _up(self, x: Tensor, like: Tensor) -> Tensor:
        out = F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
        return out + like if out.shape == like.shape else out


class Bottleneck(nn.Module):
    """1x1, a kernel in the middle with a quarter of the channels, 1x1, and the input added.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        stride: Of the block.
        dilation: Of the 3x3 kernel.
        asymmetric: 5x1 and 1x5 in place of 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        asymmetric: bool = False,
    ) -> None:
        super().__init__()
        inner = max(4, out_channels // 4)
        self.reduce = conv_norm(in_channels, inner, 1)
        if asymmetric:
            self.kernel = nn.Sequential(
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(inplace=True),
            )
        else:
            self.kernel = conv_norm(inner, inner, 3, stride, dilation)
        self.expand = conv_norm(inner, out_channels, 1, relu=False)
        self.beside = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else conv_norm(in_channels, out_channels, 1, stride, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, out_channels, h / stride, w / stride)``."""
        return torch.relu(self.expand(self.kernel(self.reduce(x))) + self.beside(x))
