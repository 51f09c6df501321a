"""Motion that fails, the whole way from frames to outputs: copied, and said in the report."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.policy import EveryNthFramePolicy, MotionField
from blockcopy_plugins.propagation import DISMotion

BLOCK, SIZE = 32, (96, 128)
PERIOD = 6


def converted(net, motion, period=PERIOD):
    policy = EveryNthFramePolicy(period)
    config = bc.BlockCopyConfig(BLOCK, policy, propagate="move", motion=motion)
    return bc.blockcopy_(copy.deepcopy(net), config)


def world(seed):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 40, 60, generator=generator) * 4 - 2
    return F.interpolate(small, size=(320, 480), mode="bicubic")


def pan(seed, count, step=3):
    return [world(seed)[..., 50:146, 200 - step * i : 328 - step * i] for i in range(count)]


@pytest.fixture
def net():
    return nn.Conv2d(3, 5, 1).eval()


def test_a_cut_between_whole_frames_is_copied_until_the_next_one(net):
    pytest.importorskip("cv2")
    frames = pan(1, 3) + pan(7, 5)
    model = converted(net, "DISMotion")
    with torch.inference_mode():
        got = [model(frame) for frame in frames]
        wanted = [net(frame) for frame in frames]
    inside = (..., slice(16, -16), slice(32, -16))
    error = [float((a - b)[inside].abs().mean()) for a, b in zip(got, wanted, strict=True)]
    assert error[1] < 0.15 and error[2] < 0.15
    # Of the new scene nothing is known: what stood before the cut is given, not a smear of it.
    assert all(torch.equal(got[i], got[0]) for i in (3, 4, 5))
    assert torch.equal(got[6], wanted[6]) or torch.allclose(got[6], wanted[6], atol=1e-5)
    assert error[7] < 0.15
    report = bc.report(model)
    assert report.propagation.unknown == 1 and "motion unknown in 1" in str(report)


def test_flow_that_diverges_in_the_middle_is_copied(net):
    pytest.importorskip("cv2")

    class Diverging(DISMotion):
        calls = 0

        def flow(self, earlier, later):
            self.calls += 1
            flow = super().flow(earlier, later)
            return np.full_like(flow, np.inf) if self.calls == 2 else flow

    model = converted(net, Diverging())
    frames = pan(1, 4)
    with torch.inference_mode():
        got = [model(frame) for frame in frames]
    assert not torch.equal(got[1], got[0])
    assert torch.equal(got[2], got[0]) and torch.equal(got[3], got[0])
    assert torch.isfinite(got[2]).all()


def field(moved, shape=(6, 8), size=SIZE):
    """A field of vectors that have added up to ``moved`` px to the right and down."""
    vectors = torch.tensor(moved, dtype=torch.float64).expand(*shape, 2).clone()
    return MotionField(vectors, torch.zeros(shape, dtype=torch.int64), size)


@pytest.mark.parametrize(
    "bad", [None, "other size"], ids=["dropped packets: no vectors", "of another size"]
)
def test_vectors_that_are_missing_or_of_another_size_are_copied(net, bad):
    other = None if bad is None else field((8.0, 0.0), (3, 4), (48, 64))
    told = [field((0.0, 0.0)), field((8.0, 0.0)), other, field((16.0, 0.0)), field((24.0, 0.0))]
    model = converted(net, "CodecMotion")
    frames = pan(1, 5, 8)
    got = []
    with torch.inference_mode():
        for frame, its in zip(frames, told, strict=True):
            with bc.motion(model, [its]):
                got.append(model(frame))
        wanted = net(frames[1])
    torch.testing.assert_close(got[1][..., 32:], wanted[..., 32:])
    # Where things are is not known from there on, although vectors come again.
    assert all(torch.equal(later, got[0]) for later in got[2:])
    report = bc.report(model)
    assert report.propagation.unknown == 2 and "motion unknown in 2" in str(report)
