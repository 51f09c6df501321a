"""The values of a dense output from which the content of each cell is read."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Geometry


class OutputSamples:
    """Index tables of outputs of one resolution, on the CPU.

    The kept part of an output has one pixel for each cell inside the image if the output is finer
    than that, else one for each of the output's own pixels. A pixel is the mean of two rows and two
    columns of the output if the output is finer (so of all its values, if it is twice as fine),
    else the value itself.

    Args:
        output: ``(C, h, w)``, covering the whole network input.
        geometry: The image's.

    Attributes:
        geometry: As given.
        rows: int32 ``(ph, samples)``: which rows of the output each pixel is the mean of.
        columns: int32 ``(pw, samples)``, likewise.
        cell_rows: int32 ``(GH * cells,)``: the pixel at the centre of each cell; cells outside the
            image have that of the nearest one inside.
        cell_columns: int32 ``(GW * cells,)``, likewise.
    """

    def __init__(self, output: Tensor, geometry: Geometry) -> None:
        self.geometry = geometry
        self._resolution = tuple(output.shape[1:])
        self.rows, self.cell_rows = _axis(0, self._resolution[0], geometry)
        self.columns, self.cell_columns = _axis(1, self._resolution[1], geometry)

    def fits(self, output: Tensor, geometry: Geometry) -> bool:
        """Return whether an output has this resolution, and an image this geometry."""
        return self._resolution == tuple(output.shape[1:]) and self.geometry == geometry


def _axis(axis: int, resolution: int, geometry: Geometry) -> tuple[Tensor, Tensor]:
    pixels, cells = geometry.size[axis], geometry.map_size[axis]
    # The cells inside the image; its edge may cut the last one.
    inside = -(-pixels * geometry.cells // geometry.block_size)
    places = torch.arange(cells, dtype=torch.float64)
    if resolution > inside:
        quarters = torch.tensor([0.25, 0.75], dtype=torch.float64)
        samples = _at(places[:inside, None] + quarters, resolution, axis, geometry)
        return samples, places.clamp_max(inside - 1).int()
    own = torch.arange(resolution, dtype=torch.int32)[:, None]
    return own, _at(places + 0.5, resolution, axis, geometry)


def _at(cells: Tensor, resolution: int, axis: int, geometry: Geometry) -> Tensor:
    """Return which value of the output lies at a place given in cells."""
    values = cells * geometry.cell_size * (resolution / geometry.size[axis])
    return values.int().clamp_max_(resolution - 1).contiguous()
