"""Products of channels with channels: sums over all pixels of a map, by those of blocks."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from .summaries import filled_beyond


def product_over_pixels(frame: Frame, func, first: BlockTensor, second: BlockTensor):
    """``(N, C, L)`` times ``(N, L, D)``, as in attention among channels and linear attention.

    The state keeps the product of each block. Those of executed blocks are computed again; with
    the kept ones of the others they add up to that of the map, which is neither read nor kept.

    Args:
        frame: The frame being run.
        func: The op.
        first: ``(N, C, L)``, or ``(N * heads, C, L)``.
        second: ``(N, L, D)``, or ``(N * heads, L, D)``.

    Returns:
        ``(N, C, D)`` or ``(N * heads, C, D)``, dense; why not if blocks do not fit.
    """
    images, rows, columns = len(first), first.shape[1], second.shape[2]
    if first.block_layout is not second.block_layout or first.frame is not second.frame:
        return Decline("its maps differ in size or block")
    heads = images // frame.images
    pixels = prod(first.block)
    if rows * columns > pixels * (rows + columns):
        return Decline("its blocks are so small that their products are larger than they are")
    one, other = (_blocks(frame, x, heads) for x in (first, second))
    products = one @ other.mT
    layout = first.block_layout
    if frame.whole:
        products = products.flatten(2).mT.unflatten(2, layout.blocks)
    else:
        products = products.reshape(-1, heads * rows * columns, 1, 1)
    # float32 at least: sums of many blocks are rounded once.
    products = products.to(torch.promote_types(first.dtype, torch.float32))
    kept = frame.keep(BlockTensor(products, layout.blocks, (1, 1), frame), str(func))
    per_pixel = heads * rows * columns
    dense = frame.images * prod(first.size_of_map) * per_pixel
    frame.count_blocks(one.numel() * columns, dense, first.block)
    out = frame.in_batch_order(kept.map).sum((2, 3)).view(images, rows, columns)
    return frame.derived(out.to(first.dtype), func, (first, second))


def _blocks(frame: Frame, x: BlockTensor, heads: int) -> Tensor:
    """``(..., heads, channels, pixels)`` of each block, zeros beyond the map."""
    map_ = filled_beyond(frame, x, 0.0)
    if frame.whole:
        blocks = map_.unflatten(3, (-1, x.block[1])).unflatten(2, (-1, x.block[0]))
        map_ = blocks.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return map_.flatten(-2).unflatten(-2, (heads, -1))
