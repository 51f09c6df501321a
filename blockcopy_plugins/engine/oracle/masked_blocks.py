"""Where the blocks of a map end, for the masked reference: the one thing that it does not compute.

Each method takes a masked tensor, or what the oracle knows about it: ``axes``, ``size_of_map``,
``block`` and ``padded``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch

from ..geometry import fills_last_blocks, fits_blocks, is_half_a_window, resized_block
from .pixels import MAP

aten = torch.ops.aten

POOLS = (aten.max_pool2d_with_indices.default, aten.avg_pool2d.default)
RESIZES_AND_NORMS = (
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.default,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.default,
    aten._upsample_bicubic2d_aa.vec,
    aten.native_group_norm.default,
)
"""Their blocks follow from the sizes of their maps."""

Block = tuple[int, int]


class MapOfBlocks(Protocol):
    """What is known about a masked tensor."""

    axes: str
    size_of_map: tuple[int, int]
    block: Block
    padded: bool


@dataclass(frozen=True)
class MaskedBlocks:
    """The blocks of the maps of one frame.

    Attributes:
        grid: Rows and columns of the grid.
        block_size: Side of a block in pixels of the frame.
    """

    grid: tuple[int, int]
    block_size: int

    def after(self, func, args, x: MapOfBlocks, size: Sequence[int]) -> Block | None:
        """Block of an op's result of this size, ``None`` if the result is dense."""
        if func in (aten.pixel_shuffle.default, aten.pixel_unshuffle.default):
            return self.scaled(x, size)
        transposed = func is aten.convolution.default and args[6]
        if transposed:
            steps = _pair(args[3])
            block = tuple(b * step for b, step in zip(x.block, steps, strict=True))
            if not x.padded and fits_blocks(self.grid, size, block):
                return block
        if func in RESIZES_AND_NORMS or transposed:
            return None if x.padded else self.resized(x, size)
        if func is aten.convolution.default:
            steps = _pair(args[3])
        elif func in POOLS:
            steps = _pair(args[2] if len(args) > 2 and args[2] else args[1])
        elif func is aten._adaptive_avg_pool2d.default and not x.padded:
            sides = list(zip(x.size_of_map, size, strict=True))
            steps = tuple(n // m for n, m in sides)
            if any(n % m for n, m in sides):
                return None
        else:
            return None
        if any(b % step for b, step in zip(x.block, steps, strict=True)):
            return None
        block = tuple(b // step for b, step in zip(x.block, steps, strict=True))
        return block if fits_blocks(self.grid, size, block) else None

    def of_slice(self, args, x: MapOfBlocks, length: int) -> tuple[Block, tuple[int, int]] | None:
        """Block and size of a slice of rows or columns, ``None`` if it is not a map."""
        _, dim, start, _, step = (*args, *(0, 0, None, 1)[len(args) - 1 :])
        if x.axes[dim] not in "HW" or x.padded:
            return None
        axis, step = "HW".index(x.axes[dim]), step or 1
        first = (start or 0) % x.size_of_map[axis]
        block, size = list(x.block), list(x.size_of_map)
        block[axis] //= step
        size[axis] = length
        fits = x.block[axis] % step == 0 and first < step and self.same_number(x, size, block)
        return (tuple(block), tuple(size)) if fits else None

    def of_patches(self, args, x: MapOfBlocks) -> tuple[Block, tuple[int, int]] | None:
        """Block and size of the map that ``F.unfold`` returns, ``None`` if no blocks fit."""
        kernel, dilation, padding, stride = (_pair(a) for a in args[1:])
        if any(b % step for b, step in zip(x.block, stride, strict=True)):
            return None
        block = tuple(b // step for b, step in zip(x.block, stride, strict=True))
        size = tuple(
            (n + 2 * pad - apart * (taps - 1) - 1) // step + 1
            for n, pad, apart, taps, step in zip(
                x.size_of_map, padding, dilation, kernel, stride, strict=True
            )
        )
        return (block, size) if fits_blocks(self.grid, size, block) else None

    def of_pad(self, amounts, x: MapOfBlocks, shape: Sequence[int]) -> tuple[int, int] | None:
        """Size of a map after constant padding that its blocks have room for, or ``None``."""
        pads = [(0, 0)] * len(shape)
        for i in range(len(amounts) // 2):
            pads[-1 - i] = (amounts[2 * i], amounts[2 * i + 1])
        padded = {letter for letter, pad in zip(x.axes, pads, strict=True) if any(pad)}
        if padded <= {"C"}:
            return x.size_of_map
        if x.axes == MAP or not padded <= {"H", "W"}:
            return None
        by_letter = dict(zip(x.axes, pads, strict=True))
        if by_letter["H"][0] or by_letter["W"][0]:
            return None
        size = tuple(n + by_letter[a][1] for n, a in zip(x.size_of_map, "HW", strict=True))
        return size if fills_last_blocks(self.grid, x.size_of_map, size, x.block) else None

    def holds_roll(self, args, x: MapOfBlocks) -> bool:
        """Whether ``torch.roll`` shifts by half of the windows that blocks consist of."""
        _, shifts, dims = (*args, ())[:3]
        letters = [x.axes[d] for d in dims]
        if not letters or not set(letters) <= {"H", "W"} or len(set(letters)) < len(letters):
            return False
        by_letter = dict(zip(letters, shifts, strict=True))
        return is_half_a_window(x.block, [by_letter.get(letter, 0) for letter in "HW"])

    def scaled(self, x: MapOfBlocks, size: Sequence[int]) -> Block | None:
        """Block of a map whose pixels have become channels, or the other way round."""
        block = [
            Fraction(b * new, old) for b, new, old in zip(x.block, size, x.size_of_map, strict=True)
        ]
        if any(b.denominator != 1 for b in block):
            return None
        block = tuple(map(int, block))
        return block if self.same_number(x, size, block) else None

    def resized(self, x: MapOfBlocks, size: Sequence[int]) -> Block | None:
        """Block of a map that was computed from all of ``x``."""
        width = [
            resized_block(
                self.grid[axis], x.block[axis], x.size_of_map[axis], size[axis], self.block_size
            )
            for axis in (0, 1)
        ]
        return None if None in width else tuple(width)

    def same_number(self, x: MapOfBlocks, size: Sequence[int], block: Sequence[int]) -> bool:
        """Whether a map of this size has as many blocks as ``x``."""

        def count(size, block):
            return [max(n, -(-s // b)) for n, s, b in zip(self.grid, size, block, strict=True)]

        return min(*size, *block) > 0 and count(size, block) == count(x.size_of_map, x.block)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
