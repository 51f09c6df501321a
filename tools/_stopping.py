"""How a tool is asked to end: Ctrl-C, or the signals that 'docker stop' and a closed terminal send.

They become an exception, so that whatever is open is ended as by Ctrl-C: videos, results, policies.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """The tool was asked to end; the text is the signal's name."""


class StopRequest:
    """Whether the tool was asked to end.

    Attributes:
        number: Of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    @property
    def status(self) -> int:
        """Exit status of a process that a signal ended, as shells give it."""
        return 128 + (self.number or signal.SIGINT)

    def check(self) -> None:
        """Raise if the tool was asked to end, and whoever got the exception has swallowed it.

        Python loses an exception that is raised by chance while an object is finalised.

        Raises:
            Stopped: It was.
        """
        if self.number is not None:
            raise Stopped(signal.Signals(self.number).name)

    def _take(self, number: int, frame: object) -> None:
        first, self.number = self.number is None, self.number or number
        # What is under way is then to be ended in peace; only who is at the keyboard may insist.
        if first or number == signal.SIGINT:
            raise Stopped(signal.Signals(number).name)


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn signals that ask for the end into `Stopped`, once.

    A signal that is ignored stays so (nohup ignores SIGHUP). Outside the main thread nothing
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
