"""Rounds executed counts up to a few values, so that a few CUDA graphs serve all frames.

The blocks that are executed in addition are the policy's own next-best ones. Executing more blocks
is always correct (law 3 holds for any grid), and the policy gets the grid that really ran.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, GridError
from ..host_transfer import upload

# Thirds of an octave from 1/16 to 1: a count grows by 13 % on average, by 26 % at most.
_AUTOMATIC = tuple(2.0 ** (i / 3 - 4) for i in range(13))


class Buckets:
    """The executed counts that frames are rounded up to.

    Args:
        rates: Executed rates above 0, ascending; the last is 1. An integer stands for that many
            equal steps, ``None`` for the default: thirds of an octave from 1/16 to 1.

    Raises:
        ConfigError: If they are anything else.

    Examples:
        >>> Buckets(4).counts(128)
        (0, 32, 64, 96, 128)
    """

    def __init__(self, rates: int | Sequence[float] | None = None) -> None:
        self.rates = check_buckets(rates)
        self._limits: dict[tuple[int, torch.device], Tensor] = {}

    def counts(self, blocks: int) -> tuple[int, ...]:
        """All possible counts for a number of blocks, 0 among them."""
        return tuple(sorted({0, *(min(ceil(rate * blocks - 1e-9), blocks) for rate in self.rates)}))

    def count_for(self, executed: int, blocks: int) -> int:
        """The count that ``executed`` of ``blocks`` blocks is rounded up to."""
        counts = self.counts(blocks)
        return counts[bisect_left(counts, executed)]

    def round_up(
        self, grid: Tensor, scores: Tensor | None = None, never: Tensor | None = None
    ) -> Tensor:
        """Execute more blocks, those with the best scores, up to the count of a bucket.

        Nothing waits for the device. Blocks of equal score are taken in raster order.

        Args:
            grid: bool ``(N, GH, GW)``, True = executed.
            scores: Floating point ``(N, GH, GW)``: the higher, the earlier a block is taken; NaN
                comes last. ``None``: by the number of executed blocks around it.
            never: bool ``(N, GH, GW)``, blocks that are not taken. If no others are left, fewer
                than the bucket's count are executed.

        Returns:
            bool ``(N, GH, GW)``, a new tensor that contains the given grid. The number of executed
            blocks of the whole batch is one of :meth:`counts`.

        Raises:
            GridError: If the scores do not fit the grid.
        """
        if scores is None:
            scores = around(grid)
        if tuple(scores.shape) != tuple(grid.shape) or not scores.is_floating_point():
            raise GridError(
                f"the policy gave scores {scores.dtype} {tuple(scores.shape)}, expected a floating "
                f"point tensor {tuple(grid.shape)}: one for each block of the grid."
            )
        chosen = grid.flatten()
        scores = scores if scores.device == grid.device else upload(scores, grid.device)
        scores = scores.flatten().to(torch.float32)
        limits = torch.finfo(scores.dtype)
        scores = scores.nan_to_num(nan=-torch.inf).clamp(limits.min, limits.max)
        if never is not None:
            scores = scores.masked_fill(never.flatten(), -torch.inf)
        scores = torch.where(chosen, torch.inf, scores)
        order = scores.argsort(descending=True, stable=True)
        # index_select: an index in brackets would be read back to the host.
        limit = self._limit(chosen.numel(), grid.device).index_select(0, chosen.sum().view(1))
        if never is not None:
            limit = torch.minimum(limit, (chosen | ~never.flatten()).sum())
        places = torch.arange(chosen.numel(), device=grid.device)
        out = torch.empty_like(chosen).scatter_(0, order, places < limit)
        return out.view(grid.shape)

    def _limit(self, blocks: int, device: torch.device) -> Tensor:
        """Int64 ``(blocks + 1,)``: the count that each count is rounded up to."""
        found = self._limits.get((blocks, device))
        if found is None:
            counts = [self.count_for(executed, blocks) for executed in range(blocks + 1)]
            with torch.inference_mode(False):
                found = upload(torch.tensor(counts, device="cpu"), device)
            self._limits[blocks, device] = found
        return found


def around(grid: Tensor) -> Tensor:
    """How many of the blocks around each block are executed; nearer ones count more.

    Args:
        grid: bool ``(N, GH, GW)``.

    Returns:
        float32 ``(N, GH, GW)``: the executed share of the 3 x 3 blocks around, plus a hundredth of
        that of the 7 x 7 blocks around.
    """
    executed = grid.to(torch.float32).unsqueeze(1)
    near = F.avg_pool2d(executed, 3, 1, 1)
    far = F.avg_pool2d(executed, 7, 1, 3)
    return (near + 0.01 * far).squeeze(1)


def check_buckets(rates: int | Sequence[float] | None) -> tuple[float, ...]:
    """The rates that an option names.

    Returns:
        Ascending rates, the last of them 1.

    Raises:
        ConfigError: If it names none.
    """
    if rates is None:
        return _AUTOMATIC
    if isinstance(rates, int) and not isinstance(rates, bool) and rates >= 1:
        return tuple((i + 1) / rates for i in range(rates))
    found = list(rates) if isinstance(rates, Sequence) and not isinstance(rates, str) else []
    numbers = all(isinstance(r, (int, float)) and not isinstance(r, bool) for r in found)
    if not found or not numbers or not all(0 < rate <= 1 for rate in found):
        raise ConfigError(
            f"buckets={rates!r}, expected the number of them, or executed rates above 0 and up to "
            "1 such as (0.125, 0.25, 0.5)."
        )
    return tuple(sorted({*map(float, found), 1.0}))
