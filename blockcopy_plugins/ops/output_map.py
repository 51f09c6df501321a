"""How an output that the caller gets is kept: in its own layout, and copied block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_blocks, check_no_grad, check_range, mutation_mode
from blockcopy_plugins.ops.library import operator
from blockcopy_plugins.ops.scatter import check_scatter, scatter_by_index


def _scatter_planes_fake(state: Tensor, packed: Tensor, blocks: Tensor) -> None:
    check_scatter("scatter_planes_", state, packed, blocks, torch.contiguous_format)


@operator(
    "scatter_planes_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()",
    fake=_scatter_planes_fake,
)
def scatter_planes_(state: Tensor, packed: Tensor, blocks: Tensor) -> None:
    """Write packed blocks into a map of contiguous planes, in place.

    As :func:`scatter_`, whose map is channels last.

    Args:
        state (Tensor): Map (S, C, H, W), contiguous, of any dtype of at most 8 bytes. Written in
            place.
        packed (Tensor): As for :func:`scatter_`.
        blocks (Tensor): As for :func:`scatter_`.

    Raises:
        ValueError: If a shape, layout or device does not fit.
        TypeError: If the two maps differ in dtype.
        IndexError: If a slot, gy or gx is out of range.
        RuntimeError: If gradients are recorded and an input requires grad.
    """
    check_no_grad("scatter_planes_", state, packed)
    check_scatter("scatter_planes_", state, packed, blocks, torch.contiguous_format)
    scatter_by_index("scatter_planes_", state, packed, blocks)


def _check_copy(map: Tensor, source: Tensor, blocks: Tensor, block: Sequence[int]) -> None:
    layouts = (torch.contiguous_format, torch.channels_last)
    torch._check_value(
        map.dim() == 4 and any(map.is_contiguous(memory_format=layout) for layout in layouts),
        lambda: (
            f"blockcopy::copy_blocks_: map has shape {tuple(map.shape)} and strides "
            f"{map.stride()}, expected (N, C, H, W), channels last or contiguous"
        ),
    )
    torch._check_value(
        (map.shape, map.dtype) == (source.shape, source.dtype)
        and source.is_contiguous(memory_format=torch.channels_last),
        lambda: (
            f"blockcopy::copy_blocks_: source is {source.dtype} {tuple(source.shape)} with strides "
            f"{source.stride()}, but map is {map.dtype} {tuple(map.shape)}; expected the same, "
            "channels last"
        ),
    )
    torch._check_value(
        len(block) == 2 and min(block) > 0,
        lambda: f"blockcopy::copy_blocks_: block is {list(block)}, expected (height, width)",
    )
    check_blocks("copy_blocks_", blocks, map)


@operator(
    "copy_blocks_(Tensor(a!) map, Tensor source, Tensor blocks, int[] block) -> ()",
    fake=lambda map, source, blocks, block: _check_copy(map, source, blocks, block),
)
def copy_blocks_(map: Tensor, source: Tensor, blocks: Tensor, block: Sequence[int]) -> None:
    """Copy some blocks of one map into another, in place.

    Args:
        map: ``(S, C, H, W)``, channels last or contiguous. Written in place.
        source: Of the same shape and dtype, channels last.
        blocks: int32 ``(n, 3)``, columns (slot, gy, gx).
        block: Height and width of a block, px. Parts beyond the map are left out.

    Raises:
        ValueError: If a shape or layout does not fit.
        IndexError: If a slot, gy or gx is out of range (the block must overlap the map).
    """
    _check_copy(map, source, blocks, block)
    height, width = map.shape[2:]
    check_range("copy_blocks_", "slot", blocks[:, 0], 0, len(map))
    check_range("copy_blocks_", "gy", blocks[:, 1], 0, -(-height // block[0]))
    check_range("copy_blocks_", "gx", blocks[:, 2], 0, -(-width // block[1]))
    with mutation_mode(map):
        for slot, row, column in blocks.tolist():
            rows = slice(row * block[0], (row + 1) * block[0])
            columns = slice(column * block[1], (column + 1) * block[1])
            map[slot, :, rows, columns] = source[slot, :, rows, columns]
