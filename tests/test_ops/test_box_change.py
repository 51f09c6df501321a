"""box_change against a hand-computed case and pixel-wise painting in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.box_change import box_change

IMPLEMENTATIONS = [
    pytest.param(box_change, id="op"),
    pytest.param(box_change.reference, id="twin"),
]
SIZE, BLOCK, CELLS = (70, 100), 32, 8  # 3 x 4 blocks, cells of 4 px


def tensors(rows):
    """Rows of (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return table[:, :4].float(), table[:, 4].float(), table[:, 5].long()


def overlap(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def clip(row):
    limits = (SIZE[1], SIZE[0], SIZE[1], SIZE[0])
    box = [min(max(value, 0), limit) for value, limit in zip(row[:4], limits, strict=True)]
    return (*box, *row[4:])


def covered(box, side, row, column):
    """Whether a box reaches into a square of a side."""
    return (
        box[0] < (column + 1) * side
        and box[2] > column * side
        and box[1] < (row + 1) * side
        and box[3] > row * side
    )


def definition(now, before):
    """Gain, mean score and highest score of each block, lists of rows."""
    now, before = (
        [row for row in map(clip, rows) if row[0] < row[2] and row[1] < row[3]]
        for rows in (now, before or [])
    )
    painted, left = [], [None] * len(before)
    for row in now:
        best, match = 0, None
        for index, other in enumerate(before):
            if row[5] == other[5] and overlap(row, other) > best:
                best, match = overlap(row, other), index
        painted.append((row, (1 - best) * row[4]))
        if match is not None:
            left[match] = max(left[match] or 0, 1 - best)
    painted += [
        (row, (1 if moved is None else moved) * row[4])
        for row, moved in zip(before, left, strict=True)
    ]
    table = torch.zeros(3, 3, 4, dtype=torch.float64)
    for y in range(3):
        for x in range(4):
            table[0, y, x] = max((v for row, v in painted if covered(row, BLOCK, y, x)), default=0)
            cells = [
                max((row[4] for row in now if covered(row, 4, 8 * y + i, 8 * x + j)), default=0)
                for i in range(CELLS)
                for j in range(CELLS)
            ]
            table[1, y, x], table[2, y, x] = sum(cells) / 64, max(cells)
    return table


# Quarters of pixels, so that nothing depends on rounding; some end at the border of a block.
PLACES = st.one_of(st.integers(-20, 440).map(lambda n: n / 4), st.sampled_from([32.0, 64.0, 96.0]))
SCORES = st.sampled_from([0.25, 0.5, 1.0])
ROWS = st.tuples(PLACES, PLACES, PLACES, PLACES, SCORES, st.integers(0, 1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=40, deadline=None)
@given(now=st.lists(ROWS, max_size=5), before=st.lists(ROWS, max_size=5))
def test_any_boxes(implementation, now, before):
    kept, _ = implementation(*tensors(before), None, None, None, SIZE, BLOCK, CELLS)
    old = (kept, *tensors(before)[1:])
    clipped, blocks = implementation(*tensors(now), *old, SIZE, BLOCK, CELLS)
    assert clipped.tolist() == [list(clip(row)[:4]) for row in now]
    torch.testing.assert_close(blocks.double(), definition(now, before), atol=1e-6, rtol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_by_hand(implementation):
    old = tensors([(0, 0, 16, 16, 0.5, 3), (64, 0, 96, 32, 1.0, 3)])
    now = tensors([(8, 0, 24, 16, 0.75, 3), (-9, 60, 20, 90, 0.5, 1), (5, 5, 5, 9, 1.0, 3)])
    clipped, blocks = implementation(*now, *old, SIZE, BLOCK, CELLS)
    # The first overlaps with a third and has moved; the second has come; of those before the second
    # has gone, up to the border of its block.
    assert clipped[1].tolist() == [0, 60, 20, 70]
    moved = 2 / 3 * 0.75
    expected = [[moved, 0, 1, 0], [0.5, 0, 0, 0], [0.5, 0, 0, 0]]
    torch.testing.assert_close(blocks[0], torch.tensor(expected))
    # 4 x 4 of 64 cells; 5 of the lowest row; 2 rows of 5, of which the second is cut by the edge.
    assert blocks[1, :, 0].tolist() == [0.75 / 4, 0.5 * 5 / 64, 0.5 * 10 / 64]
    assert blocks[2, :, 0].tolist() == [0.75, 0.5, 0.5] and not blocks[1:, :, 1:].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    boxes, scores, labels = tensors([(0, 0, 4, 4, 1, 0)])
    none = (None, None, None)
    with pytest.raises(TypeError, match="dtype"):
        implementation(boxes.double(), scores, labels, *none, SIZE, BLOCK, CELLS)
    with pytest.raises(ValueError, match="shape"):
        implementation(boxes[:, :3], scores, labels, *none, SIZE, BLOCK, CELLS)
    with pytest.raises(ValueError, match="some are None"):
        implementation(boxes, scores, labels, boxes, None, labels, SIZE, BLOCK, CELLS)
    with pytest.raises(ValueError, match="size"):
        implementation(boxes, scores, labels, *none, SIZE, 0, CELLS)
    with pytest.raises(RuntimeError, match="backward"):
        implementation(boxes.requires_grad_(), scores, labels, *none, SIZE, BLOCK, CELLS)


def test_the_operator_is_well_registered():
    now, old = tensors([(8, 0, 24, 16, 0.75, 3)]), tensors([(0, 0, 16, 16, 0.5, 3)])
    torch.library.opcheck(
        torch.ops.blockcopy.box_change.default, (*now, *old, list(SIZE), BLOCK, CELLS)
    )
