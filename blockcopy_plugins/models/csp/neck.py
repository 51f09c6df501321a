"""CSP's neck: features of several strides, brought to one and concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS

# Upsampling to the padding of a transposed convolution of 4x4 with that stride.
_PADDING = {2: 1, 4: 0}


@MODELS.register_module()
class CSPNeck(BaseModule):
    """Upsample each level by a transposed convolution, L2-normalise its pixels, concatenate.

    Args:
        in_channels: Channels of each level.
        out_channels: Channels of each level after the transposed convolution.
        upsample: Factor of each level, 2 (4x4, stride 2, padding 1) or 4 (4x4, stride 4). The
            results must have the same stride: levels of strides 8, 16 and 16 by 2, 4, 4 give
            stride 4.
        norm_scale: Initial value of the learned length of a normalised pixel.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.

    Raises:
        ConfigError: If there are not as many factors as levels, or one is neither 2 nor 4.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 1024, 2048),
        out_channels: int = 256,
        upsample: Sequence[int] = (2, 4, 4),
        norm_scale: float = 10.0,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(upsample) != len(in_channels) or not set(upsample) <= set(_PADDING):
            raise ConfigError(
                f"upsample must have a 2 or a 4 for each of the {len(in_channels)} levels of "
                f"in_channels, but got {list(upsample)!r}"
            )
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(channels, out_channels, 4, stride=factor, padding=_PADDING[factor])
            for channels, factor in zip(in_channels, upsample, strict=True)
        )
        self.norms = nn.ModuleList(PixelL2Norm(out_channels, norm_scale) for _ in in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Join the levels.

        Args:
            inputs: A map ``(N, C, H, W)`` for each level, finest first. Their sizes are those of
                the strides in ``upsample``, rounded up.

        Returns:
            One map ``(N, levels * out_channels, 2 H, 2 W)``, or ``4 H`` if the finest is upsampled
            by 4. If coarser levels, rounded up, reach further, they are cut.

        Raises:
            ConfigError: If there are more or fewer maps than levels.
        """
        if len(inputs) != len(self.upsamplings):
            raise ConfigError(
                f"the neck has {len(self.upsamplings)} levels, but the backbone gives "
                f"{len(inputs)}; set the backbone's out_indices or the neck's in_channels"
            )
        maps = [
            norm(upsampling(x))
            for x, upsampling, norm in zip(inputs, self.upsamplings, self.norms, strict=True)
        ]
        height, width = maps[0].shape[2:]
        maps = [x if x.shape[2:] == (height, width) else x[..., :height, :width] for x in maps]
        return (torch.cat(maps, 1),)


class PixelL2Norm(nn.Module):
    """Scale each pixel's vector of channels to length 1, and each channel by a learned weight.

    MMDetection's ``L2Norm`` expands its weight over the whole map, of which blocks are only a small
    part.

    Args:
        channels: Channels of the map.
        scale: Initial value of the weights.
    """

    eps = 1e-10

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: Map ``(N, C, H, W)``.

        Returns:
            A map of the same shape and dtype; computed in float32 at least, because squares of half
            precision overflow.
        """
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        length = wide.pow(2).sum(1, keepdim=True).sqrt() + self.eps
        return (wide / length * self.weight[:, None, None]).to(x.dtype)
