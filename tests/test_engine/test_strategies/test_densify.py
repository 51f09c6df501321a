"""Ops that cannot run on blocks: right on whole maps, and named in the report."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import DensifiedError

SIZE = (20, 25)


class Layer(nn.Module):
    """One function of a feature map, in a module of its own so that the report can name it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(8 * SIZE[0] * SIZE[1], 3)
        self.down = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.last = nn.Conv2d(8, 8, 4)

    def forward(self, x):
        return self.function(x, self)


class Net(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer = Layer(function)
        self.last = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x):
        out = self.layer(self.stem(x))
        maps = isinstance(out, torch.Tensor) and out.dim() == 4 and out.shape[1] == 8
        return self.last(out) if maps and min(out.shape[2:]) > 1 else out


def assign_mask(x, m):
    x[x < 0] = 3.0
    return x


# name: (function, an op that the report must name)
DENSE = {
    "reshape": (lambda x, m: x.reshape(x.size(0), 4, -1), "view"),
    "softmax over space": (lambda x, m: x.flatten(2).softmax(-1).view_as(x), "_softmax"),
    "view": (lambda x, m: x.view(x.size(0), -1), "view"),
    "flatten and linear": (lambda x, m: m.linear(x.flatten(1)), "view"),
    "attention": (lambda x, m: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product"),
    "matmul": (lambda x, m: x @ x.transpose(2, 3), "bmm"),
    "adaptive average": (lambda x, m: F.adaptive_avg_pool2d(x, (3, 7)), "_adaptive_avg_pool2d"),
    "adaptive to view": (lambda x, m: F.adaptive_avg_pool2d(x, 2).view(len(x), -1), "adaptive"),
    "adaptive maximum": (lambda x, m: F.adaptive_max_pool2d(x, (3, 2)), "adaptive_max_pool2d"),
    "global median": (lambda x, m: x - x.flatten(2).median(2)[0][:, :, None, None], "median"),
    "cumsum": (lambda x, m: x.cumsum(2), "cumsum"),
    "pad and multiply": (lambda x, m: F.pad(x, (1, 2, 3, 4)) * 2, "mul"),
    "pad twice": (lambda x, m: F.pad(F.pad(x, (1, 2, 3, 4)), (1, 1)), "pad"),
    "circular pad": (lambda x, m: F.pad(x, (1, 2, 3, 4), mode="circular"), "copy_"),
    "group norm of rows": (
        lambda x, m: F.group_norm(x.transpose(1, 2), 2).transpose(1, 2),
        "native_group_norm",
    ),
    "instance_norm": (lambda x, m: F.instance_norm(x), "batch_norm"),
    "batch statistics": (lambda x, m: F.batch_norm(x, None, None, training=True), "batch_norm"),
    "bicubic": (lambda x, m: F.interpolate(x, scale_factor=2, mode="bicubic"), ""),
    "area": (lambda x, m: F.interpolate(x, size=(13, 17), mode="area"), "_adaptive_avg_pool2d"),
    "antialias": (
        lambda x, m: F.interpolate(x, size=(13, 17), mode="bilinear", antialias=True),
        "_upsample_bilinear2d_aa",
    ),
    "antialias to a column": (
        lambda x, m: F.interpolate(x, size=(13, 1), mode="bicubic", antialias=True),
        "_upsample_bicubic2d_aa",
    ),
    "grid_sample": (
        lambda x, m: F.grid_sample(x, torch.zeros(len(x), 5, 5, 2), align_corners=False),
        "grid_sampler",
    ),
    "unfold": (lambda x, m: F.unfold(x, 3, stride=3), "im2col"),
    "flip": (lambda x, m: x.flip(3), "flip"),
    "roll": (lambda x, m: x.roll(3, 2), "roll"),
    "batch concatenation": (lambda x, m: torch.cat([x, x], 0), "cat"),
    "spatial concatenation": (lambda x, m: torch.cat([x, x], 2), "cat"),
    "masked assignment": (assign_mask, "index_put_"),
    "out=": (lambda x, m: torch.add(x, x, out=torch.empty_like(x)), "add"),
    "pooling with indices": (
        # Windows that reach into other blocks.
        lambda x, m: F.max_unpool2d(
            *nn.MaxPool2d(3, 2, 1, return_indices=True)(x), 3, 2, 1, output_size=x.shape[2:]
        ),
        "",
    ),
    "item": (lambda x, m: x * float(x.sum()), "sum"),
}


def prepared(function, seed=0, **options):
    torch.manual_seed(seed)
    net = Net(function).eval()
    dense = copy.deepcopy(net)
    grids = []
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids.pop(), **options)
    return bc.blockcopy_(net, config), dense, grids


