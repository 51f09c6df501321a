"""Results, frames and grids that the caller holds share no memory with the state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference


class Net(nn.Module):
    """Gives away maps that its own layers read, at several stages."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 1, 1)
        self.b = nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x):
        first = self.a(x)
        second = self.b(F.relu(first))
        return x, first, second, second, first[:, 2:4], second.mean((2, 3)), second.flatten(2)


@pytest.fixture(params=[False, True])
def net(request):
    net = Net().eval()
    net.reference = MaskedReference(net, 16)
    net.grids = []
    bc.blockcopy_(
        net,
        bc.BlockCopyConfig(
            block_size=16, policy=lambda f, c: net.grids.pop(), pack_whole_frames=request.param
        ),
    )
    return net


def step(net, rate, frame, streams=None):
    ids = streams or tuple(range(len(frame)))
    grid = torch.rand(len(frame), 3, 4) < rate
    net.grids.append(grid)
    with bc.streams(net, ids):
        found = net(frame.clone())
    with bc.dense(net):
        wanted = net.reference(grid, frame, streams=ids)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    return found


@pytest.mark.parametrize("streams", [None, ("q", "p")])
def test_later_frames_do_not_change_results_of_earlier_ones(net, streams):
    step(net, 2, torch.randn(2, 3, 40, 50), ("p", "q") if streams else None)
    held = step(net, 0.5, torch.randn(2, 3, 40, 50), streams)
    copies = [x.clone() for x in held]
    for rate in (0.5, 2.0, 0.0):
        step(net, rate, torch.randn(2, 3, 40, 50), streams)
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


@pytest.mark.parametrize("streams", [None, ("q", "p")])
def test_what_the_caller_does_to_results_does_not_reach_the_state(net, streams):
    step(net, 2, torch.randn(2, 3, 40, 50), ("p", "q") if streams else None)
    for rate in (0.5, 0.0, 0.3, 2.0, 0.4):
        for output in step(net, rate, torch.randn(2, 3, 40, 50), streams):
            output.fill_(1e6)


def test_results_do_not_share_memory_with_each_other_or_the_state(net):
    outputs = step(net, 2, torch.randn(1, 3, 40, 50))
    places = {x.untyped_storage().data_ptr() for x in outputs}
    assert len(places) == len(outputs)
    for store in bc.handle(net).states._stores.values():
        for entry in store.entries.values():
            assert entry.map.untyped_storage().data_ptr() not in places


def test_the_frame_is_neither_kept_nor_changed(net):
    frame = torch.randn(1, 3, 40, 50)
    for rate in (2, 0.5, 0.5):
        # One buffer for all frames, as a camera has it.
        frame.copy_(torch.randn(1, 3, 40, 50))
        before = frame.clone()
        net.grids.append(torch.rand(1, 3, 4) < rate)
        net(frame)
        with bc.dense(net):
            net.reference(net_last(net), before)
        assert torch.equal(frame, before)
        frame.zero_()
    step(net, 0.3, torch.randn(1, 3, 40, 50))


def net_last(net):
    return bc.handle(net).last.grid


@pytest.mark.parametrize("policy", ["frame_difference", dict(type="RLPolicy", seed=0)])
def test_policies_do_not_keep_the_callers_buffer(policy):
    """The policy sees that the picture changed although the tensor is the same one."""
    rates = []
    for reuse in (False, True):
        torch.manual_seed(0)
        net = Net().eval()
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
        buffer = torch.zeros(1, 3, 40, 50)
        for t in range(6):
            picture = torch.zeros(1, 3, 40, 50)
            picture[:, :, 5 * t : 5 * t + 9, :20] = 2.0
            net(buffer.copy_(picture) if reuse else picture)
            rates.append(bc.handle(net).last.grid.clone())
    assert torch.equal(torch.stack(rates[:6]), torch.stack(rates[6:]))


def test_the_policys_grid_may_be_one_buffer():
    """A policy that returns the same tensor each time and writes into it afterwards."""
    buffer = torch.ones(1, 3, 4, dtype=torch.bool)
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda f, c: buffer))
    net(torch.randn(1, 3, 40, 50))
    buffer.zero_()
    assert bc.handle(net).last.grid.all()
    seen = []
    bc.handle(net).policy.function = lambda f, c: seen.append(c.last_grid.clone()) or buffer
    net(torch.randn(1, 3, 40, 50))
    assert seen[0].all()


def test_inplace_ops_of_the_model_on_what_it_returned():
    """``y.relu_()`` after a layer kept y for its halo: the state stays as the layer read it."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 6, 3, 1, 1)
            self.b = nn.Conv2d(6, 6, 3, 1, 1)
            self.c = nn.Conv2d(6, 6, 3, 1, 1)

        def forward(self, x):
            x = self.a(x)
            y = self.b(x)
            x.relu_()
            x += y
            z = self.c(x)
            x[:, :3].mul_(0.5)
            return x, y, z

    net = InPlace().eval()
    reference = MaskedReference(net, 16)
    grids = [torch.rand(2, 3, 4) < rate for rate in (2, 0.5, 0.0, 0.4, 0.4)]
    frames = [torch.randn(2, 3, 40, 50) for _ in grids]
    with torch.no_grad():
        dense = net(frames[0])
    wanted = [reference(g, f)[1:] for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda f, c: left.pop(0)))
    for i, (frame, want) in enumerate(zip(frames, wanted, strict=True)):
        found = net(frame)
        for a, b in zip(found[1:], want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        if i == 0:
            for a, b in zip(found, dense, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
