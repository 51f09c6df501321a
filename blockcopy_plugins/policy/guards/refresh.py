"""A guard: every block runs once in every n frames, a few of them in each frame."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.policy.base import PolicyContext

from .base import Guard, check_count

# Steps of the phase from row to row and from column to column: 1 / p and 1 / p ** 2 of the plastic
# number p; with it no two blocks have the same phase.
_ROW, _COLUMN = 0.7548776662466927, 0.5698402909980532
# Largest number of grid sizes whose turns are remembered.
_SIZES = 16


class Refresh(Guard):
    """Promises that every block runs at least once in any n frames, a few in each frame.

    Blocks take turns: each has its frame in every n, whether or not the policy has executed it in
    between. At most ``ceil(blocks / n)`` of them have the same frame, and these lie far apart.

    Args:
        period: n in frames, at least 1. Default: 60.

    Raises:
        ConfigError: If ``period`` is not an integer of at least 1.
    """

    def __init__(self, period: int = 60) -> None:
        self.period = check_count(self, "period", period, "frames")
        self._turns: dict[tuple[int, int, torch.device], Tensor] = {}

    @property
    def name(self) -> str:
        """See :attr:`Guard.name`."""
        return f"Refresh(period={self.period})"

    def demand(self, frame: Tensor, context: PolicyContext) -> tuple[Tensor, None]:
        """Demand the blocks whose turn it is."""
        turns = self._turns_of(*context.grid_shape[1:], frame.device)
        # Plain numbers rather than a tensor: nothing is sent to the device.
        return torch.stack([turns == index % self.period for index in context.frame_index]), None

    def rate_bounds(self, frame_size: tuple[int, int], block_size: int) -> tuple[float, float]:
        """See :meth:`Guard.rate_bounds`."""
        return 1 / self.period, 1.0

    def _turns_of(self, rows: int, columns: int, device: torch.device) -> Tensor:
        found = self._turns.get((rows, columns, device))
        if found is None:
            while len(self._turns) >= _SIZES:
                del self._turns[next(iter(self._turns))]
            # Consecutive places lie far apart; places are dealt evenly to the n frames.
            turns = far_apart(rows, columns) * self.period // (rows * columns)
            found = self._turns[rows, columns, device] = upload(turns, device)
        return found


def far_apart(rows: int, columns: int) -> Tensor:
    """Number the blocks of a grid so that blocks with consecutive numbers lie far apart.

    Args:
        rows: GH.
        columns: GW.

    Returns:
        int64 ``(GH, GW)`` with each of ``0 .. GH * GW - 1`` once: the order of the phases of a
        plane wave whose step from any block to its neighbours is at least 0.18 of its period.
    """
    row, column = (torch.arange(side, dtype=torch.float64) for side in (rows, columns))
    phases = (row[:, None] * _ROW + column * _COLUMN) % 1
    return phases.flatten().argsort().argsort().view(rows, columns)
