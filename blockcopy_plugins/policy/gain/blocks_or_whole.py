"""Whether a stream in which everything moves is better off with blocks or with whole frames.

A budget of half the blocks pays for every second frame as a whole, or for the better half of each.
Whole frames read nothing stale, but what is shown between them is old everywhere; blocks among
others that were not executed read stale features around them. Which of the two loses more depends
on the network (its receptive field, whether it averages over the picture) as much as on the video,
so both are tried, and what they lose is measured against the network's whole frames.
"""

from __future__ import annotations

import math
from enum import Enum

from .skipped_worth import SkippedWorth

# Frames on blocks before what they lose is measured: at first, and each time they have proved
# better. What they lose grows with the time since a whole frame.
_STRETCHES = (4, 16, 64)
# Whole frames that are measured before the first of them.
_WHOLE_FRAMES = 4
# Frames before a trial that does not look promising, and again before the next one where blocks
# lose more; this doubles up to the second.
_PATIENCE = 64
_LONGEST_PATIENCE = 1024
# Blocks must lose less than whole frames by this share: more where little is known, as frames
# differ, and always a little, as blocks cost more to run.
_DOUBT = 0.4
_LEAST_DOUBT = 0.05
# An output of a whole frame loses more the older it is, about as this power of its age: the square
# root, as things that move get further away, but cannot be more wrong than wrong.
_GROWTH = 0.5
# What skipped blocks are worth, as a share of the mean block's, where both are about as good: what
# is executed among stale surroundings loses about as much as its skipped ones do.
_EVEN = 0.5
# Weight of a measure in the mean of its kind, at least, and of what is expected without one.
_STEP = 0.2


class Measure(Enum):
    """The outputs whose loss, 1 minus their agreement with a whole frame's, is measured."""

    BLOCKS = "blocks"
    """The output of executed blocks among others, of the same frame."""
    OLD = "old"
    """An output of an earlier whole frame."""


class BlocksOrWhole:
    """The trial of a stream; it changes with each frame that is remembered.

    While whole frames run (:attr:`runs_blocks` is False), each tells how much the output before it
    has lost, as old as the budget has made it. While blocks run, at the end of a stretch a frame is
    run on its blocks and then whole (:attr:`wants_comparison`), and a whole frame follows. As long
    as blocks lose less, each stretch is longer than the one before. Whether to begin the first one
    depends on the skipped blocks' worth.

    Attributes:
        runs_blocks: Whether the budget of each frame is spent on its best blocks; otherwise it is
            saved up for whole frames.
    """

    def __init__(self) -> None:
        self.runs_blocks = False
        self._left = 0
        # Which of them is under way, or was the last one; None before a trial.
        self._stretch: int | None = None
        self._patience = _PATIENCE
        self._blocks, self._old = _Mean(), _Mean()

    @property
    def wants_comparison(self) -> bool:
        """Whether the stretch on blocks is over, and a frame is to be run twice."""
        return self.runs_blocks and self._left <= 0

    def wants_measure(self, skipped: SkippedWorth) -> bool:
        """Return whether it matters what a whole frame shows.

        Args:
            skipped: What the blocks that would not run are worth.
        """
        return not self.runs_blocks and skipped.is_small

    def passed(self) -> None:
        """A frame has passed; what was learned of it comes after this."""
        self._left -= 1

    def compared(self) -> None:
        """A frame was run on its blocks and then whole: a whole frame follows, to be measured."""
        self.runs_blocks = False
        self._left = 0

    def learn(
        self, measure: Measure, loss: float, age: int, rate: float, skipped: SkippedWorth
    ) -> None:
        """Take a measure, and decide how to go on.

        Args:
            measure: What was measured.
            loss: 1 minus an agreement; ignored if it is not finite.
            age: Frames since the whole frame whose output it is of, at least 1.
            rate: Executed rate of the stream, above 0 and below 1.
            skipped: What the blocks that would not run are worth.
        """
        if not math.isfinite(loss):
            return
        if measure is Measure.BLOCKS:
            self._blocks.add(loss)
            return
        self._old.add(loss / age**_GROWTH)
        if self._left <= 0 and self._old.count >= _WHOLE_FRAMES:
            self._decide(self.whole_loss(rate), skipped)

    def whole_loss(self, rate: float) -> float:
        """Return the mean loss of all frames where whole ones run and nothing between them.

        Args:
            rate: Executed rate.
        """
        # From one whole frame to the next it is so many frames, or one more.
        interval = 1 / rate
        fewer = math.floor(interval)
        sums = [sum(age**_GROWTH for age in range(1, n)) for n in (fewer, fewer + 1)]
        return self._old.value * rate * (sums[0] + (interval - fewer) * (sums[1] - sums[0]))

    def _decide(self, whole: float, skipped: SkippedWorth) -> None:
        weight = max(1 / (1 + self._blocks.count), _STEP)
        expected = weight * whole * skipped.value / _EVEN
        if self._blocks.count:
            expected += (1 - weight) * self._blocks.value
        is_better = expected < (1 - max(_DOUBT * weight, _LEAST_DOUBT)) * whole
        if self._stretch is None:
            if not is_better and self._left > -_PATIENCE:
                return
            self._stretch = int(is_better)
        elif is_better:
            self._stretch = min(self._stretch + 1, len(_STRETCHES) - 1)
        else:
            self._left, self._patience = self._patience, min(2 * self._patience, _LONGEST_PATIENCE)
            self._stretch, self._blocks = None, _Mean()
            return
        self._left, self.runs_blocks = _STRETCHES[self._stretch], True


class _Mean:
    """A running mean, of the first values and then of the last ones."""

    def __init__(self) -> None:
        self.count = 0
        self.value = math.nan

    def add(self, value: float) -> None:
        self.count += 1
        before = value if self.count == 1 else self.value
        self.value = before + max(1 / self.count, _STEP) * (value - before)
