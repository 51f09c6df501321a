"""Shared code of the policies that execute the blocks with a score above a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.host_transfer import upload

from .base import Policy, PolicyContext, check_rate
from .task_output import TaskOutputs


class ThresholdPolicy(Policy):
    """Base class of policies that score blocks and execute those above a threshold.

    With ``target`` the threshold is not fixed but held by an integral controller: after each frame
    ``log threshold += executed rate - target``, so that the mean executed rate settles at the
    target. It starts from the quantile of the first scores that would have executed ``target`` of
    the blocks. If nothing at all moves, the rate stays below the target. Frames that the engine
    executes fully whatever the policy says do not move the threshold.

    A subclass implements :meth:`look` and :meth:`commit`, and keeps its own data for each stream in
    ``self.memory``, by stream id.

    Args:
        threshold: A block is executed if its score is above it; in the unit of the scores.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """

    DEFAULT_THRESHOLD = 0.1
    # Where the controller stops: a still scene must not take the threshold to zero.
    LOWEST, HIGHEST = 1e-3, 1e2

    def __init__(self, threshold: float | None = None, target: float | None = None) -> None:
        if threshold is not None and target is not None:
            raise ConfigError(
                f"give threshold or target, not both; found threshold={threshold!r} and "
                f"target={target!r}"
            )
        if threshold is None and target is None:
            threshold = self.DEFAULT_THRESHOLD
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
        self.memory: dict[Hashable, Any] = {}
        self._looked: Look | None = None

    # -- for the subclass --------------------------------------------------------------------------

    def look(self, frame: Tensor, context: PolicyContext) -> Look:
        """Score the blocks of a batch; changes nothing.

        Args:
            frame: ``(N, 3, H, W)``.
            context: What is known about the call.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement look()")

    def choose(self, look: Look, threshold: float | Tensor) -> Tensor:
        """Return the grid of a look; here the blocks with a score above the threshold.

        Args:
            look: The look.
            threshold: The threshold; 0-dim on the device of the scores if it begins with this look.
        """
        return look.scores > threshold

    def commit(self, look: Look, grid: Tensor, threshold: float | Tensor) -> None:
        """Write the memory of the streams of a look that has been executed.

        Args:
            look: The look.
            grid: bool ``(N, GH, GW)``, the executed blocks.
            threshold: As for :meth:`choose`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement commit()")

    # -- Policy ------------------------------------------------------------------------------------

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Return the blocks whose score is above the threshold.

        Raises:
            FrameError: If the frame does not fit the context.
        """
        look = self._looked = self.look(frame, context)
        grid = upload(self.choose(look, self._threshold_for(look)), frame.device)
        if all(look.known):
            return grid
        # A stream that this policy has not seen (it was set in mid-stream) is executed fully.
        unknown = torch.tensor([not known for known in look.known])
        return grid | upload(unknown, frame.device)[:, None, None]

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return the scores, float32 ``(N, GH, GW)``."""
        look = self._looked
        if look is None or look.context is not context:
            return None
        return upload(look.scores, frame.device)

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float | Tensor]:
        """Write the memory of the streams and move the threshold.

        Returns:
            ``executed_rate`` and, once there is one, ``threshold``.
        """
        look = self._looked
        if look is None or look.context is not context:
            look = self.look(frame, context)
        self._looked = None
        scalars = super().feedback(frame, grid, outputs, context)
        threshold = self._threshold_for(look)
        self.commit(look, grid, threshold)
        if self.target is not None and any(look.known):
            chosen = context.host_grid(grid)[look.chosen()]
            error = float(chosen.float().mean()) - self.target
            moved = float(threshold) * math.exp(error)
            self.threshold = min(max(moved, self.LOWEST), self.HIGHEST)
        if self.threshold is not None:
            scalars["threshold"] = self.threshold
        return scalars

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget the streams' data; the threshold is kept."""
        if streams is None:
            self.memory.clear()
            return
        for stream in streams:
            self.memory.pop(stream, None)

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
                f"a {type(self).__name__}'s state dict has only the key 'threshold', found "
                f"{sorted(map(str, state))}; load it into the policy that saved it"
            )
        self.threshold = state["threshold"]

    def _threshold_for(self, look: Look) -> float | Tensor:
        """Return the threshold; 0-dim on the device if it begins there with this frame."""
        if self.threshold is not None:
            return self.threshold
        if not any(look.known):
            return self.LOWEST
        if look.start is None:
            chosen = look.scores
            if not all(look.known):
                chosen = chosen[upload(look.chosen(), chosen.device)]
            start = torch.quantile(chosen.flatten(), 1 - self.target)
            look.context.read(start, look.begin)
            if look.start is None:
                return start.clamp(self.LOWEST, self.HIGHEST)
        return min(max(look.start, self.LOWEST), self.HIGHEST)


@dataclass(eq=False)
class Look:
    """One look at a batch, so that feedback() need not look again; valid only for its context.

    Attributes:
        context: The call's context.
        scores: float32 ``(N, GH, GW)``, on the frame's device or in host memory.
        known: For each image, whether the policy remembers its stream. Others are executed fully.
        seen: Data that the policy needs when the frame has run.
        start: Initial threshold, once it is in host memory.
    """

    context: PolicyContext
    scores: Tensor
    known: tuple[bool, ...]
    seen: Any
    start: float | None = None

    def begin(self, start: Tensor) -> None:
        """Take :attr:`start` once it is in host memory."""
        self.start = float(start)

    def chosen(self) -> Tensor:
        """Return the images whose blocks the policy chose, int64 in host memory."""
        return torch.tensor([image for image, known in enumerate(self.known) if known])


def remembered(
    memory: dict[Hashable, Any], context: PolicyContext, fits: Callable[[Any, int], bool]
) -> tuple[tuple[Any | None, ...], tuple[bool, ...]]:
    """Return the data kept for the streams of a batch, and which streams have some.

    Args:
        memory: By stream id.
        context: The call's context; data kept for a stream is not valid for its first frame.
        fits: ``fits(kept, image)``, whether the data is for frames of the image's size.
    """
    found = []
    for image, stream in enumerate(context.streams):
        kept = None if context.host_first[image] else memory.get(stream)
        found.append(kept if kept is not None and fits(kept, image) else None)
    return tuple(found), tuple(kept is not None for kept in found)
