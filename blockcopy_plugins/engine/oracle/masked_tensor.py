"""A dense map of which only the executed blocks mean anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..composite import take_apart
from ..tensor.dense_map import dense_maps, plain
from ..torch_internals import (
    no_torch_function_of_subclass,
    tree_leaves,
    tree_map,
    wrapper_of,
)
from .pixels import MAP


class MaskedTensor(torch.Tensor):
    """A dense map of which only the executed blocks mean anything.

    Attributes:
        value: Dense; what is not executed is NaN.
        run: The :class:`~.masked_frame.MaskedFrame` that it belongs to.
        block: Height and width of a block of the map.
        size_of_map: ``(H, W)`` of the map.
        axes: Letter of each dimension.
        joined: Channels in a dimension that it shares with pixels or images.
        padded: Whether it was computed from a kept map.
        places: The rows and columns that a rolled, padded or cropped map shows.
        size_at_home: ``(H, W)`` of that map as it was.
        source: The dense map that it was cut out of.
    """

    __torch_function__ = no_torch_function_of_subclass

    @staticmethod
    def __new__(
        cls,
        value: Tensor,
        block,
        run: Any,
        axes: str,
        size: Sequence[int],
        joined: int = 1,
        padded: bool = False,
    ):
        """Wrap a map; see the class."""
        self = wrapper_of(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=value.device
        )
        self.value, self.block, self.run = value, tuple(block), run
        self.axes, self.size_of_map, self.padded = axes, tuple(size), padded
        self.joined, self.source = joined, None
        self.places = self.size_at_home = None
        if axes == MAP and not padded:
            run.maps.note(self.size_of_map, self.block)
        return self

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"MaskedTensor(shape={tuple(self.shape)}, axes={self.axes}, block={self.block})"

    def call_whole(self, function, args, name, reason, gives_map, gives_tokens_of=None):
        """Call a function that does not know blocks, with the kept maps."""
        maps = [v for v in tree_leaves(args) if isinstance(v, MaskedTensor)]
        out = function(*tree_map(self.run.leave, args))
        of = gives_tokens_of
        if getattr(of, "axes", "").startswith("NLC") and out.shape[:2] == of.shape[:2]:
            return of.run._masked(out, of.block, "NLC", of.size_of_map)
        return self.run.masked_again(out, maps) if gives_map else out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        brought = dense_maps((args, kwargs))
        given = args, kwargs or {}
        args, kwargs = tree_map(plain, given)
        flat = tree_leaves((args, kwargs))
        run = next(v for v in flat if isinstance(v, MaskedTensor)).run
        if run.needs_all(func, brought):
            args, kwargs = tree_map(run.home.dense_windows, given)
            return func(*args, **kwargs)
        # Ops tagged as pointwise are not taken apart.
        composite = torch.Tag.pointwise not in func.tags
        out = take_apart(func, args, kwargs) if composite else NotImplemented
        return run.execute(func, args, kwargs) if out is NotImplemented else out


def unreadable(like: Tensor) -> Tensor:
    """Values that must not be read: NaN if the dtype has it, else 0."""
    return torch.full_like(like, float("nan") if like.is_floating_point() else 0)


def value_of(value: Any) -> Any:
    """What a masked tensor holds; anything else unchanged."""
    return value.value if isinstance(value, MaskedTensor) else value
