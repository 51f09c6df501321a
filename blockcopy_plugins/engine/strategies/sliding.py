"""Convolution and pooling: write to the state, gather the blocks with their halo, run unpadded."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import lcm, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ...errors import StateError
from ...ops.block_conv import SlidingWindow
from ...ops.window import through
from ..conv.cpu_convolutions import ConvPlan
from ..frame.frame import Frame
from ..geometry import fits_blocks, sliding_output
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import BlockIndices, PaddedMap, PoolIndices
from .densify import Decline, run_dense
from .transposed import transposed_convolution


def convolution(frame: Frame, func, args, kwargs):
    """2-D convolution of any kernel, stride, padding, dilation and groups."""
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    if _is_of_each_pixel(x, weight, stride, padding, transposed):
        executed, dense = (len(v) * prod(v.shape[2:]) * weight.numel() for v in (x.packed, x))
        frame.count_blocks(executed, dense, x.block)
        return x.like(func(x.packed, *args[1:], **kwargs))
    if not isinstance(x, BlockTensor) or isinstance(weight, BlockTensor) or weight.dim() != 4:
        return Decline("its weight is a map, or it is not two-dimensional")
    if transposed:
        return transposed_convolution(frame, func, args, kwargs)
    plan = _plan(frame, x, weight.shape[2:], stride, padding, dilation, 0.0)
    if isinstance(plan, Decline):
        return plan
    window, size_out = plan
    local = _is_local(x, window, size_out)
    if frame.native is not None and frame.native.takes(x, weight, groups):
        plan = frame.native.plan(frame, x, weight, window, size_out, local)
        return frame.native.run(frame, frame.path, x, weight, bias, plan)
    per_pixel = weight.numel()
    block = window.block_out
    dense = frame.images * size_out[0] * size_out[1] * per_pixel
    executed = (
        dense
        if frame.whole
        else frame.layout(size_out, block).executed * block[0] * block[1] * per_pixel
    )
    frame.count_blocks(executed, dense, block)
    if frame.whole:
        if not local and not isinstance(x, PaddedMap):  # whose map is kept already
            frame.keep(x, str(func))

        def convolve(bias: Tensor | None = None) -> Tensor:
            return func(x.packed, weight, bias, *args[3:], **kwargs)
    elif local:

        def convolve(bias: Tensor | None = None) -> Tensor:
            packed, stride = x.packed, window.stride
            if window.kernel == (1, 1) and stride != (1, 1):
                # Pixels that no output reads go first: oneDNN's strided 1x1 convolution is slower.
                packed = packed[:, :, :: stride[0], :: stride[1]]
                packed, stride = packed.contiguous(memory_format=torch.channels_last), (1, 1)
            return F.conv2d(packed, weight, bias, stride, 0, window.dilation, groups)
    else:
        gathered = _gather(frame, func, x, window, size_out, 0.0)

        def convolve(bias: Tensor | None = None) -> Tensor:
            return window.convolve(gathered, weight, bias, groups)

    if frame.epilogues is not None and frame.epilogues.take(x, weight, bias):
        shape = (weight.shape[0], size_out, block)
        return frame.epilogues.run(frame, x, convolve, bias, shape, executed)
    return BlockTensor(convolve(bias), size_out, block, frame)


def _is_of_each_pixel(x, weight, stride, padding, transposed) -> bool:
    """Whether it is a 1x1 convolution of a view, in one dimension or two: of tokens, of patches."""
    return (
        isinstance(x, BlockTensor)
        and not isinstance(weight, BlockTensor)
        and x.axes not in (MAP, "BCHW")
        and x.axes[:2] in ("NC", "BC")
        and not transposed
        and set(weight.shape[2:]) == set(stride) == {1}
        and not any(padding)
    )


def conv2d(frame: Frame, func, args, kwargs):
    """``F.conv2d`` as it arrives in inference mode."""
    given = named_arguments(func, args, kwargs)
    groups = given.pop("groups")
    args = (*given.values(), False, (0, 0), groups)
    return convolution(frame, torch.ops.aten.convolution.default, args, {})


def max_pool_values(frame: Frame, func, args, kwargs):
    """``F.max_pool2d`` as it arrives in inference mode."""
    out = max_pool(frame, torch.ops.aten.max_pool2d_with_indices.default, args, kwargs)
    return out if isinstance(out, Decline) else out[0]


def max_pool(frame: Frame, func, args, kwargs):
    """Max pooling. The indices are found on the whole map, for who looks at them."""
    x, kernel, stride, padding, dilation, ceil_mode = _pooling_arguments(func, args, kwargs)
    plan = _plan(frame, x, kernel, stride, padding, dilation, float("-inf"), ceil_mode)
    if isinstance(plan, Decline):
        return plan
    window, size_out = plan
    local = _is_local(x, window, size_out) and not ceil_mode
    found = None
    if frame.whole:
        out, found = _run_whole(frame, func, args, kwargs, local)
    elif local:
        out, found = func(x.packed, window.kernel, window.stride)
    else:
        gathered = _gather(frame, func, x, window, size_out, float("-inf"))
        stride, dilation = _after_gather(window)
        out = F.max_pool2d(gathered, window.kernel, stride, 0, dilation)
    values = BlockTensor(out, size_out, window.block_out, frame)
    indices = indices_on_use(frame, func, args, kwargs, values)
    # A window that the map's edge cuts has no output, but would have one in its block.
    if local and all(x.size_of_map[i] % window.stride[i] == 0 for i in (0, 1)):
        indices.in_blocks = BlockIndices(found, x.size_of_map, x.block)
    return values, indices


def max_unpool(frame: Frame, func, args, kwargs):
    """Max unpooling of what was pooled by windows that lie side by side."""
    x, indices, size = args
    pooled = indices.in_blocks if isinstance(indices, PoolIndices) else None
    if pooled is None or type(x) is not BlockTensor or x.axes != MAP:
        return Decline("its positions are those of the whole map")
    fits = x.shape == indices.shape and x.block == indices.block
    if not fits or tuple(size) != pooled.size_of_map:
        return Decline("its maps are others than those of the pooling")
    tile = pooled.size_of_map if frame.whole else pooled.block
    out = func(x.packed, pooled.packed, tile)
    return BlockTensor(out, pooled.size_of_map, pooled.block, frame)


def indices_on_use(frame: Frame, func, args, kwargs, values: BlockTensor) -> PoolIndices:
    """Where the maxima of a pooling are, for who looks at it.

    Args:
        frame: The frame at work.
        func: ``max_pool2d_with_indices``.
        args: Its arguments.
        kwargs: Its keyword arguments.
        values: The maxima.
    """
    x = args[0]
    count, path = x.version.count, frame.path

    def indices() -> Tensor:
        if x.version.count != count:
            raise StateError(
                f"the indices of a max pooling in {path!r} are wanted after its input was "
                "changed in place. Use them before, or let the op not work in place."
            )
        frame.enter(path)
        found = run_dense(frame, func, args, kwargs, "indices are positions in the whole map")[1]
        frame.leave(path)
        return found

    return PoolIndices.of(values, indices)


def avg_pool(frame: Frame, func, args, kwargs):
    """Average pooling with torch's rules of what a window at the edge is divided by."""
    given = named_arguments(func, args, kwargs)
    x, kernel, ceil_mode = given["self"], _pair(given["kernel_size"]), given["ceil_mode"]
    stride = _pair(given["stride"] or kernel)
    padding = _pair(given["padding"])
    include_pad, divisor = given["count_include_pad"], given["divisor_override"]
    plan = _plan(frame, x, kernel, stride, padding, (1, 1), 0.0, ceil_mode)
    if isinstance(plan, Decline):
        return plan
    window, size_out = plan
    uniform = divisor is not None or (not ceil_mode and (include_pad or padding == (0, 0)))
    local = uniform and _is_local(x, window, size_out) and not ceil_mode
    if frame.whole:
        out = _run_whole(frame, func, args, kwargs, local)
    elif local:
        out = F.avg_pool2d(x.packed, kernel, stride, divisor_override=divisor)
    else:
        gathered = _gather(frame, func, x, window, size_out, 0.0)
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


