"""Threads that call one model: their calls run one at a time, with settings for each thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from ..errors import StateError

T = TypeVar("T")


class CallLock:
    """Lets one call at a time into a model; other threads wait.

    A frame changes what the next one reads, from the policy's choice to what the policy learns,
    and not only while the network runs. A ``with`` block waits until no other thread is in a call,
    and keeps others out.

    Raises:
        StateError: By the block, if this thread is already in a call of the model.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __enter__(self) -> None:
        if self._thread == threading.get_ident():
            raise StateError(
                "a policy or a guard has called the model while it was running a frame. Ask the "
                "model before, or inside 'with bc.dense(model):', where it runs unconverted."
            )
        self._lock.acquire()
        self._thread = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self._thread = None
        self._lock.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> CallLock:
        return CallLock()

    def __reduce__(self) -> tuple:
        return CallLock, ()


class ThreadValue(Generic[T]):
    """A value that each thread can set for its own calls.

    Args:
        default: The value for threads that have not set one.
    """

    def __init__(self, default: T) -> None:
        self.default = default
        self._own: dict[int, T] = {}

    def get(self) -> T:
        """Return this thread's value."""
        return self._own.get(threading.get_ident(), self.default)

    @contextmanager
    def set_to(self, value: T) -> Iterator[None]:
        """Set it for this thread, within a ``with`` statement."""
        thread = threading.get_ident()
        had, before = thread in self._own, self._own.get(thread)
        self._own[thread] = value
        try:
            yield
        finally:
            if had:
                self._own[thread] = before
            else:
                del self._own[thread]

    def __deepcopy__(self, memo: dict[int, Any]) -> ThreadValue[T]:
        return ThreadValue(self.default)

    def __reduce__(self) -> tuple:
        return ThreadValue, (self.default,)
