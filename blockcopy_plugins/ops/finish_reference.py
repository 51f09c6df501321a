"""The ops that follow a convolution or a concatenation in the same pass, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish,
        "gelu": F.gelu,
        "gelu_tanh": partial(F.gelu, approximate="tanh"),
        "mish": F.mish,
    }
)
"""The activations besides bounds and slopes that kernels apply to sums before they are stored."""


def finish_reference(
    sums: Tensor,
    norm: Sequence[Tensor | None],
    eps: float,
    residual: Tensor | None,
    slope: Tensor | None,
    activation: str,
    low: float,
    high: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``clamp(activation(prelu(norm(sums) + residual)), low, high)``.

    Args:
        sums: ``(n, C, h, w)``, in the dtype used for the computation.
        norm: Empty, or weight, bias, running mean and variance of a batch norm, each ``(C,)`` or
            None.
        eps: The batch norm's epsilon.
        residual: Added to the result, with the shape of ``sums``, or None.
        slope: A PReLU's slope, ``(C,)`` or ``(1,)``, or None.
        activation: A key of :data:`ACTIVATIONS`, or ``''``.
        low: Lower bound of the result.
        high: Upper bound.
        dtype: The result's dtype.

    Returns:
        A tensor with the shape of ``sums``, channels last.

    Raises:
        ValueError: If there is no such activation.
    """
    torch._check_value(
        not activation or activation in ACTIVATIONS,
        lambda: (
            f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}, or nothing"
        ),
    )
    if norm:
        # Arguments that are not given change nothing.
        weight, offset, mean, variance = (
            sums.new_full((1,), default) if value is None else value.to(sums.dtype)
            for value, default in zip(norm, (1.0, 0.0, 0.0, 1.0), strict=True)
        )
        scale = (weight / (variance + eps).sqrt()).view(1, -1, 1, 1)
        sums = (sums - mean.view(1, -1, 1, 1)) * scale + offset.view(1, -1, 1, 1)
    if residual is not None:
        sums = sums + residual.to(sums.dtype)
    if slope is not None:
        sums = F.prelu(sums, slope.to(sums.dtype))
    if activation:
        sums = ACTIVATIONS[activation](sums)
    return sums.clamp(low, high).to(dtype).contiguous(memory_format=torch.channels_last)
