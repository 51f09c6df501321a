"""Policies that a sensible engineer would try first: frame difference, every n-th frame."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError

from .base import Policy, PolicyContext, check_frame, check_rate
from .picture import (
    cells_per_block,
    cells_to_grid,
    grid_to_cells,
    picture_statistics,
    reduce_picture,
)
from .task_output import TaskOutput


class EveryNthFramePolicy(Policy):
    """Executes every n-th frame of a stream fully and nothing in between.

    Args:
        n: The period in frames, at least 1. Default: 4.

    Raises:
        ConfigError: If ``n`` is not an integer of at least 1.
    """

    def __init__(self, n: int = 4) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"n must be an integer of at least 1 (frames), found {n!r}")
        self.n = n

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Execute the images whose frame index is a multiple of n."""
        due = torch.tensor([index % self.n == 0 for index in context.frame_index])
        return due[:, None, None].expand(context.grid_shape).clone().to(frame.device)


class FrameDifferencePolicy(Policy):
    """Executes the blocks whose picture differs from the one they were last executed on.

    Each block is compared with its *last executed* picture, not with the previous frame, so slow
    motion adds up until it is seen. The comparison is made on cells (:mod:`.picture`), in float32:
    the absolute difference, averaged over channels and over each sixteenth of the block (or each
    cell, where a block has fewer than 4 x 4), in units of the frame's own standard deviation. A
    block's score is its largest such value; it is executed if that is above the threshold.

    With ``target`` the threshold is not fixed but held by an integral controller: after each frame
    ``log threshold += executed rate - target``, so that the mean executed rate settles at the
    target. It starts from the quantile of the first scores that would have executed ``target`` of
    the blocks. Where nothing at all moves, the rate stays below the target. Frames that the engine
    executes fully whatever the policy says do not move the threshold.

    Args:
        threshold: In standard deviations of the frame (of 8-bit video, 0.05 is about 3 grey
            levels). Default, if ``target`` is not given either: 0.1.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """

    _LOWEST, _HIGHEST = 1e-3, 1e2

    def __init__(self, threshold: float | None = None, target: float | None = None) -> None:
        if threshold is not None and target is not None:
            raise ConfigError(
                f"give threshold or target, not both; found threshold={threshold!r} and "
                f"target={target!r}"
            )
        if threshold is None and target is None:
            threshold = 0.1
        if threshold is not None and (
            isinstance(threshold, bool)
            or not isinstance(threshold, (int, float))
            or not 0 <= threshold < math.inf
        ):
            raise ConfigError(f"threshold must be a number of at least 0, found {threshold!r}")
        if target is not None and check_rate("target", target) == 0:
            raise ConfigError("target must be above 0; to execute nothing use NonePolicy")
        self.target = target
        self.threshold = None if threshold is None else float(threshold)
        self._last: dict[Hashable, Tensor] = {}
        # The last look, so that feedback() need not look again; good for its context only.
        self._looked: tuple[PolicyContext, tuple[Tensor, Tensor, Tensor]] | None = None

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return the blocks whose difference is above the threshold.

        Raises:
            FrameError: If the frame does not fit the context.
        """
        looked = self._look(frame, context)
        self._looked = (context, looked)
        scores, known, _ = looked
        threshold = self._threshold_for(scores, known)
        # A stream that this policy has not seen (it was put in in mid-stream) is executed fully.
        return (scores > threshold) | ~known[:, None, None]

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return the differences, float32 ``(N, GH, GW)``."""
        looked = self._looked
        return looked[1][0] if looked is not None and looked[0] is context else None

    def feedback(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
    ) -> dict[str, float]:
        """Keep the executed blocks' picture and move the threshold.

        Returns:
            ``executed_rate`` and, once there is one, ``threshold``.
        """
        looked = self._looked
        if looked is None or looked[0] is not context:
            looked = (context, self._look(frame, context))
        self._looked = None
        scores, known, picture = looked[1]
        grid = grid.to(frame.device)
        scalars = super().feedback(frame, grid, outputs, context)
        if self.target is not None and bool(known.any()):
            threshold = self._threshold_for(scores, known)
            error = float(grid[known].float().mean()) - self.target
            moved = threshold * math.exp(error)
            self.threshold = min(max(moved, self._LOWEST), self._HIGHEST)
        executed = grid_to_cells(grid, cells_per_block(context.block_size))
        for image, stream in enumerate(context.streams):
            if known[image]:
                last = self._last[stream]
                self._last[stream] = torch.where(executed[image], picture[image], last)
            else:
                self._last[stream] = picture[image].clone()
        if self.threshold is not None:
            scalars["threshold"] = self.threshold
        return scalars

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget the streams' last executed pictures; the threshold stays."""
        if streams is None:
            self._last.clear()
            return
        for stream in streams:
            self._last.pop(stream, None)

    def state_dict(self) -> dict[str, float | None]:
        """Return the threshold."""
        return {"threshold": self.threshold}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Restore the threshold.

        Raises:
            ConfigError: If ``state`` has no threshold.
        """
        if set(state) != {"threshold"}:
            raise ConfigError(
                "a FrameDifferencePolicy's state dict has the key 'threshold' alone, found "
                f"{sorted(map(str, state))}; load it into the policy that saved it"
            )
        self.threshold = state["threshold"]

    def _look(self, frame: Tensor, context: PolicyContext) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores ``(N, GH, GW)``, which streams are known ``(N,)``, and the picture."""
        check_frame(frame, context)
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        known = ~context.first.to(frame.device)
        last = picture.clone()
        for image, stream in enumerate(context.streams):
            kept = self._last.get(stream)
            if kept is None or kept.shape != picture.shape[1:]:
                known[image] = False
            elif known[image]:
                last[image] = kept
        _, scale = picture_statistics(picture)
        difference = ((picture - last).abs() / scale).mean(1)
        cells = cells_per_block(context.block_size)
        part = max(cells // 4, 1)
        parts = cells_to_grid(difference, part, "mean")
        return cells_to_grid(parts, cells // part, "max"), known, picture

    def _threshold_for(self, scores: Tensor, known: Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        if not bool(known.any()):
            return self._LOWEST
        start = torch.quantile(scores[known].flatten().cpu(), 1 - self.target)
        return min(max(float(start), self._LOWEST), self._HIGHEST)
