from __future__ import annotations

import copy
import pickle
import sys

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import BackgroundSubtractionPolicy, build_policy

pytest.importorskip("cv2")

SIZE = (128, 192)  # 2 x 3 blocks of 64 px, each of 16 x 16 cells of 4 px


def scene(seed=0):
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def with_square(background, left, top=16, side=32, value=3.0):
    frame = background.clone()
    frame[:, :, top : top + side, left : left + side] = value
    return frame


def share_of_square(left, top=16, side=32):
    """Of each block, by hand: how much of it the square covers."""
    covered = torch.zeros(SIZE)
    covered[top : top + side, left : left + side] = 1
    return covered.unflatten(1, (3, 64)).unflatten(0, (2, 64)).mean((1, 3))


@pytest.mark.parametrize("factor", [1.0, 255.0])
def test_a_block_scores_the_share_of_it_that_a_moving_square_covers(drive, make_context, factor):
    background = scene()
    policy = BackgroundSubtractionPolicy()
    drive(policy, [factor * background] * 5, None)
    previous = torch.zeros(2, 3)
    for left in (0, 32, 64, 96, 120):
        frame = factor * with_square(background, left)
        context = make_context(frame)
        grid = policy.select(frame, context)
        covered = share_of_square(left)
        # What the square has left is executed once more.
        torch.testing.assert_close(policy.scores(frame, context)[0], covered.maximum(previous))
        assert torch.equal(grid[0], covered.maximum(previous) > 0)
        policy.feedback(frame, grid, None, context)
        previous = covered
    frame = factor * background
    for expected in (previous > 0, torch.zeros(2, 3, dtype=torch.bool)):
        context = make_context(frame)
        grid = policy.select(frame, context)
        assert torch.equal(grid[0], expected)
        policy.feedback(frame, grid, None, context)


def test_what_was_not_executed_waits(make_context, drive):
    background = scene()
    policy = BackgroundSubtractionPolicy()
    drive(policy, [background] * 5, None)
    frame = with_square(background, 16)
    context = make_context(frame)
    policy.feedback(frame, policy.select(frame, context), None, context)
    nothing = torch.zeros(1, 2, 3, dtype=torch.bool)
    for _ in range(3):  # gone, but nobody has looked
        context = make_context(background)
        assert policy.select(background, context).nonzero().tolist() == [[0, 0, 0]]
        policy.feedback(background, nothing, None, context)


def test_threshold_is_a_share_of_the_block(drive, make_context):
    background = scene()
    frame = with_square(background, 16, side=16)  # a sixteenth of the first block
    for threshold, executed in ((0.05, True), (0.07, False)):
        policy = BackgroundSubtractionPolicy(threshold)
        drive(policy, [background] * 5, None)
        assert policy.select(frame, make_context(frame)).any() == executed


