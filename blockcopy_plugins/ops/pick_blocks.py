"""The best blocks of each image, and the ones that have waited longest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _highest(values: Tensor, count: int) -> Tensor:
    # Not topk: it does not specify which of several equal values it takes.
    return values.sort(descending=True, stable=True).indices[:count]


def _pick_blocks_fake(
    scores: Tensor,
    ages: Tensor,
    forbidden: Tensor | None,
    required: Tensor | None,
    counts: Sequence[int],
    oldest: Sequence[int],
) -> Tensor:
    for name, value, dtype in (
        ("scores", scores, torch.float32),
        ("ages", ages, torch.float32),
        ("forbidden", forbidden, torch.bool),
        ("required", required, torch.bool),
    ):
        if value is None:
            continue
        torch._check_type(
            value.dtype == dtype,
            lambda name=name, value=value, dtype=dtype: (
                f"blockcopy::pick_blocks: {name} has dtype {value.dtype}, expected {dtype}"
            ),
        )
        torch._check_value(
            value.dim() == 3 and value.shape == scores.shape,
            lambda name=name, value=value: (
                f"blockcopy::pick_blocks: {name} has shape {tuple(value.shape)}, expected that of "
                f"scores, {tuple(scores.shape)}: (N, GH, GW)"
            ),
        )
    blocks = math.prod(scores.shape[1:])
    torch._check_value(
        len(counts) == len(oldest) == scores.shape[0]
        and all(0 <= old <= count <= blocks for old, count in zip(oldest, counts, strict=True)),
        lambda: (
            f"blockcopy::pick_blocks: of {scores.shape[0]} image(s) of {blocks} blocks "
            f"{list(counts)} are to be picked, {list(oldest)} of them as the oldest"
        ),
    )
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


@operator(
    "pick_blocks(Tensor scores, Tensor ages, Tensor? forbidden, Tensor? required, int[] counts, "
    "int[] oldest, float tie) -> Tensor",
    fake=_pick_blocks_fake,
)
def pick_blocks(
    scores: Tensor,
    ages: Tensor,
    forbidden: Tensor | None,
    required: Tensor | None,
    counts: Sequence[int],
    oldest: Sequence[int],
    tie: float = 1e-3,
) -> Tensor:
    """Pick a number of blocks of each image: the oldest, the required ones, and the best.

    Among equal blocks, those that come first, row by row, are taken.

    Args:
        scores: float32 ``(N, GH, GW)``.
        ages: float32 ``(N, GH, GW)``, frames that each block has waited.
        forbidden: bool ``(N, GH, GW)``, blocks that come last; None for none.
        required: bool ``(N, GH, GW)``, blocks that come first; None for none.
        counts: For each image, the number of blocks.
        oldest: For each image, how many of them are picked by the highest
            ``age + tie * score``.
        tie: See above: among blocks that have waited equally long, the best are taken.

    Returns:
        bool ``(N, GH, GW)``.

    Raises:
        ValueError: If a shape or a number does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("pick_blocks", scores, ages)
    grid = _pick_blocks_fake(scores, ages, forbidden, required, counts, oldest).zero_()
    for image, (count, old) in enumerate(zip(counts, oldest, strict=True)):
        if not count:
            continue
        score, age = scores[image].flatten(), ages[image].flatten()
        if forbidden is not None:
            score = score.masked_fill(forbidden[image].flatten(), -math.inf)
            age = age.masked_fill(forbidden[image].flatten(), -math.inf)
        if old:
            waited = torch.add(age, score, alpha=tie)
            score = score.scatter(0, _highest(waited, old), math.inf)
        if required is not None:
            score = score.masked_fill(required[image].flatten(), math.inf)
        grid[image].view(-1).scatter_(0, _highest(score, count), True)
    return grid
