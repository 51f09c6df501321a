"""Moves a map so that its content is where it is now."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator

STEPS = 32
"""Places between pixels are rounded to thirty-seconds: whole pixels are then met exactly."""

SURE = 0.5
"""From this confidence on, a displacement is used; below it, the copied value is taken."""


def _at_pixels(
    cells: Tensor, rows: Tensor, columns: Tensor, row_weights: Tensor, column_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells' values at each pixel: to the right, down, confidence; ``(h, w)`` each."""
    rows, columns = rows.long(), columns.long()
    below = (rows + 1).clamp_max(cells.shape[0] - 1)
    beside = (columns + 1).clamp_max(cells.shape[1] - 1)
    tall = cells[rows] + row_weights[:, None, None] * (cells[below] - cells[rows])
    first, second = tall[:, columns], tall[:, beside]
    wide = first + column_weights[None, :, None] * (second - first)
    return wide[..., 0], wide[..., 1], wide[..., 2]


def _between(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    # Where the weight is 0, the result is exactly the first value, whatever the other is.
    work = one if one.dtype == torch.float64 else one.float()
    mixed = work + weight * (other.to(work.dtype) - work)
    return torch.where(weight == 0, one, mixed.to(one.dtype))


def _move_map_fake(
    value: Tensor,
    copied: Tensor,
    cells: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
) -> Tensor:
    torch._check_value(
        value.dim() == 3 and value.shape == copied.shape,
        lambda: (
            f"blockcopy::move_map: value has shape {tuple(value.shape)} and copied "
            f"{tuple(copied.shape)}, expected (C, h, w) of both"
        ),
    )
    torch._check_type(
        value.dtype == copied.dtype and not value.is_complex(),
        lambda: (
            f"blockcopy::move_map: value has dtype {value.dtype} and copied {copied.dtype}, "
            "expected the same, which is not complex"
        ),
    )
    torch._check_value(
        cells.dim() == 3 and cells.shape[2] == 3 and cells.numel() > 0,
        lambda: (
            f"blockcopy::move_map: cells has shape {tuple(cells.shape)}, expected (R, Q, 3): to "
            "the right, down, confidence"
        ),
    )
    sides = (value.shape[1], value.shape[2])
    tables = (rows, columns, row_weights, column_weights)
    torch._check_value(
        [tuple(table.shape) for table in tables] == [(sides[0],), (sides[1],)] * 2,
        lambda: (
            f"blockcopy::move_map: rows, columns and their weights have shapes "
            f"{[tuple(table.shape) for table in tables]}, expected {(sides[0],)} and {(sides[1],)} "
            "twice"
        ),
    )
    torch._check_type(
        cells.dtype == row_weights.dtype == column_weights.dtype == torch.float32
        and rows.dtype == columns.dtype == torch.int32,
        lambda: (
            f"blockcopy::move_map: cells and weights have dtypes {cells.dtype}, "
            f"{row_weights.dtype}, {column_weights.dtype} and rows and columns {rows.dtype}, "
            f"{columns.dtype}, expected torch.float32 and torch.int32"
        ),
    )
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@operator(
    "move_map(Tensor value, Tensor copied, Tensor cells, Tensor rows, Tensor columns, "
    "Tensor row_weights, Tensor column_weights, bool nearest, bool everywhere) -> Tensor",
    fake=_move_map_fake,
)
def move_map(
    value: Tensor,
    copied: Tensor,
    cells: Tensor,
    rows: Tensor,
    columns: Tensor,
    row_weights: Tensor,
    column_weights: Tensor,
    nearest: bool,
    everywhere: bool,
) -> Tensor:
    """Look up where the content of each pixel was.

    A pixel's displacement is interpolated between those of four cells, by the tables, and rounded
    to a thirty-second of a pixel. If it is not certain (confidence below 0.5), or leads outside the
    map, the value of ``copied`` is taken.

    Args:
        value: ``(C, h, w)``, any dtype except complex ones.
        copied: A map of the same shape and dtype.
        cells: float32 ``(R, Q, 3)``: how far the content of each cell has moved to the right and
            down, in pixels of the map, and the confidence.
        rows: int32 ``(h,)``: for each row of pixels, the first of the two rows of cells between
            which it lies, 0 to R - 1.
        columns: int32 ``(w,)``, the same for columns.
        row_weights: float32 ``(h,)``, the weight of the second row, 0 to 1.
        column_weights: float32 ``(w,)``, the same for columns.
        nearest: Take the nearest pixel's value, as is always done for values that are not floating
            point; else interpolate bilinearly. Half a pixel belongs to the right and down.
        everywhere: Take ``value`` also where the displacement is 0; else ``copied`` is taken there.

    Returns:
        A new tensor ``(C, h, w)``, contiguous.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a table leads out of the cells.
        RuntimeError: If gradients are recorded and a map requires grad.
    """
    check_no_grad("move_map", value, copied)
    _move_map_fake(value, copied, cells, rows, columns, row_weights, column_weights)
    if not value.numel():
        return torch.empty_like(value, memory_format=torch.contiguous_format)
    height, width = value.shape[1:]
    right, down, confidence = _at_pixels(cells, rows, columns, row_weights, column_weights)
    right, down = (torch.round(plane * STEPS) / STEPS for plane in (right, down))
    y = torch.arange(height, dtype=torch.float32, device=value.device)[:, None] - down
    x = torch.arange(width, dtype=torch.float32, device=value.device)[None] - right
    use = confidence >= SURE
    use &= (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
    if not everywhere:
        use &= (down != 0) | (right != 0)
        # Comparisons with NaN are false, so values that are not finite are not used.
    y, x = (place.masked_fill(~use, 0) for place in (y, x))
    y, x = y.clamp_(0, height - 1), x.clamp_(0, width - 1)
    flat = value.reshape(-1, height * width)

    def look_up(row: Tensor, column: Tensor) -> Tensor:
        row, column = row.clamp_max(height - 1), column.clamp_max(width - 1)
        return flat.index_select(1, (row * width + column).flatten())

    if nearest or not value.is_floating_point():
        found = look_up((y + 0.5).long(), (x + 0.5).long())
    else:
        top, left = y.floor(), x.floor()
        below, beside = (y - top).flatten(), (x - left).flatten()
        top, left = top.long(), left.long()
        upper = _between(look_up(top, left), look_up(top, left + 1), beside)
        lower = _between(look_up(top + 1, left), look_up(top + 1, left + 1), beside)
        found = _between(upper, lower, below)
    return torch.where(use, found.reshape(value.shape), copied).contiguous()
