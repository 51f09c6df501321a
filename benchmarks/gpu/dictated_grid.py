"""A policy that executes the grid it is told, with or without another's work beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from benchmarks.grids import draw_grid, executed_blocks
from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.policy import Policy, PolicyContext, TaskOutput


class DictatedGrid(Policy):
    """Executes one grid, so that the executed rate is exact.

    Args:
        beside: Looks at each frame and learns of it as if it had chosen; its choice is dropped.
            ``None``: the policy costs nothing.

    Attributes:
        grid: bool ``(N, GH, GW)`` in host memory, to be set before each call.
    """

    def __init__(self, beside: Policy | None = None) -> None:
        self.beside = beside
        self.grid: Tensor | None = None
        self.needs_outputs = beside is not None and beside.needs_outputs
        self.on_host = beside is None or beside.on_host

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """See :class:`~blockcopy_plugins.policy.Policy`."""
        if self.beside is not None:
            self.beside.select(frame, context)
        return upload(self.grid, context.device)

    def feedback(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
    ) -> dict[str, float]:
        """See :class:`~blockcopy_plugins.policy.Policy`."""
        return {} if self.beside is None else self.beside.feedback(frame, grid, outputs, context)

    def reset(self, streams: Iterable | None = None) -> None:
        """See :class:`~blockcopy_plugins.policy.Policy`."""
        if self.beside is not None:
            self.beside.reset(streams)


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
