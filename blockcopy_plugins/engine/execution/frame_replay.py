"""A frame that a program runs: what is left to do of it besides the ops."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..frame.counts import FrameCounts
from ..frame.executed_blocks import ExecutedBlocks
from ..frame.host_grid import HostGrid
from ..frame.plans import FramePlans
from ..state.lent_map import LentMap
from ..state.stream import Stream


class FrameReplay(ExecutedBlocks):
    """Stands for a :class:`~..frame.frame.Frame` in which no module runs.

    Args:
        grid: See :class:`ExecutedBlocks`.
        blocks: See :class:`ExecutedBlocks`.
        streams: Stream of each image.
        plans: See :class:`ExecutedBlocks`.
        pack_whole: See :class:`ExecutedBlocks`.

    Attributes:
        streams: As given.
        counts: MACs and densified ops.
        touched_state: Whether state may have been written.
        lent: Results that are maps of the state, and who lends them.
    """

    def __init__(
        self,
        grid: Tensor,
        blocks: HostGrid,
        streams: Sequence[Stream],
        plans: FramePlans,
        pack_whole: bool,
    ) -> None:
        super().__init__(grid, blocks, [stream.slot for stream in streams], plans, pack_whole)
        self.counts = FrameCounts()
        self.touched_state = False
        self.lent: list[tuple[Tensor, LentMap]] = []
        self.streams = streams

    def close(self) -> None:
        """End the frame; there are no BlockTensors that could still be used."""
