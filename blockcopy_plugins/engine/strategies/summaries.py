"""Ops that reduce a whole map, or its lines: by sums, means and maxima of blocks."""

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
from ..torch_internals import named_arguments
from .op_table import on_blocks
from .pooling import avg_pool, max_pool_values

aten = torch.ops.aten

_SUMS = (aten.mean.dim, aten.sum.dim_IntList, aten.linalg_vector_norm.default)
_AXES = ("NCHW", "NHWC", "NCL", "NLC")
_SUMMED_DTYPES = (torch.float32, torch.bfloat16)
# Smallest block whose sums are kept: below it is slower, measured with 96 to 960 channels.
_LEAST_PIXELS = 64
# The same where there is a kernel for the sums alone.
_LEAST_PIXELS_TO_SUM = 4


@on_blocks(aten._adaptive_avg_pool2d.default, any_layout=True)
def adaptive_average(frame: Frame, func, args, kwargs):
    """Adaptive pooling: on blocks if their sides divide into its bins, several in each block."""
    x, size = args
    if x.axes == MAP and not any(n % m for n, m in zip(x.size_of_map, size, strict=True)):
        bins = tuple(n // m for n, m in zip(x.size_of_map, size, strict=True))
        out = avg_pool(frame, aten.avg_pool2d.default, (x, bins, bins), {})
        if isinstance(out, Decline) and 1 in bins and 1 in size:
            return aten.mean.dim(x, [2 + size.index(1)], True)
        return out
    return Decline("its bins differ in size")


@on_blocks(aten.adaptive_max_pool2d.default, any_layout=True)
def adaptive_maximum(frame: Frame, func, args, kwargs):
    """Adaptive pooling, usually to a few pixels; where the maxima are is found on the whole map."""
    return Decline("no strategy for this op")


def over_all_pixels(frame: Frame, func, args, kwargs) -> Tensor | Decline:
    """Mean, sum, maximum or Euclidean norm of each channel over all pixels of the map.

    Squeeze and excitation reads means, a global response norm reads norms. The state keeps the
    sums of each block's channels. Those of executed blocks are computed again; with the kept ones
    of the others they give the sums of the map, which is neither read nor kept. A coordinate
    attention reads the means of each row and of each column: the state keeps those of blocks.

    Returns:
        One value for each image and channel, or for each line; why not for any other op.
    """
    if func not in (*_SUMS, aten.amax.default) or not isinstance(args[0], BlockTensor):
        return Decline("it mixes pixels or images")
    x, given = args[0], named_arguments(func, args, kwargs)
    dims = [dim % x.dim() for dim in given["dim"] or ()]
    if type(x) is BlockTensor and x.axes == MAP and given.get("dtype") is None:
        if func is aten.amax.default and set(dims) == {2, 3}:
            return _over_parts(frame, func, args, dims, given["keepdim"])
        if func in (aten.mean.dim, aten.sum.dim_IntList) and dims in ([2], [3]):
            return _over_parts(frame, func, args, dims, given["keepdim"])
    if func is aten.amax.default:
        return Decline("it mixes pixels or images")
    if (
        isinstance(x, DenseOnUse)
        or x.axes not in _AXES
        or not x.is_floating_point()
        or {x.axes[dim] for dim in dims} not in ({"H", "W"}, {"L"})
        or given.get("dtype") is not None
        or given.get("ord", 2) != 2
    ):
        return Decline("it mixes pixels or images")
    is_norm = func is aten.linalg_vector_norm.default
    is_summed = not is_norm and x.device.type == "cpu" and x.dtype in _SUMMED_DTYPES
    if prod(x.block) < (_LEAST_PIXELS_TO_SUM if is_summed else _LEAST_PIXELS):
        return Decline("its blocks are so small that their sums take longer than those of the map")
    layout = x.block_layout
    scale = 1.0 / prod(x.size_of_map) if func is aten.mean.dim else 1.0
    if is_summed:
        places = None if frame.whole else layout.by_image
        map_ = x.packed_map()
        sums = ops.block_sums(map_, places, x.block, layout.blocks, x.size_of_map, scale)
    else:
        sums = _sums_of_blocks(frame, x, is_norm) * scale
    kept = frame.keep(BlockTensor(sums, layout.blocks, (1, 1), frame), str(func))
    keeps = bool(given.get("keepdim"))
    out = frame.in_batch_order(kept.map).sum((2, 3), keepdim=keeps and sorted(dims) == [2, 3])
    if is_norm:
        out = out.sqrt()
    for dim in sorted(dims) if keeps and out.dim() == 2 else ():
        out = out.unsqueeze(dim)
    return frame.derived(out.to(x.dtype), func, args)


def _over_parts(frame: Frame, func, args, dims: list[int], keepdim: bool) -> Tensor | Decline:
    """Maxima of a map, or means or sums of its rows or columns, by those of each block."""
    x = args[0]
    parts = [x.block[axis] if 2 + axis in dims else 1 for axis in (0, 1)]
    if prod(x.block) < _LEAST_PIXELS:
        return Decline("its blocks are so small that their parts take longer than the map")
    if any(x.size_of_map[dim - 2] % x.block[dim - 2] for dim in dims):
        return Decline("its last blocks reach beyond the map")
    if func is aten.amax.default:
        reduced = max_pool_values(frame, aten.max_pool2d.default, (x, parts, parts), {})
    else:
        reduced = avg_pool(frame, aten.avg_pool2d.default, (x, parts, parts), {})
    if isinstance(reduced, Decline):
        return reduced
    kept = frame.in_batch_order(frame.keep(reduced, str(func)).map)
    if func is aten.amax.default:
        out = kept.amax(dims, keepdim)
    else:
        out = kept.mean(dims, keepdim)
        if func is aten.sum.dim_IntList:
            out = out * x.size_of_map[dims[0] - 2]
    return frame.derived(out, func, args)


def _sums_of_blocks(frame: Frame, x: BlockTensor, squared: bool) -> Tensor:
    """Sums of the channels of each block, or of their squares, as a map of one pixel for each."""
    layout, map_ = x.block_layout, x.packed_map()
    channels = map_.shape[1]
    places = None if frame.whole else layout.by_image
    moments = ops.block_moments(map_, places, x.block, layout.blocks, x.size_of_map, channels)
    count, means = moments[:, :1], moments[:, 1 : 1 + channels]
    sums = moments[:, 1 + channels :] + count * means.square() if squared else means * count
    # float32 at least, as in torch: kept in float64 they would be as large as small blocks.
    sums = sums.to(torch.promote_types(x.dtype, torch.float32))
    if frame.whole:
        return sums.view(frame.images, *layout.blocks, -1).permute(0, 3, 1, 2)
    return sums[:, :, None, None]
