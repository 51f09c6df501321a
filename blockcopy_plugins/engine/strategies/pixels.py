"""Ops that move pixels within their block or by a few: slices, pixel shuffle, patches, shifts."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops
from ...ops.window import index_table
from ..conv.block_windows import after_gather, gather_windows, is_local, plan_window
from ..decline import Decline
from ..frame.frame import Frame
from ..geometry import is_half_a_window
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap
from ..torch_internals import named_arguments
from .channels import over_channels, strides_of_view
from .op_table import always, on_blocks

aten = torch.ops.aten


@on_blocks(aten.slice.Tensor)
def pixel_slice(frame: Frame, func, args, kwargs):
    """Slices of channels, and of rows and columns as in space-to-depth (``x[..., 1::2, ::2]``).

    They are views, as in the dense model. A slice without the last pixels is a crop.
    """
    x, dim, start, end, step = named_arguments(func, args, kwargs).values()
    dim, size = dim % x.dim(), x.shape[dim]
    start, end, _ = slice(start, end).indices(size)
    if (start, end, step) == (0, size, 1):
        return x.like(x.packed, x.version, strides=x.stride())
    if x.axes[dim] not in "HW":
        return over_channels(frame, func, args, kwargs)
    axis = "HW".index(x.axes[dim])
    count = len(range(start, end, step))
    block = list(x.block)
    block[axis] //= step
    sizes = list(x.size_of_map)
    sizes[axis] = count
    if x.block[axis] % step or start >= step or not _same_blocks(frame, x, sizes, block):
        return Decline("it takes pixels out of their blocks")
    if frame.whole:
        packed = func(x.packed, *args[1:], **kwargs)
    else:
        packed = func(x.packed, dim, start, None, step)
    strides = None if x.axes == MAP else strides_of_view(x, func, args, kwargs)
    out = BlockTensor(
        packed, tuple(sizes), tuple(block), frame, x.version, x.axes, strides, x.joined
    )
    out.cropped = x.cropped or count < len(range(start, size, step))
    return out


@on_blocks(aten.pixel_shuffle.default, cuts=always)
def shuffle(frame: Frame, func, args, kwargs):
    """Pixel shuffle: channels become pixels."""
    x, times = args
    if x.axes != MAP:
        return Decline("its input is a view of a map with other dimensions")
    size = tuple(s * times for s in x.size_of_map)
    block = tuple(b * times for b in x.block)
    channels = x.shape[1] // (times * times)
    if not _same_blocks(frame, x, size, block):
        return Decline("its blocks are not those of its input")
    return BlockTensor(_moved(func, x, times, channels, block), size, block, frame)


@on_blocks(aten.pixel_unshuffle.default, cuts=always)
def unshuffle(frame: Frame, func, args, kwargs):
    """The inverse of pixel shuffle: pixels become channels."""
    x, times = args
    if x.axes != MAP or any(s % times for s in (*x.size_of_map, *x.block)):
        return Decline(f"a factor of {times} does not divide map and blocks")
    size = tuple(s // times for s in x.size_of_map)
    block = tuple(b // times for b in x.block)
    channels = x.shape[1] * times * times
    if not _same_blocks(frame, x, size, block):
        return Decline("its blocks are not those of its input")
    return BlockTensor(_moved(func, x, times, channels, block), size, block, frame)


def _moved(func, x: BlockTensor, times: int, channels: int, block: tuple[int, int]) -> Tensor:
    # torch returns tensors without elements in their old shape.
    if x.packed.numel():
        return func(x.packed, times)
    return x.packed.new_empty((0, channels, *block))


@on_blocks(aten.im2col.default, takes_padded=True, cuts=always)
def patches(frame: Frame, func, args, kwargs):
    """``F.unfold``: the patch of each pixel becomes its channels.

    Patches that do not overlap, as transformers merge them, lie within blocks. Others, as an
    involution or a predicted filter reads them, reach beyond: they are read as a convolution's.
    """
    x, kernel, dilation, padding, stride = args
    plan = plan_window(frame, x, kernel, stride, padding, dilation, 0.0)
    if isinstance(plan, Decline):
        return plan
    window, size = plan
    if is_local(x, window, size):
        packed = func(x.packed, *args[1:])
    elif frame.whole:
        # The state is written where blocks will read it; a padded map is kept already.
        if not isinstance(x, PaddedMap):
            frame.keep(x, str(func))
        packed = func(x.packed, *args[1:])
    else:
        windows = gather_windows(frame, str(func), x, window, size, 0.0)
        step, apart = after_gather(window)
        packed = func(windows, kernel, apart, (0, 0), step)
    return BlockTensor(packed, size, window.block_out, frame, axes="NCL")


@on_blocks(aten.roll.default)
def roll(frame: Frame, func, args, kwargs):
    """``torch.roll`` by half of a window that divides blocks, as in shifted windows; of channels.

    After any other shift windows lie across blocks, so the whole map would be needed anyway.
    """
    x, shifts, dims = (*args, ())[:3]
    letters = [x.axes[d] for d in dims]
    if not dims or any(letter not in "CHW" for letter in letters):
        return Decline("it moves pixels from row to row")
    if set(letters) == {"C"}:
        return x.like(func(x.packed, *args[1:], **kwargs))
    moved = dict.fromkeys("HW", 0)
    for letter, shift in zip(letters, shifts, strict=True):
        moved[letter] = shift
    shifts = (moved["H"], moved["W"])
    if "C" in letters or len(set(letters)) < len(letters) or not is_half_a_window(x.block, shifts):
        return Decline("its shift is not half of a window that divides blocks")
    entry = frame.keep(x, str(func))
    if frame.whole:
        return x.like(func(x.packed, *args[1:], **kwargs))
    layout = x.block_layout
    rows, cols = frame.tables(
        ("roll", shifts),
        x.size_of_map,
        x.block,
        lambda axis, size, width: index_table(
            blocks=layout.blocks[axis],
            block_out=width,
            index=(torch.arange(size) - shifts[axis]) % size,
        ),
    )
    return x.like(x.in_its_form(ops.gather(entry.map, layout.by_slot, rows, cols)))


def _same_blocks(frame: Frame, x: BlockTensor, size, block) -> bool:
    """Whether a map of this size and blocks has the executed blocks that ``x`` has."""
    return min(size) > 0 and frame.layout(size, block) is x.block_layout