def native_plan(
    frame: Frame, x: BlockTensor, weight: Tensor, stride, padding, dilation
) -> ConvPlan | None:
    """How the package's own kernels convolve a map, ``None`` if it cannot run on blocks."""
    plan = _plan(frame, x, weight.shape[2:], stride, padding, dilation, 0.0)
    if isinstance(plan, Decline):
        return None
    window, size_out = plan
    local = _is_local(x, window, size_out)
    return frame.native.plan(frame, x, weight, window, size_out, local)


def _plan(frame: Frame, x: BlockTensor, kernel, stride, padding, dilation, fill, ceil_mode=False):
    """Window and output size of a sliding op on ``x``, or why it cannot run on blocks."""
    if x.axes != MAP:
        return Decline("its input is a view of a map whose dimensions are others")
    padding = _pair(padding)
    if isinstance(x, PaddedMap):
        if x.written is not None:
            return Decline("the padded map was densified before")
        if x.padding.fill not in (None, fill) and any(padding):
            return Decline("two paddings of different values, one around the other")
    return _window(
        x.block,
        x.size_of_map,
        frame.grid_size,
        frame.block_size,
        _pair(kernel),
        _pair(stride),
        padding,
        _pair(dilation),
        ceil_mode,
    )


@lru_cache(maxsize=4096)
def _window(block, size, grid_size, block_size, kernel, stride, padding, dilation, ceil_mode):
    if any(block[i] % stride[i] for i in (0, 1)):
        tile = (Fraction(block[0], stride[0]), Fraction(block[1], stride[1]))
        strides = (Fraction(block_size) / width for width in tile)
        return Decline(
            f"stride {stride} does not divide blocks of {block} px; a block_size that is a "
            f"multiple of {lcm(*(s.numerator for s in strides))} would do",
            tile,
        )
    block = (block[0] // stride[0], block[1] // stride[1])
    size = tuple(
        sliding_output(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in (0, 1)
    )
    if min(size) < 1:
        return Decline("the map is smaller than its kernel")
    if not fits_blocks(grid_size, size, block):
        return Decline(f"its padding {padding} makes the map, {size} px, larger than its blocks")
    return SlidingWindow(kernel, stride, padding, dilation, block), size


def _run_whole(frame: Frame, func, args, kwargs, local: bool):
    """The op on the dense map of a whole frame; the state is written where blocks will read it."""
    x = args[0]
    if not local and not isinstance(x, PaddedMap):  # whose map is kept already
        frame.keep(x, str(func))
    return func(x.packed, *args[1:], **kwargs)


def _is_local(x: BlockTensor, window: SlidingWindow, size_out: tuple[int, int]) -> bool:
    """Whether a block's outputs read nothing but the block itself."""
    return (
        window.padding == (0, 0)
        and x.block_layout is x.frame.layout(size_out, window.block_out)
        and not isinstance(x, PaddedMap)
        and all(
            kernel == 1 or (kernel == stride and dilation == 1)
            for kernel, stride, dilation in zip(
                window.kernel, window.stride, window.dilation, strict=True
            )
        )
    )


def _gather(
    frame: Frame, func, x: BlockTensor, window: SlidingWindow, size_out, fill: float
) -> Tensor:
    layout = frame.layout(size_out, window.block_out)
    if isinstance(x, PaddedMap):
        rows, cols = frame.tables(
            (window, x.padding.key),
            x.size_of_map,
            window.block_out,
            lambda axis, size, _: through(
                window.table(axis, layout.blocks[axis], size), x.padding.source(axis)
            ),
        )
        fill = fill if x.padding.fill is None else x.padding.fill
        return ops.gather(x.entry.map, layout.by_slot, rows, cols, fill)
    entry = frame.keep(x, str(func))
    rows, cols = frame.tables(
        window,
        x.size_of_map,
        window.block_out,
        lambda axis, size, _: window.table(axis, layout.blocks[axis], size),
    )
    return ops.gather(entry.map, layout.by_slot, rows, cols, fill)


def _after_gather(window: SlidingWindow) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and dilation with which the op runs on gathered windows."""
    return (window.kernel, (1, 1)) if window.by_taps else (window.stride, window.dilation)


def _taps_at_edges(
    frame: Frame, x: BlockTensor, window: SlidingWindow, size_out, axis: int, include_pad: bool
) -> Tensor:
    """How many taps each output of each block is divided by along one axis: ``(blocks, block)``."""
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
    kernel = _pair(given["kernel_size"])
    return (
        given["self"],
        kernel,
        _pair(given["stride"] or kernel),
        _pair(given["padding"]),
        _pair(given["dilation"]),
        given["ceil_mode"],
    )


def named_arguments(func, args, kwargs) -> dict:
    """Arguments of an op by name, defaults filled in."""
    given = {a.name: a.default_value for a in func._schema.arguments}
    given.update(zip(given, args, strict=False))
    given.update(kwargs)
    return given


def _pair(value) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
