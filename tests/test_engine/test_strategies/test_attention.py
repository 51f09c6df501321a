"""Attention on blocks: queries of executed pixels look at keys and values of the whole kept map."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference

SIZE, BLOCK, CHANNELS = (20, 27), 8, 8


class Attention(nn.Module):
    """One kind of attention over all pixels of a map, between two convolutions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, CHANNELS, 3, 1, 1)
        self.reduce = nn.Conv2d(CHANNELS, CHANNELS, 2, 2)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))
        self.first = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)
        self.second = nn.MultiheadAttention(CHANNELS, 2)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                CHANNELS, 2, 16, activation=act, batch_first=True, norm_first=norm_first
            )
            for act, norm_first in (("gelu", True), ("relu", False))
        )
        self.table = nn.Parameter(torch.randn(1, 2, SIZE[0] * SIZE[1], SIZE[0] * SIZE[1]))
        self.last = nn.Conv2d(CHANNELS, 4, 3, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.last(x + getattr(self, self.kind)(x))

    def heads(self, x, keys=None):
        tokens = x.flatten(2).transpose(1, 2)
        keys = tokens if keys is None else keys.flatten(2).transpose(1, 2)
        parts = (self.q(tokens), self.k(keys), self.v(keys))
        return [part.reshape(len(x), -1, 2, CHANNELS // 2).transpose(1, 2) for part in parts]

    def by_hand(self, x):
        q, k, v = self.heads(x)
        out = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        return out.transpose(1, 2).reshape(len(x), -1, CHANNELS).transpose(1, 2).reshape(x.shape)

    def fused(self, x):
        out = F.scaled_dot_product_attention(*self.heads(x))
        return out.transpose(1, 2).reshape(len(x), -1, CHANNELS).transpose(1, 2).reshape(x.shape)

    def reduced(self, x):
        out = F.scaled_dot_product_attention(*self.heads(x, self.reduce(x)))
        return out.transpose(1, 2).reshape(len(x), -1, CHANNELS).transpose(1, 2).reshape(x.shape)

    def by_table(self, x):
        q, k, v = self.heads(x)
        out = (q @ k.transpose(-2, -1) + self.table).softmax(-1) @ v
        return out.transpose(1, 2).reshape(len(x), -1, CHANNELS).transpose(1, 2).reshape(x.shape)

    def fused_by_table(self, x):
        out = F.scaled_dot_product_attention(*self.heads(x), attn_mask=self.table)
        return out.transpose(1, 2).reshape(len(x), -1, CHANNELS).transpose(1, 2).reshape(x.shape)

    def images_first(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.first(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)

    def layers_of_torch(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)

    def pixels_first(self, x):
        tokens = x.flatten(2).permute(2, 0, 1)
        out = self.second(tokens, tokens, tokens, need_weights=False)[0]
        return out.permute(1, 2, 0).reshape(x.shape)

    def non_local(self, x):
        """As dual attention has it: one map of pixels by pixels for all channels."""
        flat = x.flatten(2)
        energy = torch.bmm(flat.permute(0, 2, 1), flat)
        return torch.bmm(flat, energy.softmax(-1).permute(0, 2, 1)).view(x.shape)


KINDS = """
by_hand fused reduced by_table fused_by_table images_first layers_of_torch pixels_first non_local
""".split()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_of_executed_blocks_keys_of_the_kept_map(kind, images, pack, mode):
    net = Attention(kind).eval()
    shape = (images, -(-SIZE[0] // BLOCK), -(-SIZE[1] // BLOCK))
    grids = [torch.rand(shape) < rate for rate in (2.0, 0.4, 0.0, 0.6)]
    grids[3][-1] = False  # An image of which nothing runs, beside others.
    frames = [torch.randn(images, 3, *SIZE) for _ in grids]
    reference = MaskedReference(net, BLOCK)
    wanted = [reference(grid, frame) for grid, frame in zip(grids, frames, strict=True)]
    with torch.no_grad():
        dense = net(frames[0])
    left = list(grids)
    config = bc.BlockCopyConfig(
        block_size=BLOCK, policy=lambda f, c: left.pop(0), pack_whole_frames=pack, strict=True
    )
    bc.blockcopy_(net, config)
    found = []
    for frame in frames:
        with mode():
            found.append(net(frame))
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], found[1])
    assert bc.report(net).dense_ops == ()


def test_it_is_the_sentence_written_out():
    """Against kept maps of one image that are merged by hand."""
    net = Attention("by_hand").eval()
    grids = [torch.rand(1, 3, 4) < rate for rate in (2.0, 0.5, 0.3)]
    frames = [torch.randn(1, 3, *SIZE) for _ in grids]
    kept: dict[str, torch.Tensor] = {}

    def keep(name, x, grid):
        mask = grid.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
        mask = mask[:, None, : SIZE[0], : SIZE[1]]
        kept[name] = torch.where(mask, x, kept.get(name, x))
        return kept[name]

    wanted = []
    with torch.no_grad():
        for grid, frame in zip(grids, frames, strict=True):
            stem = keep("stem", net.stem(keep("frame", frame, grid)), grid)
            after = keep("after", stem + net.by_hand(stem), grid)
            wanted.append(keep("last", net.last(after), grid))
    left = list(grids)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    for frame, want in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame), want, rtol=1e-4, atol=1e-5)


def test_its_cost_follows_the_executed_rate():
    net, left = Attention("fused").eval(), [torch.ones(1, 3, 4, dtype=torch.bool)]
    left.append(torch.zeros(1, 3, 4, dtype=torch.bool))
    left[1][0, 0, :3] = True
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy=lambda f, c: left.pop(0)))
    executed = []
    for _ in range(2):
        net(torch.randn(1, 3, *SIZE))
        executed.append(bc.handle(net).last.counts.by_module()[""])
    pixels = SIZE[0] * SIZE[1]
    # Scores and their product with the values, of each of two heads of 4 channels.
    assert executed[0] == [pixels * pixels * 2 * 8] * 2
    assert executed[1] == [3 * BLOCK * BLOCK * pixels * 2 * 8, pixels * pixels * 2 * 8]


class MatrixOfEachImage(nn.Module):
    """Multiplies the pixels of each image by a matrix of its own, from the left."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)

    def forward(self, x):
        x = self.stem(x)
        matrices = torch.arange(len(x) * 24.0).view(-1, 3, 8) / 50
        return torch.bmm(matrices, x.flatten(2)).view(-1, 3, *x.shape[2:])


def test_matrices_of_images_and_blocks_of_one_pixel():
    torch.manual_seed(0)
    dense = MatrixOfEachImage().eval()
    grids, reference = [], MaskedReference(dense, 8)
    policy = lambda frame, state: grids[-1]  # noqa: E731
    net = bc.blockcopy_(copy.deepcopy(dense), bc.BlockCopyConfig(8, policy))
    for rate in (2.0, 0.5, 0.3, 0.6, 0.4, 0.2, 2.0, 0.5):
        frame = torch.randn(2, 3, 24, 40)
        grids.append(torch.rand(2, 3, 5) < rate)
        with torch.no_grad():
            found = net(frame)
        torch.testing.assert_close(found, reference(grids[-1], frame), atol=1e-5, rtol=1e-5)
    assert not bc.report(net).dense_ops
