"""Window attention whose windows no block holds: shifted, padded, of 7 px in blocks of 8."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import StateError
from tests.test_engine.random_grids import run_on_random_grids

BLOCK, CHANNELS = 32, 8


def part(x, side):
    """``(N, H, W, C)`` as ``(windows, side, side, C)``."""
    n, h, w, c = x.shape
    x = x.view(n, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side, side, c)


def join(x, n, h, w):
    """The inverse of :func:`part`."""
    side = x.shape[1]
    x = x.view(n, h // side, w // side, side, side, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(n, h, w, -1)


def masks(h, w, side, shift):
    """Swin's: what comes from opposite edges of the picture does not look at each other."""
    regions = torch.zeros(1, h, w, 1)
    parts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for i, rows in enumerate(parts):
        for j, columns in enumerate(parts):
            regions[:, rows, columns] = 3 * i + j
    regions = part(regions, side).flatten(1)
    apart = regions[:, None] != regions[:, :, None]
    return torch.zeros(apart.shape).masked_fill(apart, -100.0)


class WindowBlock(nn.Module):
    """A block of a Swin transformer, with what implementations do differently."""

    def __init__(self, side: int, shift: int, how: str) -> None:
        super().__init__()
        self.side, self.shift, self.how = side, shift, how
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.qkv, self.proj = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 16), nn.GELU(), nn.Linear(16, CHANNELS))
        self.table = nn.Parameter(torch.randn(2, side * side, side * side))

    def attend(self, windows, mask):
        n, pixels, c = windows.shape
        qkv = self.qkv(windows).reshape(n, pixels, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.how == "fused":  # As timm has it.
            bias = self.table[None]
            if mask is not None:
                many = mask.view(1, len(mask), 1, pixels, pixels)
                many = many.expand(n // len(mask), -1, 2, -1, -1)
                bias = bias + many.reshape(-1, 2, pixels, pixels)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = q @ k.transpose(-2, -1) + self.table[None]
            if mask is not None:
                scores = scores.view(n // len(mask), len(mask), 2, pixels, pixels)
                scores = (scores + mask[None, :, None]).view(n, 2, pixels, pixels)
            out = scores.softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(n, pixels, c))

    def mix(self, x):
        """``(N, H, W, C)`` to the same, by windows."""
        n, h, w, c = x.shape
        side, shift = self.side, self.shift
        below, right = -h % side, -w % side
        size = (h + below, w + right)
        first = self.how == "rolled first"  # As in SwinV2 of timm, which pads by nothing, too.
        if shift and first:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        x = F.pad(x, (0, 0, 0, right, 0, below))
        if shift and not first:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        windows = part(x, side).view(-1, side * side, c)
        if self.how == "dense inside":  # An op that nobody knows to run on blocks.
            windows = torch.flip(windows, (1,))
        windows = self.attend(windows, masks(*size, side, shift) if shift else None)
        x = join(windows.view(-1, side, side, c), n, *size)
        if first:
            x = x[:, :h, :w, :].contiguous()
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :h, :w, :].contiguous() if (below or right) and not first else x

    def forward(self, x):
        mixed = self.mix(self.norms[0](x))
        if self.how == "no shortcut":
            return self.mlp(self.norms[1](mixed))
        x = x + mixed
        return x + self.mlp(self.norms[1](x))


class Windowed(nn.Module):
    """Blocks of windows between two convolutions; the pixels are of stride 4."""

    def __init__(self, side: int, how: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 4, 4)
        self.blocks = nn.ModuleList(WindowBlock(side, s, how) for s in (0, side // 2, 0))
        self.head = nn.Conv2d(CHANNELS, 4, 3, 1, 1)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.permute(0, 3, 1, 2))


def run(net, images, size, **options):
    """Outputs, and those of the masked reference and of the dense network, of random grids."""
    return run_on_random_grids(net, images, size, BLOCK, **options)


HOWS = ["plain", "fused", "no shortcut", "rolled first"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("size", "side", "images", "pack", "mode"),
    [
        ((56, 84), 7, 2, True, torch.no_grad),  # whole windows
        ((100, 52), 7, 1, False, torch.inference_mode),  # padded, within the last blocks
        ((64, 52), 7, 2, True, torch.inference_mode),  # padded, beyond them
        ((60, 50), 5, 2, False, torch.no_grad),
    ],
)
def test_windows_that_meet_executed_blocks_run(size, side, images, how, pack, mode):
    net = Windowed(side, how).eval()
    found, wanted, dense = run(net, images, size, pack=pack, mode=mode, strict=True)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], found[1])
    assert bc.report(net).dense_ops == ()


