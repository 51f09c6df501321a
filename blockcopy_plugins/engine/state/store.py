"""The features of all streams whose frames have the same size."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from .entry import StateEntry, StateKey
from .stream import Stream


@dataclass
class StateStore:
    """All state of the streams whose frames have the same size.

    Streams with frames of another size have another store, as their maps cannot share a tensor.

    Attributes:
        entries: By place in the model.
        streams: By stream id.
        memory: Another object whenever a map comes, goes or moves, the streams become more, or ops
            read further into blocks than before: who remembers it need not look at the entries.
    """

    capacity: int = 0
    entries: dict[StateKey, StateEntry] = field(default_factory=dict)
    streams: dict[Hashable, Stream] = field(default_factory=dict)
    memory: object = field(default_factory=object)

    def add_stream(self, stream_id: Hashable, token: int) -> Stream:
        """Give a new stream the lowest free slot."""
        taken = {stream.slot for stream in self.streams.values()}
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        if slot >= self.capacity:
            self.capacity = slot + 1
            self.memory = object()
        self.streams[stream_id] = Stream(token=token, slot=slot)
        return self.streams[stream_id]

    def entry(
        self, key: StateKey, shape: Sequence[int], block: tuple[int, int], dtype, device
    ) -> StateEntry:
        """Find or make the entry of a place in the model.

        Args:
            key: The place.
            shape: ``(C, H, W)`` of the map.
            block: Block height and width in pixels of the map.
            dtype: dtype of the map.
            device: Device of the map.

        Returns:
            The entry, with room for all streams of this store.

        Raises:
            StateError: If the entry exists and holds something else.
        """
        found = self.entries.get(key)
        left_over = found is not None and found.is_left_over(
            self.streams.values(), *shape, tuple(block), dtype
        )
        if found is None or left_over:
            found = StateEntry(key, self.capacity, tuple(shape), tuple(block), dtype, device)
            self.entries[key] = found
        else:
            found.check(*shape, block, dtype)
            self._grow(found)
        return found

    def grow(self) -> None:
        """Give all maps room for all streams."""
        for entry in self.entries.values():
            self._grow(entry)

    def _grow(self, entry: StateEntry) -> None:
        if entry.slots < self.capacity:
            entry.grow(self.capacity)
            self.memory = object()

    def drop_state(self) -> None:
        """Free the memory of the maps if no stream will read them again."""
        if all(stream.stateless for stream in self.streams.values()):
            self.entries.clear()
            self.memory = object()

    def bytes(self) -> int:
        """Memory of all maps, in bytes."""
        return sum(entry.bytes() for entry in self.entries.values())

    def output_bytes(self) -> int:
        """Memory of outputs that are kept beside the maps, in bytes."""
        return sum(lent.bytes() for e in self.entries.values() for lent in e.lent.values())
