"""What a block, an area and a frame cost, fitted to the times of a few frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import prod

import torch


def fit_costs(points: Sequence[tuple[Sequence[float], float]]) -> tuple[float, ...]:
    """Find the non-negative costs that best explain times: ``time = sum(cost * amount)``.

    Args:
        points: Amounts (the same number for each point), and the measured time.

    Returns:
        A cost for each amount, 0 for those that explain nothing. Long times count more than short
        ones, which are noisier, but less than in proportion to their length.
    """
    amounts = torch.tensor([list(a) for a, _ in points], dtype=torch.float64)
    times = torch.tensor([t for _, t in points], dtype=torch.float64)
    weight = times.clamp(min=1e-9).rsqrt()
    # Amounts of similar size, or the solver loses digits.
    scale = amounts.abs().amax(0).clamp(min=1e-30)
    matrix = amounts / scale * weight[:, None]
    wanted = times * weight
    count = amounts.shape[1]
    best, least = (0.0,) * count, float("inf")
    # With so few amounts all subsets can be tried, the smaller ones first.
    for chosen in (c for n in range(1, count + 1) for c in combinations(range(count), n)):
        part = matrix[:, list(chosen)]
        if torch.linalg.matrix_rank(part) < len(chosen):
            continue
        costs = torch.linalg.lstsq(part, wanted[:, None]).solution[:, 0]
        error = float(((part @ costs - wanted) ** 2).sum())
        if bool((costs >= 0).all()) and error < least * (1 - 1e-9) - 1e-18:
            least = error
            found = dict(zip(chosen, (costs / scale[list(chosen)]).tolist(), strict=True))
            best = tuple(found.get(i, 0.0) for i in range(count))
    return best


def seconds_at(times: dict[tuple[int, int], float], size: tuple[int, int]) -> float:
    """Seconds at a size: measured there, or extrapolated from smaller frames."""
    if size in times:
        return times[size]
    fixed, by_area = fit_costs([((1.0, float(prod(s))), t) for s, t in times.items()])
    return fixed + by_area * prod(size)
