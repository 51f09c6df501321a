"""reduce_picture against hand-computed cases and a plain mean over squares, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops.reduce_picture import reduce_picture

IMPLEMENTATIONS = [
    pytest.param(reduce_picture, id="op"),
    pytest.param(reduce_picture.reference, id="twin"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def mean_of_squares(frame, side):
    """The definition: fill up the last squares with nothing, average what is there."""
    _, _, height, width = frame.shape
    filled = F.pad(frame.double(), (0, -width % side, 0, -height % side), value=math.nan)
    return filled.unflatten(3, (-1, side)).unflatten(2, (-1, side)).nanmean((3, 5))


def arranged(frame, layout):
    """The same values in another layout."""
    if layout == "channels last":
        return frame.contiguous(memory_format=torch.channels_last)
    if layout == "part of a larger one":
        return F.pad(frame, (3, 2, 1, 4))[:, :, 1:-4, 3:-2]
    if layout == "columns first":
        return frame.transpose(2, 3).contiguous().transpose(2, 3)
    return frame


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed_with_cut_squares(implementation):
    frame = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 9.0], [0.0, 8.0, 2.0]])[None, None]
    out = implementation(frame, 2)
    assert out.tolist() == [[[[4.0, 7.0], [4.0, 2.0]]]]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    "layout", ["contiguous", "channels last", "part of a larger one", "columns first"]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((2, 3, 32, 48), 8),
        ((2, 3, 33, 46), 8),
        ((1, 3, 17, 40), 16),
        ((1, 1, 9, 9), 4),
        ((2, 19, 11, 13), 2),
        ((1, 4, 7, 5), 3),
        ((1, 3, 5, 2), 8),
        ((1, 2, 3, 4), 1),
        ((1, 3, 9, 2900), 8),  # more than one strip of a row
        ((1, 19, 3, 601), 2),  # the same of many channels
        ((1, 1100, 3, 9), 8),  # a square wider than a strip, channels last
    ],
)
def test_any_layout_dtype_and_size(implementation, layout, dtype, shape, side):
    frame = arranged(torch.randn(shape, dtype=torch.float64).to(dtype), layout)
    before = frame.clone()
    out = implementation(frame, side)
    assert out.dtype == torch.float32 and out.is_contiguous()
    assert out.untyped_storage().data_ptr() != frame.untyped_storage().data_ptr()
    torch.testing.assert_close(out.double(), mean_of_squares(frame, side), atol=2e-6, rtol=0)
    assert torch.equal(frame, before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_its_square_alone(implementation, layout, dtype, value):
    frame = torch.zeros(1, 3, 64, 64, dtype=dtype)
    frame[0, 1, 37, 18] = value
    bad = ~implementation(arranged(frame, layout), 8).isfinite()
    assert bad.nonzero().tolist() == [[0, 1, 4, 2]]


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_make_no_difference(layout, dtype):
    frame = arranged(torch.randn(1, 3, 256, 512).to(dtype), layout)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(reduce_picture(frame, 8))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 0, 8, 8), (1, 3, 0, 8), (1, 3, 8, 0)])
def test_empty_frames(implementation, shape):
    out = implementation(torch.zeros(shape), 4)
    assert out.shape == (*shape[:2], -(-shape[2] // 4), -(-shape[3] // 4))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    frame = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="4-D"):
        implementation(frame[0], 4)
    with pytest.raises(ValueError, match="side is 0"):
        implementation(frame, 0)
    with pytest.raises(TypeError, match="floating point"):
        implementation(frame.long(), 4)
    needs = frame.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(needs, 4)
    with torch.no_grad():
        implementation(needs, 4)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_the_operator_is_well_registered(layout):
    frame = arranged(torch.randn(2, 3, 20, 12), layout)
    torch.library.opcheck(torch.ops.blockcopy.reduce_picture.default, (frame, 8))
    meta = reduce_picture(frame.bfloat16().to("meta"), 8)
    assert meta.shape == (2, 3, 3, 2) and meta.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_the_gpu(dtype):
    frame = torch.randn(2, 3, 33, 46).to(dtype)
    out = reduce_picture(frame.cuda(), 8)
    assert out.device.type == "cuda"
    torch.testing.assert_close(out.cpu(), reduce_picture(frame, 8), atol=2e-6, rtol=0)
