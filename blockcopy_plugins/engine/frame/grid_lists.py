"""Which blocks of a grid are executed: how many, and where.

Native where the extension is built (``cuda_ops/grids.cpp``): each question takes a handful of ops
of torch, and a frame asks several.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.library import extension_module

_NATIVE = extension_module()


def count_blocks(grid: Tensor) -> tuple[int, ...]:
    """The number of executed blocks of each image.

    Args:
        grid: bool ``(N, GH, GW)`` in host memory.
    """
    if _NATIVE is not None:
        return _NATIVE.count_blocks(grid.contiguous())
    return tuple(grid.flatten(1).sum(1).tolist())


def list_blocks(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Where the executed blocks of a map are.

    Args:
        grid: bool ``(N, GH, GW)`` in host memory.
        rows: Rows of blocks that the map has; those beyond the grid are executed like its last one.
        columns: Columns of blocks, likewise.

    Returns:
        int32 ``(executed, 3)``: image, row and column of each.
    """
    if _NATIVE is not None:
        return _NATIVE.list_blocks(grid.contiguous(), rows, columns)
    if (rows, columns) != tuple(grid.shape[1:]):
        row, column = (
            torch.arange(count, device="cpu").clamp(max=have - 1)
            for count, have in zip((rows, columns), grid.shape[1:], strict=True)
        )
        grid = grid[:, row][:, :, column]
    return grid.nonzero().to(torch.int32).contiguous()
