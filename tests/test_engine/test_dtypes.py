"""The laws in every dtype, under autocast, in every grad mode and memory layout."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.test_engine import property_helpers as laws
from tests.test_engine import property_operators as ops

# Continuous ones: a comparison that rounding tips the other way is no error of anybody's.
NAMES = (
    "Conv Conv Conv ConvSame PaddedConv Pad Transposed MaxPool AvgPool Resize Resize PixelShuffle "
    "PixelUnshuffle StridedSlice Focus Crop BatchNorm BatchNorm ChannelLayerNorm GroupNorm "
    "AdaptivePool SqueezeExcite ChannelShuffle SplitAttention Parts Tokens MixFeedForward "
    "SpatialAttention Coordinates Join Join Join Join"
).split()

autocast = partial(torch.autocast, "cpu", torch.bfloat16)


class Chain(nn.Module):
    """A stem and a few ops; ``inside`` is a context in which all but the stem and the last run."""

    def __init__(self, specs, inside=None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, ops.CHANNELS, 3, padding=1)
        self.nodes = nn.ModuleList(ops.make(spec) for spec in specs)
        self.last = nn.Conv2d(ops.CHANNELS, ops.CHANNELS, 3, padding=1)
        self.inside = inside

    def forward(self, x):
        run = self.run
        x = first = run(self.stem, x)
        if self.inside is None:
            x = self.middle(run, x, first)
        else:
            with self.inside():
                x = self.middle(run, x, first)
            dtype = self.last.weight.dtype
            x = run(lambda x: x.to(dtype), x)
        return run(self.last, x), x

    def middle(self, run, x, first):
        for node in self.nodes:
            if node.fits(tuple(x.shape[2:])):
                x = node(run, x, first) if isinstance(node, ops.Join) else node(run, x)
        return x


case = dict(
    specs=st.lists(ops.operators(NAMES), min_size=1, max_size=4),
    size=st.tuples(st.integers(9, 40), st.integers(9, 40)),
    block=st.sampled_from((4, 8, 12, 16, 16, 64)),
    rates=st.lists(st.sampled_from((0.0, 0.1, 0.4, 0.7, 2.0)), min_size=2, max_size=3),
    images=st.integers(1, 3),
    pack=st.booleans(),
    mode=st.sampled_from(tuple(laws.MODES)),
    channels_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 999),
)

KINDS = {
    "float64": dict(dtype=torch.float64),
    "bfloat16": dict(dtype=torch.bfloat16),
    "float16": dict(dtype=torch.float16),
    "autocast outside": dict(around=autocast),
    "autocast inside": dict(inside=autocast),
}


def check(specs, size, seed, inside=None, **options):
    assume(all(parameters.get("kind") != "where" for _, parameters in specs))
    torch.manual_seed(seed)
    net = Chain(specs, inside)
    by_images = options["shuffle"] and any(node.counts_images for node in net.nodes)
    assume(laws.check_laws(net, size, seed=seed, by_images=by_images, **options))


# No time on telling which parts of a failing case matter: it takes minutes.
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind):
    @given(**case)
    @settings(max_examples=15, phases=PHASES)
    def run(**drawn):
        check(**drawn, **KINDS[kind])

    run()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_laws_thoroughly(kind):
    @given(**case)
    @settings(max_examples=200, phases=PHASES)
    def run(**drawn):
        check(**drawn, **KINDS[kind])

    run()
