"""merge_picture, block by block."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.merge_picture import merge_picture

IMPLEMENTATIONS = [
    pytest.param(merge_picture, id="op"),
    pytest.param(merge_picture.reference, id="twin"),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("cells", [4, 16])
def test_executed_blocks_are_new_and_the_others_as_before(implementation, cells):
    before, now = torch.randn(2, 3, 3 * cells, 5 * cells).unbind(0)
    grid = torch.rand(3, 5) > 0.5
    kept = before.clone()
    out = implementation(before, now, grid, cells)
    for row, column in torch.cartesian_prod(torch.arange(3), torch.arange(5)).tolist():
        part = (
            slice(None),
            slice(row * cells, row * cells + cells),
            slice(column * cells, column * cells + cells),
        )
        assert torch.equal(out[part], (now if grid[row, column] else before)[part])
    assert torch.equal(before, kept)
    assert torch.equal(implementation(before.mT.contiguous().mT, now, grid, cells), out)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    picture, grid = torch.zeros(3, 8, 8), torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="shape"):
        implementation(picture, picture, grid, 5)
    with pytest.raises(ValueError, match="shape"):
        implementation(picture, picture[:1], grid, 4)
    with pytest.raises(TypeError, match="dtype"):
        implementation(picture.double(), picture, grid, 4)


def test_the_operator_is_well_registered():
    picture, grid = torch.randn(3, 8, 12), torch.rand(2, 3) > 0.5
    torch.library.opcheck(
        torch.ops.blockcopy.merge_picture.default, (picture, picture + 1, grid, 4)
    )
