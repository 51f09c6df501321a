"""Moved objects, against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.propagation import Displacement, MovingObjects, Objects, object_shift

SIZE, BLOCK = (128, 192), 64
STILL = Displacement.still(SIZE, 8)


def objects(boxes, scores=None, labels=None, **parts):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return Objects(
        boxes,
        parts.pop("scale", (1.0, 1.0)),
        parts.pop("size", SIZE),
        torch.tensor(scores or [0.9 - 0.1 * i for i in range(count)]),
        torch.tensor(labels or [0] * count),
        **parts,
    )


def step(x, y):
    return Displacement.translation(x, y, SIZE, 8)


TWO = [[20.0, 20, 40, 60], [100.0, 30, 130, 90]]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=4))
def test_a_translation_moves_boxes_masks_and_keypoints_exactly(steps):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 25:50, 22:38] = True
    masks[1, 35:80, 105:120] = True
    points = torch.tensor([[[30.0, 30, 0.7]], [[110.0, 60, 0.4]]])
    found = objects(TWO, masks=masks, keypoints=points)
    moving = MovingObjects.fresh(found)
    x = y = frames = 0
    for dx, dy in steps:
        moving = moving.moved_by(step(dx, dy))
        x, y, frames = x + dx, y + dy, frames + ((dx, dy) != (0, 0))
    got = moving.delivered(True)
    assert torch.equal(got.boxes, found.boxes + torch.tensor([x, y, x, y]))
    assert torch.equal(got.masks, torch.roll(masks, (y, x), (1, 2)))
    assert torch.equal(got.keypoints, points + torch.tensor([x, y, 0.0]))
    torch.testing.assert_close(got.scores, found.scores * 0.98**frames)


def test_zero_motion_is_a_copy_bit_for_bit():
    found = objects(TWO, others={"track": torch.tensor([5, 6]), "names": ["a", "b"]})
    moving = MovingObjects.fresh(found).moved_by(STILL)
    got = moving.delivered(True)
    assert torch.equal(got.boxes, found.boxes) and torch.equal(got.scores, found.scores)
    assert torch.equal(got.others["track"], found.others["track"])
    got.boxes.zero_()
    assert torch.equal(moving.delivered(True).boxes, torch.tensor(TWO))


def test_each_object_moves_by_the_median_within():
    moved = Displacement.still(SIZE, 8)
    moved.vectors[2:9, 2:7] = torch.tensor([7.0, -2.0])  # the first and what it has left
    moved.vectors[6, 3] = torch.tensor([90.0, 90.0])  # one wrong vector
    got = MovingObjects.fresh(objects(TWO)).moved_by(moved).delivered(True)
    assert got.boxes.tolist() == [[27, 18, 47, 58], TWO[1]]
    # What stands still keeps its score.
    torch.testing.assert_close(got.scores, torch.tensor([0.9 * 0.98, 0.8]))


def test_motion_on_the_mask_counts_and_not_that_around_it():
    moved = Displacement.still(SIZE, 8)
    moved.vectors[:, :5] = torch.tensor([4.0, 0.0])
    boxes = torch.tensor([[0.0, 0, 80, 80]])
    mask = torch.zeros(1, 32, 48, dtype=torch.bool)
    mask[:, 3:18, 11:18] = True  # at a quarter of the size: columns 44 to 72 stand still
    left = torch.zeros_like(mask)
    left[:, 3:18, 1:8] = True
    for masks, wanted in [(mask, 0.0), (left, 4.0)]:
        shift = object_shift(boxes, moved, masks, (0.25, 0.25))
        assert shift.tolist() == [[wanted, 0.0]]


def test_unknown_motion_is_none():
    moved = step(5, 0)
    moved.confidence[:] = 0.3
    assert object_shift(torch.tensor(TWO), moved).tolist() == [[0, 0], [0, 0]]
    moved = step(5, 0)
    moved.confidence[:] = 0.3
    moved.confidence[2:5, 2:5] = 1
    assert object_shift(torch.tensor(TWO), moved).tolist() == [[5, 0], [0, 0]]


def test_a_box_that_leaves_the_picture_goes_and_one_at_its_edge_is_cut():
    moving = MovingObjects.fresh(objects([[150.0, 10, 180, 50], [2.0, 60, 30, 90]]))
    for _ in range(3):
        moving = moving.moved_by(step(8, 0))
    assert moving.delivered(True).boxes.tolist() == [[174, 10, 192, 50], [26, 60, 54, 90]]
    for _ in range(3):
        moving = moving.moved_by(step(8, 0))
    assert moving.delivered(True).boxes.tolist() == [[50, 60, 78, 90]]


def test_the_output_may_have_another_scale_than_the_network():
    found = objects([[40.0, 40, 80, 120]], scale=(0.5, 0.25), size=(256, 768))
    got = MovingObjects.fresh(found).moved_by(step(3, 4)).delivered(True)
    assert got.boxes.tolist() == [[52, 48, 92, 128]]


def test_rotated_boxes_move_by_their_centres():
    found = Objects(torch.tensor([[60.0, 60, 30, 10, 0.5]]), (1.0, 1.0), SIZE)
    got = MovingObjects.fresh(found).moved_by(step(3, -4)).delivered(True)
    assert got.boxes.tolist() == [[63, 56, 30, 10, 0.5]]


def grid(*executed):
    blocks = torch.zeros(2, 3, dtype=torch.bool)
    for row, column in executed:
        blocks[row, column] = True
    return blocks


def test_fresh_objects_stand_in_executed_blocks_and_moved_ones_elsewhere():
    moving = MovingObjects.fresh(objects(TWO, labels=[1, 2])).moved_by(step(6, 0))
    # The block of the first runs, and there it has moved by 7; the second is given as it was.
    fresh = objects([[27.0, 20, 47, 60], TWO[1]], [0.95, 0.8], [1, 2])
    got = moving.merged(fresh, grid((0, 0)), BLOCK).delivered(True)
    assert got.boxes.tolist() == [[27, 20, 47, 60], [106, 30, 136, 90]]
    torch.testing.assert_close(got.scores, torch.tensor([0.95, 0.8 * 0.98]))
    assert got.labels.tolist() == [1, 2]


def test_no_object_is_there_twice():
    """An object has moved over the edge into a block that does not run, and is found there too."""
    moving = MovingObjects.fresh(objects([[40.0, 20, 60, 60]]))
    moving = moving.moved_by(step(14, 0))  # now from 54 to 74, half in the next block
    fresh = objects([[53.0, 20, 73, 60]])  # of which the block that runs has the larger half
    got = moving.merged(fresh, grid((0, 0)), BLOCK).delivered(True)
    assert got.boxes.tolist() == [[53, 20, 73, 60]]


def test_an_object_that_is_gone_from_executed_blocks_is_gone():
    moving = MovingObjects.fresh(objects(TWO)).moved_by(step(6, 0))
    got = moving.merged(objects([TWO[1]]), grid((0, 0)), BLOCK).delivered(True)
    assert got.boxes.tolist() == [[106, 30, 136, 90]]


def test_an_object_that_left_its_place_for_an_executed_block_is_not_left_behind():
    """It has moved from a block that does not run into one that does, and is found there."""
    moving = MovingObjects.fresh(objects([[40.0, 20, 60, 60]]))
    moving = moving.moved_by(step(20, 0)).moved_by(step(20, 0))
    fresh = objects([[80.0, 20, 100, 60], [40.0, 20, 60, 60]])
    got = moving.merged(fresh, grid((0, 1)), BLOCK).delivered(True)
    assert got.boxes.tolist() == [[80, 20, 100, 60]]


def test_with_no_motion_it_is_what_the_model_gave():
    moving = MovingObjects.fresh(objects(TWO)).moved_by(STILL)
    fresh = objects([[1.0, 2, 30, 40], [100.0, 50, 120, 70], [5.0, 70, 30, 100]])
    got = moving.merged(fresh, grid((1, 1)), BLOCK).delivered(True)
    assert torch.equal(got.boxes, fresh.boxes) and torch.equal(got.scores, fresh.scores)


def test_joined_objects_keep_what_belongs_to_them_and_their_order_by_score():
    found = objects(TWO, [0.9, 0.8], others={"id": torch.tensor([1, 2]), "name": ["a", "b"]})
    moving = MovingObjects.fresh(found).moved_by(step(6, 0))
    fresh = objects(
        [[20.0, 80, 40, 120], TWO[1]], [0.5, 0.4], others={"id": torch.tensor([3, 4]),
                                                          "name": ["c", "d"]})  # fmt: skip
    got = moving.merged(fresh, grid((1, 0)), BLOCK).delivered(True)
    assert got.others == {"id": got.others["id"], "name": ["a", "b", "c"]}
    assert got.others["id"].tolist() == [1, 2, 3]


def test_copies_are_what_the_model_gave():
    moving = MovingObjects.fresh(objects(TWO)).moved_by(step(6, 0))
    assert moving.delivered(False).boxes.tolist() == TWO
    assert moving.delivered(False).scores.tolist() == pytest.approx([0.9, 0.8])


def test_no_objects_at_all():
    none = objects([], masks=torch.zeros(0, *SIZE, dtype=torch.bool))
    moving = MovingObjects.fresh(none).moved_by(step(6, 0))
    assert len(moving.delivered(True)) == 0
    assert len(moving.merged(none, grid((0, 0)), BLOCK).delivered(True)) == 0


def test_bad_objects_are_refused():
    with pytest.raises(FrameError, match=r"found \(3, 6\)"):
        Objects(torch.zeros(3, 6), (1.0, 1.0), SIZE)
    with pytest.raises(FrameError, match="scores are of 2 object"):
        Objects(torch.zeros(3, 4), (1.0, 1.0), SIZE, torch.zeros(2))
