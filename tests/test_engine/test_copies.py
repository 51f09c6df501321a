"""Deep copies and pickles of converted models, with graphs captured at that moment."""

from __future__ import annotations

import copy
import io
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing  # noqa: F401  (teaches ForkingPickler to share tensors)
from torch import nn

import blockcopy_plugins as bc
from benchmarks.gpu import recording_backend as recording
from blockcopy_plugins import ops
from blockcopy_plugins.engine.execution.capture_backend import CudaCaptured
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

SIZE, BLOCK = (60, 90), 16
POLICIES = [
    dict(type="RandomPolicy", rate=0.3, seed=5),
    dict(type="FrameDifferencePolicy", target=0.3),
    dict(type="RLPolicy", target=0.3, seed=5, update_every=2),
]


class Graph:
    """Refuses to be copied or pickled, with the words of ``torch.cuda.CUDAGraph``."""

    def __init__(self, replay) -> None:
        self.replay = replay

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle 'CUDAGraph' object")


class Backend(recording.RecordingBackend):
    """Captures into what the CUDA backend captures into, around such a graph."""

    def capture(self, call, device):
        recorded = super().capture(call, device)
        return CudaCaptured(Graph(recorded.replay), recorded.result, recorded.bytes)

    def __reduce__(self):
        return Backend, ()


class Net(nn.Module):
    """Convolutions of both kinds, a norm, a group norm, an addition and a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, 1, 1)
        self.grouped = nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.group = nn.GroupNorm(2, 8)
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(8, 5, 3, 1, 1)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        x = x + self.group(self.grouped(self.relu(self.a(x))))
        return nn.functional.interpolate(self.head(x), scale_factor=2.0)


def at_work(policy, frames=12):
    """A model in mid-stream with live graphs, one that failed, and the reference of its stream."""
    torch.manual_seed(0)
    net = Net().eval()
    reference = MaskedReference(copy.deepcopy(net), BLOCK)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=policy, buckets=(0.5, 0.75))
    bc.blockcopy_(net, config)
    graphs = bc.handle(net).graphs
    graphs.backend = Backend()
    run(net, reference, frames)
    assert len(list(next(iter(bc.handle(net).caches)).graphs)) >= 1
    with pytest.raises(TypeError, match="CUDAGraph"):
        copy.deepcopy(next(iter(next(iter(bc.handle(net).caches)).graphs)))
    graphs._cuda._failed.append(Graph(lambda: None))
    return net, reference


def run(net, reference, frames):
    """Run frames of one still scene with something in it, and check them; returns their grids."""
    grids = []
    scene = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    for _ in range(frames):
        frame = scene.clone()
        row, col = torch.randint(0, 50, (2,)).tolist()
        frame[:, :, row : row + 20, col : col + 20] = torch.randn(1, 3, 1, 1)
        found = net(frame)
        grids.append(bc.handle(net).last.grid)
        torch.testing.assert_close(found, reference(grids[-1], frame), rtol=1e-4, atol=1e-4)
    return grids


def by_pickle(net):
    return pickle.loads(pickle.dumps(net))


def by_save(net):
    file = io.BytesIO()
    torch.save({"model": net}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["model"]


def by_processes(net):
    return ForkingPickler.loads(ForkingPickler.dumps(net))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["type"])
def test_a_deep_copy_goes_on_from_where_the_model_stands(policy):
    net, reference = at_work(policy)
    other, its_reference = copy.deepcopy(net), copy.deepcopy(reference)
    mine, its = bc.handle(net), bc.handle(other)
    assert its is not mine and its.model is other and its.graphs.caches is its.caches
    assert its.graphs.report().graphs == 0
    before = its.graphs.backend.captures
    for model, its_own in ((net, reference), (other, its_reference)):
        torch.manual_seed(7)
        grids = run(model, its_own, 6)
        if model is net:
            wanted = grids
    assert all(map(torch.equal, grids, wanted)) and not any(grid.all() for grid in grids)
    assert its.graphs.report().graphs >= 1 and its.graphs.backend.captures > before
    # From here on each goes its own way.
    run(net, reference, 4)
    run(other, its_reference, 7)
    run(net, reference, 4)
    assert not its.graphs.report().eager_calls
    assert bc.report(net).frames == 12 + 6 + 8 and bc.report(other).frames == 12 + 6 + 7


def test_a_deep_copy_has_no_maps_of_graphs_whose_streams_are_gone():
    net, _ = at_work(POLICIES[0])
    bc.reset_(net)
    assert bc.report(net).state_bytes > 0
    assert bc.report(copy.deepcopy(net)).state_bytes == 0


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["type"])
@pytest.mark.parametrize("way", [by_pickle, by_save, by_processes])
def test_a_pickle_takes_all_but_the_streams_along(way, policy):
    net, reference = at_work(policy)
    other = way(net)
    mine, its = bc.handle(net), bc.handle(other)
    assert its.model is other and its.config == mine.config
    assert its.graphs.caches is its.caches and its.states.ids() == []
    assert bc.report(other).state_bytes == 0 and its.graphs.report().graphs == 0
    learned, kept = its.policy.state_dict(), mine.policy.state_dict()
    assert learned.keys() == kept.keys() and kept.get("updates", 1) > 0
    torch.testing.assert_close(learned.get("net", {}), kept.get("net", {}), rtol=0, atol=0)
    captures = its.graphs.backend.captures
    grids = run(other, MaskedReference(bc.restore_(way(net)), BLOCK), 8)
    assert [bool(grid.all()) for grid in grids] == [True] + 7 * [False]
    assert its.graphs.backend.captures > captures and not its.graphs.report().eager_calls
    # Its frames were none of this one's streams.
    assert not any(grid.all() for grid in run(net, reference, 4))


@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle])
def test_copies_can_be_restored(way):
    net, _ = at_work(POLICIES[0])
    frame = torch.randn(1, 3, *SIZE)
    with bc.dense(net):
        wanted = net(frame)
    other = bc.restore_(way(net))
    assert torch.equal(other(frame), wanted)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in other.modules())
    assert all("forward" not in m.__dict__ for m in other.modules())
    assert not bc.report(net).graphs.eager_calls


@pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")
def test_a_pickle_is_read_where_there_are_other_kernels(monkeypatch):
    net, _ = at_work(POLICIES[0])
    dumped = pickle.dumps(net)
    assert bc.report(pickle.loads(dumped)).kernel_bytes == 0 < bc.report(net).kernel_bytes
    monkeypatch.setattr(ops, "conv_kernels", lambda: ())
    other = pickle.loads(dumped)
    assert bc.handle(other).converted.convolutions.cpu is None
    run(other, MaskedReference(bc.restore_(pickle.loads(dumped)), BLOCK), 8)
