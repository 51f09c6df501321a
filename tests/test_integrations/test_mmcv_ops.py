"""mmcv's compiled ops in a plain module: whole maps go in, blocks go on behind them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mmcv.ops")

from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference  # noqa: E402
from blockcopy_plugins.errors import DensifiedError  # noqa: E402


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.modulated = ModulatedDeformConv2dPack(8, 8, 3, padding=1)
        self.strided = DeformConv2dPack(8, 8, 3, stride=2, padding=1)
        self.offset = nn.Conv2d(8, 18, 3, 1, 1)
        self.last = nn.Conv2d(8, 8, 3, 1, 1)
        for layer in (self.modulated.conv_offset, self.strided.conv_offset, self.offset):
            nn.init.normal_(layer.weight, std=0.3)

    def forward(self, x):
        x = self.strided(self.modulated(self.stem(x)))
        x = deform_conv2d(x, self.offset(x), self.last.weight, (1, 1), (1, 1), (1, 1))
        return self.last(x)


@pytest.mark.parametrize("pack", [True, False])
def test_laws(pack):
    net = Net().eval()
    reference, grids = MaskedReference(copy.deepcopy(net), 16), []
    frames = torch.randn(3, 2, 3, 40, 50).unbind(0)
    with torch.no_grad():
        dense = net(frames[0])
    config = bc.BlockCopyConfig(
        block_size=16, policy=lambda f, c: grids[-1], pack_whole_frames=pack
    )
    bc.blockcopy_(net, config)
    for rate, frame in zip((2.0, 0.5, 0.3), frames, strict=True):
        grids.append(torch.rand(2, 3, 4) < rate)
        found = net(frame)
        torch.testing.assert_close(found, reference(grids[-1], frame), rtol=1e-4, atol=1e-5)
        if frame is frames[0]:
            torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)
    report = bc.report(net)
    assert report.share_on_blocks == 1  # torch counts no MACs of the compiled ops
    found = {(op.path, op.op) for op in report.dense_ops}
    assert found == {
        ("modulated", "ModulatedDeformConv2d"),
        ("strided", "DeformConv2d"),
        ("", "DeformConv2d"),
    }


def test_strict_names_the_op():
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all", strict=True))
    with pytest.raises(DensifiedError, match="ModulatedDeformConv2d in module 'modulated'"):
        net(torch.randn(1, 3, 32, 32))


def test_ordinary_tensors_are_left_alone():
    """The ops go on as ever for everybody else, training included."""
    net = Net()
    bc.restore_(bc.blockcopy_(net.eval(), bc.BlockCopyConfig(policy="all")))
    net.train()(torch.randn(1, 3, 32, 32)).sum().backward()
    assert net.modulated.weight.grad.abs().sum() > 0
