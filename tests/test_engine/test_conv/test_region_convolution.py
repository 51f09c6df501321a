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


class Views(nn.Module):
    """Reads the result of a convolution of some pixels in the order in which they lie."""

    def __init__(self, pixels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(pixels)
        self.mix = nn.Conv2d(64, 64, kernel, 1, kernel // 2)

    def forward(self, x):
        filters = self.mix(self.pool(self.conv(x)))
        if filters.is_contiguous():
            return filters.view(-1)
        return filters.permute(0, 2, 3, 1).view(-1)


@native
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("pixels", "kernel"), [(3, 1), (1, 1), (3, 3), (40, 3)])
def test_results_lie_as_torchs_do(pixels, kernel, layout, monkeypatch):
    torch.manual_seed(0)
    net = Views(pixels, kernel).eval().to(memory_format=layout)
    dense, runs = copy.deepcopy(net), []
    convolve = region_convolution._convolve

    def counted(*given, **named):
        runs.append(given)
        return convolve(*given, **named)

    monkeypatch.setattr(region_convolution, "_convolve", counted)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all", repack=False))
    with torch.inference_mode():
        for _ in range(3):
            frame = torch.randn(1, 3, 96, 96).contiguous(memory_format=layout)
            torch.testing.assert_close(net(frame), dense(frame), rtol=1e-5, atol=1e-5)
    assert runs
