"""A network whose first op needs the whole map and divides it: what follows runs on blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

BLOCK = 8


class Halved(nn.Module):
    """Pixels to channels by views, of a map that is padded to an even size."""

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = nn.ReplicationPad2d((0, pad, 0, pad))
        self.one, self.two = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)

    def divide(self, x):
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).contiguous()
        return x.view(n, 4 * c, h // 2, w // 2)

    def forward(self, x):
        return self.two(F.relu(self.one(self.divide(self.pad(x)))))


def kept(new, old, grid, block):
    """``where(M, new, old)``; ``new`` where there is no ``old``."""
    if old is None:
        return new
    mask = grid.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return torch.where(mask[:, None, : new.shape[2], : new.shape[3]], new, old)


@pytest.mark.parametrize(("pad", "size"), [(0, (24, 32)), (1, (23, 31))])
@pytest.mark.parametrize("images", [1, 2])
@torch.no_grad()
def test_behind_a_first_op_on_whole_maps_blocks_go_on(pad, size, images):
    torch.manual_seed(0)
    net = Halved(pad).eval()
    reference, grids = MaskedReference(net, BLOCK), []
    frames = [torch.randn(images, 3, *size) for _ in range(3)]
    grids = [torch.rand(images, 3, 4) < rate for rate in (2.0, 0.5, 0.3)]
    by_hand, states = [], [None] * 4
    for frame, grid in zip(frames, grids, strict=True):
        states[0] = kept(frame, states[0], grid, BLOCK)
        states[1] = kept(net.divide(net.pad(states[0])), states[1], grid, BLOCK // 2)
        states[2] = kept(F.relu(net.one(states[1])), states[2], grid, BLOCK // 2)
        states[3] = kept(net.two(states[2]), states[3], grid, BLOCK // 2)
        by_hand.append(states[3])
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    for frame, hand, masked in zip(frames, by_hand, wanted, strict=True):
        found = net(frame)
        torch.testing.assert_close(found, hand, atol=1e-5, rtol=0)
        torch.testing.assert_close(masked, hand, atol=1e-5, rtol=0)
    report = bc.report(net)
    assert report.share_on_blocks == 1.0
    assert [op.op for op in report.dense_ops] == (["aten.view.default"] if pad else [])
