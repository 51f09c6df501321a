"""Frames as graphs: the laws, streams, memory and fall-backs, by a recorder in place of CUDA."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from benchmarks.gpu import recording_backend as recording
from blockcopy_plugins.engine.conv.neighbours import Neighbours
from blockcopy_plugins.engine.execution import cuda_graphs
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import FrameError, StateError
from tests.test_engine import test_laws as laws

SIZE, BLOCK = (60, 90), 16  # 4 x 6 blocks, of which the last row and column are cut
SHAPE = (1, 4, 6)


@pytest.fixture(autouse=True)
def _weights_as_they_are(monkeypatch):
    """A graph reads weights where they lie; those that kernels of a CPU stack are copies."""
    monkeypatch.setattr(Neighbours, "that_fill", lambda *_: None)


class Net(nn.Module):
    """Stride, residual, resize both ways, group norm, an in-place view, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, 1, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.group = nn.GroupNorm(2, 8)
        self.wide = nn.Conv2d(8, 8, 3, 1, 6, 6)
        self.head = nn.Conv2d(8, 5, 3, 1, 1)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.relu_(x + self.a(x))
        low = F.max_pool2d(self.group(self.down(x)), 3, 1, 1)
        low = low * low.mean((2, 3), keepdim=True).sigmoid()
        up = F.interpolate(self.wide(low), size=x.shape[2:], mode="bilinear")
        up[:, 0].mul_(2.0)
        out = self.head(x + up)
        return {"maps": (out, low), "logits": F.interpolate(out, scale_factor=2.0), "none": None}


def flat(outputs):
    return [*outputs["maps"], outputs["logits"]]


def near(found, wanted, tolerance=1e-4):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def exactly(count):
    """A policy that executes this many blocks of each image, others each time."""

    def policy(frame, context):
        images, rows, cols = context.grid_shape
        ranks = torch.rand(images, rows * cols).argsort(1).argsort(1)
        return (ranks < count).view(context.grid_shape)

    return policy


few = exactly(3)


def converted(net=None, policy=None, **options):
    """A model whose frames are captured, and its recorder."""
    options = {"buckets": (0.25, 0.5), **options}
    policy = policy or (lambda f, c: torch.rand(c.grid_shape) < torch.rand(()) * 0.5)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=policy, **options)
    net = bc.blockcopy_((net or Net()).eval(), config)
    return net, recording.with_graphs(net)


def frames(count, images=1):
    return [torch.randn(images, 3, *SIZE) for _ in range(count)]


def check(net, reference, frame, ids=None, **tolerance):
    """Run a frame, and check it against the masked reference of the grid that ran."""
    found = net(frame)
    with bc.dense(net):
        wanted = reference(bc.handle(net).last.grid, frame, streams=ids)
    near(flat(found), flat(wanted), **tolerance)
    return found


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_replays_are_the_masked_reference(mode, layout):
    net, backend = converted()
    reference = MaskedReference(net, BLOCK)
    for frame in frames(14):
        frame = frame.contiguous(memory_format=layout)
        with mode():
            found = check(net, reference, frame)
        for output in flat(found):
            assert output.is_contiguous(memory_format=layout) and not output.is_inference()
    assert 2 <= backend.captures <= backend.warm_ups <= 4 and backend.replays >= 6
    report = bc.report(net).graphs
    assert report.captured == report.graphs == backend.captures
    assert report.replayed + report.captured == backend.replays and not report.eager_calls
    assert report.graph_bytes > 0 and "CUDA graphs" in str(bc.report(net))


