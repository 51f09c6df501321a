"""Linear layers of ordinary tensors within a frame, such as the features of a detector's regions.

On processors for which torch's library of matrix products has no kernels of its own, those of the
convolutions take half of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import ops
from ..tensor.pending_map import INFINITY
from .cpu_convolutions import CpuConvolutions
from .prepared_weights import Columns

# Below these MACs, the call costs more than it saves.
_LEAST_MACS = 4_000_000
# With fewer rows, reading the weight takes most of the time.
_LEAST_ROWS = 16
# Input features whose weights stay in the processor's cache; sums of few parts round less, too.
_MOST_FEATURES = 2048


def multiply_rows(cpu: CpuConvolutions, x: Tensor, module: nn.Linear) -> Tensor | None:
    """Apply a linear layer to an ordinary tensor: rows are the pixels of a 1x1 convolution.

    Args:
        cpu: The kernels.
        x: ``(..., features)``.
        module: The layer.

    Returns:
        ``(..., features_out)``; None where torch's own product is as fast.
    """
    weight = module.weight
    if x.dtype != torch.float32 or not isinstance(weight, nn.Parameter) or x.dim() < 2:
        return None
    rows = x.numel() // max(x.shape[-1], 1)
    if rows < _LEAST_ROWS or rows * weight.numel() < _LEAST_MACS or not x.is_contiguous():
        return None
    if x.shape[-1] != weight.shape[1] or ops.conv_obstacles(x, weight, 1):
        return None
    features = x.shape[-1]
    parts = -(-features // _MOST_FEATURES)
    flat, out = x.view(1, 1, rows, features), None
    for part in range(parts):
        columns = Columns(features * part // parts, features * (part + 1) // parts)
        out = ops.conv_blocks(
            flat[..., columns.first : columns.end].permute(0, 3, 1, 2),
            *(None, None, None, None),
            columns.of(weight),
            cpu.prepared.of(weight, columns),
            module.bias if out is None else None,
            (),
            0.0,
            (1, 1),
            (1, 1),
            (1, rows),
            out,
            -INFINITY,
            INFINITY,
            cpu.workspace,
        )
    return out.permute(0, 2, 3, 1).view(*x.shape[:-1], len(weight))
