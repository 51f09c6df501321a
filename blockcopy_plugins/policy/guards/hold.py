"""A guard: a chosen block stays executed for a while."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard, check_count
from .stream_memory import StreamMemory


class Hold(Guard):
    """Promises that a chosen block stays executed for n more frames.

    Chosen blocks are those that the policy picked and no guard demanded, plus the blocks that
    guards listed before this one added to them (:class:`~.dilate.Dilate`). For a block that is
    chosen again, the n frames start again. First frames of streams hold nothing.

    Args:
        frames: n, at least 1. Default: 2.

    Raises:
        ConfigError: If ``frames`` is not an integer of at least 1.
    """

    def __init__(self, frames: int = 2) -> None:
        self.frames = check_count(self, "frames", frames, "frames")
        # The number of frames for which each block still runs.
        self._left = StreamMemory()
        self._chosen: Tensor | None = None

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"Hold(frames={self.frames})"

    def adjust(self, grid: Tensor, frame: Tensor, context: PolicyContext) -> Tensor:
        """Add the blocks that are held."""
        self._chosen = grid
        return grid | (self._read(context, grid.device) > 0)

    def commit(self, grid: Tensor, context: PolicyContext) -> None:
        """Hold chosen blocks; for blocks held already, one frame has passed."""
        chosen, self._chosen = self._chosen, None
        left = (self._read(context, grid.device) - 1).clamp_min(0)
        if chosen is not None:
            left = left.masked_fill(chosen, self.frames)
        self._left.write(context.streams, left)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """See :meth:`Guard.reset`."""
        self._left.forget(streams)

    def _read(self, context: PolicyContext, device: torch.device) -> Tensor:
        return self._left.read(context.streams, context.grid_shape[1:], 0, torch.int32, device)
