"""A frame whose inputs lie in memory that stays, so that its work can be captured and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..host_transfer import upload, upload_into
from .capture_guard import CaptureError
from .frame import Frame, FrameCounts
from .layout import Layout, block_lists
from .state import StateEntry, StateStore, Stream

BlockLists = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""``by_image`` and ``by_slot`` of a :class:`Layout` by rows and columns of blocks."""


class StaticInputs:
    """What changes from frame to frame, whatever the number of executed blocks.

    Args:
        frame: A frame of this kind, ``(N, C, H, W)``.
        grid: Its grid.

    Attributes:
        frame: ``(N, C, H, W)``, channels last.
        grid: bool ``(N, GH, GW)``.
        slots: int64 ``(N,)``, slot of each image's stream.
    """

    def __init__(self, frame: Tensor, grid: Tensor) -> None:
        # A graph outlives the call: made inside inference_mode these could not be written outside.
        with torch.inference_mode(False):
            self.frame = torch.empty_like(frame, memory_format=torch.channels_last)
            self.grid = torch.empty_like(grid)
            self.slots = torch.empty(len(frame), dtype=torch.int64, device=frame.device)

    def fill(self, frame: Tensor, grid: Tensor, slots: Sequence[int]) -> None:
        """Take the next frame; nothing waits for the device."""
        self.frame.copy_(frame)
        self.grid.copy_(grid)
        upload_into(self.slots, torch.tensor(slots))


class StaticLists:
    """The lists of executed blocks that a graph reads, one pair for each number of blocks.

    Args:
        device: Of the maps.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captured = False
        self._lists: BlockLists = {}

    def read(self, host: Tensor, slots: Sequence[int]) -> BlockLists:
        """The lists of another grid, in host memory."""
        return {blocks: block_lists(host, blocks, slots) for blocks in self._lists}

    def fit(self, lists: BlockLists) -> bool:
        """Whether each of them has as many blocks as the one that it would take the place of."""
        return all(len(self._lists[blocks][0]) == len(new[0]) for blocks, new in lists.items())

    def fill(self, lists: BlockLists) -> None:
        """Take the lists of another grid; nothing waits for the device."""
        if not self.captured and not self.fit(lists):
            self._lists = {blocks: self._made(pair) for blocks, pair in lists.items()}
            return
        for blocks, pair in lists.items():
            for kept, new in zip(self._lists[blocks], pair, strict=True):
                upload_into(kept, new)

    def layout(self, host: Tensor, blocks: tuple[int, int], slots: Sequence[int]) -> Layout:
        """The layout of a map with this number of blocks."""
        found = self._lists.get(blocks)
        if found is None:
            if self.captured:
                raise CaptureError(f"a map has {blocks} blocks, which it had not in the warm-up")
            # Work of the host: what looks for ops that wait for the device need not see it.
            with _disable_current_modes():
                found = self._lists[blocks] = self._made(block_lists(host, blocks, slots))
        # A new one for each frame: what it works out of the lists is part of the frame's work.
        return Layout.over(blocks, *found)

    def _made(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False):
            by_image, by_slot = (upload(values.clone(), self.device) for values in pair)
        return by_image, by_slot


@dataclass(frozen=True)
class Recorded:
    """What the host did in a captured frame, to be done again at each replay.

    Attributes:
        entries: The state that was claimed, with its memory at that time.
        calls: How often each module used state.
        counts: MACs and densified ops; they depend on the numbers of blocks alone.
    """

    entries: tuple[tuple[StateEntry, Tensor], ...]
    calls: dict[str, int]
    counts: FrameCounts

    def holds(self, store: StateStore) -> bool:
        """Whether the maps still lie where they lay and have room for all streams."""
        return all(
            store.entries.get(entry.key) is entry
            and entry.map is map_
            and len(map_) >= store.capacity
            for entry, map_ in self.entries
        )


class StaticFrame(Frame):
    """A frame that reads its grid, slots and block lists from memory that stays.

    Args:
        *args: As for :class:`Frame`.
        inputs: Hold this frame.
        lists: Hold its blocks.
        **kwargs: As for :class:`Frame`.
    """

    def __init__(self, *args, inputs: StaticInputs, lists: StaticLists, **kwargs) -> None:
        self._lists = lists
        super().__init__(*args, **kwargs)
        self.grid = inputs.grid
        self.whole = False
        # Also where it would be 0, 1, ...: other streams share the graph.
        self._slot_index = inputs.slots

    def _new_layout(self, blocks: tuple[int, int]) -> Layout:
        return self._lists.layout(self.host, blocks, self.slots)

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        # Their number is another in each frame, which no graph can hold: as a mask it is noticed.
        rows, columns = layout.by_image[:, 1:].unbind(1)
        return (rows < blocks[0]) & (columns < blocks[1])

    def recorded(self) -> Recorded:
        """What the host did, after the model has run."""
        entries = claimed(self.store, self._streams)
        return Recorded(
            tuple((entry, entry.map) for entry in entries), dict(self._calls), self.counts
        )

    def repeat(self, recorded: Recorded) -> None:
        """Do what the host did in a captured frame.

        Raises:
            StateError: If the state does not fit the streams. Nothing of it has been changed.
        """
        for entry, _ in recorded.entries:
            entry.claim(self.slots, self._streams, self.full, entry.border)
        self._calls.update(recorded.calls)
        self.counts = recorded.counts
        self.finish()
        self.touched_state = self.executed > 0


def claimed(store: StateStore, streams: Sequence[Stream]) -> list[StateEntry]:
    """The entries that all of these streams have claimed for the frame at work."""
    return [entry for entry in store.entries.values() if entry.used_now(streams)]
