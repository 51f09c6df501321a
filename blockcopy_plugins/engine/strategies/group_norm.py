"""Group norm: statistics of the whole map, for which only executed blocks are read again."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from .groups_as_images import takes_groups
from .op_table import on_blocks

aten = torch.ops.aten


@on_blocks(aten.native_group_norm.default)
@takes_groups
def group_norm(frame: Frame, func, args, kwargs):
    """Group norm by the statistics of the kept map.

    The state keeps the count, mean and spread of each block's groups. Those of executed
    blocks are computed again; with the kept ones of the others they give the statistics of the
    whole map.
    """
    x, weight, bias, _, channels, _, groups, eps = args
    if isinstance(x, DenseOnUse) or not x.axes.startswith("NC"):
        return Decline("group norm of a view of a map whose channels come later")
    if x.axes != MAP:
        return _of_view(frame, func, args, kwargs)
    layout = x.block_layout
    places = None if frame.whole else layout.by_image
    moments = moments_of_blocks(frame, x, groups)
    kept = frame.keep(BlockTensor(moments, layout.blocks, (1, 1), frame), str(func))
    mean, variance = mean_and_variance(frame.in_batch_order(kept.map))
    rstd = (variance + eps).rsqrt()
    scale = rstd.repeat_interleave(channels // groups, 1)
    if weight is not None:
        scale = scale * weight
    shift = -mean.repeat_interleave(channels // groups, 1) * scale
    if bias is not None:
        shift = shift + bias
    out = ops.scale_shift(x.packed, places, scale, shift)
    work = torch.promote_types(x.dtype, torch.float32)
    return x.like(out), mean.to(work), rstd.to(work)


def _of_view(frame: Frame, func, args, kwargs):
    """Group norm of a view whose groups are the map's, with more of other channels in each."""
    x, weight, bias, images, channels, pixels, groups, eps = args
    packed = x.packed_map()
    times = packed.shape[1] // channels
    map_ = BlockTensor(packed, x.size_of_map, x.block, frame)
    weight, bias = (v if v is None else v.repeat_interleave(times) for v in (weight, bias))
    args = (map_, weight, bias, images, channels * times, pixels // times, groups, eps)
    out, *statistics = group_norm(frame, func, args, kwargs)
    return x.like(x.in_its_form(out.packed)), *statistics


def moments_of_blocks(frame: Frame, x: BlockTensor, groups: int) -> Tensor:
    """Count, means and spreads of the groups of each block, as a map of one pixel for each."""
    layout = x.block_layout
    places = None if frame.whole else layout.by_image
    found = ops.block_moments(x.packed_map(), places, x.block, layout.blocks, x.size_of_map, groups)
    if frame.whole:
        return found.view(frame.images, *layout.blocks, -1).permute(0, 3, 1, 2)
    return found[:, :, None, None]


def mean_and_variance(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(N, groups)`` of images from the moments ``(N, 1 + 2 * groups, GH, GW)``.

    Blocks are combined by the distances of their means (Chan, Golub and LeVeque 1983),
    without differences of large sums.
    """
    groups = blocks.shape[1] // 2
    count, mean, squares = blocks.flatten(2).split((1, groups, groups), 1)
    total = count.sum(2)
    overall = (count * mean).sum(2) / total
    apart = (count * (mean - overall[:, :, None]).square()).sum(2)
    return overall, (squares.sum(2) + apart) / total
