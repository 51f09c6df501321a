"""1x1 convolutions of a few pixels: by the package's kernels, unless they are maps of blocks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.conv import region_convolution

native = pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")


class Mixed(nn.Module):
    """An op that runs on the whole map, then a convolution of its result."""

    def __init__(self, op) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 2, 1)
        self.mix = nn.Conv2d(12, 12, 1)
        self.op = op

    def forward(self, x):
        x = self.conv(x)
        return x + self.mix(self.op(x))


OPS = {  # and whether its result is no map
    "mean": (lambda x: x.mean((2, 3), keepdim=True), True),
    "sums along rows": (lambda x: x.cumsum(2) / 9, False),
}


@native
@pytest.mark.parametrize("name", OPS)
def test_which_convolutions_run_as_regions(name, monkeypatch):
    op, as_region = OPS[name]
    torch.manual_seed(0)
    net = Mixed(op).eval()
    dense = copy.deepcopy(net)
    runs = []
    convolve = region_convolution._convolve
    monkeypatch.setattr(region_convolution, "_convolve", lambda *a: runs.append(a) or convolve(*a))
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy="all", pack_whole_frames=True))
    frame = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(frame), dense(frame), rtol=1e-5, atol=1e-5)
    assert bool(runs) == as_region
