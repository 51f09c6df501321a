"""CSP: a pedestrian detector that finds each person's centre, height and offset, without anchors.

"High-level Semantic Feature Detection: A New Perspective for Pedestrian Detection", Liu, Liao, Ren,
Hu and Yu, CVPR 2019, with ResNet-50 and the norms of Pedestron.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import scaled
from .resnet import ResNet


class Csp(nn.Module):
    """Trunk, neck and head; what finds the boxes in their maps is no part of it.

    Args:
        width: Factor of all channels but those of the three results.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(256, width)
        # The last stage keeps the stride of 16.
        self.trunk = ResNet(50, width, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
        # From strides of 8, 16 and 16 to 4.
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(c, channels, 4, stride, padding)
            for c, stride, padding in zip(
                self.trunk.channels[1:], (2, 4, 4), (1, 0, 0), strict=True
            )
        )
        self.norms = nn.ModuleList(PixelL2Norm(channels) for _ in self.upsamplings)
        joined = len(self.upsamplings) * channels
        self.center = _branch(joined, channels, 1)
        self.scale = _branch(joined, channels, 1)
        self.offset = _branch(joined, channels, 2)

    def forward(self, frame: Tensor) -> dict[str, Tensor]:
        """Run the part of the detector that makes maps.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            At a quarter of the resolution, rounded up to whole cells of the stride of 8: ``center``
            ``(N, 1, h, w)``, logits, ``scale`` ``(N, 1, h, w)``, logs of heights, and ``offset``
            ``(N, 2, h, w)``.
        """
        maps = [
            norm(upsampling(x))
            for norm, upsampling, x in zip(
                self.norms, self.upsamplings, self.trunk(frame)[1:], strict=True
            )
        ]
        height, width = maps[0].shape[2:]
        # Where the stride of 16 does not divide the frame, its levels reach further.
        joined = torch.cat([x[..., :height, :width] for x in maps], 1)
        return {
            "center": self.center(joined),
            "scale": self.scale(joined),
            "offset": self.offset(joined),
        }


class PixelL2Norm(nn.Module):
    """Scale each pixel's vector of channels to length 1, and each channel by a learned weight.

    Args:
        channels: Of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weights to the 10 that training starts with."""
        nn.init.constant_(self.weight, 10.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a map ``(N, C, H, W)``, in float32 at least: squares of halves overflow."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length = wide.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
        return (wide / length * self.weight[:, None, None]).to(x.dtype)


def _branch(in_channels: int, channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(math.gcd(32, channels), channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, out_channels, 3, padding=1),
    )
