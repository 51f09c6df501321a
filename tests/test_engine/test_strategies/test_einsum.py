"""Attention by ``torch.einsum``, which puts the one image of a batch behind other dimensions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from tests.test_engine.random_grids import run_on_random_grids

CHANNELS, HEADS, BLOCK = 8, 2, 16


class Partitioned(nn.Module):
    """Attention within windows, or among the pixels at one place of all windows, as in MaxViT.

    Args:
        side: Of a window, in pixels of stride 4.
        across: Among the pixels at one place of all windows.
    """

    def __init__(self, side: int, across: bool) -> None:
        super().__init__()
        self.side, self.across = side, across
        self.stem, self.qkv = nn.Conv2d(3, CHANNELS, 4, 4), nn.Linear(CHANNELS, 3 * CHANNELS)
        self.head = nn.Conv2d(CHANNELS, 4, 3, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        side, rows, columns = self.side, h // self.side, w // self.side
        x = x.reshape(n, c, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(n, rows * columns, side * side, c)
        x = x.transpose(-2, -3) if self.across else x
        parts, pixels = x.shape[1:3]
        q, k, v = (
            part.reshape(n, parts, pixels, HEADS, c // HEADS).permute(0, 1, 3, 2, 4)
            for part in self.qkv(x).chunk(3, -1)
        )
        scores = torch.einsum("B G H I D, B G H J D -> B G H I J", q, k).softmax(-1)
        out = torch.einsum("B G H I J, B G H J D -> B G H I D", scores, v)
        x = x + out.permute(0, 1, 3, 2, 4).reshape(n, parts, pixels, c)
        x = x.transpose(-2, -3) if self.across else x
        x = x.reshape(n, rows, columns, side, side, c).permute(0, 5, 1, 3, 2, 4)
        return self.head(x.reshape(n, c, h, w))


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(
    ("size", "side", "images", "pack", "mode"),
    [
        ((56, 84), 7, 1, True, torch.no_grad),
        ((56, 84), 7, 2, False, torch.no_grad),
        ((64, 96), 4, 1, False, torch.inference_mode),
        ((64, 96), 4, 1, True, torch.no_grad),
        ((28, 28), 7, 1, True, torch.no_grad),  # one window
    ],
)
def test_any_grid_is_the_masked_reference(size, side, images, pack, mode, across):
    torch.manual_seed(0)
    net = Partitioned(side, across).eval()
    found, wanted, dense = run_on_random_grids(
        net, images, size, BLOCK, pack=pack, mode=mode, strict=True
    )
    torch.testing.assert_close(found[0], dense, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert bc.report(net).dense_ops == ()


def test_a_view_of_one_image_shows_what_is_written_to_it():
    class Writes(nn.Conv2d):
        def forward(self, x):
            x = super().forward(x)
            view = x.permute(1, 0, 2, 3).view(2, CHANNELS // 2, *x.shape[2:])
            view[0].mul_(2.0)
            x.add_(1.0)
            return view + 0, x * 1

    torch.manual_seed(0)
    net, frame = Writes(3, CHANNELS, 4, 4).eval(), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        wanted = net(frame)
        bc.blockcopy_(net, bc.BlockCopyConfig(block_size=BLOCK, policy="all"))
        for one, other in zip(net(frame), wanted, strict=True):
            torch.testing.assert_close(one, other)
