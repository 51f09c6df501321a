"""The part of the network's input that an output map covers, and how far its pixels have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host_transfer import upload
from ..ops.move_map import move_map as look_up
from .displacement import Displacement


@dataclass(frozen=True)
class Region:
    """A rectangle of the network's input, in pixels, that a map shows.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: float
    left: float
    height: float
    width: float

    @classmethod
    def whole(cls, size: Sequence[int]) -> Region:
        """All of a network input of ``size``, ``(H, W)`` px."""
        return cls(0.0, 0.0, float(size[0]), float(size[1]))

    def strides(self, shape: Sequence[int]) -> tuple[float, float]:
        """Pixels of the network's input per pixel of a map ``(..., h, w)``, rows and columns."""
        return self.height / shape[-2], self.width / shape[-1]

    def places(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where the centres of a map's rows and columns lie, px from the input's upper left corner.

        Args:
            shape: ``(..., h, w)``.

        Returns:
            float64 ``(h,)`` and ``(w,)``.
        """
        starts = (self.top, self.left)
        rows, columns = (
            (torch.arange(count, dtype=torch.float64) + 0.5) * stride + start
            for count, stride, start in zip(shape[-2:], self.strides(shape), starts, strict=True)
        )
        return rows, columns

    def in_blocks(self, grid: Tensor, block_size: int, shape: Sequence[int]) -> Tensor:
        """The pixels of a map that lie in blocks of a grid.

        Args:
            grid: bool ``(GH, GW)``.
            block_size: Side of a block, px of the network's input.
            shape: ``(..., h, w)``.

        Returns:
            bool ``(h, w)``, on the grid's device.
        """
        rows, columns = (
            (places / block_size).long().clamp_(0, blocks - 1).to(grid.device)
            for places, blocks in zip(self.places(shape), grid.shape, strict=True)
        )
        return grid[rows][:, columns]

    def is_map(self, shape: Sequence[int]) -> bool:
        """Whether a tensor ``(..., h, w)`` may be a map of this region.

        This is the case if its pixels are as high as they are wide, up to rounding of the map's
        size.
        """
        if len(shape) < 2 or min(shape[-2:]) < 2:
            return False
        rows, columns = self.strides(shape)
        stride = max(rows, columns)
        return all(
            abs(side / stride - count) <= 1.0 + 1e-6
            for side, count in ((self.height, shape[-2]), (self.width, shape[-1]))
        )


@dataclass(frozen=True, eq=False)
class MapMotion:
    """How far the pixels of a map have moved, as tables for the kernel that moves it.

    Args:
        cells: float32 ``(rows, columns, 3)``: to the right, down, pixels of the map, and the
            confidence.
        tables: Rows, columns and their weights, see
            :func:`~blockcopy_plugins.ops.move_map.move_map`.
    """

    cells: Tensor
    tables: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, displacement: Displacement, region: Region, shape: Sequence[int]) -> MapMotion:
        """The motion of the pixels of a map, interpolated between the cells.

        Args:
            displacement: The displacement of the network's input.
            region: The part of the network's input that the map covers.
            shape: ``(..., h, w)``, of the map.
        """
        indices, weights = [], []
        for places, count in zip(region.places(shape), displacement.confidence.shape, strict=True):
            place = (places / displacement.cell - 0.5).clamp_(0, count - 1)
            first = place.floor().clamp_max_(max(count - 2, 0))
            indices.append(first.int())
            weights.append((place - first).float())
        return cls(_in_pixels(displacement, region, shape), (*indices, *weights))

    @classmethod
    def whole_pixels(
        cls, displacement: Displacement, region: Region, shape: Sequence[int]
    ) -> MapMotion:
        """The motion of a map's pixels in whole pixels, taken from each pixel's own cell.

        Args:
            displacement: The displacement of the network's input; a multiple of the map's strides.
            region: The part of the network's input that the map covers.
            shape: ``(..., h, w)``, of the map.
        """
        cells = _in_pixels(displacement, region, shape)
        cells[..., :2].round_()
        indices = [
            (places / displacement.cell).int().clamp_(0, count - 1)
            for places, count in zip(
                region.places(shape), displacement.confidence.shape, strict=True
            )
        ]
        return cls(cells, (*indices, *(torch.zeros(len(index)) for index in indices)))

    def moved(self, value: Tensor, copied: Tensor, nearest: bool, everywhere: bool) -> Tensor:
        """Move a map.

        Args:
            value: ``(..., h, w)``.
            copied: A map like it, used where the motion is not known.
            nearest: Take the nearest value, whatever the dtype.
            everywhere: Take ``value`` also where nothing moved.

        Returns:
            A new tensor like ``value``.
        """
        flat = (value.shape[:-2].numel(), *value.shape[-2:])
        moved = look_up(
            value.detach().reshape(flat),
            copied.detach().reshape(flat),
            upload(self.cells, value.device),
            *(upload(table, value.device) for table in self.tables),
            nearest,
            everywhere,
        )
        return moved.reshape(value.shape)


def _in_pixels(displacement: Displacement, region: Region, shape: Sequence[int]) -> Tensor:
    scale = torch.tensor(region.strides(shape)[::-1], dtype=torch.float32)
    return torch.cat((displacement.vectors / scale, displacement.confidence[..., None]), -1)
