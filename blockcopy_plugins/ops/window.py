"""Index tables: which row (column) of a full map each row (column) of a gathered window reads.

Everything that a spatial op needs to know about halos, strides, dilations and borders is one
integer table per axis. It is made here once per geometry and looked up by
:func:`blockcopy_plugins.ops.gather`. The index arithmetic is therefore in one place for all
devices.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTSIDE = -1
"""Table value of a position outside the image: the gather writes its fill value there."""


def window_table(
    *,
    blocks: int,
    block_out: int,
    size: int,
    kernel: int = 1,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Table of the input window that a sliding-window op needs for each block of its output.

    Output position ``o`` reads input ``o * stride - padding + t * dilation`` for the taps ``t``.
    The window of a block is the contiguous run from the first tap of its first output to the last
    tap of its last.

    Args:
        blocks: Number of blocks along this axis.
        block_out: Width of a block in pixels of the *output* map.
        size: Width of the *input* map in pixels. Positions beyond it are ``OUTSIDE``.
        kernel: Number of taps.
        stride: Step between outputs, in input pixels.
        padding: Padding before the first input pixel.
        dilation: Distance of the taps, in input pixels.

    Returns:
        int32 ``(blocks, (block_out - 1) * stride + (kernel - 1) * dilation + 1)``.
    """
    width = (block_out - 1) * stride + (kernel - 1) * dilation + 1
    start = torch.arange(blocks, device="cpu") * (block_out * stride) - padding
    return _mark_outside(start[:, None] + torch.arange(width, device="cpu"), size)


def tap_table(
    *,
    blocks: int,
    block_out: int,
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Table in which every output pixel has its own taps side by side (the im2col form).

    A convolution of the same kernel with ``stride=kernel, dilation=1`` processes a window that was
    gathered with it. This pays if the dilation is wider than a block, because the contiguous window
    of :func:`window_table` would then consist mostly of pixels that no tap reads.

    The arguments are those of :func:`window_table`.

    Returns:
        int32 ``(blocks, block_out * kernel)``.
    """
    outputs = torch.arange(blocks * block_out, device="cpu").view(blocks, block_out, 1)
    taps = outputs * stride - padding + torch.arange(kernel, device="cpu") * dilation
    return _mark_outside(taps.view(blocks, block_out * kernel), size)


def index_table(*, blocks: int, block_out: int, index: Tensor) -> Tensor:
    """Table that reads ``index[o]`` for output position ``o``: for nearest resizes and the like.

    Args:
        blocks: Number of blocks along this axis.
        block_out: Width of a block in pixels of the output map.
        index: int ``(size_out,)`` input position of each output position.

    Returns:
        int32 ``(blocks, block_out)``; ``OUTSIDE`` beyond the end of ``index``.
    """
    table = torch.full((blocks * block_out,), OUTSIDE, dtype=torch.int32, device="cpu")
    kept = min(len(index), blocks * block_out)
    table[:kept] = index[:kept].to(torch.int32)
    return table.view(blocks, block_out)


def through(table: Tensor, sources: Tensor) -> Tensor:
    """A table for a map that is itself read by index, for example with reflected borders.

    Args:
        table: int32 ``(blocks, width)``, positions in the map as the op sees it.
        sources: int64 ``(size,)``, the place in memory of each of these positions; ``OUTSIDE`` if
            it has none.

    Returns:
        int32 ``(blocks, width)``, places in memory.
    """
    found = sources[table.long().clamp(min=0)]
    return torch.where(table == OUTSIDE, OUTSIDE, found).to(torch.int32).contiguous()


def _mark_outside(positions: Tensor, size: int) -> Tensor:
    inside = (positions >= 0) & (positions < size)
    return torch.where(inside, positions, OUTSIDE).to(torch.int32).contiguous()
