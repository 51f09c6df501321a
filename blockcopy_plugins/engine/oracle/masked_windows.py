"""Windows in the masked reference: maps rolled, padded, cut, and put together again.

All windows are computed here, from the kept map that they are cut out of. Where they are put
together again, executed blocks of the map are used and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..tensor.axes_rules import View, axes_after
from ..tensor.dense_map import DenseMap, plain
from ..torch_internals import is_mutable, tree_leaves, tree_map
from .masked_blocks import MaskedBlocks
from .masked_frame import MaskedFrame
from .masked_tensor import MaskedTensor, value_of
from .masked_tokens import joined_tokens

aten = torch.ops.aten

_MOVES = (aten.roll.default, aten.constant_pad_nd.default, aten.slice.Tensor)
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default)


class FrameOfWindows(MaskedFrame):
    """A frame whose maps may be cut into windows that blocks do not hold."""

    def execute(self, func, args, kwargs):
        """See :class:`MaskedFrame`; windows among maps of blocks become dense."""
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, MaskedTensor)]
        if any(x.run is not maps[0].run for x in maps):
            sampled = func is aten.grid_sampler_2d.default
            found = self.sampled(func, args) if sampled else None
            if found is not None:
                return found
            args, kwargs = tree_map(self.dense_windows, (list(args), dict(kwargs)))
            return func(*args, **kwargs)
        if maps[0].run is not self:
            return maps[0].run.execute(func, args, kwargs)
        if any(x.places is not None for x in maps):
            return self._of_moved(func, args, kwargs)
        found = joined_tokens(self, func, args, kwargs) if func is aten.cat.default else None
        return super().execute(func, args, kwargs) if found is None else found

    def _of_moved(self, func, args, kwargs):
        """An op on maps that are rolled or padded: one that moves them, or of dense maps."""
        if func in (*_VIEWS, *_MOVES) and args[0].places is not None:
            values = tree_map(value_of, (list(args), dict(kwargs)))
            found = self.as_windows(func, *values, args[0], func(*values[0], **values[1]))
            if found is not None:
                return found
        args, kwargs = tree_map(self._dense_form, (list(args), dict(kwargs)))
        return func(*args, **kwargs)

    def _dense_form(self, value: Any) -> Any:
        if not isinstance(value, MaskedTensor) or value.places is None:
            return value
        if value.source is None:
            value.source = value.value.clone()
            if not any(abs(p[len(p) // 2] - len(p) // 2) > 8 for p in value.places):
                value.source = self.derived(value.source, aten.clone.default, ())
        return value.source

    def dense_windows(self, value: Any) -> Any:
        """Windows as a dense tensor; any other value unchanged."""
        if not isinstance(value, MaskedTensor) or value.run is self:
            return value
        return self.derived(value.run.leave(value), aten.clone.default, ())

    def as_windows(self, func, kept, kwargs, x: MaskedTensor, out):
        """See :class:`MaskedFrame`."""
        if not isinstance(out, Tensor) or not {"H", "W"} <= set(x.axes):
            cut = func in _VIEWS and x.places is None
            return self._cut(func, kept, kwargs, x, out) if cut else None
        if func in _VIEWS:
            return self._cut(func, kept, kwargs, x, out)
        places = places_after(func, kept, kwargs, x, out)
        if places is None or (func is aten.slice.Tensor and x.places is None):
            return None
        return self.moved(x, places, out)

    def moved(self, x: MaskedTensor, places, out: Tensor) -> MaskedTensor:
        """A map whose rows and columns have moved."""
        size = tuple(map(len, places))
        found = MaskedTensor(out, x.block, self, x.axes, size, x.joined, padded=True)
        found.places, found.size_at_home = places, x.size_at_home or x.size_of_map
        return found

    def _cut(self, func, kept, kwargs, x: MaskedTensor, out) -> MaskedTensor | None:
        if x.padded and x.places is None:  # by values of its pixels
            return None
        shape = tuple(x.shape)
        moved = x.places is not None
        seen = View(x.axes, shape, len(self.grid), x.size_of_map, x.joined, moved)
        reading = axes_after(func, seen, kept, kwargs)
        if reading is None or reading.size == x.size_of_map:
            return None
        if any(not n or size % n for size, n in zip(x.size_of_map, reading.size, strict=True)):
            return None
        windows = MaskedWindows(self, x, reading.size)
        return MaskedTensor(out, (1, 1), windows, reading.axes, reading.size, reading.joined)


class MaskedWindows(FrameOfWindows):
    """The windows of one map; all of them are computed.

    Args:
        home: The frame of the map.
        x: The map, rolled and padded.
        count: Rows and columns of windows.
    """

    def __init__(self, home: MaskedFrame, x: MaskedTensor, count: Sequence[int]) -> None:
        super().__init__({}, home.grid, home.streams, 1, home.repack)
        self.home, self.maps = home, home.maps
        self.mark = object()
        self.of = x
        self.size = x.size_of_map
        self.places = x.places or places_of(x.size_of_map)
        self.size_at_home = x.size_at_home or x.size_of_map
        self.blocks = MaskedBlocks(tuple(count), max(self.size) // max(count))

    def mask(self, size: Sequence[int], block: tuple[int, int]) -> Tensor:
        """See :class:`MaskedFrame`."""
        return torch.ones((len(self.grid), 1, *size), dtype=torch.bool)

    def merge(self, x: MaskedTensor, argument: int) -> Tensor:
        """See :class:`MaskedFrame`."""
        return x.value

    def needs_all(self, func, brought) -> bool:
        """See :class:`MaskedFrame`."""
        return not is_mutable(func) and any(value.parts is not self.mark for value in brought)

    def derived(self, out, func, args):
        """See :class:`MaskedFrame`."""
        return tree_map(self._of_windows, super().derived(out, func, args))

    def _of_windows(self, value: Any) -> Any:
        if type(value) is DenseMap:
            value.parts = self.mark
        return value

    def execute(self, func, args, kwargs):
        """See :class:`MaskedFrame`; a view may be the map again."""
        if any(v.run is not self for v in tree_leaves((args, kwargs)) if _is_masked(v)):
            return self.home.execute(func, args, kwargs)
        if any(v.places is not None for v in tree_leaves((args, kwargs)) if _is_masked(v)):
            return self._of_moved(func, args, kwargs)
        out = MaskedFrame.execute(self, func, args, kwargs)
        whole = isinstance(out, MaskedTensor) and out.size_of_map == self.size
        if not whole or func not in _VIEWS or not {"H", "W"} <= set(out.axes):
            return out
        found = self._at_home(out, places_of(self.size))
        return out if found is None else found

    def _as_blocks(self, func, args, template: MaskedTensor, out):
        moves = func in (aten.roll.default, aten.slice.Tensor)
        return None if moves else super()._as_blocks(func, args, template, out)

    def as_windows(self, func, kept, kwargs, x: MaskedTensor, out):
        """See :class:`MaskedFrame`."""
        if not isinstance(out, Tensor) or not {"H", "W"} <= set(x.axes) or func in _VIEWS:
            return None
        if x.places is None and x.size_of_map != self.size:
            return None
        places = places_after(func, kept, kwargs, x, out)
        if places is None:
            return None
        moved = self.moved(x, places, out)
        found = self._at_home(moved, places)
        return moved if found is None else found

    def _at_home(self, x: MaskedTensor, places) -> MaskedTensor | None:
        for own, shown, size in zip(self.places, places, self.size_at_home, strict=True):
            if [own[i] if i >= 0 else -1 for i in shown] != list(range(size)):
                return None
        of = self.of
        return self.home._masked(x.value, of.block, x.axes, self.size_at_home, x.joined)


def places_of(size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of a map that show themselves."""
    return tuple(range(size[0])), tuple(range(size[1]))


