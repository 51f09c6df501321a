"""Resizes, against torch and against a loop written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.geometry import resized_block


class Resize(nn.Module):
    def __init__(self, options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.interpolate(x * 2.0, **self.options)


@st.composite
def resizes(draw):
    mode = draw(st.sampled_from(("nearest", "nearest-exact", "bilinear", "bilinear")))
    options = dict(mode=mode)
    if mode == "bilinear":
        options["align_corners"] = draw(st.booleans())
    if draw(st.booleans()):
        options["size"] = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    else:
        scale = st.sampled_from((0.5, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 0.37, 1.3))
        options["scale_factor"] = draw(st.tuples(scale, scale))
        options["recompute_scale_factor"] = draw(st.sampled_from((None, True)))
    return options


case = dict(
    size=st.tuples(st.integers(4, 24), st.integers(4, 24)),
    block=st.sampled_from((2, 4, 6, 8, 16)),
    options=resizes(),
    seed=st.integers(0, 99),
    pack=st.booleans(),
    inference=st.booleans(),
)


def check_resize(size, block, options, seed, pack, inference):
    torch.manual_seed(seed)
    shape = (2, -(-size[0] // block), -(-size[1] // block))
    frames = [torch.randn(2, 3, *size) for _ in range(4)]
    grids = [torch.rand(shape) < rate for rate in (2.0, 0.4, 0.0, 0.6)]
    left = list(grids)
    net = bc.blockcopy_(
        Resize(options).eval(),
        bc.BlockCopyConfig(
            block_size=block, policy=lambda f, c: left.pop(0), pack_whole_frames=pack
        ),
    )
    state = output = None
    for frame, grid in zip(frames, grids, strict=True):
        with torch.inference_mode() if inference else torch.no_grad():
            found = net(frame)
        x = frame * 2.0
        state = x if state is None else state
        state = torch.where(pixels(grid, (block, block), size), x, state)
        fresh = F.interpolate(state, **options)
        out_block = [
            resized_block(shape[1 + i], block, size[i], fresh.shape[2 + i], block) for i in (0, 1)
        ]
        if None in out_block:
            output = fresh
        else:
            mask = pixels(grid, out_block, fresh.shape[2:])
            output = torch.where(mask, fresh, fresh if output is None else output)
        torch.testing.assert_close(found, output, rtol=1e-4, atol=1e-4)


def pixels(grid, block, size):
    mask = grid.repeat_interleave(block[0], 1).repeat_interleave(block[1], 2)
    assert mask.shape[1] >= size[0] and mask.shape[2] >= size[1], "blocks do not cover the map"
    return mask[:, None, : size[0], : size[1]]


@given(**case)
@settings(max_examples=100)
def test_resize(**drawn):
    check_resize(**drawn)


@pytest.mark.weekly
@given(**case)
@settings(max_examples=5000)
def test_resize_thoroughly(**drawn):
    check_resize(**drawn)


def test_bilinear_has_no_seams():
    """A ramp stays a ramp over block borders, in packed execution too."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32).contiguous()
    for corners in (False, True):
        options = dict(scale_factor=2, mode="bilinear", align_corners=corners)
        config = bc.BlockCopyConfig(block_size=8, policy="all", pack_whole_frames=True, strict=True)
        net = bc.blockcopy_(Resize(options).eval(), config)
        steps = net(ramp).diff(dim=3)[..., 1:-1]
        torch.testing.assert_close(steps, steps[:1, :1, :1, :1].expand_as(steps))


def test_odd_pyramid_levels_meet_their_neighbours():
    """FPN on 97 px: 25 -> 49 -> 97 px are no exact doublings, yet nothing densifies."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(nn.Conv2d(3, 3, 3, 2, 1) for _ in range(3))

        def forward(self, x):
            maps = [x]
            for conv in self.down:
                maps.append(conv(maps[-1]))
            top = maps.pop()
            for lower in reversed(maps):
                top = lower + F.interpolate(top, size=lower.shape[2:], mode="nearest")
            return top

    net, frame = Pyramid().eval(), torch.randn(1, 3, 97, 67)
    with torch.no_grad():
        dense = net(frame)
    config = bc.BlockCopyConfig(block_size=32, policy="all", strict=True, pack_whole_frames=True)
    bc.blockcopy_(net, config)
    torch.testing.assert_close(net(frame), dense, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_one_side_keeps_its_size(mode):
    """A factor of 1.3 gives 3 of 3 rows, of which the scale still takes the first one twice."""
    net = nn.Sequential(nn.Upsample(scale_factor=1.3, mode=mode)).eval()
    frame = torch.randn(1, 3, 3, 4)
    with torch.no_grad():
        wanted = net(frame)
    assert wanted.shape[2:] == (3, 5) and not torch.equal(wanted[:, :, 1], frame[:, :, 1, :1])
    config = bc.BlockCopyConfig(block_size=2, policy="all", pack_whole_frames=True)
    assert torch.equal(bc.blockcopy_(net, config)(frame), wanted)


@pytest.mark.parametrize("pack", [True, False])
def test_a_nearest_resize_to_its_own_size_is_a_copy(pack):
    """torch leaves the scale factor out of account there."""
    net = nn.Sequential(nn.Upsample(scale_factor=1.3)).eval()
    frames = torch.randn(2, 1, 3, 3, 3).unbind(0)
    with torch.no_grad():
        assert torch.equal(net(frames[0]), frames[0])
    grids = [torch.ones(1, 2, 2).bool(), torch.tensor([[[True, False], [False, True]]])]
    config = bc.BlockCopyConfig(
        block_size=2, policy=lambda f, c: grids.pop(0), pack_whole_frames=pack
    )
    bc.blockcopy_(net, config)
    assert torch.equal(net(frames[0]), frames[0])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    assert torch.equal(net(frames[1]), torch.where(mask, frames[1], frames[0]))
