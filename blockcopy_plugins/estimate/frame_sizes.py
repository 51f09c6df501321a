"""On which frames and numbers of blocks the model is timed, in the available time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

# Parts of the frame's area that the block-sparse model may be timed on.
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)

# Frames that are run before any counts: of few blocks, and recorded, which takes longer.
_UNTIL_SETTLED, _RECORDED = 4, 1.5
# The first frame, which is executed fully and prepares weights; later ones that are, until one
# counts, two of which are recorded and one is repeated; and what no number of blocks makes cheaper,
# as part of such a frame, at least.
_FIRST, _WHOLE, _FIXED = 2.0, 4.0, 0.05


def largest_affordable(
    size: tuple[int, int],
    block: int,
    rates: Sequence[float],
    whole: Callable[[tuple[int, int]], float],
    seconds: float,
) -> tuple[int, int] | None:
    """The largest frame that can be timed in so many seconds, ``None`` if none can.

    Args:
        size: ``(H, W)`` of the whole frame in pixels.
        block: Block size in pixels.
        rates: Executed rates.
        whole: Seconds of a fully executed frame by its size.
        seconds: What there is.
    """
    for share in SHARES:
        frame = reduced(size, block, share)
        if whole(frame) * _frames_needed(frame, block, rates) <= seconds:
            return frame
    return None


def _frames_needed(frame: tuple[int, int], block: int, rates: Sequence[float]) -> float:
    """Time in which frames of a size can be timed once at each rate, in fully executed frames."""
    blocks = -(-frame[0] // block) * -(-frame[1] // block)
    shares = [count / blocks + _FIXED for count in block_counts(blocks, rates)]
    found = _FIRST + _UNTIL_SETTLED * _RECORDED * min(shares) + sum(shares)
    return found + _WHOLE * any(rate == 1 for rate in rates)


def reduced(
    size: tuple[int, int], block: int, share: float, least: tuple[int, int] | None = None
) -> tuple[int, int]:
    """A frame of whole blocks with about this share of the area, in several rows and columns."""
    if least is None:
        least = (2, 3) if -(-size[1] // block) >= 3 else (3, 2)
    found = []
    for length, floor in zip(size, least, strict=True):
        blocks = -(-length // block)
        kept = min(blocks, max(floor, round(blocks * sqrt(share))))
        found.append(length if kept == blocks else kept * block)
    return found[0], found[1]


def block_counts(blocks: int, rates: Sequence[float]) -> list[int]:
    """Numbers of executed blocks to time, ascending, without all of them."""
    counts = {min(blocks, max(1, round(rate * blocks))) for rate in rates}
    # Two at least, or the cost of a block cannot be told from the fixed cost.
    if len(counts - {blocks}) < 2:
        counts |= {max(1, blocks // 8), max(1, blocks // 2)}
    return sorted(counts - {blocks})
