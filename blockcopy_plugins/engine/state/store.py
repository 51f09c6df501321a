"""What is kept of earlier frames: the full maps, and which slot of them belongs to which stream."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import FrameError, StateError
from ..execution.graph_pool import GraphPool
from ..execution.program_pool import ProgramPool

if TYPE_CHECKING:
    from ..conv.cpu_convolutions import ConvPlan


BY_CHANCE = (
    "Where a tensor whose size changes with the picture happened to have that of a map, "
    "BlockCopyConfig(repack=False) keeps it dense."
)
"""What else may be the matter where a layer finds no state of its own."""

EVERYTHING = 1 << 30
"""Border of a map whose blocks are kept whole, not near their edges alone."""


@dataclass(frozen=True)
class StateKey:
    """Where in the model an entry belongs: op ``op``, use ``call`` of ``path`` in a frame."""

    path: str
    call: int
    op: str

    def __str__(self) -> str:
        return f"{self.path or '(root)'}[{self.call}] {self.op}"


class StateEntry:
    """The last known full input map of one spatial op, for all streams of a store.

    Attributes:
        map: ``(slots, C, H, W)``, channels last.
        block: Height and width of a block of this map, in its pixels.
        border: Pixels from the edge of a block that are kept: the most that any reader asked for.
    """

    def __init__(self, key: StateKey, map_: Tensor, block: tuple[int, int]) -> None:
        self.key = key
        self.map = map_
        self.block = block
        self.border = 0
        # Token of the stream and number of the frame that last used each slot, and the border that
        # is right there.
        self._used: list[tuple[int, int] | None] = [None] * map_.shape[0]
        self._right: list[int] = [0] * map_.shape[0]

    def check(self, channels: int, height: int, width: int, block: tuple[int, int], dtype) -> None:
        """Refuse a tensor that this entry was not made for.

        Raises:
            StateError: If channels, size, block or dtype differ from those of earlier frames.
        """
        found = (channels, height, width, tuple(block), dtype)
        kept = self._fits()
        if found != kept:
            raise StateError(
                f"state of {self.key} holds (C, H, W, block, dtype) = {kept}, but this frame "
                f"brings {found}: the model took another path through its layers than on earlier "
                "frames. Call reset_(model), or convert only the part of the model whose layers "
                f"run in the same order on every frame. {BY_CHANCE}"
            )

    def _fits(self) -> tuple:
        return (*self.map.shape[1:], self.block, self.map.dtype)

    def is_left_over(self, streams: Iterable[Stream], *wanted) -> bool:
        """Whether it does not fit, and is of streams that are gone: then another takes its place.

        Args:
            streams: Live streams.
            *wanted: As for :meth:`check`.
        """
        if self._fits() == wanted:
            return False
        users = {used[0] for used in self._used if used is not None}
        return not any(stream.token in users for stream in streams)

    def used_now(self, streams: Iterable[Stream]) -> bool:
        """Whether the streams have claimed it for the frame that is at work."""
        return all(self._used[s.slot] == (s.token, s.frames) for s in streams)

    def grow(self, slots: int) -> None:
        """Make room for ``slots`` streams; what is there stays."""
        have = self.map.shape[0]
        if slots > have:
            wider = _allocate((slots, *self.map.shape[1:]), self.map.dtype, self.map.device)
            wider[:have].copy_(self.map)
            self.map = wider
            self._used += [None] * (slots - have)
            self._right += [0] * (slots - have)

    def claim(
        self, slots: Sequence[int], streams: Sequence[Stream], full: Sequence[bool], border: int
    ) -> None:
        """Note who writes, and refuse to let a stream read what was not written for it.

        Args:
            slots: Slot of each image.
            streams: Stream of each image.
            full: Whether each image is executed fully in this frame.
            border: What is about to be written, and may then be read.

        Raises:
            StateError: If a stream arrives here with part of its blocks although its last frame
                left nothing here, or less than that.
        """
        for slot, stream, is_full in zip(slots, streams, full, strict=True):
            # The same number again: a frame that failed before it changed anything.
            fresh = [(stream.token, stream.frames - 1), (stream.token, stream.frames)]
            if not is_full and (self._used[slot] not in fresh or self._right[slot] < border):
                raise StateError(
                    f"{self.key} has no state of the stream's last frame: the layer did not run on "
                    "it. Call reset_(model) to have the next frame executed fully, or convert only "
                    f"the part of the model whose layers run on every frame. {BY_CHANCE}"
                )
            self._used[slot] = (stream.token, stream.frames)
            if is_full:
                self._right[slot] = border


@dataclass
class Stream:
    """Book-keeping of one stream.

    Attributes:
        token: Differs for every stream that ever was, so that a slot's former owner is known.
        slot: Index into the slot axis of its store's maps.
        frames: Frames executed so far.
        repeated: Frames of which nothing ran and that did not go through the network.
        broken: A frame failed half-way, or guards and policy know half of it: the next one must be
            executed fully.
        last_grid: bool ``(GH, GW)`` of the last frame, or ``None`` before the first.
        calls: How often each module used state in the last frame.
        stateless: Its last frame has left no state; see :mod:`.plain_frames`.
        keeps_state: Blocks were asked for, so that its frames leave their state from now on.
    """

    token: int
    slot: int
    frames: int = 0
    repeated: int = 0
    broken: bool = False
    last_grid: Tensor | None = None
    calls: dict[str, int] = field(default_factory=dict)
    stateless: bool = False
    keeps_state: bool = False


@dataclass
class StateStore:
    """All state of the streams whose frames have one size.

    Streams of different frame sizes have stores of their own, as their maps cannot share a tensor.

    Attributes:
        entries: By place in the model.
        streams: By stream id.
        tables: Window tables, made once for each geometry.
        plans: Convolutions by the package's own kernels, by place in the model.
        graphs: CUDA graphs over these maps.
        programs: Programs over these maps, see
            :mod:`~blockcopy_plugins.engine.execution.frame_programs`.
    """

    capacity: int = 0
    entries: dict[StateKey, StateEntry] = field(default_factory=dict)
    streams: dict[Hashable, Stream] = field(default_factory=dict)
    tables: dict[tuple, Tensor] = field(default_factory=dict)
    plans: dict[tuple, ConvPlan | None] = field(default_factory=dict)
    graphs: GraphPool = field(default_factory=GraphPool)
    programs: ProgramPool = field(default_factory=ProgramPool)

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
            dtype: Of the map.
            device: Of the map.

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
            found = StateEntry(key, _allocate((self.capacity, *shape), dtype, device), tuple(block))
            self.entries[key] = found
        else:
            found.check(*shape, block, dtype)
            found.grow(self.capacity)
        return found

    def drop_state(self) -> None:
        """Give back the memory of the maps if no stream will read what is in them."""
        if all(stream.stateless for stream in self.streams.values()):
            self.entries.clear()

    def bytes(self) -> int:
        """Memory of all maps, in bytes."""
        return sum(e.map.numel() * e.map.element_size() for e in self.entries.values())


class StreamStates:
    """The stores of a converted model, by frame size, and the rule which stream is where."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self._stores: dict[tuple, StateStore] = {}
        # Without streams. Their graphs serve the next video, and read and write their maps.
        self._idle: dict[tuple, StateStore] = {}
        self._next_token = 0

    def __deepcopy__(self, memo) -> StreamStates:
        other = memo[id(self)] = StreamStates(self.max_streams)
        other._next_token = self._next_token
        # The idle ones are kept for their graphs, which a copy does not have.
        other._stores = deepcopy(self._stores, memo)
        return other

    def __reduce__(self):
        # Streams stay where they run. Frames that another process or another day sees do not follow
        # on theirs, and processes that share memory would both write into their maps.
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
            StateError: If there would be more live streams than allowed.
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

    def open(self, ids: Sequence[Hashable], geometry: tuple) -> tuple[StateStore, list[Stream]]:
        """Store and streams of a frame that passed :meth:`check`; new streams get a slot."""
        store = self._stores.get(geometry)
        if store is None:
            store = self._stores[geometry] = self._idle.pop(geometry, None) or StateStore()
        streams = []
        for stream_id in ids:
            stream = store.streams.get(stream_id)
            if stream is None:
                stream = store.add_stream(stream_id, self._next_token)
                self._next_token += 1
            streams.append(stream)
        return store, streams

    def drop(self, ids: Iterable[Hashable] | None = None) -> None:
        """Forget streams (``None``: all); memory is given back when a store has none left.

        A store with graphs is kept for streams of the same geometry: the graphs hold its maps.

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
        for stream_id, place in found.items():
            store = self._stores[place[0]]
            del store.streams[stream_id]
            if not store.streams:
                del self._stores[place[0]]
                self._idle[place[0]] = store
        self.forget_idle()

    def forget_idle(self) -> None:
        """Give back the memory of stores that have neither streams nor graphs."""
        self._idle = {geometry: s for geometry, s in self._idle.items() if s.graphs}

    def idle(self) -> list[StateStore]:
        """The stores that have graphs and no streams, the longest idle first."""
        return list(self._idle.values())

    def ids(self) -> list[Hashable]:
        """Ids of all live streams."""
        return [stream_id for store in self._stores.values() for stream_id in store.streams]

    def stores(self) -> list[StateStore]:
        """All stores, those without streams too."""
        return [*self._stores.values(), *self._idle.values()]

    def bytes(self) -> int:
        """Memory of all maps of all stores, in bytes."""
        return sum(store.bytes() for store in self.stores())


def _allocate(shape: Sequence[int], dtype, device) -> Tensor:
    # A map outlives the call that makes it. Made inside inference_mode it could not be written to
    # from outside, so it is always an ordinary tensor.
    with torch.inference_mode(False):
        return torch.zeros(tuple(shape), dtype=dtype, device=device).contiguous(
            memory_format=torch.channels_last
        )
