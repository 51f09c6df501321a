"""The grid of a batch in host memory, counted once."""

from __future__ import annotations

from math import prod

from torch import Tensor

from .grid_lists import count_blocks


class HostGrid:
    """The grid of a batch, and how many blocks of each image are executed.

    Each question to a tensor costs some microseconds, and a frame asks about ten.

    Args:
        grid: bool ``(N, GH, GW)`` in host memory, which nobody writes to any more.

    Attributes:
        grid: As given.
        counts: Executed blocks of each image.
        executed: Executed blocks of all images.
        full: Whether each image is executed fully.
        runs: Whether any block of each image is executed.
    """

    def __init__(self, grid: Tensor) -> None:
        self.grid = grid
        self.counts = count_blocks(grid)
        self.executed = sum(self.counts)
        self.blocks = prod(grid.shape[1:])
        self.full = tuple(count == self.blocks for count in self.counts)
        self.runs = tuple(count > 0 for count in self.counts)

    @property
    def rates(self) -> list[float]:
        """Executed blocks / all blocks, of each image."""
        return [count / self.blocks for count in self.counts]
