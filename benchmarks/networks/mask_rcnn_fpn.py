"""Mask R-CNN with ResNet-50 and a feature pyramid, up to its region proposals' maps.

"Mask R-CNN", He, Gkioxari, Dollar and Girshick, ICCV 2017, with "Feature Pyramid Networks for
Object Detection", Lin et al., CVPR 2017. Proposals, RoI heads and non-maximum suppression take what
comes out here and work on boxes, so they are no part of it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import scaled
from .resnet import ResNet

_ANCHORS = 3  # Of each cell: one size, three aspect ratios.


class MaskRcnnFpn(nn.Module):
    """Trunk, feature pyramid and the head of the region proposals.

    Args:
        width: Factor of all channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(256, width)
        self.trunk = ResNet(50, width)
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in self.trunk.channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in self.trunk.channels
        )
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_objectness = nn.Conv2d(channels, _ANCHORS, 1)
        self.rpn_deltas = nn.Conv2d(channels, 4 * _ANCHORS, 1)

    def forward(self, frame: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """Run the part of the detector that makes maps.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            Of the levels P2 to P6, of strides 4 to 64, sizes rounded up: ``features`` ``(N, 256, h,
            w)``, ``objectness`` ``(N, 3, h, w)``, logits, and ``deltas`` ``(N, 12, h, w)``.
        """
        merged = [lateral(x) for lateral, x in zip(self.laterals, self.trunk(frame), strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            size = merged[level - 1].shape[2:]
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size)
        features = [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]
        features.append(F.max_pool2d(features[-1], 1, 2))
        hidden = [F.relu(self.rpn_conv(x), inplace=True) for x in features]
        return {
            "features": tuple(features),
            "objectness": tuple(self.rpn_objectness(x) for x in hidden),
            "deltas": tuple(self.rpn_deltas(x) for x in hidden),
        }
