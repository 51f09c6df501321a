"""Which blocks of a map are executed, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Layout:
    """The executed blocks of all maps with one number of blocks.

    Most maps have as many blocks as the grid. One that comes out larger than that (pooling with
    ``ceil_mode``, an even kernel) has a row or column of blocks more, which is executed where the
    last one of the grid is.

    Args:
        grid: bool ``(N, GH, GW)``.
        blocks: Rows and columns of blocks, at least those of the grid.
        slots: Slot of each image's stream.

    Attributes:
        blocks: As given.
        executed: Number of executed blocks.
        by_image: int32 ``(executed, 3)``: image, block row, block column.
        by_slot: The same with the slot in place of the image.
    """

    def __init__(self, grid: Tensor, blocks: tuple[int, int], slots: Sequence[int]) -> None:
        self.blocks = blocks
        if blocks != tuple(grid.shape[1:]):
            rows, cols = (
                torch.arange(count, device=grid.device).clamp(max=have - 1)
                for count, have in zip(blocks, grid.shape[1:], strict=True)
            )
            grid = grid[:, rows][:, :, cols]
        self.by_image = grid.nonzero().to(torch.int32).contiguous()
        self.executed = self.by_image.shape[0]
        self.by_slot = self.by_image
        if tuple(slots) != tuple(range(len(slots))):
            self.by_slot = self.by_image.clone()
            slot_of = torch.tensor(slots, device=grid.device, dtype=torch.int32)
            self.by_slot[:, 0] = slot_of[self.image_index]

    @property
    def image_index(self) -> Tensor:
        """int64 ``(executed,)``: the image of each block."""
        return self.by_image[:, 0].long()

    def index(self, axis: int) -> Tensor:
        """int64 ``(executed,)``: row (axis 0) or column (1) of each block."""
        return self.by_image[:, 1 + axis].long()
