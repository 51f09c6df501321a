"""Tokens of several maps joined: linear layers, norms, deformable and full attention, splits."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from tests.test_engine.random_grids import run_on_random_grids

BLOCK, CHANNELS, HEADS, POINTS = 16, 8, 2, 3


class DeformableAttention(nn.Module):
    """Each token reads a few places of each level, as in Deformable DETR."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.value = nn.Linear(CHANNELS, CHANNELS)
        self.offsets = nn.Linear(CHANNELS, HEADS * levels * POINTS * 2)
        self.weights = nn.Linear(CHANNELS, HEADS * levels * POINTS)
        self.out = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x, places, sizes, padded, at):
        n, tokens, _ = x.shape
        value = self.value(x).masked_fill(padded[..., None], 0.0)
        query = x + places
        offsets = self.offsets(query).view(n, tokens, HEADS, self.levels, POINTS, 2)
        weights = self.weights(query).view(n, tokens, HEADS, -1).softmax(-1)
        wide = torch.tensor([[w, h] for h, w in sizes], dtype=x.dtype)
        at = at[:, :, None, :, None] + offsets / wide[None, None, None, :, None]
        return self.out(self.read(value.view(n, tokens, HEADS, -1), at, weights, sizes))

    def read(self, values, at, weights, sizes):
        """Weighted sums of what is read at places, ``(N, L, C)``."""
        n, tokens = at.shape[:2]
        values = values.split([h * w for h, w in sizes], 1)
        read = []
        for level, (h, w) in enumerate(sizes):
            of = values[level].flatten(2).transpose(1, 2).reshape(n * HEADS, -1, h, w)
            points = (2 * at - 1)[:, :, :, level].transpose(1, 2).flatten(0, 1)
            read.append(F.grid_sample(of, points, align_corners=False))
        weights = weights.transpose(1, 2).reshape(n * HEADS, 1, tokens, -1)
        out = (torch.stack(read, -2).flatten(-2) * weights).sum(-1)
        return out.view(n, -1, tokens).transpose(1, 2).contiguous()


class CompiledAttention(DeformableAttention):
    """The same, read by a function that knows no blocks, as mmcv's compiled op on a GPU."""

    def read(self, values, at, weights, sizes):
        if not hasattr(values, "call_whole"):
            return super().read(values, at, weights, sizes)
        given = (values, at, weights, sizes)
        return values.call_whole(super().read, given, "read", "compiled", False, at)


