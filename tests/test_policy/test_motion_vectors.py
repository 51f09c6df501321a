"""The motion vector policy on motion fields made by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError, FrameError, GridError
from blockcopy_plugins.policy import MotionField, MotionVectorPolicy, PolicyContext

SIZE = (64, 128)  # 4 x 8 cells of 16 px; 2 x 4 blocks of 32 px
BLOCK = 32


def field(moved=None, renewed=(), size=SIZE, **more):
    """A field in which some cells ``(row, column)`` have moved by ``(x, y)``."""
    shape = (-(-size[0] // 16), -(-size[1] // 16))
    displacement = torch.zeros(*shape, 2, dtype=torch.float64)
    for cell, vector in (moved or {}).items():
        displacement[cell] = torch.tensor(vector, dtype=torch.float64)
    counts = torch.zeros(shape, dtype=torch.int64)
    for cell in renewed:
        counts[cell] += 1
    return MotionField(displacement, counts, size, **more)


def context_of(fields, first=False, streams=None, size=SIZE, block=BLOCK):
    shape = (len(fields), -(-size[0] // block), -(-size[1] // block))
    return PolicyContext(
        streams=tuple(range(len(fields)) if streams is None else streams),
        grid_shape=shape,
        block_size=block,
        first=torch.full((len(fields),), first),
        frame_index=(0 if first else 1,) * len(fields),
        last_grid=torch.zeros(shape, dtype=torch.bool),
        motion=tuple(fields),
    )


def step(policy, *fields, executed=None, size=SIZE, **options):
    """Run a frame as the engine does; the grid that was chosen."""
    context = context_of(fields, size=size, **options)
    frame = torch.zeros(len(fields), 3, *size)
    grid = policy.select(frame, context) | context.first[:, None, None]
    policy.feedback(frame, grid if executed is None else executed, None, context)
    return grid


def blocks(grid):
    return [tuple(place) for place in grid.nonzero().tolist()]


def test_what_moves_further_than_the_threshold_runs():
    policy = MotionVectorPolicy(2.0)
    assert step(policy, field(), first=True).all()
    assert blocks(step(policy, field({(0, 1): (1.2, -1.7), (3, 7): (-1.9, 0)}))) == [(0, 0, 0)]
    # Block (0, 0) was executed there; the other has gone on.
    assert blocks(step(policy, field({(0, 1): (1.2, -1.7), (3, 7): (-2.2, 0)}))) == [(0, 1, 3)]


def test_slow_motion_adds_up_and_shaking_does_not():
    policy = MotionVectorPolicy(2.0)
    step(policy, field(), first=True)
    shake = [(1.5, 0), (0, 0), (1.5, 0.5), (-0.5, 0), (1.0, 1.0), (0, 0)]
    runs = []
    for index in range(1, 13):
        grid = step(policy, field({(0, 0): (0.5 * index, 0), (2, 4): shake[index % 6]}))
        runs.append(blocks(grid))
    # More than 2 px are 5 frames of half a pixel.
    assert [index + 1 for index, found in enumerate(runs) if found] == [5, 10]
    assert runs[4] == runs[9] == [(0, 0, 0)]


def test_a_renewed_macroblock_counts_as_moved_by_its_side():
    for threshold, executed in ((15.9, True), (16.1, False)):
        policy = MotionVectorPolicy(threshold)
        step(policy, field(), first=True)
        found = blocks(step(policy, field(renewed=[(1, 6)])))
        assert found == ([(0, 0, 3)] if executed else [])
        # That it was executed once is enough; what was not is still to come.
        assert blocks(step(policy, field(renewed=[(1, 6)]))) == []
    policy = MotionVectorPolicy()
    step(policy, field(), first=True)
    nothing = torch.zeros(1, 2, 4, dtype=torch.bool)
    for _ in range(2):
        assert blocks(step(policy, field(renewed=[(1, 6)]), executed=nothing)) == [(0, 0, 3)]


def test_a_video_that_is_opened_again_counts_from_zero():
    policy = MotionVectorPolicy()
    moved = field({(0, 0): (9, 0)}, renewed=[(3, 7), (3, 7)])
    step(policy, moved, first=True)
    assert blocks(step(policy, field(renewed=[(3, 7)]))) == [(0, 0, 0), (0, 1, 3)]


def test_distances_are_pixels_of_the_network_input():
    """A picture at half its width and a quarter of its height, padded below."""
    still, size = field(size=(256, 256)), (96, 128)
    moved = field({(2, 3): (3.0, 4.0)}, size=(256, 256))
    policy = MotionVectorPolicy()
    options = dict(size=size)
    step(policy, still.at_scale(0.25, 0.5), first=True, **options)
    context = context_of([moved.at_scale(0.25, 0.5)], **options)
    policy.select(torch.zeros(1, 3, *size), context)
    scores = policy.scores(torch.zeros(1, 3, *size), context)
    # A row of 16 px is 4 px of the input, the third at 8..12; a column 8, the fourth at 24..32.
    assert scores.dtype == torch.float32 and scores.count_nonzero() == 1
    assert scores[0, 0, 0] == pytest.approx((1.5**2 + 1) ** 0.5)
    assert policy.scores(torch.zeros(1, 3, *size), context_of([moved], **options)) is None
    # Without a scale the picture fills the input.
    step(policy, still, first=True, **options)
    context = context_of([moved], **options)
    policy.select(torch.zeros(1, 3, *size), context)
    scores = policy.scores(torch.zeros(1, 3, *size), context)
    assert scores[0, 0, 0] == pytest.approx((1.5**2 + (4 * 96 / 256) ** 2) ** 0.5)


def overlaps(start, end, other_start, other_end):
    return min(end, other_end) - max(start, other_start) > 1e-2


@settings(max_examples=80)
@given(data=st.data())
def test_cells_belong_to_the_blocks_that_they_touch(data):
    block = data.draw(st.sampled_from([8, 13, 32, 64]))
    picture = (data.draw(st.integers(5, 90)), data.draw(st.integers(5, 90)))
    scale = tuple(data.draw(st.sampled_from([0.31, 0.5, 1.0, 1.7, 3.0])) for _ in range(2))
    pad = (data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40)))
    size = tuple(round(p * s) + extra for p, s, extra in zip(picture, scale, pad, strict=True))
    origin = (data.draw(st.integers(-15, 0)), data.draw(st.integers(-15, 0)))
    shape = tuple(-(-(p - o) // 16) for p, o in zip(picture, origin[::-1], strict=True))
    cell = (data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1)))

    def made(vector):
        displacement = torch.zeros(*shape, 2, dtype=torch.float64)
        displacement[cell] = torch.tensor(vector, dtype=torch.float64)
        counts = torch.zeros(shape, dtype=torch.int64)
        return MotionField(displacement, counts, picture, 16, origin, scale)

    policy = MotionVectorPolicy(1.0)
    options = dict(size=size, block=block)
    step(policy, made((0, 0)), first=True, **options)
    grid = step(policy, made((40, 0)), **options)[0]
    top, left = ((c * 16 + o) * s for c, o, s in zip(cell, origin[::-1], scale, strict=True))
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            touches = overlaps(
                row * block, (row + 1) * block, top, top + 16 * scale[0]
            ) and overlaps(column * block, (column + 1) * block, left, left + 16 * scale[1])
            assert bool(grid[row, column]) == touches
    # All of them were executed, so that nothing is left; but for one of them, it is.
    assert not step(policy, made((40, 0)), **options).any()
    again = step(policy, made((80, 0)), executed=torch.zeros(1, *grid.shape, dtype=bool), **options)
    assert torch.equal(again[0], grid)
    if grid.sum() > 1:
        one_less = grid.clone()
        one_less[tuple(grid.nonzero()[-1])] = False
        step(policy, made((80, 0)), executed=one_less[None], **options)
        assert torch.equal(step(policy, made((80, 0)), **options)[0], grid)


def test_looking_changes_nothing():
    policy = MotionVectorPolicy()
    step(policy, field(), first=True)
    frame = torch.zeros(1, 3, *SIZE)
    policy.select(frame, context_of([field({(3, 0): (50, 50)})]))  # this frame fails
    context = context_of([field({(0, 0): (9, 0)})])
    assert [blocks(policy.select(frame, context)) for _ in range(3)] == [[(0, 0, 0)]] * 3
    policy.feedback(frame, policy.select(frame, context), None, context)
    assert not policy.select(frame, context_of([field({(0, 0): (9, 0)})])).any()


def test_feedback_alone():
    policy = MotionVectorPolicy()
    frame = torch.zeros(1, 3, *SIZE)
    grid = torch.zeros(1, 2, 4, dtype=torch.bool)
    policy.feedback(frame, grid | True, None, context_of([field()]))
    moved = field({(0, 0): (9, 0), (0, 7): (9, 0)})
    grid[0, 0, 0] = True
    policy.feedback(frame, grid, None, context_of([moved]))
    assert blocks(policy.select(frame, context_of([moved]))) == [(0, 0, 3)]


def test_streams_change_places_and_are_forgotten():
    policy = MotionVectorPolicy()
    one, other = field({(0, 0): (5, 5)}), field({(2, 2): (7, 7)})
    step(policy, one, other, streams="ab", first=True)
    assert not step(policy, other, one, streams="ba").any()
    assert not step(policy, other, streams="b").any()
    policy.reset(["a"])
    assert set(policy.memory) == {"b"}
    grid = step(policy, one, other, streams="ab")
    assert grid[0].all() and not grid[1].any()
    policy.reset()
    assert not policy.memory and step(policy, one, streams="a").all()


def test_a_field_of_another_size_begins_anew():
    policy = MotionVectorPolicy()
    step(policy, field(), first=True)
    assert step(policy, field(size=(64, 64))).all()


def test_target_holds_the_rate():
    draw = torch.Generator().manual_seed(0)
    policy = MotionVectorPolicy(target=0.25)
    total = torch.zeros(4, 8, 2, dtype=torch.float64)
    speed = torch.rand(4, 8, 1, generator=draw, dtype=torch.float64)
    grids = []
    for index in range(300):
        total = total + 3 * speed * torch.rand(4, 8, 2, generator=draw, dtype=torch.float64)
        counts = torch.zeros(4, 8, dtype=torch.int64)
        grids.append(step(policy, MotionField(total, counts, SIZE), first=index == 0))
    assert abs(torch.stack(grids[100:]).float().mean() - 0.25) < 0.03


def test_a_field_is_its_own_copy():
    made = field()
    assert copy.deepcopy({"motion": made})["motion"] is made


def test_without_motion_vectors():
    policy = MotionVectorPolicy()
    frame = torch.zeros(2, 3, *SIZE)
    context = context_of([field(), None], streams=["cam0", "cam7"])
    with pytest.raises(FrameError, match="stream 'cam7' came without motion vectors.*motion=True"):
        policy.select(frame, context)
    with pytest.raises(GridError, match="of 1 image.s., but the batch has 2"):
        PolicyContext(
            streams=(0, 1),
            grid_shape=(2, 2, 4),
            block_size=BLOCK,
            first=torch.zeros(2, dtype=torch.bool),
            frame_index=(1, 1),
            last_grid=torch.zeros(2, 2, 4, dtype=torch.bool),
            motion=(field(),),
        )


def test_bad_arguments():
    with pytest.raises(ConfigError, match="not both"):
        MotionVectorPolicy(1.0, 0.3)
    with pytest.raises(FrameError, match="displacement float64"):
        MotionField(torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.int64), SIZE)
    with pytest.raises(FrameError, match="expected values above 0"):
        field().at_scale(0.0, 1.0)
