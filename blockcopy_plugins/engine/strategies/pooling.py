"""Pooling: write to the state, gather the blocks with their halo, run unpadded."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.block_conv import SlidingWindow
from ..conv.block_windows import after_gather, gather_windows, is_local, pair, plan_window
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
    if isinstance(out, Decline):
        _, kernel, _, padding, dilation, _ = _pooling_arguments(func, args, kwargs)
        whole = _is_whole(args[0], kernel, padding) and dilation == (1, 1)
        return aten.amax.default(args[0], [2, 3], True) if whole else out
    return out[0]


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
    if out is None:

        def pool(windows: Tensor, stride, dilation) -> Tensor:
            return F.max_pool2d(windows, window.kernel, stride, 0, dilation)

        out = _pool_by_torch(frame, func, args, kwargs, plan, local, float("-inf"), pool)
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
        whole = _is_whole(x, kernel, padding) and divisor is None
        return aten.mean.dim(x, [2, 3], True) if whole else plan
    window, size_out = plan
    uniform = divisor is not None or (not ceil_mode and (include_pad or padding == (0, 0)))
    local = uniform and is_local(x, window, size_out) and not ceil_mode
    divisor = divisor or kernel[0] * kernel[1]
    out = None
    if uniform:
        out = pool_by_kernels(frame, str(func), x, window, size_out, local, 1 / divisor)
    if out is None:

        def pool(windows: Tensor, stride, _) -> Tensor:
            if uniform:
                return F.avg_pool2d(windows, kernel, stride, divisor_override=divisor)
            # Sums in float32 at least, as the dense op has them before it divides.
            work = torch.promote_types(windows.dtype, torch.float32)
            sums = F.avg_pool2d(windows.to(work), kernel, stride, divisor_override=1)
            for axis in (0, 1):
                taps = _taps_at_edges(frame, x, window, size_out, axis, include_pad)
                block_index = frame.layout(size_out, window.block_out).index(axis)
                shape = (-1, 1, 1, 1)[: 2 + axis] + (window.block_out[axis],) + (1,) * (1 - axis)
                sums = sums / taps.to(work)[block_index].view(shape)
            return sums.to(windows.dtype)

        out = _pool_by_torch(frame, func, args, kwargs, plan, local, 0.0, pool)
    return BlockTensor(out, size_out, window.block_out, frame)


def _pool_by_torch(
    frame: Frame,
    func,
    args,
    kwargs,
    plan: tuple[SlidingWindow, tuple[int, int]],
    local: bool,
    fill: float,
    pool: Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor],
) -> Tensor:
    """Pool whole maps as the plain model does, or blocks by themselves or with their halo.

    Args:
        frame: The frame being run.
        func: The op.
        args: Its arguments.
        kwargs: Its keyword arguments.
        plan: Its window, and ``(H, W)`` of the result.
        local: Whether no window reaches beyond its block.
        fill: What lies outside the image.
        pool: ``pool(windows, stride, dilation)`` pools packed blocks, unpadded.
    """
    x, (window, size_out) = args[0], plan
    if frame.whole:
        # The state is written where blocks will read it; a padded map is kept already.
        if not local and not isinstance(x, PaddedMap):
            frame.keep(x, str(func))
        found = func(x.packed, *args[1:], **kwargs)
        return found[0] if isinstance(found, tuple) else found
    if local:
        return pool(x.packed, window.stride, window.dilation)
    windows = gather_windows(frame, str(func), x, window, size_out, fill)
    return pool(windows, *after_gather(window))


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


def _is_whole(x: Tensor, kernel: tuple[int, int], padding: tuple[int, int]) -> bool:
    """Whether the one window of a pooling is the whole map."""
    return type(x) is BlockTensor and kernel == x.size_of_map and padding == (0, 0)


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
