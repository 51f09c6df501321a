"""Time on a device: wall or CPU time of the host, or events in the stream of a GPU."""

from __future__ import annotations

import time
from typing import Any

import torch


class Clock:
    """Marks points of time and tells the seconds between two of them.

    On a GPU a mark is an event in the current stream: setting one waits for nothing, so that parts
    of a frame can be timed without a change to how the frame runs. ``start`` and ``stop`` wait for
    the device, and the seconds between two marks are to be asked for after ``stop``.

    Args:
        device: ``'cpu'`` or ``'cuda'``.
        kind: ``'wall'``, or ``'cpu'`` for CPU time summed over the threads, which busy neighbours
            on the machine disturb far less; on a GPU it is always the stream's own time.
    """

    def __init__(self, device: str = "cpu", kind: str = "wall") -> None:
        self.device = device
        self._now = time.process_time if kind == "cpu" else time.perf_counter

    def start(self) -> Any:
        """Wait until the device has nothing to do, then mark."""
        self._wait()
        return self.mark()

    def mark(self) -> Any:
        """Mark this point of the work."""
        if self.device == "cpu":
            return self._now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> Any:
        """Mark, then wait until the device has come there."""
        mark = self.mark()
        self._wait()
        return mark

    def between(self, first: Any, second: Any) -> float:
        """Seconds from one mark to another that the device has passed."""
        if self.device == "cpu":
            return second - first
        return first.elapsed_time(second) / 1e3

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
