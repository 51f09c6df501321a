"""Several streams: batches whose members come, go and change places."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.squeeze = nn.Conv2d(6, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.b = nn.Conv2d(6, 4, 3, 1, 2, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.b(self.norm(x))
        return F.interpolate(x, scale_factor=2, mode="bilinear"), x.softmax(1)


batches = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True),
        st.sampled_from((0.0, 0.3, 0.6, 2.0)),
        st.lists(st.sampled_from("abcde"), max_size=2, unique=True),
    ),
    min_size=2,
    max_size=8,
)


def check_streams(steps, seed):
    """Each step runs a batch of streams, then forgets some."""
    torch.manual_seed(seed)
    net = Net().eval()
    reference = MaskedReference(net, 8)
    answers, firsts = [], []

    def policy(frame, context):
        firsts.append(context.first.tolist())
        return answers.pop()

    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy=policy))
    live = set()
    for ids, rate, forgotten in steps:
        grid = torch.rand(len(ids), 3, 4) < rate
        frames = torch.randn(len(ids), 3, 20, 30)
        answers.append(grid.clone())
        with bc.streams(net, ids):
            found = net(frames)
        assert firsts[-1] == [i not in live for i in ids]
        for image, stream_id in enumerate(ids):
            if stream_id not in live:
                grid[image] = True
        live |= set(ids)
        assert torch.equal(bc.handle(net).last.grid, grid)
        with bc.dense(net):
            wanted = reference(grid, frames, streams=ids)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        gone = [i for i in forgotten if i in live]
        bc.reset_(net, gone)
        live -= set(gone)
        assert set(bc.handle(net).states.ids()) == live
        slots = max(5, len(live))
        assert all(
            entry.map.shape[0] <= slots
            for store in bc.handle(net).states._stores.values()
            for entry in store.entries.values()
        )


@given(steps=batches, seed=st.integers(0, 99))
@settings(max_examples=40)
def test_streams_come_go_and_change_places(steps, seed):
    check_streams(steps, seed)


@pytest.mark.weekly
@given(steps=batches, seed=st.integers(0, 99))
@settings(max_examples=1000)
def test_streams_come_go_and_change_places_thoroughly(steps, seed):
    check_streams(steps, seed)


def converted(policy="none", **options):
    return bc.blockcopy_(Net().eval(), bc.BlockCopyConfig(block_size=8, policy=policy, **options))


def test_slots_are_used_again():
    net = converted()
    for name in ("a", "b", "c", "d"):
        with bc.streams(net, [name]):
            net(torch.randn(1, 3, 20, 30))
        if name == "a":
            one = bc.report(net).state_bytes
        bc.reset_(net, [name] if name != "d" else None)
    with bc.streams(net, ["e"]):
        net(torch.randn(1, 3, 20, 30))
    assert bc.report(net).state_bytes == one > 0


def test_a_new_stream_in_an_old_slot_sees_nothing_of_its_forerunner():
    net = converted()
    with bc.streams(net, ["old", "stays"]):
        net(torch.full((2, 3, 20, 30), 100.0))
    bc.reset_(net, ["old"])
    frame = torch.randn(1, 3, 20, 30)
    with bc.streams(net, ["new"]):
        found = net(frame)
    assert bc.handle(net).last.executed_rate == 1
    with bc.dense(net):
        for a, b in zip(found, net(frame), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_streams_of_two_sizes():
    net = converted()
    outputs = {}
    for name, size in (("wide", (20, 30)), ("tall", (33, 17))):
        with bc.streams(net, [name]):
            outputs[name] = net(torch.randn(1, 3, *size))
    for name, size in (("tall", (33, 17)), ("wide", (20, 30))):
        with bc.streams(net, [name]):
            again = net(torch.randn(1, 3, *size))
        assert all(torch.equal(a, b) for a, b in zip(again, outputs[name], strict=True))
    bc.reset_(net, ["tall"])
    with bc.streams(net, ["tall"]):  # The size of a stream may change with a reset.
        net(torch.randn(1, 3, 20, 30))


def test_image_i_is_stream_i_by_default():
    net = converted()
    both = net(torch.randn(2, 3, 20, 30))
    assert bc.handle(net).states.ids() == [0, 1]
    one = net(torch.randn(1, 3, 20, 30))
    assert torch.equal(one[0][0], both[0][0])
    with bc.streams(net, [1, 0]):
        swapped = net(torch.randn(2, 3, 20, 30))
    assert torch.equal(swapped[0], both[0].flip(0))


def test_what_the_policy_is_told():
    seen = []

    def policy(frame, context):
        seen.append(context)
        return torch.rand(context.grid_shape) < 0.5

    net = converted(policy)
    for ids in (["x"], ["x", "y"], ["y", "x"]):
        with bc.streams(net, ids):
            net(torch.randn(len(ids), 3, 20, 30))
    grid = bc.handle(net).last.grid
    first, second, third = seen
    assert first.streams == ("x",) and first.frame_index == (0,) and first.first.tolist() == [True]
    assert first.grid_shape == (1, 3, 4) and first.block_size == 8
    assert second.frame_index == (1, 0) and second.first.tolist() == [False, True]
    assert second.last_grid[0].all() and not second.last_grid[1].any()
    assert third.streams == ("y", "x") and third.frame_index == (1, 2)
    assert third.last_grid[0].all() and grid.shape == (2, 3, 4)


def test_a_failed_batch_breaks_the_streams_in_it_alone():
    rate = [0.0]
    net = converted(lambda f, c: torch.rand(c.grid_shape) < rate[0])
    kept = {}
    for name in ("in", "out"):
        with bc.streams(net, [name]):
            kept[name] = net(torch.randn(1, 3, 20, 30))
    hook = net.b.register_forward_pre_hook(lambda m, a: 1 / 0)
    rate[0] = 2.0
    with bc.streams(net, ["in"]), pytest.raises(ZeroDivisionError):
        net(torch.randn(1, 3, 20, 30))
    hook.remove()
    rate[0] = 0.0
    with bc.streams(net, ["in", "out"]):
        found = net(torch.randn(2, 3, 20, 30))
    assert bc.handle(net).last.grid.flatten(1).all(1).tolist() == [True, False]
    assert torch.equal(found[0][1], kept["out"][0][0])


class Attention(nn.Module):
    """As timm and mmseg write it: torch copies in other places for one image than for two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        x = self.stem(x)
        tokens = x.flatten(2).transpose(1, 2)
        images, pixels, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(images, pixels, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        found = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        tokens = tokens + found.transpose(1, 2).reshape(images, pixels, channels)
        return tokens.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("pack", [True, False])
def test_attention_in_batches_of_changing_size(pack):
    net, grids = Attention().eval(), []
    reference = MaskedReference(copy.deepcopy(net), 8)
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids[-1], pack_whole_frames=pack)
    bc.blockcopy_(net, config)
    for ids, rate in (((0, 1), 2), ((1,), 0.5), ((0, 1), 0.5), ((1, 0), 0.3), ((0,), 0.0)):
        frames = torch.randn(len(ids), 3, 20, 25)
        grids.append(torch.rand(len(ids), 3, 4) < rate)
        with bc.streams(net, ids):
            found = net(frames)
        wanted = reference(grids[-1], frames, streams=ids)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
