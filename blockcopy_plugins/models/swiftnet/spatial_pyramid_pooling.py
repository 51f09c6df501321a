"""Context from the whole image: means over grids of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .norm_relu_conv import norm_relu_conv


class SpatialPyramidPooling(BaseModule):
    """Reduce the channels, pool to grids as wide as the image's aspect requires, upsample, fuse.

    Args:
        in_channels: Channels of the map.
        channels: Channels after the reduction.
        out_channels: Channels of the result.
        grids: Cells of each level's grid from top to bottom; from left to right, this number times
            the ratio of the map's width to its height. The authors' list ends with a 1 that their
            three levels do not use.
        norm_cfg: The norm of all layers. The authors' has ``momentum=0.005``.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        out_channels: int = 128,
        grids: Sequence[int] = (8, 4, 2),
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or {"type": "BN", "momentum": 0.005}
        self.grids = tuple(grids)
        level_channels = channels // len(self.grids)
        self.reduce = norm_relu_conv(in_channels, channels, 1, norm_cfg)
        self.levels = nn.ModuleList(
            norm_relu_conv(channels, level_channels, 1, norm_cfg) for _ in self.grids
        )
        joined = channels + len(self.grids) * level_channels
        self.fuse = norm_relu_conv(joined, out_channels, 1, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Add context to each pixel.

        Args:
            x: Map ``(N, in_channels, H, W)``.

        Returns:
            Map ``(N, out_channels, H, W)``.
        """
        height, width = x.shape[2:]
        x = self.reduce(x)
        maps = [x]
        for rows, level in zip(self.grids, self.levels, strict=True):
            grid = (rows, max(1, round(width / height * rows)))
            pooled = level(F.adaptive_avg_pool2d(x, grid))
            size = (height, width)
            maps.append(F.interpolate(pooled, size, mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(maps, 1))
