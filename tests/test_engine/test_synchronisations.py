"""A frame waits for the device once: where the host reads which blocks are executed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.policy import Policy


def _load(name):
    path = Path(__file__).resolve().parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DeviceReads = _load("device_reads").DeviceReads
with_graphs = _load("recording_backend").with_graphs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1, ceil_mode=True)
        x = self.norm(self.down(x))
        x = self.head(x * x.mean((2, 3), keepdim=True).sigmoid())
        return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class OnDevice(Policy):
    """Brightness: all of its work is the device's."""

    def select(self, frame, context):
        means = F.adaptive_avg_pool2d(frame.mean(1, keepdim=True), context.grid_shape[1:])
        return means[:, 0] > 0

    def scores(self, frame, context):
        return F.adaptive_avg_pool2d(frame.mean(1, keepdim=True), context.grid_shape[1:])[:, 0]

    def feedback(self, frame, grid, outputs, context):
        return {}


def test_the_counter_counts():
    a, host = torch.randn(6), torch.randn(6)
    with DeviceReads(a) as counter:
        b = a * 2 + host
        assert not counter.reads
        b.max().item()
        b[b > 0]
        (b > 9).nonzero()
        bool((b > 100).all())
        copy = b.to("cpu", copy=True)
        assert sum(counter.reads.values()) == 5
        copy.max().item()
        copy[copy > 0].nonzero()
        (host > 0).nonzero()
        c = torch.zeros(6)
        c.add_(b)
        assert sum(counter.reads.values()) == 5
        c.sum().item()
        assert sum(counter.reads.values()) == 6


GUARDS = [
    dict(type="MaxAge", frames=3),
    dict(type="Refresh", period=5),
    "SceneCut",
    "Hold",
    "Dilate",
    dict(type="Ignore", mask=[[0, 0], [64, 0], [64, 64], [0, 64]]),
    dict(type="Always", mask=[[100, 0], [130, 0], [130, 20]]),
]


@pytest.mark.parametrize("guards", [(), GUARDS])
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("ids", [["a"], ["b", "a"]])
@pytest.mark.parametrize("check_finite", [False, True])
def test_one_read_a_frame(graphs, ids, check_finite, guards, monkeypatch):
    net = Net().eval()
    config = bc.BlockCopyConfig(
        block_size=32,
        policy=OnDevice(),
        check_finite=check_finite,
        buckets=3,
        cuda_graphs=graphs,
        guards=guards,
    )
    bc.blockcopy_(net, config)
    # Also without graphs: it has the host treat the frame as one on a GPU.
    backend = with_graphs(net)
    counts = []
    for _ in range(6):
        frame = torch.randn(len(ids), 3, 100, 130)
        counter = DeviceReads(frame, *net.parameters(), *net.buffers())
        with monkeypatch.context() as patch, bc.streams(net, ids):
            counter.watch(patch)
            with counter:
                net(frame)
        counts.append(dict(counter.reads))
        assert bc.handle(net).last.executed_rate == 1 or len(counts) > 1
    one = {"engine/host_grid.py:read_grid aten._to_copy.default": 1}
    assert counts == [one] * 6
    assert (backend.replays > 0) == graphs
