"""The best of many scores, as a stable sort would give them, without sorting the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _top_scores_fake(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    torch._check_value(
        scores.dim() == 1 and count >= 0,
        lambda: (
            f"blockcopy::top_scores: scores have shape {tuple(scores.shape)} and count is {count}, "
            "expected (n) and 0 or more"
        ),
    )
    _check_dtype("top_scores", "scores", scores)
    kept = min(count, scores.shape[0])
    return scores.new_empty(kept), scores.new_empty(kept, dtype=torch.int64)


@operator("top_scores(Tensor scores, int count) -> (Tensor, Tensor)", fake=_top_scores_fake)
def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Give the first of ``scores.sort(descending=True, stable=True)``.

    Args:
        scores: float32 ``(n,)``. NaN is greater than any number.
        count: How many at most.

    Returns:
        The values, float32 ``(min(n, count),)``, and their places, int64; of equal ones the earlier
        comes first.

    Raises:
        ValueError: If the scores have another shape or ``count`` is negative.
        TypeError: If they have another dtype.
        RuntimeError: If gradients are recorded and the scores require grad.
    """
    check_no_grad("top_scores", scores)
    _top_scores_fake(scores, count)
    values, places = scores.sort(descending=True, stable=True)
    return values[:count].clone(), places[:count].clone()


def _above_fake(values: Tensor) -> Tensor:
    _check_dtype("above", "values", values)
    count = torch.library.get_ctx().new_dynamic_size()
    return values.new_empty(count, dtype=torch.int64)


def _check_dtype(op: str, name: str, values: Tensor) -> None:
    torch._check_type(
        values.dtype == torch.float32,
        lambda: f"blockcopy::{op}: {name} have dtype {values.dtype}, expected torch.float32",
    )


@operator("above(Tensor values, float bound) -> Tensor", fake=_above_fake)
def above(values: Tensor, bound: float) -> Tensor:
    """Find the values above a bound.

    Args:
        values: float32, any shape.
        bound: The bound, rounded to float32.

    Returns:
        Their places in the flattened values, int64, ascending.

    Raises:
        TypeError: If the values have another dtype.
        RuntimeError: If gradients are recorded and the values require grad.
    """
    check_no_grad("above", values)
    _check_dtype("above", "values", values)
    return (values.flatten() > bound).nonzero()[:, 0]
