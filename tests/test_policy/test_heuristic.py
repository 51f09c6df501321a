from __future__ import annotations

from itertools import product

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import (
    EveryNthFramePolicy,
    FrameDifferencePolicy,
    MotionDetectionPolicy,
)


def test_every_nth_frame(make_context):
    frame = torch.zeros(2, 3, 64, 64)
    policy = EveryNthFramePolicy(3)
    executed = [
        policy.select(frame, make_context(frame, 32, index=(i, i + 1))).flatten(1).all(1).tolist()
        for i in range(6)
    ]
    assert [image for image, _ in executed] == [True, False, False, True, False, False]
    assert [image for _, image in executed] == [False, False, True, False, False, True]


def test_every_fourth_frame_where_nothing_is_said():
    assert EveryNthFramePolicy().n == 4


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_every_nth_frame_rejects(n):
    with pytest.raises(ConfigError, match="n must be"):
        EveryNthFramePolicy(n)


@pytest.mark.parametrize("factor", [1.0, 255.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_changed_block_is_executed_whatever_the_unit(drive, factor, dtype):
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 128, 200)  # 2 x 4 blocks of 64 px, the last one cut
    moved = scene.clone()
    moved[:, :, 70:90, 194:199] += 0.8
    frames = [(frame * factor).to(dtype) for frame in (scene, scene, moved, moved)]
    grids, _ = drive(FrameDifferencePolicy(0.2), frames, None)
    assert grids[0].all()
    assert not grids[1].any()
    assert grids[2].nonzero().tolist() == [[0, 1, 3]]
    assert not grids[3].any()


@pytest.mark.parametrize(
    ("policy", "value"),
    [
        *product([FrameDifferencePolicy, MotionDetectionPolicy], [float("nan"), torch.inf, 1e38]),
        (FrameDifferencePolicy, 1e20),
    ],
)
def test_a_frame_without_measure_runs_and_is_left_behind(drive, policy, value):
    """Where finite values are not asked for, or are beyond what float32 can square."""
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 128, 192)
    broken = scene.clone()
    broken[:, :, :64, :64] *= value
    frames = [scene, scene, broken, broken, *[scene] * 8]
    options = {} if policy is FrameDifferencePolicy else {"persist": 1}
    grids, _ = drive(policy(0.2, **options), frames, None)
    assert not grids[1].any()
    assert grids[2:4][policy is MotionDetectionPolicy][0, 0, 0]  # which confirms by a second frame
    assert not torch.stack(grids[-4:]).any()


def test_it_compares_with_the_last_executed_picture_not_the_last_frame(drive):
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 128, 128)
    bump = torch.zeros_like(scene)
    bump[:, :, :64, :64] = 1
    # Each step is below the threshold; their sum is above it after a while.
    frames = [scene + 0.002 * step * bump for step in range(12)]
    grids, _ = drive(FrameDifferencePolicy(0.2), frames, None)
    executed = [bool(grid[0, 0, 0]) for grid in grids]
    assert executed[1:5] == [False] * 4
    assert sum(executed[1:]) == 1
    assert not torch.stack(grids[1:])[:, 0].flatten(1)[:, 1:].any()


def test_select_commits_nothing(make_context):
    torch.manual_seed(0)
    policy = FrameDifferencePolicy(0.2)
    scene = torch.rand(1, 3, 64, 64)
    context = make_context(scene, 32, first=True)
    policy.feedback(scene, policy.select(scene, context) | True, None, context)
    changed = scene + torch.rand(1, 3, 64, 64)
    for _ in range(2):
        assert policy.select(changed, make_context(scene, 32)).all()
    assert not policy.select(scene, make_context(scene, 32)).any()


