"""A frame whose work on the host is recorded, to be repeated when the rest is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..frame.context import note_calls
from ..frame.counts import FrameCounts
from ..frame.frame import Frame
from ..frame.layout import Layout
from ..state.entry import StateEntry
from ..state.joint_claim import JointClaim
from ..state.store import StateStore
from ..state.stream import Stream
from .frame_replay import FrameReplay


@dataclass(frozen=True)
class Recorded:
    """What the host did in a recorded frame, to be repeated at each replay.

    Attributes:
        entries: The state that was claimed, with its memory at that time.
        calls: How often each module used state.
        counts: MACs and densified ops; they depend only on the numbers of blocks.
    """

    entries: tuple[tuple[StateEntry, Tensor], ...]
    calls: dict[str, int]
    counts: FrameCounts

    @cached_property
    def joint_claim(self) -> JointClaim:
        """Claims the entries again."""
        return JointClaim([entry for entry, _ in self.entries])

    def repeat(self, frame: Frame | FrameReplay, counts: FrameCounts) -> None:
        """Repeat what the host did, in another frame.

        Args:
            frame: The frame.
            counts: MACs of it.

        Raises:
            StateError: If the state does not fit the streams. Nothing of it has been changed.
        """
        frame.counts = counts
        self.claim(frame)
        note_calls(self.calls, frame.streams, frame.full)
        self.begin_writing(frame)

    def claim(self, frame: Frame | FrameReplay) -> None:
        """Claim the state for another frame.

        Raises:
            StateError: If the state does not fit the streams. Nothing of it has been changed.
        """
        self.joint_claim.claim(frame.slots, frame.streams, frame.full)

    def begin_writing(self, frame: Frame | FrameReplay) -> None:
        """Prepare the maps to be written to, now that nothing can be refused any more."""
        frame.touched_state |= frame.executed > 0
        for entry, _ in self.entries:
            if entry.lent:
                entry.before_writing(frame.host, frame.slots)

    def holds(self, store: StateStore) -> bool:
        """Whether the maps have not moved in memory and have room for all streams."""
        return all(
            store.entries.get(entry.key) is entry
            and entry.map is map_
            and len(map_) >= store.capacity
            for entry, map_ in self.entries
        )


class ReplayedFrame(Frame):
    """A frame whose work on the host can be recorded."""

    def blocks_of_images(self, layout: Layout) -> list[int] | None:
        """See :class:`Frame`."""
        return super().blocks_of_images(layout) if self.images == 1 else None

    def recorded(self) -> Recorded:
        """What the host did, once the model has run."""
        entries = claimed(self.store, self.streams)
        return Recorded(
            tuple((entry, entry.map) for entry in entries), dict(self._calls), self.counts
        )


def claimed(store: StateStore, streams: Sequence[Stream]) -> list[StateEntry]:
    """The entries that all of these streams have claimed for the frame being run."""
    return [entry for entry in store.entries.values() if entry.used_now(streams)]
