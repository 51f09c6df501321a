"""The picture at the policies' reduced resolution.

Policies do not look at pixels but at *cells*: the frame is area-pooled so that each block is
``cells x cells`` cells, with ``cells`` 16 for blocks of 64 px and more. Blocks begin at cell
borders, so everything painted on cells falls into the right block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.ops.reduce_picture import reduce_picture as mean_of_squares
from blockcopy_plugins.ops.sample_picture import sample_picture


def cells_per_block(block_size: int) -> int:
    """Return the side of a block in cells: 16, or 8 below 64 px, 4 below 32 px.

    Small blocks get fewer cells, so that a cell is never smaller than four pixels: a policy does
    not need more detail, and its cost would grow with the square.

    Raises:
        ConfigError: If ``block_size`` is below 4.
    """
    if block_size < 4:
        raise ConfigError(f"policies need blocks of at least 4 px, found block_size={block_size}")
    return 16 if block_size >= 64 else 8 if block_size >= 32 else 4


def reduce_picture(
    frame: Tensor, block_size: int, grid_shape: tuple[int, int, int], step: int = 1
) -> Tensor:
    """Area-pool a frame to cells.

    Args:
        frame: ``(N, C, H, W)``, any float dtype.
        block_size: Side of a block in pixels.
        grid_shape: ``(N, GH, GW)`` of the frame at that block size.
        step: In host memory, only each ``step``-th pixel row of a cell is read, if that divides its
            side. (On a device, reading all of them takes almost no time.)

    Returns:
        float32 ``(N, C, GH * cells, GW * cells)``. Cells that the image's edge cuts hold the mean
        of the part inside; cells outside repeat the nearest one inside.
    """
    cells = cells_per_block(block_size)
    height, width = grid_shape[1] * cells, grid_shape[2] * cells
    if block_size % cells == 0:
        # bfloat16 is averaged in float32: its rounding is as large as the differences to be found.
        side = block_size // cells
        # On a GPU, a separate kernel reads a frame in almost no time.
        if frame.device.type == "cpu":
            step = step if side % step == 0 else 1
            return sample_picture(frame.detach(), side, step, (height, width))
        picture = mean_of_squares(frame.detach(), side)
    else:
        # Cells may have a fractional size in pixels; adaptive pooling still meets block borders.
        rows = grid_shape[1] * block_size - frame.shape[2]
        columns = grid_shape[2] * block_size - frame.shape[3]
        padded = F.pad(frame.float(), (0, columns, 0, rows), mode="replicate")
        picture = F.adaptive_avg_pool2d(padded, (height, width))
    rows, columns = height - picture.shape[2], width - picture.shape[3]
    if rows or columns:
        picture = F.pad(picture, (0, columns, 0, rows), mode="replicate")
    return picture.contiguous()


def picture_statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and scale of each picture, with which policies normalise it.

    The scale is the standard deviation over all channels and cells, but no less than a twentieth of
    the mean absolute value: a flat picture (night, a covered lens) does not turn its noise into
    motion. A policy therefore need not know whether frames are 0..255 or normalised.

    Args:
        picture: float32 ``(N, C, h, w)``.

    Returns:
        The mean ``(N, C, 1, 1)`` and the scale ``(N, 1, 1, 1)``, in the frame's units.
    """
    mean = picture.mean((2, 3), keepdim=True)
    deviation = (picture - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    floor = 0.05 * picture.abs().mean((1, 2, 3), keepdim=True)
    # Squares of values above 1e19 are infinite in float32, and nothing would differ by that scale.
    return mean, torch.maximum(deviation.nan_to_num(posinf=0.0), floor).clamp_min(1e-6)


def grid_to_cells(grid: Tensor, cells: int) -> Tensor:
    """Repeat a grid ``(..., GH, GW)`` to cells ``(..., GH * cells, GW * cells)``."""
    return grid.repeat_interleave(cells, -2).repeat_interleave(cells, -1)


def cells_to_grid(values: Tensor, cells: int, reduction: str = "max") -> Tensor:
    """Reduce a map of cells to a value for each block.

    Args:
        values: float ``(..., GH * cells, GW * cells)``.
        cells: Side of a block in cells.
        reduction: ``'max'`` or ``'mean'``.

    Returns:
        float ``(..., GH, GW)``.

    Raises:
        ConfigError: If ``reduction`` is neither.
    """
    blocks = values.unflatten(-1, (-1, cells)).unflatten(-3, (-1, cells))
    # Rows first: their values lie side by side. Both axes at once take several times as long.
    if reduction == "max":
        return blocks.amax(-3).amax(-1)
    if reduction == "mean":
        return blocks.mean(-3).mean(-1)
    raise ConfigError(f"reduction must be 'max' or 'mean', found {reduction!r}")
