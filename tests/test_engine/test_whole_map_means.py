"""Means, spreads and extremes of maps, by those of blocks: the masked reference, no map is kept."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.policy.dictated import DictatedPolicy

# Neither is a multiple of the block.
SIZE = (90, 75)
GRID = (3, 3)


class Gated(nn.Module):
    """Squeeze and excitation: a gate of each channel from a mean over all pixels."""

    def __init__(self, squeeze) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 2, 1)
        self.mix = nn.Conv2d(12, 12, 1)
        self.squeeze = copy.deepcopy(squeeze)

    def forward(self, x):
        x = self.conv(x)
        return x * self.mix(self.squeeze(x).view(len(x), 12, 1, 1)).sigmoid()


SQUEEZES = {
    "module": nn.AdaptiveAvgPool2d(1),
    "mean": lambda x: x.mean((2, 3)),
    "negative": lambda x: torch.mean(x, dim=(-1, -2), keepdim=True),
    "sum": lambda x: x.sum((2, 3), keepdim=True) / 1000,
    "norm": lambda x: torch.norm(x, p=2, dim=(2, 3), keepdim=True) / 30,
    "norm of channels last": lambda x: x.permute(0, 2, 3, 1).norm(dim=(1, 2), keepdim=True) / 30,
    "mean of channels last": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
    "mean of tokens": lambda x: x.flatten(2).mT.mean(1) + x.flatten(2).mean(-1),
    "variance": lambda x: x.var((2, 3)) / 3,
    "spread of tokens": lambda x: x.flatten(2).mT.std(1, correction=0) / 3,
    "variance and mean": lambda x: sum(torch.var_mean(x, (2, 3), keepdim=True)),
    "largest": lambda x: (
        F.adaptive_max_pool2d(x, 1) + x.permute(0, 2, 3, 1).amax((1, 2)).view(-1, 12, 1, 1)
    ),
    "smallest": lambda x: x.amin((2, 3)) + x.flatten(2).amin(2),
    "twice": lambda x: F.adaptive_avg_pool2d(x, 1) + x.relu().mean((3, 2), True),
}


def drawn(seed, images=2, size=SIZE):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, *size, generator=draw)


def grids(seed, images=2):
    draw = torch.Generator().manual_seed(seed)
    yield torch.ones(images, *GRID, dtype=torch.bool)
    for rate in (0.5, 0.1, 0.0, 0.9, 0.3):
        yield torch.rand(images, *GRID, generator=draw) < rate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SQUEEZES)
def test_any_grid_is_the_masked_reference(name, dtype):
    torch.manual_seed(0)
    net = Gated(SQUEEZES[name]).eval()
    reference = MaskedReference(copy.deepcopy(net).to(dtype).double(), 32)
    net.to(dtype)
    policy = DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy=policy))
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    with torch.inference_mode():
        for step, grid in enumerate(grids(1)):
            policy.grid = grid
            frame = drawn(step).to(dtype)
            found, wanted = net(frame), reference(grid, frame.double())
            assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max(), step
    assert not bc.report(net).dense_ops


class GatedByLines(Gated):
    """Gates made of a map with one row, one column, or one pixel."""

    def forward(self, x):
        out = x = self.conv(x)
        for part in self.squeeze(x):
            out = out * self.mix(part).sigmoid()
        return out


LINES = {
    "means": lambda x: (x.mean(2, True), x.mean(3, keepdim=True)),
    "adaptive means": lambda x: (
        F.adaptive_avg_pool2d(x, (x.shape[2], 1)),
        F.adaptive_avg_pool2d(x, (1, None)),
    ),
    "sums": lambda x: (x.sum(-1).unsqueeze(3) / 50, x.sum(-2)[:, :, None] / 50),
    "largest": lambda x: (x.amax((2, 3), True), x.relu().amax((3, 2))[:, :, None, None]),
    "pooled": lambda x: (F.avg_pool2d(x, x.shape[2:]), F.max_pool2d(x, x.shape[2:])),
}


# Those of 90x75 pixels need the whole map where the last blocks reach beyond it.
@pytest.mark.parametrize("size", [(96, 64), SIZE], ids=str)
@pytest.mark.parametrize("name", LINES)
def test_lines_and_maxima_are_those_of_the_masked_reference(name, size):
    torch.manual_seed(0)
    net = GatedByLines(LINES[name]).eval()
    reference = MaskedReference(copy.deepcopy(net), 32)
    policy = DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy=policy))
    with torch.inference_mode():
        for step, grid in enumerate(grids(1)):
            policy.grid = grid[..., : -(-size[1] // 32)]
            frame = drawn(step, size=size)
            found, wanted = net(frame), reference(policy.grid, frame)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert size == SIZE or not bc.report(net).dense_ops


def test_maps_of_which_only_means_are_read_are_not_kept():
    sizes = []
    for squeeze in (SQUEEZES["mean"], lambda x: x.flatten(2).median(2)[0]):
        net = Gated(squeeze).eval()
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="all"))
        with torch.inference_mode():
            net(drawn(0))
        sizes.append(bc.report(net).state_bytes)
    # Of 12 channels of 45x38 pixels nothing, of 9 blocks a sum of each channel.
    assert sizes[1] - sizes[0] == 4 * 2 * 12 * (45 * 38 - 9)


def test_where_the_largest_value_is_can_be_read():
    conv = nn.Conv2d(3, 12, 3, 2, 1).eval()
    net = nn.Sequential(conv, nn.AdaptiveMaxPool2d(1, return_indices=True)).eval()
    frames = [drawn(0), drawn(1)]
    with torch.no_grad():
        wanted = [net(frame) for frame in frames]
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="all"))
    for frame, (values, places) in zip(frames, wanted, strict=True):
        with torch.inference_mode():
            found = net(frame)
        torch.testing.assert_close(found[0], values)
        assert torch.equal(found[1], places)


def test_blocks_of_few_pixels_are_summed_with_the_map():
    net = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1)).eval()
    net, frame = net.double(), torch.randn(1, 3, 96, 64, dtype=torch.float64)
    wanted = net(frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="all"))
    with torch.inference_mode():
        torch.testing.assert_close(net(frame), wanted)
    (op,) = bc.report(net).dense_ops
    assert op.reason == "its blocks are so small that their sums take longer than those of the map"


@pytest.mark.parametrize(
    "squeeze",
    [
        lambda x: x.mean((1, 2)),
        lambda x: x.mean((2, 3), dtype=torch.float64),
        lambda x: torch.linalg.vector_norm(x, 1, dim=(2, 3)),
    ],
)
def test_other_means_run_on_the_whole_map(squeeze):
    net = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1)).eval()
    net.forward = lambda x: squeeze(net[0](x))
    dense = net.forward(drawn(0))
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="all"))
    with torch.no_grad():
        torch.testing.assert_close(net(drawn(0)), dense)
