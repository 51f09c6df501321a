"""Which tensors the kernels that run after a detector's heads support."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_served(*tensors: Any) -> bool:
    """Whether the kernels support some tensors: float32, in host memory, without gradients."""
    return all(
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not (tensor.requires_grad and torch.is_grad_enabled())
        for tensor in tensors
    )
