"""The blocks of a frame: where they are, and how they are taken from whole maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import ops
from ...host_transfer import upload
from ...ops import window
from ..geometry import grid_size
from ..tensor.axes import MAP, channels_of, from_map, to_map
from ..tensor.block_tensor import BlockTensor
from .host_grid import HostGrid
from .layout import Blocks, Layout, block_lists, image_places
from .plans import FramePlans


class BlockPacking:
    """Layouts, index tables, and copies of executed blocks of one frame.

    Args:
        grid: bool ``(N, GH, GW)``, True = executed.
        blocks: The same in host memory.
        size: ``(H, W)`` of the frame in pixels.
        block_size: Side of a block in pixels of the frame.
        slots: Slot of each image's stream.
        plans: Tables and plans that frames of this geometry share.
        pack_whole: Run on packed blocks even if every block of every image is executed.

    Attributes:
        host: The grid in host memory.
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
        size: tuple[int, int],
        block_size: int,
        slots: Sequence[int],
        plans: FramePlans,
        pack_whole: bool,
    ) -> None:
        self.grid = grid
        self.host = blocks.grid
        self.images = grid.shape[0]
        self.size = size
        self.block_size = block_size
        self.grid_size = grid_size(*size, block_size)
        self.plans = plans
        self.full = blocks.full
        self.whole = all(self.full) and not pack_whole
        self.slots = tuple(slots)
        # int32 (N, 3), each image as one block by slot; None where the slots are 0, 1, ...
        self._places: Tensor | None = None
        if self.slots != tuple(range(self.images)):
            self._places = upload(image_places(self.slots), grid.device)
        self._layouts: dict[Blocks, Layout] = {}
        self.executed = self.layout(size, (block_size, block_size)).executed

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

    def _new_layout(self, blocks: Blocks) -> Layout:
        return Layout(self.host, blocks, self.slots, self.grid.device)

    def packed_like(self, dense: Tensor, template: BlockTensor) -> Tensor:
        """The executed blocks of a dense tensor, in the form of a BlockTensor's ``packed``.

        Args:
            dense: A tensor with the axes of ``template`` and any channels.
            template: A tensor with the axes, blocks and size of the map.

        Returns:
            A copy.
        """
        if self.whole:
            return dense.clone()
        map_ = to_map(dense, template.axes, self.images, template.size_of_map, template.joined)
        packed = self.packed_from(map_, template.block)
        if template.axes == MAP:
            return packed
        channels = channels_of(template.axes, dense.shape, template.joined)
        return from_map(packed, template.axes, channels)

    def packed_lines(self, dense: Tensor, template: BlockTensor) -> Tensor:
        """What the executed blocks of a map meet of a dense ``(N, C, H, 1)`` or ``(N, C, 1, W)``.

        Args:
            dense: The row or column.
            template: The map, ``(N, C, H, W)``.

        Returns:
            ``(n, C, bh, 1)`` or ``(n, C, 1, bw)``; a copy.
        """
        layout, size = template.block_layout, dense.shape[2:]
        block = tuple(1 if n == 1 else side for n, side in zip(size, template.block, strict=True))

        def table(axis: int, length: int, width: int) -> Tensor:
            blocks = layout.blocks[axis]
            index = torch.arange(max(length, blocks), device="cpu")
            index = index * 0 if length == 1 else index[:length]
            return window.index_table(blocks=blocks, block_out=width, index=index)

        rows, cols = self.tables(
            ("lines", template.size_of_map, template.block), size, block, table
        )
        return ops.gather(dense, layout.by_image, rows, cols)

    def packed_from(self, dense: Tensor, block: tuple[int, int]) -> Tensor:
        """The executed blocks ``(n, C, bh, bw)`` of a dense ``(N, C, H, W)`` map; a copy."""
        if self.whole:
            return dense.clone(memory_format=torch.channels_last)
        layout = self.layout(dense.shape[2:], block)
        rows, cols = self.tables(
            "identity",
            dense.shape[2:],
            block,
            lambda axis, size, width: window.index_table(
                blocks=layout.blocks[axis], block_out=width, index=torch.arange(size, device="cpu")
            ),
        )
        return ops.gather(dense, layout.by_image, rows, cols)

    def tables(
        self,
        name: str | tuple,
        size: Sequence[int],
        block: tuple[int, int],
        make: Callable[[int, int, int], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Row and column table of a gather, computed once for a geometry.

        Args:
            name: Kind of window, with all its parameters.
            size: ``(H, W)`` of the map read.
            block: Block of the map written.
            make: ``make(axis, size, block) -> int32 (blocks, width)`` for axis 0 (rows), 1 (cols).

        Returns:
            The two tables, on the frame's device.
        """
        key = (name, tuple(size), block)
        found = self.plans.tables.get(key)
        if found is None:
            with torch.inference_mode(False):
                found = tuple(upload(make(i, size[i], block[i]), self.grid.device) for i in (0, 1))
            self.plans.tables[key] = found
        return found

    def covers(self, x: BlockTensor) -> bool:
        """Whether every block of ``x`` has a pixel on its map.

        If unpadded convolutions made the map smaller than its grid, some have none.
        """
        blocks = x.block_layout.blocks
        return all((blocks[i] - 1) * x.block[i] < x.size_of_map[i] for i in (0, 1))

    def _on_the_map(self, x: BlockTensor) -> tuple[Tensor, Tensor]:
        """Packed blocks and their places, without blocks that lie entirely outside the map."""
        packed = x.packed_map()
        layout = x.block_layout
        if self.covers(x):
            return packed, layout.by_slot
        inside = self._inside(layout, [-(-x.size_of_map[i] // x.block[i]) for i in (0, 1)])
        return packed[inside], layout.by_slot[inside].contiguous()

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        """Which of the executed blocks are among the first rows and columns of blocks."""
        rows, columns = block_lists(self.host, layout.blocks, self.slots)[0][:, 1:].unbind(1)
        inside = (rows < blocks[0]) & (columns < blocks[1])
        # A list: a mask would have to be read back from the device.
        return upload(inside.nonzero().flatten(), self.grid.device)

    def in_batch_order(self, map_: Tensor) -> Tensor:
        """The maps of this frame's images, ``(N, C, H, W)``, of a map of all slots."""
        if self._places is None:
            return map_[: self.images]
        rows, cols = self.tables(
            "image",
            map_.shape[2:],
            tuple(map_.shape[2:]),
            lambda axis, size, width: window.index_table(
                blocks=1, block_out=width, index=torch.arange(size, device="cpu")
            ),
        )
        return ops.gather(map_, self._places, rows, cols)