def assert_same(found, wanted, tolerance=1e-4):
    found, wanted = tree_leaves(found), tree_leaves(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert type(a) is torch.Tensor and a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", DENSE)
def test_right_and_reported(name, pack, mode):
    function, op = DENSE[name]
    net, dense, grids = prepared(function, pack_whole_frames=pack)
    shape = (2, 3, 4)
    still, other = torch.randn(2, 2, 3, *SIZE).unbind(0)
    with torch.no_grad():
        wanted = dense(still)
    with mode():
        grids.append(torch.ones(shape, dtype=torch.bool))
        assert_same(net(still), wanted)  # Law 1
        grids.append(torch.rand(shape) < 0.5)
        again = net(still)
        assert_same(again, wanted)  # Law 2
        grids.append(torch.zeros(shape, dtype=torch.bool))
        for a, b in zip(tree_leaves(net(other)), tree_leaves(again), strict=True):
            assert torch.equal(a, b)  # Law 2, bit for bit
    named = [entry for entry in bc.report(net).dense_ops if op in entry.op]
    assert named and named[0].count % 3 == 0 and named[0].path in ("layer", "layer.down")
    assert named[0].reason


@pytest.mark.parametrize("name", ["softmax over space", "flatten and linear", "adaptive average"])
def test_partial_grids_see_fresh_blocks_and_kept_ones(name):
    """A densified op sees this frame where it was executed and the kept map elsewhere."""
    net, dense, grids = prepared(DENSE[name][0], repack=False)
    first, second = torch.randn(2, 1, 3, *SIZE).unbind(0)
    grids.append(torch.ones(1, 3, 4, dtype=torch.bool))
    net(first)
    grid = torch.rand(1, 3, 4) < 0.5
    grids.append(grid)
    found = net(second)
    mask = grid.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None, : SIZE[0], : SIZE[1]]
    with torch.no_grad():
        # The stem reads the kept frame around its blocks, and its own result is kept elsewhere.
        kept = dense.stem(first)
        merged = torch.where(mask, second, first)
        kept = torch.where(mask, dense.stem(merged), kept)
        out = dense.layer(kept)
        wanted = dense.last(out) if out.dim() == 4 else out
    assert_same(found, wanted)


@pytest.mark.parametrize("name", ["softmax over space", "matmul", "bicubic", "roll"])
def test_strict_refuses_and_names_the_module(name):
    net, _, grids = prepared(DENSE[name][0], strict=True)
    grids.append(torch.ones(1, 3, 4, dtype=torch.bool))
    with pytest.raises(DensifiedError, match="'layer'.*strict=False"):
        net(torch.randn(1, 3, *SIZE))
    assert bc.handle(net).states.ids() == []


def test_pooling_module_with_indices_is_strict_too():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(2, return_indices=True)).eval()
    frame = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        wanted = net(frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy="all"))
    for a, b in zip(net(frame), wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert bc.report(net).dense_ops[0].path == "1"
    bc.restore_(net)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=8, policy="all", strict=True))
    with pytest.raises(DensifiedError, match="max_pool2d.* in module '1'"):
        net(frame)


def write_channel(x, m):
    x = x * 1.0
    x[:, 0].add_(1)
    x[:, 1] = 7.0
    return x


def write_region(x, m):
    x = x * 1.0
    x[:, :, :5] = 0
    x[:, :, 3:9, 2:20] += 1
    return x


def write_flat(x, m):
    x = x * 1.0
    x.view(x.size(0), -1)[:, 5:100] = 2.0
    return x


def write_mask(x, m):
    mask = torch.zeros_like(x)
    mask[:, :, 3:9, 2:20] = 1
    return x * mask


def write_through_slice(x, m):
    x = x * 1.0
    x[:, :4][:, :, 4:10].zero_()
    return x


def view_sees_later_write(x, m):
    x = x * 1.0
    view = x[:, :, 3:9]
    x.add_(1)
    return view


