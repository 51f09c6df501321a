"""Figures of frames for logs, without waiting for a GPU that still computes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from ...engine.frame_record import FrameRecord


class FrameFigures:
    """Returns the figures of frames in order, each once, as soon as the host knows them.

    On a CPU that is immediately, on a GPU when the next frame has run.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[FrameRecord, Any]] = deque()

    def add(self, record: FrameRecord, about: Any = None) -> None:
        """Add a frame."""
        self._waiting.append((record, about))

    def known(self) -> Iterator[tuple[dict[str, float], Any]]:
        """Executed rate and scalars of the frames whose figures are there."""
        while self._waiting and self._waiting[0][0].scalars_known:
            yield self._next()

    def all(self) -> Iterator[tuple[dict[str, float], Any]]:
        """The figures of all frames; this waits for the device."""
        while self._waiting:
            yield self._next()

    def clear(self) -> None:
        """Forget all frames."""
        self._waiting.clear()

    def _next(self) -> tuple[dict[str, float], Any]:
        record, about = self._waiting.popleft()
        return {"executed_rate": record.executed_rate, **record.scalars}, about
