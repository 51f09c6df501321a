"""Where the executed blocks of a frame are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ...host_transfer import upload
from .host_grid import HostGrid
from .layout import Blocks, Layout, block_lists, image_places
from .plans import FramePlans


class ExecutedBlocks:
    """The executed blocks of one frame, in maps of any number of blocks.

    Args:
        grid: bool ``(N, GH, GW)``, True = executed.
        blocks: The same in host memory.
        slots: Slot of each image's stream.
        plans: Tables and plans that frames of this geometry share.
        pack_whole: Run on packed blocks even if every block of every image is executed.

    Attributes:
        host: The grid in host memory.
        grid_size: ``(GH, GW)``.
        images: N.
        full: Whether each image is executed fully.
        whole: All blocks are executed and are not packed: BlockTensors hold dense maps, and ops run
            as in the plain model; in addition, the state is written.
        executed: Number of executed blocks.
    """

    def __init__(
        self,
        grid: Tensor,
        blocks: HostGrid,
        slots: Sequence[int],
        plans: FramePlans,
        pack_whole: bool,
    ) -> None:
        self.grid = grid
        self.host = blocks.grid
        self.images, *size = grid.shape
        self.grid_size = tuple(size)
        self.plans = plans
        self.full = blocks.full
        self.whole = all(self.full) and not pack_whole
        self.executed = blocks.executed
        self.slots = tuple(slots)
        # int32 (N, 3), each image as one block by slot; None where the slots are 0, 1, ...
        self._places: Tensor | None = None
        if self.slots != tuple(range(self.images)):
            self._places = upload(image_places(self.slots), grid.device)
        self._layouts: dict[Blocks, Layout] = {}

    def layout(self, size: Sequence[int], block: Sequence[int]) -> Layout:
        """The executed blocks of a map.

        Args:
            size: ``(H, W)`` of the map.
            block: Height and width of a block of it.
        """
        have = self.grid_size
        blocks = (max(have[0], -(-size[0] // block[0])), max(have[1], -(-size[1] // block[1])))
        return self.layout_of(blocks)

    def layout_of(self, blocks: Blocks) -> Layout:
        """The executed blocks of a map with these rows and columns of blocks, or its windows."""
        found = self._layouts.get(blocks)
        if found is None:
            found = self._layouts[blocks] = self._new_layout(blocks)
        return found

    @property
    def image_order_is_slots(self) -> bool:
        """Whether image i of the batch has slot i."""
        return self._places is None

    def blocks_of_images(self, layout: Layout) -> list[int] | None:
        """How many blocks of each image are executed, ``None`` if that may change in a replay."""
        if self.images == 1:
            return [layout.executed]
        images = block_lists(self.host, layout.blocks, self.slots)[0][:, 0]
        return images.bincount(minlength=self.images).tolist()

    @property
    def image_places(self) -> Tensor:
        """int32 ``(N, 3)``: each image as one block."""
        key = ("images", self.images)
        if key not in self.plans.tables:
            with torch.inference_mode(False):
                places = upload(image_places(range(self.images)), self.grid.device)
            self.plans.tables[key] = places
        return self.plans.tables[key]

    def given(self, name: Hashable, pixels: Tensor) -> Tensor:
        """One of the tensors that differ from frame to frame.

        Args:
            name: ``'pixels'``; ``'places'`` of the images; or ``('by_image' or 'by_slot', blocks)``
                of a :class:`Layout`; or ``('inside', blocks, blocks of a smaller map)``.
            pixels: ``(N, C, H, W)``, the picture.
        """
        if name == "pixels":
            return pixels
        if name == "places":
            return self._places
        kind, blocks, *rest = name
        if kind == "inside":
            return self._inside(self.layout_of(blocks), *rest)
        return getattr(self.layout_of(blocks), kind)

    def _new_layout(self, blocks: Blocks) -> Layout:
        return Layout(self.host, blocks, self.slots, self.grid.device)

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        """Which of the executed blocks are among the first rows and columns of blocks."""
        rows, columns = block_lists(self.host, layout.blocks, self.slots)[0][:, 1:].unbind(1)
        inside = (rows < blocks[0]) & (columns < blocks[1])
        # A list: a mask would have to be read back from the device.
        return upload(inside.nonzero().flatten(), self.grid.device)
