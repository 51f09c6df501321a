"""Dense tensors that were computed from a feature map, and that may become blocks again.

An op that cannot run on blocks returns a dense tensor, and so do the ops after it, such as an
attention's softmax and product with the values, until one comes that could run on blocks: a
convolution, a pooling, a resize. There the tensor is cut into blocks again, if it is a map: if it
has as many images as the frame and the size of a map that the frame has had on blocks, or of its
first one divided by a whole number, and was computed from maps by ops that leave pixels about where
they are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..composite import take_apart
from ..geometry import ceil_div
from ..torch_internals import (
    OpOverload,
    is_mutable,
    marked_as,
    no_torch_dispatch,
    no_torch_function_of_subclass,
    packet_of,
    schema_of,
    tree_leaves,
    tree_map,
    versions_are_counted,
)

aten = torch.ops.aten

# They arrive whole in inference mode, with spatial ops inside.
_COMPOSITES = (aten.conv2d.padding, aten.conv_transpose2d.input, aten.pad.default)

# Their results are elsewhere than their arguments, are picked by value, or have no values yet.
_FORGET = frozenset(
    {
        aten.flip,
        aten.rot90,
        aten.index,
        aten.index_select,
        aten.index_put,
        aten.masked_select,
        aten.gather,
        aten.take,
        aten.sort,
        aten.topk,
        aten.new_zeros,
        aten.new_ones,
        aten.new_full,
        aten.new_empty,
        aten.new_empty_strided,
    }
)
# Pixels by which a roll may move a map: as much as a shifted window.
_FEW_PIXELS = 8


class MapGeometry(NamedTuple):
    """Size and block of a map, named as those of a BlockTensor.

    Attributes:
        size_of_map: ``(H, W)`` in pixels.
        block: Height and width of a block of it.
    """

    size_of_map: tuple[int, int]
    block: tuple[int, int]


class FrameMaps:
    """What dense maps need to know about their frame; they do not keep it alive.

    Args:
        images: N.
        cut: ``cut(map, block)`` gives the executed blocks of a dense map.
        cuts: ``cuts(func, args)``: whether an op reads its first argument, a map, by its blocks.

    Attributes:
        writes: Number of ops that have written to dense maps so far.
        read: The geometry of each dense map that an op has read by its blocks, in order.
    """

    def __init__(
        self,
        images: int,
        cut: Callable[[Tensor, tuple[int, int]], Tensor],
        cuts: Callable[[OpOverload, Sequence], bool],
    ) -> None:
        self.writes = 0
        self.read: list[MapGeometry] = []
        self.cuts = cuts
        self._images = images
        self._cut: Callable | None = cut
        self._blocks: dict[tuple[int, int], tuple[int, int]] = {}
        self._with_blocks: list[weakref.ref[DenseMap]] = []

    def note(self, size: tuple[int, int], block: tuple[int, int]) -> None:
        """Note that the frame has a map of this size with blocks of this size."""
        self._blocks.setdefault(size, block)

    def noted(self) -> set[MapGeometry]:
        """Sizes of all maps that the frame has had on blocks so far, with those blocks."""
        return {MapGeometry(*pair) for pair in self._blocks.items()}

    def geometry(self, shape: Sequence[int]) -> MapGeometry | None:
        """The geometry of the frame's maps of the size of ``(N, C, H, W)``, if there are any.

        The first map of the frame, divided by a whole number, counts as one of them. A map whose
        blocks are single pixels does not: it may be a summary of each block, and little would be
        gained.
        """
        if len(shape) != 4 or shape[0] != self._images:
            return None
        size = (shape[2], shape[3])
        block = self._blocks.get(size) or self._divided_block(size)
        return None if block is None or block == (1, 1) else MapGeometry(size, block)

    def _divided_block(self, size: tuple[int, int]) -> tuple[int, int] | None:
        (height, width), (rows, columns) = next(iter(self._blocks.items()), ((0, 0), (0, 0)))
        times = ceil_div(height, max(size[0], 1))
        divides = times > 1 and rows % times == 0 and columns % times == 0
        if not divides or size != (ceil_div(height, times), ceil_div(width, times)):
            return None
        return rows // times, columns // times

    @property
    def is_over(self) -> bool:
        """Whether maps are no longer cut."""
        return self._cut is None

    def blocks(self, map_: DenseMap, geometry: MapGeometry) -> Tensor:
        """The executed blocks of a dense map of this geometry."""
        self._with_blocks.append(weakref.ref(map_))
        return self._cut(map_.plain, geometry.block)

    def close(self) -> None:
        """End the frame."""
        self._cut = None
        for map_ in (reference() for reference in self._with_blocks):
            if map_ is not None:
                map_.forget()


class DenseMap(torch.Tensor):
    """A dense tensor that was computed from a feature map of a frame.

    It has its own memory and behaves like an ordinary tensor; compiled code may read it. It
    keeps only its memory alive, and after the frame it is a tensor like any other.

    Attributes:
        plain: The same memory as an ordinary tensor.
        parts: The mark of the windows that it was computed from, ``None`` if from more of the
            picture than these.
    """

    plain: Tensor
    parts: Any
    _origin: FrameMaps | None
    _blocks: tuple[int, Tensor] | None

    __torch_function__ = no_torch_function_of_subclass

    @staticmethod
    def of(plain: Tensor, origin: FrameMaps | None, parts: Any = None) -> DenseMap:
        """Mark a tensor; without an origin, it is never cut into blocks."""
        self = marked_as(DenseMap, plain)
        self.plain, self._origin, self._blocks, self.parts = plain, origin, None, parts
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def blocks(self) -> Tensor | None:
        """Its executed blocks, cut once for all readers; ``None`` if it is not a map of blocks."""
        origin = self._origin
        geometry = origin.geometry(self.shape)
        if geometry is None or self.is_complex():
            return None
        if self._blocks is None or self._blocks[0] != origin.writes:
            self._blocks = origin.writes, origin.blocks(self, geometry)
        return self._blocks[1]

    def forget(self) -> None:
        """End the frame."""
        self._origin = self._blocks = self.parts = None

    def __deepcopy__(self, memo) -> Tensor:
        return self.plain.clone()

    def __reduce_ex__(self, protocol):
        return self.plain.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"DenseMap({self.plain!r})"

    def numpy(self, *, force: bool = False):
        """See ``torch.Tensor.numpy``."""
        return self.plain.numpy(force=force)

    def tolist(self) -> list:
        """See ``torch.Tensor.tolist``."""
        return self.plain.tolist()

    def __array__(self, dtype=None):
        return self.plain.__array__(dtype)


def plain(value: Any) -> Any:
    """A dense map as an ordinary tensor; anything else unchanged."""
    return value.plain if type(value) is DenseMap else value


def is_no_map(value: Any) -> bool:
    """Whether it was computed from a frame's maps, and cannot be cut into blocks again."""
    if type(value) is not DenseMap or value._origin is None or value._origin.is_over:
        return False
    return value._origin.geometry(value.shape) is None


