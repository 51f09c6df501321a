"""Large dense maps with one channel after another that meet blocks: only executed ones are read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from tests.test_engine.test_execution.test_frame_programs import programs

SIZE, CHANNELS = (76, 90), 20  # no multiple of the block


class Joins(nn.Module):
    def __init__(self, layout: torch.memory_format) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.mix = nn.Conv2d(2 * CHANNELS, 4, 1)
        maps = torch.randn(1, CHANNELS, *SIZE).expand(2, -1, -1, -1)
        self.register_buffer("maps", maps.clone(memory_format=layout))

    def forward(self, x):
        maps = self.maps[: len(x)]
        return self.mix(torch.cat([self.conv(x) * maps, maps], 1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [1, 2])
@torch.no_grad()
def test_blocks_meet_large_dense_maps(images, layout):
    torch.manual_seed(0)
    net, shape = Joins(layout).eval(), (images, 5, 6)
    assert net.maps[:1].numel() >= 1 << 17
    reference = MaskedReference(net, 16)
    frames = [torch.randn(images, 3, *SIZE) for _ in range(6)]
    grids = [torch.rand(shape) < rate for rate in (2.0, 0.5, 0.3, 0.4, 0.2, 0.6)]
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda f, c: left.pop(0)))
    for frame, masked in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame), masked, atol=1e-5, rtol=0)
    assert programs(net).replayed >= 2
