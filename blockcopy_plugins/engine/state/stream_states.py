"""Where the state of each stream is: the stores of a converted model by frame size."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from copy import deepcopy

from ...errors import FrameError, StateError
from .store import StateStore
from .stream import Stream


class StreamStates:
    """The stores of a converted model by frame size, and which stream is in which."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self._stores: dict[tuple, StateStore] = {}
        self._next_token = 0

    def __deepcopy__(self, memo) -> StreamStates:
        other = memo[id(self)] = StreamStates(self.max_streams)
        other._next_token = self._next_token
        other._stores = deepcopy(self._stores, memo)
        return other

    def __reduce__(self):
        # Copies and pickles contain no streams: the frames of another process do not continue
        # these, and processes that share memory would both write into the maps.
        return StreamStates, (self.max_streams,)

    def find(self, stream_id: Hashable) -> tuple[tuple, Stream] | None:
        """Geometry and book-keeping of a live stream, or ``None``."""
        for geometry, store in self._stores.items():
            if stream_id in store.streams:
                return geometry, store.streams[stream_id]
        return None

    def check(self, ids: Sequence[Hashable], geometry: tuple) -> None:
        """Refuse frames that do not fit their streams; nothing is changed.

        Args:
            ids: Stream of each image.
            geometry: ``(C, H, W, dtype, device)`` of the frames.

        Raises:
            FrameError: If a stream's earlier frames had another geometry.
            StateError: If there would be too many live streams.
        """
        new = 0
        for stream_id in ids:
            found = self.find(stream_id)
            if found is None:
                new += 1
            elif found[0] != geometry:
                raise FrameError(
                    f"stream {stream_id!r} has frames of (C, H, W, dtype, device) = {found[0]}, "
                    f"but this one is {geometry}. Resize or pad the frames of a stream to one size "
                    f"and type, or call reset_(model, streams=[{stream_id!r}]) before another "
                    "video."
                )
        live = sum(len(store.streams) for store in self._stores.values())
        if live + new > self.max_streams:
            raise StateError(
                f"{live + new} streams would be live, more than max_streams={self.max_streams}. "
                "Call reset_(model, streams=[...]) for streams that have ended, or raise "
                "BlockCopyConfig.max_streams."
            )

    def open(
        self, ids: Sequence[Hashable], geometry: tuple, spare: StateStore | None = None
    ) -> tuple[StateStore, list[Stream]]:
        """Store and streams of a frame that passed :meth:`check`; new streams get a slot.

        Args:
            ids: Stream of each image.
            geometry: See :meth:`check`.
            spare: A store of this geometry without streams, which is used if there is none.
        """
        store = self._stores.get(geometry)
        if store is None:
            store = self._stores[geometry] = StateStore() if spare is None else spare
        streams = []
        for stream_id in ids:
            stream = store.streams.get(stream_id)
            if stream is None:
                stream = store.add_stream(stream_id, self._next_token)
                self._next_token += 1
            streams.append(stream)
        return store, streams

    def drop(self, ids: Iterable[Hashable] | None = None) -> dict[tuple, StateStore]:
        """Forget streams (``None``: all).

        Returns:
            The stores that no stream uses any more, by geometry; they are no longer kept here.

        Raises:
            StateError: If a named stream is not live.
        """
        if ids is None:
            ids = self.ids()
        found = {stream_id: self.find(stream_id) for stream_id in ids}
        for stream_id, place in found.items():
            if place is None:
                raise StateError(
                    f"no live stream {stream_id!r}; live are {self.ids()}. "
                    "Name live streams, or none to reset all."
                )
        empty = {}
        for stream_id, (geometry, _) in found.items():
            store = self._stores[geometry]
            del store.streams[stream_id]
            if not store.streams:
                empty[geometry] = self._stores.pop(geometry)
        return empty

    def ids(self) -> list[Hashable]:
        """Ids of all live streams."""
        return [stream_id for store in self._stores.values() for stream_id in store.streams]

    def stores(self) -> list[StateStore]:
        """The stores of all live streams."""
        return list(self._stores.values())

    def bytes(self) -> int:
        """Memory of all maps of all stores, in bytes."""
        return sum(store.bytes() for store in self.stores())

    def output_bytes(self) -> int:
        """Memory of outputs that are kept beside the maps, in bytes."""
        return sum(store.output_bytes() for store in self.stores())
