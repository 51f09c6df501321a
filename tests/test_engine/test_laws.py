"""The four laws on random networks: chains, residuals, concatenations, resizes, any geometry."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.engine.tensor.block_tensor import BlockTensor

CHANNELS = 4


class Node(nn.Module):
    """One op of a random network: reads map ``i`` (and ``j``), gives a map of CHANNELS channels."""

    def __init__(self, kind: str, i: int, j: int, geometry: tuple) -> None:
        super().__init__()
        self.kind, self.i, self.j = kind, i, j
        self.kernel, self.stride, self.padding, self.dilation, self.flag = geometry
        groups = {"depthwise": CHANNELS, "grouped": 2}.get(kind, 1)
        if kind in ("conv", "depthwise", "grouped"):
            self.conv = nn.Conv2d(
                CHANNELS,
                CHANNELS,
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                groups,
                bias=self.flag,
            )
        if kind == "cat":
            self.mix = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        if kind == "transposed":
            self.conv = nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1)
        if kind == "batch_norm":
            self.norm = nn.BatchNorm2d(CHANNELS)
            nn.init.uniform_(self.norm.running_mean, -1, 1)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)
            nn.init.uniform_(self.norm.bias, -1, 1)
        if kind == "group_norm":
            self.norm = nn.GroupNorm(2, CHANNELS)
        if kind in ("squeeze", "attention"):
            self.mix = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        x, y = maps[self.i % len(maps)], maps[self.j % len(maps)]
        reach = max(k * d for k, d in zip(self.kernel, self.dilation, strict=True))
        if min(x.shape[2:]) <= reach:  # Too small for this node's window.
            return x + 1.0
        pooling_pad = tuple(min(p, k // 2) for p, k in zip(self.padding, self.kernel, strict=True))
        if self.kind in ("conv", "depthwise", "grouped"):
            return self.conv(x)
        if self.kind == "transposed":
            return self.conv(x) if max(x.shape[2:]) < 60 else x.tanh()
        if self.kind == "max_pool":
            return F.max_pool2d(
                x, self.kernel, self.stride, pooling_pad, self.dilation, ceil_mode=self.flag
            )
        if self.kind == "avg_pool":
            return F.avg_pool2d(
                x, self.kernel, self.stride, pooling_pad, self.flag, count_include_pad=False
            )
        if self.kind == "avg_pool_pad":
            return F.avg_pool2d(x, self.kernel, self.stride, pooling_pad, self.flag)
        if self.kind in ("batch_norm", "group_norm"):
            return F.relu(self.norm(x), inplace=True)
        if self.kind == "squeeze":
            return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()
        if self.kind == "accumulate":  # needs the whole map; what follows does not
            return x.cumsum(2 + self.flag) * 0.1
        if self.kind == "attention":
            q, k = (y.flatten(2) for y in (x, self.mix(x)))
            scores = (q.transpose(1, 2) @ k * 0.3).softmax(-1)
            return (k @ scores.transpose(1, 2)).view(x.shape)
        if self.kind == "shuffle":
            y = x.reshape(len(x) * CHANNELS // 2, 2, -1).permute(1, 0, 2)
            y = y.reshape(2, -1, CHANNELS // 2, *x.shape[2:])
            return torch.cat([y[0], y[1].tanh()], 1)
        if self.kind == "windows":
            rows, columns = (n // 2 for n in x.shape[2:])
            y = torch.roll(x, 1, 3) if self.flag else x
            y = y[:, :, : rows * 2, : columns * 2].reshape(-1, CHANNELS, rows, 2, columns, 2)
            return (y - y.mean((3, 5), keepdim=True)).amax((3, 5))
        if self.kind in ("double", "half"):
            factor = 2.0 if self.kind == "double" and max(x.shape[2:]) < 60 else 0.5
            return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=self.flag)
        if x.shape[2:] != y.shape[2:]:
            mode = dict(mode="bilinear", align_corners=False) if self.flag else dict(mode="nearest")
            y = F.interpolate(y, size=x.shape[2:], **mode)
        if self.kind == "cat":
            return self.mix(torch.cat([x, y], 1))
        if self.kind == "slice":
            return torch.cat([x[:, :1], y[:, 1:3], x[:, 3:]], 1)
        return F.relu_(x + y)


class RandomNet(nn.Module):
    def __init__(self, nodes: list[tuple]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.nodes = nn.ModuleList(Node(*node) for node in nodes)

    def forward(self, x):
        maps = [self.stem(x)]
        for node in self.nodes:
            maps.append(node(maps))
        return maps[-1], maps[len(maps) // 2]


KINDS = (
    "conv conv conv conv depthwise grouped max_pool avg_pool avg_pool_pad batch_norm group_norm "
    "squeeze double half transposed add add cat slice accumulate attention shuffle windows"
).split()


@st.composite
def geometries(draw):
    def pair(values):
        if draw(st.integers(0, 3)):
            return (draw(st.sampled_from(values)),) * 2
        return draw(st.sampled_from(values)), draw(st.sampled_from(values))

    return (
        pair((1, 2, 3, 5)),
        pair((1, 1, 1, 2)),
        pair((0, 1, 1, 2, 6)),
        pair((1, 1, 2, 6)),
        draw(st.booleans()),
    )


nets = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), geometries()),
    min_size=2,
    max_size=7,
)
sizes = st.tuples(st.integers(9, 45), st.integers(9, 45))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    scale = max(b.abs().max().item(), 1e-3)
    error = (a - b).abs().max().item()
    assert error <= tolerance * scale, f"error {error} of {scale}"


def check_laws(nodes, size, block, seed, pack_whole, inference, rates) -> None:
    torch.manual_seed(seed)
    net = RandomNet(nodes).eval()
    images = 2
    shape = (images, -(-size[0] // block), -(-size[1] // block))
    frames = [torch.randn(images, 3, *size) for _ in rates]
    grids = [torch.rand(shape) < rate for rate in rates]
    grids[0][:] = True

    reference = MaskedReference(net, block)
    expected = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = [net(frame) for frame in frames]

    answers: list[torch.Tensor] = []
    config = bc.BlockCopyConfig(
        block_size=block, policy=lambda f, c: answers.pop(), pack_whole_frames=pack_whole
    )
    bc.blockcopy_(net, config)

    def run(grid, frame):
        answers.append(grid)
        with torch.inference_mode() if inference else torch.no_grad():
            return net(frame)

    for grid, frame, masked, full in zip(grids, frames, expected, dense, strict=True):
        outputs = run(grid, frame)
        for found, wanted in zip(outputs, masked, strict=True):
            close(found, wanted)  # Law 3
        if grid.all():
            for found, wanted in zip(outputs, full, strict=True):
                close(found, wanted)  # Law 1
    before = run(torch.ones(shape, dtype=torch.bool), frames[0])
    still = run(torch.rand(shape) < 0.5, frames[0])
    for found, wanted in zip(still, before, strict=True):
        close(found, wanted)  # Law 2
    nothing = run(torch.zeros(shape, dtype=torch.bool), frames[-1])
    for found, wanted in zip(nothing, still, strict=True):
        assert torch.equal(found, wanted)  # Law 2, bit for bit


case = dict(
    nodes=nets,
    size=sizes,
    block=st.sampled_from((4, 8, 12, 16, 64)),
    seed=st.integers(0, 99),
    pack_whole=st.booleans(),
    inference=st.booleans(),
    rates=st.lists(st.sampled_from((0.0, 0.1, 0.5, 0.9, 2.0)), min_size=2, max_size=4),
)


@given(**case)
@settings(max_examples=60)
def test_random_networks(**drawn):
    check_laws(**drawn)


@pytest.mark.weekly
@given(**case)
@settings(max_examples=2000)
def test_random_networks_thoroughly(**drawn):
    check_laws(**drawn)


class SmallFPN(nn.Module):
    """Stem, stages and a top-down path, as detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stage1 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.skip2 = nn.Conv2d(8, 16, 1, 2)
        self.wide = nn.Conv2d(16, 16, 3, 1, 12, 12)
        self.lateral1 = nn.Conv2d(8, 8, 1)
        self.lateral2 = nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(8, 5, 3, 1, 1)

    def forward(self, x):
        x = self.pool(self.stem(x))
        first = F.relu(self.stage1(x) + x, inplace=True)
        second = F.relu(self.stage2(first) + self.skip2(first), inplace=True)
        top = self.lateral2(self.wide(second))
        low = self.lateral1(first) + F.interpolate(top, size=first.shape[2:], mode="nearest")
        logits = F.interpolate(
            self.head(low), size=(x.shape[2] * 4, x.shape[3] * 4), mode="bilinear"
        )
        return {"levels": [self.head(low), self.head(top)], "logits": logits}