def test_a_still_picture_never_changes_and_an_empty_grid_changes_nothing():
    rates = [2, 0.4, 0.4, 0.4, 0, 0, 0, 0.4, 0]
    left = list(rates)
    net, backend = converted(policy=lambda f, c: torch.rand(c.grid_shape) < left.pop(0))
    still, others = frames(1)[0], frames(len(rates))
    before = first = flat(net(still))
    for rate, other in zip(rates[1:], others[1:], strict=True):
        found = flat(net(other if rate == 0 else still))
        near(found, first)
        if rate == 0:
            assert bc.handle(net).last.executed_rate == 0
            assert all(torch.equal(a, b) for a, b in zip(found, before, strict=True))
        before = found
    assert backend.replays >= 4


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pack", [False, True])
def test_whole_frames_are_replayed_for_any_streams(layout, pack):
    net, backend = converted(policy="all", pack_whole_frames=pack)
    for ids in ("ab", "ab", "ab", "ab", "ba", "cb", "ac", "ca", "ab"):
        frame = frames(1, 2)[0].contiguous(memory_format=layout)
        with bc.dense(net):
            wanted = flat(net(frame))
        with bc.streams(net, list(ids)):
            found = flat(net(frame))
        near(found, wanted)
        assert all(output.is_contiguous(memory_format=layout) for output in found)
    # 'c' came with the sixth, for which the maps grew: the frame is captured anew.
    assert backend.warm_ups == 2 and backend.captures == 2 and backend.replays == 5


def test_what_whole_frames_leave_is_read_by_partly_executed_ones():
    counts = [24, 24, 24, 24, 3, 3, 3, 24, 3, 24, 3]
    left = list(counts)
    net, backend = converted(policy=lambda f, c: exactly(left.pop(0))(f, c), buckets=None)
    reference = MaskedReference(net, BLOCK)
    for frame in frames(len(counts)):
        check(net, reference, frame)
    assert backend.captures == 2 and backend.replays == 8


def test_results_are_the_caller_s():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    kept = []
    for frame in frames(6):
        found = check(net, reference, frame)
        kept += [(output, output.clone()) for output in flat(found)]
    for output, copied in kept:
        assert torch.equal(output, copied)
        output.fill_(float("nan"))
    check(net, reference, frames(1)[0])
    assert backend.replays >= 5


def test_off():
    net, backend = converted(cuda_graphs=False)
    for frame in frames(5):
        net(frame)
    assert backend.warm_ups == 0 and bc.report(net).graphs is None


def test_without_an_injected_backend_the_cpu_has_no_graphs():
    net, _ = converted()
    bc.handle(net).graphs.backend = None
    for frame in frames(5):
        net(frame)
    assert bc.report(net).graphs is None


def test_autocast():
    net, backend = converted()
    reference = MaskedReference(net, BLOCK)
    for frame in frames(8):
        # Each frame opens autocast anew: a cast of a weight that it caches is gone after it.
        with torch.autocast("cpu", torch.bfloat16):
            found = net(frame)
            with bc.dense(net):
                wanted = reference(bc.handle(net).last.grid, frame)
        for a, b in zip(flat(found), flat(wanted), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.1)
    captures = backend.captures
    assert backend.replays > captures > 0
    bc.reset_(net)
    reference = MaskedReference(net, BLOCK)
    for frame in frames(6):  # Without autocast the casts are others: another graph.
        check(net, reference, frame)
    assert backend.captures > captures


def test_autocast_around_many_frames_keeps_no_casts_of_its_own():
    net, backend = converted(policy=few, buckets=(0.5,))
    bf16 = torch.autocast("cpu", torch.bfloat16)
    with bf16:
        for frame in frames(4):
            net(frame)
    with torch.no_grad():
        net.head.weight.mul_(-3.0)
    bc.reset_(net)
    reference = MaskedReference(net, BLOCK)
    for frame in frames(3):
        with bf16:
            found = net(frame)
            with bc.dense(net):
                wanted = reference(bc.handle(net).last.grid, frame)
        near(flat(found), flat(wanted), 0.1)
    assert backend.captures == 1 and backend.replays == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    net, backend = converted(Net().to(dtype))
    exact = copy.deepcopy(net)
    reference = MaskedReference(bc.restore_(exact).double(), BLOCK)
    for frame in frames(8):
        found = net(frame.to(dtype))
        wanted = reference(bc.handle(net).last.grid, frame.to(dtype).double())
        near([f.double() for f in flat(found)], flat(wanted), 1e-9 if dtype.itemsize == 8 else 0.2)
    assert backend.replays > 0


