"""A guard: the surroundings of chosen blocks run too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard, check_count


class Dilate(Guard):
    """Promises that all blocks around a chosen block run with it.

    Chosen blocks are those that the policy picked and no guard demanded, plus the blocks that
    guards listed before this one added to them (:class:`~.hold.Hold`). The surroundings are the
    blocks at most so many rows and columns away: with 1, the eight neighbours.

    Args:
        blocks: The distance, at least 1. Default: 1.

    Raises:
        ConfigError: If ``blocks`` is not an integer of at least 1.
    """

    def __init__(self, blocks: int = 1) -> None:
        self.blocks = check_count(self, "blocks", blocks, "blocks")

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"Dilate(blocks={self.blocks})"

    def adjust(self, grid: Tensor, frame: Tensor, context: PolicyContext) -> Tensor:
        """Add the surrounding blocks."""
        # A window need not be larger than the grid, whatever the option says.
        rows, columns = (min(self.blocks, side - 1) for side in grid.shape[1:])
        window = (2 * rows + 1, 2 * columns + 1)
        grown = F.max_pool2d(grid.to(torch.float32), window, 1, (rows, columns))
        return grown > 0
