"""Reads in a separate thread, a few frames ahead of the consumer."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

logger = logging.getLogger(__name__)


class ReadAhead:
    """Runs another iterator in the background, and iterates over its items.

    Args:
        items: Iterated over in the thread, from when the first item is asked for.
        ahead: Largest number of waiting items.
        drop: If more items come, drop the oldest. Otherwise the thread waits.
        finish: Called in the thread at the end, however it ends.
        patience: Seconds that :meth:`close` waits for a read in progress.

    Attributes:
        dropped: Items that were dropped so far.
        cpu_seconds: Processor time of the thread, up to the last item.
    """

    def __init__(
        self,
        items: Iterable[Any],
        ahead: int,
        drop: bool,
        finish: Callable[[], None],
        patience: float,
    ) -> None:
        self.dropped, self.cpu_seconds = 0, 0.0
        self._items, self._ahead, self._drop = items, ahead, drop
        self._finish, self._patience = finish, patience
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition()
        self._ended = False  # the thread gives no more items
        self._closed = False  # no more items are wanted
        self._error: BaseException | None = None
        # A daemon: a camera that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._read, name="blockcopy-read", daemon=True)
        self._started = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: If there is none, or this is closed.
            Exception: The error of the items' iterator, after all items that came before it.
        """
        with self._changed:
            if not self._started and not self._closed:
                self._started = True
                self._thread.start()
            while not self._waiting and not self._ended and not self._closed:
                self._changed.wait()
            if self._closed:
                raise StopIteration
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop reading and wait for the thread. Closing twice does nothing."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._waiting.clear()
            self._changed.notify_all()
        if not first:
            return
        if not self._started:
            self._finish()
            return
        self._thread.join(self._patience)
        if self._thread.is_alive():
            logger.warning(
                "a read has been in progress for %g s and is left behind in its thread",
                self._patience,
            )

    def _read(self) -> None:
        error = None
        try:
            for item in self._items:
                self.cpu_seconds = time.thread_time()
                if not self._put(item):
                    break
                del item  # not kept alive while waiting for the next one
        except Exception as raised:  # passed on to the consumer
            error = raised
        finally:
            self._finish()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()

    def _put(self, item: Any) -> bool:
        with self._changed:
            while len(self._waiting) >= self._ahead and not self._closed:
                if self._drop:
                    self._waiting.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            if not self._closed:
                self._waiting.append(item)
                self._changed.notify_all()
            return not self._closed
