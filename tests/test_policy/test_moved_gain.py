"""GainPolicy beside moved outputs: what motion explains brings nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.policy import GainPolicy

BLOCK, SIZE = 32, (128, 192)


class PerPixel(nn.Module):
    """Its classes move with the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return 8 * self.layer(x)


def pan(count):
    world = torch.randn(1, 3, 200, 400, generator=torch.Generator().manual_seed(0))
    return [world[..., 30:158, 160 - 4 * i : 352 - 4 * i].contiguous() for i in range(count)]


def gains(net, told, frames=12, **options):
    """Mean gains of the executed blocks of each frame that ran, and the blocks of the frames."""
    policy = GainPolicy(target=0.4)
    model = bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(BLOCK, policy, **options))
    found, executed = [], []
    for index, frame in enumerate(pan(frames)):
        told.append(index)
        with torch.inference_mode():
            model(frame)
        record = bc.handle(model).last
        executed.append(record.executed_rate)
        if index and "information_gain" in record.scalars:
            found.append(record.scalars["information_gain"])
    return found, executed


@pytest.fixture
def net():
    torch.manual_seed(0)
    return PerPixel().eval()


def test_what_motion_explains_is_no_gain(net):
    told = []
    copied, _ = gains(net, told)
    moved, _ = gains(
        net, told, propagate="move", motion=lambda frame, context: [(4, 0)] * len(frame)
    )
    assert len(copied) >= 2 and len(moved) >= 2
    # What came in at the edge is in one of six columns of blocks.
    assert min(copied) == pytest.approx(1) and moved[0] == pytest.approx(1 / 6, abs=1e-4)
    assert max(moved) < 0.5


def test_where_the_motion_is_unknown_the_gain_is_that_of_a_copy(net):
    told = []
    copied, rates = gains(net, told)
    unknown, same = gains(
        net, told, propagate="move", motion=lambda frame, context: [None] * len(frame)
    )
    assert unknown == pytest.approx(copied) and same == rates
