"""Transposed convolution: each block of its output gathers the inputs that reach it."""

from __future__ import annotations

import torch.nn.functional as F

from ... import ops
from ...ops.block_conv import SlidingWindow
from ...ops.window import window_table
from ..conv.implementation import ConvShape
from ..decline import Decline
from ..frame.frame import Frame
from ..geometry import ceil_div, fits_blocks
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from .densify import run_dense_and_pack


def transposed_convolution(frame: Frame, func, args, kwargs):
    """Transposed 2-D convolution of any kernel, stride, padding, dilation and groups.

    Output ``o`` reads the inputs ``i`` with ``o = i * stride - padding + t * dilation`` for some
    tap ``t``. An output block is ``stride`` times as wide as an input block, so the inputs that it
    needs start at the same place relative to every block.
    """
    x, weight, bias, stride, padding, dilation, _, extra, groups = args
    if x.axes != MAP or isinstance(x, DenseOnUse):
        return Decline("its input is not a plain map")
    stride, padding, dilation, extra = map(_pair, (stride, padding, dilation, extra))
    kernel = tuple(weight.shape[2:])
    size, block, first, count, skip, missing = [], [], [], [], [], []
    for i in (0, 1):
        reach = (kernel[i] - 1) * dilation[i]
        size.append((x.size_of_map[i] - 1) * stride[i] - 2 * padding[i] + reach + extra[i] + 1)
        block.append(x.block[i] * stride[i])
        # From the first input that reaches the block's first output, or would with more taps, to
        # the last that reaches its last.
        first.append(min(ceil_div(padding[i] - reach, stride[i]), padding[i] // stride[i]))
        count.append((block[i] - 1 + padding[i]) // stride[i] - first[i] + 1)
        # Outputs of these inputs before the block, and outputs of the block that none reaches.
        skip.append(padding[i] - first[i] * stride[i])
        missing.append(max(0, skip[i] + block[i] - (count[i] - 1) * stride[i] - reach - 1))
    size, block = tuple(size), tuple(block)
    if not fits_blocks(frame.grid_size, size, block):
        return run_dense_and_pack(
            frame, func, args, kwargs, f"its output {size} is not covered by blocks of {block}"
        )
    per_pixel = weight.numel()
    dense = frame.images * x.size_of_map[0] * x.size_of_map[1] * per_pixel
    layout = frame.layout(size, block)
    local = kernel == stride and padding == (0, 0) and dilation == (1, 1)
    local = local and layout is x.block_layout
    if local:
        count = x.block
    window = SlidingWindow(kernel, stride, padding, dilation, block)
    of_block = x.block[0] * x.block[1] * per_pixel
    shape = ConvShape(window, size, local, groups, dense, of_block)
    found = frame.kernels.transpose(frame, x, weight, bias, shape)
    if found is not None:
        return found
    executed = dense if frame.whole else layout.executed * count[0] * count[1] * per_pixel
    frame.count_blocks(executed, dense, block)
    if frame.whole:
        if not local:
            frame.keep(x, str(func))
        return BlockTensor(func(x.packed, *args[1:], **kwargs), size, block, frame)
    if local:
        out = F.conv_transpose2d(x.packed, weight, bias, stride, groups=groups)
        return BlockTensor(out, size, block, frame)
    entry = frame.keep(x, str(func))
    rows, cols = frame.tables(
        ("transposed", kernel, stride, padding, dilation),
        x.size_of_map,
        x.block,
        lambda axis, length, width: window_table(
            blocks=layout.blocks[axis],
            block_out=width,
            size=length,
            kernel=count[axis] - width + 1,
            padding=-first[axis],
        ),
    )
    gathered = ops.gather(entry.map, layout.by_slot, rows, cols, 0.0)
    out = F.conv_transpose2d(gathered, weight, bias, stride, 0, missing, groups, dilation)
    out = out[:, :, skip[0] : skip[0] + block[0], skip[1] : skip[1] + block[1]]
    return BlockTensor(out, size, block, frame)


def _pair(value) -> tuple[int, int]:
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
