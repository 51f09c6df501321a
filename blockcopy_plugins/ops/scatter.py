"""Scatter: packed blocks into the full map, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import (
    check_blocks,
    check_channels_last,
    check_map,
    check_no_grad,
    check_range,
    mutation_mode,
)
from blockcopy_plugins.ops.library import operator


def _positions(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)


def _scatter_fake(state: Tensor, packed: Tensor, blocks: Tensor) -> None:
    check_scatter("scatter_", state, packed, blocks)


def check_scatter(
    op: str,
    state: Tensor,
    packed: Tensor,
    blocks: Tensor,
    layout: torch.memory_format = torch.channels_last,
) -> None:
    """Check everything but the values of the indices.

    Args:
        op: Name of the operator, for messages.
        state: See :func:`scatter_`.
        packed: See :func:`scatter_`.
        blocks: See :func:`scatter_`.
        layout: That of ``state``: ``torch.channels_last`` or ``torch.contiguous_format``.

    Raises:
        ValueError: If a shape, layout or device does not fit.
        TypeError: If a dtype does not.
    """
    check_map(op, "state", state)
    check_map(op, "packed", packed)
    check_blocks(op, blocks, state)
    torch._check_type(
        packed.dtype == state.dtype,
        lambda: (
            f"blockcopy::{op}: packed has dtype {packed.dtype}, but state has {state.dtype}; "
            "convert packed to the dtype of state"
        ),
    )
    torch._check_value(
        packed.device == state.device,
        lambda: (
            f"blockcopy::{op}: packed is on {packed.device}, but state is on {state.device}; "
            "move it to the device of state"
        ),
    )
    torch._check_value(
        packed.size(0) == blocks.size(0),
        lambda: (
            f"blockcopy::{op}: packed has {packed.size(0)} blocks, but blocks has "
            f"{blocks.size(0)} rows; pass one row (slot, gy, gx) for each packed block"
        ),
    )
    torch._check_value(
        packed.size(1) == state.size(1),
        lambda: (
            f"blockcopy::{op}: packed has {packed.size(1)} channels, but state has "
            f"{state.size(1)}; the state belongs to another map"
        ),
    )
    torch._check_value(
        packed.size(2) > 0 and packed.size(3) > 0,
        lambda: (
            f"blockcopy::{op}: blocks of {packed.size(2)}x{packed.size(3)} pixels, expected at "
            "least 1x1"
        ),
    )
    check_channels_last(op, "state", state, layout)


@operator("scatter_(Tensor(a!) state, Tensor packed, Tensor blocks) -> ()", fake=_scatter_fake)
def scatter_(state: Tensor, packed: Tensor, blocks: Tensor) -> None:
    """Write packed blocks into a full map, in place.

    ``state[slot, :, gy * bh + y, gx * bw + x] = packed[i, :, y, x]`` with
    ``slot, gy, gx = blocks[i]``, where that lies inside the map; the part of an edge block beyond
    the map is dropped. On an error ``state`` is unharmed.

    Args:
        state (Tensor): Map (S, C, H, W), channels-last contiguous, of any floating point (16 to 64
            bit), integer or bool dtype. Written in place.
        packed (Tensor): (n, C, bh, bw), dtype and device of ``state``. Fast when
            channels-last; another layout is converted first.
        blocks (Tensor): int32 (n, 3), contiguous, columns (slot, gy, gx): index into dimension 0
            of ``state``, block row, block column. n may be 0; any order. A block named twice gets
            one of its values; it is not defined which one.

    Raises:
        ValueError: If a shape, layout or device does not fit.
        TypeError: If a dtype is not one of those above, or the two maps differ in it.
        IndexError: If a slot, gy or gx is out of range (the block must overlap the map). Native
            CUDA kernels do not read back the indices: there the launch traps and the next
            synchronisation raises.
        RuntimeError: If gradients are recorded and an input requires grad.
    """
    check_no_grad("scatter_", state, packed)
    check_scatter("scatter_", state, packed, blocks)
    scatter_by_index("scatter_", state, packed, blocks)


def scatter_by_index(op: str, state: Tensor, packed: Tensor, blocks: Tensor) -> None:
    """What :func:`scatter_` does, for a map of any layout.

    Args:
        op: Name of the operator, for messages.
        state: See :func:`scatter_`.
        packed: See :func:`scatter_`.
        blocks: See :func:`scatter_`.

    Raises:
        IndexError: If a slot, gy or gx is out of range.
    """
    slots, _, height, width = state.shape
    count, _, block_h, block_w = packed.shape
    check_range(op, "slot", blocks[:, 0], 0, slots)
    check_range(op, "gy", blocks[:, 1], 0, -(-height // block_h))
    check_range(op, "gx", blocks[:, 2], 0, -(-width // block_w))
    if packed.numel() == 0:
        return

    slot, gy, gx = blocks.long().unbind(1)
    row = gy.view(count, 1, 1) * block_h + _positions(block_h, state).view(1, block_h, 1)
    col = gx.view(count, 1, 1) * block_w + _positions(block_w, state).view(1, 1, block_w)
    inside = (row < height) & (col < width)
    every = slot.view(count, 1, 1).expand_as(inside)
    row, col = row.expand_as(inside), col.expand_as(inside)
    values = packed.permute(0, 2, 3, 1)[inside]
    with mutation_mode(state):
        state.permute(0, 2, 3, 1)[every[inside], row[inside], col[inside]] = values
