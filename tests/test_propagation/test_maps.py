"""Moved maps, against slices of the map, a bilinear formula, and a ramp that is known anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.propagation import Displacement, MapPart, MovingMap, Region, move_map

SIZE, BLOCK = (64, 96), 32
REGION = Region.whole(SIZE)
STILL = Displacement.still(SIZE, 8)


def step(x, y):
    return Displacement.translation(x, y, SIZE, 8)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def shifted(value, copied, x, y):
    """What an integer translation must give, by plain indexing."""
    wanted = copied.clone()
    height, width = value.shape[-2:]
    to = wanted[..., max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
    to.copy_(value[..., max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)])
    return wanted


def test_zero_motion_is_a_copy_bit_for_bit():
    value = torch.randn(3, 16, 24)
    value[0, 0, :4] = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan")])
    got = move_map(value, value, STILL, REGION)
    assert torch.equal(bits(got), bits(value)) and got.data_ptr() != value.data_ptr()


def test_cells_that_stand_still_among_moving_ones_are_copied_bit_for_bit():
    moved = Displacement.still(SIZE, 8)
    moved.vectors[:, 9:] = 3.3
    value = torch.randn(2, *SIZE)
    value[0, 0, 0] = -0.0
    got = move_map(value, value, moved, REGION)
    assert torch.equal(bits(got[..., :64]), bits(value[..., :64]))
    assert not torch.equal(got[..., 80:], value[..., 80:])


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@settings(max_examples=20)
@given(st.integers(-9, 9), st.integers(-9, 9))
def test_a_translation_by_whole_pixels_is_exact(stride, dtype, x, y):
    value = (torch.randn(2, SIZE[0] // stride, SIZE[1] // stride) * 5).to(dtype)
    copied = (torch.randn(value.shape) * 5).to(dtype)
    got = move_map(value, copied, step(x * stride, y * stride), REGION)
    wanted = copied if x == y == 0 else shifted(value, copied, x, y)
    assert torch.equal(got, wanted)


def test_between_pixels_it_is_bilinear():
    value, moved = torch.randn(2, *SIZE), step(2.25, -1.5)
    got = move_map(value, value, moved, REGION).numpy()
    given = value.numpy()
    for row, column in [(10, 10), (40, 33), (5, 90), (60, 3)]:
        top, left = row + 1, column - 3  # from (row + 1.5, column - 2.25)
        corner = given[:, top : top + 2, left : left + 2]
        wanted = (
            corner[:, 0, 0] * 0.5 * 0.25
            + corner[:, 0, 1] * 0.5 * 0.75
            + corner[:, 1, 0] * 0.5 * 0.25
            + corner[:, 1, 1] * 0.5 * 0.75
        )
        np.testing.assert_allclose(got[:, row, column], wanted, atol=1e-4)


def test_what_is_unknown_or_from_outside_is_copied():
    moved = step(8, 0)
    moved.confidence[:, 5:7] = 0.2
    value, copied = torch.randn(1, *SIZE), torch.randn(1, *SIZE)
    got = move_map(value, copied, moved, REGION)
    assert torch.equal(got[..., :8], copied[..., :8])
    assert torch.equal(got[..., 44:52], copied[..., 44:52])
    assert torch.equal(got[..., 12:36], value[..., 4:28])


moves = st.lists(
    st.tuples(st.floats(-3, 3, width=16), st.floats(-3, 3, width=16)), min_size=1, max_size=8
)


@settings(max_examples=40)
@given(moves)
def test_chained_is_as_good_as_direct(steps):
    value = torch.randn(3, *SIZE)
    moving = MovingMap.fresh(MapPart(value, REGION))
    for x, y in steps:
        moving = moving.moved_by(step(x, y))
    total = np.sum(np.array(steps, np.float64), axis=0)
    direct = move_map(value, value, step(*total.tolist()), REGION)
    reach = int(np.abs(np.cumsum(np.array(steps)[::-1], axis=0)).max()) + 12
    inside = (slice(None), slice(reach, SIZE[0] - reach), slice(reach, SIZE[1] - reach))
    # Both are rounded to a thirty-second of a pixel.
    ramp = torch.arange(SIZE[1], dtype=torch.float32).expand(1, *SIZE).contiguous()
    found = MovingMap(MapPart(ramp, REGION), ramp, moving.since).delivered(True).value[inside]
    wanted = move_map(ramp, ramp, step(*total.tolist()), REGION)[inside]
    torch.testing.assert_close(found, wanted, atol=1 / 31, rtol=0)
    if np.allclose(total * 32 % 1, 0) and moving.since.share_known == 1:
        torch.testing.assert_close(moving.delivered(True).value[inside], direct[inside])


@pytest.mark.parametrize("stride", [1, 4])
def test_a_value_is_interpolated_once_however_often_it_was_moved(stride):
    """A wave of two pixels: interpolated half-way twice, nothing would be left of it."""
    shape = (SIZE[0] // stride, SIZE[1] // stride)
    value = torch.randn(1, *shape)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    corner = nothing.clone()
    corner[0, 0] = True
    moving = MovingMap.fresh(MapPart(value, REGION))
    for _ in range(6):
        moving = moving.moved_by(step(0.75 * stride, 0)).merged(
            MapPart(value, REGION), corner, BLOCK
        )
    got = moving.delivered(True).value
    # 4.5 pixels to the right: the mean of two neighbours, once.
    wanted = (value[..., :-5] + value[..., 1:-4]) / 2
    region = (slice(None), slice(36 // stride, None), slice(56 // stride, None))
    torch.testing.assert_close(got[region], wanted[..., 36 // stride :, 56 // stride - 5 :],
                               atol=1e-4, rtol=1e-4)  # fmt: skip


def test_executed_blocks_are_taken_and_the_rest_is_moved():
    value, fresh = torch.randn(2, *SIZE), torch.randn(2, *SIZE)
    executed = torch.tensor([[True, False, False], [False, False, True]])
    moving = MovingMap.fresh(MapPart(value, REGION)).moved_by(step(5, 0))
    got = moving.merged(MapPart(fresh, REGION), executed, BLOCK).delivered(True).value
    pixels = executed.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    wanted = torch.where(pixels, fresh, shifted(value, fresh, 5, 0))
    # The cells at the edges of executed blocks are interpolated: half a cell is neither.
    near = torch.zeros(SIZE, dtype=torch.bool)
    for edge in (32, 64):
        near[:, edge - 8 : edge + 8] = True
    near[24:40] = True
    # A cell whose centre came from outside is copied as a whole.
    near[:, :12] = True
    assert torch.equal(got[:, ~near], wanted[:, ~near])
    assert torch.equal(got[:, pixels & ~near], fresh[:, pixels & ~near])


def test_what_was_moved_stays_moved_when_the_motion_ends():
    value, fresh = torch.randn(1, *SIZE), torch.randn(1, *SIZE)
    executed = torch.zeros(2, 3, dtype=torch.bool)
    executed[0, 0] = True
    moving = MovingMap.fresh(MapPart(value, REGION)).moved_by(step(6, 0))
    for _ in range(3):
        moving = moving.merged(MapPart(fresh, REGION), executed, BLOCK).moved_by(STILL)
    got = moving.delivered(True).value
    assert torch.equal(got[:, 40:, 40:], value[:, 40:, 34:-6])
    assert torch.equal(got[:, :24, :24], fresh[:, :24, :24])


def test_with_no_motion_it_is_what_the_model_gave_bit_for_bit():
    value, fresh = torch.randn(1, *SIZE), torch.randn(1, *SIZE)
    executed = torch.zeros(2, 3, dtype=torch.bool)
    executed[1, 1] = True
    moving = (
        MovingMap.fresh(MapPart(value, REGION))
        .moved_by(STILL)
        .merged(MapPart(fresh, REGION), executed, BLOCK)
    )
    assert torch.equal(moving.delivered(True).value, fresh)


def test_copies_are_what_the_model_gave():
    value, fresh = torch.randn(1, *SIZE), torch.randn(1, *SIZE)
    executed = torch.zeros(2, 3, dtype=torch.bool)
    moving = MovingMap.fresh(MapPart(value, REGION)).moved_by(step(6, 2))
    assert torch.equal(moving.delivered(False).value, value)
    moving = moving.merged(MapPart(fresh, REGION), executed, BLOCK)
    got = moving.delivered(False).value
    assert torch.equal(got, fresh)
    got.zero_()
    assert torch.equal(moving.delivered(False).value, fresh)


def test_a_whole_frame_forgets_what_was():
    value, fresh = torch.randn(1, *SIZE), torch.randn(1, *SIZE)
    moving = MovingMap.fresh(MapPart(value, REGION)).moved_by(step(6, 2))
    moving = moving.merged(MapPart(fresh, REGION), torch.ones(2, 3, dtype=torch.bool), BLOCK)
    assert torch.equal(moving.delivered(True).value, fresh) and not moving.has_moved


def test_regions_tell_maps_from_other_tensors():
    region = Region.whole((360, 480))
    for shape in [(360, 480), (45, 60), (23, 30), (12, 15), (180, 240)]:
        assert region.is_map(shape), shape
    for shape in [(100, 4), (1, 1), (60, 45), (300, 6), (7,)]:
        assert not region.is_map(shape), shape


def test_a_map_of_a_part_of_the_input_moves_with_that_part():
    """Sixteen rows of padding above: the map's cells lie sixteen pixels lower."""
    moved = Displacement.still(SIZE, 8)
    moved.vectors[4:, :, 0] = 8.0
    value = torch.randn(1, 48, 96)
    got = move_map(value, value, moved, Region(16, 0, 48, 96))
    assert torch.equal(got[:, :12], value[:, :12])
    assert torch.equal(got[:, 21:, 8:], value[:, 21:, :-8])


def test_a_thinned_map_is_the_large_one_at_every_so_many_pixels():
    size = (480, 640)
    value = torch.arange(480.0)[:, None] + 1000 * torch.arange(640.0)
    large = MovingMap.fresh(MapPart(value[None], Region.whole(size)))
    small = large.thinned()
    assert small.part.value.shape == (1, 240, 320) and small.copied is small.part.value
    # Two pixels of the input are one of the thinned map: it moves alike.
    moved = [one.moved_by(Displacement.translation(8, 4, size)) for one in (large, small)]
    whole, thin = (one.delivered(True).value for one in moved)
    assert torch.equal(thin, whole[:, 1::2, 1::2])
