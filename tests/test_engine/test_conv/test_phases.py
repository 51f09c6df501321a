"""Transposed convolutions as ordinary ones, against torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.conv.phases import Phases
from blockcopy_plugins.ops import conv_kernels
from blockcopy_plugins.policy.dictated import DictatedPolicy

needs_kernels = pytest.mark.skipif(not conv_kernels(), reason="the kernels are not built")


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=60, deadline=None)
@given(kernel=pairs(1, 6), stride=pairs(1, 4), padding=pairs(0, 3), more=pairs(0, 2))
def test_the_ordinary_convolution_gives_what_the_transposed_one_gives(
    kernel, stride, padding, more
):
    padding = tuple(min(padding[i], kernel[i] - 1) for i in (0, 1))
    extra = tuple(min(more[i], stride[i] - 1) for i in (0, 1))
    x, weight = torch.randn(2, 3, 5, 6), torch.randn(3, 4, *kernel)
    wanted = F.conv_transpose2d(x, weight, None, stride, padding, extra)
    phases = Phases.of(kernel, stride, padding)
    for found in (phases, phases.with_taps(tuple(taps + 1 for taps in phases.taps))):
        # One result of all phases for each step of the stride.
        size = [-(-wanted.shape[2 + i] // stride[i]) for i in (0, 1)]
        before = [-first for first in found.first]
        after = [size[i] + found.first[i] + found.taps[i] - 1 - x.shape[2 + i] for i in (0, 1)]
        padded = F.pad(x, (before[1], after[1], before[0], after[0]))
        stacked = F.conv2d(padded, found.stack(weight))
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        out = found.side_by_side(stacked, tuple(wanted.shape[2:]))
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
        assert out.permute(0, 2, 3, 1).is_contiguous() or out.shape[1] == 1


class Up(nn.Module):
    def __init__(self, *how, channels=16):
        super().__init__()
        self.before = nn.Conv2d(3, channels, 3, 2, 1)
        self.up = nn.ConvTranspose2d(channels, 6, *how)
        self.norm = nn.BatchNorm2d(6)
        self.after = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.norm(self.up(torch.relu(self.before(x)))))
        return self.after(x)


@needs_kernels
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize(
    "how",
    [
        (2, 2),
        (3, 2, 1, 1),
        (3, 2, 1),
        (4, 2, 1),
        (4, 4),
        ((1, 3), (1, 2), (0, 1)),
        (2, 3),
        (5, 1, 2),
    ],
    ids=str,
)
def test_blocks_are_convolved_by_the_kernels(how, channels):
    net = Up(*how, channels=channels).eval()
    dense, policy = copy.deepcopy(net), DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy, strict=True))
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 1, 3, 56, 72, generator=draw)
    policy.grid = torch.ones(1, 4, 5, dtype=torch.bool)
    with torch.no_grad():
        for frame in (first, second):
            found, wanted = net(frame), dense(frame)
            assert torch.allclose(found, wanted, atol=2e-5 * float(wanted.abs().max()))
        # What surrounds the changed block is as it was, so the block must be what it is dense.
        policy.grid = torch.zeros(1, 4, 5, dtype=torch.bool)
        policy.grid[0, 1:4, 1:4] = True
        changed = second.clone()
        changed[:, :, 32:48, 32:48] += 1
        found, wanted = net(changed), dense(changed)
        assert torch.allclose(found, wanted, atol=2e-5 * float(wanted.abs().max()))
    report = bc.report(net)
    assert "up" not in report.torch_convolutions and report.share_on_blocks == 1.0
    prepared = bc.handle(net).converted.convolutions.cpu.prepared
    assert any((net.up.weight, key) in prepared for _, key in prepared._kept)


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        lambda up: up.weight.mul_(2),
        lambda up: setattr(up.weight, "data", up.weight.data + 1),
        lambda up: up.bias.add_(1),
        # torch does not count these.
        lambda up: up.weight.data.mul_(0.5),
        lambda up: up.bias.data.add_(1),
    ],
)
def test_a_changed_weight_is_stacked_anew_also_in_a_program(change):
    net = Up(4, 2, 1).eval()
    dense, policy = copy.deepcopy(net), DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    policy.grid = torch.ones(1, 2, 2, dtype=torch.bool)
    frame = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for _ in range(6):
            net(frame)
        assert bc.report(net).programs.replayed
        for model in (net, dense):
            change(model.up)
        assert torch.allclose(net(frame), dense(frame), atol=1e-4)
