"""The interface of budgets."""

from __future__ import annotations

from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.base import PolicyContext


class Budget:
    """How many blocks may be executed, in the mean over time.

    A budget is a bucket of tokens, one token a block, shared by all streams of a model: each frame
    deposits ``rate`` x its blocks, each executed block takes one out. A stream's first frame, which
    is executed whatever anybody says, neither deposits nor takes.

    Like a policy, a budget is asked first (:meth:`allowance`, which changes nothing) and told later
    what has run (:meth:`settle`): a frame that failed in between has cost nothing.
    """

    @property
    def rate(self) -> float:
        """The executed rate that the budget aims at now, 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} does not implement rate")

    def allowance(self, context: PolicyContext) -> float:
        """Return what is in the bucket for a call, its own deposit included, in blocks.

        Negative where more was executed than was paid for.

        Args:
            context: Of the call.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement allowance()")

    def capacity(self, context: PolicyContext) -> float:
        """Return how far the balance may be from zero after a call, in blocks."""
        raise NotImplementedError(f"{type(self).__name__} does not implement capacity()")

    def settle(self, executed: int, context: PolicyContext, seconds: float) -> None:
        """Take note of a call that has run.

        Args:
            executed: Executed blocks of those images of the batch that are not the first of their
                streams.
            context: Of the call.
            seconds: That the call took on the host, from the policy's first look at it on.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement settle()")

    def state_dict(self) -> dict[str, Any]:
        """Return what goes on over a restart."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            ConfigError: If it was not made by a budget of this kind.
        """
        if state:
            raise ConfigError(
                f"{type(self).__name__} keeps nothing, so its state is empty; found the keys "
                f"{sorted(map(str, state))}"
            )
