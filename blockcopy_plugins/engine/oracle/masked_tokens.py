"""Tokens in the masked reference: those of maps, joined with each other and with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import named_arguments, tree_leaves
from .masked_blocks import MaskedBlocks
from .masked_frame import MaskedFrame
from .masked_tensor import MaskedTensor, value_of

aten = torch.ops.aten

Part = tuple[int, "tuple[tuple[int, int], tuple[int, int]] | None"]
_TAKE = (aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default, aten.split.Tensor)


class MaskedTokens(MaskedFrame):
    """Tokens as a map of one row, in which each token is a block.

    A token of no pixel is executed if any block of its image is.

    Args:
        home: The frame of the maps.
        parts: What they are, in order: how many tokens, and size and block of their map or ``None``
            for those of no pixel.
    """

    of_tokens = True

    def __init__(self, home: MaskedFrame, parts: Sequence[Part]) -> None:
        super().__init__(home.kept, home.grid, home.streams, 1, home.repack)
        self.home, self.maps, self.parts = home, home.maps, parts
        any_of = home.grid.flatten(1).any(1, keepdim=True)
        masks = [
            any_of.expand(-1, count) if of is None else home.mask(*of).flatten(1)
            for count, of in parts
        ]
        self._mask = torch.cat(masks, 1)[:, None, None]
        self.size = (1, sum(count for count, _ in parts))
        self.blocks = MaskedBlocks(self.size, 1)

    @staticmethod
    def of(home: MaskedFrame, parts: Sequence[Part]) -> MaskedTokens:
        """See the class; the same for all tokens of the same kind."""
        key = tuple(parts)
        if key not in home.tokens:
            home.tokens[key] = MaskedTokens(home, key)
        return home.tokens[key]

    @property
    def ops(self) -> int:
        """The ops of the whole frame."""
        return self.home.ops

    @ops.setter
    def ops(self, value: int) -> None:
        if hasattr(self, "home"):
            self.home.ops = value

    def mask(self, size: Sequence[int], block: tuple[int, int]) -> Tensor:
        """See :class:`MaskedFrame`."""
        return self._mask

    def execute(self, func, args, kwargs):
        """See :class:`MaskedFrame`; tokens that are taken may be all of a map, or others."""
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, MaskedTensor)]
        if any(x.run is not self for x in maps):
            return self.home.execute(func, args, kwargs)
        x = maps[0]
        if func not in _TAKE or x.axes[named_arguments(func, args, kwargs)["dim"]] != "L":
            return super().execute(func, args, kwargs)
        dim = named_arguments(func, args, kwargs)["dim"]
        numbers = [1] * x.dim()
        numbers[dim] = -1
        numbers = torch.arange(x.shape[dim]).view(numbers).expand(x.shape)
        taken = func(numbers, *args[1:], **kwargs)
        if not isinstance(taken, Tensor):
            values = func(x.value, *args[1:], **kwargs)
            return [
                self._taken(x, value, tuple(of.movedim(dim, 0).flatten(1)[:, 0].tolist()))
                for value, of in zip(values, taken, strict=True)
            ]
        if taken.dim() == x.dim():
            taken = tuple(taken.movedim(dim, 0).flatten(1)[:, 0].tolist())
            if len(taken) == x.shape[dim]:
                return super().execute(func, args, kwargs)
            if self._parts_of(taken):
                return self._taken(x, func(x.value, *args[1:], **kwargs), taken)
        self.ops += 1
        return func(self.merge(x, 0), *args[1:], **kwargs)

    def _parts_of(self, numbers: tuple[int, ...]) -> list[Part]:
        """The successive parts that have these numbers, a map among them."""
        for first in range(len(self.parts)):
            start = sum(count for count, _ in self.parts[:first])
            for last in range(first + 1, len(self.parts) + 1):
                found = self.parts[first:last]
                own = range(start, start + sum(count for count, _ in found))
                if tuple(own) == numbers and any(of for _, of in found):
                    return list(found)
        return []

    def _taken(self, x: MaskedTensor, value: Tensor, numbers: tuple[int, ...]) -> Tensor:
        """Tokens of one map or of several parts, or some others of which nothing is masked."""
        found = self._parts_of(numbers)
        if len(found) == 1:
            ((_, (size, block)),) = found
            return MaskedTensor(value, block, self.home, x.axes, size, x.joined)
        if found:
            run = MaskedTokens.of(self.home, found)
            return MaskedTensor(value, (1, 1), run, x.axes, run.size, x.joined)
        self.ops += 1
        dim = x.axes.index("L")
        return self.merge(x, 0).index_select(dim, torch.tensor(numbers, dtype=torch.int64))


def joined_tokens(home: MaskedFrame, func, args: Sequence, kwargs: Any) -> MaskedTensor | None:
    """Maps' tokens joined with others, ``None`` if a concatenation does something else."""
    tensors, dim = (*args, kwargs.get("dim", 0))[:2]
    first = next(tensor for tensor in tensors if isinstance(tensor, MaskedTensor))
    if len(tensors) < 2 or first.axes != "NLC" or dim % 3 != 1:
        return None
    for tensor in tensors:
        if tensor.dim() != 3 or tensor.dtype != first.dtype:
            return None
        if getattr(tensor, "axes", "NLC") != "NLC" or getattr(tensor, "padded", False):
            return None
    run = MaskedTokens.of(
        home,
        [
            (x.shape[1], (x.size_of_map, x.block) if isinstance(x, MaskedTensor) else None)
            for x in tensors
        ],
    )
    value = func([value_of(tensor) for tensor in tensors], dim)
    return run._masked(value, (1, 1), "NLC", run.size)
