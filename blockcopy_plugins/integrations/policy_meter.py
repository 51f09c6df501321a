"""Tells the policy's own MACs from the network's while a counter is at work."""

from __future__ import annotations

from typing import Any

from ..engine.macs import MacCounter
from ..policy import Policy


class PolicyMeter(Policy):
    """Passes every call on to a policy and notes what a counter counted meanwhile.

    Args:
        policy: The policy.
        counter: A counter that is active during the calls.

    Attributes:
        macs: MACs inside the policy so far, learning included.
    """

    def __init__(self, policy: Policy, counter: MacCounter) -> None:
        self.policy = policy
        self.counter = counter
        self.macs = 0

    @property
    def needs_outputs(self) -> bool:
        """Whether the policy wants the task's outputs."""
        return self.policy.needs_outputs

    def select(self, frame, context):
        """See :meth:`Policy.select`."""
        return self._measured(self.policy.select, frame, context)

    def scores(self, frame, context):
        """See :meth:`Policy.scores`."""
        return self.policy.scores(frame, context)

    def feedback(self, frame, grid, outputs, context):
        """See :meth:`Policy.feedback`."""
        return self._measured(self.policy.feedback, frame, grid, outputs, context)

    def reset(self, streams=None) -> None:
        """See :meth:`Policy.reset`."""
        self.policy.reset(streams)

    def _measured(self, function, *args) -> Any:
        before = self.counter.macs
        try:
            return function(*args)
        finally:
            self.macs += self.counter.macs - before
