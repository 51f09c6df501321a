"""Policies that a sensible engineer would try first: frame difference, every n-th frame."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.host_transfer import upload

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
        return upload(due, frame.device)[:, None, None].expand(context.grid_shape).clone()


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
        self._looked: _Look | None = None

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return the blocks whose difference is above the threshold.

        Raises:
            FrameError: If the frame does not fit the context.
        """
        look = self._looked = self._look(frame, context)
        grid = look.scores > self._threshold_for(look)
        if all(look.known):
            return grid
        # A stream that this policy has not seen (it was put in in mid-stream) is executed fully.
        unknown = torch.tensor([not known for known in look.known])
        return grid | upload(unknown, frame.device)[:, None, None]

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return the differences, float32 ``(N, GH, GW)``."""
        look = self._looked
        return look.scores if look is not None and look.context is context else None

    def feedback(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
    ) -> dict[str, float | Tensor]:
        """Keep the executed blocks' picture and move the threshold.

        Returns:
            ``executed_rate`` and, once there is one, ``threshold``.
        """
        look = self._looked
        if look is None or look.context is not context:
            look = self._look(frame, context)
        self._looked = None
        scalars = super().feedback(frame, grid, outputs, context)
        if self.target is not None and any(look.known):
            chosen = context.host_grid(grid)[look.chosen()]
            error = float(chosen.float().mean()) - self.target
            moved = float(self._threshold_for(look)) * math.exp(error)
            self.threshold = min(max(moved, self._LOWEST), self._HIGHEST)
        executed = grid_to_cells(grid.to(frame.device), cells_per_block(context.block_size))
        for image, stream in enumerate(context.streams):
            if look.known[image]:
                last = self._last[stream]
                self._last[stream] = torch.where(executed[image], look.picture[image], last)
            else:
                self._last[stream] = look.picture[image].clone()
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

    def _look(self, frame: Tensor, context: PolicyContext) -> _Look:
        check_frame(frame, context)
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        known = []
        last = picture.clone()
        for image, stream in enumerate(context.streams):
            kept = self._last.get(stream)
            fits = kept is not None and kept.shape == picture.shape[1:]
            known.append(fits and not context.host_first[image])
            if known[image]:
                last[image] = kept
        _, scale = picture_statistics(picture)
        difference = ((picture - last).abs() / scale).mean(1)
        cells = cells_per_block(context.block_size)
        part = max(cells // 4, 1)
        parts = cells_to_grid(difference, part, "mean")
        scores = cells_to_grid(parts, cells // part, "max")
        return _Look(context, scores, tuple(known), picture)

    def _threshold_for(self, look: _Look) -> float | Tensor:
        """Return the threshold; 0-dim on the device if it begins there with this frame."""
        if self.threshold is not None:
            return self.threshold
        if not any(look.known):
            return self._LOWEST
        if look.start is None:
            chosen = look.scores
            if not all(look.known):
                chosen = chosen[upload(look.chosen(), chosen.device)]
            start = torch.quantile(chosen.flatten(), 1 - self.target)
            look.context.read(start, look.begin)
            if look.start is None:
                return start.clamp(self._LOWEST, self._HIGHEST)
        return min(max(look.start, self._LOWEST), self._HIGHEST)


@dataclass(eq=False)
class _Look:
    """One look at a batch, so that feedback() need not look again; good for its context only."""

    context: PolicyContext
    scores: Tensor  # float32 (N, GH, GW)
    known: tuple[bool, ...]  # N: the stream has a last picture
    picture: Tensor  # float32 (N, 3, h, w)
    start: float | None = None  # where the threshold would begin

    def begin(self, start: Tensor) -> None:
        """Take :attr:`start` once it is in host memory."""
        self.start = float(start)

    def chosen(self) -> Tensor:
        """Return the images that the policy chose the blocks of, int64 in host memory."""
        return torch.tensor([image for image, known in enumerate(self.known) if known])