def two_views(x, m):
    x = x * 1.0
    first, second = x[:, 0], x[:, 1]
    second.mul_(3)
    first.sub_(1)
    x.add_(1)
    second.add_(2)
    return x, first, second


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        write_channel,
        write_region,
        write_flat,
        write_mask,
        write_through_slice,
        view_sees_later_write,
        two_views,
    ],
)
def test_writes_to_views_reach_the_map(function, pack, mode):
    """``x[:, 0] = 7`` writes to ``x``, although the view was made of a densified copy."""
    net, dense, grids = prepared(function, pack_whole_frames=pack)
    frame = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        wanted = dense(frame)
    with mode():
        for rate in (2.0, 0.5, 0.1, 0.0, 0.5):
            grids.append(torch.rand(2, 3, 4) < rate)
            assert_same(net(frame), wanted)


INPLACE = {
    "relu_": lambda x, m: F.relu_(x),
    "relu inplace": lambda x, m: F.relu(x, inplace=True),
    "leaky_relu_": lambda x, m: F.leaky_relu_(x, 0.2),
    "silu": lambda x, m: F.silu(x, inplace=True),
    "mish": lambda x, m: F.mish(x, inplace=True),
    "hardswish": lambda x, m: F.hardswish(x, inplace=True),
    "clamp_": lambda x, m: x.clamp_(-0.5, 0.5),
    "add_ map": lambda x, m: x.add_(x.sigmoid()),
    "add_ dense": lambda x, m: x.add_(torch.ones(1, 8, *SIZE)),
    "+=": lambda x, m: x.__iadd__(1.0),
    "mul_ per channel": lambda x, m: x.mul_(torch.arange(8.0).view(8, 1, 1)),
    "copy_": lambda x, m: x.copy_(x.flip(2)),
    "zero_": lambda x, m: x.zero_() + 1,
    "after a convolution has read it": lambda x, m: x + F.conv2d(x, torch.ones(8, 8, 3, 3)).mean(),
    "dense += map": lambda x, m: torch.ones(2, 8, *SIZE).add_(x),
}


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_ops(name):
    net, dense, grids = prepared(INPLACE[name], pack_whole_frames=True)
    frame = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        wanted = dense(frame)
    for rate in (2.0, 0.5, 0.0, 0.5):
        grids.append(torch.rand(2, 3, 4) < rate)
        assert_same(net(frame), wanted)


POINTWISE = {
    "gelu": lambda x, m: F.gelu(x),
    "squeeze": lambda x, m: (x.squeeze(0) + 1).squeeze(1).squeeze(-1),
    "rrelu": lambda x, m: F.rrelu(x),
    "image slice": lambda x, m: x[:2, :, :20] + 1,
    "logsigmoid": lambda x, m: F.logsigmoid(x),
    "where": lambda x, m: torch.where(x > 0, x, -x),
    "masked_fill": lambda x, m: x.masked_fill(x < 0, 2.0),
    "addcmul": lambda x, m: torch.addcmul(x, x, x, value=2.0),
    "prelu": lambda x, m: F.prelu(x, torch.tensor([0.1])),
    "frexp": lambda x, m: torch.frexp(x)[0],
    "bfloat16 and back": lambda x, m: x.bfloat16().float(),
    "chunk and cat": lambda x, m: torch.cat(x.chunk(2, 1)[::-1], 1),
    "detach": lambda x, m: x.detach() * 2,
    "deepcopy": lambda x, m: copy.deepcopy(x) + 1,
    "per image": lambda x, m: x * torch.arange(1.0, 3).view(2, 1, 1, 1),
    "nan_to_num": lambda x, m: torch.nan_to_num(x / 0.0, posinf=1.0, neginf=-1.0, nan=0.0),
    "one channel times all": lambda x, m: x * x[:, :1],
    "1 - x": lambda x, m: 1 - x,
    "dropout in eval mode": lambda x, m: F.dropout(x, 0.5, training=False),
}