def places_after(func, kept: Sequence, kwargs: Mapping, x: MaskedTensor, out: Tensor):
    """Where rows and columns are after a roll, padding or crop, found by moving their numbers.

    Returns:
        For rows and for columns, the number of the one that each shows, -1 for none; ``None`` if
        the op does something else too.
    """
    if func not in _MOVES:
        return None
    args = [*kept[1:]]
    kwargs = dict(kwargs)
    if func is aten.constant_pad_nd.default:
        if min(args[0]) < 0:
            return None
        args, kwargs = [args[0], -1], {}
    if func is aten.roll.default and len(args) < 2:
        return None
    found = []
    for letter, before in zip("HW", x.places or places_of(x.size_of_map), strict=True):
        dim = x.axes.index(letter)
        shape = [1] * x.dim()
        shape[dim] = -1
        numbers = torch.tensor(before).view(shape).expand(x.shape)
        after = func(numbers, *args, **kwargs).movedim(dim, 0).flatten(1)
        found.append(tuple(after.amax(1).tolist()))
    others = [i for i, letter in enumerate(x.axes) if letter not in "HW"]
    moves_others = func is aten.roll.default and {d % x.dim() for d in args[1]} & set(others)
    if moves_others or any(out.shape[i] != x.shape[i] for i in others) or not all(found):
        return None
    return tuple(found)


def _is_masked(value: Any) -> bool:
    return isinstance(plain(value), MaskedTensor)
