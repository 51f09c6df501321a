"""A frame with inputs at fixed addresses, so that its work can be captured and replayed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from ...host_transfer import upload, upload_into
from ..frame.layout import Layout, block_lists, image_places
from ..state.entry import StateEntry
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from ..torch_internals import no_modes
from .capture_guard import CaptureError
from .replayed_frame import ReplayedFrame


@dataclass(frozen=True)
class BlockLists:
    """Which blocks a frame executes and the slots of its streams, int32 tensors ``(n, 3)``.

    Attributes:
        places: The images as one block each, by slot.
        blocks: ``by_image`` and ``by_slot`` of a :class:`Layout` by rows and columns of blocks.
    """

    places: Tensor
    blocks: dict[tuple[int, int], tuple[Tensor, Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        yield self.places
        for pair in self.blocks.values():
            yield from pair


class StaticInputs:
    """What changes from frame to frame, whatever the number of executed blocks.

    Args:
        frame: A frame of this kind, ``(N, C, H, W)``.
        grid: Its grid.

    Attributes:
        frame: ``(N, C, H, W)``, channels last.
        grid: bool ``(N, GH, GW)``.
    """

    def __init__(self, frame: Tensor, grid: Tensor) -> None:
        # A graph outlives the call, and tensors made in inference_mode could not be written later.
        with torch.inference_mode(False):
            self.frame = torch.empty_like(frame, memory_format=torch.channels_last)
            self.grid = torch.empty_like(grid)

    def fill(self, frame: Tensor, grid: Tensor) -> None:
        """Take the next frame, without waiting for the device."""
        self.frame.copy_(frame)
        self.grid.copy_(grid)


class StaticLists:
    """The lists of executed blocks that a graph reads, one pair for each number of blocks.

    Args:
        device: Device of the maps.
        slots: Slot of each image's stream.
    """

    def __init__(self, device: torch.device, slots: Sequence[int]) -> None:
        self.device = device
        self._lists = BlockLists(self._made(image_places(slots)), {})
        self._memory: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """See :class:`BlockLists`."""
        return self._lists.places

    def read(self, host: Tensor, slots: Sequence[int]) -> BlockLists:
        """The lists of a grid, in host memory."""
        blocks = {blocks: block_lists(host, blocks, slots) for blocks in self._lists.blocks}
        return BlockLists(image_places(slots), blocks)

    def fit(self, lists: BlockLists) -> bool:
        """Whether each list has as many blocks as the one that it would replace."""
        return all(len(kept) == len(new) for kept, new in zip(self._lists, lists, strict=True))

    def freeze(self, lists: BlockLists) -> None:
        """Take the lists of a grid, and stay at their addresses from now on.

        They share one piece of memory, so that the next ones need one transfer.
        """
        with torch.inference_mode(False):
            self._memory = upload(_flat(lists), self.device)
        places, *rest = (
            part.view(-1, 3) for part in self._memory.split([new.numel() for new in lists])
        )
        pairs = zip(rest[::2], rest[1::2], strict=True)
        self._lists = BlockLists(places, dict(zip(lists.blocks, pairs, strict=True)))

    def thaw(self) -> None:
        """Allow the lists to move: no graph reads them any more."""
        self._memory = None

    def fill(self, lists: BlockLists) -> None:
        """Take the lists of a grid after :meth:`freeze`, without waiting for the device."""
        upload_into(self._memory, _flat(lists))

    def layout(self, host: Tensor, blocks: tuple[int, int], slots: Sequence[int]) -> Layout:
        """The layout of a map with this number of blocks."""
        found = self._lists.blocks.get(blocks)
        if found is None:
            if self._memory is not None:
                raise CaptureError(f"a map has {blocks} blocks, which it had not in the warm-up")
            # Work of the host, which the guard against waiting ops need not see.
            with no_modes():
                by_image, by_slot = block_lists(host, blocks, slots)
                found = self._made(by_image), self._made(by_slot)
            self._lists.blocks[blocks] = found
        # A new one for each frame: what it derives from the lists is part of the frame's work.
        return Layout.over(blocks, *found)

    def _made(self, values: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return upload(values.clone(), self.device)


def _flat(lists: BlockLists) -> Tensor:
    return torch.cat([values.flatten() for values in lists])


class StaticFrame(ReplayedFrame):
    """A frame that reads its grid, slots and block lists at fixed addresses.

    Args:
        *args: As for :class:`~..frame.frame.Frame`.
        inputs: Hold this frame.
        lists: Hold its blocks.
        hold_results: Leave it to :meth:`copy_result` to copy maps that the model returns.
        **kwargs: As for :class:`~..frame.frame.Frame`.

    Attributes:
        held: The state that holds a result which was not copied, by the result's id.
    """

    def __init__(
        self,
        *args,
        inputs: StaticInputs,
        lists: StaticLists,
        hold_results: bool = False,
        **kwargs,
    ) -> None:
        self._lists = lists
        super().__init__(*args, **kwargs)
        self.grid = inputs.grid
        # Also if the slots are 0, 1, ..., because other streams share the graph.
        self._places = lists.places
        self._hold_results = hold_results
        self.held: dict[int, StateEntry] = {}

    def _new_layout(self, blocks: tuple[int, int]) -> Layout:
        return self._lists.layout(self.host, blocks, self.slots)

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        # Their number differs from frame to frame, which no graph can hold; the guard sees a mask.
        rows, columns = layout.by_image[:, 1:].unbind(1)
        return (rows < blocks[0]) & (columns < blocks[1])

    def result(self, x: BlockTensor) -> Tensor:
        """See :class:`Frame`."""
        if not self._hold_results or isinstance(x, DenseOnUse) or x.axes != MAP:
            return super().result(x)
        entry = self.keep(x, "output")
        with torch.inference_mode(False), torch.no_grad():
            stand_in = entry.map[: self.images]
        self.held[id(stand_in)] = entry
        return stand_in

    def copy_result(self, entry: StateEntry) -> Tensor:
        """A result of the model that :meth:`result` held back, in fresh memory.

        This is done outside the graph, where the host knows the slots and one copy is enough.
        """
        map_ = entry.map
        in_order = self.slots == tuple(range(self.images))
        map_ = map_[: self.images] if in_order else self.in_batch_order(map_)
        if not self.channels_last:
            return ops.planes(map_)
        return map_.clone(memory_format=torch.channels_last) if in_order else map_
