"""pool_blocks: what torch's own pooling gives, block by block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import copy_rings_, has_kernel, pool_blocks
from blockcopy_plugins.ops.rings import ring_pixels
from blockcopy_plugins.ops.window import window_table

native = pytest.mark.skipif(not has_kernel("pool_blocks", "cpu"), reason="no native kernel")
RUNS = [
    pytest.param(pool_blocks, id="native", marks=native),
    pytest.param(pool_blocks.reference, id="twin"),
]


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


def tables(size, block, kernel, stride, padding, dilation):
    out = [
        (size[i] + 2 * padding[i] - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    grid = [-(-out[i] // block[i]) for i in (0, 1)]
    return grid, [
        window_table(
            blocks=grid[i],
            block_out=block[i],
            size=size[i],
            kernel=kernel[i],
            stride=stride[i],
            padding=padding[i],
            dilation=dilation[i],
        )
        for i in (0, 1)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("run", RUNS)
def test_it_is_torchs_pooling(run, dtype):
    @settings(max_examples=40, deadline=None)
    @given(
        channels=st.sampled_from((1, 3, 4, 16, 19, 40)),
        kernel=pairs(1, 7),
        stride=pairs(1, 3),
        padding=pairs(0, 3),
        dilation=pairs(1, 2),
        block=pairs(1, 20),
        seed=st.integers(0, 99),
    )
    def check(channels, kernel, stride, padding, dilation, block, seed):
        torch.manual_seed(seed)
        padding = tuple(min(padding[i], kernel[i] // 2) for i in (0, 1))
        size = [(kernel[i] - 1) * dilation[i] + 1 + int(torch.randint(0, 20, ())) for i in (0, 1)]
        map_ = torch.randn(2, channels, *size).to(dtype)
        grid, (rows, cols) = tables(size, block, kernel, stride, padding, dilation)
        blocks = (torch.rand(2, *grid) < 0.6).nonzero().int().contiguous()
        wide = map_.float()
        largest = F.max_pool2d(wide, kernel, stride, padding, dilation)
        ones = torch.ones(channels, 1, *kernel)
        sums = F.conv2d(wide, ones, None, stride, padding, dilation, channels)
        for is_max, scale, wanted in ((True, 1.0, largest), (False, 0.25, 0.25 * sums)):
            found = run(map_, blocks, rows, cols, kernel, stride, dilation, is_max, scale)
            assert found.dtype == dtype and found.shape == (len(blocks), channels, *block)
            for out, (image, y, x) in zip(found, blocks.tolist(), strict=True):
                place = wanted[
                    image,
                    :,
                    y * block[0] : (y + 1) * block[0],
                    x * block[1] : (x + 1) * block[1],
                ]
                out = out[:, : place.shape[1], : place.shape[2]].float()
                tolerance = 1e-5 if dtype == torch.float32 else 2e-2
                torch.testing.assert_close(out, place, atol=tolerance, rtol=tolerance)
                assert not is_max or torch.equal(out, place)

    check()


@pytest.mark.parametrize("rings", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("run", RUNS)
def test_executed_blocks_are_read_where_they_are_packed(run, dtype, rings):
    @settings(max_examples=40, deadline=None)
    @given(
        channels=st.sampled_from((1, 3, 16, 19)),
        kernel=st.tuples(*[st.sampled_from((1, 3, 5))] * 2),
        stride=st.integers(1, 2),
        block=pairs(6, 9),
        missing=pairs(0, 5),
        seed=st.integers(0, 99),
    )
    def check(channels, kernel, stride, block, missing, seed):
        torch.manual_seed(seed)
        size = [2 * stride * block[0] - missing[0], 3 * stride * block[1] - missing[1]]
        padding, strides = tuple(k // 2 for k in kernel), (stride, stride)
        grid, (rows, cols) = tables(size, block, kernel, strides, padding, (1, 1))
        map_ = torch.randn(2, channels, *size).to(dtype)
        blocks = (torch.rand(2, *grid) < 0.5).nonzero().int().contiguous()
        input_block = [stride * side for side in block]
        packed = map_.new_full((len(blocks), channels, *input_block), float("nan"))
        state = map_.clone()
        for values, (slot, y, x) in zip(packed, blocks.tolist(), strict=True):
            place = [
                slice(i * side, (i + 1) * side) for i, side in zip((y, x), input_block, strict=True)
            ]
            inside = map_[slot, :, place[0], place[1]]
            values[:, : inside.shape[1], : inside.shape[2]] = inside
            state[slot, :, place[0], place[1]] = float("nan")
        of_rings = None
        if rings:
            border = max(*padding, 1)
            of_rings, places = (*size, border), torch.zeros(2, 3, dtype=torch.int32)
            places[1, 0] = 1
            shape = grid[0] * grid[1], ring_pixels(input_block, border)
            kept = torch.zeros(2, channels, *shape, dtype=dtype)
            kept = kept.contiguous(memory_format=torch.channels_last)
            copy_rings_.reference(kept, state, places, input_block, border)
            state = kept
        how = (rows, cols, kernel, strides, (1, 1), True, 1.0)
        found = run(state, blocks, *how, packed, of_rings)
        # Where a block sticks out of the map, windows lie beyond it.
        assert torch.equal(found, pool_blocks.reference(map_, blocks, *how))

    check()


@pytest.mark.parametrize("run", RUNS)
def test_each_slot_is_one_block(run):
    packed = torch.randn(5, 3, 8, 6).contiguous(memory_format=torch.channels_last)
    _, (rows, cols) = tables((8, 6), (4, 3), (2, 2), (2, 2), (0, 0), (1, 1))
    found = run(packed, None, rows[:1], cols[:1], (2, 2), (2, 2), (1, 1), True, 1.0)
    assert torch.equal(found, F.max_pool2d(packed, 2))


@pytest.mark.parametrize("run", RUNS)
def test_nan_is_the_largest_and_windows_beyond_the_map_are_empty(run):
    map_ = torch.zeros(1, 1, 2, 4)
    map_[0, 0, 1, 1] = float("nan")
    rows, cols = torch.tensor([[0, 1]]).int(), torch.tensor([[0, 1, 2, 3, -1, -1]]).int()
    place = torch.zeros(1, 3).int()
    how = ((2, 2), (2, 2), (1, 1))
    largest = run(map_, place, rows, cols, *how, True, 1.0).flatten()
    assert largest[0].isnan() and largest[1:].tolist() == [0.0, float("-inf")]
    sums = run(map_, place, rows, cols, *how, False, 1.0).flatten()
    assert sums[0].isnan() and sums[1:].tolist() == [0.0, 0.0]


@native
def test_bad_arguments():
    _, (rows, cols) = tables((8, 8), (4, 4), (2, 2), (2, 2), (0, 0), (1, 1))
    map_, place = torch.randn(1, 3, 8, 8), torch.zeros(1, 3).int()
    how = ((2, 2), (2, 2), (1, 1), True, 1.0)
    with pytest.raises(ValueError, match="rows has windows of 7"):
        pool_blocks(map_, place, rows[:, 1:].contiguous(), cols, *how)
    with pytest.raises(TypeError, match="dtype"):
        pool_blocks(map_.double(), place, rows, cols, *how)
    with pytest.raises(IndexError):
        pool_blocks(map_, place + 7, rows, cols, *how)
    with pytest.raises(ValueError, match="two integers"):
        pool_blocks(map_, place, rows, cols, (2,), *how[1:])


@native
def test_opcheck():
    _, (rows, cols) = tables((8, 8), (4, 4), (2, 2), (2, 2), (0, 0), (1, 1))
    map_ = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    how = (rows, cols, (2, 2), (2, 2), (1, 1), True, 1.0)
    for places in (torch.zeros(1, 3).int(), None):
        torch.library.opcheck(torch.ops.blockcopy.pool_blocks.default, (map_, places, *how))
