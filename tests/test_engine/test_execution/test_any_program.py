"""What programs of whole frames and programs of parts have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from tests.test_engine import test_property_graphs as graphs
from tests.test_engine.test_execution import test_frame_programs as frames
from tests.test_engine.test_execution import test_part_programs as parts
from tests.test_engine.test_execution.test_frame_programs import COUNTS, SIZE, grid_of, pair, run


@dataclass(frozen=True)
class Kind:
    """Programs of whole frames, or of parts.

    Args:
        network: A network of which such programs are made.
        report: What a report says of them.
        per_frame: Programs that a frame runs.
        convolution: Path of one of its layers, and so for the next two.
        batch_norm: Likewise.
        group_norm: Likewise.
        halves: Makes a network of such programs from two graphs of ops.
    """

    network: Callable[[], nn.Module]
    report: Callable[[nn.Module], Any]
    per_frame: int
    convolution: str
    batch_norm: str
    group_norm: str
    halves: Callable[[nn.Module, nn.Module], nn.Module]


KINDS = {
    "frames": Kind(
        *(frames.Net, frames.programs, 1, "deep", "stem.1", "norm"), lambda one, two: one
    ),
    "parts": Kind(
        *(parts.Draws, parts.parts, 2, "second.one.0", "second.two.1", "first.norm"), parts.Halves
    ),
}


@pytest.fixture(params=KINDS)
def kind(request):
    torch.manual_seed(0)
    return KINDS[request.param]


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("images", [1, 2])
def test_any_grid_is_what_it_is_without(kind, images, around):
    nets = pair(kind.network())
    with around():
        run(nets, COUNTS, torch.Generator().manual_seed(1), images)
    report = kind.report(nets[0])
    assert report.replayed >= 5 * kind.per_frame and not report.eager_calls
    assert bc.report(nets[1]).programs is None
    found, wanted = (bc.report(net).as_dict() for net in nets)
    for figures in (found, wanted):
        for name in ("ms_model", "ms_policy", "programs"):
            del figures[name]
    assert found == wanted


def test_any_grid_is_the_masked_reference(kind):
    net = kind.network().eval()
    reference = MaskedReference(copy.deepcopy(net).double(), frames.BLOCK)
    net = frames.converted(net)
    draw = torch.Generator().manual_seed(1)
    for executed in COUNTS:
        frame, grid = torch.randn(1, 3, *SIZE, generator=draw), grid_of(executed, draw)
        wanted = reference(grid, frame.double())
        for a, b in zip(frames.call(net, frame, grid), wanted, strict=True):
            torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
    assert kind.report(net).replayed >= 5 * kind.per_frame


def test_streams_that_come_and_go(kind):
    nets = pair(kind.network())
    draw = torch.Generator().manual_seed(1)
    for streams in (["a"], ["b"], ["a"], ["b", "a"], ["b"]):
        run(nets, [9, 4, 11, 7, 5], draw, len(streams), streams)
    for net in nets:
        bc.reset_(net, streams=["a"])
    for streams in (["b"], ["c", "b"], ["c"]):
        run(nets, [9, 4, 11, 7, 5], draw, len(streams), streams)
    assert kind.report(nets[0]).replayed >= 15 * kind.per_frame


def test_other_weights_and_attributes(kind):
    nets = pair(kind.network())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)

    def put_back(net):
        parent, _, name = kind.convolution.rpartition(".")
        setattr(net.get_submodule(parent), name, net.get_submodule(kind.convolution))

    def replace(net):
        layer = net.get_submodule(kind.convolution)
        layer.weight = nn.Parameter(layer.weight * -3)

    for change in (
        lambda net: net.get_submodule(kind.convolution).weight.data.mul_(2.0),
        lambda net: net.get_submodule(kind.batch_norm).running_mean.add_(0.5),
        put_back,
        replace,
        lambda net: net.load_state_dict({k: v * 0.9 for k, v in net.state_dict().items()}),
        lambda net: setattr(net.get_submodule(kind.group_norm), "eps", 0.3),
    ):
        before = kind.report(nets[0]).replayed
        assert before
        for net in nets:
            with torch.no_grad():
                change(net)
        run(nets, [35, 5, 9, 4, 6], draw)
        assert kind.report(nets[0]).replayed > before


drawn = dict(
    nodes=st.lists(
        st.tuples(graphs.ops.operators(graphs.MIX), graphs.back, graphs.back),
        min_size=3,
        max_size=8,
    ),
    outputs=st.lists(st.integers(0, 6), max_size=2),
    counts=st.lists(st.sampled_from((0, 1, 2, 3, 5, 8, 13, 35)), min_size=4, max_size=8),
    images=st.integers(1, 2),
    mode=st.sampled_from(("no_grad", "inference")),
    seed=st.integers(0, 999),
)


def check(name, nodes, outputs, counts, images, mode, seed):
    torch.manual_seed(seed)
    halves = graphs.Graph(nodes, outputs), graphs.Graph(nodes, [])
    for half in halves:
        half.run = graphs.laws.Plain()
    nets = pair(KINDS[name].halves(*halves))
    with graphs.laws.MODES[mode]():
        draw = torch.Generator().manual_seed(seed)
        run(nets, [35 * images, *counts, *counts], draw, images)


@pytest.mark.parametrize("name", KINDS)
@given(**drawn)
@settings(max_examples=20, phases=graphs.PHASES)
def test_any_graph_is_what_it_is_without(name, **case):
    check(name, **case)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@given(**drawn)
@settings(max_examples=60, phases=graphs.PHASES)
def test_any_graph_at_length_is_what_it_is_without(name, **case):
    check(name, **case)