class Wide(nn.Module):
    """A pooling that gives a row and a column of blocks more than the grid has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 1, 1)
        self.head = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        return self.head(F.max_pool2d(self.stem(x), 2, 2, ceil_mode=True))


def test_blocks_beyond_the_grid_have_graphs_of_their_own():
    """Their number depends on where the executed blocks are, not on how many there are."""
    corner = torch.zeros(1, 4, 4, dtype=torch.bool)
    corner[0, 3, 3] = True
    inside = corner.roll((1, 1), (1, 2))
    net, backend = converted(
        Wide(), lambda f, c: corner if c.frame_index[0] % 3 else inside, buckets=None
    )
    reference = MaskedReference(net, BLOCK)
    for _ in range(12):
        frame = torch.randn(1, 3, 64, 64)
        with bc.dense(net):
            pass
        found = net(frame)
        ran = bc.handle(net).last.grid
        with bc.dense(net):
            near([found], [reference(ran, frame)])
    assert backend.captures == 2 and backend.replays >= 5


def check_random_network(nodes, size, block, seed, inference):
    torch.manual_seed(seed)
    net = laws.RandomNet(nodes).eval()
    reference = MaskedReference(copy.deepcopy(net), block)
    config = bc.BlockCopyConfig(
        block_size=block, policy=lambda f, c: torch.rand(c.grid_shape) < 0.4, buckets=2
    )
    backend = recording.with_graphs(bc.blockcopy_(net, config))
    for _ in range(5):
        frame = torch.randn(2, 3, *size)
        with torch.inference_mode() if inference else torch.no_grad():
            found = net(frame)
        for a, b in zip(found, reference(bc.handle(net).last.grid, frame), strict=True):
            laws.close(a, b)
    return backend.replays


random_network = dict(
    nodes=laws.nets,
    size=laws.sizes,
    block=st.sampled_from((4, 8, 16)),
    seed=st.integers(0, 99),
    inference=st.booleans(),
)


def numbers_of_cases(quick, slow, weekly):
    return [
        quick,
        pytest.param(slow, marks=pytest.mark.slow),
        pytest.param(weekly, marks=pytest.mark.weekly),
    ]


@pytest.mark.parametrize("cases", numbers_of_cases(25, 150, 600))
def test_random_networks(cases):
    @given(**random_network)
    @settings(max_examples=cases)
    def run(**drawn):
        check_random_network(**drawn)

    run()


# -- streams ---------------------------------------------------------------------------------------


def test_streams_share_a_graph():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for ids in (["a", "b", "c"], ["a"], ["a"], ["b"], ["c"], ["b", "a"], ["a", "b"], ["c", "a"]):
        with bc.streams(net, ids):
            check(net, reference, frames(1, len(ids))[0], ids)
    assert backend.warm_ups == backend.captures == 2  # of one image, of two
    assert backend.replays == 5


steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=2, unique=True),
        st.sampled_from((0.0, 0.2, 0.4, 1.0)),
        st.lists(st.sampled_from("abcd"), max_size=1),
    ),
    min_size=8,
    max_size=16,
)


def check_streams(taken, seed):
    torch.manual_seed(seed)
    rates = []
    net, backend = converted(policy=lambda f, c: torch.rand(c.grid_shape) < rates[-1])
    reference = MaskedReference(net, BLOCK)
    live = set()
    for ids, rate, forgotten in taken:
        rates.append(rate)
        with bc.streams(net, ids):
            check(net, reference, frames(1, len(ids))[0], ids)
        assert all(
            bc.handle(net).last.grid[i].all() for i, name in enumerate(ids) if name not in live
        )
        live |= set(ids)
        gone = [name for name in forgotten if name in live]
        bc.reset_(net, gone)
        live -= set(gone)
        assert set(bc.handle(net).states.ids()) == live
    return backend


@pytest.mark.parametrize("cases", numbers_of_cases(8, 75, 300))
def test_streams_come_and_go(cases):
    @given(taken=steps, seed=st.integers(0, 99))
    @settings(max_examples=cases)
    def run(taken, seed):
        check_streams(taken, seed)

    run()


def test_a_new_slot_moves_the_maps_and_ends_their_graphs():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for names in (["a"] * 4, ["b"], ["a"] * 4):
        for name in names:
            with bc.streams(net, [name]):
                check(net, reference, frames(1)[0], [name])
    assert backend.captures == 2 and bc.report(net).graphs.evicted == 1


def test_the_next_video_finds_the_graphs_of_the_last():
    net, backend = converted(policy=few, buckets=(0.5,))
    bytes_of_state = set()
    for video in range(3):
        reference = MaskedReference(net, BLOCK)  # which remembers nothing
        for frame in frames(4):
            check(net, reference, frame)
        bytes_of_state.add(bc.report(net).state_bytes)
        bc.reset_(net, [0] if video else None)
    assert backend.captures == 1 and backend.replays == 2 + 3 + 3
    assert len(bytes_of_state) == 1 and bc.report(net).state_bytes in bytes_of_state
    bc.handle(net).graphs.forget()
    assert bc.report(net).state_bytes == 0


def test_a_model_that_changed_between_two_videos():
    net, backend = converted(buckets=(0.5,))
    for frame in frames(4):
        net(frame)
    bc.reset_(net)
    net.stem.stride = (1, 1)  # The maps behind it are larger now.
    reference = MaskedReference(net, BLOCK)
    for frame in frames(4):
        check(net, reference, frame)


def test_streams_of_two_sizes():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for _ in range(4):
        for name, size in (("wide", (60, 90)), ("tall", (80, 50))):
            with bc.streams(net, [name]):
                check(net, reference, torch.randn(1, 3, *size), [name])
    assert backend.captures == 2 and backend.replays == 4


# -- results and parameters -----------------------------------------------------------------------


def test_results_are_copies():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    kept = []
    for frame in frames(6):
        found = check(net, reference, frame)
        for before, copies in kept:
            assert all(torch.equal(a, b) for a, b in zip(before, copies, strict=True))
        kept.append((flat(found), [output.clone() for output in flat(found)]))
    for output in kept[-1][0]:
        output.fill_(7.0)
    check(net, reference, frames(1)[0])
    assert backend.replays >= 5


class Twice(Net):
    def forward(self, x):
        mean = super().forward(x)["logits"].mean((2, 3))
        return {"maps": (mean, mean), "logits": mean + 1}


def test_a_result_that_is_there_twice():
    net, backend = converted(Twice())
    reference = MaskedReference(net, BLOCK)
    for frame in frames(8):
        found = check(net, reference, frame)
        assert found["maps"][0] is found["maps"][1]
    assert backend.replays > 0


def test_parameters_may_change_in_place_or_be_replaced():
    net, backend = converted(policy=few, buckets=(0.5,))

    def run():
        bc.reset_(net)
        reference = MaskedReference(net, BLOCK)
        for frame in frames(4):
            check(net, reference, frame)
        return backend.captures

    assert run() == 1
    with torch.no_grad():
        net.a.weight.mul_(3.0)
    assert run() == 1
    net.a.weight = nn.Parameter(torch.randn_like(net.a.weight))
    assert run() == 2
    net.norm.running_mean = torch.rand(8)
    assert run() == 3


def test_copies_and_restored_models():
    net, backend = converted(policy=few, buckets=(0.5,))
    for frame in frames(4):
        net(frame)
    other = copy.deepcopy(net)
    assert not any(cache.graphs for cache in bc.handle(other).caches)
    frame = frames(1)[0]
    torch.manual_seed(3)
    wanted = flat(net(frame))
    torch.manual_seed(3)
    near(flat(other(frame)), wanted)
    handle = bc.handle(net)
    bc.restore_(net)
    assert handle.graphs.report().graphs == 0


# -- book-keeping ----------------------------------------------------------------------------------


def test_the_report_counts_replays_as_frames():
    torch.manual_seed(1)
    one, backend = converted()
    torch.manual_seed(1)
    two, _ = converted(cuda_graphs=False)
    pictures = frames(10)
    for net in (one, two):
        torch.manual_seed(2)
        for frame in pictures:
            net(frame)
    assert backend.replays > 4
    found, wanted = bc.report(one).as_dict(), bc.report(two).as_dict()
    for figures in (found, wanted):
        for name in ("ms_model", "ms_policy", "graphs", "programs"):
            del figures[name]
    assert found == wanted and found["macs_executed"] > 0


class Optional(nn.Module):
    """A layer that a call may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x, deep=True):
        x = self.a(x)
        return self.b(x) if deep else x


