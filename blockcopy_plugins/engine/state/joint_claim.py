"""Many entries of state, claimed at once by the frames of one program."""

from __future__ import annotations

from collections.abc import Sequence

from .entry import StateEntry
from .stream import Stream
from .use import Use


class JointClaim:
    """Claims the entries that a recorded frame claimed, in each of its replays.

    Once all have been claimed one by one, they share one :class:`~.use.Use` of each slot, and later
    frames need only look at that. It is no longer shared as soon as one of them is claimed
    otherwise.

    Args:
        entries: The entries.
    """

    def __init__(self, entries: Sequence[StateEntry]) -> None:
        self._entries = entries
        self._uses: dict[int, Use] = {}

    def claim(self, slots: Sequence[int], streams: Sequence[Stream], full: Sequence[bool]) -> None:
        """Claim all of them with the borders that they have, see :meth:`StateEntry.claim`.

        Raises:
            StateError: If the state does not fit the streams.
        """
        uses = [self._uses.get(slot) for slot in slots]
        if all(map(_goes_on, uses, streams)):
            for use, stream in zip(uses, streams, strict=True):
                use.frame = stream.frames
            return
        for entry in self._entries:
            entry.claim(slots, streams, full, entry.border)
        for slot, stream in zip(slots, streams, strict=True):
            use = self._uses[slot] = Use(stream.token, stream.frames)
            for entry in self._entries:
                entry.share(slot, use)


def _goes_on(use: Use | None, stream: Stream) -> bool:
    return use is not None and not use.is_left and use.is_fresh(stream)
