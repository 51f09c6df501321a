"""The strategies of all ops that run on blocks, one family of ops per file."""

from __future__ import annotations

from . import (
    attention,
    channels,
    convolution,
    copies,
    group_norm,
    padding,
    pixels,
    pointwise,
    pooling,
    resize,
    sampling,
    summaries,
    tokens,
    windows,
)
from .op_table import OpTable

OPS = OpTable(
    (
        pointwise,
        copies,
        channels,
        attention,
        sampling,
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
"""The table of ops. Of several strategies for an op the last file's counts, and calls the
others."""
