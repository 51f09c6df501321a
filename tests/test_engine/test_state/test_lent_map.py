"""Outputs share memory with the state: nobody sees what others write, and nothing is copied."""

from __future__ import annotations

import copy
import ctypes
import gc

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import StateError
from blockcopy_plugins.policy.dictated import DictatedPolicy
from blockcopy_plugins.shared_copy import address_of_memory, shared_copy

SIZE, BLOCK = (96, 128), 32
GRID = (3, 4)
LAYOUTS = {"channels_last": torch.channels_last, "planes": torch.contiguous_format}


def writes_by_op(out):
    out.mul_(0).add_(7)


def writes_by_view(out):
    out[:, 1:2].zero_()


def writes_by_numpy(out):
    out.numpy()[...] = 5


def writes_by_data(out):
    out.data.fill_(3)


def writes_by_dlpack(out):
    torch.from_dlpack(out).fill_(9)


def writes_by_pointer(out):
    ctypes.memset(out.data_ptr(), 1, out.numel() * out.element_size())


WRITES = [
    writes_by_op,
    writes_by_view,
    writes_by_numpy,
    writes_by_data,
    writes_by_dlpack,
    writes_by_pointer,
]


class Net(nn.Module):
    """Its output is large enough to be lent: 12 channels of the frame's size."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x):
        return self.two(self.one(x).relu())


def small_net(programs: bool = True):
    """A converted network, its policy, and the same network whose outputs are never lent."""
    torch.manual_seed(0)
    net = Net().eval()
    other = Net().eval()
    other.load_state_dict(net.state_dict())
    policies = DictatedPolicy(), DictatedPolicy()
    for model, policy in zip((net, other), policies, strict=True):
        options = dict(block_size=BLOCK, policy=policy, programs=programs)
        bc.blockcopy_(model, bc.BlockCopyConfig(**options))
    return net, policies[0], other, policies[1]


def frame_of(seed: int, layout: str, images: int = 1):
    draw = torch.Generator().manual_seed(seed)
    frame = torch.randn(images, 3, *SIZE, generator=draw)
    return frame.contiguous(memory_format=LAYOUTS[layout])


def copying(monkeypatch) -> None:
    """Results are copied, as without copy-on-write."""
    monkeypatch.setattr("blockcopy_plugins.engine.frame.frame.is_shared_by_copies", lambda x: False)


class Twins:
    """A network that lends its outputs, and the same one that copies them."""

    def __init__(self, programs: bool = True) -> None:
        self.net, self.policy, self.other, self.its = small_net(programs)

    def run(self, number: int, layout: str, grid, streams=("a",)):
        """The outputs of both for a frame, which must be the same."""
        frame = frame_of(number, layout, len(streams))
        self.policy.grid, self.its.grid = grid, grid.clone()
        with bc.streams(self.net, list(streams)):
            out = self.net(frame)
        with pytest.MonkeyPatch.context() as patch, bc.streams(self.other, list(streams)):
            copying(patch)
            wanted = self.other(frame)
        assert torch.equal(out, wanted) and out.stride() == wanted.stride()
        return out, wanted


def grid_of(bits: int, images: int = 1):
    """The blocks whose bits are set, the first image's first."""
    found = torch.tensor([bits >> i & 1 for i in range(12 * images)], dtype=torch.bool)
    return found.view(images, *GRID)


calls = st.lists(
    st.tuples(
        st.sampled_from(["channels_last", "planes"]),
        st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]),
        st.integers(0, 2**24 - 1),  # the grid
        st.integers(0, len(WRITES)),  # what the caller does to the output; the last: nothing
        st.integers(0, 3),  # how many outputs he keeps
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(calls, st.booleans())
def test_whoever_holds_or_writes_outputs_changes_nothing(taken, programs):
    twins = Twins(programs)
    kept, seen = [], set()
    with torch.inference_mode():
        for number, (layout, streams, bits, act, keep) in enumerate(taken):
            grid = grid_of(bits, len(streams))
            for image, stream in enumerate(streams):
                grid[image] |= stream not in seen
            seen |= set(streams)
            out, wanted = twins.run(number, layout, grid, streams)
            kept = [*kept, (out, wanted.clone())][-keep:] if keep else []
            for held, value in kept:
                assert torch.equal(held, value)
            if act < len(WRITES) and kept:
                held, value = kept[-1]
                WRITES[act](held)
                WRITES[act](value)
                for one, two in kept:
                    assert torch.equal(one, two)
            # Nobody but ``kept`` holds outputs while the next frame runs.
            out = held = one = None


layouts_and_grids = st.lists(
    st.tuples(
        st.sampled_from(["channels_last", "planes"]),
        st.sampled_from([0, 0, 1, 2, 4, 16, 129, 1 << 11, 3000]),
        st.booleans(),  # whether the caller holds the output
        st.booleans(),  # whether he lets go of all others first
    ),
    min_size=4,
    max_size=12,
)


