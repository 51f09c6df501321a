"""Separates the policy's own MACs from the network's while a counter is active."""

from __future__ import annotations

from typing import Any

from ...engine.macs import MacCounter
from ...policy import Policy
from ...policy.agreement_estimate import AgreementEstimate


class PolicyMeter(Policy):
    """Passes every call on to a policy and records what a counter counts meanwhile.

    Args:
        policy: The policy.
        counter: A counter that is active during the calls.

    Attributes:
        counted: MACs inside the policy so far, including learning.
    """

    def __init__(self, policy: Policy, counter: MacCounter) -> None:
        self.policy = policy
        self.counter = counter
        self.counted = 0

    @property
    def needs_outputs(self) -> bool:
        """Whether the policy wants the task's outputs."""
        return self.policy.needs_outputs

    @property
    def needs_motion(self) -> bool:
        """Whether the policy wants motion vectors."""
        return self.policy.needs_motion

    @property
    def on_host(self) -> bool:
        """Whether the policy decides in host memory."""
        return self.policy.on_host

    @property
    def enforces_target(self) -> bool:
        """Whether the policy's target is a budget."""
        return self.policy.enforces_target

    @property
    def whole_frames_only(self) -> bool:
        """Whether the policy picks all blocks of an image or none."""
        return self.policy.whole_frames_only

    @property
    def target(self) -> float | None:
        """The policy's target; None if it has none."""
        return getattr(self.policy, "target", None)

    @property
    def agreement(self) -> AgreementEstimate | None:
        """What the policy knows about the agreement of outputs with dense ones."""
        return self.policy.agreement

    def select(self, frame, context):
        """See :meth:`Policy.select`."""
        return self._measured(self.policy.select, frame, context)

    def scores(self, frame, context):
        """See :meth:`Policy.scores`."""
        return self.policy.scores(frame, context)

    def compares(self, grid, context):
        """See :meth:`Policy.compares`."""
        return self.policy.compares(grid, context)

    def feedback(self, frame, grid, outputs, context):
        """See :meth:`Policy.feedback`."""
        return self._measured(self.policy.feedback, frame, grid, outputs, context)

    def reset(self, streams=None) -> None:
        """See :meth:`Policy.reset`."""
        self.policy.reset(streams)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Policy.state_dict`."""
        return self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :meth:`Policy.load_state_dict`."""
        self.policy.load_state_dict(state)

    def macs(self, frame_shape, block_size) -> dict[str, int]:
        """See :meth:`Policy.macs`."""
        return self.policy.macs(frame_shape, block_size)

    def _measured(self, function, *args) -> Any:
        before = self.counter.macs
        try:
            return function(*args)
        finally:
            self.counted += self.counter.macs - before
