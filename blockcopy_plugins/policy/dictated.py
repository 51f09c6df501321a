"""A policy that executes a given grid: for measurements at an exact executed rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.host_transfer import upload

from .base import Policy, PolicyContext
from .task_output import TaskOutputs


class DictatedPolicy(Policy):
    """Executes its ``grid``; another policy may work beside it, and is timed.

    The executed rate is then exact, while a frame's time includes a policy's work.

    Args:
        beside: Looks at each frame and learns of it as if it had chosen; its choice is dropped.
            ``None``: the policy costs nothing.
        mark: Marks a point of time.
        between: Tells the seconds from one mark to another.

    Attributes:
        grid: bool ``(N, GH, GW)``, to be set before a call; ``None`` executes every block.
        ran: bool ``(N, GH, GW)``, what was executed in the last call.
    """

    def __init__(
        self,
        beside: Policy | None = None,
        mark: Callable[[], Any] = time.perf_counter,
        between: Callable[[Any, Any], float] = lambda first, second: second - first,
    ) -> None:
        self.beside = Policy() if beside is None else beside
        self.grid: Tensor | None = None
        self.ran: Tensor | None = None
        self.needs_outputs = self.beside.needs_outputs
        self.needs_motion = self.beside.needs_motion
        self.on_host = beside is None or beside.on_host
        self._alone = beside is None
        self._mark = mark
        self._between = between
        self._marks: list[tuple[Any, Any]] = []

    def seconds(self) -> float:
        """Time spent in the policy beside since this was last asked; waits for the device."""
        total = sum(self._between(first, second) for first, second in self._marks)
        self._marks.clear()
        return total

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return :attr:`grid`."""
        if not self._alone:
            self._timed(self.beside.select, frame, context)
        if self.grid is None:
            return torch.ones(context.grid_shape, dtype=torch.bool, device=context.device)
        return upload(self.grid, context.device)

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float | Tensor]:
        """Let the policy beside learn."""
        self.ran = grid
        if self._alone:
            return super().feedback(frame, grid, outputs, context)
        return self._timed(self.beside.feedback, frame, grid, outputs, context)

    def reset(self, streams: Iterable | None = None) -> None:
        """See :meth:`Policy.reset`."""
        self.beside.reset(streams)

    def macs(self, frame_shape: Sequence[int], block_size: int) -> dict[str, int]:
        """Those of the policy beside."""
        return self.beside.macs(frame_shape, block_size)

    def _timed(self, function: Callable, *given: Any) -> Any:
        start = self._mark()
        found = function(*given)
        self._marks.append((start, self._mark()))
        return found
