"""Which blocks of a grid are executed, against loops over the grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.engine.frame import grid_lists
from blockcopy_plugins.engine.frame.grid_lists import count_blocks, list_blocks
from blockcopy_plugins.ops.library import extension_module


@pytest.fixture(params=["native", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(grid_lists, "_NATIVE", None)
    elif extension_module() is None:
        pytest.skip("the extension is not built")


@st.composite
def grids(draw):
    shape = [draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    size = shape[0] * shape[1] * shape[2]
    flags = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor(flags, dtype=torch.bool).view(shape)


@settings(max_examples=100, deadline=None)
@given(grids())
def check_counts(grid):
    expected = tuple(sum(flag for row in image for flag in row) for image in grid.tolist())
    assert count_blocks(grid) == expected


@settings(max_examples=150, deadline=None)
@given(grids(), st.integers(0, 7), st.integers(0, 7))
def check_lists(grid, rows, columns):
    height, width = grid.shape[1:]
    expected = [
        (image, row, column)
        for image in range(len(grid))
        for row in range(rows)
        for column in range(columns)
        if grid[image, min(row, height - 1), min(column, width - 1)]
    ]
    found = list_blocks(grid, rows, columns)
    assert found.dtype == torch.int32 and found.shape == (len(expected), 3)
    assert found.is_contiguous() and list(map(tuple, found.tolist())) == expected


def test_blocks_of_each_image_are_counted(way):
    check_counts()


def test_blocks_are_listed_in_order_and_go_on_beyond_the_grid(way):
    check_lists()


def test_grids_with_gaps(way):
    grid = (torch.arange(24).view(2, 3, 4) % 3 == 0)[:, :, ::2]
    assert count_blocks(grid) == tuple(grid.flatten(1).sum(1).tolist())
    assert torch.equal(list_blocks(grid, 3, 2), grid.nonzero().int())


def test_the_native_functions_refuse_what_is_not_a_grid():
    native = extension_module()
    if native is None:
        pytest.skip("the extension is not built")
    for wrong in (torch.ones(2, 3) > 0, torch.ones(1, 2, 2), (torch.ones(1, 2, 4) > 0)[..., ::2]):
        with pytest.raises(ValueError, match="the grid is"):
            native.count_blocks(wrong)
        with pytest.raises(ValueError, match="the grid is"):
            native.list_blocks(wrong, 2, 2)
    with pytest.raises(TypeError, match="expected a tensor"):
        native.count_blocks([True])
    with pytest.raises(TypeError, match="expected 3 arguments"):
        native.list_blocks(torch.ones(1, 2, 2) > 0)
    with pytest.raises(ValueError, match="cannot list"):
        native.list_blocks(torch.ones(1, 2, 2) > 0, -1, 2)