@pytest.fixture()
def fpn():
    net = SmallFPN().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


def flat(outputs):
    return [*outputs["levels"], outputs["logits"]]


@pytest.mark.parametrize("size", [(128, 192), (100, 130), (97, 131), (20, 30)])
@pytest.mark.parametrize("pack", [False, True])
def test_all_executed_is_dense(fpn, size, pack):
    frames = [torch.randn(2, 3, *size) for _ in range(2)]
    with torch.no_grad():
        dense = [flat(fpn(frame)) for frame in frames]
    bc.blockcopy_(
        fpn, bc.BlockCopyConfig(block_size=32, policy="all", pack_whole_frames=pack, strict=True)
    )
    for frame, wanted in zip(frames, dense, strict=True):
        for found, expected in zip(flat(fpn(frame)), wanted, strict=True):
            close(found, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grids_are_the_masked_reference(fpn, mode):
    reference = MaskedReference(fpn, 32)
    grids = [torch.rand(2, 4, 5) < rate for rate in (2.0, 0.5, 0.2, 0.0, 0.7, 0.1)]
    frames = [torch.randn(2, 3, 97, 131) for _ in grids]
    expected = [flat(reference(g, f)) for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy=lambda f, c: left.pop(0)))
    for frame, wanted in zip(frames, expected, strict=True):
        with mode():
            outputs = flat(fpn(frame))
        for found, want in zip(outputs, wanted, strict=True):
            assert not found.requires_grad
            close(found, want)


