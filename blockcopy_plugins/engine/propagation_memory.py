"""What is remembered from frame to frame of the outputs of all streams."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from ..propagation import Motion
from .kept_outputs import Kept
from .motion_budget import MotionBudget
from .self_check import SelfCheck


class PropagationMemory:
    """Outputs, checks and figures of a model's streams; a frame writes to it once it has run.

    Args:
        motion: Estimates the motion; ``None`` where nothing is moved.

    Attributes:
        kept: Of each stream its last outputs.
        checks: Of each stream how good moved and copied outputs were.
        without: Of each stream how many frames ago nothing ran of one.
        counts: What became of the frames so far.
        agreements: Sums over all checks: of moved outputs, and of copied ones.
        calls: Frames so far.
        seconds: That they have taken.
        check_seconds: CPU time of the thread that the last check took.
        budget: What the estimate of motion may take.
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

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add what a block takes to :attr:`seconds`, where outputs are moved."""
        start = time.perf_counter()
        try:
            yield
        finally:
            # What is given again takes the place of the model, and its time.
            if self.motion is not None:
                self.seconds += time.perf_counter() - start
