"""Instance norms on blocks: by the statistics of the kept map, and by kept statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from tests.test_engine.random_grids import run_on_random_grids

SIZE = (20, 28)  # no multiple of the block


class Net(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.InstanceNorm2d(6, **options)
        for value in (*self.norm.parameters(), *self.norm.buffers()):
            if value.is_floating_point():
                nn.init.uniform_(value, 0.5, 1.5)

    def forward(self, x):
        # One norm for two maps.
        return self.norm(self.two(self.norm(self.one(x)).relu()))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"track_running_stats": True}])
def test_instance_norm_is_the_masked_reference_and_all_on_blocks(options, pack):
    torch.manual_seed(0)
    net = Net(**options).eval()
    dense, reference, grids = copy.deepcopy(net), MaskedReference(copy.deepcopy(net), 8), []
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids[-1], pack_whole_frames=pack)
    bc.blockcopy_(net, config)
    for rate in (2.0, 0.5, 0.3):
        grids.append(torch.rand(2, 3, 4) < rate)
        frame = torch.randn(2, 3, *SIZE)
        with torch.no_grad():
            found, wanted = net(frame), reference(grids[-1], frame)
            if rate == 2.0:
                torch.testing.assert_close(found, dense(frame), atol=1e-5, rtol=0)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert bc.report(net).dense_ops == ()
    bc.restore_(net)
    assert "forward" not in net.norm.__dict__


class Siamese(nn.Module):
    """Two maps side by side as images of one batch, as RAFT has those of two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.last = nn.InstanceNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        both = torch.cat([self.one(x), self.one(-x)])
        first, second = self.norm(self.two(both).relu()).chunk(2)
        return self.last(first * second)


def test_what_a_norm_of_dense_images_gives_may_become_blocks_again():
    torch.manual_seed(0)
    net = Siamese().eval()
    found, wanted, dense = run_on_random_grids(net, 1, SIZE, 8)
    torch.testing.assert_close(found[0], dense, atol=1e-5, rtol=0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert [op.op for op in bc.report(net).dense_ops] == ["aten.cat.default"]


def test_a_map_of_one_pixel_gets_the_error_that_it_gets_unconverted():
    net = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.InstanceNorm2d(6)).eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy="all"))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        net(torch.randn(1, 3, 8, 8))
