"""Products of channels with channels over all pixels: the masked reference, no map is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from tests.test_engine.random_grids import run_on_random_grids

CHANNELS, HEADS = 8, 2


class AmongChannels(nn.Module):
    """Attention whose scores are those of pairs of channels, between two convolutions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, CHANNELS, 3, 1, 1), nn.Conv2d(CHANNELS, 3 * CHANNELS, 1)
        self.last, self.kind = nn.Conv2d(CHANNELS, 4, 3, 1, 1), kind

    def forward(self, x):
        x = self.stem(x)
        return self.last(x + getattr(self, self.kind)(x).view(x.shape))

    def transposed(self, x):
        """As Restormer and XCiT have it."""
        q, k, v = (p.flatten(2).unflatten(1, (HEADS, -1)) for p in self.qkv(x).chunk(3, 1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return (q @ k.transpose(-2, -1)).mul(3).softmax(-1) @ v

    def linear(self, x):
        """As efficient attention has it: keys and values are multiplied first."""
        q, k, v = (p.flatten(2).unflatten(1, (HEADS, -1)) for p in self.qkv(x).chunk(3, 1))
        pairs = k.relu() @ v.transpose(-2, -1) / 100
        return (q.relu().transpose(-2, -1) @ pairs).transpose(-2, -1).contiguous()

    def of_one_map(self, x):
        """As DANet has it."""
        x = x.flatten(2)
        scores = torch.bmm(x, x.permute(0, 2, 1)) / 100
        return torch.bmm((scores.amax(-1, keepdim=True) - scores).softmax(-1), x)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("images", "size"), [(1, (64, 96)), (2, (41, 55))])
@pytest.mark.parametrize("kind", ["transposed", "linear", "of_one_map"])
def test_any_grid_is_the_masked_reference(kind, images, size, pack):
    torch.manual_seed(0)
    net = AmongChannels(kind).eval()
    found, wanted, dense = run_on_random_grids(net, images, size, 16, pack=pack, strict=True)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    report = bc.report(net)
    assert report.dense_ops == ()
    assert report.macs_outside <= 0.001 * report.macs_dense


def test_products_that_are_larger_than_blocks_run_on_the_whole_map():
    torch.manual_seed(0)
    net = AmongChannels("of_one_map").eval()
    net.stem = nn.Conv2d(3, CHANNELS, 4, 4).eval()  # blocks of one pixel
    found, wanted, _ = run_on_random_grids(net, 1, (24, 40), 4)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    (op,) = bc.report(net).dense_ops
    assert op.reason == "its blocks are so small that their products are larger than they are"
