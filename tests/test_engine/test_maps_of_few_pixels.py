"""Convolutions of whole maps of few pixels: by the package's kernels, and as the model's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.ops import conv_kernels
from blockcopy_plugins.policy.dictated import DictatedPolicy

pytestmark = pytest.mark.skipif(not conv_kernels(), reason="no kernels for this processor")

BLOCK, SIZE = 8, (40, 56)


def net_of(channels: int) -> nn.Module:
    """To blocks of one pixel, and on by strides that do not divide them."""
    stages = nn.Sequential(
        nn.Conv2d(3, channels, 8, 8),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, 2, 1, groups=channels),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, 2 * channels, (3, 2), (1, 2), (2, 1), (2, 1)),
        nn.ReLU(),
        nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, groups=2 * channels, bias=False),
        nn.Conv2d(2 * channels, 5, 3, (2, 1)),
    )
    return stages.eval()


class Convolutions(TorchDispatchMode):
    """How many convolutions of torch's run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(kind, bc.BlockTensor) for kind in types):
            return NotImplemented
        self.count += "conv" in str(func) and "blockcopy" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [6, 32])
@pytest.mark.parametrize("images", [1, 2])
def test_they_are_the_masked_reference(dtype, channels, images):
    torch.manual_seed(0)
    net = net_of(channels).to(dtype)
    reference = MaskedReference(copy.deepcopy(net).double(), BLOCK)
    policy = DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=policy))
    for executed in (2.0, 0.4, 0.4, 0.4, 0.0):
        frame = torch.randn(images, 3, *SIZE).to(dtype)
        policy.grid = torch.rand(images, 5, 7) < executed
        with torch.no_grad(), Convolutions() as seen:
            found = net(frame)
        wanted = reference(policy.grid, frame.double())
        scale = wanted.abs().max().item()
        tolerance = 2e-6 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found.double(), wanted, atol=tolerance * scale, rtol=0.0)
        assert seen.count == 0
