"""Grids with an exact number of executed blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PATTERNS = ("random", "clustered")


def executed_blocks(rate: float, blocks: int) -> int:
    """Number of blocks that comes nearest to a rate, at least 1."""
    return min(blocks, max(1, round(rate * blocks)))


def draw_grid(
    count: int, grid: tuple[int, int], generator: torch.Generator, pattern: str = "random"
) -> Tensor:
    """Draw a grid.

    Args:
        count: Executed blocks.
        grid: ``(GH, GW)``.
        generator: Source of randomness.
        pattern: ``'random'``, each block alike; ``'clustered'``, the blocks around a random point,
            as they lie where one thing moves.

    Returns:
        bool ``(1, GH, GW)`` with exactly ``count`` True.

    Raises:
        ValueError: If there is no such pattern or count.
    """
    height, width = grid
    if not 0 <= count <= height * width or pattern not in PATTERNS:
        raise ValueError(
            f"count={count}, pattern={pattern!r}: expected 0 to {height * width} blocks and one of "
            f"{PATTERNS}."
        )
    rank = torch.rand(height, width, generator=generator)
    if pattern == "clustered":
        y, x = (torch.rand(2, generator=generator) * torch.tensor([height, width])).tolist()
        rows = torch.arange(height).view(-1, 1) + 0.5 - y
        columns = torch.arange(width).view(1, -1) + 0.5 - x
        rank = (rows**2 + columns**2).sqrt() + rank
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[rank.flatten().argsort()[:count]] = True
    return chosen.view(1, height, width)


def random_grid(rate: float, shape: tuple[int, int, int], draw: torch.Generator) -> Tensor:
    """A grid with ``round(rate * blocks)`` blocks executed in each image, at least one.

    Args:
        rate: Executed rate.
        shape: ``(N, GH, GW)``.
        draw: Source of randomness.
    """
    images, *grid = shape
    count = executed_blocks(rate, math.prod(grid))
    return torch.cat([draw_grid(count, tuple(grid), draw) for _ in range(images)])
