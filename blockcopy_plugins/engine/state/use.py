"""The last use of a slot of some state."""

from __future__ import annotations

from dataclasses import dataclass

from .stream import Stream


@dataclass(eq=False)
class Use:
    """The last use of a slot of an entry, or of several that are always used together.

    Attributes:
        token: Of the stream.
        frame: Number of its frame.
        is_left: Whether one of the entries that shared it has been used otherwise since, or is to
            hold more.
    """

    token: int
    frame: int
    is_left: bool = False

    def is_of(self, stream: Stream) -> bool:
        """Whether it was in the stream's current frame."""
        return self.token == stream.token and self.frame == stream.frames

    def is_fresh(self, stream: Stream) -> bool:
        """Whether it was in the stream's last frame.

        Or in the current one: then that has failed before it changed anything, and runs again.
        """
        return self.token == stream.token and stream.frames - 1 <= self.frame <= stream.frames
