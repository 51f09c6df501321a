"""``F.pad``: a note of where the padding is, for the op that reads the map."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ...ops.window import OUTSIDE
from ..decline import Decline
from ..frame.frame import Frame
from ..geometry import fills_last_blocks
from ..tensor.axes import MAP, channels_of
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import PaddedMap, Padding
from .op_table import on_blocks

aten = torch.ops.aten


def pads_pixels(args) -> bool:
    """Whether ``F.pad`` pads rows or columns."""
    return any(args[1][:4])


@on_blocks(aten.constant_pad_nd.default, cuts=pads_pixels)
def constant(frame: Frame, func, args, kwargs):
    """Constant padding, or cropping where an amount is negative, of rows, columns and channels."""
    x, amounts = args[:2]
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if not any(amounts):
        return x.like(x.packed.clone())
    if x.axes != MAP:
        return _in_its_blocks(frame, func, x, args, kwargs, value)
    if x.axes != MAP or isinstance(x, PaddedMap) or any(amounts[6:]):
        return Decline("it pads images, or a map that is already padded")
    left, right, top, bottom = (*amounts[:4], 0, 0, 0, 0)[:4]
    if not any((left, right, top, bottom)):
        return x.like(func(x.packed, *args[1:], **kwargs))
    if any(amounts[4:6]):
        return Decline("it pads rows or columns and channels at once")

    height, width = x.size_of_map
    before, size = (top, left), (height + top + bottom, width + left + right)
    if min(size) < 1:
        return Decline("it leaves nothing of the map")

    def source(axis: int) -> Tensor:
        place = torch.arange(size[axis], device="cpu") - before[axis]
        return torch.where((place >= 0) & (place < x.size_of_map[axis]), place, OUTSIDE)

    key = (str(func), (left, right, top, bottom))
    padding = Padding(key, lambda map_: func(map_, *args[1:], **kwargs), source, size, float(value))
    return PaddedMap.make(x, frame.keep(x, str(func)), padding)


def _in_its_blocks(frame: Frame, func, x: BlockTensor, args, kwargs, value):
    """Padding of a view of a map: of channels, or to the right and below within the last blocks.

    Models do so before they cut a map into windows.
    """
    amounts = list(args[1])
    pads = [(0, 0)] * x.dim()
    for i in range(len(amounts) // 2):
        pads[-1 - i] = (amounts[2 * i], amounts[2 * i + 1])
    of_pixels = dict.fromkeys("HW", (0, 0))
    of_channels = False
    for letter, pad in zip(x.axes, pads, strict=True):
        if letter in of_pixels:
            of_pixels[letter] = pad
        elif any(pad) and letter != "C":
            return Decline("it pads images or rows of pixels")
        else:
            of_channels = of_channels or any(pad)
    (above, below), (left, right) = of_pixels.values()
    if not any((above, below, left, right)):
        return x.like(func(x.packed, *args[1:], **kwargs))
    size = (x.size_of_map[0] + below, x.size_of_map[1] + right)
    within = fills_last_blocks(frame.grid_size, x.size_of_map, size, x.block)
    if of_channels or above or left or not within:
        return Decline("it pads more than the last blocks hold")
    if frame.whole:
        packed = func(x.packed, *args[1:], **kwargs)
    else:
        inside = torch.ones((frame.images, 1, *x.size_of_map), dtype=torch.bool, device=x.device)
        inside = func(inside, [0, right, 0, below], 0)
        inside = frame.packed_from(inside, x.block)
        inside = inside.expand(-1, prod(channels_of(x.axes, x.shape, x.joined)), -1, -1)
        packed = torch.where(x.in_its_form(inside), x.packed, value)
    return BlockTensor(packed, size, x.block, frame, axes=x.axes, joined=x.joined)


@on_blocks(aten.reflection_pad2d.default, cuts=pads_pixels)
def reflect(frame: Frame, func, args, kwargs):
    """Reflection padding."""
    return _repeat(
        frame, func, args, lambda place, last: last - (last - place.abs()).abs(), limit=1
    )


@on_blocks(aten.replication_pad2d.default, cuts=pads_pixels)
def replicate(frame: Frame, func, args, kwargs):
    """Replication padding."""
    return _repeat(frame, func, args, lambda place, last: place.clamp(0, last))


def _repeat(frame: Frame, func, args, rule, limit: int = 0):
    x, (left, right, top, bottom) = args[0], args[1]
    if not any(args[1]):
        return x.like(x.packed.clone())
    if x.axes != MAP or isinstance(x, PaddedMap) or min(left, right, top, bottom) < 0:
        return Decline("it crops, or pads a map that is already padded")
    height, width = x.size_of_map
    if limit and (max(top, bottom) >= height or max(left, right) >= width):
        return Decline("the padding is as large as the map")  # the dense op says so itself
    before, size = (top, left), (height + top + bottom, width + left + right)

    def source(axis: int) -> Tensor:
        return rule(torch.arange(size[axis], device="cpu") - before[axis], x.size_of_map[axis] - 1)

    key = (str(func), (left, right, top, bottom))
    padding = Padding(key, lambda map_: func(map_, *args[1:]), source, size, None)
    return PaddedMap.make(x, frame.keep(x, str(func)), padding)
