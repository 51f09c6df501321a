"""A budget of milliseconds."""

from __future__ import annotations

import math
from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.base import PolicyContext

from .base import Budget

# A frame's weight in the price of blocks decays by this much with each later frame: a machine that
# gets slower is noticed within about 20 frames.
_DECAY = 0.95
# Share of the first, fully executed frame that is assumed to be fixed cost until more is known.
_FIXED_SHARE = 0.2
# A block costs at least this share of a frame's mean cost per block without any fixed cost. The
# price of a block is then never near zero, where noise would buy everything.
_LEAST_SHARE = 0.1


class TimeBudget(Budget):
    """Holds a mean time of a frame, on the machine as it is now.

    It is a bucket of milliseconds: each frame deposits its target and pays the time that it took,
    from the policy's look at it to the end of the policy's learning, including everything that the
    converted model does after its blocks. A running regression of the time on the executed blocks
    says how many blocks the bucket can buy. If a frame without any block takes longer than the
    target, no blocks are executed except those that guards demand.

    Times are the host's. First frames of streams, which are always executed fully, are not paid
    for.

    Args:
        milliseconds: Mean time of a frame (of an image of a batch), above 0.

    Raises:
        ConfigError: If ``milliseconds`` is not such a number.
    """

    def __init__(self, milliseconds: float) -> None:
        number = isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool)
        if not number or not 0 < milliseconds < math.inf:
            raise ConfigError(
                f"target_ms must be a number of milliseconds above 0, found {milliseconds!r}"
            )
        self.milliseconds = float(milliseconds)
        self.balance = 0.0
        # Decayed sums over frames, per image: 1, blocks, ms, blocks^2, blocks x ms.
        self._count = self._blocks = self._ms = self._square = self._product = 0.0
        # Blocks of an image, and the milliseconds of a fully executed one.
        self._whole: tuple[int, float] | None = None

    @property
    def rate(self) -> float:
        """The executed rate that the target buys at the present price, 0 to 1; 1 at the start."""
        if self._whole is None:
            return 1.0
        fixed, price = self._prices()
        bought = (self.milliseconds - fixed) / (price * self._whole[0])
        return min(max(bought, 0.0), 1.0)

    def allowance(self, context: PolicyContext) -> float:
        """Return how many blocks the bucket buys, this call's deposit included."""
        images = len(context.streams) - sum(context.host_first)
        if self._whole is None:
            return 0.0
        fixed, price = self._prices()
        return (self.balance + images * (self.milliseconds - fixed)) / price

    def capacity(self, context: PolicyContext) -> float:
        """Return the blocks of the call."""
        return float(math.prod(context.grid_shape))

    def settle(self, executed: int, context: PolicyContext, seconds: float) -> None:
        """Learn the price of blocks, deposit, and pay.

        Savings and debts beyond the time of a whole frame are forgiven.
        """
        firsts = context.host_first
        images, first = len(firsts), sum(firsts)
        blocks = math.prod(context.grid_shape[1:])
        if not blocks or not images:
            return
        ms = 1e3 * seconds
        if first:
            # Not the price of a block: the very first frame makes things that later ones reuse.
            if self._whole is None:
                self._whole = (blocks, ms / images)
            return
        each, spent = executed / images, ms / images
        for name, value in (
            ("_count", 1.0),
            ("_blocks", each),
            ("_ms", spent),
            ("_square", each * each),
            ("_product", each * spent),
        ):
            setattr(self, name, _DECAY * getattr(self, name) + value)
        if self._whole is None:
            self._whole = (blocks, spent * blocks / max(each, 1.0))
        self._whole = (blocks, self._whole[1])
        fixed, price = self._prices()
        limit = images * (fixed + price * blocks)
        balance = self.balance + images * self.milliseconds - ms
        self.balance = min(max(balance, -limit), limit)

    def _prices(self) -> tuple[float, float]:
        """Milliseconds of an image without blocks, and of each block."""
        blocks, whole = self._whole
        if self._count < 2:
            return _FIXED_SHARE * whole, (1 - _FIXED_SHARE) * whole / blocks
        mean_blocks, mean_ms = self._blocks / self._count, self._ms / self._count
        variance = self._square / self._count - mean_blocks**2
        covariance = self._product / self._count - mean_blocks * mean_ms
        least = _LEAST_SHARE * mean_ms / max(mean_blocks, 1.0)
        # If all frames had about as many blocks, the cost of a single block cannot be told.
        usual = (1 - _FIXED_SHARE) * mean_ms / max(mean_blocks, 1.0)
        price = covariance / variance if variance > 0.25 else usual
        price = min(max(price, least), mean_ms / max(mean_blocks, 1.0))
        return max(mean_ms - price * mean_blocks, 0.0), price

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: another machine, or another day, has different prices."""
        return {}
