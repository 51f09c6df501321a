"""``block_size='auto'``: which size it is, and that it changes nothing else."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.block_size import choose_block_size
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy.guards import Ignore

LARGE, SMALL = (384, 512), (160, 192)


class Pyramid(nn.Module):
    """Strides 2, 4, ... of which the first and last layers may be light."""

    def __init__(self, levels, light_from=99):
        super().__init__()
        channels = [3, *(16 if i < light_from else 2 for i in range(levels))]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(channels, channels[1:], strict=False)
        )
        self.wide = nn.Conv2d(16, 48, 3, 1, 1)

    def forward(self, x):
        outputs = []
        for number, layer in enumerate(self.layers):
            x = F.relu(layer(x))
            outputs.append(self.wide(x) if number == 0 else x)
        return outputs


class Branches(nn.Module):
    """Patches of 14 px beside a branch of stride 32, as in adapters of transformers."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 14, 14)
        self.branch = nn.Sequential(nn.Conv2d(3, 64, 8, 8), nn.Conv2d(64, 256, 4, 4))

    def forward(self, x):
        return self.patches(x), self.branch(x)


def strides(**macs):
    return {Fraction(int(name[1:])): count for name, count in macs.items()}


@pytest.mark.parametrize(
    ("macs", "wanted"),
    [
        (strides(s4=50, s32=50), 64),
        (strides(s4=50, s64=50), 64),
        (strides(s4=97, s128=3), 128),
        (strides(s4=99, s128=1), 64),
        (strides(s14=100), 70),
        (strides(s14=50, s28=50), 56),
        (strides(s4=50, s3=50), 60),
        (strides(s32=50, s96=50), 96),
        # Larger blocks only where much would be left, and nothing is left then.
        (strides(s32=60, s14=40), 224),
        (strides(s32=5, s14=95), 70),
        (strides(s4=50, s256=50), 256),
        (strides(s64=50, s14=50), 64),
        ({}, 64),
    ],
)
def test_the_rule(macs, wanted):
    assert choose_block_size(macs) == wanted


@pytest.mark.parametrize(
    ("network", "size", "wanted"),
    [
        (Pyramid(3), LARGE, 64),
        (Pyramid(3), SMALL, 64),
        (Pyramid(6, light_from=5), LARGE, 64),
        (nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(2)), nn.Conv2d(3, 64, 32, 32)),
         LARGE, 128),
        # Patches of 14 px, and half of their maps behind them.
        (nn.Conv2d(3, 16, 14, 14), (224, 336), 70),
        (nn.Sequential(nn.Conv2d(3, 16, 14, 14), nn.Conv2d(16, 64, 3, 2, 1)), (224, 336), 56),
        (Branches(), (224, 448), 224),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_the_strides_are_those_of_the_network(network, size, wanted):
    model = bc.blockcopy_(network.eval(), bc.BlockCopyConfig("auto", "all", strict=True))
    assert bc.report(model).block_size == "auto" and "blocks of auto" in str(bc.report(model))
    model(torch.randn(1, 3, *size))
    report = bc.report(model)
    assert report.block_size == wanted and f"blocks of {wanted} px" in str(report)
    # Nothing had to run on whole maps, and the look at the strides is in no figure.
    assert report.share_on_blocks == 1 and report.frames == 1


def rates(rate):
    def policy(frame, context):
        draw = torch.Generator().manual_seed(context.frame_index[0])
        return torch.rand(context.grid_shape, generator=draw) < rate

    return policy


@torch.inference_mode()
def test_all_else_is_as_with_that_size_given():
    torch.manual_seed(0)
    net = Pyramid(3).eval()
    video = [torch.randn(2, 3, *SMALL) for _ in range(4)]
    models = [
        bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(size, rates(0.4)))
        for size in (64, "auto")
    ]
    for frame in video:
        for given, auto in zip(*(model(frame) for model in models), strict=True):
            assert torch.equal(given, auto)
    one, other = (bc.report(model) for model in models)
    assert one.state_bytes == other.state_bytes and one.macs_executed == other.macs_executed
    # It stays, whatever comes later.
    bc.reset_(models[1])
    models[1](torch.randn(1, 3, *LARGE))
    assert bc.report(models[1]).block_size == 64
    copied = copy.deepcopy(models[1])
    assert bc.handle(copied).config.block_size == 64


@torch.inference_mode()
def test_a_first_frame_that_fails_chooses_nothing():
    net = Pyramid(3).eval()
    model = bc.blockcopy_(net, bc.BlockCopyConfig("auto", "all"))
    with pytest.raises(FrameError):
        model(torch.full((1, 3, *SMALL), float("nan")))

    def fail(module, args):
        raise RuntimeError("out of memory")

    hook = net.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(torch.randn(1, 3, *SMALL))
    hook.remove()
    assert bc.handle(model).config.block_size == "auto"
    frame = torch.randn(1, 3, *SMALL)
    got = model(frame)
    with bc.dense(model):
        torch.testing.assert_close(got, model(frame), atol=1e-5, rtol=1e-5)
    assert bc.report(model).block_size == 64


@torch.inference_mode()
def test_guards_get_the_size_that_was_chosen():
    mask = np.zeros(SMALL, bool)
    mask[:64, :64] = True
    config = bc.BlockCopyConfig("auto", "all", guards=[Ignore(mask=mask), "SceneCut"])
    model = bc.blockcopy_(Pyramid(3).eval(), config)
    for _ in range(2):
        model(torch.randn(1, 3, *SMALL))
    grid = bc.handle(model).last.host_grid[0]
    assert grid.shape == (3, 3)
    assert not grid[0, 0] and grid.sum() == 8


@pytest.mark.parametrize("size", ["automatic", "", 0, 1.5, True, None])
def test_bad_sizes(size):
    with pytest.raises(ConfigError, match="expected an integer of at least 1, px, or 'auto'"):
        bc.BlockCopyConfig(block_size=size)
