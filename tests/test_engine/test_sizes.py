"""Image sizes as datasets have them, with blocks that suit a network's strides and that do not."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import DensifiedError

STRIDE = 32
SIZES = ((800, 1333), (769, 769), (1024, 2048), (97, 131))
FIT = (32, 64, 96, 128, 256)
MISFIT = (48, 100)


class Pyramid(nn.Module):
    """A stem, stages of stride 4 to 32, a dilated stage, a top-down path and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 7, 2, 3, bias=False), nn.BatchNorm2d(3))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv2d(3, 3, 1, 2) for _ in range(3))
        self.dilated = nn.Conv2d(3, 3, 3, padding=6, dilation=6)
        self.laterals = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))
        self.head = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        size = x.shape[2:]
        x = self.pool(F.relu(self.stem(x)))
        maps = [x]
        for stage, skip in zip(self.stages, self.skips, strict=True):
            maps.append(F.relu(stage(maps[-1]) + skip(maps[-1])))
        top = F.relu(self.dilated(maps[-1]))
        levels = []
        for level, lateral in zip(reversed(maps), self.laterals, strict=True):
            top = lateral(level) + F.interpolate(top, size=level.shape[2:], mode="nearest")
            levels.append(self.head(top))
        logits = F.interpolate(levels[-1], size=size, mode="bilinear", align_corners=False)
        return logits, *levels


def pyramid() -> Pyramid:
    net = Pyramid().eval()
    nn.init.uniform_(net.stem[1].running_mean, -0.5, 0.5)
    nn.init.uniform_(net.stem[1].running_var, 0.5, 2)
    return net


def grids(size, block, rates):
    shape = (1, -(-size[0] // block), -(-size[1] // block))
    return [torch.rand(shape) < rate for rate in rates]


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        error, scale = (a - b).abs().max().item(), b.abs().max().item()
        assert error <= 2e-5 * scale, f"off by {error} of {scale}"


def check(size, block, **options) -> bc.BlockCopyConfig:
    """Law 1 on packed blocks and law 3, on three frames."""
    net = pyramid()
    plan = grids(size, block, (2.0, 0.3, 0.1))
    frames = [torch.randn(1, 3, *size) for _ in plan]
    reference = MaskedReference(net, block)
    wanted = [reference(grid, frame) for grid, frame in zip(plan, frames, strict=True)]
    with torch.no_grad():
        dense = net(frames[0])
    left = list(plan)
    config = bc.BlockCopyConfig(block_size=block, policy=lambda f, c: left.pop(0), **options)
    bc.blockcopy_(net, config)
    for i, (frame, want) in enumerate(zip(frames, wanted, strict=True)):
        found = net(frame)
        close(found, want)
        if i == 0:
            close(found, dense)
    return net


def small(size) -> bool:
    return size[0] < 200


def marked(blocks):
    return [
        pytest.param(size, block, marks=() if small(size) else pytest.mark.slow)
        for size in SIZES
        for block in blocks
    ] + [pytest.param((769, 769), blocks[-1])]


@pytest.mark.parametrize(("size", "block"), marked(FIT))
def test_blocks_of_the_stride_run_any_size(size, block):
    net = check(size, block, strict=True, pack_whole_frames=True)
    assert bc.report(net).dense_ops == ()


@pytest.mark.parametrize(("size", "block"), marked(FIT[-2:]))
def test_whole_frames_too(size, block):
    check(size, block, strict=True)


@pytest.mark.parametrize(("size", "block"), marked(MISFIT))
@pytest.mark.parametrize("pack", [False, True])
def test_other_blocks_are_right_and_reported(size, block, pack):
    net = check(size, block, pack_whole_frames=pack)
    named = [op for op in bc.report(net).dense_ops if "block_size" in op.reason]
    assert named, bc.report(net).dense_ops


def strict_refusal(block, size) -> str | None:
    """What a strict model says to a block size, ``None`` if it runs."""
    config = bc.BlockCopyConfig(block_size=block, policy="all", strict=True)
    net = bc.blockcopy_(pyramid(), config)
    try:
        net(torch.randn(1, 3, *size))
    except DensifiedError as error:
        assert bc.handle(net).states.ids() == []
        return str(error)
    return None


@pytest.mark.parametrize("block", (*MISFIT, 16, 40, 33, 1))
def test_a_strict_model_refuses_and_leads_to_blocks_that_do(block):
    """The error knows the strides up to the layer that raised it; who follows it gets there."""
    size = (97, 131)
    message, tried = strict_refusal(block, size), []
    assert message is not None
    while message is not None:
        (multiple,) = map(int, re.findall(r"block_size that is a multiple of (\d+)", message))
        assert multiple <= STRIDE and multiple not in tried, message
        tried.append(multiple)
        block = -(-block // multiple) * multiple
        message = strict_refusal(block, size)
    assert block % STRIDE == 0


@pytest.mark.parametrize("block", (*MISFIT, 33))
def test_the_report_names_blocks_that_do(block):
    size = (97, 131)
    net = bc.blockcopy_(pyramid(), bc.BlockCopyConfig(block_size=block, policy="all"))
    net(torch.randn(1, 3, *size))
    named = bc.report(net).block_sizes
    assert {32, 64, 128, 256} <= set(named)
    assert [strict_refusal(size_of_block, size) for size_of_block in named] == [None] * len(named)
