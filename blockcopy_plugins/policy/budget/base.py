"""The interface of budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.agreement_estimate import AgreementEstimate
from blockcopy_plugins.policy.base import PolicyContext


class Budget:
    """How many blocks may be executed, averaged over time.

    A budget is a bucket of tokens, one token per block, shared by all streams of a model: each
    frame deposits ``rate`` x its blocks, and each executed block takes one out. A stream's first
    frame, which is always executed, neither deposits nor takes.

    Like a policy, a budget is asked first (:meth:`allowance`, which changes nothing) and told later
    what has run (:meth:`settle`): a frame that failed in between has cost nothing.

    Attributes:
        enforces_rate: Whether :attr:`rate` is a promise: guards that need more are refused.
        agreement: How far outputs agree with dense ones, if the budget has frames compared.
    """

    enforces_rate: bool = False
    agreement: AgreementEstimate | None = None

    @property
    def rate(self) -> float:
        """The executed rate that the budget aims at now, 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} does not implement rate")

    def allowance(self, context: PolicyContext) -> float:
        """Return the blocks in the bucket for a call, its own deposit included.

        Negative if more was executed than was paid for.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement allowance()")

    def capacity(self, context: PolicyContext) -> float:
        """Return how far the balance may be from zero after a call, in blocks."""
        raise NotImplementedError(f"{type(self).__name__} does not implement capacity()")

    def settle(self, executed: int, context: PolicyContext, seconds: float) -> None:
        """Pay for a call that has run.

        Args:
            executed: Executed blocks of those images of the batch that are not the first of their
                streams.
            context: The call's context.
            seconds: Time that the call took on the host, from the policy's first look at it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement settle()")

    def compares(self, grid: Tensor, context: PolicyContext) -> Sequence[bool] | None:
        """Say which images should also be executed whole, and compared.

        Changes nothing. See :meth:`~blockcopy_plugins.policy.Policy.compares`.

        Args:
            grid: bool ``(N, GH, GW)`` in host memory, about to run.
            context: The call's context.
        """
        return None

    def watch(
        self,
        grid: Tensor,
        context: PolicyContext,
        agreements: Mapping[int, Tensor],
        extra: int,
    ) -> None:
        """Learn which blocks have run, before :meth:`settle`.

        Args:
            grid: bool ``(N, GH, GW)`` in host memory, without blocks that ran only for a
                comparison.
            context: The call's context.
            agreements: 0-dim, one for each image that was compared; possibly on a device.
            extra: Blocks that ran only for a comparison, and are not paid for.
        """

    def figures(self) -> dict[str, float]:
        """Return the figures of a frame for logs."""
        return {} if self.agreement is None else self.agreement.figures()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is kept over a restart."""
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
