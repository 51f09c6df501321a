"""The executed blocks of a pooled map, straight from the full map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.gather import gather_reference
from blockcopy_plugins.ops.library import operator
from blockcopy_plugins.ops.rings import map_with_blocks


def _fake(state, blocks, rows, cols, kernel, stride, dilation) -> Tensor:
    size = [
        (table.shape[1] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        for i, table in enumerate((rows, cols))
    ]
    out = state.new_empty(((state if blocks is None else blocks).shape[0], state.shape[1], *size))
    return out.contiguous(memory_format=torch.channels_last)


def _one_of_each(slots: int, device: torch.device) -> Tensor:
    blocks = torch.zeros((slots, 3), dtype=torch.int32, device=device)
    blocks[:, 0] = torch.arange(slots, device=device)
    return blocks


@operator(
    "pool_blocks(Tensor state, Tensor? blocks, Tensor rows, Tensor cols, int[] kernel, "
    "int[] stride, int[] dilation, bool largest, float scale, Tensor? packed=None, "
    "int[]? rings=None) -> Tensor",
    fake=_fake,
)
def pool_blocks(
    state: Tensor,
    blocks: Tensor | None,
    rows: Tensor,
    cols: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    largest: bool,
    scale: float,
    packed: Tensor | None = None,
    rings: Sequence[int] | None = None,
) -> Tensor:
    """Blocks of a map by max pooling, or by sums over windows.

    Args:
        state: ``(S, C, H, W)``, the full map, float32 or bfloat16; channels last, or it is copied.
        blocks: int32 ``(n, 3)``: slot, block row, block column; see :func:`.gather.gather`.
            ``None``: each slot is one block.
        rows: int32 ``(GH, wh)``, the rows of ``state`` that the windows of each row of blocks
            cover; -1 outside the map, where nothing is pooled.
        cols: int32 ``(GW, ww)``, the same for columns.
        kernel: Taps of a window, for rows and columns, as what follows.
        stride: Step between windows.
        dilation: Distance of the taps.
        largest: The largest value of each window, or else the sum.
        scale: Factor on the sums.
        packed: ``(n, C, bh, bw)``, the content of the blocks in this frame, or None if ``state``
            holds it already.
        rings: ``(H, W, border)`` if ``state`` is the rings of the blocks of ``packed``'s size of
            such a map, see :func:`.rings.scatter_rings_`, or None.

    Returns:
        ``(n, C, bh, bw)``, channels last. A window without a pixel on the map gives -infinity, or
        the sum 0.

    Raises:
        ValueError: If shapes do not fit each other.
        TypeError: If a dtype does not fit.
        IndexError: If an index is out of range.
    """
    check_no_grad("pool_blocks", state)
    if blocks is None:
        blocks = _one_of_each(len(state), state.device)
    state = map_with_blocks(state, packed, blocks, rings)
    if largest:
        windows = gather_reference(state, blocks, rows, cols, float("-inf"))
        out = F.max_pool2d(windows, kernel, stride, 0, dilation)
    else:
        windows = gather_reference(state, blocks, rows, cols, 0.0).float()
        # Each channel is an image of its own: their convolution with ones knows dilations.
        weight = windows.new_ones(1, 1, *kernel)
        out = F.conv2d(windows.flatten(0, 1)[:, None], weight, None, stride, 0, dilation)
        out = (out * scale).view(len(windows), windows.shape[1], *out.shape[2:])
    return out.to(state.dtype).contiguous(memory_format=torch.channels_last)
