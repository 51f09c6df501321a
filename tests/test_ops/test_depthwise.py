"""Depthwise convolution of blocks against torch's in float64 on the whole map, cut into blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.ops import conv_blocks, conv_kernels, conv_prepare
from blockcopy_plugins.ops.window import window_table

KERNELS = [*conv_kernels(), "twin"]
CASES = {  # channels, outputs of each, kernel, stride, dilation, padding, input's block in px, size
    "3x3": (16, 1, (3, 3), 1, 1, 1, 8, (24, 40)),
    "7x7 and a tail": (21, 1, (7, 7), 1, 1, 3, 6, (17, 23)),
    "stride 2": (40, 1, (3, 3), 2, 1, 1, 8, (24, 32)),
    "wider than a block": (33, 1, (3, 3), 1, 12, 12, 4, (28, 36)),
    "further apart than rows are kept": (17, 1, (3, 3), 1, 17, 17, 8, (24, 32)),
    "5x3": (2, 1, (5, 3), 1, 2, (4, 2), 8, (19, 25)),
    "5x5": (48, 1, (5, 5), 1, 1, 2, 7, (20, 30)),
    "5x5, stride 2": (19, 1, (5, 5), 2, 1, 2, 16, (30, 40)),
    "blocks of two": (36, 1, (3, 3), 1, 1, 1, 2, (9, 11)),
    "single pixels": (18, 1, (3, 3), 2, 1, 1, 2, (8, 10)),
    "wide blocks": (3, 1, (3, 3), 1, 1, 1, 150, (160, 290)),
    "six outputs of a channel": (7, 6, (3, 3), 1, 1, 1, 8, (17, 24)),
    "two outputs of a channel, stride 2": (33, 2, (3, 3), 2, 1, 1, 12, (24, 30)),
    "forty outputs of a channel": (2, 40, (3, 1), 1, 1, (1, 0), 4, (9, 9)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernels", KERNELS)
def test_against_the_dense_convolution(kernels, case, dtype):
    channels, each, kernel, stride, dilation, padding, block, size = CASES[case]
    outputs = channels * each
    pads = (padding, padding) if isinstance(padding, int) else padding
    grid = (-(-size[0] // block), -(-size[1] // block))
    last = torch.channels_last
    whole = torch.randn(2, channels, *size).to(dtype)
    weight = torch.nn.Parameter(torch.randn(outputs, 1, *kernel).to(dtype))
    bias = torch.randn(outputs).to(dtype)
    norm = [torch.rand(outputs) + 0.5, torch.randn(outputs), None, torch.rand(outputs) + 0.5]
    every = torch.ones(2, *grid).nonzero()
    blocks = every[torch.randperm(len(every))[: len(every) // 2]].to(torch.int32).contiguous()

    # What the executed blocks hold is in `packed` alone.
    source = whole.clone(memory_format=last)
    packed = torch.zeros(len(blocks), channels, block, block, dtype=dtype)
    for i, (slot, gy, gx) in enumerate(blocks.tolist()):
        place = (slot, slice(None), slice(gy * block, (gy + 1) * block))
        place += (slice(gx * block, (gx + 1) * block),)
        packed[i, :, : source[place].shape[1], : source[place].shape[2]] = source[place]
        source[place] = float("nan")

    dense = F.conv2d(
        whole.double(), weight.double(), bias.double(), stride, pads, dilation, groups=channels
    )
    scale = norm[0].double() / (norm[3].double() + 1e-3).sqrt()
    dense = dense * scale.view(-1, 1, 1) + norm[1].double().view(-1, 1, 1)
    out = block // stride
    residual = torch.randn(len(blocks), outputs, out, out).to(dtype)
    tables = [
        window_table(
            blocks=grid[i], block_out=out, size=size[i], kernel=kernel[i], stride=stride,
            padding=pads[i], dilation=dilation,
        )
        for i in (0, 1)
    ]  # fmt: skip
    with torch.no_grad():
        run = conv_blocks.reference if kernels == "twin" else conv_blocks
        prepared = (
            torch.empty(0, dtype=torch.uint8)
            if kernels == "twin"
            else conv_prepare(weight, False, kernels)
        )
        found = run(
            source, packed.contiguous(memory_format=last), blocks, *tables, weight, prepared, bias,
            norm, 1e-3, (stride, stride), (dilation, dilation), (out, out),
            residual.contiguous(memory_format=last), -1.0, 6.0,
            torch.empty(0, dtype=torch.uint8),
        )  # fmt: skip
    # Sums of at most 49 products in float32; bfloat16 rounds the result by half of 2^-8.
    bound = 1e-5 if dtype == torch.float32 else 2.0**-8
    for i, (slot, gy, gx) in enumerate(blocks.tolist()):
        part = dense[slot, :, gy * out : (gy + 1) * out, gx * out : (gx + 1) * out]
        rows, columns = part.shape[1:]
        wanted = (part + residual[i, :, :rows, :columns].double()).clamp(-1.0, 6.0)
        error = (found[i, :, :rows, :columns].double() - wanted).abs()
        assert (error <= bound * wanted.abs().clamp(min=1.0)).all()


def test_one_input_channel_is_an_ordinary_convolution():
    """Its weight looks like a depthwise one's: what the map has decides."""
    x, weight = torch.randn(3, 1, 6, 6), torch.nn.Parameter(torch.randn(5, 1, 3, 3))
    for kernels in conv_kernels():
        with torch.no_grad():
            found = conv_blocks(
                x, None, None, None, None, weight, conv_prepare(weight, False, kernels), None, (),
                0.0, (1, 1), (1, 1), (4, 4), None, -10.0, 10.0, torch.empty(0, dtype=torch.uint8),
            )  # fmt: skip
            wanted = F.conv2d(x, weight).clamp(-10, 10)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
