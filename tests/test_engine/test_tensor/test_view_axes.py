"""Which dimensions of a view are pixels: cases by hand, and a network that needs them."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from benchmarks.policies.models.fastestdet import FastestDet
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.tensor.axes import channels_of, from_map, to_map
from blockcopy_plugins.engine.tensor.view_axes import Factor, read_view

N, C, H, W = 3, 12, 20, 28
MAP = (("N", N), ("C", C), ("H", H), ("W", W))
LAST = (("N", N), ("H", H), ("W", W), ("C", C))
WINDOWS = (("N", N), ("H", 5), ("W", 7), ("C", 4), ("C", 4), ("C", C))

# What is viewed, new sizes: letters, channels in a joint dimension, size of the map.
BY_HAND = [
    (MAP, (N, C, H * W), ("NCL", 1, (H, W))),
    (MAP, (N * C // 2, 2, H * W), ("BCL", 6, (H, W))),
    (MAP, (N * C, H, W), ("BHW", 12, (H, W))),
    (MAP, (N * 4, 3, H, W), ("BCHW", 4, (H, W))),
    (MAP, (N, 3, 4, H, W), ("NCCHW", 1, (H, W))),
    (MAP, (N, C, 10, 2, 14, 2), ("NCHCWC", 1, (10, 14))),
    (LAST, (N, 5, 4, 7, 4, C), ("NHCWCC", 1, (5, 7))),
    (LAST, (N, H, 14, 2 * C), ("NHWC", 1, (H, 14))),
    (LAST, (N * H * W * 3, 4), ("PC", 3, (H, W))),
    ((("H", H), ("W", W), ("N", N), ("C", C)), (H * W * N, C), ("QC", 1, (H, W))),
    ((("H", H), ("W", W), ("N", N), ("C", C)), (H * W, N * 4, 3), ("LBC", 4, (H, W))),
    (WINDOWS, (N * 35, 16, C), ("RCC", 1, (5, 7))),
    (WINDOWS, (N * 35 * 4, 4, C), ("PCC", 4, (5, 7))),
    ((("N", N), ("H", H), ("C", 2), ("W", W), ("C", 2)), (N, 40, 56), ("NHW", 1, (40, 56))),
    ((("C", 2), ("N", N), ("C", 6), ("H", H), ("W", W)), (2, N, 6, H, W), ("CNCHW", 1, (H, W))),
    (MAP, (N * C * 10, 2, 14, 2), ("MCWC", 12, (10, 14))),
    ((("N", N), ("C", 4), ("H", 10), ("W", 14), ("C", C)), (N * 4, 140, C), ("BLC", 4, (10, 14))),
    ((("N", N), ("C", 4), ("H", 10), ("W", 14), ("C", C)), (N * 560, C), ("SC", 4, (10, 14))),
    # An image is a dimension like any other.
    ((("H", H), ("W", W), ("N", 1), ("C", C)), (H * W, C), ("QC", 1, (H, W))),
    ((("H", H), ("W", W), ("N", 1), ("C", C)), (H * W, 4, 3), ("LBC", 4, (H, W))),
    ((("N", 1), *MAP[1:]), (6, 2, H * W), ("BCL", 6, (H, W))),
]
MIXES = [
    (MAP, (N, C * H * W)),
    (MAP, (N, 4, 3 * H, W)),
    (LAST, (N, H * W * C)),
    ((("C", C), ("N", N), ("H", H), ("W", W)), (C * N, H, W)),
]


def factors(old):
    return [Factor(*factor) for factor in old]


@pytest.mark.parametrize(("old", "new", "wanted"), BY_HAND)
def test_dimensions_read_by_hand(old, new, wanted):
    assert tuple(read_view(new, factors(old))) == wanted


@pytest.mark.parametrize(("of_tokens", "axes"), [(True, "BCLC"), (False, "BHWC")])
def test_a_row_of_tokens_is_not_a_dimension(of_tokens, axes):
    old = factors((("N", N), ("C", 4), ("H", 1), ("W", 30), ("C", 5)))
    found = read_view((N * 4, 1, 30, 5), old, of_tokens=of_tokens)
    assert tuple(found) == (axes, 4, (1, 30))


@pytest.mark.parametrize(("old", "new"), MIXES)
def test_dimensions_that_mix_what_must_stay_apart(old, new):
    assert read_view(new, factors(old)) is None


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


@given(data=st.data(), images=st.integers(1, 3))
@settings(max_examples=300)
def test_a_reading_tells_where_each_value_belongs(data, images):
    """Values that name their image and pixel still do so after any view that could be read."""
    size = data.draw(st.sampled_from(((4, 6), (8, 8), (3, 1), (1, 1))))
    channels = data.draw(st.sampled_from((1, 4, 6)))
    order = data.draw(st.permutations("NCHW"))
    lengths = dict(N=images, C=channels, H=size[0], W=size[1])
    old = [(letter, lengths[letter]) for letter in order]
    new, rest = [], prod(lengths.values())
    while rest > 1 and len(new) < 5:
        new.append(data.draw(st.sampled_from(divisors(rest))))
        rest //= new[-1]
    new.append(rest)
    reading = read_view(new, factors(old))
    if reading is None:
        return
    axes, joined, read = reading
    names = torch.arange(images * size[0] * size[1]).view(images, 1, *size)
    names = names.expand(-1, channels, -1, -1)
    seen = names.permute(["NCHW".index(letter) for letter in order]).reshape(new)
    map_ = to_map(seen, axes, images, read, joined)
    assert (map_ // (size[0] * size[1]) == torch.arange(images).view(-1, 1, 1, 1)).all()
    rows = (map_ // size[1] % size[0]).transpose(2, 3)
    for found, was, now in zip((rows, map_ % size[1]), size, read, strict=True):
        # The view's map may have fewer rows than the one that it was made of, or more.
        wanted = torch.arange(now) * was // now
        assert was % now == 0 or now % was == 0
        assert (found * now // was == wanted * now // was).all()
    assert torch.equal(from_map(map_, axes, channels_of(axes, seen.shape, joined)), seen)


def as_published(unit: nn.Module):
    """A ShuffleNetV2 unit whose channel shuffle makes one dimension of images and channels."""

    def forward(x):
        images, channels, height, width = x.shape
        y = x.reshape(images * channels // 2, 2, height * width).permute(1, 0, 2)
        kept, worked = y.reshape(2, -1, channels // 2, height, width)
        return torch.cat([kept, unit.branch_main(worked)], 1)

    return forward


@pytest.fixture()
def fastestdet():
    net = FastestDet().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 1, 2)
        if type(module).__name__ == "_Unit":
            module.forward = as_published(module)
    return net


@pytest.mark.parametrize("images", [1, 2])
def test_the_published_channel_shuffle_stays_on_blocks(fastestdet, images):
    grids = [torch.rand(images, 3, 4) < rate for rate in (2.0, 0.5, 0.2)]
    frames = [torch.rand(images, 3, 160, 224) for _ in grids]
    reference = MaskedReference(fastestdet, 64)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = fastestdet(frames[0])
    left = list(grids)
    bc.blockcopy_(fastestdet, bc.BlockCopyConfig(block_size=64, policy=lambda f, c: left.pop(0)))
    found = [fastestdet(frame) for frame in frames]
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    report = bc.report(fastestdet)
    assert report.share_on_blocks > 0.98 and not report.dense_ops


class Shuffled(nn.Module):
    """Channels of two groups in turn, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        x = self.first(x)
        images, channels, height, width = x.shape
        x = x.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = x.view(images, channels, height, width)
        self.seen.append(x)
        return self.last(x)


def test_shuffled_channels_lie_as_convolutions_read_them():
    torch.manual_seed(0)
    net = Shuffled().eval()
    grids = [torch.rand(2, 3, 4) < rate for rate in (2.0, 0.5)]
    frames = [torch.randn(2, 3, 24, 32) for _ in grids]
    reference = MaskedReference(net, 8)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy=lambda f, c: left.pop(0)))
    for frame, expected in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame), expected, rtol=1e-4, atol=1e-5)
        assert net.seen[-1].packed.is_contiguous(memory_format=torch.channels_last)
