"""The ops that follow a convolution, in one pass over its sums: bias, norm, addition and bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_channels_last, check_no_grad, mutation_mode
from blockcopy_plugins.ops.library import operator

FINISH_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_NORM_NAMES = ("weight", "bias", "running mean", "running variance")


def _check(
    sums: Tensor, bias: Tensor | None, norm: Sequence[Tensor | None], residual: Tensor | None
) -> None:
    torch._check_type(
        sums.dtype in FINISH_DTYPES,
        lambda: (
            f"blockcopy::finish_conv_: sums have dtype {sums.dtype}, expected float32, float16 or "
            "bfloat16"
        ),
    )
    check_channels_last("finish_conv_", "sums", sums)
    torch._check_value(
        len(norm) in (0, 4) and (not norm or (norm[2] is not None and norm[3] is not None)),
        lambda: (
            f"blockcopy::finish_conv_: norm has {len(norm)} tensors, expected none, or weight, "
            "bias, running mean and running variance, the last two not None"
        ),
    )
    for name, vector in (("bias", bias), *zip(_NORM_NAMES, norm, strict=False)):
        if vector is not None:
            _check_vector(name, vector, sums)
    kinds = {vector.dtype for vector in norm if vector is not None}
    torch._check_type(
        (bias is None or bias.dtype == sums.dtype)
        and len(kinds) <= 1
        and kinds <= {sums.dtype, torch.float32},
        lambda: (
            f"blockcopy::finish_conv_: bias is {None if bias is None else bias.dtype} and norm "
            f"{sorted(map(str, kinds))}, expected {sums.dtype}, all of norm alternatively "
            "torch.float32"
        ),
    )
    torch._check_value(
        residual is None
        or (
            residual.shape == sums.shape
            and residual.dtype == sums.dtype
            and residual.device == sums.device
        ),
        lambda: (
            f"blockcopy::finish_conv_: residual is {residual.dtype} {tuple(residual.shape)} on "
            f"{residual.device}, expected that of sums, {sums.dtype} {tuple(sums.shape)} on "
            f"{sums.device}"
        ),
    )


def _check_vector(name: str, vector: Tensor, sums: Tensor) -> None:
    torch._check_value(
        tuple(vector.shape) == (sums.size(1),)
        and vector.is_contiguous()
        and vector.device == sums.device,
        lambda: (
            f"blockcopy::finish_conv_: {name} is {tuple(vector.shape)} on {vector.device}, "
            f"expected ({sums.size(1)},), contiguous, on {sums.device}"
        ),
    )


@operator(
    "finish_conv_(Tensor(a!) sums, Tensor? bias, Tensor?[] norm, float eps, Tensor? residual, "
    "float low, float high) -> ()",
    fake=_check,
)
def finish_conv_(
    sums: Tensor,
    bias: Tensor | None = None,
    norm: Sequence[Tensor | None] = (),
    eps: float = 0.0,
    residual: Tensor | None = None,
    low: float = float("-inf"),
    high: float = float("inf"),
) -> None:
    """Replace ``sums`` by ``clamp(norm(sums + bias) + residual, low, high)``.

    Computed in float32 whatever the dtype, and rounded once. NaN stays NaN.

    Args:
        sums (Tensor): (n, C, h, w), channels-last contiguous, float32, float16 or bfloat16: the
            result of a convolution without a bias. Written in place.
        bias (Tensor): (C,), of the dtype of ``sums``.
        norm (Sequence[Tensor]): Weight, bias, running mean and running variance of a batch norm,
            each (C,), all of the dtype of ``sums`` or all float32; weight and bias may be None.
            Empty for no norm.
        eps (float): The batch norm's epsilon.
        residual (Tensor): Added to the result, of the shape and dtype of ``sums``.
        low (float): Lower bound.
        high (float): Upper bound.

    Raises:
        ValueError: If a shape, layout or device does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and an input requires grad.
    """
    check_no_grad("finish_conv_", sums, *(v for v in (bias, residual, *norm) if v is not None))
    _check(sums, bias, norm, residual)
    if sums.numel() == 0:
        return
    channels = (1, -1, 1, 1)
    value = sums.float()
    shift = torch.zeros(sums.size(1), device=sums.device) if bias is None else bias.float()
    if norm:
        weight, beta, mean, variance = (None if v is None else v.float() for v in norm)
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = (shift - mean) * scale
        shift = shift if beta is None else shift + beta
        value = value * scale.view(channels)
    value = value + shift.view(channels)
    if residual is not None:
        value = value + residual.float()
    value = value.clamp(low, high)
    with mutation_mode(sums):
        sums.copy_(value)
