"""How much class probabilities changed in each block, by their KL divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator

_MOST_CELLS = 16


def _on_cells(
    values: Tensor, size: Sequence[int], grid: Sequence[int], block_size: int, cells: int
) -> Tensor:
    """Repeat ``(..., h, w)`` to cells: each takes the value at its centre, or the nearest."""
    for axis in (-2, -1):
        source = values.shape[axis]
        if source == grid[axis] * cells and grid[axis] * block_size == size[axis]:
            continue
        centres = torch.arange(grid[axis] * cells, dtype=torch.float64, device=values.device)
        centres = (centres + 0.5) * (block_size / cells)
        nearest = (centres * (source / size[axis])).long().clamp_max(source - 1)
        values = values.index_select(axis, nearest)
    return values


def _block_divergence_fake(previous, current, size, grid, block_size, cells) -> Tensor:
    torch._check_type(
        previous.dtype == torch.float32 and current.dtype == torch.float32,
        lambda: (
            f"blockcopy::block_divergence: previous and current have dtypes {previous.dtype} and "
            f"{current.dtype}, expected torch.float32"
        ),
    )
    torch._check_value(
        previous.dim() == 3
        and current.dim() == 3
        and previous.shape[0] == current.shape[0]
        and min(*previous.shape, *current.shape) > 0
        and previous.device == current.device,
        lambda: (
            f"blockcopy::block_divergence: previous {tuple(previous.shape)} on {previous.device} "
            f"and current {tuple(current.shape)} on {current.device} must be (C, h, w) of the same "
            "classes on the same device"
        ),
    )
    torch._check_value(
        len(size) == 2
        and len(grid) == 2
        and min(*size, *grid, block_size, cells) > 0
        and (cells < 4 or cells % 4 == 0)
        and cells <= _MOST_CELLS,
        lambda: (
            f"blockcopy::block_divergence: size {tuple(size)}, grid {tuple(grid)}, block_size "
            f"{block_size} and cells {cells} do not fit; sides must be above 0 and cells 1, 2, 3, "
            "4, 8, 12 or 16"
        ),
    )
    return current.new_empty(tuple(grid))


@operator(
    "block_divergence(Tensor previous, Tensor current, int[] size, int[] grid, int block_size, "
    "int cells, float clip) -> Tensor",
    fake=_block_divergence_fake,
)
def block_divergence(
    previous: Tensor,
    current: Tensor,
    size: Sequence[int],
    grid: Sequence[int],
    block_size: int,
    cells: int,
    clip: float,
) -> Tensor:
    """KL divergence of the current from the previous class probabilities, for each block.

    ``sum_c p_c (log p_c - log q_c)``, in nats, p the current and q the previous probabilities, at
    the centre of each of ``cells x cells`` cells of a block. A block's value is the largest mean
    over its sixteenths (over its cells, if it has fewer than 4 x 4). NaN if a logarithm is NaN, or
    if both are infinite.

    Args:
        previous: float32 ``(C, h, w)``, logarithms of probabilities, of any resolution, covering
            the picture; contiguous, or it is copied.
        current: float32 ``(C, h', w')``, the same with the same classes.
        size: ``(H, W)`` of the picture, pixels.
        grid: ``(GH, GW)``, blocks.
        block_size: Side of a block, pixels.
        cells: Side of a block in cells: 1, 2, 3, 4, 8, 12 or 16.
        clip: The highest value, nats.

    Returns:
        float32 ``(GH, GW)``, 0 to ``clip``.

    Raises:
        TypeError: If a map is not float32.
        ValueError: If shapes or sizes do not fit.
        RuntimeError: If gradients are recorded and an input requires grad.
    """
    check_no_grad("block_divergence", previous, current)
    _block_divergence_fake(previous, current, size, grid, block_size, cells)
    alike = previous.shape[1:] == current.shape[1:]
    if not alike:
        previous, current = (
            _on_cells(logs, size, grid, block_size, cells) for logs in (previous, current)
        )
    divergence = current.exp().mul_(current - previous).sum(0)
    if alike:
        # Terms that are equal for all cells of an output's pixel were computed once.
        divergence = _on_cells(divergence, size, grid, block_size, cells)
    part = max(cells // 4, 1)
    # Rows first: their values lie side by side.
    parts = divergence.unflatten(1, (-1, part)).unflatten(0, (-1, part)).mean(1).mean(2)
    most = parts.unflatten(1, (-1, cells // part)).unflatten(0, (-1, cells // part))
    # Rounding can make an exact 0 slightly negative.
    return most.amax(1).amax(2).clamp(0, clip)
