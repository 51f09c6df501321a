"""Vision transformers: tokens of a map with class tokens, registers and queries beside them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from tests.test_engine.random_grids import run_on_random_grids

BLOCK, PATCH, CHANNELS, HEADS = 16, 4, 8, 2


class Layer(nn.Module):
    """A layer of a transformer, its attention written out, fused, or torch's own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.qkv, self.proj = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.own = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(CHANNELS, 16), nn.GELU(), nn.Linear(16, CHANNELS))
        self.scale = nn.Parameter(torch.rand(CHANNELS))

    def attend(self, x):
        n, tokens, c = x.shape
        if self.how == "torch":
            return self.own(x, x, x, need_weights=False)[0]
        qkv = self.qkv(x).reshape(n, tokens, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.how == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(n, tokens, c))

    def forward(self, x):
        x = x + self.attend(self.norms[0](x)) * self.scale
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Patches, two layers, and maps for a convolutional head."""

    def __init__(self, size, how: str, tokens: str) -> None:
        super().__init__()
        self.tokens = tokens
        self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        count = (size[0] // PATCH) * (size[1] // PATCH)
        self.first, self.more, self.queries = (
            nn.Parameter(torch.randn(1, n, CHANNELS)) for n in (1, 3, 5)
        )
        self.places = nn.Parameter(torch.randn(1, count + 1, CHANNELS))
        self.layers = nn.ModuleList(Layer(how) for _ in range(2))
        self.norm = nn.LayerNorm(CHANNELS)
        self.readout = nn.Linear(2 * CHANNELS, CHANNELS)
        self.head = nn.Conv2d(CHANNELS, 4, 3, 1, 1)

    def forward(self, x):
        x = self.patches(x)
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(n, -1, -1), x], 1) + self.places
        if self.tokens == "registers":  # As DINOv2 has them.
            x = torch.cat([x[:, :1], self.more.expand(n, -1, -1), x[:, 1:]], 1)
        if self.tokens == "queries":  # As YOLOS has them.
            x = torch.cat([x[:, :1], x[:, 1:], self.queries.expand(n, -1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        before = 4 if self.tokens == "registers" else 1
        first, pixels = x[:, 0], x[:, before : before + h * w]
        read = first.unsqueeze(1).expand_as(pixels)  # As DPT has it.
        pixels = self.readout(torch.cat([pixels, read], -1))
        map_ = pixels.transpose(1, 2).reshape(n, c, h, w)
        return self.head(map_), first, x[:, before + h * w :], x


def run(net, images, size, **options):
    """Outputs, and those of the masked reference and of the dense network, of random grids."""
    return run_on_random_grids(net, images, size, BLOCK, **options)


@pytest.mark.parametrize("tokens", ["class", "registers", "queries"])
@pytest.mark.parametrize(
    ("how", "size", "images", "pack", "mode"),
    [
        ("plain", (48, 64), 2, True, torch.no_grad),
        ("fused", (40, 52), 2, False, torch.inference_mode),
        ("fused", (40, 52), 1, True, torch.no_grad),
        ("torch", (40, 36), 3, True, torch.no_grad),
        ("plain", (40, 36), 1, False, torch.inference_mode),
    ],
)
def test_tokens_of_executed_pixels_run(how, size, images, pack, mode, tokens):
    net = Transformer(size, how, tokens).eval()
    found, wanted, dense = run(net, images, size, pack=pack, mode=mode, strict=True)
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(found[2], found[1], strict=True))
    assert bc.report(net).dense_ops == ()


@pytest.mark.parametrize("images", [1, 2])
def test_programs_run_any_number_of_tokens(images):
    net = Transformer((48, 64), "plain", "class").eval()
    found, wanted, _ = run(net, images, (48, 64), count=12)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert bc.report(net).programs.replayed > 0


def test_its_cost_follows_the_executed_rate():
    """A quarter of the blocks: a quarter of the pixels' tokens, and the class token."""
    net = Transformer((64, 64), "plain", "class").eval()
    grids = [torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)]
    grids[1][:, :2, :2] = True
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(1, 3, 64, 64))
    for part in ("layers.0.mlp.0", "layers.1"):
        macs = dict(bc.report(net).modules)[part]
        assert macs.executed == macs.dense * (257 + 65) / (2 * 257)


def test_what_is_written_to_a_token_is_seen_in_all():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, CHANNELS, PATCH, PATCH)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([torch.ones(len(x), 1, CHANNELS), x], 1)
            x[:, 0] += 2
            x[:, :1].mul_(2)
            return x * 1

    net = Writes().eval()
    frame = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        wanted = net(frame)
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
        torch.testing.assert_close(net(frame), wanted)
    assert torch.equal(wanted[:, 0], torch.full((1, CHANNELS), 6.0))
