from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import MotionDetectionPolicy, PolicyContext

BLOCKS = 4


def scene(seed=0, images=1):
    return torch.rand(images, 3, 32, 32 * BLOCKS, generator=torch.Generator().manual_seed(seed))


def changed(background, blocks):
    """The scene, with some of its blocks of 32 px far from what they were."""
    frame = background.clone()
    for image, row in enumerate(blocks):
        for block, differs in enumerate(row):
            if differs:
                frame[image, :, :, 32 * block : 32 * (block + 1)] += 2.0
    return frame


def context_of(frame, streams, first):
    shape = (len(frame), 1, BLOCKS)
    return PolicyContext(
        streams=tuple(streams),
        grid_shape=shape,
        block_size=32,
        first=torch.full((len(frame),), first),
        frame_index=(0 if first else 1,) * len(frame),
        last_grid=torch.zeros(shape, dtype=torch.bool),
    )


def by_definition(differs, confirm, window, persist):
    """Frames in which a block runs, of the frames in which it differs; frame 0 is the first."""
    moves = [sum(differs[max(0, t - window + 1) : t + 1]) >= confirm for t in range(len(differs))]
    return [any(moves[max(0, t - persist) : t + 1]) for t in range(len(differs))]


@settings(max_examples=60)
@given(data=st.data())
def test_confirmation_and_persistence_are_what_they_say(data):
    window = data.draw(st.integers(1, 5))
    confirm, persist = data.draw(st.integers(1, window)), data.draw(st.integers(0, 4))
    row = st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS)
    # Two streams of one batch; in the first frame nothing can differ.
    frames = data.draw(st.lists(st.tuples(row, row), min_size=1, max_size=12))
    policy = MotionDetectionPolicy(
        0.2, confirm=confirm, window=window, persist=persist, learning_rate=0.0, lightning=1.0
    )
    background = scene(images=2)
    grids = []
    for index, blocks in enumerate([([False] * BLOCKS,) * 2, *frames]):
        turned = index % 3 == 2
        frame = changed(background, blocks)
        ids = "ab"
        if turned:
            frame, ids = frame.flip(0), "ba"
        context = context_of(frame, ids, index == 0)
        looks = [policy.select(frame, context) for _ in range(2)]
        assert torch.equal(*looks)
        # A frame that fails leaves no trace.
        policy.select(scene(7, 2), context_of(frame, ids, False))
        policy.feedback(frame, looks[0], None, context)
        grids.append(looks[0].flip(0) if turned else looks[0])
    assert grids[0].all()
    for image in range(2):
        for block in range(BLOCKS):
            differs = [False] + [blocks[image][block] for blocks in frames]
            wanted = by_definition(differs, confirm, window, persist)
            assert [bool(g[image, 0, block]) for g in grids[1:]] == wanted[1:]


def test_what_stands_still_becomes_background(drive):
    background, rate, threshold = scene(), 0.1, 0.2
    frame = changed(background, [[True, False, False, False]])
    policy = MotionDetectionPolicy(
        threshold, confirm=1, window=1, persist=0, learning_rate=rate, lightning=1.0
    )
    grids, _ = drive(policy, [background] + [frame] * 60, None, block_size=32)
    executed = [bool(grid[0, 0, 0]) for grid in grids[1:]]
    # Each frame leaves 0.9 of the difference of 2 to the background.
    scale = float(frame.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).mean((3, 5)).std())
    frames = 1 + math.floor(math.log(threshold * scale / 2) / math.log(1 - rate))
    assert executed == [True] * frames + [False] * (60 - frames)
    assert not torch.stack(grids[1:])[..., 1:].any()


def test_a_lamp_runs_the_whole_frame_once(drive):
    background = scene()
    lit = changed(background, [[True, True, True, True]])
    later = changed(lit, [[False, True, False, False]])
    frames = [background, background, lit, lit, lit, later]
    policy = MotionDetectionPolicy(0.2, confirm=2, window=3, persist=5, lightning=0.8)
    grids, _ = drive(policy, frames, None, block_size=32)
    assert [grid.sum().item() for grid in grids] == [4, 0, 4, 0, 0, 0]
    # Without the guard it is motion, late by a frame, until the background has come after.
    policy = MotionDetectionPolicy(0.2, confirm=2, window=3, persist=5, lightning=1.0)
    grids, _ = drive(policy, frames, None, block_size=32)
    assert [grid.sum().item() for grid in grids] == [4, 0, 0, 4, 4, 4]


def test_after_a_lamp_nothing_counts_that_was_before(drive):
    background = scene()
    moved = changed(background, [[False, True, False, False]])
    lit = changed(background, [[True, True, True, True]])
    both = changed(moved, [[True, True, True, True]])
    policy = MotionDetectionPolicy(0.2, confirm=2, window=3, persist=5, lightning=0.7)
    grids, _ = drive(policy, [background, moved, moved, both, lit, lit], None, block_size=32)
    # Beside the fourth frame, block 1 differs in the fifth and again in the sixth.
    assert [grid.sum().item() for grid in grids] == [4, 0, 1, 4, 0, 1]


def test_scores_are_the_differences(drive, make_context):
    background = scene()
    policy = MotionDetectionPolicy(0.2)
    drive(policy, [background], None, block_size=32)
    frame = background.clone()
    for block, change in enumerate((0.0, 0.5, 0.2, 0.3)):
        frame[..., 32 * block : 32 * (block + 1)] += change
    context = make_context(frame, 32)
    policy.select(frame, context)
    scores = policy.scores(frame, context)
    assert scores.shape == (1, 1, 4) and scores[0, 0].argsort().tolist() == [0, 2, 3, 1]
    assert policy.scores(frame, make_context(frame, 32)) is None


def test_streams_are_forgotten(drive, make_context):
    both = scene(images=2)
    policy = MotionDetectionPolicy()
    drive(policy, [both] * 3, None, block_size=32, streams=["ab"] * 3)
    policy.reset(["a"])
    assert set(policy.memory) == {"b"}
    grid = policy.select(both, make_context(both, 32, streams="ab"))
    assert grid[0].all() and not grid[1].any()
    policy.reset()
    assert policy.select(both, make_context(both, 32, streams="ab")).all()


def test_target_holds_the_rate(drive):
    draw = torch.Generator().manual_seed(0)
    background = torch.rand(1, 3, 256, 256, generator=draw)
    frames = []
    for _ in range(250):
        strength = torch.rand(1, 1, 4, 4, generator=draw).repeat_interleave(64, 2)
        noise = torch.randn(1, 3, 16, 16, generator=draw)
        noise = noise.repeat_interleave(16, 2).repeat_interleave(16, 3)
        frames.append(background + 0.3 * strength.repeat_interleave(64, 3) * noise)
    policy = MotionDetectionPolicy(target=0.3, confirm=1, window=1, persist=1, lightning=1.0)
    grids, scalars = drive(policy, frames, None)
    assert abs(torch.stack(grids[50:]).float().mean() - 0.3) < 0.03
    assert scalars[-1]["threshold"] == policy.threshold


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(threshold=0.1, target=0.2), "not both"),
        (dict(window=0), "window must be an integer of at least 1 .frames., found 0"),
        (dict(confirm=0), "confirm must be an integer of at least 1"),
        (dict(confirm=4, window=3), "confirm=4 of the last window=3"),
        (dict(persist=-1), "persist must be an integer of at least 0"),
        (dict(learning_rate=1.5), "learning_rate must be a number from 0 to 1"),
        (dict(lightning=-0.5), "lightning must be a number from 0 to 1"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        MotionDetectionPolicy(**arguments)
