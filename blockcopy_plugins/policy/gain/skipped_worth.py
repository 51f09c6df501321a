"""Whether to skip the least valuable blocks of each frame when everything moves.

A budget of half the blocks pays for every second frame as a whole, or for the better half of each
frame. Whole frames read nothing stale, but the outputs between them are old everywhere. If the
worse half of the blocks would bring much less than the better one, executing the better half of
each frame loses less.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Largest worth of the skipped blocks, relative to the mean block's. Whole frames lose all of it in
# the frames between; executing blocks among stale surroundings loses about as much as this leaves.
_LIMIT = 0.5
# Weight of a new value in the running mean.
_STEP = 0.3
# A stream that skips blocks is measured after a whole frame once in so many frames.
_PERIOD = 32


@dataclass(frozen=True)
class SkippedWorth:
    """How much less the blocks that a stream's budget does not pay for are worth than the others.

    Only blocks that were all last executed in the same frame can be compared: just after a block
    was executed there is little to gain in it, wherever it lies.

    Attributes:
        value: Running mean of these blocks' mean worth, in units of the mean worth of all blocks; 1
            before anything was measured.
    """

    value: float = 1.0

    @property
    def is_small(self) -> bool:
        """Whether skipping them in each frame loses less than a whole frame now and then."""
        return self.value < _LIMIT

    def is_due(self, frames: int, rate: float) -> bool:
        """Return whether to save up for a whole frame, after which the worth can be measured.

        Args:
            frames: Number of frames that the stream has had.
            rate: Executed rate of the stream.
        """
        return frames % _PERIOD * rate < 1

    def after(self, worth: Tensor, ages: Tensor, rate: float) -> SkippedWorth:
        """Return the mean after one more frame.

        Args:
            worth: float32 ``(blocks,)`` in host memory, all above 0.
            ages: ``(blocks,)``, frames since each was executed.
            rate: Executed rate of the stream, 0 to 1.
        """
        skipped = int((1 - rate) * len(worth))
        if not skipped or bool((ages != ages[0]).any()):
            return self
        least = worth.sort().values[:skipped].mean() / worth.mean()
        return SkippedWorth(self.value + _STEP * (float(least) - self.value))
