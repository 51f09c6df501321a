"""The public block convolution against ``F.conv2d`` on the merged map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blockcopy_plugins import ops
from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.ops import block_conv, block_conv2d


def pack(map_, grid, block):
    """Executed blocks of a map, cut out one by one; zeros beyond its edge."""
    blocks = []
    for image, gy, gx in grid.nonzero().tolist():
        part = map_[image, :, gy * block : (gy + 1) * block, gx * block : (gx + 1) * block]
        pad = (0, block - part.shape[2], 0, block - part.shape[1])
        blocks.append(F.pad(part, pad))
    return torch.stack(blocks) if blocks else map_.new_zeros(0, map_.shape[1], block, block)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


@given(
    size=st.tuples(st.integers(3, 30), st.integers(3, 30)),
    block=st.sampled_from((2, 4, 6, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.sampled_from((1, 1, 2, (1, 2))),
    padding=st.integers(0, 7),
    dilation=st.sampled_from((1, 1, 2, 9, (1, 5))),
    groups=st.sampled_from((1, 2, 4)),
    rate=st.sampled_from((0.0, 0.3, 0.7, 2.0)),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_equals_conv2d_on_the_merged_map(
    size, block, kernel, stride, padding, dilation, groups, rate, bias, seed
):
    torch.manual_seed(seed)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    reach = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    out = [(size[i] + 2 * padding - reach[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in (0, 1)]
    assume(min(out) >= 1)
    grid = torch.rand(2, -(-size[0] // block), -(-size[1] // block)) < rate
    state = channels_last(torch.randn(2, 4, *size))
    new = torch.randn(2, 4, *size)
    weight = torch.randn(8, 4 // groups, *kernel)
    bias = torch.randn(8) if bias else None
    mask = grid.repeat_interleave(block, 1).repeat_interleave(block, 2)
    merged = torch.where(mask[:, None, : size[0], : size[1]], new, state)
    wanted = F.conv2d(merged, weight, bias, stride, padding, dilation, groups)

    packed = channels_last(pack(new, grid, block))
    found = block_conv2d(state, packed, grid, weight, bias, stride, padding, dilation, groups)

    assert torch.equal(state, merged)
    block_out = [block // step for step in steps]
    assert found.shape == (int(grid.sum()), 8, *block_out)
    for row, (image, gy, gx) in zip(found, grid.nonzero().tolist(), strict=True):
        want = wanted[
            image,
            :,
            gy * block_out[0] : (gy + 1) * block_out[0],
            gx * block_out[1] : (gx + 1) * block_out[1],
        ]
        torch.testing.assert_close(
            row[:, : want.shape[1], : want.shape[2]], want, rtol=1e-4, atol=1e-4
        )


def arguments(**changed):
    grid = torch.zeros(1, 2, 3, dtype=torch.bool)
    grid[0, 1, 1] = True
    return {
        "state": channels_last(torch.randn(1, 4, 8, 12)),
        "packed": channels_last(torch.randn(1, 4, 4, 4)),
        "grid": grid,
        "weight": torch.randn(2, 4, 3, 3),
        "padding": 1,
        **changed,
    }


BAD = {
    "float grid": (dict(grid=torch.ones(1, 2, 3)), GridError, "torch.float32"),
    "grid of two images": (dict(grid=torch.ones(2, 2, 3).bool()), GridError, "N = 1"),
    "grid without batch": (dict(grid=torch.ones(2, 3).bool()), GridError, r"\(2, 3\)"),
    "more blocks than Trues": (
        dict(packed=channels_last(torch.randn(2, 4, 4, 4))),
        GridError,
        r"expected \(1, 4, bh, bw\)",
    ),
    "other channels": (
        dict(packed=channels_last(torch.randn(1, 5, 4, 4))),
        GridError,
        r"expected \(1, 4, bh, bw\)",
    ),
    "blocks too small": (
        dict(packed=channels_last(torch.randn(1, 4, 3, 4))),
        GridError,
        "do not cover the height of the state, 8 px",
    ),
    "blocks too large": (
        dict(packed=channels_last(torch.randn(1, 4, 4, 6))),
        GridError,
        "do not cover the width of the state, 12 px",
    ),
    "stride": (dict(stride=3), GridError, "stride 3 does not divide"),
    "other dtype": (
        dict(packed=channels_last(torch.randn(1, 4, 4, 4)).double()),
        TypeError,
        "Double|float64",
    ),
    "layout of the state": (dict(state=torch.randn(1, 4, 8, 12)), ValueError, "channels-last"),
    "channels of the weight": (
        dict(weight=torch.randn(2, 3, 3, 3)),
        ConfigError,
        r"expected \(C_out, 4 / groups",
    ),
    "weight of another dtype": (
        dict(weight=torch.randn(2, 4, 3, 3).double()),
        ConfigError,
        "float64",
    ),
    "kernel larger than the map": (
        dict(weight=torch.randn(2, 4, 9, 20)),
        ConfigError,
        "reaches over 20 px",
    ),
    "groups": (dict(groups=3), ConfigError, "groups=3"),
    "bias": (dict(bias=torch.randn(5)), ConfigError, r"expected \(2,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_the_state_unharmed(name):
    changed, error, match = BAD[name]
    given_ = arguments(**changed)
    before = given_["state"].clone()
    with pytest.raises(error, match=match):
        block_conv2d(**given_)
    assert torch.equal(given_["state"], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    given_ = arguments()
    for key in ("state", "packed", "weight"):
        given_[key] = given_[key].to(dtype)
    merged = given_["state"].clone()
    merged[0, :, 4:8, 4:8] = given_["packed"][0]
    wanted = F.conv2d(merged.double(), given_["weight"].double(), padding=1)[:, :, 4:8, 4:8]
    found = block_conv2d(**given_)
    assert found.dtype == dtype
    # A sum of 36 terms is rounded once to 8 bits.
    torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=8e-2)


def test_in_inference_mode():
    given_ = arguments()
    with torch.inference_mode():
        first = block_conv2d(**given_)
    assert torch.equal(block_conv2d(**given_), first)


@pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")
@pytest.mark.parametrize("dtype, by_kernel", [(torch.float32, True), (torch.float64, False)])
def test_by_the_kernel_where_it_takes_the_layer(dtype, by_kernel, monkeypatch):
    given_ = arguments()
    for key in ("state", "packed", "weight"):
        given_[key] = given_[key].to(dtype)
    ran = []
    kernel = block_conv.conv_blocks
    monkeypatch.setattr(block_conv, "conv_blocks", lambda *a: ran.append(a) or kernel(*a))
    block_conv2d(**given_)
    assert bool(ran) == by_kernel


def test_gradients_are_those_of_conv2d():
    given_ = arguments()
    weight = given_["weight"].requires_grad_()
    merged = given_["state"].clone()
    merged[0, :, 4:8, 4:8] = given_["packed"][0]
    (wanted,) = torch.autograd.grad(
        F.conv2d(merged, weight, padding=1)[:, :, 4:8, 4:8].square().sum(), weight
    )
    (found,) = torch.autograd.grad(block_conv2d(**given_).square().sum(), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
