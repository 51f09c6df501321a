"""Convolution and pooling of any geometry, against torch and against a loop written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.geometry import sliding_output


class Op(nn.Module):
    """A spatial op between two pointwise ones, so that it reads and writes packed blocks."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x * 2.0) + 1.0


def by_hand(function, frames, grids, block_in, block_out):
    """``s <- where(M, x, s)``, op on s, ``out <- where(M', op(s), out)``, pixel by pixel.

    What of a result lies beyond the last block belongs to it.
    """

    def pixels(place, block, blocks):
        return slice(place * block, None if place == blocks - 1 else (place + 1) * block)

    state = output = None
    for frame, grid in zip(frames, grids, strict=True):
        x = frame * 2.0
        if state is None:
            state = x.clone()
        for image, gy, gx in grid.nonzero().tolist():
            rows = pixels(gy, block_in[0], grid.shape[1])
            cols = pixels(gx, block_in[1], grid.shape[2])
            state[image, :, rows, cols] = x[image, :, rows, cols]
        fresh = function(state) + 1.0
        if output is None:
            output = fresh.clone()
        for image, gy, gx in grid.nonzero().tolist():
            rows = pixels(gy, block_out[0], grid.shape[1])
            cols = pixels(gx, block_out[1], grid.shape[2])
            output[image, :, rows, cols] = fresh[image, :, rows, cols]
        yield output.clone()


pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
geometry = dict(
    size=st.tuples(st.integers(5, 30), st.integers(5, 30)),
    steps=st.integers(1, 4),
    kernel=pair,
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    dilation=st.tuples(st.sampled_from((1, 1, 2, 7)), st.sampled_from((1, 1, 2, 7))),
    seed=st.integers(0, 99),
    pack=st.booleans(),
    data=st.data(),
)