def test_a_layer_without_state_of_the_last_frame_is_an_error_in_a_replay_too():
    net, backend = converted(Optional(), few, buckets=(0.5,))
    for frame in frames(4):
        net(frame)
    assert backend.replays == 2
    net(frames(1)[0], deep=False)
    kept = [e.map.clone() for e in bc.handle(net).states.stores()[0].entries.values()]
    with pytest.raises(StateError, match="has no state of the stream's last frame"):
        net(frames(1)[0])
    now = [e.map for e in bc.handle(net).states.stores()[0].entries.values()]
    assert backend.replays == 2 and all(map(torch.equal, kept, now))
    bc.reset_(net)
    net(frames(1)[0])
    net(frames(1)[0])
    assert backend.replays == 3


class Repeated(Optional):
    """A layer that a call may use more than once."""

    def forward(self, x, times=1):
        x = self.a(x)
        for _ in range(times):
            x = self.b(x)
        return x


def test_a_layer_used_less_often_than_before_is_an_error_in_a_replay_too():
    net, backend = converted(Repeated(), few, buckets=(0.5,))
    for frame in frames(3):
        net(frame)
    bc.reset_(net)
    net(frames(1)[0], times=2)
    kept = [e.map.clone() for e in bc.handle(net).states.stores()[0].entries.values()]
    with pytest.raises(StateError, match="used state 1 times in this frame and 2 times"):
        net(frames(1)[0])
    now = [e.map for e in bc.handle(net).states.stores()[0].entries.values()]
    assert backend.replays == 1 and all(map(torch.equal, kept, now))


