"""scatter_planes_ and copy_blocks_ against loops over blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops import copy_blocks_, scatter_planes_

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
BOTH = ["op", "twin"]


def which(operator, name):
    return operator if name == "op" else operator.reference


@st.composite
def maps_and_blocks(draw):
    slots, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 19, 40]))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    block = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rows, columns = -(-height // block[0]), -(-width // block[1])
    every = torch.cartesian_prod(*(torch.arange(n) for n in (slots, rows, columns))).int()
    chosen = torch.tensor(draw(st.lists(st.booleans(), min_size=len(every), max_size=len(every))))
    return (slots, channels, height, width), block, every[chosen].contiguous()


def values(shape, dtype, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=draw).to(dtype)


def place(block, blocks, i):
    slot, row, column = blocks[i].tolist()
    rows = slice(row * block[0], (row + 1) * block[0])
    return slot, slice(None), rows, slice(column * block[1], (column + 1) * block[1])


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=60, deadline=None)
@given(maps_and_blocks(), st.sampled_from(DTYPES), st.booleans())
def test_scatter_planes(name, drawn, dtype, channels_last):
    shape, block, blocks = drawn
    state, packed = values(shape, dtype, 0), values((len(blocks), shape[1], *block), dtype, 1)
    wanted = state.clone()
    for i in range(len(blocks)):
        at = place(block, blocks, i)
        target = wanted[at]
        target.copy_(packed[i, :, : target.shape[1], : target.shape[2]])
    if channels_last:
        packed = packed.contiguous(memory_format=torch.channels_last)
    version = state._version
    which(scatter_planes_, name)(state, packed, blocks)
    assert torch.equal(state, wanted)
    assert not len(blocks) or state._version > version


@st.composite
def maps_and_grids(draw):
    slots, channels = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 19, 40]))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    block = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    # A map may have more blocks than its grid, or fewer.
    more = draw(st.integers(-1, 1)), draw(st.integers(-1, 1))
    sides = [max(1, -(-n // b) + m) for n, b, m in zip((height, width), block, more, strict=True)]

    def grid():
        if draw(st.integers(0, 4)) == 0:
            return torch.tensor(draw(st.booleans()))
        flags = draw(st.lists(st.booleans(), min_size=slots * sides[0] * sides[1], max_size=2000))
        return torch.tensor(flags[: slots * sides[0] * sides[1]]).view(slots, *sides)

    return (slots, channels, height, width), block, grid(), grid()


def of_pixels(grid, shape, block):
    """The value of a grid for each pixel of a map, ``(S, 1, H, W)``."""
    if grid.dim() == 0:
        return grid
    rows = (torch.arange(shape[2]) // block[0]).clamp(max=grid.shape[1] - 1)
    columns = (torch.arange(shape[3]) // block[1]).clamp(max=grid.shape[2] - 1)
    return grid[:, rows][:, :, columns].unsqueeze(1)


@pytest.mark.parametrize("name", BOTH)
@settings(max_examples=60, deadline=None)
@given(maps_and_grids(), st.sampled_from(DTYPES), st.booleans())
def test_copy_blocks(name, drawn, dtype, planes):
    shape, block, wanted, left_out = drawn
    layout = torch.contiguous_format if planes else torch.channels_last
    map_ = values(shape, dtype, 0).contiguous(memory_format=layout)
    source = values(shape, dtype, 1).contiguous(memory_format=torch.channels_last)
    chosen = of_pixels(wanted, shape, block) & ~of_pixels(left_out, shape, block)
    expected, version = torch.where(chosen, source, map_), map_._version
    which(copy_blocks_, name)(map_, source, wanted, left_out, block)
    assert torch.equal(map_, expected)
    assert not chosen.any() or map_._version > version


@pytest.mark.parametrize("name", BOTH)
def test_blocks_beyond_the_map_are_refused_and_nothing_is_written(name):
    state, packed = torch.zeros(1, 2, 4, 4), torch.ones(2, 2, 2, 2)
    for wrong in ([1, 0, 0], [0, 2, 0], [0, 0, -1]):
        blocks = torch.tensor([[0, 0, 0], wrong], dtype=torch.int32)
        with pytest.raises(IndexError, match="out of range"):
            which(scatter_planes_, name)(state, packed, blocks)
    assert not state.any()


@pytest.mark.parametrize("name", BOTH)
def test_other_layouts_and_shapes_are_refused(name):
    blocks = torch.zeros(1, 3, dtype=torch.int32)
    last = torch.zeros(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="scatter_planes_: state must be contiguous"):
        which(scatter_planes_, name)(last, torch.ones(1, 2, 2, 2), blocks)
    copy, yes, no = which(copy_blocks_, name), torch.tensor(True), torch.tensor(False)
    with pytest.raises(ValueError, match="copy_blocks_: source is"):
        copy(last, torch.zeros(1, 2, 4, 4), yes, no, (2, 2))
    with pytest.raises(ValueError, match="copy_blocks_: source is"):
        copy(last, last[:, :, :2], yes, no, (2, 2))
    with pytest.raises(ValueError, match="copy_blocks_: map has shape"):
        copy(torch.zeros(1, 2, 4, 8)[..., ::2], last, yes, no, (2, 2))
    with pytest.raises(ValueError, match="copy_blocks_: block is"):
        copy(last, last.clone(), yes, no, (0, 2))
    gaps = torch.ones(1, 2, 4, dtype=torch.bool)[..., ::2]
    for wrong in (torch.ones(2, 2, 2) > 0, torch.ones(1, 2, 2), gaps):
        with pytest.raises(ValueError, match="copy_blocks_: wanted is"):
            copy(last, last.clone(), wrong, no, (2, 2))
        with pytest.raises(ValueError, match="copy_blocks_: left_out is"):
            copy(last, last.clone(), yes, wrong, (2, 2))
