"""Figures of the report against counts by hand, and the MAC counter against torch's."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.frame.counts import BlocksOfRuns, FrameCounts, MacsOfProgram


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)

    def forward(self, x):
        return self.up(F.relu(self.depthwise(self.stem(x))))


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 7)

    def forward(self, x):
        x = super().forward(x)
        attention = x @ x.transpose(2, 3)
        return self.linear(x.mean((2, 3))), attention


def converted(net, grids, **options):
    config = bc.BlockCopyConfig(block_size=16, policy=lambda f, c: grids.pop(0), **options)
    return bc.blockcopy_(net, config)


# MACs of a pixel of the half-sized map: 3x3 taps, input channels of the group, output channels.
STEM, DEPTHWISE = 9 * 3 * 8, 9 * 8
UP = 8 * 4 * 2 * 2  # Of a pixel of the transposed convolution's input.


def test_figures_of_two_frames():
    """32 x 48 px in 16-px blocks: 6 blocks of 8 x 8 px in the half-sized maps."""
    two_of_six = torch.zeros(1, 2, 3, dtype=torch.bool)
    two_of_six[0, 0, 1] = two_of_six[0, 1, 2] = True
    net = converted(Net().eval(), [~two_of_six | two_of_six, two_of_six])
    net(torch.randn(1, 3, 32, 48))
    net(torch.randn(1, 3, 32, 48))
    report = bc.report(net)
    whole = 16 * 24
    assert report.frames == 2 and report.block_size == 16 and report.policy == "CallablePolicy"
    assert report.executed_rate == pytest.approx((1 + 2 / 6) / 2)
    assert report.macs_dense == whole * (STEM + DEPTHWISE + UP)
    assert report.macs_densified == report.macs_outside == 0 and report.share_on_blocks == 1
    executed = (1 + 2 / 6) / 2 * whole * (STEM + DEPTHWISE + UP)
    assert report.macs_executed == pytest.approx(executed)
    for name, macs in (("stem", STEM), ("depthwise", DEPTHWISE), ("up", UP)):
        found = report.modules[name]
        assert (found.dense, found.densified, found.outside) == (whole * macs, 0, 0)
        assert found.executed == pytest.approx(4 / 6 * whole * macs)
    assert set(report.modules) == {"stem", "depthwise", "up"} and report.dense_ops == ()
    assert report.block_sizes == (32, 64, 128, 256)
    # State: the frame, the map between stem and depthwise, and the output. Of the first two the
    # kernels read one pixel of the blocks around.
    frame, between = 32 * 48, whole
    if ops.conv_kernels():
        frame, between = 6 * (16 * 16 - 14 * 14), 6 * (8 * 8 - 6 * 6)
    assert report.state_bytes == 4 * (3 * frame + 8 * between + 4 * 32 * 48)
    assert report.ms_model > 0 and report.ms_policy > 0
    json.dumps(report.as_dict())
    assert (
        "33.3%" not in str(report) and "66.7%" in str(report) and "nothing that met" in str(report)
    )
    assert bc.handle(net).last.executed_rate == pytest.approx(2 / 6)
    assert bc.handle(net).last.counts.blocks == 2 * 64 * (STEM + DEPTHWISE + UP)


def test_figures_count_images():
    grid = torch.tensor([True, False]).view(2, 1, 1).expand(2, 2, 3)
    net = converted(Net().eval(), [torch.ones(2, 2, 3).bool(), grid.clone()])
    for _ in range(2):
        net(torch.randn(2, 3, 32, 48))
    report = bc.report(net)
    assert report.frames == 4 and report.executed_rate == pytest.approx(0.75)
    assert report.macs_dense == 16 * 24 * (STEM + DEPTHWISE + UP)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_runs_on_whole_maps_and_outside(mode):
    """Attention of rows runs on the whole map; the linear layer meets an ordinary mean."""
    net = converted(Mixed().eval(), [torch.ones(2, 2, 3).bool(), torch.zeros(2, 2, 3).bool()])
    with mode():
        net(torch.randn(2, 3, 32, 48))
        net(torch.randn(2, 3, 32, 48))
    report = bc.report(net)
    attention, linear = 4 * 32 * 32 * 48, 4 * 7
    on_blocks = 16 * 24 * (STEM + DEPTHWISE + UP)
    assert (report.macs_densified, report.macs_outside) == (attention, linear)
    assert report.modules["linear"].outside == report.modules["linear"].total == linear
    assert report.modules[""].densified == report.modules[""].total == attention
    whole = on_blocks + attention + linear
    assert report.macs_dense + report.macs_outside == whole
    assert report.share_on_blocks == pytest.approx(on_blocks / whole)
    (product,) = [op for op in report.dense_ops if "bmm" in op.op]
    assert (product.path, product.count, product.macs) == ("", 2, 4 * attention)
    table = str(report)
    assert f"{on_blocks / whole:.1%}" in table and "bmm" in table and "linear" in table


def test_block_sizes_follow_the_strides():
    """Strides 2, 3 and 2: 12 in all. Blocks of 32 px stop at the second one."""
    layers = [nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 3, 3), nn.Conv2d(4, 4, 2, 2)]
    net = nn.Sequential(*layers).eval()
    for size, found in ((32, (36, 72, 144)), (24, (36, 72, 144)), (12, (36, 72, 144))):
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=size, policy="all"))
        net(torch.randn(1, 3, 72, 72))
        report = bc.report(net)
        assert report.block_sizes == found
        assert bool(report.dense_ops) == (size == 32)
        bc.restore_(net)


def test_a_report_before_the_first_frame():
    report = bc.report(converted(Net().eval(), []))
    assert report.frames == 0 and report.macs_executed == 0 and "0 frames" in str(report)


def test_edge_blocks_count_what_they_compute():
    """At 20 x 20 px the four blocks hold 32 x 32 px, all of which a packed frame computes."""
    grids = [torch.ones(1, 2, 2).bool()]
    net = converted(nn.Sequential(nn.Conv2d(3, 5, 1)).eval(), list(grids), pack_whole_frames=True)
    net(torch.randn(1, 3, 20, 20))
    report = bc.report(net)
    assert report.macs_dense == 20 * 20 * 15 and report.macs_executed == 32 * 32 * 15
    bc.restore_(net)
    converted(net, list(grids))
    net(torch.randn(1, 3, 20, 20))
    assert bc.report(net).macs_executed == 20 * 20 * 15


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_mac_counter_is_half_of_torchs_flop_counter(mode):
    net, frame = Mixed().eval(), torch.randn(2, 3, 32, 48)
    with mode():
        with FlopCounterMode(display=False) as flops:
            net(frame)
        with bc.MacCounter() as counter:
            net(frame)
    assert counter.macs == flops.get_total_flops() // 2 > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pack", [False, True])
def test_mac_counter_sees_the_packed_ops(mode, pack):
    grids = [torch.ones(1, 2, 3).bool(), torch.zeros(1, 2, 3).bool()]
    grids[1][0, 1, 1] = True
    net, frame = Net().eval(), torch.randn(1, 3, 32, 48)
    converted(net, list(grids), pack_whole_frames=pack)
    for grid in grids:
        with mode(), bc.MacCounter() as counter:
            net(frame)
        packed = int(grid.sum()) * 64 * (STEM + DEPTHWISE + UP)
        assert counter.macs == packed
        assert bc.handle(net).last.counts.blocks == packed


class Tokens(nn.Module):
    """Almost everything is computed on what is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Linear(32 * 32, 32 * 32)

    def forward(self, x):
        return self.mix(self.stem(x).flatten(2))


