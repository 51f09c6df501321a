"""Which of a dense head's scores are worth decoding, without sorting or copying the rest."""

from __future__ import annotations

from torch import Tensor

from ...ops.top_scores import above, top_scores


def best_above(scores: Tensor, bound: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best scores above a bound.

    Args:
        scores: float32 ``(n, classes)``, contiguous.
        bound: The bound.
        count: How many at most.

    Returns:
        The scores, descending, with their rows and their classes. Equal ones stay in their order.
    """
    places = above(scores, bound)
    values, order = top_scores(scores.view(-1)[places], count)
    places = places[order]
    return values, places // scores.shape[1], places % scores.shape[1]
