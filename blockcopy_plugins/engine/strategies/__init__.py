"""The strategies of all ops that run on blocks, a family of ops in each file."""

from __future__ import annotations

from . import (
    attention,
    channels,
    convolution,
    group_norm,
    padding,
    pixels,
    pointwise,
    pooling,
    resize,
    summaries,
    tokens,
    windows,
)
from .op_table import OpTable

OPS = OpTable(
    (
        pointwise,
        channels,
        attention,
        convolution,
        pooling,
        group_norm,
        resize,
        padding,
        pixels,
        summaries,
        windows,
        tokens,
    ),
    elementwise=pointwise.pointwise,
)
"""The table of ops; slices of rows and columns stand behind those of channels,
and ops that cut maps into windows or tokens behind those that need none."""
