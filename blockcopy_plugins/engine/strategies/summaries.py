"""Ops that reduce a whole map, or its lines: by sums, moments and extremes of blocks."""

from __future__ import annotations

import re
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from ..torch_internals import named_arguments
from .group_norm import mean_and_variance, moments_of_blocks
from .op_table import on_blocks
from .pool_indices import indices_on_use
from .pooling import avg_pool

aten = torch.ops.aten

_SUMS = (aten.mean.dim, aten.sum.dim_IntList, aten.linalg_vector_norm.default)
_SPREADS = (aten.var.correction, aten.std.correction, aten.var_mean.correction)
_EXTREMES = (aten.amax.default, aten.amin.default)
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
    """Adaptive pooling to one pixel; where the maxima are is found on the whole map if it is read.

    To several pixels it runs on the whole map.
    """
    x, size = args
    if x.axes != MAP or tuple(size) != (1, 1):
        return Decline("its bins differ in size")
    values = aten.amax.default(x, [2, 3], True)
    none = BlockTensor(x.packed.new_empty((0, x.shape[1], 1, 1)), (1, 1), (1, 1), frame)
    how = (x.size_of_map, x.size_of_map, (0, 0), (1, 1), (1, 1))
    return values, indices_on_use(frame, func, args, kwargs, none, how, local=False)


def over_all_pixels(frame: Frame, func, args, kwargs):
    """Mean, sum, spread, extreme or Euclidean norm of each channel over all pixels of the map.

    Squeeze and excitation reads means, a global response norm reads norms, a norm written out
    reads means and variances. The state keeps the sums of each block's channels. Those of executed
    blocks are computed again; with the kept ones of the others they give the sums of the map, which
    is neither read nor kept. So it is with moments and extremes, and with the means of each row
    and of each column, which a coordinate attention reads.

    Returns:
        One value for each image and channel, or for each line; why not for any other op.
    """
    known = func in (*_SUMS, *_SPREADS, *_EXTREMES)
    if not known or not isinstance(args[0], BlockTensor):
        return Decline("it mixes pixels or images")
    x, given = args[0], named_arguments(func, args, kwargs)
    dims = [dim % x.dim() for dim in given["dim"] or ()]
    if type(x) is BlockTensor and x.axes == MAP and given.get("dtype") is None:
        if func in (aten.mean.dim, aten.sum.dim_IntList) and dims in ([2], [3]):
            return _over_lines(frame, func, args, dims, given["keepdim"])
    if (
        isinstance(x, DenseOnUse)
        or re.fullmatch("N(C*(HW|L)|(HW|L)C*)", x.axes) is None
        or not x.is_floating_point()
        or {x.axes[dim] for dim in dims} not in ({"H", "W"}, {"L"})
        or given.get("dtype") is not None
        or given.get("ord", 2) != 2
    ):
        return Decline("it mixes pixels or images")
    is_summed = func in (aten.mean.dim, aten.sum.dim_IntList)
    is_summed = is_summed and x.device.type == "cpu" and x.dtype in _SUMMED_DTYPES
    if prod(x.block) < (_LEAST_PIXELS_TO_SUM if is_summed else _LEAST_PIXELS):
        return Decline("its blocks are so small that their sums take longer than those of the map")
    if func in _EXTREMES:
        of_blocks = _extremes_of_blocks(frame, x, func)
    elif func in _SPREADS:
        of_blocks = moments_of_blocks(frame, x, x.packed_map().shape[1])
    else:
        of_blocks = _sums_of_blocks(frame, x, func, is_summed)
    kept = frame.keep(BlockTensor(of_blocks, x.block_layout.blocks, (1, 1), frame), str(func))
    results = _of_whole_map(func, frame.in_batch_order(kept.map), x, given)
    keeps = sorted(dims) if given.get("keepdim") else ()

    def shown(value: Tensor) -> Tensor:
        value = value.to(x.dtype).view([n for i, n in enumerate(x.shape) if i not in dims])
        for dim in keeps:
            value = value.unsqueeze(dim)
        return value

    out = tuple(map(shown, results))
    return frame.derived(out if len(out) > 1 else out[0], func, args)


