"""DictatedPolicy executes what it is told; a policy beside it works and is timed."""

from __future__ import annotations

import itertools

import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.policy import Policy
from blockcopy_plugins.policy.dictated import DictatedPolicy

FRAME = torch.randn(1, 3, 32, 48)


class Watcher(Policy):
    needs_outputs = True

    def __init__(self):
        self.seen = []

    def select(self, frame, context):
        self.seen.append("select")
        return torch.ones(context.grid_shape, dtype=torch.bool)

    def feedback(self, frame, grid, outputs, context):
        self.seen.append(("feedback", int(grid.sum()), len(outputs)))
        return {"learned": 1.0}

    def reset(self, streams=None):
        self.seen.append("reset")

    def macs(self, frame_shape, block_size):
        return {"forward": 1, "update": 2, "total": 3}


def converted(policy):
    net = torch.nn.Conv2d(3, 4, 3, 1, 1).eval()
    return bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))


def test_the_grid_is_executed_and_without_one_all_is():
    policy = DictatedPolicy()
    net = converted(policy)
    net(FRAME)
    for count in (1, 4, 0):
        policy.grid = (torch.arange(6) < count).view(1, 2, 3)
        net(FRAME)
        assert torch.equal(policy.ran, policy.grid)
    policy.grid = None
    net(FRAME)
    assert policy.ran.all() and policy.seconds() == 0


def test_the_policy_beside_does_its_work_and_its_time_is_told_once():
    ticks = itertools.count()
    beside = Watcher()
    policy = DictatedPolicy(
        beside, lambda: next(ticks), lambda first, second: 10 * (second - first)
    )
    assert policy.needs_outputs
    net = converted(policy)
    policy.grid = torch.zeros(1, 2, 3, dtype=torch.bool)
    net(FRAME)  # the first frame is whole
    net(FRAME)
    assert beside.seen == ["select", ("feedback", 6, 1), "select", ("feedback", 0, 1)]
    assert policy.seconds() == 40 and policy.seconds() == 0
    assert bc.handle(net).last.scalars["learned"] == 1.0
    assert policy.macs((1, 3, 32, 48), 16)["total"] == 3
    bc.reset_(net)
    assert beside.seen[-1] == "reset"


def test_a_grid_of_another_shape_is_refused():
    policy = DictatedPolicy()
    net = converted(policy)
    policy.grid = torch.ones(1, 3, 3, dtype=torch.bool)
    with pytest.raises(bc.errors.GridError):
        net(FRAME)
