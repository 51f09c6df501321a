"""A guard: no block gets older than a given number of frames."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor

from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard, check_count
from .stream_memory import StreamMemory


class MaxAge(Guard):
    """Promises that no block is older than n frames.

    A block is executed no later than n frames after its last execution, if the policy has not
    chosen it before. Blocks that the policy executes itself cost nothing extra. Blocks that were
    last executed together are due together: after a full frame of a picture in which the policy
    finds nothing to do, all of them (:class:`~.refresh.Refresh` spreads them over the frames).

    Args:
        frames: n, at least 1. Default: 60.

    Raises:
        ConfigError: If ``frames`` is not an integer of at least 1.
    """

    def __init__(self, frames: int = 60) -> None:
        self.frames = check_count(self, "frames", frames, "frames")
        # Frames since each block was executed, up to n - 1.
        self._ages = StreamMemory()

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"MaxAge(frames={self.frames})"

    def demand(self, frame: Tensor, context: PolicyContext) -> tuple[Tensor, None]:
        """Demand the blocks that would be older than n frames."""
        return self._read(context, frame.device) >= self.frames - 1, None

    def commit(self, grid: Tensor, context: PolicyContext) -> None:
        """Executed blocks become new, the others one frame older."""
        ages = self._read(context, grid.device) + 1
        self._ages.write(context.streams, ages.clamp_max(self.frames - 1).masked_fill(grid, 0))

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """See :meth:`Guard.reset`."""
        self._ages.forget(streams)

    def rate_bounds(self, frame_size: tuple[int, int], block_size: int) -> tuple[float, float]:
        """See :meth:`Guard.rate_bounds`."""
        return 1 / self.frames, 1.0

    def _read(self, context: PolicyContext, device: torch.device) -> Tensor:
        # For an unknown stream, every block is due.
        return self._ages.read(
            context.streams, context.grid_shape[1:], self.frames - 1, torch.int32, device
        )
