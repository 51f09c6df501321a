"""Poolings that are undone: on blocks where their windows lie side by side."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference


class Unpools(nn.Module):
    def __init__(self, kernel, stride, padding) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.pool = nn.MaxPool2d(kernel, stride, padding, return_indices=True)
        self.unpool = nn.MaxUnpool2d(kernel, stride, padding)

    def forward(self, x):
        x = self.one(x)
        y, where = self.pool(x)
        return self.three(self.unpool(self.two(y), where, output_size=x.shape[2:]))


@pytest.mark.parametrize(
    ("size", "pooling", "on_blocks"),
    [
        ((40, 56), (2, 2, 0), True),
        ((40, 56), (4, 4, 0), True),
        # The last window has no output, though its block has.
        ((41, 56), (2, 2, 0), False),
        # Windows reach into other blocks.
        ((40, 56), (3, 2, 1), False),
    ],
)
def test_they_are_the_masked_reference(size, pooling, on_blocks):
    torch.manual_seed(0)
    net = Unpools(*pooling).eval()
    reference = MaskedReference(copy.deepcopy(net).double(), 8)
    draw = torch.Generator().manual_seed(1)
    rates = [2.0, 0.3, 0.5, 0.2, 0.4]

    def policy(frame, context):
        return torch.rand(context.grid_shape, generator=draw) < rates.pop(0)

    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy=policy))
    while rates:
        frame = torch.randn(2, 3, *size, generator=draw)
        with torch.no_grad():
            found = net(frame)
        wanted = reference(bc.handle(net).last.grid, frame.double())
        torch.testing.assert_close(found.double(), wanted, atol=2e-6, rtol=0.0)
    assert (not bc.report(net).dense_ops) == on_blocks