@settings(max_examples=80, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(layouts_and_grids, st.booleans())
def test_both_layouts_and_both_memories_have_all_blocks(taken, programs):
    twins = Twins(programs)
    kept = []
    with torch.inference_mode():
        for number, (layout, bits, holds, lets_go) in enumerate(
            [(taken[0][0], 4095, 0, 0), *taken]
        ):
            if lets_go:
                kept.clear()
            out, wanted = twins.run(number, layout, grid_of(bits))
            kept += [(out, wanted.clone())] if holds else []
            out = None
            assert all(torch.equal(held, value) for held, value in kept)


def test_planes_that_were_held_while_streams_changed_places_are_brought_up_to_date():
    twins = Twins()
    blocks = [4095, 1, 2, 4, 8]
    orders = [("a", "b"), ("b", "a"), ("a", "b"), ("a", "b"), ("a", "b")]
    held = []
    with torch.inference_mode():
        for number, (bits, order) in enumerate(zip(blocks, orders, strict=True)):
            out, _ = twins.run(number, "planes", grid_of(bits).repeat(2, 1, 1), order)
            # The first output is held until two others have been made.
            held = [*held, out][-2:]
            out = None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_frame_that_is_refused_leaves_the_memory_as_it_was(layout):
    net, policy, other, its = small_net()
    run_some(net, policy, layout, 14, hold=True)
    run_some(other, its, layout, 14, hold=True)
    (stream,) = bc.handle(net).states.stores()[0].streams.values()
    with torch.inference_mode():
        held = net(frame_of(30, layout))
        other(frame_of(30, layout))
        # As if a module had used its state more often in the last frame.
        right, stream.calls = stream.calls, {**stream.calls, "one": 5}
        # The same block: the other memory lacks it, and this frame does not bring it.
        with pytest.raises(StateError, match="used state"):
            net(frame_of(31, layout))
        # Nothing of it has run, so the next frame need not be a whole one.
        assert not stream.broken
        stream.calls = right
        policy.grid = its.grid = its.grid.roll(1, 2)
        assert torch.equal(net(frame_of(32, layout)), other(frame_of(32, layout)))
    assert bc.report(net).programs.replayed and held is not None


def run_some(net, policy, layout: str, number: int, hold: bool):
    """Addresses of the outputs of frames with a few blocks each."""
    found, out = [], None
    with torch.inference_mode():
        policy.grid = torch.ones(1, *GRID, dtype=torch.bool)
        net(frame_of(0, layout))
        for i in range(number):
            policy.grid = torch.zeros(1, *GRID, dtype=torch.bool)
            policy.grid[0, i % 3, i % 4] = True
            if not hold:
                out = None
            out = net(frame_of(i, layout))
            found.append(address_of_memory(out))
    return found


@pytest.mark.parametrize("programs", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_lets_go_of_each_output_gets_the_same_memory_again(layout, programs):
    net, policy, *_ = small_net(programs)
    found = run_some(net, policy, layout, 16, hold=False)
    assert len(set(found[-5:])) == 1


@pytest.mark.parametrize("programs", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_holds_the_last_output_gets_two_memories_in_turn(layout, programs):
    net, policy, *_ = small_net(programs)
    found = run_some(net, policy, layout, 16, hold=True)
    last = found[-4:]
    assert last[0] == last[2] != last[1] == last[3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_report_counts_memory_of_outputs(layout):
    # A program is compared with the frame that it was made from, whose output is held then.
    net, policy, *_ = small_net(programs=False)
    run_some(net, policy, layout, 6, hold=False)
    state, alone = bc.report(net).state_bytes, bc.report(net).output_bytes
    assert alone == (layout == "planes") * 12 * SIZE[0] * SIZE[1] * 4
    run_some(net, policy, layout, 6, hold=True)
    assert bc.report(net).output_bytes == alone + 12 * SIZE[0] * SIZE[1] * 4
    assert bc.report(net).state_bytes == state


def test_outputs_kept_for_empty_frames_share_their_memory():
    net, policy, *_ = small_net()
    with torch.inference_mode():
        policy.grid = torch.ones(1, *GRID, dtype=torch.bool)
        first = net(frame_of(0, "planes"))
        policy.grid = torch.zeros(1, *GRID, dtype=torch.bool)
        net(frame_of(1, "planes"))
        policy.grid[0, 0, 0] = True
        out = net(frame_of(2, "planes"))
        policy.grid = torch.zeros(1, *GRID, dtype=torch.bool)
        again = net(frame_of(3, "planes"))
        assert address_of_memory(again) == address_of_memory(out)
        wanted = out.clone()
        out.zero_()
        assert torch.equal(again, wanted)
    assert not torch.equal(first, again)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_deep_copy_lends_memory_of_its_own(layout):
    net, policy, *_ = small_net()
    run_some(net, policy, layout, 8, hold=True)
    with torch.no_grad():
        held = net(frame_of(1, layout))
        other = copy.deepcopy(net)
        mine, its = net(frame_of(2, layout)), other(frame_of(2, layout))
        assert torch.equal(mine, its)
        assert address_of_memory(its) not in map(address_of_memory, (mine, held))
        its.zero_()
        assert torch.equal(net(frame_of(3, layout)), other(frame_of(3, layout)))
        del other, its, held
        gc.collect()
        wanted = net(frame_of(3, layout))
        assert torch.equal(net(frame_of(3, layout)), wanted)


@pytest.mark.parametrize("size", [8, 1 << 18])
def test_shared_copies_are_copies(size):
    tensor = torch.randn(size)
    copy, wanted = shared_copy(tensor), tensor.clone()
    tensor.zero_()
    assert torch.equal(copy, wanted)
    copy.fill_(2)
    assert not tensor.any()


def test_small_tensors_are_copied_at_once_and_large_ones_are_not():
    small, large = torch.randn(8), torch.randn(1 << 18)
    assert address_of_memory(shared_copy(small)) != address_of_memory(small)
    assert address_of_memory(shared_copy(large)) == address_of_memory(large)
    assert address_of_memory(shared_copy(large[7:])) == address_of_memory(large)
