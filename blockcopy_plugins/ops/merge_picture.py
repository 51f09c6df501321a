"""A picture with the executed blocks of another one."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _merge_picture_fake(before: Tensor, now: Tensor, grid: Tensor, cells: int) -> Tensor:
    torch._check_type(
        before.dtype == now.dtype == torch.float32 and grid.dtype == torch.bool,
        lambda: (
            f"blockcopy::merge_picture: the pictures have dtypes {before.dtype} and {now.dtype} "
            f"and the grid {grid.dtype}, expected torch.float32, torch.float32 and torch.bool"
        ),
    )
    torch._check_value(
        grid.dim() == 2
        and before.dim() == 3
        and cells > 0
        and before.shape == now.shape
        and tuple(before.shape[1:]) == (grid.shape[0] * cells, grid.shape[1] * cells),
        lambda: (
            f"blockcopy::merge_picture: pictures of shapes {tuple(before.shape)} and "
            f"{tuple(now.shape)} do not fit a grid of shape {tuple(grid.shape)} with {cells} cells "
            "a block's side"
        ),
    )
    return torch.empty_like(before, memory_format=torch.contiguous_format)


@operator(
    "merge_picture(Tensor before, Tensor now, Tensor grid, int cells) -> Tensor",
    fake=_merge_picture_fake,
)
def merge_picture(before: Tensor, now: Tensor, grid: Tensor, cells: int) -> Tensor:
    """Return ``before`` with the executed blocks of ``now``.

    Args:
        before: float32 ``(C, GH * cells, GW * cells)``.
        now: A picture of the same shape.
        grid: bool ``(GH, GW)``, True for the blocks to take from ``now``.
        cells: Side of a block in cells.

    Returns:
        float32, a new tensor of the same shape.

    Raises:
        ValueError: If the shapes do not fit each other.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a picture requires grad.
    """
    check_no_grad("merge_picture", before, now)
    _merge_picture_fake(before, now, grid, cells)
    blocks = (before.shape[0], grid.shape[0], cells, grid.shape[1], cells)
    chosen = grid[:, None, :, None]
    return torch.where(chosen, now.reshape(blocks), before.reshape(blocks)).view(before.shape)
