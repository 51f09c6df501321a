"""How many blocks each stream executes in a frame: now a few, or later many at once.

Blocks that are executed among others that are not read stale features around them, and a picture
put together from blocks of many frames can be worse than an old whole one. If the gain is spread
over most of the picture (a moving camera), a stream therefore saves its budget up until it pays for
as many blocks as the gain is spread over, and executes them together: in the extreme the whole
frame, and then nothing. If the gain is concentrated on a few blocks (a still background), all
blocks run that are worth it, and the budget that quiet frames leave pays for busy ones
(:mod:`.price`). Everything between the two follows from one number, the spread, except for a budget
that pays for much of a frame: there it is tried out whether blocks lose less
(:mod:`.blocks_or_whole`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks_or_whole import BlocksOrWhole
from .memory import StreamMemory
from .price import BlockPrice
from .skipped_worth import SkippedWorth

# Weight of a new frame in the running mean of a share.
_SHARE_STEP = 0.1
# A stream gets at least this part of an equal share, so that none starves.
_LEAST_SHARE = 0.1
# Part of the difference between the bucket and the streams' accounts that a frame corrects.
_CORRECTION = 0.1
# More blocks run together than the gain is spread over, and all if that is nearly all of them: the
# stale ones between them would spoil the new ones.
_MARGIN = 1.1
_NEARLY_ALL = 0.75
# Gain on this few blocks comes from objects in front of a still background. They move on while a
# budget is saved up, and little around them is stale: the best of their blocks run in each frame.
_FEW = 0.3


def next_share(before: float, now: float) -> float:
    """Return the running mean of a stream's share, ``now`` being the share of its last frame."""
    return max(before + _SHARE_STEP * (now - before), _LEAST_SHARE)


def shares_of(worth: Tensor, others: Sequence[Tensor], rate: float) -> Tensor:
    """Return which part of the best blocks of all streams belongs to these, 1 = an equal part.

    The best blocks are the share ``rate`` of all blocks of all streams, by their worth in their
    stream's last frame. A quiet camera thus gives to a busy one.

    Args:
        worth: float32 ``(N, GH, GW)``, of the streams asked about.
        others: ``(GH, GW)`` each, of all other known streams, of any size.
        rate: Executed rate of all together.

    Returns:
        float32 ``(N,)``.
    """
    everything = torch.cat([worth.flatten(), *(other.flatten() for other in others)])
    best = max(math.ceil(rate * everything.numel()), 1)
    least = everything.topk(best).values[-1]
    # If many are worth the same, as when nothing moves, the last places are divided among them.
    above, level = (everything > least).sum(), (everything == least).sum()
    mine = worth.flatten(1)
    part = (mine > least).sum(1) + (mine == least).sum(1) * ((best - above) / level)
    return part * (everything.numel() / best / mine.shape[1])