@pytest.mark.parametrize("history", [100, 400])
def test_what_stands_still_for_a_tenth_of_the_history_becomes_background(drive, history):
    background = scene()
    frames = [background] * history + [with_square(background, 16)] * (history // 4)
    grids, _ = drive(BackgroundSubtractionPolicy(history=history), frames, None)
    executed = [bool(grid[0, 0, 0]) for grid in grids[history:]]
    assert all(executed[: history // 15]) and not any(executed[history // 7 :])
    assert not torch.stack(grids[1:])[:, 0].flatten(1)[:, 1:].any()


def test_shadows(drive, make_context):
    background = 0.5 + 0.5 * scene()
    shadow = background.clone()
    shadow[:, :, :64, :64] *= 0.8
    for shadows, executed in ((True, False), (False, True)):
        policy = BackgroundSubtractionPolicy(shadows=shadows)
        drive(policy, [background] * 5, None)
        assert policy.select(shadow, make_context(shadow))[0, 0, 0] == executed


def test_looking_changes_nothing(drive, make_context):
    """A frame that is looked at many times, and frames that failed, leave no trace."""
    draw = torch.Generator().manual_seed(1)
    background = scene()
    frames = [with_square(background, 8 * i) for i in range(20)]
    frames = [frame + 0.05 * torch.randn(frame.shape, generator=draw) for frame in frames]
    once, _ = drive(BackgroundSubtractionPolicy(), frames, None)
    policy = BackgroundSubtractionPolicy()
    grids = []
    for index, frame in enumerate(frames):
        failed = make_context(scene(5), first=index == 0)
        for _ in range(30):
            policy.select(scene(5), failed)
        context = make_context(frame, first=index == 0)
        looks = [policy.select(frame, context) for _ in range(30)]
        assert all(torch.equal(look, looks[0]) for look in looks)
        grids.append(looks[0])
        policy.feedback(frame, grids[-1], None, context)
    assert all(torch.equal(a, b) for a, b in zip(once, grids, strict=True))
    assert 0 < torch.stack(grids[1:]).float().mean() < 1


def test_streams_change_places_and_are_forgotten(drive, make_context):
    one, other = scene(0), scene(1)
    both, turned = torch.cat((one, other)), torch.cat((other, one))
    policy = BackgroundSubtractionPolicy()
    grids, _ = drive(policy, [both, both, turned, other], None, streams=["ab", "ab", "ba", "b"])
    assert grids[0].all() and not any(grid.any() for grid in grids[1:])
    policy.reset(["a"])
    assert set(policy.memory) == {"b"}
    grid = policy.select(both, make_context(both, streams="ab"))
    assert grid[0].all() and not grid[1].any()
    policy.reset()
    assert not policy.memory and policy.select(both, make_context(both, streams="ab")).all()


def test_another_size_begins_anew(drive, make_context):
    policy = BackgroundSubtractionPolicy()
    drive(policy, [scene()] * 3, None)
    smaller = scene()[..., :64]
    assert policy.select(smaller, make_context(smaller)).all()


def test_feedback_alone(make_context):
    policy = BackgroundSubtractionPolicy()
    background = scene()
    everything = torch.ones(1, 2, 3, dtype=torch.bool)
    for _ in range(4):
        context = make_context(background)
        assert policy.feedback(background, everything, None, context)["executed_rate"] == 1
    frame = with_square(background, 16)
    assert policy.select(frame, make_context(frame)).nonzero().tolist() == [[0, 0, 0]]


def test_target_holds_the_rate(drive):
    draw = torch.Generator().manual_seed(0)
    background = torch.rand(1, 3, 256, 256, generator=draw)
    frames = []
    for _ in range(150):  # squares of any size in 16 blocks
        frame = background.clone()
        for row in range(4):
            for column in range(4):
                side = int(torch.randint(2, 16, (), generator=draw)) * 4
                frame[:, :, 64 * row : 64 * row + side, 64 * column : 64 * column + side] = 3.0
        frames.append(frame)
    policy = BackgroundSubtractionPolicy(target=0.3, history=10_000)
    # Squares of all sizes were seen before, so that they do not become background.
    grids, scalars = drive(policy, [background] * 20 + frames, None)
    assert abs(torch.stack(grids[50:]).float().mean() - 0.3) < 0.03
    assert scalars[-1]["threshold"] == policy.threshold


def test_a_copy_begins_anew(drive, make_context):
    background = scene()
    policy = BackgroundSubtractionPolicy(0.3, history=7)
    drive(policy, [background] * 3, None)
    policy.select(background, make_context(background))
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert (other.threshold, other.history) == (0.3, 7)
        assert other.select(background, make_context(background)).all()
    assert not policy.select(background, make_context(background)).any()


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="pip install opencv-python-headless"):
        build_policy("background_subtraction")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(threshold=0.1, target=0.2), "not both"),
        (dict(threshold=1.5), "share of a block's cells, from 0 to 1, found 1.5"),
        (dict(history=0), "history must be an integer of at least 1 .frames., found 0"),
        (dict(variance_threshold=0), "variance_threshold must be a number above 0, found 0"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ConfigError, match=words):
        BackgroundSubtractionPolicy(**arguments)


def test_a_small_variance_threshold_is_taken():
    assert BackgroundSubtractionPolicy(variance_threshold=0.5).variance_threshold == 0.5


def test_a_frame_that_is_none_raises(make_context):
    context = make_context(torch.zeros(1, 3, 64, 64))
    with pytest.raises(FrameError):
        BackgroundSubtractionPolicy().select(torch.zeros(1, 3, 64, 128), context)