class FullAttention(nn.Module):
    """Each token reads all tokens of all levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)

    def forward(self, x, places, *_):
        query = x + places
        return self.own(query, query, x, need_weights=False)[0]


class Encoder(nn.Module):
    """Maps of several strides, an encoder of their joined tokens, and convolutions after it."""

    def __init__(self, size, strides, attention, parted, registers=0) -> None:
        super().__init__()
        self.parted, self.strides = parted, strides
        self.sizes = [(-(-size[0] // s), -(-size[1] // s)) for s in strides]
        self.stems = nn.ModuleList(nn.Conv2d(3, CHANNELS, 3, s, 1) for s in strides)
        count = sum(h * w for h, w in self.sizes)
        self.places = nn.Parameter(torch.randn(1, count + registers, CHANNELS))
        self.registers = nn.Parameter(torch.randn(1, registers, CHANNELS)) if registers else None
        self.levels = nn.Parameter(torch.randn(len(strides), CHANNELS))
        self.attention = attention(len(strides))
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 16), nn.ReLU(), nn.Linear(16, CHANNELS))
        self.heads = nn.ModuleList(nn.Conv2d(CHANNELS, 4, 3, 1, 1) for _ in strides)

    def parts(self, x, sizes):
        if self.parted == "split":
            return x.split(sizes, 1)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        if self.parted == "narrow":
            return [x.narrow(1, end - size, size) for size, end in zip(sizes, ends, strict=True)]
        # By pixels last, as D-FINE and Mask2Former do.
        return [part.transpose(1, 2) for part in x.permute(0, 2, 1).split(sizes, -1)]

    def forward(self, x):
        maps = [stem(x) for stem in self.stems]
        tokens = [m.flatten(2).transpose(1, 2) + e for m, e in zip(maps, self.levels, strict=True)]
        sizes = [h * w for h, w in self.sizes]
        if self.registers is not None:  # Between the first and the second level.
            tokens.insert(1, self.registers.expand(len(x), -1, -1))
            sizes.insert(1, self.registers.shape[1])
        joined = torch.cat(tokens, 1)
        padded = torch.zeros(joined.shape[:2], dtype=torch.bool)
        padded[:, -1] = True
        at = []
        for h, w in self.sizes:
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            at.append(torch.stack([(columns + 0.5) / w, (rows + 0.5) / h], -1).flatten(0, 1))
        at = torch.cat(at)[None, :, None].repeat(len(x), 1, len(self.sizes), 1)
        given = (self.places, self.sizes, padded, at)
        y = self.norms[0](joined + self.attention(joined, *given))
        y = self.norms[1](y + self.mlp(y))
        parts = self.parts(y, sizes)
        if self.registers is not None:
            parts = [part for i, part in enumerate(parts) if i != 1]
        out = []
        for part, (h, w), head in zip(parts, self.sizes, self.heads, strict=True):
            out.append(head(part.transpose(1, 2).reshape(len(x), CHANNELS, h, w)))
        return (*out, y, y[:, 2:-1])


def drawn(seed: int):
    """An encoder of random levels and a batch of frames for it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    strides = draw.sample([2, 4, 8, 16], draw.choice([2, 3]))
    size = draw.choice([(32, 48), (48, 32), (40, 56), (32, 40)])
    attention = draw.choice([DeformableAttention, DeformableAttention, FullAttention])
    registers = draw.choice([0, 3]) if attention is FullAttention else 0
    parted = draw.choice(["split", "narrow", "last"])
    net = Encoder(size, strides, attention, parted, registers).eval()
    options = dict(pack=draw.random() < 0.5, strict=True)
    options["mode"] = draw.choice([torch.no_grad, torch.inference_mode])
    return net, draw.choice([1, 1, 2, 3]), size, options


def check(net, images, size, **options):
    found, wanted, dense = run_on_random_grids(net, images, size, BLOCK, **options)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_joined_tokens_of_executed_pixels_run(seed):
    net, images, size, options = drawn(seed)
    found = check(net, images, size, **options)
    assert all(torch.equal(a, b) for a, b in zip(found[2], found[1], strict=True))
    assert bc.report(net).dense_ops == ()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 180))
def test_more_joined_tokens(seed):
    net, images, size, options = drawn(seed)
    check(net, images, size, **options)
    assert bc.report(net).dense_ops == ()


@pytest.mark.parametrize(
    ("size", "attention", "images"),
    [
        ((32, 48), DeformableAttention, 1),  # Blocks and tokens grow by the same factor.
        ((40, 56), DeformableAttention, 1),
        ((32, 48), FullAttention, 2),
        ((40, 56), DeformableAttention, 2),
    ],
)
def test_programs_run_any_number_of_joined_tokens(size, attention, images):
    torch.manual_seed(0)
    net = Encoder(size, (4, 8), attention, "split").eval()
    check(net, images, size, count=12)
    programs = bc.report(net).programs
    assert programs.replayed > 0


@pytest.mark.parametrize("images", [1, 2])
def test_the_result_of_a_compiled_op_is_tokens_again(images):
    torch.manual_seed(0)
    net = Encoder((32, 48), (4, 8), CompiledAttention, "split").eval()
    check(net, images, (32, 48))
    assert {found.op for found in bc.report(net).dense_ops} == {"read"}
    macs = dict(bc.report(net).modules)["attention.out"]
    assert macs.executed < macs.dense


class Crossed(nn.Module):
    """Each token reads the pixel of the second level that is in the other half of the picture."""

    def forward(self, x):
        fine, coarse = (F.avg_pool2d(x[:, :2], size, size) for size in (2, 4))
        joined = torch.cat([m.flatten(2).transpose(1, 2) for m in (fine, coarse)], 1)
        left, right = (0.5, 0.0), (-0.5, 0.0)
        other = torch.tensor([left, left, right, right] * 2 + [left, right])[None, :, None]
        places = joined[..., None, :] * 0 + other
        coarse = joined.split([8, 2], 1)[1].transpose(1, 2).view(1, 2, 1, 2)
        read = F.grid_sample(coarse, places, mode="nearest", align_corners=False)
        return 10 * joined + read.flatten(2).transpose(1, 2)


