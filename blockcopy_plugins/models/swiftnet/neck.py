"""SwiftNet's decoder: pyramid pooling, then upsampling with lateral connections."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS

from .norm_relu_conv import norm_relu_conv
from .spatial_pyramid_pooling import SpatialPyramidPooling


@MODELS.register_module()
class SwiftNetNeck(BaseModule):
    """Turns the maps of an encoder into one map of the finest's size.

    Args:
        in_channels: Channels of each map, finest first.
        channels: Channels of all maps of the decoder.
        grids: Cells of the pyramid's grids, see :class:`SpatialPyramidPooling`.
        norm_cfg: Norms of the upsampling modules.
        pooling_norm_cfg: Norms of the pyramid; by default slow to adapt, like the authors'.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.

    Raises:
        ConfigError: If there are fewer than two maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 128, 256, 512),
        channels: int = 128,
        grids: Sequence[int] = (8, 4, 2),
        norm_cfg: dict | None = None,
        pooling_norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) < 2:
            raise ConfigError(
                f"in_channels is {tuple(in_channels)!r}, expected the channels of two maps or more"
            )
        norm_cfg = norm_cfg or {"type": "BN"}
        self.spp = SpatialPyramidPooling(
            in_channels[-1], channels, channels, grids, pooling_norm_cfg
        )
        self.upsamplings = nn.ModuleList(
            LateralUpsampling(skip_channels, channels, norm_cfg)
            for skip_channels in reversed(in_channels[:-1])
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Decode.

        Args:
            inputs: Maps ``(N, C, H, W)``, finest first.

        Returns:
            One map ``(N, channels, H, W)`` of the finest's size.

        Raises:
            ConfigError: If there are more or fewer maps than ``in_channels`` has.
        """
        if len(inputs) != len(self.upsamplings) + 1:
            raise ConfigError(
                f"the neck takes {len(self.upsamplings) + 1} maps, but the backbone gives "
                f"{len(inputs)}; set the backbone's out_indices or the neck's in_channels"
            )
        x = self.spp(inputs[-1])
        for upsampling, skip in zip(self.upsamplings, reversed(inputs[:-1]), strict=True):
            x = upsampling(x, skip)
        return (x,)


class LateralUpsampling(BaseModule):
    """Bring a map to the size of a finer one, add that one, blend.

    Args:
        skip_channels: Channels of the finer map.
        channels: Channels of the coarser map and of the result.
        norm_cfg: The norms.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.
    """

    def __init__(
        self,
        skip_channels: int,
        channels: int,
        norm_cfg: dict,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.lateral = norm_relu_conv(skip_channels, channels, 1, norm_cfg)
        self.blend = norm_relu_conv(channels, channels, 3, norm_cfg)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Upsample.

        Args:
            x: The coarser map ``(N, channels, h, w)``.
            skip: The finer one, ``(N, skip_channels, H, W)``.

        Returns:
            Map ``(N, channels, H, W)``.
        """
        skip = self.lateral(skip)
        size = tuple(skip.shape[2:])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return self.blend(x + skip)
