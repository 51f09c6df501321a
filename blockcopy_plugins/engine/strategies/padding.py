"""``F.pad``: a note of where the padding is, which the op that reads the map then honours."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.window import OUTSIDE
from ..axes import MAP
from ..dense_on_use import PaddedMap, Padding
from ..frame import Frame
from .densify import Decline


def constant(frame: Frame, func, args, kwargs):
    """Constant padding, or cropping where an amount is negative, of rows, columns and channels."""
    x, amounts = args[:2]
    value = args[2] if len(args) > 2 else kwargs.get("value", 0)
    if x.axes != MAP or isinstance(x, PaddedMap) or any(amounts[6:]):
        return Decline("it pads images, or what is padded already")
    left, right, top, bottom = (*amounts[:4], 0, 0, 0, 0)[:4]
    if not any((left, right, top, bottom)):
        if not any(amounts):
            return x.like(x.packed.clone())
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


def reflect(frame: Frame, func, args, kwargs):
    """Reflection padding."""
    return _repeat(
        frame, func, args, lambda place, last: last - (last - place.abs()).abs(), limit=1
    )


def replicate(frame: Frame, func, args, kwargs):
    """Replication padding."""
    return _repeat(frame, func, args, lambda place, last: place.clamp(0, last))


def _repeat(frame: Frame, func, args, rule, limit: int = 0):
    x, (left, right, top, bottom) = args[0], args[1]
    if x.axes != MAP or isinstance(x, PaddedMap) or min(left, right, top, bottom) < 0:
        return Decline("it crops, or what is padded already is padded again")
    height, width = x.size_of_map
    if limit and (max(top, bottom) >= height or max(left, right) >= width):
        return Decline("the padding is as large as the map")  # the dense op says so itself
    before, size = (top, left), (height + top + bottom, width + left + right)

    def source(axis: int) -> Tensor:
        return rule(torch.arange(size[axis], device="cpu") - before[axis], x.size_of_map[axis] - 1)

    key = (str(func), (left, right, top, bottom))
    padding = Padding(key, lambda map_: func(map_, *args[1:]), source, size, None)
    return PaddedMap.make(x, frame.keep(x, str(func)), padding)
