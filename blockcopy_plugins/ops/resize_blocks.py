"""The executed blocks of a bilinearly resized map, straight from the full map."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.gather import gather_reference
from blockcopy_plugins.ops.library import operator


def _fake(state, blocks, row_weights, col_weights) -> Tensor:
    size = (row_weights.shape[1], col_weights.shape[1])
    out = state.new_empty((blocks.shape[0], state.shape[1], *size))
    return out.contiguous(memory_format=torch.channels_last)


@operator(
    "resize_blocks(Tensor state, Tensor blocks, Tensor rows, Tensor cols, Tensor row_weights, "
    "Tensor col_weights) -> Tensor",
    fake=_fake,
)
def resize_blocks(
    state: Tensor,
    blocks: Tensor,
    rows: Tensor,
    cols: Tensor,
    row_weights: Tensor,
    col_weights: Tensor,
) -> Tensor:
    """Blocks of a map by bilinear interpolation: ``a + (b - a) * weight``, both ways.

    Args:
        state: ``(S, C, H, W)``, the full map, float32 or bfloat16; channels last, or it is copied.
        blocks: int32 ``(n, 3)``: slot, block row, block column; see :func:`.gather.gather`.
        rows: int32 ``(GH, 2 * bh)``, two rows of ``state`` for each row of a block of the result,
            side by side; -1 where the result has no row.
        cols: int32 ``(GW, 2 * bw)``, the same for columns.
        row_weights: float32 ``(GH, bh)``, the weight of the second of two rows.
        col_weights: float32 ``(GW, bw)``, the same for columns.

    Returns:
        ``(n, C, bh, bw)``, channels last; values without a row or column have no meaning.

    Raises:
        ValueError: If shapes do not fit each other.
        TypeError: If a dtype does not fit.
        IndexError: If an index is out of range.
        NotImplementedError: If the extension is there but the processor has no kernels for it.
    """
    check_no_grad("resize_blocks", state)
    work = torch.promote_types(state.dtype, torch.float32)
    out = gather_reference(state, blocks, rows, cols, 0.0).to(work)
    down = row_weights[blocks[:, 1].long()].to(work)[:, None, :, None]
    across = col_weights[blocks[:, 2].long()].to(work)[:, None, None, :]
    above, below = out[:, :, 0::2], out[:, :, 1::2]
    out = above + (below - above) * down
    left, right = out[..., 0::2], out[..., 1::2]
    out = left + (right - left) * across
    return out.to(state.dtype).contiguous(memory_format=torch.channels_last)
