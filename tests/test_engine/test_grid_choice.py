"""The grid of a frame: counted by image, and no longer the policy's once it is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine import session
from blockcopy_plugins.engine.frame.host_grid import HostGrid
from blockcopy_plugins.policy import Policy


def test_blocks_are_counted_by_image():
    grid = torch.tensor([[[1, 1, 1]], [[0, 0, 0]], [[0, 1, 0]]]).bool()
    found = HostGrid(grid)
    assert found.counts == (3, 0, 1) and found.executed == 4 and found.blocks == 3
    assert found.full == (True, False, False) and found.runs == (True, False, True)
    assert found.rates == [1.0, 0.0, pytest.approx(1 / 3)]
    for image in range(3):
        one = HostGrid(grid[image : image + 1])
        assert one.counts == found.counts[image : image + 1] and one.full[0] == found.full[image]


class OneTensor(Policy):
    """Chooses in the same tensor in each frame, and clears it when it has learned."""

    def __init__(self):
        self.buffer = torch.zeros(1, 2, 2, dtype=torch.bool)
        self.told = []

    def select(self, frame, context):
        self.told.append(context.last_grid.clone())
        self.buffer[:, 0] = True
        return self.buffer

    def feedback(self, frame, grid, outputs, context):
        self.buffer.zero_()
        return super().feedback(frame, grid, outputs, context)


def test_a_policy_may_write_to_its_grid_afterwards():
    policy = OneTensor()
    net = nn.Conv2d(3, 4, 3, padding=1).eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    chosen = torch.tensor([[[True, True], [False, False]]])
    for _ in range(4):
        net(torch.randn(1, 3, 32, 32))
    assert torch.equal(bc.handle(net).last.grid, chosen)
    assert torch.equal(bc.handle(net).last.host_grid, chosen)
    # Before the first frame nothing has run, and in that all blocks do.
    wanted = [torch.zeros_like(chosen), torch.ones_like(chosen), chosen, chosen]
    for told, each in zip(policy.told, wanted, strict=True):
        assert torch.equal(told, each)


def test_a_stream_that_was_interrupted_before_its_first_frame_starts_with_a_whole_one(monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    net = nn.Conv2d(3, 4, 3, padding=1).eval()
    frames = torch.randn(2, 1, 3, 32, 32)
    dense = net(frames[1])
    half = torch.tensor([[[True, False], [False, True]]])
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda frame, context: half))
    with monkeypatch.context() as patch:
        patch.setattr(session, "FrameRun", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net(frames[0])
    torch.testing.assert_close(net(frames[1]), dense)
    assert bc.handle(net).last.host_grid.all()
