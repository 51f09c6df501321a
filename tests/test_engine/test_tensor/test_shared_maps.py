"""Maps that several readers share: each sees what is there now, and nobody copies it twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.engine.convert import convert_


class Region(nn.Module):
    """Reads dense maps, as a detector's extractors do, and says nothing else of them."""

    def forward(self, x):
        assert type(x) is torch.Tensor
        return x.mean((2, 3)), x


class TwoReaders(nn.Module):
    """Between its two readers the map is written to in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.other, self.third = Region(), Region(), Region()

    def forward(self, x):
        x = self.conv(x)
        first, map_ = self.one(x)
        again, same = self.third(x)
        x.mul_(2).add_(1)
        second, _ = self.other(x)
        return first, again, second, map_ is same


class Readers(ModelAdapter):
    def read_only_inputs(self, model):
        return [module for module in model.modules() if isinstance(module, Region)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_map_that_is_written_to_between_two_readers(mode):
    net = TwoReaders().eval()
    frame = torch.randn(1, 3, 32, 48)
    with mode():
        first, _, second, _ = net(frame)
        config = bc.BlockCopyConfig(block_size=16, policy="all")
        convert_(net, config, Readers())
        for _ in range(3):
            found, again, changed, shared = net(frame)
            assert shared, "readers of one map get one tensor"
            for value, wanted in ((found, first), (again, first), (changed, second)):
                torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)


class Rows(nn.Module):
    """Writes to two views of a map, and reads them once the map was read."""

    def __init__(self, write) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.write = write

    def forward(self, x):
        x = self.first(x)
        views = self.write(x)
        out = self.second(x)
        return out, *(view.clone() for view in views)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_views_that_were_written_to_show_it_once_the_map_was_read(mode):
    def write(x):
        one, other = x.permute(0, 2, 3, 1)[:, 2:4], x[:, :, 4:6]
        one.add_(1)
        other.mul_(2)
        return one, other

    net = Rows(write).eval()
    frame = torch.randn(1, 3, 32, 48)
    with mode():
        wanted = net(frame)
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
        for _ in range(2):
            torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_view_shows_what_was_written_to_it_where_nothing_was_executed_too(mode):
    values = [0.5, 0.75, 0.25]

    def write(x):
        row = x[:, :, 5]
        row.fill_(values[0])
        return (row,)

    net = Rows(write).eval()
    grid = torch.tensor([[[1, 0, 0], [0, 0, 1]]]) > 0
    grids = [torch.ones_like(grid), grid, torch.zeros_like(grid)]
    config = bc.BlockCopyConfig(block_size=16, policy=lambda f, c: grids[-len(values)])
    bc.blockcopy_(net, config)
    with mode():
        while len(values) > 1:
            assert (net(torch.randn(1, 3, 32, 48))[1] == values[0]).all()
            del values[0]


class TwoBorders(nn.Module):
    """One map is read near the edges of blocks by a kernel, then whole by another op."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.near = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return self.near(x), nn.functional.pad(x, (1, 1, 1, 1), mode="reflect").mean((2, 3))


@pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels on this processor")
def test_a_map_is_kept_once_for_all_its_readers(monkeypatch):
    """The first frame learns how much of it is read; the frames after it write that once."""
    written = []
    for name in ("scatter_", "scatter_rings_", "copy_rings_"):
        real = getattr(ops, name)

        def counted(*arguments, name=name, real=real):
            written.append(name)
            return real(*arguments)

        monkeypatch.setattr(ops, name, counted)
    net = TwoBorders().eval()
    grid = torch.tensor([[[1, 0, 1], [0, 1, 0]]]) > 0
    grids = [torch.ones_like(grid), grid, grid]
    config = bc.BlockCopyConfig(
        block_size=16, policy=lambda f, c: grids.pop(0), programs=False, pack_whole_frames=True
    )
    bc.blockcopy_(net, config)
    counts = []
    with torch.no_grad():
        for _ in range(3):
            written.clear()
            net(torch.randn(1, 3, 32, 48))
            counts.append(list(written))
    # Of the picture rings are read; of the map rings and then, as the other op wants more, all of
    # it, which that op gets as a copy besides.
    rings = [count.count("scatter_rings_") for count in counts]
    assert rings == [2, 1, 1] and [len(count) for count in counts] == [4, 3, 3]