@torch.no_grad()
def test_a_model_that_is_dense_for_good_says_so_once():
    model = bc.blockcopy_(Tokens().eval(), bc.BlockCopyConfig(16, "all"))
    frame = torch.randn(1, 3, 32, 32)
    model(frame)
    with pytest.warns(UserWarning, match=r"Tokens: only .* on blocks.*in 'mix'") as caught:
        model(frame)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(frame)


@torch.no_grad()
def test_a_model_of_convolutions_has_nothing_to_say():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    model = bc.blockcopy_(net, bc.BlockCopyConfig(16, "all"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            model(torch.randn(1, 3, 32, 32))
    assert bc.report(model).why_dense is None


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.groups = nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)

    def forward(self, x):
        return self.depthwise(self.groups(self.stem(x)))


@pytest.mark.skipif(not bc.ops.conv_kernels(), reason="no native kernels on this processor")
def test_it_says_why_a_convolution_is_not_by_the_kernels():
    net = Grouped().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16))
    net(torch.randn(1, 3, 32, 32))
    report = bc.report(net)
    assert {p: list(why) for p, why in report.torch_convolutions.items()} == {
        "groups": ["it has 2 groups"]
    }
    assert "    groups: it has 2 groups" in str(report).splitlines()
    json.dumps(report.as_dict())
    # Where none is, there is nothing to say.
    other = Net().eval()
    bc.blockcopy_(other, bc.BlockCopyConfig(block_size=16))
    other(torch.randn(1, 3, 32, 32))
    assert not bc.report(other).torch_convolutions and "by torch" not in str(bc.report(other))


def test_it_says_of_a_whole_model_why_it_is_by_torch():
    net = Grouped().eval().double()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16))
    net(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    found = bc.report(net).torch_convolutions
    assert list(found) == ["stem", "groups", "depthwise"]
    if bc.ops.conv_kernels():
        assert "it is torch.float64" in found["stem"]
        assert list(found["groups"]) == ["it has 2 groups", "it is torch.float64"]


def test_macs_of_programs_are_summed_by_module_over_all_runs():
    program = MacsOfProgram({"a": ({(2, 3): 10, None: 1}, 70), "b": ({(4, 6): 2}, 50)})
    total = FrameCounts(modules={"a": [5, 6]})
    for small, large in ((2, 7), (0, 1), (3, 9)):
        runs = BlocksOfRuns(1, {(2, 3): small, (4, 6): large})
        total.add(FrameCounts(programs={program: runs}))
    # 5 blocks of ten and three times one; 17 blocks of two.
    assert total.by_module() == {"a": [5 + 53, 6 + 210], "b": [34, 150]}
    assert total.by_module() == {"a": [58, 216], "b": [34, 150]}
