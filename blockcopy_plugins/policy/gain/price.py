"""The worth that a block must have to be executed, if the budget does not pay for all blocks.

A street is empty, and then it is full. Blocks that are worth a certain price run together, on
credit if need be, and then nothing runs until they are paid for: half of a person's blocks now and
half in the next frame would read stale features around them. The price follows what happens, so
that the budget of quiet frames is not spent on blocks that bring nearly nothing, but kept for busy
frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

# Worth that is not saved for: the gain that cannot be told from none. If the price is lower, the
# budget pays for everything that is worth it, and is spent.
_FLOOR = 0.1
# Change of the price's logarithm in a frame with twice as many worthy blocks as the budget pays
# for. A price that follows faster spends each frame's budget in that frame.
_STEP = 0.03
# How much lower the price is for a stream that has saved up a whole frame, in its logarithm.
_PULL = 0.5
# Share of savings and debts that is spent or paid back in a frame while the price is at its floor.
_DRIFT = 0.2


@dataclass(frozen=True)
class BlockPrice:
    """The price of a stream's blocks.

    Attributes:
        value: Worth above which a stream with neither savings nor debts wants a block.
    """

    value: float

    @classmethod
    def first(cls, scores: Tensor, budget: float) -> BlockPrice:
        """Return the price at which as many blocks of a frame are wanted as its budget pays for.

        Args:
            scores: float32 ``(blocks,)`` in host memory, all above 0.
            budget: Blocks.
        """
        best = min(max(round(budget), 1), len(scores))
        return cls(float(scores.topk(best).values[-1]))

    def count(self, scores: Tensor, account: float, budget: float) -> int:
        """Return how many blocks of a frame should be executed.

        Args:
            scores: See above.
            account: Blocks that the stream may spend, below 0 for a debt; neither savings nor debts
                grow beyond a frame.
            budget: The part of it that is the frame's own.
        """
        blocks, saved = len(scores), account - budget
        price = max(self.value, _FLOOR) * math.exp(-_PULL * saved / blocks)
        count = float((scores > price).sum())
        if self.value <= _FLOOR:
            count = max(count, min(account, budget + _DRIFT * saved))
        # 1e-6: so that ten tenths are one.
        return math.floor(min(max(count, account - blocks, 0), account + blocks, blocks) + 1e-6)

    def after(self, scores: Tensor, budget: float) -> BlockPrice:
        """Return the price after a frame.

        Args:
            scores: See above.
            budget: Blocks that a frame pays for.
        """
        wanted = int((scores > self.value).sum())
        step = _STEP * min(max(wanted / max(budget, 1e-3) - 1, -1.0), 1.0)
        return BlockPrice(self.value * math.exp(step))
