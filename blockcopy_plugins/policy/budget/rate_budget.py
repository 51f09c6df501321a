"""A budget of an executed rate."""

from __future__ import annotations

import math
from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.base import PolicyContext, check_rate

from .base import Budget


class RateBudget(Budget):
    """Holds a mean executed rate.

    If the policy keeps to it, the balance stays within one frame of zero (N frames for batches of N
    images), so that for a single stream the mean rate of any 100 frames is within two points of the
    target.

    Args:
        target: Executed rate, above 0 and at most 1.

    Raises:
        ConfigError: If ``target`` is out of range.
    """

    enforces_rate = True

    def __init__(self, target: float) -> None:
        self._rate = check_rate("target", target)
        if not self._rate:
            raise ConfigError("target must be above 0; to execute nothing use NonePolicy")
        self.balance = 0.0

    @property
    def rate(self) -> float:
        """The target."""
        return self._rate

    def allowance(self, context: PolicyContext) -> float:
        """Return the balance and this call's deposit."""
        return self.balance + self._rate * _blocks(context)

    def capacity(self, context: PolicyContext) -> float:
        """Return the blocks of the call."""
        return float(math.prod(context.grid_shape))

    def settle(self, executed: int, context: PolicyContext, seconds: float = 0.0) -> None:
        """Deposit, and pay.

        Debts beyond the capacity are forgiven: if guards demand more than the target for a long
        time, the following frames must not stand still for just as long.
        """
        if not math.prod(context.grid_shape) or all(context.host_first):
            return
        limit = self.capacity(context)
        self.balance = min(max(self.allowance(context) - executed, -limit), limit)

    def figures(self) -> dict[str, float]:
        """Return the balance, and the figures of :class:`.base.Budget`."""
        return {"balance": self.balance, **super().figures()}

    def state_dict(self) -> dict[str, Any]:
        """Return the balance, in blocks."""
        return {"balance": self.balance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the balance.

        Raises:
            ConfigError: If ``state`` has no balance.
        """
        balance = state.get("balance") if set(state) == {"balance"} else None
        if not isinstance(balance, float) or not math.isfinite(balance):
            raise ConfigError(
                f"a RateBudget's state is {{'balance': blocks}}, found {state!r}; load it into the "
                "budget that saved it"
            )
        self.balance = balance


def _blocks(context: PolicyContext) -> int:
    """Blocks of the images that are not the first of their streams."""
    _, rows, columns = context.grid_shape
    return (len(context.streams) - sum(context.host_first)) * rows * columns
