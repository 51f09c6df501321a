"""Layers that several networks are made of."""

from __future__ import annotations

import math

from torch import nn


def scaled(channels: int, width: float) -> int:
    """Channels of a layer in a network of another width.

    Args:
        channels: Of the published network.
        width: Factor, above 0.

    Returns:
        The nearest multiple of 4, at least 4.

    Raises:
        ValueError: If the factor is no finite number above 0.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(
            f"width is {width!r}, expected a finite factor above 0, 1 for all channels"
        )
    return max(4, 4 * round(channels * width / 4))


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, unless told otherwise, ReLU.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the kernel, odd.
        stride: Of the convolution.
        dilation: Of the convolution; the padding keeps the map's size at stride 1.
        groups: Of the convolution.
        relu: Whether a ReLU, in place, comes last.

    Returns:
        The layers.
    """
    layers = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            dilation * (kernel // 2),
            dilation,
            groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
