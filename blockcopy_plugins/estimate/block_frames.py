"""Frames of one size through a converted model, with given numbers of executed blocks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

import torch

from ..engine.convert import report
from ..policy.dictated import DictatedPolicy
from .frame_timer import FrameTimer

# Frames in turn that may be recorded until it is taken that all of them are: a model of many nested
# parts shows in one frame after the other which of them can be replayed.
_UNTIL_SETTLED = 16
# Tries for a frame that is not recorded, with a number of blocks that has a recording of its own.
_TRIES = 4
MOST_ROUNDS = 9


class BlockFrames:
    """Runs frames with given numbers of blocks, and keeps the times of those that count.

    The engine records some frames of a stream, to replay them from then on. A user's video is
    replayed, so that frames which are recorded do not count. Each frame is another picture than the
    one before: what repeats (regions over blocks that did not run) would else be all of it.

    Args:
        timing: Runs the model, which is converted.
        policy: Its policy.
        size: ``(H, W)`` of the frames in pixels.
        block: Block size in pixels.

    Attributes:
        blocks: Blocks of a frame.
    """

    def __init__(
        self, timing: FrameTimer, policy: DictatedPolicy, size: tuple[int, int], block: int
    ) -> None:
        self._timing, self._policy, self._size = timing, policy, size
        self._grid = -(-size[0] // block), -(-size[1] // block)
        self.blocks = self._grid[0] * self._grid[1]
        self._draw = torch.Generator().manual_seed(0)
        self._frames = self._recorded = 0
        self._seconds: dict[int, list[float]] = {}
        self._of_recorded: dict[int, list[float]] = {}
        self._of_policy: list[float] = []
        # A stream's first frame is executed fully.
        self._run(self.blocks)
        self._forget()

    def settle(self, count: int) -> None:
        """Run frames that do not count, until no more are recorded.

        Args:
            count: Number of executed blocks, about.
        """
        # Two numbers above one, or it cannot be seen what depends on them.
        count = min(max(2, count), self.blocks - 1)
        counts = count, min(count + 1, self.blocks - 1)
        settled = 0
        for turn in range(_UNTIL_SETTLED):
            settled = settled + 1 if self._run(counts[turn % 2]) else 0
            if settled == 2:
                break
        self._forget()

    def round(self, counts: Sequence[int]) -> None:
        """Run a frame that counts with each number of executed blocks."""
        for count in counts:
            for _ in range(_TRIES):
                if self._run(count):
                    break

    def times(self) -> dict[int, float]:
        """Median seconds in the model by the number of executed blocks."""
        return {
            count: median(self._seconds.get(count) or self._of_recorded[count])
            for count in self._seconds.keys() | self._of_recorded.keys()
        }

    @property
    def policy_seconds(self) -> float:
        """Mean seconds in the policy."""
        return fmean(self._of_policy)

    def _forget(self) -> None:
        self._seconds.clear()
        self._of_recorded.clear()
        self._of_policy.clear()

    def _run(self, count: int) -> bool:
        """Run a frame; whether it counts."""
        chosen = torch.zeros(self.blocks, dtype=torch.bool)
        chosen[torch.randperm(self.blocks, generator=self._draw)[:count]] = True
        self._policy.grid = chosen.view(1, *self._grid)
        frame = self._timing.frame(self._size, self._frames)
        self._frames += 1
        spent = self._timing.run(frame)
        aside = self._policy.seconds()
        recorded = report(self._timing.model).recorded
        counts = recorded == self._recorded
        self._recorded = recorded
        times = self._seconds if counts else self._of_recorded
        times.setdefault(count, []).append(spent - aside)
        self._of_policy.append(aside)
        return counts
