"""Which part of the network's input an output map covers, and how far its pixels have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host_transfer import upload
from .displacement import SURE, Displacement

_STEPS = 32
"""Places between pixels are rounded to thirty-seconds: whole pixels are then met exactly."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the network's input, in pixels; that which a map shows.

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
        """Pixels of the network's input to one of a map ``(..., h, w)``, rows and columns."""
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
            bool ``(h, w)``, where the grid is.
        """
        rows, columns = (
            (places / block_size).long().clamp_(0, blocks - 1).to(grid.device)
            for places, blocks in zip(self.places(shape), grid.shape, strict=True)
        )
        return grid[rows][:, columns]

    def is_map(self, shape: Sequence[int]) -> bool:
        """Whether a tensor ``(..., h, w)`` may be a map of this region.

        Its pixels are then as high as they are wide, to the rounding of the map's size.
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
    """How far each pixel of a map has moved.

    Attributes:
        down: float32 ``(h, w)``, pixels of the map, in thirty-seconds.
        right: float32 ``(h, w)``.
        sure: bool ``(h, w)``: it is known, and what moved came from inside the map.
    """

    down: Tensor
    right: Tensor
    sure: Tensor

    @classmethod
    def of(
        cls, displacement: Displacement, region: Region, shape: Sequence[int], device: torch.device
    ) -> MapMotion:
        """The motion of the pixels of a map, interpolated between the cells.

        Args:
            displacement: Of the network's input.
            region: What the map covers.
            shape: ``(..., h, w)``, of the map.
            device: Where it is needed.
        """
        strides = region.strides(shape)
        rows, columns = (
            _weights(places / displacement.cell, cells)
            for places, cells in zip(
                region.places(shape), displacement.confidence.shape, strict=True
            )
        )
        cells = torch.cat((displacement.vectors, displacement.confidence[..., None]), -1)
        right, down, confidence = (
            upload(rows @ plane @ columns.T, device) for plane in cells.unbind(-1)
        )
        down = (down * (_STEPS / strides[0])).round_().div_(_STEPS)
        right = (right * (_STEPS / strides[1])).round_().div_(_STEPS)
        return cls._judged(down, right, confidence)

    @classmethod
    def whole_pixels(
        cls, displacement: Displacement, region: Region, shape: Sequence[int], device: torch.device
    ) -> MapMotion:
        """The motion of the pixels of a map in whole pixels, that of each pixel's own cell.

        Args:
            displacement: Of the network's input; a multiple of the map's strides.
            region: What the map covers.
            shape: ``(..., h, w)``, of the map.
            device: Where it is needed.
        """
        rows, columns = (
            (places / displacement.cell).long().clamp_(0, cells - 1)
            for places, cells in zip(
                region.places(shape), displacement.confidence.shape, strict=True
            )
        )
        strides = torch.tensor(region.strides(shape)[::-1])
        moved = (displacement.vectors / strides).round_()[rows][:, columns]
        confidence = displacement.confidence[rows][:, columns]
        right, down, confidence = (
            upload(plane.contiguous(), device) for plane in (*moved.unbind(-1), confidence)
        )
        return cls._judged(down, right, confidence)

    @classmethod
    def _judged(cls, down: Tensor, right: Tensor, confidence: Tensor) -> MapMotion:
        y, x = _pixels(down)
        y, x = y - down, x - right
        height, width = down.shape
        inside = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
        return cls(down, right, inside & (confidence >= SURE))

    @property
    def moves(self) -> Tensor:
        """What is known to have moved, by a thirty-second at least, bool ``(h, w)``."""
        return self.sure & ((self.down != 0) | (self.right != 0))

    def sources(self) -> tuple[Tensor, Tensor]:
        """Where each pixel's content was, rows and columns of the map, float32 ``(h, w)``."""
        y, x = _pixels(self.down)
        height, width = self.down.shape
        return (y - self.down).clamp_(0, height - 1), (x - self.right).clamp_(0, width - 1)


def _pixels(plane: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.arange(plane.shape[0], dtype=torch.float32, device=plane.device)[:, None]
    return y, torch.arange(plane.shape[1], dtype=torch.float32, device=plane.device)[None]


def _weights(places: Tensor, cells: int) -> Tensor:
    """Weights of the cells at places along one axis, which are given in cells."""
    places = (places - 0.5).clamp(0, cells - 1)
    first = places.floor().clamp_max(max(cells - 2, 0))
    weight = places - first
    rows = torch.arange(len(places))
    table = torch.zeros(len(places), cells, dtype=torch.float64)
    table[rows, first.long()] = 1 - weight
    if cells > 1:
        table[rows, first.long() + 1] += weight
    return table.float()