def derived(value: Any, origin: FrameMaps, parts: Any = None) -> Any:
    """Mark what an op computed from a frame's maps.

    Args:
        value: Its result: a tensor, or several.
        origin: The frame being run.
        parts: See :class:`DenseMap`.

    Returns:
        The same, with tensors of two and more dimensions, except integers, as dense maps.
    """
    if type(value) is Tensor:
        marked = value.dim() > 1 and (value.is_floating_point() or value.is_complex())
        return DenseMap.of(value, origin, parts) if marked else value
    if isinstance(value, (list, tuple)):
        return type(value)([derived(item, origin, parts) for item in value])
    return value


def _run(func: OpOverload, args, kwargs):
    """Run an op with dense maps among its arguments."""
    origin = _origin_of(args) or _origin_of(kwargs.values())
    blocks = None
    if origin is not None:
        if func in _COMPOSITES:
            out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
        if origin.cuts(func, args):
            blocks = args[0].blocks() if type(args[0]) is DenseMap else None
            if blocks is not None:
                args = (blocks, *args[1:])
    writes = is_mutable(func)
    aliases = any(result.alias_info is not None for result in schema_of(func).returns)
    # In inference mode a view, and a write to it, must be counted in its base, see ViewedMap.
    counts = (writes or aliases) and torch.is_inference_mode_enabled()
    with versions_are_counted(counts):
        out = func(*plain_all(args), **dict(zip(kwargs, plain_all(kwargs.values()), strict=True)))
    if blocks is not None:
        first = out[0] if isinstance(out, (list, tuple)) else out
        if isinstance(first, type(blocks)):
            origin.read.append(MapGeometry(blocks.size_of_map, blocks.block))
    if writes:
        if origin is not None:
            origin.writes += 1
        return _written(func, args, kwargs, out)
    if origin is not None and moves_pixels(func, args, origin):
        origin = None
    all_parts = {id(value.parts): value.parts for value in dense_maps((args, kwargs))}
    parts = next(iter(all_parts.values())) if len(all_parts) == 1 else None
    if counts:
        # It knows its base, and torch accepts such a tensor from below only within another.
        return tree_map(
            lambda value: DenseMap.of(value, origin, parts) if _is_plain(value) else value, out
        )
    return out if origin is None else derived(out, origin, parts)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and type(value) is not DenseMap


def _written(func, args, kwargs, out):
    """The result of an op that writes: the argument itself, not another tensor on its memory."""
    for i, argument in enumerate(schema_of(func).arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        target = args[i] if i < len(args) else kwargs.get(argument.name)
        if type(target) is not DenseMap:
            continue
        if torch.Tag.inplace_view in func.tags:
            # Its sizes have changed too; those of the other tensor on this memory have not.
            with no_torch_dispatch():
                func(*[target, *args[1:]], **kwargs)
        if out is target.plain:
            return target
    return out


def moves_pixels(func: OpOverload, args, origin: FrameMaps) -> bool:
    """Whether the pixels of an op's result are elsewhere than those of its argument."""
    if func is aten.index.Tensor and args[0].dim() == 4:
        return [i for i, index in enumerate(args[1]) if index is not None] != [1]
    if packet_of(func) in _FORGET or func.namespace != "aten":
        return True
    if func is aten.roll.default:
        return max((abs(s) for s in args[1]), default=0) > _FEW_PIXELS
    if func is aten.transpose.int or func is aten.permute.default:
        x = args[0]
        if origin.geometry(x.shape) is None:
            return False
        order = list(range(4))
        if func is aten.permute.default:
            order = [d % 4 for d in args[1]]
        else:
            a, b = args[1] % 4, args[2] % 4
            order[a], order[b] = order[b], order[a]
        return order.index(2) > order.index(3)
    return False


def dense_maps(values: Any) -> list[DenseMap]:
    """The dense maps among arguments, of a frame that is not over."""
    return [
        value
        for value in tree_leaves(values)
        if type(value) is DenseMap and _origin_of((value,)) is not None
    ]


def _origin_of(values) -> FrameMaps | None:
    for value in values:
        if type(value) is DenseMap:
            if value._origin is not None and not value._origin.is_over:
                return value._origin
        elif isinstance(value, (list, tuple)):
            found = _origin_of(value)
            if found is not None:
                return found
    return None


def plain_all(values: Sequence) -> list:
    """Arguments of an op, with dense maps as ordinary tensors."""
    return [
        type(value)(plain_all(value)) if type(value) in (list, tuple) else plain(value)
        for value in values
    ]
