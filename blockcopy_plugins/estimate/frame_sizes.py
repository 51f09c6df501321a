"""On which frames and numbers of blocks the model is timed, in the available time."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, prod, sqrt

_ROUNDS = 3
# Parts of the frame's area that the block-sparse model may be timed on.
_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)


def plan(
    size: tuple[int, int], block: int, rates: Sequence[float], per_pixel: float, budget: float
) -> tuple[float, int]:
    """Part of the frame's area to time, and how often, in a budget of seconds."""
    choices = [(share, _ROUNDS) for share in _SHARES]
    choices += [(_SHARES[-1], rounds) for rounds in range(_ROUNDS - 1, 0, -1)]
    for share, rounds in choices:
        cost = 0.0
        frames = frame_sizes(size, block, share)
        for frame in frames:
            blocks = -(-frame[0] // block) * -(-frame[1] // block)
            *counts, _ = block_counts(blocks, rates if frame == frames[-1] else ())
            # A warm-up and the dense rounds; a first frame on blocks, then rounds of a whole
            # frame and one of each rate, not all as fast as hoped.
            parts = 1.3 * fsum(counts) / blocks
            times = 1 + max(2, rounds) + 1 + rounds * (1 + parts)
            cost += times * per_pixel * prod(frame)
        if cost <= budget:
            break
    return share, rounds


def frame_sizes(size: tuple[int, int], block: int, share: float) -> list[tuple[int, int]]:
    """A small frame and a larger one to time, or only one if the whole frame is no larger."""
    wide = -(-size[1] // block) >= 3
    large = reduced(size, block, share, (2, 3) if wide else (3, 2))
    small = reduced(size, block, share / 4, (2, 2))
    return list(dict.fromkeys((small, large)))


def reduced(
    size: tuple[int, int], block: int, share: float, least: tuple[int, int]
) -> tuple[int, int]:
    """A frame of whole blocks with about this share of the area, in several rows and columns."""
    found = []
    for length, floor in zip(size, least, strict=True):
        blocks = -(-length // block)
        kept = min(blocks, max(floor, round(blocks * sqrt(share))))
        found.append(length if kept == blocks else kept * block)
    return found[0], found[1]


def block_counts(blocks: int, rates: Sequence[float]) -> list[int]:
    """Numbers of executed blocks to time; the last is all blocks."""
    counts = {min(blocks, max(1, round(rate * blocks))) for rate in rates}
    # Two at least, or the cost of a block cannot be told from the fixed cost.
    counts |= {max(1, blocks // 8), max(1, blocks // 2)}
    return [*sorted(counts - {blocks}), blocks]
