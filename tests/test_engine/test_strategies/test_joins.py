"""Concatenations, additions, norms and activations that wait for each other: one pass for all."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.ops import conv_kernels

pytestmark = pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")

SIZE, BLOCK = (40, 48), 8


class Case(nn.Module):
    """Two convolutions, and something done with what they give."""

    def __init__(self, what) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.wide = nn.BatchNorm2d(6, 1e-3), nn.BatchNorm2d(12, 1e-3)
        self.act, self.wide_act = nn.PReLU(6), nn.PReLU(12)
        self.last = nn.Conv2d(12, 6, 3, padding=1)
        self.what = what

    def forward(self, x):
        return getattr(self, self.what)(self.one(x), self.two(x))

    def conv_prelu(self, a, b):
        return self.act(a) + b

    def one_slope(self, a, b):
        return F.prelu(a, self.act.weight[:1]) + F.leaky_relu(b, 0.2)

    def in_place(self, a, b):
        return F.leaky_relu(a, 0.3, inplace=True) + F.leaky_relu(self.norm(b), 0.1, inplace=True)

    def cat_norm_act(self, a, b):
        return self.last(self.wide_act(self.wide(torch.cat([a, b], 1))))

    def cat_add_norm(self, a, b):
        y = torch.cat([a, b], 1)
        return self.last(F.relu(self.wide(y + torch.cat([b, a], 1))))

    def add_norm_act(self, a, b):
        a, b = F.max_pool2d(a, 3, 1, 1), F.max_pool2d(b, 3, 1, 1)
        return self.act(self.norm(a + b))

    def conv_add_norm(self, a, b):
        return self.act(self.norm(a + b))

    def read_twice(self, a, b):
        y = torch.cat([a, b], 1)
        return self.last(y) + self.last(F.relu(self.wide(y)))

    def written_between(self, a, b):
        y = torch.cat([a, b], 1)
        z = self.norm(F.max_pool2d(a, 3, 1, 1))
        a.mul_(2.0)
        b += 1.0
        return self.last(y) + z + a * b

    def gated(self, a, b):
        gate = b.mean((2, 3), keepdim=True).sigmoid()
        a = F.max_pool2d(a, 3, 1, 1)
        y = a * gate
        gate.mul_(3.0)
        return self.last(torch.cat([F.relu(y + a), gate[0] * b], 1))

    def act_twice(self, a, b):
        return self.norm(self.act(self.act(a))) + self.act(F.relu(b))

    def sliced(self, a, b):
        return self.last(torch.cat([a[:, 2:], b, a[:, :2]], 1))


CASES = [
    name
    for name, value in vars(Case).items()
    if callable(value) and name not in ("__init__", "forward")
]


def run_frames(net, reference, dtype, tolerance, frames=4, images=2):
    draw = torch.Generator().manual_seed(1)
    for index in range(frames):
        frame = torch.randn(images, 3, *SIZE, generator=draw).to(dtype)
        grid = torch.rand(images, 5, 6, generator=draw) < (2.0 if index == 0 else 0.4)
        bc.handle(net).policy.function.grid = grid
        with torch.no_grad():
            found = net(frame)
        wanted = reference(grid, frame.double())
        scale = wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted, atol=tolerance * scale, rtol=0.0)


class Dictated:
    grid = None

    def __call__(self, frame, context):
        return self.grid


def build(what, dtype=torch.float32, **options):
    torch.manual_seed(0)
    net = Case(what).eval()
    for norm in (net.norm, net.wide):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    nn.init.normal_(net.act.weight)
    nn.init.normal_(net.wide_act.weight)
    net = net.to(dtype)
    reference = MaskedReference(copy.deepcopy(net).double(), BLOCK)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=Dictated(), **options)
    return bc.blockcopy_(net, config), reference


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_the_masked_reference(what, dtype):
    net, reference = build(what, dtype)
    run_frames(net, reference, dtype, 2e-6 if dtype == torch.float32 else 4e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_of_the_channels_of_one_image(dtype):
    net, reference = build("gated", dtype)
    run_frames(net, reference, dtype, 2e-6 if dtype == torch.float32 else 4e-2, images=1)


@pytest.mark.parametrize("what", CASES)
def test_and_without_programs(what):
    net, reference = build(what, programs=False)
    run_frames(net, reference, torch.float32, 2e-6)


class Names(TorchDispatchMode):
    """The ops of a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor

        if any(issubclass(kind, BlockTensor) for kind in types):
            return NotImplemented
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("what", "passes"),
    # Convolutions take along what follows them; the rest of a join is one pass.
    [
        ("conv_prelu", 0),
        ("cat_norm_act", 1),
        ("cat_add_norm", 2),
        ("add_norm_act", 1),
        ("conv_add_norm", 1),
        ("gated", 3),
    ],
)
def test_each_is_one_pass(what, passes):
    net, _ = build(what)
    draw = torch.Generator().manual_seed(1)
    for executed in (2.0, 0.4, 0.4):
        bc.handle(net).policy.function.grid = torch.rand(1, 5, 6, generator=draw) < executed
        with torch.no_grad(), Names() as seen:
            net(torch.randn(1, 3, *SIZE, generator=draw))
    alone = ("batch_norm", "aten.cat", "prelu", "aten.add", "aten.mul.Tensor")
    assert not [name for name in seen.names if any(op in name for op in alone)]
    assert seen.names.count("blockcopy.join_maps.default") == passes
