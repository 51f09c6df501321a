"""ERFNet: residual blocks of 3x1 and 1x3 convolutions, dilated, and transposed convolutions.

"ERFNet: Efficient Residual Factorized ConvNet for Real-Time Semantic Segmentation", Romera,
Alvarez, Bergasa and Arroyo, IEEE T-ITS 2018: table I and figure 2. Dropout, which does nothing in
eval mode, is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import scaled

_CLASSES = 19  # Cityscapes'.
_EPS = 1e-3


class ERFNet(nn.Module):
    """Encoder of stride 8, decoder of stride 1.

    Args:
        width: Factor of all channels but those of the result.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        stem, narrow, wide = (scaled(c, width) for c in (16, 64, 128))
        self.encoder = nn.Sequential(
            Downsampler(3, stem),
            Downsampler(stem, narrow),
            *(FactorizedBlock(narrow, 1) for _ in range(5)),
            Downsampler(narrow, wide),
            *(FactorizedBlock(wide, dilation) for dilation in (2, 4, 8, 16) * 2),
        )
        self.decoder = nn.Sequential(
            Upsampler(wide, narrow),
            *(FactorizedBlock(narrow, 1) for _ in range(2)),
            Upsampler(narrow, stem),
            *(FactorizedBlock(stem, 1) for _ in range(2)),
            nn.ConvTranspose2d(stem, _CLASSES, 2, 2),
        )

    def forward(self, frame: Tensor) -> Tensor:
        """Segment.

        Args:
            frame: Images ``(N, 3, H, W)``, H and W multiples of 8.

        Returns:
            Logits ``(N, 19, H, W)``.
        """
        return self.decoder(self.encoder(frame))


class Downsampler(nn.Module):
    """A strided convolution and a pooling side by side.

    Args:
        in_channels: Of the input.
        channels: Of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels - in_channels, 3, 2, 1)
        self.pool = nn.MaxPool2d(2, 2)
        self.norm = nn.BatchNorm2d(channels, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, H / 2, W / 2)``."""
        return F.relu(self.norm(torch.cat([self.conv(x), self.pool(x)], 1)))


class Upsampler(nn.Sequential):
    """A transposed convolution of stride 2, batch norm and ReLU.

    Args:
        in_channels: Of the input.
        channels: Of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(in_channels, channels, 3, 2, 1, 1),
            nn.BatchNorm2d(channels, _EPS),
            nn.ReLU(),
        )


class FactorizedBlock(nn.Module):
    """Two pairs of a 3x1 and a 1x3 convolution, the second dilated, and the input added.

    Args:
        channels: Of input and output.
        dilation: Of the second pair.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels, _EPS),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
            nn.BatchNorm2d(channels, _EPS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, channels, H, W)`` to the same."""
        return F.relu(self.layers(x) + x)
