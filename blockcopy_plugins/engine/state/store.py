"""The features of all streams whose frames have the same size."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from .entry import StateEntry, StateKey, allocate_map
from .stream import Stream


@dataclass
class StateStore:
    """All state of the streams whose frames have the same size.

    Streams with frames of another size have another store, as their maps cannot share a tensor.

    Attributes:
        entries: By place in the model.
        streams: By stream id.
    """

    capacity: int = 0
    entries: dict[StateKey, StateEntry] = field(default_factory=dict)
    streams: dict[Hashable, Stream] = field(default_factory=dict)

    def add_stream(self, stream_id: Hashable, token: int) -> Stream:
        """Give a new stream the lowest free slot."""
        taken = {stream.slot for stream in self.streams.values()}
        slot = next(i for i in range(len(taken) + 1) if i not in taken)
        self.capacity = max(self.capacity, slot + 1)
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
            map_ = allocate_map((self.capacity, *shape), dtype, device)
            found = StateEntry(key, map_, tuple(block))
            self.entries[key] = found
        else:
            found.check(*shape, block, dtype)
            found.grow(self.capacity)
        return found

    def drop_state(self) -> None:
        """Free the memory of the maps if no stream will read them again."""
        if all(stream.stateless for stream in self.streams.values()):
            self.entries.clear()

    def bytes(self) -> int:
        """Memory of all maps, in bytes."""
        return sum(e.map.numel() * e.map.element_size() for e in self.entries.values())
