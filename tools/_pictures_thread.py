"""Drawing and encoding beside the model: in a thread of its own, in order."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

_NICENESS = 10
_WAITING = 3  # pictures in the queue; if drawing is slower than the model, the model waits


class PicturesThread:
    """Runs functions one after the other in a thread, while the model is at work on later frames.

    However its ``with`` block is left, everything that was asked for is done first.

    Attributes:
        seconds: What the functions have taken.
        waited: Seconds that :meth:`run` has waited for room.
        cpu: Seconds of processor time of the functions, without that of threads they use.
    """

    def __init__(self) -> None:
        self.seconds = self.waited = self.cpu = self._total = self._process = 0.0
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="pictures", initializer=_let_others_go_first
        )
        self._running: deque[Future[None]] = deque()

    def run(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a function once those before it are done; return at once where there is room.

        Raises:
            Exception: What an earlier function has raised.
        """
        start = time.perf_counter()
        while len(self._running) >= _WAITING or (self._running and self._running[0].done()):
            self._running.popleft().result()
        self.waited += time.perf_counter() - start
        self._running.append(self._thread.submit(self._timed, function, args))

    def times(
        self, milliseconds: Iterable[float | None], sources: Iterable[Any], recording: Any
    ) -> str:
        """Return two lines that say where the time of the ``with`` block went.

        Args:
            milliseconds: Time of each run of a model, None for one that was not timed.
            sources: Each `LiveSource` that was read.
            recording: The `Recording` that the functions wrote.
        """
        model = sum(ms for ms in milliseconds if ms is not None) / 1e3
        rest = max(self._total - model - self.waited, 0.0)
        reading = sum(source.cpu_seconds for source in sources)
        encoding = recording.cpu_seconds
        other = max(self._process - reading - self.cpu, 0.0)
        each = 1e3 / max(recording.pictures, 1)
        return (
            f"{self._total:.1f} s in all: the model {model:.1f} s, waiting for frames {rest:.1f} s "
            f"and for pictures {self.waited:.1f} s; drawing and encoding, beside it, "
            f"{self.seconds:.1f} s\n"
            f"{each * self._process:.1f} ms of processor time a frame, of all cores: the model and "
            f"its inputs {each * other:.1f} ms, reading {each * reading:.1f} ms, drawing "
            f"{each * (self.cpu - encoding):.1f} ms, encoding {each * encoding:.1f} ms"
        )

    def _timed(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            function(*args)
        finally:
            self.seconds += time.perf_counter() - start
            self.cpu += time.thread_time() - cpu

    def __enter__(self) -> PicturesThread:
        self._total, self._process = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        self._thread.shutdown()
        self._total += time.perf_counter()
        self._process += time.process_time()
        if kind is None:
            while self._running:
                self._running.popleft().result()


def _let_others_go_first() -> None:
    """Give the model's threads priority over this one, where threads have priorities of their own.

    They wait for each other, so that one that has to share its core holds up all of them.
    """
    # Elsewhere it would be the whole process.
    if sys.platform == "linux":
        with suppress(OSError):
            os.nice(_NICENESS)
