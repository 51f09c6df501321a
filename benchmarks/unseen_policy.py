"""A busy scene whose ops no timer counts: its time is told as a whole."""

from __future__ import annotations

from contextlib import nullcontext

from .busy_scene import BusyScene
from .op_timer import OpTimer


class UnseenScene(BusyScene):
    """See the module.

    Attributes:
        timer: That at work, if any.
    """

    timer: OpTimer | None = None

    def select(self, frame, context):
        with self._aside():
            return super().select(frame, context)

    def feedback(self, frame, grid, outputs, context):
        with self._aside():
            return super().feedback(frame, grid, outputs, context)

    def _aside(self):
        return nullcontext() if self.timer is None else self.timer.paused()
