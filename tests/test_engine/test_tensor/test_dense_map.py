"""Maps that an op made dense become blocks again, and tensors that only look like them do not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.tensor.dense_map import DenseMap
from blockcopy_plugins.errors import StateError

SIZE, BLOCK = (36, 45), 8
CHANNELS = 8


def accumulate(x, m):
    """Every pixel is of all above it: nothing of it can run on blocks."""
    return x.cumsum(2) * 0.1


class Net(nn.Module):
    """A convolution, a function of its map, and convolutions that read the result."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.down = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1)
        self.last = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1)
        self.wide = nn.Conv2d(CHANNELS, 4, 3, 1, 6, 6)
        self.table = nn.Parameter(torch.randn(1, CHANNELS, *SIZE))

    def forward(self, x):
        x = self.function(self.stem(x), self)
        return self.wide(self.last(x) + self.last.bias[:, None, None])


def run(net, grids, frames, mode=torch.no_grad, **options):
    """Outputs of each frame, and the report."""
    left = list(grids)
    config = bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0), **options)
    bc.blockcopy_(net, config)
    try:
        outputs = []
        for frame in frames:
            with mode():
                outputs.append(net(frame))
        return outputs, bc.report(net)
    finally:
        bc.restore_(net)


def clip(images=2, rates=(2.0, 0.5, 0.0, 0.2)):
    shape = (images, -(-SIZE[0] // BLOCK), -(-SIZE[1] // BLOCK))
    grids = [torch.rand(shape) < rate for rate in rates]
    return grids, [torch.randn(images, 3, *SIZE) for _ in rates]


def on_blocks(report) -> set[str]:
    return {path for path, macs in report.modules.items() if macs.dense}


def all_close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert type(a) is torch.Tensor
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


DERIVED = {
    "softmax over pixels": lambda x, m: x.flatten(2).softmax(2).view_as(x) * 100,
    "weights by pixels": lambda x, m: (
        torch.einsum(
            "ncp,npd->ncd",
            torch.ones(len(x), CHANNELS, 5, dtype=x.dtype),
            x.flatten(2).cumsum(2)[:, :5],
        ).view_as(x)
        * 0.01
    ),
    "cumulative sum": accumulate,
    "shift": lambda x, m: torch.roll(x, (2, -2), (2, 3)),
    "fourier": lambda x, m: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "instance norm": lambda x, m: F.instance_norm(x),
    "warp": lambda x, m: F.grid_sample(
        x,
        F.affine_grid(torch.eye(2, 3).expand(len(x), -1, -1), x.shape, False),
        align_corners=False,
    ),
    "normalised": lambda x, m: x / x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 10,
    "channels by index": lambda x, m: x.cumsum(2)[:, [*range(1, CHANNELS), 0]] * 0.1,
    "padded before": lambda x, m: F.conv2d(F.pad(x.cumsum(2) * 0.1, (1, 1, 1, 1)), m.last.weight),
    "pooled": lambda x, m: F.max_pool2d(x.cumsum(2) * 0.1, 3, 1, 1),
    "enlarged": lambda x, m: F.interpolate(
        F.interpolate(x.cumsum(2) * 0.1, scale_factor=0.5), size=x.shape[2:], mode="bilinear"
    ),
    "of two": lambda x, m: torch.cat([x.cumsum(2), x.cumsum(3)], 1)[:, ::2] * 0.1,
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", DERIVED)
def test_one_op_that_needs_the_whole_map_costs_itself_alone(name, mode):
    net, (grids, frames) = Net(DERIVED[name]).eval(), clip()
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = net(frames[0])
    found, report = run(net, grids, frames, mode)
    all_close(found, wanted)
    all_close(found[:1], [dense])
    assert {"stem", "last", "wide"} <= on_blocks(report)
    for path in ("stem", "last", "wide"):
        assert report.modules[path].executed < 0.5 * report.modules[path].dense, path
        assert not report.modules[path].outside, path


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", DERIVED)
def test_the_same_picture_changes_nothing(name, pack):
    net, (grids, frames) = Net(DERIVED[name]).eval(), clip(rates=(2.0, 0.5, 0.3, 0.0))
    found, _ = run(net, grids, [frames[0]] * 3 + [frames[1]], pack_whole_frames=pack)
    all_close(found[1:3], found[:1] * 2)
    assert torch.equal(found[3], found[2])


NO_MAPS = {
    "a parameter": lambda x, m: m.table.expand(len(x), -1, -1, -1) * 1.0,
    "a table that is resized": lambda x, m: F.interpolate(
        m.table[:, :, :9, :9], size=x.shape[2:], mode="bilinear"
    ).expand(len(x), -1, -1, -1),
    "another batch": lambda x, m: x.cumsum(2).repeat(2, 1, 1, 1),
    "another size": lambda x, m: x.cumsum(2)[:, :, 1:, 3:],
    "mirrored": lambda x, m: x.flip(3),
    "on its side": lambda x, m: x.cumsum(2)[:, :, :, :36].transpose(2, 3).contiguous(),
    "chosen images": lambda x, m: x.cumsum(2)[torch.arange(len(x)).flip(0)],
    "memory of its size": lambda x, m: x.cumsum(2).new_full(x.shape, 0.5),
}


@pytest.mark.parametrize("name", NO_MAPS)
def test_what_only_looks_like_a_map_stays_dense(name):
    net, (grids, frames) = Net(NO_MAPS[name]).eval(), clip()
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    found, report = run(net, grids, frames)
    all_close(found, wanted)
    assert not {"last", "wide"} & on_blocks(report)


def test_it_can_be_turned_off():
    net, (grids, frames) = Net(accumulate).eval(), clip()
    reference = MaskedReference(net, BLOCK, repack=False)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    found, report = run(net, grids, frames, repack=False)
    all_close(found, wanted)
    assert on_blocks(report) == {"stem"}


def test_an_op_that_cannot_run_on_blocks_reads_the_map_as_it_was():
    """Nothing is left out of a map that has been cut for nothing."""

    def uneven(x, m):
        y = x.cumsum(2) * 0.1
        return F.conv2d(y, m.last.weight, stride=3)

    net, (grids, frames) = Net(uneven).eval(), clip()
    net.forward = lambda x: net.function(net.stem(x), net)
    found, report = run(net, grids, frames)
    kept = None
    for grid, frame, out in zip(grids, frames, found, strict=True):
        with torch.no_grad():
            x = net.stem(kept_frame(frame, grid, kept))
        kept = kept_frame(frame, grid, kept)
        # The stem's result is kept too: its executed blocks alone are new.
        mask = pixels(grid)
        known = x if kept is None or grid.all() else torch.where(mask, x, known)  # noqa: F821
        all_close([out], [F.conv2d(known.cumsum(2) * 0.1, net.last.weight, stride=3).detach()])
    assert any("stride (3, 3)" in op.reason for op in report.dense_ops)


def pixels(grid):
    mask = grid.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return mask[:, None, : SIZE[0], : SIZE[1]]


def kept_frame(frame, grid, kept):
    return frame if kept is None else torch.where(pixels(grid), frame, kept)


def test_all_readers_of_a_dense_map_share_its_state():
    def pyramid(x, m):
        x = accumulate(x, m)
        return m.last(x) + F.conv2d(x, m.last.weight, padding=3, dilation=3)

    one, two = Net(accumulate).eval(), Net(pyramid).eval()
    grids, frames = clip()
    states = [run(net, grids, frames)[1].state_bytes for net in (one, two)]
    # `last` reads one pixel of the blocks around, and the sum of the two as well; the other
    # convolution reads three, for which one memory serves both.
    pixels = SIZE[0] * SIZE[1]
    if ops.conv_kernels():
        pixels = 5 * 6 * (BLOCK * BLOCK - 2 * 2)
    assert states[1] - states[0] == 4 * 2 * CHANNELS * pixels


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_writes_between_two_readers_are_seen(mode):
    def written(x, m):
        y = x.cumsum(2) * 0.1
        first = m.last(y)
        y[:, 2].mul_(3)
        view = y[:, :2]
        second = m.last(y)
        view.add_(1)
        y[:, :, 4:9] = 0.5
        third = m.last(y)
        y.relu_()
        return first + second * 0.5 + third * 0.3 + y

    net, (grids, frames) = Net(written).eval(), clip()
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = net(frames[0])
    found, _ = run(net, grids, frames, mode)
    all_close(found, wanted)
    all_close(found[:1], [dense])


def test_modes_may_change_between_frames():
    net, (grids, frames) = Net(accumulate).eval(), clip(rates=(2.0, 0.4, 0.4, 0.4))
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    modes = (torch.inference_mode, torch.no_grad, torch.enable_grad, torch.inference_mode)
    for mode, frame, want in zip(modes, frames, wanted, strict=True):
        with mode():
            all_close([net(frame)], [want])


def test_streams_come_and_go():
    net, reference = Net(accumulate).eval(), None
    reference = MaskedReference(copy.deepcopy(net), BLOCK)
    calls = [("ab", 2.0), ("c", 2.0), ("ba", 0.4), ("cab", 0.3), ("b", 0.5), ("bc", 0.0)]
    grids = [clip(len(ids), (rate,))[0][0] for ids, rate in calls]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    for (ids, _), grid in zip(calls, grids, strict=True):
        frame = torch.randn(len(ids), 3, *SIZE)
        with bc.streams(net, list(ids)):
            found = net(frame)
        all_close([found], [reference(grid, frame, streams=list(ids))])


def test_a_map_that_the_model_keeps_lives_on_as_a_tensor():
    """It keeps nothing of its frame alive, and is no map of a later one."""
    kept, frames_seen = [], []

    def keep(x, m):
        y = x.cumsum(2) * 0.1
        kept.append(y)
        frames_seen.append(weakref.ref(x.frame))
        return m.last(y)

    net, (grids, frames) = Net(keep).eval(), clip(rates=(2.0, 0.5))
    run(net, grids, frames)
    gc.collect()
    assert [reference() for reference in frames_seen] == [None, None]
    (first, second) = kept
    assert isinstance(first, DenseMap)
    assert type(first + second) is torch.Tensor
    assert type(F.conv2d(first, net.last.weight)) is torch.Tensor
    assert first.numpy().shape == tuple(first.shape) and len(first.tolist()) == 2
    assert type(copy.deepcopy(first)) is type(pickle.loads(pickle.dumps(first))) is torch.Tensor


def test_a_map_of_the_frame_before_is_no_map_of_this_one():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, 1, 1)
            self.before = None

        def forward(self, x):
            y = self.conv(x).cumsum(2) * 0.1
            before = y if self.before is None else self.before
            self.before = y
            return self.conv(y), F.conv2d(before, self.conv.weight)

    net, (grids, frames) = Recurrent().eval(), clip(rates=(2.0, 2.0, 2.0))
    with torch.no_grad():
        wanted = [net(frame) for frame in frames]
    net.before = None
    found, _ = run(net, grids, frames)
    for one, other in zip(found, wanted, strict=True):
        all_close(one, other)


@dataclass
class Result:
    maps: list
    more: dict


def test_no_dense_map_leaves_the_model():
    def several(x, m):
        y = x.cumsum(2)
        return Result([y, (y * 2, y.sum((2, 3)))], {"tokens": y.flatten(2)})

    net, (grids, frames) = Net(several).eval(), clip()
    net.forward = lambda x: net.function(net.stem(x), net)
    (result, *_), _ = run(net, grids, frames)
    leaves = [result.maps[0], *result.maps[1], result.more["tokens"]]
    assert all(type(leaf) is torch.Tensor for leaf in leaves)


def test_sizes_may_change_in_place():
    def squeezed(x, m):
        y = x.cumsum(2)[:, None] * 0.1
        y.squeeze_(1)
        assert y.shape == x.shape
        return y

    net, (grids, frames) = Net(squeezed).eval(), clip()
    with torch.no_grad():
        dense = net(frames[0])
    found, report = run(net, grids, frames)
    all_close(found[:1], [dense])


def test_a_crop_that_is_a_map_by_chance_is_an_error_that_names_the_option():
    """One that depends on the picture may have the size of a map in one frame and not the next."""
    widths = [SIZE[1] - 4, 20]

    def crop(x, m):
        m.down(x)
        y = x.cumsum(2)[:, :, : SIZE[0] // 2, : widths.pop(0) if len(widths) > 1 else 23]
        return m.last(y)

    net, (grids, frames) = Net(crop).eval(), clip(rates=(2.0, 0.5))
    net.forward = lambda x: net.function(net.stem(x), net)
    with pytest.raises(StateError, match="repack=False"):
        run(net, grids, frames)
    widths[:] = [SIZE[1] - 4, 20]
    run(net, grids, frames, repack=False)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0, 0, 0, 0].item(),
        lambda x: x[0, 0, 1, :3].tolist()[1],
        lambda x: x[0, 0].diagonal().sum(),
        lambda x: torch.cumsum(x, 2).transpose(2, 3)[0].max(),
        lambda x: torch.cumsum(x, 2).unbind(3)[0].unbind(2)[0][0][0],
        lambda x: torch.cumsum(x, 2).transpose(2, 3).chunk(2, 1)[1][0, 0, 0].zero_().sum(),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_views_of_any_number_of_dimensions(read, mode):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, x):
            x = self.before(x) + 1
            return self.after(x * (1 + read(x)))

    torch.manual_seed(0)
    net = Reads().eval()
    dense, frame = copy.deepcopy(net), torch.randn(1, 3, 32, 48)
    bc.blockcopy_(net, bc.BlockCopyConfig(16, "all"))
    with mode():
        wanted = dense(frame)
        for _ in range(2):
            assert torch.allclose(net(frame), wanted, atol=1e-5 * float(wanted.abs().max()))
