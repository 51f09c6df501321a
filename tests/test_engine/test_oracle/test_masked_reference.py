"""The oracle itself, against a second one written out layer by layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import GridError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Conv2d(6, 6, 3, 1, 2, 2)
        self.head = nn.Conv2d(12, 4, 3, 1, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 1, 1)
        y = F.relu(self.body(x) + x)
        y = F.interpolate(torch.cat([x, y], 1), scale_factor=2, mode="bilinear")
        return self.head(y)


class ByHand:
    """The network of above with every kept map and every ``torch.where`` spelt out."""

    def __init__(self, net: Net, block: int) -> None:
        self.net, self.block, self.kept = net, block, {}

    def keep(self, name, x, grid, block):
        mask = grid.repeat_interleave(block, 1).repeat_interleave(block, 2)
        mask = mask[:, None, : x.shape[2], : x.shape[3]]
        self.kept[name] = torch.where(mask, x, self.kept.get(name, x))
        return self.kept[name]

    def __call__(self, grid, frame):
        net, b = self.net, self.block
        frame = self.keep("frame", frame, grid, b)
        stem = self.keep("stem", F.relu(net.stem(frame)), grid, b // 2)
        pooled = self.keep("pooled", F.max_pool2d(stem, 3, 1, 1), grid, b // 2)
        body = self.keep("body", F.relu(net.body(pooled) + pooled), grid, b // 2)
        both = torch.cat([pooled, body], 1)
        larger = F.interpolate(both, scale_factor=2, mode="bilinear")
        larger = self.keep("larger", larger, grid, b)
        return self.keep("out", net.head(larger), grid, b)


@pytest.mark.parametrize("size", [(32, 48), (30, 44)])
def test_it_is_the_sentence_written_out(size):
    net = Net().eval()
    reference, by_hand = MaskedReference(net, 8), ByHand(net, 8)
    shape = (2, -(-size[0] // 8), -(-size[1] // 8))
    with torch.no_grad():
        for rate in (2.0, 0.5, 0.0, 0.3, 0.8):
            frame, grid = torch.randn(2, 3, *size), torch.rand(shape) < rate
            found = reference(grid, frame)
            torch.testing.assert_close(found, by_hand(grid, frame), rtol=1e-5, atol=1e-6)
            if rate == 2.0:
                torch.testing.assert_close(found, net(frame), rtol=1e-5, atol=1e-6)


def test_a_partial_first_frame_shows_as_nan():
    """What was never computed is NaN: a test that reads it by mistake cannot pass."""
    grid = torch.ones(1, 4, 4, dtype=torch.bool)
    grid[0, 0, 0] = False
    out = MaskedReference(Net().eval(), 8)(grid, torch.randn(1, 3, 32, 32))
    assert out[0, :, :8, :8].isnan().all() and not out[0, :, 24:, 24:].isnan().any()


def test_streams_are_apart():
    net, grid = Net().eval(), torch.ones(1, 4, 4, dtype=torch.bool)
    a, b = torch.randn(2, 1, 3, 32, 32).unbind(0)
    reference = MaskedReference(net, 8)
    first = reference(grid, a, streams=["a"])
    reference(grid, b, streams=["b"])
    assert torch.equal(reference(~grid, b, streams=["a"]), first)


def test_wrong_grid():
    with pytest.raises(GridError, match=r"expected bool \(1, 4, 4\)"):
        MaskedReference(Net().eval(), 8)(torch.ones(1, 4, 5).bool(), torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_ops_that_write_to_a_whole_map(rate):
    """By hand: what is written counts where blocks run, and the kept map is as it was."""

    class Writes(nn.Module):
        def forward(self, x):
            y = x * 1.0
            return y.scatter_add_(1, y.argmax(1, keepdim=True), torch.ones_like(y[:, :1]))

    reference = MaskedReference(Writes(), 8)
    frames = torch.randn(2, 1, 3, 16, 16)
    grids = [torch.ones(1, 2, 2, dtype=torch.bool), torch.rand(1, 2, 2) < rate]
    wanted = None
    for frame, grid in zip(frames, grids, strict=True):
        pixels = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
        written = Writes()(frame)
        wanted = written if wanted is None else torch.where(pixels, written, wanted)
        assert torch.equal(reference(grid, frame), wanted)


def test_patches_wider_than_a_block():
    """They reach over several blocks: in a frame of all blocks they are the plain model's."""

    class Patches(nn.Module):
        def forward(self, x):
            return F.unfold(F.max_pool2d(x, 4, 4), 3, padding=1)

    frame = torch.randn(1, 3, 16, 16)
    grid = torch.ones(1, 2, 2, dtype=torch.bool)
    assert torch.equal(MaskedReference(Patches(), 8)(grid, frame), Patches()(frame))


def test_a_slice_of_a_padded_map_is_dense():
    """By hand: its pixels are elsewhere than those of the map, so the whole map is read."""

    class Shifted(nn.Module):
        def forward(self, x):
            padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
            return padded[:, :, : x.shape[2], 2:]

    reference, kept = MaskedReference(Shifted(), 8), None
    for grid in (torch.ones(1, 2, 2, dtype=torch.bool), torch.eye(2, dtype=torch.bool)[None]):
        frame = torch.randn(1, 3, 14, 12)
        pixels = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, :14, :12]
        kept = frame if kept is None else torch.where(pixels, frame, kept)
        assert torch.equal(reference(grid, frame), Shifted()(kept))
