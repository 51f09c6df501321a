"""How an output that the caller gets is kept: in its own layout, and copied block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad, mutation_mode
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


def _check_copy(
    map: Tensor, source: Tensor, wanted: Tensor, left_out: Tensor, block: Sequence[int]
) -> None:
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
    for name, grid in (("wanted", wanted), ("left_out", left_out)):
        fits = grid.dim() == 0 or (grid.dim() == 3 and len(grid) == len(map) and grid.numel())
        torch._check_value(
            grid.dtype == torch.bool and bool(fits) and grid.is_contiguous(),
            lambda name=name, grid=grid: (
                f"blockcopy::copy_blocks_: {name} is {grid.dtype} {tuple(grid.shape)} on "
                f"{grid.device}, expected bool () or ({len(map)}, GH, GW) without gaps in host "
                "memory"
            ),
        )


@operator(
    "copy_blocks_(Tensor(a!) map, Tensor source, Tensor wanted, Tensor left_out, int[] block) "
    "-> ()",
    fake=_check_copy,
)
def copy_blocks_(
    map: Tensor, source: Tensor, wanted: Tensor, left_out: Tensor, block: Sequence[int]
) -> None:
    """Copy some blocks of one map into another, in place.

    Args:
        map: ``(S, C, H, W)``, channels last or contiguous. Written in place.
        source: Of the same shape and dtype, channels last.
        wanted: bool ``(S, GH, GW)`` or ``()`` in host memory: the blocks to copy. If the map has
            more rows or columns of blocks, they are treated like the last ones of the grid.
        left_out: The same: blocks that are not copied after all.
        block: Height and width of a block, px. Parts beyond the map are left out.

    Raises:
        ValueError: If a shape, dtype or layout does not fit.
    """
    _check_copy(map, source, wanted, left_out, block)
    height, width = map.shape[2:]
    with mutation_mode(map):
        for slot in range(len(map)):
            for top in range(0, height, block[0]):
                for left in range(0, width, block[1]):
                    place = (slot, top // block[0], left // block[1])
                    if _has(wanted, place) and not _has(left_out, place):
                        rows, columns = slice(top, top + block[0]), slice(left, left + block[1])
                        map[slot, :, rows, columns] = source[slot, :, rows, columns]


def _has(grid: Tensor, place: tuple[int, int, int]) -> bool:
    """Whether a grid is True at a slot, row and column; beyond its end, at its last ones."""
    if grid.dim() == 0:
        return bool(grid)
    slot, row, column = place
    return bool(grid[slot, min(row, grid.shape[1] - 1), min(column, grid.shape[2] - 1)])
