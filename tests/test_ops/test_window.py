"""Index tables against positions that are written out one by one."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.window import OUTSIDE, index_table, tap_table, window_table

axis = dict(
    blocks=st.integers(1, 6),
    block_out=st.integers(1, 8),
    size=st.integers(1, 50),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 40),
    dilation=st.integers(1, 36),
)


@given(**axis)
@settings(max_examples=100)
def test_window_and_tap_tables(blocks, block_out, size, kernel, stride, padding, dilation):
    given_ = dict(
        blocks=blocks,
        block_out=block_out,
        size=size,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
    )
    window, taps = window_table(**given_), tap_table(**given_)
    width = (block_out - 1) * stride + (kernel - 1) * dilation + 1
    assert window.shape == (blocks, width) and taps.shape == (blocks, block_out * kernel)
    for table in (window, taps):
        assert table.dtype == torch.int32 and table.is_contiguous()
    for block in range(blocks):
        for o in range(block_out):
            for t in range(kernel):
                source = (block * block_out + o) * stride - padding + t * dilation
                source = source if 0 <= source < size else OUTSIDE
                assert window[block, o * stride + t * dilation] == source
                assert taps[block, o * kernel + t] == source


def test_literal_window():
    """Two blocks of two outputs, 3 taps, stride 2, padding 1, on 7 px."""
    table = window_table(blocks=2, block_out=2, size=7, kernel=3, stride=2, padding=1)
    assert table.tolist() == [[-1, 0, 1, 2, 3], [3, 4, 5, 6, -1]]


def test_literal_taps():
    table = tap_table(blocks=2, block_out=2, size=6, kernel=2, dilation=3, padding=1)
    assert table.tolist() == [[-1, 2, 0, 3], [1, 4, 2, 5]]


def test_index_table_pads_and_cuts():
    index = torch.tensor([0, 0, 1, 1, 2])
    padded = index_table(blocks=2, block_out=4, index=index)
    assert padded.tolist() == [[0, 0, 1, 1], [2, -1, -1, -1]]
    assert index_table(blocks=1, block_out=3, index=index).tolist() == [[0, 0, 1]]
    assert padded.dtype == torch.int32
