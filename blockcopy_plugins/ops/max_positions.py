"""Where the largest values of the windows of a max pooling are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _fake(map, kernel, stride, padding, dilation, size) -> Tensor:
    return map.new_empty((*map.shape[:2], *size), dtype=torch.int64)


@operator(
    "max_positions(Tensor map, int[] kernel, int[] stride, int[] padding, int[] dilation, "
    "int[] size) -> Tensor",
    fake=_fake,
)
def max_positions(
    map: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The indices of ``F.max_pool2d(..., return_indices=True)``.

    Args:
        map: ``(N, C, H, W)``, float32 or bfloat16, channels last.
        kernel: Taps of a window, for rows and columns, as what follows.
        stride: Step between windows.
        padding: Pixels around the map, which are never the largest.
        dilation: Distance of the taps.
        size: ``(OH, OW)``, how many windows there are.

    Returns:
        int64 ``(N, C, OH, OW)``, contiguous: ``row * W + column`` of the first of the largest
        pixels of each window; of the last NaN, if there is one.

    Raises:
        ValueError: If shapes do not fit each other or the layout is another.
        TypeError: If the dtype is another.
    """
    check_no_grad("max_positions", map)
    torch._check_value(
        map.dim() == 4 and map.is_contiguous(memory_format=torch.channels_last),
        lambda: (
            f"blockcopy::max_positions: map has shape {tuple(map.shape)} and strides "
            f"{map.stride()}, expected (N, C, H, W), channels last"
        ),
    )
    torch._check_type(
        map.dtype in (torch.float32, torch.bfloat16),
        lambda: (
            f"blockcopy::max_positions: map has dtype {map.dtype}, expected float32 or bfloat16"
        ),
    )
    how = (list(kernel), list(stride), list(padding), list(dilation))
    for ceil_mode in (False, True):
        _, found = F.max_pool2d(map.contiguous(), *how, ceil_mode, return_indices=True)
        if tuple(found.shape[2:]) == tuple(size):
            return found
    raise ValueError(
        f"blockcopy::max_positions: no pooling has kernel {how[0]}, stride {how[1]}, padding "
        f"{how[2]}, dilation {how[3]} and results of {list(size)} for a map of {list(map.shape)}"
    )
