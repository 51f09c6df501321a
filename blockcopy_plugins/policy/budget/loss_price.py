"""The loss of agreement from not executing everything, learned from comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping

# A comparison's weight decays by this much with each later one.
_DECAY = 0.9
# The error of one more comparison, in units of the price: two equal values are not a certainty.
_DOUBT = 0.5
_AFTER_SURPRISE = 0.2
# Ends of a 90 % interval, and the safety margin of a budget, in standard errors.
INTERVAL = 1.645


class LossPrice:
    """Learns the price of leaving blocks out: agreement lost, in units of what was left out.

    At an executed rate r, a loss of ``price * (1 - r) / r`` is expected. The loss grows like this
    if whole frames run and nothing in between, and if it grows with the age of the output (a mean
    age of ``(1/r - 1) / 2`` frames). Otherwise it is an approximation that is right at the rate at
    which the comparisons were made, and so at the rate on which a budget settles.

    The price is a decayed mean over comparisons. Its error is that of a mean of so many values with
    their own variance, to which one more value is added that is off by half of the price.

    Attributes:
        count: Comparisons so far.
    """

    def __init__(self) -> None:
        self.count = 0
        # Decayed sums over comparisons: 1, 1 (of squared weights), price, price^2.
        self._weight = self._square = self._sum = self._sum_of_squares = 0.0

    def learn(self, loss: float, rate: float) -> None:
        """Take a comparison.

        Args:
            loss: Agreement lost, 0 to 1, averaged over frames.
            rate: Executed rate at which it was lost, above 0 and below 1.
        """
        price = loss * rate / (1 - rate)
        self.count += 1
        self._weight = _DECAY * self._weight + 1
        self._square = _DECAY**2 * self._square + 1
        self._sum = _DECAY * self._sum + price
        self._sum_of_squares = _DECAY * self._sum_of_squares + price * price

    def loss(self, rate: float, allowed: float, errors: float = 0.0) -> float:
        """Return the expected loss, 0 to 1; 1 before the first comparison.

        Args:
            rate: Executed rate, above 0.
            allowed: Loss that is allowed.
            errors: Number of standard errors to add.
        """
        if not self.count:
            return 1.0
        price = self._price(rate, allowed, errors)
        return min(max(price * (1 - rate) / rate, 0.0), 1.0)

    def rate(self, rate: float, allowed: float, errors: float) -> float:
        """Return the rate at which the loss, ``errors`` added, is the allowed one; above 0.

        Args:
            rate: The present rate.
            allowed: Loss that is allowed.
            errors: Safety margin in standard errors.
        """
        price = max(self._price(rate, allowed, errors), 0.0)
        return price / (price + allowed)

    def doubt(self) -> None:
        """Let earlier comparisons count little from now on."""
        for name in ("_weight", "_square", "_sum", "_sum_of_squares"):
            setattr(self, name, _AFTER_SURPRISE * getattr(self, name))

    def _price(self, rate: float, allowed: float, errors: float) -> float:
        mean = self._sum / self._weight
        doubt = _DOUBT * max(mean, allowed * min(rate / (1 - rate), 1.0))
        spread = max(self._sum_of_squares - self._sum * mean, 0.0) + doubt * doubt
        effective = self._weight**2 / self._square
        return mean + errors * math.sqrt(spread / (self._weight + 1) / effective)

    def state_dict(self) -> dict[str, float]:
        """Return what was learned."""
        return {
            "count": float(self.count),
            "weight": self._weight,
            "square": self._square,
            "sum": self._sum,
            "sum_of_squares": self._sum_of_squares,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.count = int(state["count"])
        for name in ("weight", "square", "sum", "sum_of_squares"):
            setattr(self, f"_{name}", state[name])