class Allotment:
    """What each image of a batch may execute now.

    Args:
        memories: Those of the images' streams; None for images that are executed fully anyway.
        total: Number of known streams, whether in the batch or not.
        saved: Blocks that all streams together have in their accounts.
        blocks: Number of blocks of an image.
        rate: Executed rate of all streams together.
        allowance: Blocks that the budget holds for the call.
        capacity: How far from zero its balance may be after the call.
        per_frame: Save nothing up: spend the budget of each frame in that frame.

    Attributes:
        accounts: Blocks that each image's stream may spend, after its deposit.
        counts: Blocks that each image executes.
        prices: Worth that blocks of each image's stream must have after this frame.
        skipped: Worth of the blocks that do not run, of each image's stream.
        moving: Whether each image moves all over, so that whole frames or blocks may be better.
    """

    def __init__(
        self,
        memories: Sequence[StreamMemory | None],
        total: int,
        saved: float,
        blocks: int,
        rate: float,
        allowance: float,
        capacity: float,
        per_frame: bool,
    ) -> None:
        self._memories, self._blocks = memories, blocks
        self._allowance, self._capacity = allowance, capacity
        known = [memory for memory in memories if memory is not None]
        before = allowance - rate * blocks * len(known)
        correction = _CORRECTION * (before - saved) / max(total, 1)
        self.accounts: list[float] = []
        self.counts: list[int] = []
        self.prices = [None if memory is None else memory.price for memory in memories]
        self.skipped = [SkippedWorth() if memory is None else memory.skipped for memory in memories]
        self.moving = [False] * len(memories)
        self._budgets: list[float] = []
        # Images in which all blocks run that are worth it.
        self._priced: list[int] = []
        for image, memory in enumerate(memories):
            own = 0.0 if memory is None else min(rate * memory.share, 1.0) * blocks
            account = 0.0 if memory is None else memory.account + own + correction
            # 1e-6: so that ten tenths are one.
            count = min(max(math.floor(account + 1e-6), 0), blocks)
            if memory is not None and not per_frame:
                together = math.ceil(_MARGIN * memory.spread.value * blocks)
                if together > _NEARLY_ALL * blocks:
                    together = blocks
                if together > max(own, _FEW * blocks) and not memory.spread.says_nothing:
                    trial, self.moving[image] = memory.trial, True
                    if not trial.runs_blocks:
                        count = together if count >= together else 0
                elif count:
                    self._priced.append(image)
            self._budgets.append(own)
            self.accounts.append(account)
            self.counts.append(count)
        self._fit_bucket()

    @property
    def waits(self) -> bool:
        """Whether nothing is executed, whatever the blocks are worth."""
        return not any(self.counts)

    @property
    def rates(self) -> list[float]:
        """Executed rate that each image's stream gets."""
        return [budget / self._blocks for budget in self._budgets]

    def compared(
        self, trials: Sequence[BlocksOrWhole | None], grid: Tensor
    ) -> tuple[bool, ...] | None:
        """Return which image is to run whole after its blocks, one at most, if it can be paid for.

        Args:
            trials: Of the images' streams; None for those that are executed fully anyway.
            grid: bool ``(N, GH, GW)`` in host memory, what is about to be executed.
        """
        ran = grid.flatten(1).sum(1).tolist()
        left = self._allowance - sum(ran) - self._blocks
        for image, trial in enumerate(trials):
            if trial is None or not (self.moving[image] and trial.wants_comparison):
                continue
            fits = 0 < ran[image] < self._blocks and ran[image] <= self.accounts[image]
            if fits and left >= -self._capacity:
                return tuple(other == image for other in range(len(trials)))
        return None

    def take_scores(self, scores: Tensor, worth: Tensor, ages: Tensor) -> None:
        """Let as many blocks run as are worth it, where worth decides.

        Until then, the counts are what the accounts pay for.

        Args:
            scores: float32 ``(N, GH, GW)`` in host memory.
            worth: The same for each block by itself.
            ages: ``(N, GH, GW)``, frames since each block was executed.
        """
        for image, memory in enumerate(self._memories):
            if memory is not None:
                rate = self._budgets[image] / self._blocks
                its = worth[image].flatten(), ages[image].flatten()
                self.skipped[image] = memory.skipped.after(*its, rate)
        for image in self._priced:
            its, budget = scores[image].flatten(), self._budgets[image]
            price = self.prices[image] or BlockPrice.first(its, budget)
            self.counts[image] = price.count(its, self.accounts[image], budget)
            self.prices[image] = price.after(its, budget)
        self._fit_bucket()

    def _fit_bucket(self) -> None:
        """Change the counts to what the bucket allows.

        The accounts are soft, the bucket is not: what would overflow is spent, and nothing is spent
        that would leave a debt of more than a frame.
        """
        left = self._allowance - sum(self.counts)
        for image, memory in enumerate(self._memories):
            if memory is None:
                continue
            step, excess = 0, abs(left) - self._capacity
            if excess > 0:
                if left > 0:
                    step = min(math.ceil(excess - 1e-6), self._blocks - self.counts[image])
                else:
                    step = -min(math.ceil(excess - 1e-6), self.counts[image])
            self.counts[image] += step
            left -= step