@pytest.mark.parametrize("pack", [True, False])
def test_an_op_that_runs_on_whole_maps_between_windows(pack):
    net = Windowed(7, "dense inside").eval()
    found, wanted, dense = run(net, 2, (100, 52), pack=pack)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], found[1])
    assert {op.op for op in bc.report(net).dense_ops} >= {"aten.flip.default"}


class GatedWindows(nn.Module):
    """Windows with a gate from the whole picture, and something that is read of all of them."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, CHANNELS, 4, 4), nn.Conv2d(CHANNELS, 4, 3, 1, 1)
        self.mix = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        n, h, w, _ = x.shape
        windows = part(x, 7)
        gate = self.mix(x.mean((1, 2))).sigmoid().view(n, 1, 1, -1)
        apart = windows.flip(1)  # dense, of these windows alone
        windows = self.mix(windows + apart) * gate
        windows = windows + windows.mean((0, 1, 2), True)
        return self.head(join(windows, n, h, w).permute(0, 3, 1, 2))


def test_what_windows_take_from_the_whole_picture_is_new_in_all_of_them():
    net = GatedWindows().eval()
    found, wanted, dense = run(net, 1, (84, 112), count=10)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    dense_ops = {op.op: op.reason for op in bc.report(net).dense_ops}
    assert "cut in different ways" in dense_ops["aten.mul.Tensor"]
    assert "aten.add.Tensor" not in dense_ops  # of what flip gave: no window would change


def test_a_window_that_meets_no_executed_block_costs_nothing():
    """Blocks of 8 px, windows of 7: of 4x4 blocks one in the corner meets 2x2 of 5x5 windows."""
    net = Windowed(7, "plain")
    net.blocks = net.blocks[:1]
    net.eval()
    grids = [torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)]
    grids[1][0, 0, 0] = True
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(1, 3, 128, 128))
    attention = dict(bc.report(net).modules)["blocks.0.qkv"]
    assert attention.executed == attention.dense * (25 + 4) / 50


def test_programs_run_any_number_of_windows():
    net = Windowed(7, "plain").eval()
    grids = [torch.ones(1, 4, 4, dtype=torch.bool)] + [torch.rand(1, 4, 4) < 0.4 for _ in range(9)]
    frames = [torch.randn(1, 3, 112, 112) for _ in grids]
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    with torch.no_grad():
        for frame, want in zip(frames, wanted, strict=True):
            torch.testing.assert_close(net(frame), want, rtol=1e-4, atol=1e-5)
    assert bc.report(net).programs.replayed > 0


class WritesToAView(nn.Module):
    """Windows and their map share memory in the dense model."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.reads = reads
        self.stem = nn.Conv2d(3, 4, 4, 4)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1).contiguous()
        windows = x.view(len(x), 5, 7, 5, 7, 4)
        if self.reads == "map":
            windows.add_(1)
            return x * 2
        x.add_(1)
        return windows * 2


@pytest.mark.parametrize("reads", ["map", "windows"])
def test_writes_that_a_copy_would_miss_are_refused(reads):
    net = WritesToAView(reads).eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy="all", pack_whole_frames=True))
    with torch.no_grad(), pytest.raises(StateError, match="out of place"):
        net(torch.randn(1, 3, 140, 140))
