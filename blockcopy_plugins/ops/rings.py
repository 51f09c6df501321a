"""Rings of blocks: only the pixels near block edges, which a neighbour's convolution reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_blocks, check_no_grad, check_range, mutation_mode
from blockcopy_plugins.ops.library import operator


def ring_pixels(block: Sequence[int], border: int) -> int:
    """How many pixels of a block lie nearer than a border to one of its edges.

    Args:
        block: Height and width of a block.
        border: In pixels; twice as many are fewer than either side.
    """
    return block[0] * block[1] - (block[0] - 2 * border) * (block[1] - 2 * border)


def _ring_places(block: Sequence[int], border: int, device: torch.device) -> tuple[Tensor, ...]:
    """Row and column of each pixel of a ring, in the order in which they are kept."""
    near = torch.ones(tuple(block), dtype=torch.bool, device=device)
    near[border:-border, border:-border] = False
    return near.nonzero().unbind(1)


def _check_rings(
    op: str, rings: Tensor, source: Tensor, size: Sequence[int], block: Sequence[int], border: int
) -> None:
    torch._check_value(
        border >= 1 and 2 * border < min(block),
        lambda: (
            f"blockcopy::{op}: border is {border}, expected at least 1 pixel and less than half of "
            f"blocks of {list(block)}"
        ),
    )
    shape = (source.shape[1], _blocks_of(size, block), ring_pixels(block, border))
    torch._check_value(
        rings.dim() == 4 and tuple(rings.shape[1:]) == shape,
        lambda: f"blockcopy::{op}: rings have shape {list(rings.shape)}, expected (S, *{shape})",
    )
    torch._check_type(
        rings.dtype == source.dtype,
        lambda: f"blockcopy::{op}: rings are {rings.dtype}, but what is written is {source.dtype}",
    )


def _blocks_of(size: Sequence[int], block: Sequence[int]) -> int:
    return ceil(size[0] / block[0]) * ceil(size[1] / block[1])


@operator(
    "scatter_rings_(Tensor(a!) rings, Tensor packed, Tensor blocks, int[] size, int border) -> ()",
    fake=lambda: None,
)
def scatter_rings_(
    rings: Tensor, packed: Tensor, blocks: Tensor, size: Sequence[int], border: int
) -> None:
    """Write the rings of packed blocks, in place.

    Args:
        rings: ``(S, C, GH * GW, pixels)``, channels last: of each block of a map the pixels nearer
            than the border to one of its edges, row by row.
        packed: ``(n, C, bh, bw)``.
        blocks: int32 ``(n, 3)``: slot, block row, block column.
        size: Height and width of the map. Pixels of blocks that stick out of it are not written.
        border: In pixels; twice as many are fewer than either side of a block.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If an index is out of range.
    """
    op, block = "scatter_rings_", tuple(packed.shape[2:])
    check_no_grad(op, rings, packed)
    check_blocks(op, blocks, rings)
    _check_rings(op, rings, packed, size, block, border)
    down, across = (ceil(size[i] / block[i]) for i in (0, 1))
    check_range(op, "slot", blocks[:, 0], 0, rings.shape[0])
    check_range(op, "gy", blocks[:, 1], 0, down)
    check_range(op, "gx", blocks[:, 2], 0, across)
    rows, cols = _ring_places(block, border, rings.device)
    with mutation_mode(rings):
        for values, (slot, gy, gx) in zip(packed, blocks.tolist(), strict=True):
            inside = (gy * block[0] + rows < size[0]) & (gx * block[1] + cols < size[1])
            ring = rings[slot, :, gy * across + gx]
            ring[:, inside] = values[:, rows[inside], cols[inside]]


@operator(
    "copy_rings_(Tensor(a!) rings, Tensor map, Tensor places, int[] block, int border) -> ()",
    fake=lambda: None,
)
def copy_rings_(
    rings: Tensor, map: Tensor, places: Tensor, block: Sequence[int], border: int
) -> None:
    """Write the rings of all blocks of whole maps, in place.

    Args:
        rings: See :func:`scatter_rings_`.
        map: ``(N, C, H, W)``.
        places: int32 ``(N, 3)``: slot of each map, 0, 0.
        block: Height and width of a block.
        border: See :func:`scatter_rings_`.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a slot is out of range.
    """
    op, size = "copy_rings_", map.shape[2:]
    check_no_grad(op, rings, map)
    check_blocks(op, places, rings)
    _check_rings(op, rings, map, size, block, border)
    check_range(op, "slot", places[:, 0], 0, rings.shape[0])
    down, across = (ceil(size[i] / block[i]) for i in (0, 1))
    pad = (0, across * block[1] - size[1], 0, down * block[0] - size[0])
    whole = torch.nn.functional.pad(map, pad).unflatten(3, (across, block[1]))
    blocks = whole.unflatten(2, (down, block[0])).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    grid = rings.new_ones(len(map), down, across).nonzero().to(torch.int32).contiguous()
    grid[:, 0] = places[:, 0][grid[:, 0].long()]
    scatter_rings_.reference(rings, blocks, grid, size, border)


def map_of_rings(rings: Tensor, size: Sequence[int], block: Sequence[int], border: int) -> Tensor:
    """Maps that have the pixels of rings, and zeros elsewhere.

    Args:
        rings: See :func:`scatter_rings_`.
        size: Height and width of the map.
        block: Height and width of a block.
        border: See :func:`scatter_rings_`.

    Returns:
        ``(S, C, H, W)``.
    """
    down, across = (ceil(size[i] / block[i]) for i in (0, 1))
    slots, channels = rings.shape[:2]
    rows, cols = _ring_places(block, border, rings.device)
    blocks = rings.new_zeros(slots, channels, down, across, *block)
    blocks[..., rows, cols] = rings.unflatten(2, (down, across))
    whole = blocks.permute(0, 1, 2, 4, 3, 5).flatten(2, 3).flatten(3)
    return whole[..., : size[0], : size[1]]


def map_with_blocks(
    state: Tensor, packed: Tensor | None, blocks: Tensor | None, rings: Sequence[int] | None
) -> Tensor:
    """The map that kernels read, as one tensor.

    Args:
        state: ``(S, C, H, W)``, or rings.
        packed: ``(n, C, bh, bw)``, the content of executed blocks, or None.
        blocks: int32 ``(n, 3)``: slot, block row, block column.
        rings: ``(H, W, border)`` if ``state`` is rings.

    Returns:
        ``(S, C, H, W)``.

    Raises:
        ValueError: If there are rings, but no blocks.
    """
    if rings is not None:
        if packed is None:
            raise ValueError("blockcopy: rings need packed")
        state = map_of_rings(state, rings[:2], packed.shape[2:], rings[2])
    if packed is None:
        return state
    state = state.clone()
    height, width = packed.shape[2:]
    for block, (slot, gy, gx) in zip(packed, blocks.tolist(), strict=True):
        place = state[slot, :, gy * height : (gy + 1) * height, gx * width : (gx + 1) * width]
        place.copy_(block[:, : place.shape[1], : place.shape[2]])
    return state
