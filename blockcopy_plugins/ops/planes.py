"""A channels-last map as contiguous planes."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.library import operator


@operator(
    "planes(Tensor map) -> Tensor",
    fake=lambda map: torch.empty(map.shape, dtype=map.dtype, device=map.device),
)
def planes(map: Tensor) -> Tensor:
    """Copy a map into contiguous memory, as ``map.clone(memory_format=torch.contiguous_format)``.

    torch goes through one of the two layouts pixel by pixel; this function works in tiles.

    Args:
        map: ``(N, C, H, W)``, channels last, of any dtype.

    Returns:
        A contiguous copy.

    Raises:
        ValueError: If the map is not channels last.
    """
    torch._check_value(
        map.dim() == 4 and map.is_contiguous(memory_format=torch.channels_last),
        lambda: (
            f"blockcopy::planes: map has shape {tuple(map.shape)} and strides {map.stride()}, "
            "expected (N, C, H, W), channels last"
        ),
    )
    return map.clone(memory_format=torch.contiguous_format)
