"""Picks the one budget from the arguments that a policy may be given."""

from __future__ import annotations

import math

from blockcopy_plugins.errors import ConfigError

from .base import Budget
from .fidelity_budget import FidelityBudget
from .rate_budget import RateBudget
from .time_budget import TimeBudget


def budget_of(
    target: float | None,
    target_ms: float | None,
    target_fps: float | None,
    target_fidelity: float | None,
    budget: Budget | None,
) -> Budget:
    """The budget that a policy's arguments name; an executed rate of 0.3 if they name none.

    Args:
        target: Executed rate.
        target_ms: Milliseconds of a frame.
        target_fps: Frames per second.
        target_fidelity: Agreement with the dense output.
        budget: Any other budget.

    Raises:
        ConfigError: If they name more than one budget, or one that is out of range.
    """
    named = dict(
        target=target,
        target_ms=target_ms,
        target_fps=target_fps,
        target_fidelity=target_fidelity,
        budget=budget,
    )
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) > 1:
        raise ConfigError(
            "give one of target, target_ms, target_fps, target_fidelity and budget, found "
            + " and ".join(f"{name}={value!r}" for name, value in given.items())
        )
    if budget is not None:
        if not isinstance(budget, Budget):
            raise ConfigError(f"budget must be a Budget, found {budget!r}")
        return budget
    if target_ms is not None:
        return TimeBudget(target_ms)
    if target_fps is not None:
        number = isinstance(target_fps, (int, float)) and not isinstance(target_fps, bool)
        if not number or not 0 < target_fps < math.inf:
            raise ConfigError(
                f"target_fps must be a number of frames per second above 0, found {target_fps!r}"
            )
        return TimeBudget(1e3 / target_fps)
    if target_fidelity is not None:
        return FidelityBudget(target_fidelity)
    return RateBudget(0.3 if target is None else target)
