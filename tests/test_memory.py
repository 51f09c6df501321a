"""A stream may run for ever: memory does not grow from frame to frame."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc

MIB = 2**20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 16)
        self.b = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x):
        x = self.norm(F.relu(self.a(x)))
        x = x * x.mean((2, 3), keepdim=True).sigmoid()
        x = self.b(x)
        x[:, 0].mul_(2.0)
        return F.interpolate(x, scale_factor=2, mode="bilinear"), x.softmax(1)


def half_of_the_blocks(frame, context):
    """Other blocks each time, but as many: oneDNN keeps a plan for each batch size it ever saw."""
    count = context.grid_shape[1] * context.grid_shape[2]
    return (torch.randperm(count) < count // 2).view(context.grid_shape)


def growth(allocated_by, policy, streams: bool) -> list[int]:
    """Bytes that 40 frames leave allocated, twice, after 40 others."""
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy=policy))
    picture = torch.randn(1, 3, 192, 192)

    def run(first: int) -> None:
        for i in range(first, first + 40):
            name = i // 5 if streams else 0
            if streams and i % 5 == 0 and i:
                bc.reset_(net, [name - 1])
            with bc.streams(net, [name]):
                net(picture.roll(i, 3))

    allocated_by(lambda: run(0))
    state = bc.report(net).state_bytes
    grown = [allocated_by(lambda first=first: run(first)) for first in (40, 80)]
    assert bc.report(net).state_bytes == state > MIB
    return grown


@pytest.mark.parametrize("streams", [False, True])
def test_frames(allocated_by, streams):
    assert growth(allocated_by, half_of_the_blocks, streams) == [0, 0]


@pytest.mark.parametrize("policy", ["RLPolicy", "GainPolicy"])
def test_frames_of_a_learning_policy(allocated_by, policy):
    torch.manual_seed(0)  # RLPolicy draws: a recorded frame may wait for another one like it.
    assert max(growth(allocated_by, dict(type=policy, target=0.3), False)) <= 0


def test_one_small_tensor_a_frame_is_found(allocated_by):
    kept = []

    def policy(frame, context):
        kept.append(torch.ones(1))
        return half_of_the_blocks(frame, context)

    assert growth(allocated_by, policy, False) == [160, 160]


def test_nothing_of_a_frame_survives_it():
    """Without the garbage collector's help: no reference cycle holds a frame's tensors."""
    net = Net().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="random"))
    picture = torch.randn(1, 3, 128, 160)
    # By then there is a program of what a frame does, and it has been looked at once.
    for _ in range(16):
        net(picture)
    gc.collect()
    gc.disable()
    try:
        alive = [_tensors() for _ in range(4) if net(picture) is not None]
    finally:
        gc.enable()
    assert alive[1:] == alive[:-1]


def _tensors() -> int:
    return sum(1 for x in gc.get_objects() if type(x) in (torch.Tensor, bc.BlockTensor))
