"""Predicts the times of whole frames from those of a few smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .cost_fit import fit_costs, seconds_at
from .figures import BlockSizeEstimate, RateEstimate
from .measurement import BlockRun


def predict(
    run: BlockRun, size: tuple[int, int], dense: float, rates: Sequence[float], rest_ms: float
) -> BlockSizeEstimate:
    """The figures of whole frames with one block size.

    Args:
        run: The measurements.
        size: ``(H, W)`` of a whole frame in pixels.
        dense: Seconds of a whole dense frame.
        rates: Executed rates.
        rest_ms: Milliseconds outside the model.
    """
    area = prod(size)
    blocks = -(-size[0] // run.block_size) * -(-size[1] // run.block_size)
    points = [((1.0, float(prod(s.size)), float(s.executed)), s.model) for s in run.samples]
    fixed, by_area, by_block = fit_costs(points)
    policy = seconds_at(run.policy, area, size)
    fixed += by_area * area
    found = []
    for rate in rates:
        executed = rate * blocks
        model = fixed + by_block * executed if rate < 1 else dense * run.whole
        sparse = model + policy
        rest = rest_ms / 1e3
        found.append(
            RateEstimate(
                rate=float(rate),
                executed=executed,
                dense_ms=1e3 * dense,
                model_ms=1e3 * model,
                policy_ms=1e3 * policy,
                speedup=(dense + rest) / (sparse + rest) if sparse + rest else 1.0,
                efficiency=dense / sparse * rate if sparse else 1.0,
            )
        )
    spare = dense - policy - fixed
    pays = spare / (by_block * blocks) if by_block else float(spare > 0)
    state = run.report.state_bytes * area / prod(run.size)
    return BlockSizeEstimate(
        block_size=run.block_size,
        blocks=blocks,
        rates=tuple(found),
        fixed_ms=1e3 * (fixed + policy),
        block_ms=1e3 * by_block,
        pays_below=min(1.0, max(0.0, pays)),
        share_on_blocks=run.report.share_on_blocks,
        whole_map_ops=tuple((op.path, op.op, op.reason) for op in run.report.dense_ops),
        state_bytes=round(state),
        measured_on=tuple(dict.fromkeys(s.size for s in run.samples)),
    )