def _of_whole_map(func, kept: Tensor, x: BlockTensor, given) -> tuple[Tensor, ...]:
    """Results ``(N, C)`` of a map from those of its blocks, ``(N, ..., GH, GW)``."""
    if func in _EXTREMES:
        return (func(kept, [2, 3]),)
    if func in _SUMS:
        out = kept.sum((2, 3))
        return (out.sqrt() if func is aten.linalg_vector_norm.default else out,)
    mean, variance = mean_and_variance(kept)
    pixels = prod(x.size_of_map)
    correction = 1 if given.get("correction") is None else given["correction"]
    variance = variance * pixels / max(pixels - correction, 0) if pixels > correction else None
    if variance is None:
        variance = torch.full_like(mean, float("nan"))
    if func is aten.std.correction:
        variance = variance.sqrt()
    return (variance, mean) if func is aten.var_mean.correction else (variance,)


def _over_lines(frame: Frame, func, args, dims: list[int], keepdim: bool) -> Tensor | Decline:
    """Means or sums of the rows or columns of a map, by those of each block."""
    x = args[0]
    parts = [x.block[axis] if 2 + axis in dims else 1 for axis in (0, 1)]
    if prod(x.block) < _LEAST_PIXELS:
        return Decline("its blocks are so small that their parts take longer than the map")
    if any(x.size_of_map[dim - 2] % x.block[dim - 2] for dim in dims):
        return Decline("its last blocks reach beyond the map")
    reduced = avg_pool(frame, aten.avg_pool2d.default, (x, parts, parts), {})
    if isinstance(reduced, Decline):
        return reduced
    kept = frame.in_batch_order(frame.keep(reduced, str(func)).map)
    out = kept.mean(dims, keepdim)
    if func is aten.sum.dim_IntList:
        out = out * x.size_of_map[dims[0] - 2]
    return frame.derived(out, func, args)


def _extremes_of_blocks(frame: Frame, x: BlockTensor, func) -> Tensor:
    """Largest or smallest value of each channel of each block, as a map of a pixel for each."""
    map_ = filled_beyond(frame, x, float("-inf") if func is aten.amax.default else float("inf"))
    if frame.whole:
        blocks = map_.unflatten(3, (-1, x.block[1])).unflatten(2, (-1, x.block[0]))
        return func(blocks, [3, 5])
    return func(map_, [2, 3], True)


def filled_beyond(frame: Frame, x: BlockTensor, value: float) -> Tensor:
    """The packed map, in a whole frame the map of whole blocks, with a value beyond the map."""
    map_, layout = x.packed_map(), x.block_layout
    beyond = [
        count * width - size
        for count, width, size in zip(layout.blocks, x.block, x.size_of_map, strict=True)
    ]
    if frame.whole:
        # All blocks: a pooling of the map would leave out those that have no pixels.
        return F.pad(map_, (0, beyond[1], 0, beyond[0]), value=value) if any(beyond) else map_
    for axis in (0, 1):
        if beyond[axis]:
            pixels = torch.arange(x.block[axis], device=x.device)
            left = x.size_of_map[axis] - layout.index(axis) * x.block[axis]
            outside = (pixels >= left[:, None])[:, None, None]
            map_ = map_.masked_fill(outside.mT if axis == 0 else outside, value)
    return map_


def _sums_of_blocks(frame: Frame, x: BlockTensor, func, is_summed: bool) -> Tensor:
    """Sums of the channels of each block, or of their squares, as a map of one pixel for each.

    Means are sums of what each pixel contributes to them.
    """
    layout, map_ = x.block_layout, x.packed_map()
    scale = 1.0 / prod(x.size_of_map) if func is aten.mean.dim else 1.0
    if is_summed:
        places = None if frame.whole else layout.by_image
        return ops.block_sums(map_, places, x.block, layout.blocks, x.size_of_map, scale)
    channels = map_.shape[1]
    count, means, squares = moments_of_blocks(frame, x, channels).split((1, channels, channels), 1)
    sums = means * count
    if func is aten.linalg_vector_norm.default:
        sums = squares + count * means.square()
    # float32 at least, as in torch: kept in float64 they would be as large as small blocks.
    return sums.to(torch.promote_types(x.dtype, torch.float32)) * scale
