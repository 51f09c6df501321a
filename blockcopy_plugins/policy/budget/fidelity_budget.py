"""A budget of agreement with the dense output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.agreement_estimate import AgreementEstimate
from blockcopy_plugins.policy.base import PolicyContext, check_count

from .comparison_schedule import ComparisonSchedule
from .loss_price import INTERVAL, LossPrice
from .rate_budget import RateBudget

# The first rate, unless twice the allowed loss leaves more.
_FIRST_RATE = 0.7
_LEAST_RATE = 0.02
# The rate falls by at most this much from one comparison to the next, and rises at once.
_FALL = 0.8
# The rate is set so that the loss, plus this many standard errors, is the allowed one.
_CERTAINTY = 2.0
# For the share of frames that are not executed whole: a frame's weight decays by this much.
_SHARE_DECAY = 0.98


class FidelityBudget(RateBudget):
    """Holds the mean agreement between the delivered outputs and the dense network's.

    Now and then a frame is *compared*: once it has run on the blocks that the policy chose, it runs
    once more, whole. The two outputs show what the choice has cost
    (:func:`~blockcopy_plugins.policy.agreement.output_agreement`), the second one is delivered, and
    all blocks are new again, as after a refresh. Comparisons give the price of leaving blocks out
    (:class:`.loss_price.LossPrice`), and the price gives the executed rate at which the mean
    agreement is the target, two standard errors on the safe side. The rate goes up at once, and
    down by at most a fifth from one comparison to the next; it begins at 0.9 for a target of 0.95,
    and never below 0.7.

    Frames that are executed whole, by the policy's choice or because guards demand it, agree
    exactly: only others are compared, and count by their share. Apart from that, the choice of
    compared frames does not depend on what the policy chose, so the mean over them is the mean over
    all.

    Comparisons come after 3, 5, 7, 10 ... images and then about every ``every``; sooner again if
    one shows more loss than expected, and if guards demand a whole frame (a cut). Blocks that were
    executed only for comparisons are not paid for by the rate, and are reported: 1 / ``every`` of
    all in the long run, and less if the policy saves up for whole frames, as its savings then pay
    for the comparison. All streams of a model share the budget and its comparisons.

    Args:
        fidelity: Mean agreement to hold, above 0 and below 1.
        every: Images between comparisons in the long run, at least 2.

    Raises:
        ConfigError: If an argument is out of range.
    """

    enforces_rate = False

    def __init__(self, fidelity: float, every: int = 40) -> None:
        number = isinstance(fidelity, (int, float)) and not isinstance(fidelity, bool)
        if not number or not 0 < fidelity < 1:
            raise ConfigError(
                "target_fidelity must be a number above 0 and below 1 (agreement with the dense "
                f"output), found {fidelity!r}; to execute everything use AllPolicy"
            )
        super().__init__(max(_FIRST_RATE, 1 - 2 * (1 - fidelity)))
        self.fidelity = float(fidelity)
        self._schedule = ComparisonSchedule(check_count("every", every, 2, "images"))
        self._price = LossPrice()
        # A device reports a frame late; until then no other frame is compared.
        self._waiting = False
        # Decayed sums over images: of the share to be left out, and of those not executed whole.
        # Their quotient does not lag behind a rate that changes.
        self._left_out = self._partial = 0.0
        # Blocks so far: of all images, and of those that ran only for comparisons.
        self._blocks = self._extra = 0

    @property
    def agreement(self) -> AgreementEstimate:
        """What comparisons have shown at the present rate."""
        allowed = 1 - self.fidelity
        mean, low, high = (
            1 - self._price.loss(self._rate, allowed, errors) for errors in (0, INTERVAL, -INTERVAL)
        )
        known = self._price.count > 0
        return AgreementEstimate(
            target=self.fidelity,
            mean=mean if known else 1.0,
            low=low if known else 0.0,
            high=high if known else 1.0,
            comparisons=self._price.count,
            compared_rate=self._extra / self._blocks if self._blocks else 0.0,
        )

    def compares(self, grid: Tensor, context: PolicyContext) -> tuple[bool, ...] | None:
        """See :meth:`.base.Budget.compares`; at most one image."""
        if self._waiting:
            return None
        partial_ = [
            image
            for image, (first, whole) in enumerate(
                zip(context.host_first, self._whole(grid, context), strict=True)
            )
            if not first and not whole
        ]
        if not partial_ or not self._schedule.is_due(ahead=1):
            return None
        chosen = partial_[self._schedule.pick(len(partial_))]
        return tuple(image == chosen for image in range(len(grid)))

    def watch(
        self,
        grid: Tensor,
        context: PolicyContext,
        agreements: Mapping[int, Tensor],
        extra: int,
    ) -> None:
        """See :meth:`.base.Budget.watch`."""
        blocks = math.prod(context.grid_shape[1:])
        firsts, wholes = context.host_first, self._whole(grid, context)
        seen = [whole for first, whole in zip(firsts, wholes, strict=True) if not first]
        for whole in seen:
            self._left_out = _SHARE_DECAY * self._left_out + (1 - self._rate)
            self._partial = _SHARE_DECAY * self._partial + (not whole)
        self._schedule.passed(len(seen))
        self._blocks += blocks * len(seen)
        self._extra += extra
        if self._all_demanded(context, wholes):
            self._schedule.hurry()
        for value in agreements.values():
            self._schedule.compared()
            self._waiting = True
            share = min(self._partial / self._left_out * (1 - self._rate), 1.0)
            context.read(value, partial(self._learn, share))

    def _learn(self, share: float, value: Tensor) -> None:
        """Take a comparison, once the host knows it.

        Args:
            share: Share of frames that are not executed whole, among all frames.
            value: Agreement of one of those frames, 0-dim.
        """
        self._waiting = False
        agreement = float(value)
        if not math.isfinite(agreement):
            return  # The policy refuses outputs that are not finite.
        allowed = 1 - self.fidelity
        loss = share * (1 - agreement)
        if self._price.count and loss > 2 * self._price.loss(self._rate, allowed, INTERVAL):
            self._price.doubt()
            self._schedule.hurry()
        self._price.learn(loss, self._rate)
        wanted = self._price.rate(self._rate, allowed, _CERTAINTY)
        highest = 1 - allowed / 2
        self._rate = min(max(wanted, _FALL * self._rate, _LEAST_RATE), highest)

    def _whole(self, grid: Tensor, context: PolicyContext) -> list[bool]:
        """Whether each image runs whole, as far as guards allow it."""
        if context.forbidden is not None:
            grid = grid | context.host_forbidden
        return grid.flatten(1).all(1).tolist()

    def _all_demanded(self, context: PolicyContext, wholes: Sequence[bool]) -> bool:
        """Whether guards demand the whole of an image that has state (a cut)."""
        if context.required is None or not any(wholes):
            return False
        demanded = self._whole(context.host_required, context)
        return any(
            all_ and not first for all_, first in zip(demanded, context.host_first, strict=True)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the balance, the rate and the price; comparisons start again."""
        return {**super().state_dict(), "rate": self._rate, **self._price.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. This budget keeps its own target.

        Raises:
            ConfigError: If a FidelityBudget did not save it; this one is then as before.
        """
        wrong = set(state) != set(self.state_dict()) or not all(
            isinstance(value, float) and math.isfinite(value) for value in state.values()
        )
        if wrong or not 0 < state["rate"] < 1:
            raise ConfigError(
                f"a FidelityBudget's state has the numbers {sorted(self.state_dict())}, found "
                f"{state!r}; load it into the budget that saved it"
            )
        self.balance, self._rate = state["balance"], state["rate"]
        self._price.load_state_dict(state)
