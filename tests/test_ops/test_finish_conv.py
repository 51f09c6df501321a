"""The pass behind a convolution: its twin against torch's own ops in float64, and its errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins import ops

C = 6


def by_torch(sums, bias, norm, eps, residual, low, high):
    """In float64, op after op."""
    value = sums.double()
    if bias is not None:
        value = value + bias.double().view(1, -1, 1, 1)
    if norm:
        weight, beta, mean, variance = (None if v is None else v.double() for v in norm)
        value = F.batch_norm(value, mean, variance, weight, beta, False, 0.0, eps)
    if residual is not None:
        value = value + residual.double()
    return value.clamp(low, high)


def draw(dtype, norm_dtype=None, size=(3, C, 5, 7)):
    sums, residual = (
        torch.randn(size).to(dtype).contiguous(memory_format=torch.channels_last) for _ in "ab"
    )
    weight, beta, mean = (torch.randn(size[1]).to(norm_dtype or dtype) for _ in "abc")
    variance = (torch.rand(size[1]) + 0.1).to(norm_dtype or dtype)
    return sums, torch.randn(size[1]).to(dtype), (weight, beta, mean, variance), residual


@given(
    dtype=st.sampled_from(ops.FINISH_DTYPES),
    wide=st.booleans(),
    has_bias=st.booleans(),
    norm_parts=st.sampled_from(["", "mv", "wmv", "bmv", "wbmv"]),
    has_residual=st.booleans(),
    bounds=st.sampled_from([(float("-inf"), float("inf")), (0.0, float("inf")), (0.0, 6.0)]),
)
def test_it_is_what_torch_does_op_after_op(dtype, wide, has_bias, norm_parts, has_residual, bounds):
    sums, bias, norm, residual = draw(dtype, torch.float32 if wide else None)
    bias = bias if has_bias else None
    kept = zip("wbmv", norm, strict=True)
    norm = [v if name in norm_parts else None for name, v in kept] if norm_parts else []
    residual = residual if has_residual else None
    wanted = by_torch(sums, bias, norm, 1e-3, residual, *bounds)
    ops.finish_conv_(sums, bias, norm, 1e-3, residual, *bounds)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(sums.double(), wanted, rtol=2 * unit, atol=8e-6)


def test_what_is_not_a_number_stays_so():
    sums, *_ = draw(torch.float32)
    sums[0, 1, 2, 3] = float("nan")
    ops.finish_conv_(sums, low=0.0, high=6.0)
    assert sums.isnan().sum() == 1 and sums[0, 1, 2, 3].isnan()


def test_nothing():
    sums = torch.empty(0, C, 4, 4).contiguous(memory_format=torch.channels_last)
    ops.finish_conv_(sums, torch.zeros(C), low=0.0)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(sums=torch.zeros(1, C, 2, 2).double()), TypeError, "float64"),
        (dict(sums=torch.zeros(1, C, 2, 2)), ValueError, "channels-last"),
        (dict(bias=torch.zeros(C + 1)), ValueError, "bias is"),
        (dict(bias=torch.zeros(C).half()), TypeError, "float16"),
        (dict(norm=[torch.ones(C)]), ValueError, "norm has 1"),
        (dict(norm=[None, None, None, torch.ones(C)]), ValueError, "not None"),
        (dict(norm=[torch.ones(C).half(), None, *[torch.ones(C)] * 2]), TypeError, "float16"),
        (dict(residual=torch.zeros(1, C, 2, 2)), ValueError, "residual is"),
        (dict(bias=torch.zeros(C, requires_grad=True)), RuntimeError, "no_grad"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    sums = torch.zeros(3, C, 5, 7).contiguous(memory_format=torch.channels_last)
    with pytest.raises(error, match=message):
        ops.finish_conv_(**{"sums": sums, **change})
    assert not sums.any()


def test_opcheck():
    sums, bias, norm, residual = draw(torch.float32)
    args = (sums, bias, list(norm), 1e-3, residual, 0.0, 6.0)
    torch.library.opcheck(torch.ops.blockcopy.finish_conv_.default, args)