def test_a_bad_frame_leaves_everything_as_it_was():
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for i, frame in enumerate(frames(6)):
        check(net, reference, frame)
        bad = frame.clone()
        bad[0, 1, 5, 7] = float("nan") if i % 2 else float("-inf")
        with pytest.raises(FrameError, match="nan|inf"):
            net(bad)
    assert backend.replays == 4


def test_a_replay_that_fails_has_the_next_frame_executed_fully(monkeypatch):
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for frame in frames(4):
        check(net, reference, frame)
    with monkeypatch.context() as patch:
        patch.setattr(recording.Recording, "replay", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            net(frames(1)[0])
    check(net, reference, frames(1)[0])
    assert bc.handle(net).last.executed_rate == 1
    check(net, reference, frames(1)[0])
    assert backend.replays == 3


# -- what cannot be captured -----------------------------------------------------------------------


class Looks(Net):
    """Data-dependent control flow."""

    def forward(self, x):
        out = super().forward(x)
        if out["logits"].mean() > 0:
            out["logits"] = out["logits"] + 1.0
        return out


class Counts(Net):
    def forward(self, x):
        return {**super().forward(x), "count": 3}


class Waits(Net):
    """An op that densifies, and waits for the device."""

    def forward(self, x):
        out = super().forward(x)
        logits = out["logits"]
        return {**out, "logits": logits * (1 if (logits > -9e9).nonzero().shape[0] else 2)}


class Ten(nn.Module):
    """Values that come from the host."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])[:, None, None]


class Constants(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = Ten(self.head)


class Shrinks(Net):
    """The last layer's map has fewer blocks than the grid; how many executed ones is the grid's."""

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Sequential(nn.Conv2d(3, 5, 9), nn.Conv2d(5, 5, 9))
        self.last = nn.Conv2d(5, 5, 3)

    def forward(self, x):
        return {**super().forward(x), "logits": self.last(self.shrink(x))}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Shrinks, r"aten.index.Tensor in module 'last' waits for the device"),
        (Looks, r"aten._local_scalar_dense.default in module '\(root\)' waits for the device"),
        (Waits, r"aten.nonzero.default in module '\(root\)' waits for the device"),
        (Constants, r"aten.lift_fresh.default in module 'head' waits for the device"),
        (Counts, "its results hold a int"),
    ],
)
def test_what_cannot_be_captured_runs_as_ever_and_says_why(make, reason, caplog):
    net, backend = converted(make())
    plain = MaskedReference(net, BLOCK)
    with caplog.at_level(logging.WARNING, "blockcopy_plugins"):
        for frame in frames(8):
            found = net(frame)
            with bc.dense(net):
                wanted = plain(bc.handle(net).last.grid, frame)
            near(flat(found), flat(wanted))
    assert backend.replays == backend.captures == 0
    report = bc.report(net).graphs
    assert list(report.eager_calls.values())[0] >= 4 and report.graphs == 0
    assert len(report.eager_calls) == 1
    assert re.search(reason, next(iter(report.eager_calls)))
    assert next(iter(report.eager_calls)) in str(bc.report(net))
    assert sum("without CUDA graphs" in r.message for r in caplog.records) == 1


class Late(Net):
    """Begins to wait for the device when it is told to, after the warm-up."""

    late = False

    def forward(self, x):
        out = super().forward(x)
        mean = out["logits"].mean()
        if self.late:
            mean.item()
        return out


@pytest.mark.parametrize("guarded", [True, False])
def test_what_cannot_be_captured_any_more(guarded, monkeypatch):
    """Whether the guard finds it, or the capture itself fails."""
    if not guarded:
        monkeypatch.setattr(cuda_graphs.CaptureGuard, "_waits", lambda *args: False)
    net, backend = converted(Late(), few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for i, frame in enumerate(frames(6)):
        net.late = i == 2
        check(net, reference, frame)
    assert backend.captures == 1 and backend.replays == 0
    (reason,) = bc.report(net).graphs.eager_calls
    if guarded:
        assert reason.startswith("it could not be captured (aten._local_scalar_dense.default in")
    else:
        assert reason.startswith("it could not be captured (RuntimeError in module '(root)': op")


def test_a_tensor_beside_the_frame():
    class Shifted(Net):
        def forward(self, x, shift):
            return {**(out := super().forward(x)), "logits": out["logits"] + shift}

    net, backend = converted(Shifted())
    reference = MaskedReference(net, BLOCK)
    for i, frame in enumerate(frames(5)):
        shift = torch.tensor(float(i))
        found = flat(net(frame, shift))
        with bc.dense(net):
            near(found, flat(reference(bc.handle(net).last.grid, frame, shift)))
    assert backend.warm_ups == 0
    assert "called with a Tensor besides the frame" in next(iter(bc.report(net).graphs.eager_calls))


def test_arguments_are_part_of_the_kind():
    class Scaled(Net):
        def forward(self, x, by=1.0):
            return {**(out := super().forward(x)), "logits": out["logits"] * by}

    net, backend = converted(Scaled(), few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for frame in frames(4):
        for by in (1.0, 2.0):
            found = flat(net(frame, by=by))
            with bc.dense(net):
                near(found, flat(reference(bc.handle(net).last.grid, frame, by=by)))
    assert backend.captures == 2 and backend.replays >= 4


def test_hooks_of_others_are_called_on_every_frame():
    net, backend = converted()
    seen = []
    net(frames(1)[0])
    hook = net.a.register_forward_hook(lambda m, a, out: seen.append(1))
    for frame in frames(5):
        net(frame)
    assert len(seen) == 5 and backend.warm_ups == 0
    assert "'a' has a forward hook" in next(iter(bc.report(net).graphs.eager_calls))
    hook.remove()
    for frame in frames(8):
        net(frame)
    assert backend.replays > 0
    net.a.register_forward_pre_hook(lambda m, a: seen.append(2))
    before = backend.replays
    net(frames(1)[0])
    assert seen[-1] == 2 and backend.replays == before


def test_hooks_around_the_whole_model_do_no_harm():
    net, backend = converted(policy=few, buckets=(0.5,))
    seen = []
    net.register_forward_hook(lambda m, a, out: seen.append(1))
    for frame in frames(5):
        net(frame)
    assert len(seen) == 5 and backend.replays == 3


class Fails(Net):
    """Raises when it is told to."""

    fail = False

    def forward(self, x):
        out = super().forward(x)
        if self.fail:
            raise ZeroDivisionError("told to")
        return out


def test_a_model_that_fails_while_it_is_captured():
    net, backend = converted(Fails(), few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for frame in frames(2):
        check(net, reference, frame)
    net.fail = True
    with pytest.raises(ZeroDivisionError, match="told to"):
        net(frames(1)[0])
    net.fail = False
    assert backend.captures == 1 and backend.replays == 0
    for frame in frames(3):
        check(net, reference, frame)
    # Its half-done work may be anywhere: executed fully, then as ever, since capturing failed.
    assert bc.report(net).graphs.eager_calls and backend.replays == 0


def test_an_interrupt_while_capturing(monkeypatch):
    net, backend = converted(policy=few, buckets=(0.5,))
    reference = MaskedReference(net, BLOCK)
    for frame in frames(2):
        check(net, reference, frame)

    def interrupt(module, args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend, "capture", lambda call, device: (call(), interrupt(None, None)))
        with pytest.raises(KeyboardInterrupt):
            net(frames(1)[0])
    for frame in frames(4):
        check(net, reference, frame)
    assert backend.replays == 3


def test_a_whole_detector_is_told_beforehand():
    from blockcopy_plugins.engine.adapter import ModelAdapter

    class Adapter(ModelAdapter):
        graph_obstacle = "it has a tail"

    config = bc.BlockCopyConfig(
        block_size=BLOCK, policy=lambda f, c: torch.rand(c.grid_shape) < 0.3
    )
    net = bc.blockcopy_(Net().eval(), config, Adapter())
    backend = recording.with_graphs(net)
    for frame in frames(3):
        net(frame)
    assert backend.warm_ups == 0 and bc.report(net).graphs.eager_calls == {"it has a tail": 3}


# -- memory ----------------------------------------------------------------------------------------


def test_a_graph_larger_than_all_may_be():
    net, backend = converted(policy=few, buckets=(0.5,), graph_memory_mib=1)
    bc.handle(net).graphs.limit = 1000
    reference = MaskedReference(net, BLOCK)
    for frame in frames(6):
        check(net, reference, frame)
    assert backend.captures == 1 and backend.replays == 0
    report = bc.report(net).graphs
    assert report.graphs == report.graph_bytes == 0
    assert "a graph needs more memory than all may have" in next(iter(report.eager_calls))


def test_old_graphs_make_room(monkeypatch):
    count = [24]
    net, backend = converted(policy=lambda f, c: exactly(count[0])(f, c), buckets=(0.25, 0.75))
    reference = MaskedReference(net, BLOCK)

    def run(executed, calls=4):
        count[0] = executed
        for frame in frames(calls):
            check(net, reference, frame)
        return bc.report(net).graphs

    run(24, 1)
    alone = run(18).graph_bytes
    bc.handle(net).graphs.limit = alone + 1
    refused = run(3)
    assert refused.graphs == 1 and refused.evicted == 0 and refused.graph_bytes == alone
    (reason,) = refused.eager_calls
    assert "graphs that are in use leave no memory" in reason and refused.eager_calls[reason] == 3
    captures = backend.captures  # It knows now what it needs: it is not tried each time.
    assert run(3).eager_calls[reason] == 7 and backend.captures == captures
    monkeypatch.setattr(cuda_graphs, "_RECENT_CALLS", 3)
    report = run(3)
    assert report.graphs == 1 and report.evicted == 1 and 0 < report.graph_bytes < alone
    assert report.eager_calls[reason] == 7
    replays = backend.replays
    run(3)
    assert backend.replays == replays + 4


def test_graphs_without_streams_make_room_first():
    net, backend = converted(policy=few, buckets=(0.5,))
    for size in (SIZE, (64, 96)):
        for _ in range(3):
            net(torch.randn(1, 3, *size))
        graphs = bc.report(net).graphs
        bc.reset_(net)
        bc.handle(net).graphs.limit = int(graphs.graph_bytes * 1.5)
    assert graphs.graphs == 1 and graphs.evicted == 1 and backend.captures == 2
    assert len(list(bc.handle(net).caches)) == 1
