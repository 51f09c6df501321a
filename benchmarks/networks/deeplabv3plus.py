"""DeepLabV3+ with ResNet-50 at output stride 8, as MMSegmentation has it.

"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", Chen, Zhu,
Papandreou, Schroff and Adam, ECCV 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm, scaled
from .resnet import ResNet

_CLASSES = 19  # Cityscapes'.


class DeepLabV3Plus(nn.Module):
    """A segmentor with logits at a quarter of the frame's resolution.

    Args:
        width: Factor of all channels but the classes.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels, skip_channels = scaled(512, width), scaled(48, width)
        self.trunk = ResNet(
            50,
            width,
            strides=(1, 2, 1, 1),
            dilations=(1, 1, 2, 4),
            contract_dilation=True,
            deep_stem=True,
        )
        self.pyramid = AtrousSpatialPyramidPooling(self.trunk.channels[3], channels)
        self.skip = conv_norm(self.trunk.channels[0], skip_channels, 1)
        self.decode = nn.Sequential(
            *separable(channels + skip_channels, channels), *separable(channels, channels)
        )
        self.classify = nn.Conv2d(channels, _CLASSES, 1)

    def forward(self, frame: Tensor) -> Tensor:
        """Classify pixels.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            Logits ``(N, 19, H / 4, W / 4)``, rounded up.
        """
        fine, _, _, coarse = self.trunk(frame)
        skip = self.skip(fine)
        context = F.interpolate(self.pyramid(coarse), skip.shape[2:], mode="bilinear")
        return self.classify(self.decode(torch.cat([context, skip], 1)))


class AtrousSpatialPyramidPooling(nn.Module):
    """The mean of the image, a 1x1 convolution and dilated separable ones, side by side, fused.

    Args:
        in_channels: Of the map.
        channels: Of each part, and of the result.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv_norm(in_channels, channels, 1)
        )
        self.parts = nn.ModuleList(
            [
                conv_norm(in_channels, channels, 1),
                *(separable(in_channels, channels, dilation) for dilation in (12, 24, 36)),
            ]
        )
        self.fuse = conv_norm((len(self.parts) + 1) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, in_channels, H, W)`` to ``(N, channels, H, W)``."""
        image = F.interpolate(self.image_pool(x), x.shape[2:], mode="bilinear")
        return self.fuse(torch.cat([image, *(part(x) for part in self.parts)], 1))


def separable(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """A depthwise 3x3 and a 1x1 convolution, each with batch norm and ReLU.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        dilation: Of the depthwise convolution.

    Returns:
        The layers.
    """
    return nn.Sequential(
        conv_norm(in_channels, in_channels, 3, dilation=dilation, groups=in_channels),
        conv_norm(in_channels, out_channels, 1),
    )