def test_executed_tokens_read_kept_values():
    """By hand: a left and a right block, of one value each."""
    frames = [((1.0, 2.0), (True, True)), ((3.0, 5.0), (True, False)), ((7.0, 9.0), (False, True))]
    # 10 * 1 + 2, and 10 * 2 + 1; left new with right as kept; right new with left as kept.
    wanted = [(12.0, 21.0), (10 * 3 + 2.0, 21.0), (32.0, 10 * 9 + 3.0)]
    grids = [torch.tensor([[grid]]) for _, grid in frames]
    net = Crossed().eval()
    bc.blockcopy_(
        net, bc.BlockCopyConfig(block_size=4, policy=lambda f, c: grids.pop(0), strict=True)
    )
    for (values, _), (left, right) in zip(frames, wanted, strict=True):
        picture = torch.tensor(values).repeat_interleave(4).expand(1, 3, 4, 8)
        found = net(picture.contiguous())
        halves = torch.tensor([left, left, right, right] * 2 + [left, right])
        torch.testing.assert_close(found, halves[None, :, None].expand(1, 10, 2))


class WithDenseLevel(nn.Module):
    """One level is computed by an op that runs on whole maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, CHANNELS, s, s) for s in (4, 8))
        self.linear = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        fine, coarse = (stem(x) for stem in self.stems)
        maps = fine, coarse.cumsum(3)
        joined = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        y = self.linear(joined)
        y.masked_fill_(torch.arange(y.shape[1])[None, :, None] % 3 == 0, 0.5)
        return y, *y.split([m.flatten(2).shape[2] for m in maps], 1)


def test_a_dense_level_is_of_no_pixel():
    torch.manual_seed(0)
    net = WithDenseLevel().eval()
    check(net, 2, (32, 48))
    assert {found.op for found in bc.report(net).dense_ops} == {"aten.cumsum.default"}


def test_its_cost_follows_the_executed_rate():
    """A quarter of the blocks: a quarter of the tokens of each level."""
    net = Encoder((64, 64), (4, 8), DeformableAttention, "split").eval()
    grids = [torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)]
    grids[1][:, :2, :2] = True
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: grids.pop(0)))
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(1, 3, 64, 64))
    for part in ("attention.value", "mlp.0"):
        macs = dict(bc.report(net).modules)[part]
        assert macs.executed == macs.dense * (1 + 0.25) / 2


class Subsets(nn.Module):
    """Tokens of several parts are taken out, and two joins of the same kind are added."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Conv2d(3, CHANNELS, s, s) for s in (4, 8, 16))
        self.queries = nn.Parameter(torch.randn(1, 3, CHANNELS))
        self.linear = nn.Linear(CHANNELS, CHANNELS)
        self.attention = FullAttention(3)

    def forward(self, x):
        maps = [stem(x).flatten(2).transpose(1, 2) for stem in self.stems]
        fine, middle, coarse = (m.shape[1] for m in maps)
        joined = torch.cat([*maps, self.queries.expand(len(x), -1, -1)], 1)
        pixels = self.linear(joined[:, :-3])
        some = self.linear(pixels[:, fine:])
        both = some + torch.cat(maps[1:], 1) * 2
        both = both + self.attention(both, 0.5)
        rest, queries = joined.split([fine, middle + coarse + 3], 1)[1], joined[:, -3:]
        rest = self.linear(rest)
        return pixels, both, rest, queries, *both.split([middle, coarse], 1), joined[:, 1:]


@pytest.mark.parametrize(("images", "pack"), [(1, True), (2, True), (2, False)])
def test_tokens_of_several_parts_are_taken(images, pack):
    torch.manual_seed(0)
    net = Subsets().eval()
    check(net, images, (32, 48), pack=pack, strict=True)
    report = bc.report(net)
    assert report.dense_ops == ()
    assert all(macs.outside == 0 for macs in report.modules.values())
