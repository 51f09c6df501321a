"""Outputs of blocks that did not run: copied, or moved along with the picture.

The engine's state is not touched: features stay where they were, so the laws hold for whatever
runs. Only outputs are moved, after the model has returned them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..policy import PolicyContext
from ..propagation import Motion, build_motion
from .adapter import Call, ModelAdapter
from .propagated_frame import PropagatedFrame
from .propagation_memory import PropagationMemory
from .propagation_report import PropagationReport

if TYPE_CHECKING:
    from ..config import BlockCopyConfig


class Propagation:
    """Carries the outputs of all streams of a model from frame to frame.

    Args:
        mode: ``'copy'``, ``'move'`` or ``'auto'``.
        motion: Estimates the motion; ``None`` with ``'copy'``.
    """

    def __init__(self, mode: str, motion: Motion | None = None) -> None:
        self.mode = mode
        self.memory = PropagationMemory(motion)

    @classmethod
    def of(cls, config: BlockCopyConfig) -> Propagation:
        """Make one for a model with these options."""
        if config.propagate == "copy":
            return cls("copy")
        default = "AutoMotion" if config.propagate == "auto" else "DISMotion"
        motion = build_motion(default if config.motion is None else config.motion)
        return cls(config.propagate, deepcopy(motion))

    def __deepcopy__(self, memo: dict[int, Any]) -> Propagation:
        other = memo[id(self)] = Propagation(self.mode)
        other.memory = deepcopy(self.memory, memo)
        return other

    def __reduce__(self):
        # As with the state, streams are not copied.
        motion = None if self.motion is None else self.motion.without_streams()
        return Propagation, (self.mode, motion)

    @property
    def motion(self) -> Motion | None:
        """The estimate of motion; ``None`` with ``'copy'``."""
        return self.memory.motion

    @property
    def needs_vectors(self) -> bool:
        """Whether the videos' motion vectors are needed."""
        return self.motion is not None and self.motion.needs_vectors

    def look(
        self, adapter: ModelAdapter, call: Call, context: PolicyContext, keeps: bool = False
    ) -> PropagatedFrame:
        """Begin a frame; nothing of it is remembered before it is committed.

        Args:
            adapter: Adapter of the model.
            call: The call.
            context: The policy's context of the call.
            keeps: Whether to keep outputs because frames in which nothing runs are expected.
        """
        with self.memory.timed():
            seen = None if self.motion is None else self.motion.look(call.frame, context)
        return PropagatedFrame(self.memory, adapter, call, context, seen, keeps)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; ``None`` forgets all."""
        streams = None if streams is None else list(streams)
        if self.motion is not None:
            self.motion.reset(streams)
        self.memory.forget(streams)

    def report(self) -> PropagationReport:
        """Figures of what was done so far."""
        memory = self.memory
        checks = memory.counts["checks"]
        means = [total / checks if checks else None for total in memory.agreements]
        judged = [check.pays for check in memory.checks.values() if check.checks]
        return PropagationReport(
            propagate=self.mode,
            motion=None if self.motion is None else self.motion.name,
            agreement_moved=means[0],
            agreement_copied=means[1],
            streams_moving=sum(judged),
            streams_copying=len(judged) - sum(judged),
            ms_motion=1e3 * memory.seconds / max(memory.calls, 1),
            ms_estimate=None if memory.budget.seconds is None else 1e3 * memory.budget.seconds,
            ms_budget=1e3 * memory.budget.limit,
            coarsened=memory.budget.coarsened,
            obstacle=memory.obstacle,
            **memory.counts,
        )
