"""What leaves the model of blocks that did not run: a copy, or what was there, moved along.

The engine's state is not touched: features stay where they were, and so the laws hold for whatever
runs. Only outputs are moved, once they have left the model.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..policy import PolicyContext
from ..propagation import Motion, build_motion
from .adapter import Call, ModelAdapter
from .motion_budget import MotionBudget
from .propagated_frame import Kept, PropagatedFrame
from .propagation_report import PropagationReport
from .self_check import SelfCheck

if TYPE_CHECKING:
    from ..config import BlockCopyConfig


class Propagation:
    """Outputs from frame to frame, of all streams of a model.

    Args:
        mode: ``'copy'``, ``'move'`` or ``'auto'``.
        motion: Estimates the motion; ``None`` with ``'copy'``.
    """

    def __init__(self, mode: str, motion: Motion | None = None) -> None:
        self.mode = mode
        self.motion = motion
        self._kept: dict[Hashable, Kept] = {}
        self._checks: dict[Hashable, SelfCheck] = {}
        # Of each stream how many frames ago nothing ran of one.
        self._without: dict[Hashable, int] = {}
        self.counts = dict.fromkeys(("frames", "repeated", "moved", "unknown", "checks"), 0)
        self._agreements = [0.0, 0.0]
        self._calls = 0
        self.seconds = 0.0
        # CPU time of the thread that the last check took.
        self.check_seconds = 0.0
        self.budget = MotionBudget()
        self.obstacle: str | None = None

    @classmethod
    def of(cls, config: BlockCopyConfig) -> Propagation:
        """That of a model with these options."""
        if config.propagate == "copy":
            return cls("copy")
        default = "AutoMotion" if config.propagate == "auto" else "DISMotion"
        motion = build_motion(default if config.motion is None else config.motion)
        return cls(config.propagate, deepcopy(motion))

    def __deepcopy__(self, memo: dict[int, Any]) -> Propagation:
        other = memo[id(self)] = Propagation(self.mode, deepcopy(self.motion, memo))
        # What is kept is never written to.
        other._kept = dict(self._kept)
        other._checks = deepcopy(self._checks)
        other._without = dict(self._without)
        other.budget = deepcopy(self.budget)
        other.counts, other._agreements = dict(self.counts), list(self._agreements)
        other._calls, other.seconds, other.obstacle = self._calls, self.seconds, self.obstacle
        return other

    def __reduce__(self):
        # As with the state: streams stay where they run.
        motion = None if self.motion is None else self.motion.without_streams()
        return Propagation, (self.mode, motion)

    @property
    def needs_vectors(self) -> bool:
        """Whether the videos' motion vectors are wanted."""
        return self.motion is not None and self.motion.needs_vectors

    def look(
        self, adapter: ModelAdapter, call: Call, context: PolicyContext, keeps: bool = False
    ) -> PropagatedFrame:
        """Begin a frame; nothing of it is remembered before it is committed.

        Args:
            adapter: Of the model.
            call: Its call.
            context: Of the call.
            keeps: Whether frames of nothing are to be expected, so that outputs are kept for them.
        """
        with self._timed():
            seen = None if self.motion is None else self.motion.look(call.frame, context)
        return PropagatedFrame(self, adapter, call, context, seen, keeps)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; ``None`` forgets all."""
        memories = (self._kept, self._checks, self._without)
        if self.motion is not None:
            streams = None if streams is None else list(streams)
            self.motion.reset(streams)
        for memory in memories:
            for stream in list(memory) if streams is None else streams:
                memory.pop(stream, None)

    def report(self) -> PropagationReport:
        """What was done so far."""
        checks = self.counts["checks"]
        means = [total / checks if checks else None for total in self._agreements]
        judged = [check.pays for check in self._checks.values() if check.checks]
        return PropagationReport(
            propagate=self.mode,
            motion=None if self.motion is None else self.motion.name,
            agreement_moved=means[0],
            agreement_copied=means[1],
            streams_moving=sum(judged),
            streams_copying=len(judged) - sum(judged),
            ms_motion=1e3 * self.seconds / max(self._calls, 1),
            ms_estimate=None if self.budget.seconds is None else 1e3 * self.budget.seconds,
            ms_budget=1e3 * self.budget.limit,
            coarsened=self.budget.coarsened,
            obstacle=self.obstacle,
            **self.counts,
        )

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            # What is given again takes the place of the model, and its time.
            if self.motion is not None:
                self.seconds += time.perf_counter() - start