# They leave pixels where they are, or move them within their block or its halo.
ON_BLOCKS = {
    "softmax over channels": lambda x, m: x.softmax(1),
    "log_softmax": lambda x, m: F.log_softmax(x, 1),
    "permute": lambda x, m: x.permute(0, 2, 3, 1),
    "layer_norm": lambda x, m: F.layer_norm(x.permute(0, 2, 3, 1), (8,)),
    "uneven same padding": lambda x, m: F.conv2d(x, torch.ones(8, 8, 4, 4), padding="same"),
    "conv_transpose2d": lambda x, m: m.down(x),
    "pixel_shuffle": lambda x, m: F.pixel_shuffle(x, 2),
    "glu": lambda x, m: F.glu(x, 1),
    "sort": lambda x, m: x.sort(1)[0],
    "argmax": lambda x, m: x.argmax(1),
    "spatial slices": lambda x, m: x[..., ::2, 1::2],
    "one channel": lambda x, m: x[:, 3],
    "index": lambda x, m: x[:, [1, 0, 3]],
    "row vector": lambda x, m: x * torch.linspace(0, 1, x.shape[3]),
    "wider operand": lambda x, m: x[:, :1] * torch.ones(1, 8, *SIZE),
    "tokens": lambda x, m: F.layer_norm(x.flatten(2).transpose(1, 2), (8,)),
    "tokens and back": lambda x, m: x.flatten(2).mT.reshape(len(x), *SIZE, 8).permute(0, 3, 1, 2),
    "channel shuffle": lambda x, m: x.view(-1, 2, 4, *SIZE).transpose(1, 2).reshape(-1, 8, *SIZE),
    "split attention": lambda x, m: (
        x.view(-1, 2, 4, *SIZE) * x.view(-1, 2, 4, *SIZE).mean((1, 3, 4)).view(-1, 1, 4, 1, 1)
    ).sum(1),
    "linear over channels": lambda x, m: F.linear(x.permute(0, 2, 3, 1), torch.ones(3, 8)),
    "linear over tokens": lambda x, m: F.linear(x.flatten(2).mT, torch.ones(8, 8), torch.ones(8)),
    "normalize": lambda x, m: F.normalize(x, dim=1),
    "largest channel": lambda x, m: torch.cat([x.mean(1, True), x.max(1, True)[0]], 1),
    "stack": lambda x, m: torch.stack([x, 2 * x], 2).flatten(1, 2),
    "reflect": lambda x, m: F.conv2d(F.pad(x, (1, 2, 0, 1), "reflect"), torch.ones(8, 8, 2, 4)),
    "replicate": lambda x, m: F.conv2d(F.pad(x, (0, 3, 2, 1), "replicate"), m.last.weight, None, 2),
    "zeros": lambda x, m: F.conv2d(F.pad(x, (0, 3, 2, 1)), m.last.weight, None, 2, 1),
    "pad with a value, pool": lambda x, m: F.max_pool2d(F.pad(x, (1, 2, 0, 1), value=0.5), 2, 2),
    "negative pad": lambda x, m: F.conv2d(F.pad(x, (-1, 0, 0, -2)), torch.ones(8, 8, 2, 2)),
    "weights of the image": lambda x, m: torch.bmm(
        torch.arange(len(x) * 24.0).view(-1, 3, 8) / 50, x.flatten(2)
    ).view(-1, 3, *SIZE),
    "view of a mean": lambda x, m: F.linear(
        torch.stack([x * 1, x * 2]).mean(0).flatten(2).mT, torch.ones(8, 8)
    ),
    "crop": lambda x, m: x[:, :, :19, :23] * 2,
    "pixel_unshuffle": lambda x, m: F.pixel_unshuffle(F.pad(x[..., :24], (0, 0, 0, 0)), 2),
    "patches of a padded map": lambda x, m: F.conv2d(
        F.unfold(F.pad(x, (1, 2, 0, 0)), 2, stride=2).view(len(x), 32, 10, 14),
        torch.ones(8, 32, 3, 3) / 50,
    ),
    "patches": lambda x, m: F.unfold(x[..., :24], 2, stride=2),
    "patches that overlap": lambda x, m: F.unfold(x, 3, padding=1),
    "patches far apart": lambda x, m: F.unfold(x, (3, 5), dilation=(9, 2), padding=(9, 4)),
    "patches with a stride": lambda x, m: F.unfold(x, 5, padding=2, stride=2),
    "unpadded patches": lambda x, m: F.unfold(x, 3),
    "patches of a reflected map": lambda x, m: F.unfold(F.pad(x, (1, 1, 1, 1), "reflect"), 3),
    "filters of pixels": lambda x, m: (
        F.unfold(x, 3, padding=1).view(len(x), 8, 9, *SIZE)
        * F.conv2d(x, torch.linspace(-1, 1, 648).view(9, 8, 3, 3), None, 1, 1).softmax(1)[:, None]
    ).sum(2),
    "dilated deconvolution": lambda x, m: F.conv_transpose2d(
        x, torch.arange(128.0).view(8, 4, 2, 2) / 99, None, 2, dilation=2
    ),
    "deconvolution with few taps": lambda x, m: F.conv_transpose2d(
        x, torch.arange(32.0).view(8, 4, 1, 1) / 99, torch.ones(4), 3, 1
    ),
    "deconvolution with more": lambda x, m: F.conv_transpose2d(
        x, torch.ones(8, 4, 3, 3), None, 2, 1, output_padding=1
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("name", ON_BLOCKS)
def test_on_blocks(name, pack, mode):
    net, dense, grids = prepared(ON_BLOCKS[name], pack_whole_frames=pack)
    reference = MaskedReference(dense, 8)
    shape = (2, 3, 4)
    still, *others = torch.randn(4, 2, 3, *SIZE).unbind(0)
    with torch.no_grad():
        wanted = dense(still)
    rates, frames = (2.0, 0.5, 0.0, 0.3, 0.0, 0.6), (still, still, still, *others)
    for rate, frame in zip(rates, frames, strict=True):
        grid = torch.rand(shape) < rate
        grids.append(grid)
        with mode():
            found = net(frame)
        assert_same(found, reference(grid, frame))  # Law 3
        if frame is still:
            assert_same(found, wanted)  # Laws 1 and 2
    dense_ops = bc.report(net).dense_ops
    assert all("mean" in op.op for op in dense_ops), dense_ops  # the split attention's


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("what", ["read", "write to the view", "write to the map", "both"])
def test_a_copy_that_stands_for_a_view_follows_writes(what, pack, mode):
    """Of one image, torch folds transposed pixels into rows as a view; blocks have none such."""

    def function(x, m):
        mean = torch.stack([x, x * 3]).mean(0)
        other = mean[:, :4]
        rows = mean.flatten(2).mT.view(-1, 8)
        if what in ("write to the view", "both"):
            rows[:, :5].mul_(2)
        if what in ("write to the map", "both"):
            other.add_(1)
            m.last(mean)  # may have kept the map
            mean.mul_(2)
        if what == "both":
            rows.relu_()
        return m.last(mean), rows + 1, other * 1.0

    net, dense, grids = prepared(function, pack_whole_frames=pack)
    frame = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        wanted = dense(frame)
    with mode():
        for rate in (2.0, 0.5, 0.0):
            grids.append(torch.rand(1, 3, 4) < rate)
            assert_same(net(frame), wanted)


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_ops_stay_on_blocks(name):
    net, dense, grids = prepared(POINTWISE[name], pack_whole_frames=True)
    frame = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        wanted = dense(frame)
    # Of two sums that differ in their last bit, one may be rounded to the next bfloat16.
    tolerance = 2.0**-8 if "bfloat16" in name else 1e-4
    for rate in (2.0, 0.5, 0.0):
        grids.append(torch.rand(2, 3, 4) < rate)
        assert_same(net(frame), wanted, tolerance)
    if name != "logsigmoid":
        assert bc.report(net).dense_ops == ()


@pytest.mark.parametrize("pack", [True, False])
def test_behind_a_layer_that_needs_the_whole_map_blocks_go_on(pack):
    layer = nn.Conv2d(8, 8, 3, 1, 1, padding_mode="circular")
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), layer, nn.Conv2d(8, 8, 3, 1, 1)).eval()
    reference, grids = MaskedReference(copy.deepcopy(net), 8), []
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids[-1], pack_whole_frames=pack)
    bc.blockcopy_(net, config)
    for rate in (2.0, 0.5, 0.3):
        grids.append(torch.rand(2, 3, 4) < rate)
        frame = torch.randn(2, 3, *SIZE)
        assert_same(net(frame), reference(grids[-1], frame))
    report = bc.report(net)
    (op,) = report.dense_ops
    assert (op.path, op.op, op.reason) == ("1", "Conv2d", "circular padding")
    last = report.modules["2"]
    assert last.dense == SIZE[0] * SIZE[1] * 9 * 8 * 8 and last.densified == last.outside == 0
