"""ResNet without its classifier: the trunk of most networks here.

"Deep Residual Learning for Image Recognition", He, Zhang, Ren and Sun, CVPR 2016, with the stride
of a bottleneck in its 3x3 convolution, as in torchvision and OpenMMLab.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_norm, scaled

# Units of each stage.
_UNITS = MappingProxyType({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)})


class ResNet(nn.Module):
    """The four stages of a ResNet.

    Args:
        depth: 18, 34 or 50.
        width: Factor of all channels.
        strides: Of the first unit of each stage.
        dilations: Of the 3x3 convolutions of each stage, in basic units of the first alone.
        contract_dilation: Halve a stage's dilation in its first unit, as MMSegmentation does.
        deep_stem: Three 3x3 convolutions in place of the stem's one of 7x7 (ResNet-C).

    Attributes:
        channels: Of each stage's output.

    Raises:
        ValueError: If there is no network of that depth.
    """

    def __init__(
        self,
        depth: int,
        width: float = 1.0,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        contract_dilation: bool = False,
        deep_stem: bool = False,
    ) -> None:
        super().__init__()
        if depth not in _UNITS:
            raise ValueError(f"depth is {depth!r}, expected one of {', '.join(map(str, _UNITS))}")
        stem = scaled(64, width)
        if deep_stem:
            half = scaled(32, width)
            self.stem = nn.Sequential(
                conv_norm(3, half, 3, stride=2), conv_norm(half, half, 3), conv_norm(half, stem, 3)
            )
        else:
            self.stem = conv_norm(3, stem, 7, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        make_unit, expansion = (_bottleneck_unit, 4) if depth >= 50 else (_basic_unit, 1)
        inner = [scaled(c, width) for c in (64, 128, 256, 512)]
        self.channels = tuple(c * expansion for c in inner)
        self.stages = nn.ModuleList()
        before = stem
        for channels, after, units, stride, dilation in zip(
            inner, self.channels, _UNITS[depth], strides, dilations, strict=True
        ):
            first = dilation // 2 if contract_dilation and dilation > 1 else dilation
            self.stages.append(
                nn.Sequential(
                    make_unit(before, channels, stride, first),
                    *(make_unit(after, channels, 1, dilation) for _ in range(units - 1)),
                )
            )
            before = after

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            frame: Images ``(N, 3, H, W)``.

        Returns:
            The output of each stage; of stage i ``(N, channels[i], H / s, W / s)`` rounded up, with
            s = 4, 8, 16, 32 for the usual strides.
        """
        x = self.pool(self.stem(frame))
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)


class ResidualUnit(nn.Module):
    """``relu(branch(x) + shortcut(x))``.

    Args:
        branch: Convolutions.
        shortcut: What brings ``x`` to the branch's shape, or nothing.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, C_in, H, W)`` to ``(N, C_out, H / stride, W / stride)``, rounded up."""
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


def _basic_unit(in_channels: int, channels: int, stride: int, dilation: int) -> ResidualUnit:
    branch = nn.Sequential(
        conv_norm(in_channels, channels, 3, stride, dilation),
        conv_norm(channels, channels, 3, relu=False),
    )
    return ResidualUnit(branch, _shortcut(in_channels, channels, stride))


def _bottleneck_unit(in_channels: int, channels: int, stride: int, dilation: int) -> ResidualUnit:
    branch = nn.Sequential(
        conv_norm(in_channels, channels, 1),
        conv_norm(channels, channels, 3, stride, dilation),
        conv_norm(channels, 4 * channels, 1, relu=False),
    )
    return ResidualUnit(branch, _shortcut(in_channels, 4 * channels, stride))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_norm(in_channels, out_channels, 1, stride, relu=False)
