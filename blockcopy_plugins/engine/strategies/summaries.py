"""Ops that reduce a whole map: means by the sums of its blocks, others on the map itself."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ... import ops
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from .op_table import on_blocks

aten = torch.ops.aten

# Smallest block whose sums are kept: below it is slower, measured with 96 to 960 channels.
_LEAST_PIXELS = 64


@on_blocks(aten._adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default, any_layout=True)
def summary(frame: Frame, func, args, kwargs):
    """Adaptive pooling, usually to a few pixels."""
    return Decline("no strategy for this op")


def over_all_pixels(frame: Frame, func, args, kwargs) -> Tensor | Decline:
    """Mean or sum of each channel over the whole map, as squeeze and excitation reads it.

    The state keeps the sums of each block's channels. Those of executed blocks are computed
    again; with the kept ones of the others they give the sums of the map, which is neither read
    nor kept.

    Returns:
        ``(N, C)``, or ``(N, C, 1, 1)`` with ``keepdim``; why not for any other op.
    """
    if func not in (aten.mean.dim, aten.sum.dim_IntList):
        return Decline("it mixes pixels or images")
    x, dims, keepdim = (*args, None, False)[:3]
    keepdim = kwargs.get("keepdim", keepdim)
    if (
        not isinstance(x, BlockTensor)
        or isinstance(x, DenseOnUse)
        or x.axes != MAP
        or not x.is_floating_point()
        or dims is None
        or sorted(dim % 4 for dim in dims) != [2, 3]
        or kwargs.get("dtype") is not None
    ):
        return Decline("it mixes pixels or images")
    if prod(x.block) < _LEAST_PIXELS:
        return Decline("its blocks are so small that their sums take longer than those of the map")
    layout, channels = x.block_layout, x.shape[1]
    places = None if frame.whole else layout.by_image
    moments = ops.block_moments(x.packed, places, x.block, layout.blocks, x.size_of_map, channels)
    sums = moments[:, 1 : 1 + channels] * moments[:, :1]
    # float32 at least, as in torch: kept in float64 they would be as large as small blocks.
    sums = sums.to(torch.promote_types(x.dtype, torch.float32))
    if frame.whole:
        sums = sums.view(frame.images, *layout.blocks, -1).permute(0, 3, 1, 2)
    else:
        sums = sums[:, :, None, None]
    kept = frame.keep(BlockTensor(sums, layout.blocks, (1, 1), frame), str(func))
    out = frame.in_batch_order(kept.map).sum((2, 3), keepdim=bool(keepdim))
    if func is aten.mean.dim:
        out = out / (x.size_of_map[0] * x.size_of_map[1])
    return frame.derived(out.to(x.dtype), func, args)
