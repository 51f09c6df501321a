"""Sums of the pixels of each block: what a mean over a whole map keeps of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.block_moments import block_moments
from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _check(map: Tensor) -> None:
    torch._check_type(
        map.dtype in (torch.float32, torch.bfloat16),
        lambda: f"blockcopy::block_sums: map has dtype {map.dtype}, expected float32 or bfloat16",
    )
    torch._check_value(
        map.dim() == 4 and map.shape[1] > 0,
        lambda: (
            "blockcopy::block_sums: map must be 4-D (N, C, H, W) with channels, but has shape "
            f"{tuple(map.shape)}"
        ),
    )


def _fake(map, places, block, blocks, size, scale) -> Tensor:
    _check(map)
    cells = tuple(blocks) if places is None else (1, 1)
    out = map.new_empty((*map.shape[:2], *cells), dtype=torch.float32)
    return out.contiguous(memory_format=torch.channels_last)


@operator(
    "block_sums(Tensor map, Tensor? places, int[] block, int[] blocks, int[] size, "
    "float scale) -> Tensor",
    fake=_fake,
)
def block_sums(
    map: Tensor,
    places: Tensor | None,
    block: Sequence[int],
    blocks: Sequence[int],
    size: Sequence[int],
    scale: float,
) -> Tensor:
    """Sum of each channel over each block, times a number; pixels off the map are left out.

    Args:
        map: Packed blocks ``(n, C, *block)``, or without ``places`` a whole map ``(N, C, *size)``,
            float32 or bfloat16; channels last, or it is copied.
        places: int32 ``(n, 3)``: image or slot, block row, block column.
        block: Height and width of a block, in pixels of the map.
        blocks: Rows and columns of blocks. Ignored if ``places`` is given.
        size: ``(H, W)`` of the map.
        scale: What sums are multiplied by.

    Returns:
        float32 ``(n, C, 1, 1)``, without ``places`` ``(N, C, *blocks)``; channels last.

    Raises:
        ValueError: If shapes do not fit each other.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and the map requires grad.
    """
    check_no_grad("block_sums", map)
    _check(map)
    channels = map.shape[1]
    moments = block_moments.reference(map, places, block, blocks, size, channels)
    sums = (moments[:, :1] * moments[:, 1 : 1 + channels] * scale).float()
    cells = tuple(blocks) if places is None else (1, 1)
    out = sums.view(map.shape[0], *cells, channels).permute(0, 3, 1, 2)
    return out.contiguous(memory_format=torch.channels_last)