def check(function, size, block, window, seed, pack, ceil_mode=False):
    """One op against torch (all executed) and against the loop (any grids)."""
    kernel, stride, padding, dilation = window
    out = [
        sliding_output(size[i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in (0, 1)
    ]
    assume(min(out) >= 1)
    torch.manual_seed(seed)
    shape = (2, -(-size[0] // block), -(-size[1] // block))
    frames = [torch.randn(2, 4, *size) for _ in range(4)]
    grids = [torch.rand(shape) < rate for rate in (2.0, 0.4, 0.0, 0.6)]
    block_out = [block // stride[i] for i in (0, 1)]
    # A map may be larger than its blocks by a block.
    fits = all(
        block % stride[i] == 0 and out[i] <= (shape[1 + i] + 1) * block_out[i] for i in (0, 1)
    )
    if not fits:  # Runs dense: the whole result is fresh.
        block_out = [10**6] * 2
    left = list(grids)
    net = bc.blockcopy_(
        Op(function).eval(),
        bc.BlockCopyConfig(
            block_size=block, policy=lambda f, c: left.pop(0), pack_whole_frames=pack
        ),
    )
    if fits:
        wanted = by_hand(function, frames, grids, (block, block), block_out)
    else:
        wanted = dense_after_state(function, frames, grids, block)
    for i, (frame, want) in enumerate(zip(frames, wanted, strict=True)):
        found = net(frame)
        assert found.shape == want.shape == (2, want.shape[1], *out)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        if i == 0:
            torch.testing.assert_close(found, function(frame * 2) + 1, rtol=1e-4, atol=1e-4)
    assert bool(bc.report(net).dense_ops) is not fits


def dense_after_state(function, frames, grids, block):
    state = None
    for frame, grid in zip(frames, grids, strict=True):
        x = frame * 2.0
        mask = grid.repeat_interleave(block, 1).repeat_interleave(block, 2)
        mask = mask[:, None, : x.shape[2], : x.shape[3]]
        state = torch.where(mask, x, x if state is None else state)
        yield function(state) + 1.0


def check_convolution(size, steps, kernel, stride, padding, dilation, seed, pack, data):
    block = steps * data.draw(st.sampled_from((1, 2, 3, 6)))
    groups = data.draw(st.sampled_from((1, 2, 4)))
    torch.manual_seed(seed)
    weight, bias = torch.randn(8, 4 // groups, *kernel), torch.randn(8)
    bias = data.draw(st.sampled_from((bias, None)))
    check(
        lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups),
        size,
        block,
        (kernel, stride, padding, dilation),
        seed,
        pack,
    )


@given(**geometry)
@settings(max_examples=80)
def test_convolution(**drawn):
    check_convolution(**drawn)


@pytest.mark.weekly
@given(**geometry)
@settings(max_examples=3000)
def test_convolution_thoroughly(**drawn):
    check_convolution(**drawn)


def check_pooling(size, steps, kernel, stride, padding, dilation, seed, pack, data):
    block = steps * data.draw(st.sampled_from((1, 2, 3, 6)))
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    ceil_mode = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(("max", "avg", "avg_without_pad", "divisor")))
    if kind == "max":

        def function(x):
            return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)

    else:
        dilation = (1, 1)
        divisor = 3 if kind == "divisor" else None

        def function(x):
            return F.avg_pool2d(
                x, kernel, stride, padding, ceil_mode, kind == "avg", divisor_override=divisor
            )

    # torch drops a last window that would lie wholly in the padding, by its own formula.
    check(function, size, block, (kernel, stride, padding, dilation), seed, pack, ceil_mode)


@given(**geometry)
@settings(max_examples=80)
def test_pooling(**drawn):
    check_pooling(**drawn)


@pytest.mark.weekly
@given(**geometry)
@settings(max_examples=3000)
def test_pooling_thoroughly(**drawn):
    check_pooling(**drawn)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("size", "bins"), [((24, 40), (6, 5)), ((28, 18), (7, 9))])
def test_adaptive_average_of_equal_bins_runs_on_blocks(size, bins, pack):
    def function(x):
        return F.adaptive_avg_pool2d(x, bins)

    frames = [torch.randn(2, 4, *size) for _ in range(3)]
    shape = tuple(-(-s // 8) for s in size)
    grids = [torch.rand(2, *shape) < rate for rate in (2, 0.5, 0.3)]
    block = tuple(8 * m // n for n, m in zip(size, bins, strict=True))
    net, left = Op(function).eval(), list(grids)
    config = bc.BlockCopyConfig(
        block_size=8, policy=lambda f, c: left.pop(0), pack_whole_frames=pack, strict=True
    )
    bc.blockcopy_(net, config)
    wanted = by_hand(function, frames, grids, (8, 8), block)
    for frame, hand in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame), hand)


def test_max_pool_takes_the_maximum_of_negative_values_at_the_edge():
    """The border of a max pooling is minus infinity, not zero."""
    net = bc.blockcopy_(
        nn.MaxPool2d(3, 1, 1).eval(),
        bc.BlockCopyConfig(block_size=4, policy="all", pack_whole_frames=True, strict=True),
    )
    assert torch.equal(net(torch.full((1, 1, 8, 8), -3.0)), torch.full((1, 1, 8, 8), -3.0))


@pytest.mark.parametrize("dilation", [12, 24, 36])
def test_dilations_that_reach_over_several_blocks(dilation):
    """The atrous branches of DeepLabV3+ on 16-px blocks."""
    conv = nn.Conv2d(4, 4, 3, padding=dilation, dilation=dilation).eval()
    frames = [torch.randn(1, 4, 50, 83) for _ in range(3)]
    grids = [torch.rand(1, 4, 6) < rate for rate in (2, 0.3, 0.3)]
    net, left = Op(conv).eval(), list(grids)
    bc.blockcopy_(
        net,
        bc.BlockCopyConfig(
            block_size=16, policy=lambda f, c: left.pop(0), strict=True, pack_whole_frames=True
        ),
    )
    with torch.no_grad():
        for frame, want in zip(
            frames, by_hand(conv, frames, grids, (16, 16), (16, 16)), strict=True
        ):
            torch.testing.assert_close(net(frame), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [8, 16, 32])
def test_unpadded_convolutions_shrink_the_map_under_its_blocks(block):
    """After a few of them the last blocks lie wholly beyond the map."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 9) for _ in range(4))).eval()
    frames = [torch.randn(2, 3, 64, 70) for _ in range(3)]
    shape = (2, -(-64 // block), -(-70 // block))
    grids = [torch.rand(shape) < rate for rate in (2, 0.5, 0.0)]
    grids[1][:, -1, -1] = True
    with torch.no_grad():
        dense = net(frames[0])
    left = list(grids)
    bc.blockcopy_(
        net,
        bc.BlockCopyConfig(
            block_size=block, policy=lambda f, c: left.pop(0), strict=True, pack_whole_frames=True
        ),
    )
    first = net(frames[0])
    torch.testing.assert_close(first, dense, rtol=1e-4, atol=1e-5)
    second = net(frames[1])
    assert second.shape == dense.shape and not torch.equal(second, first)
    assert torch.equal(net(frames[2]), second)
