"""What the blocks that a stream's budget does not pay for would bring when everything moves.

If the worse half of the blocks would bring much less than the better one, executing the better half
of each frame may lose less than whole frames do, and is worth a trial (:mod:`.blocks_or_whole`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# Largest worth of the skipped blocks, relative to the mean block's. Whole frames lose all of it in
# the frames between; executing blocks among stale surroundings loses about as much as this leaves.
_LIMIT = 0.55
# Smallest weight of a new frame in the running mean.
_STEP = 0.3


@dataclass(frozen=True)
class SkippedWorth:
    """How much less the blocks that a stream's budget does not pay for are worth than the others.

    Only blocks that were all last executed in the same frame can be compared: just after a block
    was executed there is little to gain in it, wherever it lies.

    Attributes:
        value: Running mean of these blocks' mean worth, in units of the mean worth of all blocks; 1
            before anything was measured.
        frames: Number of frames in the mean.
    """

    value: float = 1.0
    frames: int = 0

    @property
    def is_small(self) -> bool:
        """Whether skipping them in each frame may lose less than whole frames now and then."""
        return self.value < _LIMIT

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
        step = max(1 / (self.frames + 1), _STEP)
        return SkippedWorth(self.value + step * (float(least) - self.value), self.frames + 1)
