"""Predicts the times of whole frames: as measured, or from those of smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .cost_fit import fit_costs, seconds_at
from .figures import BlockSizeEstimate, RateEstimate
from .measurement import BlockRun


def predict(
    run: BlockRun,
    size: tuple[int, int],
    dense_times: dict[tuple[int, int], float],
    rates: Sequence[float],
    rest_ms: float,
) -> BlockSizeEstimate:
    """The figures of whole frames with one block size.

    Args:
        run: The measurements.
        size: ``(H, W)`` of a whole frame in pixels.
        dense_times: Seconds of dense frames by their size.
        rates: Executed rates.
        rest_ms: Milliseconds outside the model.
    """
    area = prod(size)
    blocks = -(-size[0] // run.block_size) * -(-size[1] // run.block_size)
    # What follows the heads of a detector grows with the share of the blocks, not their number: a
    # larger frame has no more regions, but as many of them lie in the blocks that run.
    points = [
        ((1.0, float(prod(each.size)), float(executed), executed / each.blocks), seconds)
        for each in run.sizes
        for executed, seconds in each.model.items()
    ]
    fixed, by_area, by_block, by_share = fit_costs(points)
    dense = seconds_at(dense_times, size)
    whole = next((each for each in reversed(run.sizes) if each.whole is not None), None)
    if whole is not None and by_share and whole.size != size:
        # So of a fully executed frame only the rest grows.
        added = by_area * (area - prod(whole.size)) + by_block * (blocks - whole.blocks)
        whole_seconds = whole.whole + added
    elif whole is not None:
        seen = dense_times[whole.size]
        whole_seconds = whole.whole * (dense / seen if seen and whole.size != size else 1.0)
    fixed += by_area * area
    by_block += by_share / blocks
    policy = seconds_at({each.size: each.policy for each in run.sizes}, size)
    largest = run.largest
    measured = largest.model if largest.size == size else {}
    found = []
    for rate in rates:
        executed = rate * blocks
        if rate == 1:
            model = whole_seconds
        elif measured:
            # What was measured, which need not lie on a line, and the rest of a block.
            nearest = min(measured, key=lambda count: abs(count - executed))
            model = max(0.0, measured[nearest] + by_block * (executed - nearest))
        else:
            model = fixed + by_block * executed
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
    state = largest.report.state_bytes * area / prod(largest.size)
    return BlockSizeEstimate(
        block_size=run.block_size,
        blocks=blocks,
        rates=tuple(found),
        fixed_ms=1e3 * (fixed + policy),
        block_ms=1e3 * by_block,
        pays_below=min(1.0, max(0.0, pays)),
        share_on_blocks=largest.report.share_on_blocks,
        whole_map_ops=tuple((op.path, op.op, op.reason) for op in largest.report.dense_ops),
        state_bytes=round(state),
        measured_on=tuple(each.size for each in run.sizes),
    )
