"""Frames as small grey pictures, in which motion is searched for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import FrameError
from ..ops.sample_picture import sample_picture

if TYPE_CHECKING:
    import numpy as np

# A picture's values from three standard deviations below its mean to three above.
_DEVIATIONS = 6.0


@dataclass(frozen=True, eq=False)
class GreyPicture:
    """One image of a batch, reduced and grey.

    Attributes:
        pixels: float32 ``(h, w)`` in host memory, in the frame's units.
        step: Pixels of the network's input per pixel of this picture, along both axes.
        low: The value of black, in the frame's units. A stream keeps that of its first picture, so
            that changes of light are seen.
        span: White minus black.
    """

    pixels: Tensor
    step: int
    low: float
    span: float

    def as_seen_with(self, other: GreyPicture) -> GreyPicture:
        """The same picture with another picture's black and white."""
        return replace(self, low=other.low, span=other.span)

    def bytes(self) -> np.ndarray:
        """uint8 ``(h, w)``."""
        scaled = (self.pixels - self.low) * (255.0 / self.span)
        return scaled.clamp_(0, 255).to(torch.uint8).numpy()


def grey_step(size: Sequence[int], width: int, coarser: int = 0) -> int:
    """Pixels of the network's input per pixel of a grey picture.

    Args:
        size: ``(..., H, W)``, px.
        width: Approximate width to which a wider frame is reduced, px.
        coarser: Number of pixels to add to the step.
    """
    return max(round(int(size[-1]) / width), 1) + coarser


def grey_pictures(frame: Tensor, width: int, coarser: int = 0) -> tuple[GreyPicture, ...]:
    """Reduce the images of a batch.

    Args:
        frame: ``(N, C, H, W)``, any float dtype and device.
        width: Approximate width to which a wider frame is reduced, px.
        coarser: See :func:`grey_step`.

    Returns:
        One picture for each image, in host memory.
    """
    step = grey_step(frame.shape, width, coarser)
    size = tuple(-(-int(side) // step) for side in frame.shape[2:])
    # Half the rows are enough, and reading a large frame is what takes time.
    rows = 2 if step % 2 == 0 else 1
    small = sample_picture(frame.detach(), step, rows, size).mean(1).cpu()
    pictures = []
    for pixels in small:
        # This takes a tenth of the time of torch.std.
        wide = pixels.double()
        mean = float(wide.mean())
        deviation = max(float(wide.square().mean()) - mean**2, 0.0) ** 0.5
        span = max(deviation * _DEVIATIONS, abs(mean) * 0.1, 1e-6)
        pictures.append(GreyPicture(pixels, step, mean - span / 2, span))
    return tuple(pictures)


def mean_of_cells(values: Tensor, side: int, cells: tuple[int, int]) -> Tensor:
    """Mean of a map of a grey picture in each cell.

    Args:
        values: float ``(..., h, w)``.
        side: Side of a cell in pixels of the picture.
        cells: Rows and columns of cells. Cells that the edge cuts hold the mean of the part inside.

    Returns:
        float32 ``(..., rows, columns)``.

    Raises:
        FrameError: If the cells do not cover the map.
    """
    if cells[0] * side < values.shape[-2] or cells[1] * side < values.shape[-1]:
        raise FrameError(
            f"{cells[0]} x {cells[1]} cells of {side} px do not cover {tuple(values.shape[-2:])} px"
        )
    planes = values.reshape(1, -1, *values.shape[-2:])
    return sample_picture(planes, side, 1, cells).reshape(*values.shape[:-2], *cells)
