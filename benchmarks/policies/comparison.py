"""How a policy stands against all others at equal executed rates, and against the oracles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .curves import GRID, Curve

TOUCHING = 0.005
"""Curves nearer than half a point count as one: a share of less than that is noise."""


def compare(
    policy: str, curves: Mapping[str, Curve], oracles: frozenset[str] | set[str]
) -> dict[str, Any]:
    """Compare a policy with the best of the others, rate by rate.

    Only rates of :data:`GRID` between the policy's own runs count.

    Args:
        policy: Its name.
        curves: Of one figure, by policy.
        oracles: Names of those that are oracles, and no rivals.

    Returns:
        ``least_margin``: the policy's figure less that of the best other one, where that is least,
        and ``rate``, where that is. ``way_to_oracle``: of the way from the best other to the best
        oracle, the share that the policy has gone, where that is least, negative below the best
        other; None where no oracle is more than :data:`TOUCHING` above the others.
    """
    others = [curve for name, curve in curves.items() if name != policy and name not in oracles]
    margins, ways = [], []
    for rate, own in zip(GRID, curves[policy].at(GRID), strict=True):
        low, high = curves[policy].measured or (1.0, 0.0)
        rivals = [value for curve in others if (value := curve.at([rate])[0]) is not None]
        if own is None or not rivals or not low <= rate <= high:
            continue
        margins.append((own - max(rivals), rate))
        known = [v for name in oracles if (v := curves[name].at([rate])[0]) is not None]
        room = max(known, default=0.0) - max(rivals)
        if room > TOUCHING:
            ways.append(margins[-1][0] / room)
    least = min(margins, default=(None, None))
    return {
        "least_margin": least[0],
        "rate": least[1],
        "way_to_oracle": min(ways, default=None),
    }
