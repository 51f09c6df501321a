"""The estimate of motion is made coarser where it takes more than it may of a frame."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.motion_budget import MotionBudget
from blockcopy_plugins.policy import EveryNthFramePolicy
from blockcopy_plugins.propagation import DISMotion, Displacement, Motion


def take_time(seconds):
    """Of this thread's CPU time, which is what counts."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Slow(Motion):
    """Takes 20 ms until it is made coarser."""

    def __init__(self, can: bool = True) -> None:
        super().__init__()
        self.can, self.sizes = can, []

    def see(self, frame, context):
        return (len(self.sizes),) * len(frame)

    def compare(self, before, now, size):
        if not (self.sizes and self.can):
            take_time(0.02)
        # Looks of different coarseness cannot be compared.
        return Displacement.translation(1, 0, size) if before == now else None

    def coarsen(self, size):
        self.sizes.append(size)
        return self.can


class Network(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.layer, self.seconds = nn.Conv2d(3, 2, 1), seconds

    def forward(self, x):
        take_time(self.seconds)
        return self.layer(x)


def run(network, motion, frames=20):
    policy = EveryNthFramePolicy(2)
    model = bc.blockcopy_(
        network.eval(), bc.BlockCopyConfig(32, policy, propagate="move", motion=motion)
    )
    for frame in torch.randn(frames, 1, 3, 64, 96):
        model(frame)
    return bc.handle(model).propagation.motion, bc.report(model).propagation


def test_an_estimate_that_takes_too_long_is_made_coarser_at_a_whole_frame():
    motion, report = run(Network(0.0), Slow())
    assert motion.sizes == [(64, 96)] and report.coarsened == 1
    # Pictures of before and after are never compared, so that nothing was unknown for it.
    assert report.unknown == 0 and report.ms_budget == pytest.approx(3, abs=2)


def test_a_heavy_network_leaves_more_time():
    motion, report = run(Network(0.6), Slow(), 12)
    assert not motion.sizes and report.ms_budget >= 30 > report.ms_estimate >= 20


def test_what_cannot_be_made_coarser_is_said():
    motion, report = run(Network(0.0), Slow(can=False))
    assert motion.sizes and report.coarsened == 0
    assert "the estimate of motion takes" in "\n".join(report.lines())


def test_slow_frames_are_no_reason_as_long_as_there_are_fast_ones():
    budget = MotionBudget()
    for _ in range(3):
        budget.note_whole(0.01)
    for seconds in (0.9,) * 8 + (0.001,):
        budget.note_motion(seconds)
        assert not budget.is_over
    assert budget.seconds == 0.001
    for _ in range(8):
        budget.note_motion(0.02)
        assert not budget.is_over
    budget.note_motion(0.02)
    assert budget.is_over
    budget.note_coarser()
    assert not budget.is_over and budget.coarsened == 1


def test_a_coarser_flow_still_finds_a_shift_and_never_looks_at_too_little():
    pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(0)
    world = nn.functional.interpolate(
        torch.rand(1, 3, 60, 60, generator=generator) * 2, size=(700, 900), mode="bicubic"
    )
    motion, size = DISMotion(), (480, 640)
    frames = [world[..., 50:530, 80 - x : 720 - x] for x in (0, 9)]
    cells = []
    for _ in range(2):
        seen = [motion.see(frame, None)[0] for frame in frames]
        found = motion.compare(*seen, size)
        inner = found.vectors[3:-3, 3:-3]
        assert (inner - torch.tensor([9.0, 0.0])).abs().mean() < 0.5
        cells.append(found.confidence.numel())
        assert motion.coarsen(size)
    assert cells[1] < cells[0]
    while motion.coarsen(size):
        pass
    assert min(motion.see(frames[0], None)[0].pixels.shape) >= 64
    assert not DISMotion().coarsen((96, 96))
