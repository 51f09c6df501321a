"""Tokens in the masked reference: those of a map, joined with others of no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..torch_internals import tree_leaves, tree_map
from .masked_blocks import MaskedBlocks
from .masked_frame import MaskedFrame
from .masked_tensor import MaskedTensor, value_of

aten = torch.ops.aten


class MaskedTokens(MaskedFrame):
    """Tokens as a map of one row, in which each token is a block.

    A token of no pixel is executed if any block of its image is.

    Args:
        home: The frame of the map.
        x: Its tokens, ``(N, L, C)``.
        before: Tokens of no pixel before them.
        behind: Tokens after them.
    """

    def __init__(self, home: MaskedFrame, x: MaskedTensor, before: int, behind: int) -> None:
        count = before + x.shape[1] + behind
        super().__init__(home.kept, home.grid, home.streams, 1, home.repack)
        self.home, self.maps, self.of = home, home.maps, x
        self.size, self.blocks = (1, count), MaskedBlocks((1, count), 1)
        self.pixels = slice(before, before + x.shape[1])
        pixels = home.mask(x.size_of_map, x.block).flatten(1)
        any_of = home.grid.flatten(1).any(1, keepdim=True)
        sides = any_of.expand(-1, before), any_of.expand(-1, behind)
        self._mask = torch.cat([sides[0], pixels, sides[1]], 1)[:, None, None]

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
        """See :class:`MaskedFrame`; a slice may be of the map's tokens, or of none of them."""
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, MaskedTensor)]
        if any(x.run is not self for x in maps):
            return self.home.execute(func, args, kwargs)
        x = maps[0]
        if func not in (aten.slice.Tensor, aten.select.int, aten.split_with_sizes.default):
            return super().execute(func, args, kwargs)
        values = tree_map(value_of, (list(args), dict(kwargs)))
        dim = values[1].get("dim", args[2 if func is aten.split_with_sizes.default else 1])
        if x.axes[dim] != "L":
            return super().execute(func, args, kwargs)
        if func is aten.split_with_sizes.default:
            ends = torch.tensor(args[1]).cumsum(0).tolist()
            sizes = zip(args[1], ends, strict=True)
            return [aten.slice.Tensor(x, dim, end - size, end) for size, end in sizes]
        numbers = torch.arange(x.shape[dim])
        taken = func(numbers, 0, *args[2:])
        if taken.dim() and torch.equal(taken, numbers[self.pixels]):
            of = self.of
            value = func(*values[0], **values[1])
            return MaskedTensor(value, of.block, self.home, x.axes, of.size_of_map, x.joined)
        if taken.dim() and torch.equal(taken, numbers):
            return super().execute(func, args, kwargs)
        self.ops += 1
        return func(self.merge(x, 0), *args[1:], **kwargs)


def joined_tokens(home: MaskedFrame, func, args: Sequence, kwargs: Any) -> MaskedTensor | None:
    """A map's tokens joined with others, ``None`` if a concatenation does something else."""
    tensors, dim = (*args, kwargs.get("dim", 0))[:2]
    maps = [i for i, tensor in enumerate(tensors) if isinstance(tensor, MaskedTensor)]
    x = tensors[maps[0]]
    if len(maps) > 1 or x.axes != "NLC" or dim % 3 != 1 or x.padded:
        return None
    sides = tensors[: maps[0]], tensors[maps[0] + 1 :]
    for tensor in (*sides[0], *sides[1]):
        if tensor.dim() != 3 or tensor.dtype != x.dtype:
            return None
    before, behind = (sum(tensor.shape[1] for tensor in side) for side in sides)
    run = MaskedTokens(home, x, before, behind)
    value = func([value_of(tensor) for tensor in tensors], dim)
    return run._masked(value, (1, 1), "NLC", run.size)
