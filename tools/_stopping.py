"""How a tool is asked to end: Ctrl-C, or the signals of 'docker stop' and of a closed terminal.

They become an exception, so that everything open is closed as by Ctrl-C: videos, results, policies.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """The tool was asked to end; the message is the signal's name."""


class StopRequest:
    """Whether the tool was asked to end.

    Attributes:
        number: Number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def status(self) -> int:
        """The exit status that shells give a process that a signal ended."""
        return 128 + (self.number or signal.SIGINT)

    def check(self) -> None:
        """Raise if the tool was asked to end and the first exception was swallowed.

        Python loses an exception that happens to be raised while an object is finalised.

        Raises:
            Stopped: The tool was asked to end.
        """
        if self.number is not None:
            raise Stopped(signal.Signals(self.number).name)

    def _take(self, number: int, frame: object) -> None:
        first, self.number = self.number is None, self.number or number
        # Let the work in progress end cleanly; only a user at the keyboard may insist.
        if first or number == signal.SIGINT:
            raise Stopped(signal.Signals(number).name)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn signals that ask the tool to end into `Stopped`, once.

    A signal that is ignored stays ignored (nohup ignores SIGHUP). Outside the main thread nothing
    changes.
    """
    request, before = StopRequest(), {}
    for name in _SIGNALS:
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, request._take)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
