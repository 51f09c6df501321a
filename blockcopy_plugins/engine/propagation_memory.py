"""What is remembered about the outputs of all streams from frame to frame."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

from ..propagation import Motion
from .kept_outputs import Kept
from .motion_budget import MotionBudget
from .self_check import SelfCheck


class PropagationMemory:
    """Outputs, checks and figures of a model's streams; a frame writes to it once it has run.

    Args:
        motion: Estimates the motion; ``None`` if nothing is moved.

    Attributes:
        kept: The last outputs of each stream.
        checks: For each stream, how good moved and copied outputs were.
        without: For each stream, how many frames ago nothing ran.
        counts: How the frames so far were delivered.
        agreements: Sums over all checks, of moved outputs and of copied ones.
        calls: Number of frames so far.
        seconds: Seconds that they took.
        check_seconds: CPU time that the last check took in its thread.
        budget: Time that the estimate of motion may take.
        obstacle: Why outputs cannot be kept, ``None`` if they can.
    """

    def __init__(self, motion: Motion | None = None) -> None:
        self.motion = motion
        self.kept: dict[Hashable, Kept] = {}
        self.checks: dict[Hashable, SelfCheck] = {}
        self.without: dict[Hashable, int] = {}
        self.counts = dict.fromkeys(("frames", "repeated", "moved", "unknown", "checks"), 0)
        self.agreements = [0.0, 0.0]
        self.calls = 0
        self.seconds = self.check_seconds = 0.0
        self.budget = MotionBudget()
        self.obstacle: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PropagationMemory:
        other = memo[id(self)] = PropagationMemory()
        # What is kept is never written to.
        whole = {**vars(self), "kept": {}}
        vars(other).update(deepcopy(whole, memo), kept=dict(self.kept))
        return other

    def forget(self, streams: Sequence[Hashable] | None) -> None:
        """Forget streams; ``None`` forgets all."""
        for memory in (self.kept, self.checks, self.without):
            for stream in list(memory) if streams is None else streams:
                memory.pop(stream, None)

    def timed(self) -> AbstractContextManager:
        """Add the time of a ``with`` block to :attr:`seconds`, if outputs are moved."""
        # Returning outputs again replaces the model, and counts as its time.
        return nullcontext() if self.motion is None else self._timed()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
