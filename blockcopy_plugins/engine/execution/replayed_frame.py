"""A frame whose work on the host can be recorded, and repeated when the rest is replayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..frame.counts import FrameCounts
from ..frame.frame import Frame
from ..frame.layout import Layout
from ..state.entry import StateEntry
from ..state.joint_claim import JointClaim
from ..state.store import StateStore
from ..state.stream import Stream


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

    def holds(self, store: StateStore) -> bool:
        """Whether the maps have not moved in memory and have room for all streams."""
        return all(
            store.entries.get(entry.key) is entry
            and entry.map is map_
            and len(map_) >= store.capacity
            for entry, map_ in self.entries
        )


class ReplayedFrame(Frame):
    """A frame whose work on the host can be recorded and repeated."""

    def blocks_of_images(self, layout: Layout) -> list[int] | None:
        """See :class:`Frame`."""
        return super().blocks_of_images(layout) if self.images == 1 else None

    def recorded(self) -> Recorded:
        """What the host did, once the model has run."""
        entries = claimed(self.store, self._streams)
        return Recorded(
            tuple((entry, entry.map) for entry in entries), dict(self._calls), self.counts
        )

    def repeat(self, recorded: Recorded, counts: FrameCounts) -> None:
        """Repeat what the host did in a recorded frame.

        Raises:
            StateError: If the state does not fit the streams. Nothing of it has been changed.
        """
        recorded.joint_claim.claim(self.slots, self._streams, self.full)
        self._calls = recorded.calls
        self.counts = counts
        self.finish()
        self.begin_writing(recorded.entries)

    def begin_writing(self, entries: Iterable[tuple[StateEntry, Tensor]]) -> None:
        """Prepare maps to be written to, now that nothing can be refused any more.

        Args:
            entries: Those of a recording.
        """
        self.touched_state |= self.executed > 0
        for entry, _ in entries:
            if entry.lent:
                entry.before_writing(self.host, self.slots)


def claimed(store: StateStore, streams: Sequence[Stream]) -> list[StateEntry]:
    """The entries that all of these streams have claimed for the frame being run."""
    return [entry for entry in store.entries.values() if entry.used_now(streams)]