def test_modes_may_change_between_frames(fpn):
    """State made in inference mode is written in grad mode and the other way round."""
    modes = [torch.inference_mode, torch.enable_grad, torch.no_grad] * 2
    frames = [torch.randn(1, 3, 64, 96) for _ in modes]
    grids = [torch.rand(1, 2, 3) < 0.5 for _ in modes]
    grids[0][:] = True
    reference = MaskedReference(fpn, 32)
    expected = [flat(reference(g, f)) for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy=lambda f, c: left.pop(0)))
    for mode, frame, wanted in zip(modes, frames, expected, strict=True):
        with mode():
            for found, want in zip(flat(fpn(frame)), wanted, strict=True):
                close(found, want)


def test_still_picture_never_changes(fpn):
    frame = torch.randn(1, 3, 97, 131)
    grids = [torch.rand(1, 4, 5) < 0.4 for _ in range(6)]
    left = [torch.ones(1, 4, 5, dtype=torch.bool), *grids]
    bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy=lambda f, c: left.pop(0)))
    first = flat(fpn(frame))
    for _ in grids:
        for found, wanted in zip(flat(fpn(frame)), first, strict=True):
            close(found, wanted)


def test_empty_grid_gives_the_last_outputs_bit_for_bit(fpn):
    bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy="none"))
    first = flat(fpn(torch.randn(2, 3, 97, 131)))
    for _ in range(3):
        again = flat(fpn(torch.randn(2, 3, 97, 131)))
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    assert bc.handle(fpn).last.executed_rate == 0


# In bfloat16 a value has 8 significant bits, so a sum that is taken in another order, or rounded
# once more or less between two fused ops, differs by 2**-8 of its largest term; a few layers in a
# row add up to some of these steps. 5 % of the range is some 13 of them.
DTYPES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 5e-3}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rates", [(2, 2), (2, 0.5, 0.2)])
def test_dtypes(fpn, dtype, rates):
    grids = [torch.rand(1, 2, 3) < rate for rate in rates]
    frames = [torch.randn(1, 3, 60, 90) for _ in grids]
    # The oracle in double precision: what the rounding of both sides is measured against.
    reference = MaskedReference(copy.deepcopy(fpn).double(), 32)
    expected = [flat(reference(g, f.double())) for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    fpn.to(dtype)
    config = bc.BlockCopyConfig(
        block_size=32, policy=lambda f, c: left.pop(0), pack_whole_frames=True
    )
    bc.blockcopy_(fpn, config)
    for frame, wanted in zip(frames, expected, strict=True):
        for found, want in zip(flat(fpn(frame.to(dtype))), wanted, strict=True):
            assert found.dtype == dtype
            close(found.double(), want, max(DTYPES[dtype], 2e-5 if dtype == torch.float32 else 0))


def test_autocast(fpn):
    frames = [torch.randn(1, 3, 60, 90) for _ in range(3)]
    reference = MaskedReference(fpn, 32)
    grids = [torch.rand(1, 2, 3) < rate for rate in (2, 0.5, 0.5)]
    expected = [flat(reference(g, f)) for g, f in zip(grids, frames, strict=True)]
    left = list(grids)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            dense = flat(fpn(frames[0]))
        bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy=lambda f, c: left.pop(0)))
        for i, (frame, wanted) in enumerate(zip(frames, expected, strict=True)):
            for found, want, plain in zip(flat(fpn(frame)), wanted, dense, strict=True):
                assert found.dtype == plain.dtype
                close(found.float(), want, 5e-2)
                if i == 0:
                    close(found.float(), plain.float(), 2e-2)


def test_results_have_the_layout_of_the_frame(fpn):
    frame = torch.randn(2, 3, 64, 96)
    bc.blockcopy_(fpn, bc.BlockCopyConfig(block_size=32, policy="all"))
    for output in flat(fpn(frame)):
        assert output.is_contiguous()
        output.view(2, -1)
    bc.reset_(fpn)
    for output in flat(fpn(frame.contiguous(memory_format=torch.channels_last))):
        assert output.is_contiguous(memory_format=torch.channels_last)


def test_no_normalisation_is_given_nothing():
    """cuDNN's refuses an empty batch, which is what a frame without an executed block has."""

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if any(issubclass(t, BlockTensor) for t in types):
                return NotImplemented
            if "batch_norm" in str(func) and args[0].numel() == 0:
                raise RuntimeError("CUDNN_STATUS_BAD_PARAM")
            return func(*args, **(kwargs or {}))

    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4)).eval()
    grids = [torch.ones(1, 2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.bool)]
    config = bc.BlockCopyConfig(block_size=8, policy=lambda f, c: grids.pop(0), fuse=False)
    net = bc.blockcopy_(net, config)
    first = net(torch.randn(1, 3, 16, 16))
    with Refuse():
        assert torch.equal(net(torch.randn(1, 3, 16, 16)), first)
