"""Calls that hold several frames of one stream, and outputs that hold no map."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import Call, ModelAdapter, first_map
from blockcopy_plugins.errors import FrameError


class InTurn(ModelAdapter):
    """All images of a batch are frames of one stream, in their order."""

    def turns(self, args, kwargs, named):
        if named:
            return (self.read_call(args, kwargs),)
        return tuple(
            Call(frame, lambda blocks: ((blocks,), {}), streams=("video",))
            for frame in args[0].split(1)
        )

    def join_turns(self, outputs):
        return torch.cat(outputs)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


def converted(policy, adapter=None):
    config = bc.BlockCopyConfig(block_size=16, policy=policy)
    return bc.blockcopy_(network().eval(), config, adapter or InTurn())


def half(frame, context):
    return (torch.arange(4) % 2 == 0).view(1, 2, 2).expand(context.grid_shape).clone()


def test_frames_in_a_batch_are_the_frames_one_by_one():
    video = torch.rand(4, 3, 32, 32)
    one_by_one, at_once = converted(half), converted(half)
    wanted = torch.cat([one_by_one(frame) for frame in video.split(1)])
    torch.testing.assert_close(at_once(video), wanted)
    assert bc.report(at_once).frames == 4
    assert bc.report(at_once).executed_rate == pytest.approx((1 + 3 * 0.5) / 4)
    assert bc.handle(at_once).states.ids() == ["video"]
    with pytest.raises(AssertionError):  # and they are not the dense ones
        torch.testing.assert_close(wanted, network()(video))


def test_streams_that_are_named_are_no_frames_of_one():
    model = converted("all")
    with bc.streams(model, ["a", "b"]):
        model(torch.rand(2, 3, 32, 32))
    assert bc.handle(model).states.ids() == ["a", "b"]


def test_a_bad_frame_leaves_the_stream_where_the_one_before_left_it():
    video = torch.rand(3, 3, 32, 32)
    bad = video.clone()
    bad[1, 0, 0, 0] = float("nan")
    model, other = converted("none"), converted("none")
    with pytest.raises(FrameError, match="finite"):
        model(bad)
    first = other(video[:1])
    torch.testing.assert_close(model(video[2:]), first)


class Classes(nn.Module):
    """An image's classes, which tell no block from another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_a_policy_that_has_nothing_to_compare_says_so_once():
    config = bc.BlockCopyConfig(block_size=16, policy=dict(type="GainPolicy", target=0.5))
    model = bc.blockcopy_(Classes().eval(), config)
    with pytest.warns(UserWarning, match="goes by the picture alone"):
        model(torch.rand(1, 3, 64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            model(torch.rand(1, 3, 64, 64))


def test_a_map_has_the_frames_proportions():
    frame = torch.rand(1, 3, 640, 640)
    queries, map_ = torch.rand(1, 6, 300, 256), torch.rand(1, 5, 80, 80)
    assert first_map(dict(states=queries), frame) is None
    assert first_map((queries, dict(out=map_)), frame) is map_
    assert first_map(torch.ones(1, 1, 80, 80, dtype=torch.int64), frame) is None
    assert first_map(torch.rand(2, 5, 80, 80), frame) is None
