"""One call of a part of a model in a frame, as programs need to know it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import ops
from ..frame.counts import FrameCounts
from ..frame.layout import Blocks, Layout
from ..state.entry import StateEntry
from ..state.store import StateStore
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import MapGeometry
from .block_numbers import Sizes
from .capture_guard import CaptureError
from .frame_run import FrameRun
from .model_part import ModelPart
from .part_values import BlocksForm, PartInputs, PartResults
from .recorded_frame import CountedOp, RecordedFrame
from .replayed_frame import Recorded, claimed


@dataclass(frozen=True)
class RecordedPart(Recorded):
    """What the host did in a part of a frame.

    Attributes:
        borders: Of the state that was claimed.
        began: How often each module had used state before, of those that used some.
        fulls: The state that holds an input from then on, by its number.
        maps: Sizes of maps that the frame has had from then on, and their blocks.
        read: Maps that were cut into blocks again.
    """

    borders: tuple[int, ...]
    began: dict[str, int]
    fulls: tuple[tuple[int, StateEntry], ...]
    maps: tuple[MapGeometry, ...]
    read: tuple[MapGeometry, ...]

    def holds(self, store: StateStore) -> bool:
        """See :class:`Recorded`; what is written depends on how far ops read, too."""
        borders = tuple(entry.border for entry, _ in self.entries)
        return borders == self.borders and super().holds(store)


class PartOfFrame:
    """A frame that is at work on a part of the model; has what programs ask of a whole one.

    Args:
        frame: The frame.
        inputs: What the part is given.

    Attributes:
        frame: As given.
        lent: See :class:`Frame`: only what the whole model returns is lent.
        is_steady: No more of a map was kept than in frames before, once it was recorded.
    """

    def __init__(self, frame: RecordedFrame, inputs: PartInputs) -> None:
        self.frame = frame
        self.lent: tuple = ()
        self.is_steady = False
        self._inputs = inputs
        self._first = 0
        self._recorded: RecordedPart

    @property
    def path(self) -> str:
        """See :class:`FrameContext`."""
        return self.frame.path

    @property
    def sizes(self) -> Sizes:
        """See :class:`RecordedFrame`."""
        return self.frame.sizes

    @property
    def counted(self) -> list[CountedOp]:
        """The ops on blocks of the part."""
        return self.frame.counted[self._first :]

    def layout_of(self, blocks: Blocks) -> Layout:
        """See :class:`BlockPacking`."""
        return self.frame.layout_of(blocks)

    def names(self) -> list[Hashable]:
        """See :class:`RecordedFrame`; with ``('input', i)``."""
        return [("input", i) for i in range(len(self._inputs.tensors))] + self.frame.names()

    def given(self, name: Hashable, pixels: Tensor) -> Tensor:
        """See :class:`RecordedFrame`."""
        if name[0] == "input":
            return self._inputs.tensors[name[1]]
        return self.frame.given(name, pixels)

    def recorded(self) -> RecordedPart:
        """What the host did, after the part has run."""
        return self._recorded

    def record(self, run: Callable[[], Any]) -> Any:
        """Run the part, and note what the host does.

        Args:
            run: Runs it.

        Returns:
            Its results.
        """
        frame, store = self.frame, self.frame.store
        streams = frame.streams
        entries, calls = set(claimed(store, streams)), dict(frame._calls)
        borders = {entry: entry.border for entry in store.entries.values()}
        maps = frame.maps
        noted, read = (set(), 0) if maps is None else (maps.noted(), len(maps.read))
        before, fulls = frame.counts, self._inputs.fulls()
        self._first, frame.counts = len(frame.counted), FrameCounts()
        try:
            result = run()
        finally:
            own, frame.counts = frame.counts, before
            before.add(own)
        used = {path: n for path, n in frame._calls.items() if calls.get(path, 0) != n}
        new = tuple(entry for entry in claimed(store, streams) if entry not in entries)
        after = enumerate(zip(fulls, self._inputs.fulls(), strict=True))
        self.is_steady = all(entry.border == border for entry, border in borders.items())
        self._recorded = RecordedPart(
            tuple((entry, entry.map) for entry in new),
            used,
            own,
            tuple(entry.border for entry in new),
            {path: calls.get(path, 0) for path in used},
            tuple((i, now) for i, (was, now) in after if now is not was),
            () if maps is None else tuple(maps.noted() - noted),
            () if maps is None else tuple(maps.read[read:]),
        )
        return result

    def goes_on(self, recorded: RecordedPart) -> bool:
        """Whether modules have used as much state before the part as when it was recorded."""
        calls = self.frame._calls
        return all(calls.get(path, 0) == n for path, n in recorded.began.items())

    def claim(self, recorded: RecordedPart) -> None:
        """Claim state as a recorded part did.

        Raises:
            StateError: If the state does not fit the streams. Nothing of it has been changed.
        """
        recorded.claim(self.frame)
        recorded.begin_writing(self.frame)

    def repeat(self, recorded: RecordedPart, counts: FrameCounts) -> None:
        """Do what else the host did in a recorded part.

        Args:
            recorded: What it did.
            counts: MACs of the part in this frame.
        """
        frame = self.frame
        frame._calls.update(recorded.calls)
        frame.counts.add(counts)
        for i, entry in recorded.fulls:
            self._inputs.leaves[i].full = entry
        if frame.maps is not None:
            for geometry in recorded.maps:
                frame.maps.note(*geometry)
            frame.maps.read.extend(recorded.read)


class PartRun:
    """One call of a part; has what programs ask of the run of a whole frame.

    Args:
        work: The run of the frame.
        part: The part.
        here: Where the frame is.
        inputs: What the part is given.
        args: The same as positional arguments.
        kwargs: And keyword arguments.

    Attributes:
        part: As given.
    """

    def __init__(
        self,
        work: FrameRun,
        part: ModelPart,
        here: PartOfFrame,
        inputs: PartInputs,
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.call = work.call
        self.store = work.store
        self.converted = part.converted
        self.part = part
        self._frame = here.frame
        self._inputs = inputs
        self._results = PartResults(here.frame, inputs)
        self._given = args, kwargs
        self._left: dict[str, Any] = dict(work.call.left)

    def run(self, here: PartOfFrame, pixels: Tensor) -> Any:
        """Run it eagerly, and note what the host does; maps that it gives are computed."""

        def run() -> Any:
            return self._results.apart(self.run_eagerly())

        return here.record(run)

    def run_eagerly(self) -> Any:
        """Run it, nothing recorded."""
        args, kwargs = self._given
        return self.part.run(*args, **kwargs)

    def leaves_of(self, result: Any) -> tuple[list[Tensor | None], Hashable]:
        """See :meth:`FrameRun.leaves_of`.

        Raises:
            CaptureError: If there is anything that a program could not do again.
        """
        if self._inputs.have_changed(*self._given):
            raise CaptureError("it changes the lists or dicts that it is given")
        before = self._left
        left = {k: v for k, v in self.call.left.items() if v is not before.get(k)}
        return self._results.leaves_of((result, left))

    def result_of(self, leaves: Sequence[Tensor | None], form: Hashable) -> Any:
        """See :meth:`FrameRun.result_of`."""
        result, left = self._results.results_of(leaves, form)
        self.call.left.update(left)
        return result

    def shown(self, leaves: Sequence[Tensor | None], form: Hashable) -> list[Tensor | None]:
        """See :meth:`FrameRun.shown`: pixels of blocks beyond the map's edge mean nothing."""
        found = list(leaves)
        frame = self._frame
        for i, leaf in enumerate(form[1]):
            if isinstance(leaf, BlocksForm) and not frame.whole:
                found[i] = _on_the_map(leaf.filled(leaves[i], frame))
        return found


def _on_the_map(x: BlockTensor) -> Tensor:
    """The blocks of a map, on an empty one."""
    packed, places = x.frame._on_the_map(x)
    size = (max(x.frame.slots) + 1, packed.shape[1], *x.size_of_map)
    empty = packed.new_zeros(size).contiguous(memory_format=torch.channels_last)
    ops.scatter_(empty, packed, places)
    return empty
