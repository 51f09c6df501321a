"""Border writes: only the pixels near block edges, which a neighbour's convolution reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import mutation_mode
from blockcopy_plugins.ops.library import operator
from blockcopy_plugins.ops.scatter import scatter_


def _check_border(op: str, border: int) -> None:
    torch._check_value(
        border >= 1, lambda: f"blockcopy::{op}: border is {border}, expected at least 1 pixel"
    )


@operator(
    "scatter_border_(Tensor(a!) state, Tensor packed, Tensor blocks, int border) -> ()",
    fake=lambda: None,
)
def scatter_border_(state: Tensor, packed: Tensor, blocks: Tensor, border: int) -> None:
    """Like :func:`.scatter.scatter_`, but pixels far from the edges of their block may be omitted.

    Args:
        state: ``(S, C, H, W)``, channels last. Written in place.
        packed: ``(n, C, bh, bw)``.
        blocks: int32 ``(n, 3)``: slot, block row, block column.
        border: Width in pixels of the strip along a block's edges that is always written.

    Raises:
        ValueError: If a shape does not fit, or the border is less than 1.
        TypeError: If a dtype does not fit.
        IndexError: If an index is out of range.
    """
    _check_border("scatter_border_", border)
    scatter_.reference(state, packed, blocks)


@operator(
    "copy_border_(Tensor(a!) state, Tensor map, int[] slots, int[] block, int border) -> ()",
    fake=lambda: None,
)
def copy_border_(
    state: Tensor, map: Tensor, slots: Sequence[int], block: Sequence[int], border: int
) -> None:
    """Copy whole maps into their slots; pixels far from the edges of a block may be omitted.

    Args:
        state: ``(S, C, H, W)``, channels last. Written in place.
        map: ``(N, C, H, W)``.
        slots: Slot of each map.
        block: Height and width of a block.
        border: Width in pixels of the strip along a block's edges that is always written.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the border is less than 1.
        IndexError: If a slot is out of range.
    """
    _check_border("copy_border_", border)
    with mutation_mode(state):
        state[list(slots)] = map
