"""Concatenation of maps along channels and the ops that follow, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.finish_reference import finish_reference
from blockcopy_plugins.ops.library import operator


def _fake(parts) -> Tensor:
    first = parts[0]
    shape = (first.shape[0], sum(part.shape[1] for part in parts), *first.shape[2:])
    return first.new_empty(shape).contiguous(memory_format=torch.channels_last)


@operator(
    "join_maps(Tensor[] parts, Tensor? added, Tensor?[] norm, float eps, Tensor? residual, "
    "Tensor? slope, float low, float high, str activation='') -> Tensor",
    fake=_fake,
)
def join_maps(
    parts: Sequence[Tensor],
    added: Tensor | None,
    norm: Sequence[Tensor | None],
    eps: float,
    residual: Tensor | None,
    slope: Tensor | None,
    low: float,
    high: float,
    activation: str = "",
) -> Tensor:
    """Join maps along channels, and apply the ops that follow before the values are stored.

    ``clamp(activation(prelu(norm(cat(parts) + added) + residual)), low, high)``, in float32.

    Args:
        parts: ``(N, C_i, H, W)``, float32 or bfloat16, at least one; channels last, or copied.
        added: ``(N, C, H, W)``, C the sum of all C_i, or None.
        norm: Empty, or weight, bias, running mean and variance of a batch norm, each ``(C,)`` or
            None.
        eps: The batch norm's epsilon.
        residual: ``(N, C, H, W)`` or None.
        slope: ``(C,)`` or ``(1,)``, what values below 0 are multiplied by, or None.
        low: Lower bound of the result, ``-inf`` for none.
        high: Upper bound.
        activation: A key of :data:`.finish_reference.ACTIVATIONS`; ``''`` for none.

    Returns:
        ``(N, C, H, W)``, channels last.

    Raises:
        ValueError: If shapes do not fit each other, or there is no such activation.
        TypeError: If the dtype is a different one.
        NotImplementedError: If the extension is there but the processor has no kernels for it.
    """
    check_no_grad("join_maps", *parts)
    work = torch.promote_types(parts[0].dtype, torch.float32)
    out = torch.cat([part.to(work) for part in parts], 1)
    if added is not None:
        out = out + added.to(work)
    return finish_reference(out, norm, eps, residual, slope, activation, low, high, parts[0].dtype)
