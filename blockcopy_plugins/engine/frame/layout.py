"""Which blocks of a map are executed, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ...errors import StateError
from ...host_transfer import upload
from .grid_lists import list_blocks


@dataclass(frozen=True)
class Windows:
    """Windows of a map that blocks do not hold: those that overlap executed blocks run.

    Attributes:
        rows: The rows of the grid that each row of windows overlaps, see
            :func:`~..geometry.blocks_met`.
        columns: The columns of the grid that each column of windows overlaps.
    """

    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.rows), len(self.columns)

    def executed(self, grid: Tensor) -> Tensor:
        """Which of them overlap executed blocks.

        Args:
            grid: bool ``(N, GH, GW)`` in host memory.

        Returns:
            bool ``(N, rows, columns)``.
        """
        rows, columns = (torch.tensor(met, device="cpu") for met in (self.rows, self.columns))
        return grid[:, rows].any(2)[:, :, columns].any(3)

    def and_more(self, rows: int, columns: int) -> Windows:
        """The same with more rows and columns, which run where the last ones do."""
        return Windows(
            (*self.rows, *self.rows[-1:] * rows), (*self.columns, *self.columns[-1:] * columns)
        )


@dataclass(frozen=True)
class PixelTokens:
    """The pixels of a map one by one.

    Attributes:
        size: ``(H, W)`` of the map.
        block: Height and width of its blocks.
    """

    size: tuple[int, int]
    block: tuple[int, int]

    @property
    def count(self) -> int:
        """Pixels."""
        return self.size[0] * self.size[1]

    def executed(self, grid: Tensor) -> Tensor:
        """Which pixels lie in executed blocks: bool ``(N, pixels)``, see :class:`Windows`."""
        rows, columns = (
            (torch.arange(length, device="cpu") // width).clamp(max=blocks - 1)
            for length, width, blocks in zip(self.size, self.block, grid.shape[1:], strict=True)
        )
        return grid[:, rows][:, :, columns].flatten(1)


@dataclass(frozen=True)
class OtherTokens:
    """Tokens of no pixel, such as a class token, registers or queries.

    They run if any block of their image does, since they may read all pixels.

    Attributes:
        count: How many.
    """

    count: int

    def executed(self, grid: Tensor) -> Tensor:
        """Whether they run: bool ``(N, count)``, see :class:`Windows`."""
        return grid.flatten(1).any(1, keepdim=True).expand(-1, self.count)


@dataclass(frozen=True)
class Tokens:
    """Tokens of one or several maps, and of no pixel, one after the other.

    Attributes:
        parts: What they are, in order.
    """

    parts: tuple[PixelTokens | OtherTokens, ...]

    @property
    def count(self) -> tuple[int, int]:
        """One row of all tokens."""
        return 1, sum(part.count for part in self.parts)

    @property
    def ranges(self) -> tuple[range, ...]:
        """Which of all tokens those of each part are."""
        ends = tuple(accumulate(part.count for part in self.parts))
        return tuple(
            range(end - part.count, end) for part, end in zip(self.parts, ends, strict=True)
        )

    def within(self, tokens: range) -> tuple[PixelTokens | OtherTokens, ...]:
        """The parts that some of the tokens consist of.

        Args:
            tokens: Which ones.

        Returns:
            Nothing if they are not all tokens of some parts, or of no map.
        """
        inside = [
            (part, own)
            for part, own in zip(self.parts, self.ranges, strict=True)
            if own.start >= tokens.start and own.stop <= tokens.stop
        ]
        parts = tuple(part for part, _ in inside)
        maps = any(isinstance(part, PixelTokens) for part in parts)
        if not maps or range(inside[0][1].start, inside[-1][1].stop) != tokens:
            return ()
        return parts

    def as_many_in_each(self, grid: tuple[int, int]) -> bool:
        """Whether each block of a grid has as many tokens, so that their number follows from it.

        Args:
            grid: Rows and columns of blocks.
        """
        return all(
            isinstance(part, PixelTokens)
            and part.size == tuple(b * n for b, n in zip(part.block, grid, strict=True))
            for part in self.parts
        )

    def executed(self, grid: Tensor) -> Tensor:
        """See :class:`Windows`; bool ``(N, 1, tokens)``."""
        return torch.cat([part.executed(grid) for part in self.parts], 1).unsqueeze(1)

    def and_more(self, rows: int, columns: int) -> Windows:
        """See :class:`Windows`.

        Raises:
            StateError: Always: there are no more tokens.
        """
        raise StateError(f"a map of {self.count[1]} tokens has become larger by {rows, columns}.")


Parts = Windows | Tokens
"""What a map may be cut into other than blocks."""

Blocks = tuple[int, int] | Parts
"""Rows and columns of blocks of a map, or its windows or tokens."""


class Layout:
    """The executed blocks of all maps with one number of blocks.

    Most maps have as many blocks as the grid. A map that comes out larger (pooling with
    ``ceil_mode``, an even kernel) has one more row or column of blocks, executed like the last one
    of the grid.

    Args:
        grid: bool ``(N, GH, GW)``, in host memory: counting on a GPU would mean waiting for it.
        blocks: Rows and columns of blocks, at least those of the grid; or windows in place of
            blocks.
        slots: Slot of each image's stream.
        device: Device of the lists, by default the host.

    Attributes:
        blocks: Rows and columns of blocks, or of windows.
        executed: Number of executed blocks.
        by_image: int32 ``(executed, 3)``: image, block row, block column.
        by_slot: The same with the slot in place of the image.
    """

    def __init__(
        self,
        grid: Tensor,
        blocks: Blocks,
        slots: Sequence[int],
        device: torch.device | None = None,
    ) -> None:
        by_image, by_slot = block_lists(grid, blocks, slots)
        self._take(blocks, by_image, by_slot)
        if device is not None and device.type != "cpu":
            self.by_image = upload(by_image, device)
            self.by_slot = self.by_image if by_slot is by_image else upload(by_slot, device)

    @classmethod
    def over(cls, blocks: Blocks, by_image: Tensor, by_slot: Tensor) -> Layout:
        """A layout of lists that exist already.

        Args:
            blocks: Rows and columns of blocks.
            by_image: See the class.
            by_slot: See the class.
        """
        self = cls.__new__(cls)
        self._take(blocks, by_image, by_slot)
        return self

    def _take(self, blocks: Blocks, by_image: Tensor, by_slot: Tensor) -> None:
        self.blocks = blocks.count if not isinstance(blocks, tuple) else blocks
        self.by_image = by_image
        self.by_slot = by_slot
        self.executed = by_image.shape[0]

    @property
    def image_index(self) -> Tensor:
        """int64 ``(executed,)``: the image of each block."""
        return self.by_image[:, 0].long()

    def index(self, axis: int) -> Tensor:
        """int64 ``(executed,)``: row (axis 0) or column (1) of each block."""
        return self.by_image[:, 1 + axis].long()


def image_places(slots: Sequence[int]) -> Tensor:
    """int32 ``(N, 3)`` in host memory: each image as one block, by slot."""
    return torch.tensor([(slot, 0, 0) for slot in slots], dtype=torch.int32, device="cpu").view(
        -1, 3
    )


def block_lists(grid: Tensor, blocks: Blocks, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The executed blocks of a map with ``blocks`` blocks, in host memory.

    Args:
        grid: bool ``(N, GH, GW)`` in host memory.
        blocks: See :class:`Layout`.
        slots: Slot of each image's stream.

    Returns:
        ``by_image`` and ``by_slot`` of :class:`Layout`: the same tensor where each image has the
        slot of its number.
    """
    if not isinstance(blocks, tuple):
        grid, blocks = blocks.executed(grid), blocks.count
    by_image = list_blocks(grid, *blocks)
    if tuple(slots) == tuple(range(len(slots))):
        return by_image, by_image
    by_slot = by_image.clone()
    by_slot[:, 0] = torch.tensor(slots, dtype=torch.int32, device="cpu")[by_image[:, 0].long()]
    return by_image, by_slot
