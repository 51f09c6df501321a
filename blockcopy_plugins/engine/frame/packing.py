"""How the executed blocks of a frame are taken from whole maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import ops
from ...host_transfer import upload
from ...ops import window
from ..tensor.axes import MAP, channels_of, from_map, to_map
from ..tensor.block_tensor import BlockTensor
from .executed_blocks import ExecutedBlocks
from .host_grid import HostGrid
from .plans import FramePlans


class BlockPacking(ExecutedBlocks):
    """Index tables, and copies of executed blocks of one frame.

    Args:
        grid: See :class:`ExecutedBlocks`.
        blocks: See :class:`ExecutedBlocks`.
        size: ``(H, W)`` of the frame in pixels.
        block_size: Side of a block in pixels of the frame.
        slots: See :class:`ExecutedBlocks`.
        plans: See :class:`ExecutedBlocks`.
        pack_whole: See :class:`ExecutedBlocks`.
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
        super().__init__(grid, blocks, slots, plans, pack_whole)
        self.size = size
        self.block_size = block_size

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