def test_streams_change_places_and_are_forgotten(drive, make_context):
    torch.manual_seed(0)
    one, other = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    policy = FrameDifferencePolicy(0.1)
    grids, _ = drive(
        policy,
        [torch.cat((one, other)), torch.cat((other, one)), other],
        None,
        streams=["ab", "ba", "b"],
    )
    assert grids[0].all() and not grids[1].any() and not grids[2].any()
    policy.reset(["a"])
    # A stream that the policy does not know is executed fully, others are not.
    both = torch.cat((one, other))
    grid = policy.select(both, make_context(both, streams="ab"))
    assert grid[0].all() and not grid[1].any()
    policy.reset()
    assert policy.select(both, make_context(both, streams="ab")).all()


def test_feedback_without_select_and_of_what_was_not_chosen(make_context):
    torch.manual_seed(0)
    policy = FrameDifferencePolicy(0.1)
    scene = torch.rand(1, 3, 64, 128)
    context = make_context(scene, first=True)
    policy.feedback(scene, torch.ones(1, 1, 2, dtype=torch.bool), None, context)
    changed = scene + torch.rand_like(scene)
    left = torch.tensor([[[True, False]]])
    policy.feedback(changed, left, None, make_context(scene))
    assert policy.select(changed, make_context(scene)).tolist() == [[[False, True]]]


@pytest.mark.parametrize("target", [0.1, 0.3])
def test_target_holds_the_rate_of_a_moving_scene(drive, target):
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(1, 3, 256, 256, generator=generator)
    frames = []
    for _ in range(150):  # noise of a strength that differs from block to block: 4 x 4 blocks
        strength = torch.rand(1, 1, 4, 4, generator=generator).repeat_interleave(64, 2)
        noise = torch.randn(1, 3, 16, 16, generator=generator)
        noise = noise.repeat_interleave(16, 2).repeat_interleave(16, 3)
        frames.append(scene + 0.3 * strength.repeat_interleave(64, 3) * noise)
    policy = FrameDifferencePolicy(target=target)
    grids, scalars = drive(policy, frames, None)
    assert abs(torch.stack(grids[20:]).float().mean() - target) < 0.03
    assert scalars[-1]["threshold"] == policy.threshold


def test_a_stream_that_begins_again_moves_no_threshold(drive, make_context):
    """The engine executes it fully, also where the policy has not been told to forget it."""
    torch.manual_seed(0)
    policy = FrameDifferencePolicy(target=0.5)
    drive(policy, [torch.rand(1, 3, 64, 64) for _ in range(5)], None)
    before = policy.threshold
    frame = torch.rand(1, 3, 64, 64)
    context = make_context(frame, first=True)
    assert policy.select(frame, context).all()
    policy.feedback(frame, torch.ones(1, 1, 1, dtype=torch.bool), None, context)
    assert policy.threshold == before
    assert not policy.select(frame, make_context(frame)).any()


def test_target_executes_nothing_where_nothing_moves(drive):
    frame = torch.rand(1, 3, 64, 64)
    grids, _ = drive(FrameDifferencePolicy(target=0.5), [frame] * 20, None)
    assert not torch.stack(grids[1:]).any()


def test_state_dict_holds_the_threshold(drive):
    policy = FrameDifferencePolicy(target=0.5)
    drive(policy, [torch.rand(1, 3, 64, 64) for _ in range(5)], None)
    other = FrameDifferencePolicy(target=0.5)
    other.load_state_dict(policy.state_dict())
    assert other.threshold == policy.threshold is not None
    with pytest.raises(ConfigError, match="threshold"):
        other.load_state_dict({"net": {}})


@pytest.mark.parametrize(
    "arguments",
    [
        dict(threshold=0.1, target=0.2),
        dict(threshold=-1),
        dict(threshold=float("nan")),
        dict(threshold="low"),
        dict(target=0),
        dict(target=1.2),
    ],
)
def test_frame_difference_rejects(arguments):
    with pytest.raises(ConfigError):
        FrameDifferencePolicy(**arguments)


def test_a_frame_that_is_none_raises(make_context):
    context = make_context(torch.zeros(1, 3, 64, 64))
    with pytest.raises(FrameError):
        FrameDifferencePolicy().select(torch.zeros(1, 3, 64, 128), context)
