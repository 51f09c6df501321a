"""Pooling: write to the state, gather the blocks with their halo, run unpadded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.block_conv import SlidingWindow
from ..conv.block_windows import gather_windows, is_local, pair, plan_window
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap, PoolIndices
from ..torch_internals import named_arguments
from .groups_as_images import takes_groups
from .op_table import always, on_blocks
from .pool_indices import indices_on_use
from .pool_kernels import pool_by_kernels

aten = torch.ops.aten


@on_blocks(aten.max_pool2d.default, takes_padded=True, cuts=always)
@takes_groups
def max_pool_values(frame: Frame, func, args, kwargs):
    """``F.max_pool2d`` as it arrives in inference mode."""
    out = max_pool(frame, aten.max_pool2d_with_indices.default, args, kwargs)
    return out if isinstance(out, Decline) else out[0]


@on_blocks(aten.max_pool2d_with_indices.default, takes_padded=True, cuts=always)
@takes_groups
def max_pool(frame: Frame, func, args, kwargs):
    """Max pooling. The indices are computed on the whole map if the model reads them."""
    x, kernel, stride, padding, dilation, ceil_mode = _pooling_arguments(func, args, kwargs)
    plan = plan_window(frame, x, kernel, stride, padding, dilation, float("-inf"), ceil_mode)
    if isinstance(plan, Decline):
        return plan
    window, size_out = plan
    local = is_local(x, window, size_out) and not ceil_mode
    out = pool_by_kernels(frame, str(func), x, window, size_out, local)
    if out is not None:
        pass
    elif frame.whole:
        out = _run_whole(frame, func, args, kwargs, local)[0]
    elif local:
        out = func(x.packed, window.kernel, window.stride)[0]
    else:
        gathered = gather_windows(frame, str(func), x, window, size_out, float("-inf"))
        stride, dilation = _after_gather(window)
        out = F.max_pool2d(gathered, window.kernel, stride, 0, dilation)
    values = BlockTensor(out, size_out, window.block_out, frame)
    how = (window.kernel, window.stride, pair(padding), window.dilation, size_out)
    return values, indices_on_use(frame, func, args, kwargs, values, how, local)


@on_blocks(aten.max_unpool2d.default, takes_padded=True)
def max_unpool(frame: Frame, func, args, kwargs):
    """Max unpooling after a pooling whose windows do not overlap."""
    x, indices, size = args
    pooled = indices.in_blocks if isinstance(indices, PoolIndices) else None
    if pooled is None or type(x) is not BlockTensor or x.axes != MAP:
        return Decline("its positions are those of the whole map")
    fits = x.shape == indices.shape and x.block == indices.block
    if not fits or tuple(size) != pooled.size_of_map:
        return Decline("its maps are not those of the pooling")
    tile = pooled.size_of_map if frame.whole else pooled.block
    out = func(x.packed, pooled.make(), tile)
    return BlockTensor(out, pooled.size_of_map, pooled.block, frame)


@on_blocks(aten.avg_pool2d.default, takes_padded=True, cuts=always)
@takes_groups
def avg_pool(frame: Frame, func, args, kwargs):
    """Average pooling, with torch's rules for the divisor of a window at the edge."""
    given = named_arguments(func, args, kwargs)
    x, kernel, ceil_mode = given["self"], pair(given["kernel_size"]), given["ceil_mode"]
    stride = pair(given["stride"] or kernel)
    padding = pair(given["padding"])
    include_pad, divisor = given["count_include_pad"], given["divisor_override"]
    plan = plan_window(frame, x, kernel, stride, padding, (1, 1), 0.0, ceil_mode)
    if isinstance(plan, Decline):
        return plan
    window, size_out = plan
    uniform = divisor is not None or (not ceil_mode and (include_pad or padding == (0, 0)))
    local = uniform and is_local(x, window, size_out) and not ceil_mode
    out = None
    if uniform:
        scale = 1 / (divisor or kernel[0] * kernel[1])
        out = pool_by_kernels(frame, str(func), x, window, size_out, local, scale)
    if out is not None:
        pass
    elif frame.whole:
        out = _run_whole(frame, func, args, kwargs, local)
    elif local:
        out = F.avg_pool2d(x.packed, kernel, stride, divisor_override=divisor)
    else:
        gathered = gather_windows(frame, str(func), x, window, size_out, 0.0)
        stride_after, _ = _after_gather(window)
        if uniform:
            divisor = divisor or kernel[0] * kernel[1]
            out = F.avg_pool2d(gathered, kernel, stride_after, divisor_override=divisor)
        else:
            # Sums in float32 at least, as the dense op has them before it divides.
            work = torch.promote_types(gathered.dtype, torch.float32)
            out = F.avg_pool2d(gathered.to(work), kernel, stride_after, divisor_override=1)
            for axis in (0, 1):
                taps = _taps_at_edges(frame, x, window, size_out, axis, include_pad)
                block_index = frame.layout(size_out, window.block_out).index(axis)
                shape = (-1, 1, 1, 1)[: 2 + axis] + (window.block_out[axis],) + (1,) * (1 - axis)
                out = out / taps.to(work)[block_index].view(shape)
            out = out.to(gathered.dtype)
    return BlockTensor(out, size_out, window.block_out, frame)


def _run_whole(frame: Frame, func, args, kwargs, local: bool):
    """The op on the dense map of a whole frame; the state is written where blocks will read it."""
    x = args[0]
    if not local and not isinstance(x, PaddedMap):  # whose map is kept already
        frame.keep(x, str(func))
    return func(x.packed, *args[1:], **kwargs)


def _after_gather(window: SlidingWindow) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and dilation with which the op runs on gathered windows."""
    return (window.kernel, (1, 1)) if window.by_taps else (window.stride, window.dilation)


def _taps_at_edges(
    frame: Frame, x: BlockTensor, window: SlidingWindow, size_out, axis: int, include_pad: bool
) -> Tensor:
    """The divisor of each output of each block along one axis: ``(blocks, block)``."""
    size, pad = x.size_of_map[axis], window.padding[axis]
    blocks = frame.layout(size_out, window.block_out).blocks[axis]
    block = window.block_out[axis]
    start = torch.arange(blocks * block, device=x.device) * window.stride[axis] - pad
    end = (start + window.kernel[axis]).clamp(max=size + pad)
    if not include_pad:
        start, end = start.clamp(min=0), end.clamp(max=size)
    # Outputs beyond the map have no taps and no meaning; 1 keeps them finite.
    return (end - start).clamp(min=1).view(blocks, block)


def _pooling_arguments(func, args, kwargs):
    given = named_arguments(func, args, kwargs)
    kernel = pair(given["kernel_size"])
    return (
        given["self"],
        kernel,
        pair(given["stride"] or kernel),
        pair(given["padding"]),
        pair(given["dilation"]),
        given["ceil_mode"],
    )
