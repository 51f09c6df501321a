"""Displacements: chains of translations, what comes from outside, what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.propagation import Displacement
from blockcopy_plugins.propagation.displacement import cells_of_grid

SIZE, CELL = (100, 132), 8


def translation(x, y, size=SIZE, cell=CELL):
    return Displacement.translation(x, y, size, cell)


steps = st.lists(
    st.tuples(st.floats(-6, 6, width=32), st.floats(-6, 6, width=32)), min_size=1, max_size=6
)


@given(steps)
def test_a_chain_of_translations_is_their_sum(shifts):
    chained = Displacement.still(SIZE, CELL)
    for x, y in shifts:
        chained = translation(x, y).since(chained)
    total = torch.tensor(shifts, dtype=torch.float64).sum(0).float()
    torch.testing.assert_close(
        chained.vectors, total.expand_as(chained.vectors), atol=1e-4, rtol=1e-5
    )


@given(steps)
def test_what_came_from_outside_the_picture_is_unknown(shifts):
    """A cell is known if each step of the way of its centre was inside."""
    chained = Displacement.still(SIZE, CELL)
    for x, y in shifts:
        chained = translation(x, y).since(chained)
    rows, columns = chained.confidence.shape
    for row in range(rows):
        for column in range(columns):
            y = (row * CELL + min((row + 1) * CELL, SIZE[0])) / 2
            x = (column * CELL + min((column + 1) * CELL, SIZE[1])) / 2
            margin = 1e9
            for dx, dy in reversed(shifts):
                x, y = x - dx, y - dy
                margin = min(margin, y, SIZE[0] - y, x, SIZE[1] - x)
            # Between the centres of cells confidence is interpolated.
            if margin > CELL:
                assert chained.confidence[row, column] > 0.5
            elif margin < -CELL:
                assert chained.confidence[row, column] < 0.5


def test_a_chain_follows_the_content_and_not_the_place():
    """What moves right at the left edge and then meets another motion has both."""
    first, second = Displacement.still((16, 64), 8), Displacement.still((16, 64), 8)
    first.vectors[:, :4] = torch.tensor([16.0, 0])  # the left half moves 16 px to the right
    second.vectors[:, 6:] = torch.tensor([16.0, 0])  # then what is now in columns 6 and 7 does
    chained = second.since(first)
    # Columns 6 and 7 come from columns 4 and 5, which had not moved.
    assert chained.vectors[0, :, 0].tolist() == [16, 16, 16, 16, 0, 0, 16, 16]


def test_different_motions_are_not_averaged():
    older = Displacement.still((8, 64), 8)
    older.vectors[:, 4:] = torch.tensor([20.0, 0])
    chained = translation(4, 0, (8, 64)).since(older)
    assert set(chained.vectors[0, 1:, 0].tolist()) == {4.0, 24.0}


def test_executed_cells_have_not_moved_since():
    moved = translation(3, 4)
    cells = torch.zeros(moved.confidence.shape, dtype=torch.bool)
    cells[2:5, 1:3] = True
    rest = moved.without(cells)
    assert not rest.vectors[2:5, 1:3].any()
    assert (rest.vectors[~cells] == torch.tensor([3.0, 4])).all()


def test_values_that_are_not_finite_are_unknown():
    vectors = torch.zeros(2, 2, 2)
    vectors[0, 1, 0] = float("nan")
    vectors[1, 0, 1] = float("inf")
    found = Displacement(vectors, torch.ones(2, 2), 8, (16, 16))
    assert found.confidence.tolist() == [[1, 0], [0, 1]]
    assert torch.isfinite(found.vectors).all() and found.is_still


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(2, 3, 2), torch.zeros(2, 2), 8, (16, 16)), r"found \(torch.float32, \(2, 3"),
        ((torch.zeros(2, 2, 2).double(), torch.zeros(2, 2), 8, (16, 16)), "float64"),
        ((torch.zeros(2, 2, 2), torch.zeros(2, 2), 0, (16, 16)), "cell=0"),
    ],
)
def test_bad_shapes_are_refused(arguments, message):
    with pytest.raises(FrameError, match=message):
        Displacement(*arguments)


def test_other_cells_cannot_be_chained():
    with pytest.raises(FrameError, match="cells of 8 px cannot continue one of"):
        Displacement.still((64, 64), 8).since(Displacement.still((64, 64), 16))


def test_cells_of_a_grid():
    grid = torch.tensor([[True, False], [False, True]])
    found = cells_of_grid(grid, 16, (30, 32), 8)
    assert found.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_where_nothing_has_moved_the_older_way_stays():
    older = Displacement(torch.randn(4, 6, 2), torch.rand(4, 6), 16, (60, 90))
    found = Displacement.still((60, 90), 16).since(older)
    assert torch.equal(found.vectors, older.vectors)
    assert torch.equal(found.confidence, older.confidence)
    # Not where one cell is unknown.
    unknown = Displacement.still((60, 90), 16).confidence.clone()
    unknown[2, 3] = 0
    still = Displacement(torch.zeros(4, 6, 2), unknown, 16, (60, 90))
    assert still.since(older).confidence[2, 3] == 0
