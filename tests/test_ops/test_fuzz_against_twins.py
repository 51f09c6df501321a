"""Native kernels against their twins: random shapes, memory layouts, strides, dtypes and grids."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins import ops
from blockcopy_plugins.ops.block_moments import block_moments, scale_shift
from blockcopy_plugins.ops.conv_blocks import conv_blocks
from blockcopy_plugins.ops.join_maps import join_maps
from blockcopy_plugins.ops.resize_blocks import resize_blocks
from blockcopy_plugins.ops.rings import ring_pixels
from blockcopy_plugins.ops.roi_align import roi_align
from blockcopy_plugins.ops.window import window_table

pytestmark = pytest.mark.skipif(not ops.conv_kernels(), reason="no native kernels here")

INFINITY = float("inf")
FLOATS = (torch.float32, torch.bfloat16)


class Draw:
    """Random arguments; the same for the same number."""

    def __init__(self, number: int) -> None:
        self.generator = torch.Generator().manual_seed(number)

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.integer(low, high), self.integer(low, high)

    def one_of(self, values):
        return values[self.integer(0, len(values) - 1)]

    def maybe(self, make):
        return make() if self.integer(0, 1) else None

    def values(self, *shape: int, dtype=torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator).to(dtype)

    def map(self, *shape: int, dtype=torch.float32) -> torch.Tensor:
        """In one of the ways in which a map may lie in memory."""
        found = self.values(*shape, dtype=dtype)
        layout = self.integer(0, 4)
        if layout == 0:
            return found
        if layout == 1:
            return found.transpose(2, 3).contiguous().transpose(2, 3)
        if layout == 2:  # a part of a larger one
            wide = self.values(shape[0], shape[1] + 3, shape[2], shape[3] + 2, dtype=dtype)
            wide = wide.contiguous(memory_format=torch.channels_last)
            wide[:, 1 : shape[1] + 1, :, 2:] = found
            return wide[:, 1 : shape[1] + 1, :, 2:]
        return found.contiguous(memory_format=torch.channels_last)

    def lasting(self, *shape: int, dtype=torch.float32) -> torch.Tensor:
        """State, which is channels last."""
        return self.values(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    def blocks(self, slots: int, grid: tuple[int, int]) -> torch.Tensor:
        rate = self.one_of((0.0, 0.2, 0.5, 1.0))
        mask = torch.rand(slots, *grid, generator=self.generator) < rate
        found = mask.nonzero().to(torch.int32)
        return found[torch.randperm(len(found), generator=self.generator)].contiguous()

    def norm(self, channels: int) -> list:
        if self.integer(0, 1):
            return []
        scale, shift = (self.maybe(lambda: self.values(channels)) for _ in range(2))
        return [scale, shift, self.values(channels), self.values(channels).abs() + 0.5]

    def bounds(self) -> tuple[float, float]:
        return self.one_of(((-INFINITY, INFINITY), (0.0, INFINITY), (0.0, 6.0), (-0.5, 0.25)))


def close(found, wanted, dtype=torch.float32):
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    rtol, atol = (1e-3, 2e-3) if dtype == torch.float32 else (3e-2, 0.3)
    torch.testing.assert_close(found.double(), wanted.double(), rtol=rtol, atol=atol)


def geometry(draw):
    slots, channels, grid, block = (
        *(draw.integer(1, 3), draw.integer(1, 40)),
        *(draw.pair(1, 4), draw.pair(1, 9)),
    )
    size = [max(1, grid[i] * block[i] - draw.integer(0, block[i] - 1)) for i in (0, 1)]
    return slots, channels, grid, block, size


def gather(draw):
    slots, channels, grid, block, size = geometry(draw)
    halo, dtype = draw.pair(0, 11), draw.one_of((*FLOATS, torch.float16, torch.float64))
    state, blocks = draw.lasting(slots, channels, *size, dtype=dtype), draw.blocks(slots, grid)
    tables = [
        window_table(
            blocks=grid[i], block_out=block[i], size=size[i], kernel=halo[i] + 1, padding=halo[i]
        )
        for i in (0, 1)
    ]
    fill = draw.one_of((0.0, -INFINITY, 2.5))
    arguments = (state, blocks, *tables, fill)
    assert torch.equal(ops.gather(*arguments), ops.gather_reference(*arguments))


def scatter(draw):
    slots, channels, grid, block, size = geometry(draw)
    dtype = draw.one_of((*FLOATS, torch.float16))
    state, blocks = draw.lasting(slots, channels, *size, dtype=dtype), draw.blocks(slots, grid)
    packed = draw.map(len(blocks), channels, *block, dtype=dtype)
    found, wanted = (state.clone(memory_format=torch.preserve_format) for _ in range(2))
    ops.scatter_.reference(wanted, packed, blocks)
    ops.scatter_(found, packed, blocks)
    assert torch.equal(found, wanted)


def rings(draw):
    slots, channels, grid, block, size = geometry(draw)
    most = (min(block) - 1) // 2
    if not most:
        return
    border, dtype = draw.integer(1, min(4, most)), draw.one_of((*FLOATS, torch.float16))
    shape = slots, channels, grid[0] * grid[1], ring_pixels(block, border)
    state, blocks = draw.lasting(*shape, dtype=dtype), draw.blocks(slots, grid)
    packed = draw.map(len(blocks), channels, *block, dtype=dtype)
    found, wanted = (state.clone(memory_format=torch.preserve_format) for _ in range(2))
    ops.scatter_rings_.reference(wanted, packed, blocks, size, border)
    ops.scatter_rings_(found, packed, blocks, size, border)
    assert torch.equal(found, wanted)
    chosen = torch.randperm(slots, generator=draw.generator)[: draw.integer(1, slots)]
    places = torch.zeros(len(chosen), 3, dtype=torch.int32)
    places[:, 0] = chosen
    map_ = draw.lasting(len(chosen), channels, *size, dtype=dtype)
    ops.copy_rings_.reference(wanted, map_, places, block, border)
    ops.copy_rings_(found, map_, places, block, border)
    assert torch.equal(found, wanted)


def convolution(draw):
    slots, _, grid, block_out, _ = geometry(draw)
    dtype, kernel, stride, dilation = (
        *(draw.one_of(FLOATS), draw.pair(1, 5)),
        *(draw.pair(1, 2), draw.pair(1, 3)),
    )
    winograd = draw.integer(0, 2) == 0
    channels, out = draw.one_of((2, 4, 6, 16, 32)), draw.integer(1, 40)
    depthwise = not winograd and draw.integer(0, 3) == 0
    if winograd:
        kernel, stride, dilation, channels = (3, 3), (1, 1), (1, 1), draw.one_of((16, 32))
    if depthwise:
        out = channels
    block = [block_out[i] * stride[i] for i in (0, 1)]
    size = [max(1, grid[i] * block[i] - draw.integer(0, block[i] - 1)) for i in (0, 1)]
    padding = [draw.integer(0, (kernel[i] - 1) * dilation[i]) for i in (0, 1)]
    source, blocks = draw.map(slots, channels, *size, dtype=dtype), draw.blocks(slots, grid)
    packed = draw.maybe(lambda: draw.map(len(blocks), channels, *block, dtype=dtype))
    tables = [
        window_table(
            blocks=grid[i],
            block_out=block_out[i],
            size=size[i],
            kernel=kernel[i],
            stride=stride[i],
            padding=padding[i],
            dilation=dilation[i],
        )
        for i in (0, 1)
    ]
    weight = draw.values(out, 1 if depthwise else channels, *kernel, dtype=dtype)
    weight = weight / weight[0].numel() ** 0.5
    kernels = draw.one_of([name for name in ops.conv_kernels() if fits(name, dtype)])
    arguments = [
        *(source, packed, blocks, *tables, weight, ops.conv_prepare(weight, winograd, kernels)),
        *(draw.maybe(lambda: draw.values(out, dtype=dtype)), draw.norm(out), 1e-3),
        *(stride, dilation, block_out),
        draw.maybe(lambda: draw.map(len(blocks), out, *block_out, dtype=dtype)),
        *(*draw.bounds(), torch.empty(0, dtype=torch.uint8)),
        draw.maybe(lambda: draw.values(out)),
    ]
    close(ops.conv_blocks(*arguments), conv_blocks.reference(*arguments), dtype)


def fits(kernels, dtype):
    return dtype == torch.bfloat16 or not kernels.endswith("bf16")


def resize(draw):
    slots, channels, grid, block, _ = geometry(draw)
    dtype, size = draw.one_of(FLOATS), draw.pair(1, 20)
    state, blocks = draw.map(slots, channels, *size, dtype=dtype), draw.blocks(slots, grid)
    tables = [
        torch.randint(0, size[i], (grid[i], 2 * block[i]), generator=draw.generator).int()
        for i in (0, 1)
    ]
    weights = [torch.rand(grid[i], block[i], generator=draw.generator) for i in (0, 1)]
    arguments = (state, blocks, *tables, *weights)
    close(ops.resize_blocks(*arguments), resize_blocks.reference(*arguments), dtype)


def join(draw):
    dtype, size, images = draw.one_of(FLOATS), draw.pair(1, 9), draw.integer(1, 3)
    widths = [draw.integer(1, 40) for _ in range(draw.integer(1, 4))]
    channels = sum(widths)
    parts = [draw.map(images, width, *size, dtype=dtype) for width in widths]
    added, residual = (
        draw.maybe(lambda: draw.map(images, channels, *size, dtype=dtype)) for _ in range(2)
    )
    slope = draw.maybe(lambda: draw.values(channels))
    arguments = (parts, added, draw.norm(channels), 1e-3, residual, slope, *draw.bounds())
    close(ops.join_maps(*arguments), join_maps.reference(*arguments), dtype)


def moments(draw):
    slots, _, grid, block, size = geometry(draw)
    groups, dtype = draw.integer(1, 5), draw.one_of((*FLOATS, torch.float16, torch.float64))
    channels = groups * draw.integer(1, 6)
    places = draw.maybe(lambda: draw.blocks(slots, grid))
    shape = (slots, channels, *size) if places is None else (len(places), channels, *block)
    map_ = draw.map(*shape, dtype=dtype)
    arguments = (map_, places, block, grid, size, groups)
    found, wanted = ops.block_moments(*arguments), block_moments.reference(*arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    rows = slots if places is not None else map_.shape[0]
    scale, shift = draw.values(rows, channels), draw.values(rows, channels)
    arguments = (map_, places, scale, shift)
    close(ops.scale_shift(*arguments), scale_shift.reference(*arguments), torch.bfloat16)


def regions(draw):
    images, channels, size = draw.integer(1, 2), draw.integer(1, 20), draw.pair(1, 24)
    dtype, count = draw.one_of(FLOATS), draw.integer(0, 12)
    map_ = draw.map(images, channels, *size, dtype=dtype)
    rois = draw.values(count, 5) * 30
    rois[:, 0] = torch.randint(0, images, (count,), generator=draw.generator)
    rois[:, 3:] = rois[:, 1:3] + (rois[:, 3:] - rois[:, 1:3]) * draw.one_of((0.0, 0.1, 1.0))
    arguments = (
        *(map_, rois, draw.pair(1, 9), draw.one_of((1.0, 0.25, 0.37))),
        *(draw.integer(0, 3), bool(draw.integer(0, 1))),
    )
    close(roi_align(*arguments), roi_align.reference(*arguments), dtype)


CASES = (gather, scatter, rings, convolution, resize, join, moments, regions)
# The convolution has most ways.
SHARES = (*CASES, convolution, convolution, convolution)


def run(numbers):
    for number in numbers:
        draw = Draw(number)
        case = draw.one_of(SHARES)
        try:
            case(draw)
        except Exception as error:
            raise AssertionError(f"case {number}: {case.__name__}: {error}") from error


def test_a_few():
    run(range(120))


@pytest.mark.weekly
@pytest.mark.parametrize("part", range(8))
def test_many(part):
    run(range(1000 + 500 * part, 1500 + 500 * part))
