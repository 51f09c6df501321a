"""conv_blocks against torch's convolution of the whole map in float64, cut into blocks."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins import ops
from blockcopy_plugins.ops.conv_blocks import conv_blocks
from blockcopy_plugins.ops.rings import ring_pixels

INF = float("inf")
KERNELS = ops.conv_kernels()
DTYPES = (torch.float32, torch.bfloat16)

native = pytest.mark.skipif(not KERNELS, reason="no native kernels on this processor")


@dataclass
class Case:
    """One call; pixels that must not be read are NaN."""

    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    channels: int = 4
    channels_out: int = 5
    block_out: tuple[int, int] = (4, 4)
    grid: tuple[int, int] = (2, 3)
    missing: tuple[int, int] = (0, 0)  # rows and columns that the map lacks to whole blocks
    slots: int = 1
    rate: float = 0.5
    packed: bool = True
    local: bool = False
    bias: bool = False
    norm: tuple[bool, ...] | None = None
    norm_dtype: torch.dtype = torch.float32
    residual: bool = False
    bounds: tuple[float, float] = (-INF, INF)
    wider: int = 0  # columns of a window that nothing reads
    rings: bool = False  # of what was executed before, only the rings of blocks are kept
    dtype: torch.dtype = torch.float32
    seed: int = 0
    tensors: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        block = [self.block_out[i] * self.stride[i] for i in (0, 1)]
        size = [max(1, self.grid[i] * block[i] - self.missing[i] % block[i]) for i in (0, 1)]
        reach = [
            (self.block_out[i] - 1) * self.stride[i] + (self.kernel[i] - 1) * self.dilation[i] + 1
            for i in (0, 1)
        ]
        if self.local:
            count = max(1, round(6 * self.rate))
            source = self.random(count, self.channels, reach[0], reach[1] + self.wider)
            blocks = packed = rows = cols = None
        else:
            source = self.random(self.slots, self.channels, *size)
            mask = torch.rand(self.slots, *self.grid) < self.rate
            blocks = mask.nonzero()[torch.randperm(int(mask.sum()))].to(torch.int32)
            count = len(blocks)
            packed = self.random(count, self.channels, *block) if self.packed else None
            rows, cols = (
                table(self.grid[i], block[i], self.padding[i], reach[i] + i * self.wider, size[i])
                for i in (0, 1)
            )
        weight = self.random(self.channels_out, self.channels, *self.kernel)
        norm = []
        if self.norm is not None:
            values = [torch.randn(self.channels_out) for _ in range(3)]
            values.append(torch.rand(self.channels_out) + 0.1)
            kept = zip(values, self.norm, strict=True)
            norm = [v.to(self.norm_dtype) if wanted else None for v, wanted in kept]
        bias = self.random(self.channels_out) if self.bias else None
        shape = (count, self.channels_out, *self.block_out)
        residual = self.random(*shape) if self.residual else None
        self.full = None if self.local else written(source, packed, blocks)
        if packed is not None:
            hide(source, packed, blocks)
        self.source, self.packed_blocks, self.blocks = source, packed, blocks
        self.rows, self.cols, self.weight, self.norm_values = rows, cols, weight, norm
        self.bias_values, self.residual_blocks, self.shape = bias, residual, shape
        self.of_rings = self.keep_rings(block) if self.rings else None

    def keep_rings(self, block) -> list[int] | None:
        """Turn the map into rings that are as wide as windows reach into other blocks."""
        size = list(self.source.shape[2:])
        after = [
            (self.kernel[i] - 1) * self.dilation[i] - self.padding[i] - (self.stride[i] - 1)
            for i in (0, 1)
        ]
        border = max(*self.padding, *after, 1)
        if self.packed_blocks is None or 2 * border >= min(block):
            return None
        map_, shape = self.source, (self.grid[0] * self.grid[1], ring_pixels(block, border))
        self.source = self.random(self.slots, self.channels, *shape)
        everywhere = torch.zeros(self.slots, 3, dtype=torch.int32)
        everywhere[:, 0] = torch.arange(self.slots)
        ops.copy_rings_.reference(self.source, map_, everywhere, block, border)
        return [*size, border]

    def random(self, *shape: int) -> torch.Tensor:
        out = torch.randn(shape).to(self.dtype)
        return out.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else out

    def arguments(self, prepared, workspace=None) -> tuple:
        return (
            self.source,
            self.packed_blocks,
            self.blocks,
            self.rows,
            self.cols,
            self.weight,
            prepared,
            self.bias_values,
            self.norm_values,
            1e-3,
            self.stride,
            self.dilation,
            self.block_out,
            self.residual_blocks,
            *self.bounds,
            no_bytes() if workspace is None else workspace,
        )

    def run(self, kernels: str, winograd: bool = False, workspace=None) -> torch.Tensor:
        prepared = ops.conv_prepare(self.weight, winograd, kernels)
        return ops.conv_blocks(*self.arguments(prepared, workspace), rings=self.of_rings)

    def sums(self, absolute: bool, everywhere: bool = False) -> torch.Tensor:
        """Sums of all blocks, or of the whole map, in float64, of products or absolute values."""
        source, weight = self.source if self.local else self.full, self.weight.double()
        source = source.double()
        if absolute:
            source, weight = source.abs(), weight.abs()
        if self.local:
            out = F.conv2d(source, weight, None, self.stride, 0, self.dilation)
            return out[:, :, : self.block_out[0], : self.block_out[1]]
        # Far enough that all of the last block has its taps: beyond the map all is zero.
        after = [
            (self.grid[i] + 1) * self.block_out[i] * self.stride[i]
            + self.kernel[i] * self.dilation[i]
            for i in (0, 1)
        ]
        pad = (self.padding[1], after[1], self.padding[0], after[0])
        out = F.conv2d(F.pad(source, pad), weight, None, self.stride, 0, self.dilation)
        if everywhere:
            return out
        height, width = self.block_out
        cut = [
            out[s, :, y * height : (y + 1) * height, x * width : (x + 1) * width]
            for s, y, x in self.blocks.tolist()
        ]
        return torch.stack(cut) if cut else out.new_empty(self.shape)

    def finished(self, sums: torch.Tensor, absolute: bool) -> torch.Tensor:
        """Everything behind the sums but the clamp, in float64."""

        def value(tensor, otherwise, absolute=absolute):
            if tensor is None:
                return otherwise
            tensor = tensor.double()
            return (tensor.abs() if absolute else tensor).view(1, -1, 1, 1)

        sums = sums + value(self.bias_values, 0.0)
        if self.norm_values:
            scale, offset, mean, variance = self.norm_values
            factor = value(scale, 1.0) / (value(variance, 1.0) + 1e-3) ** 0.5
            shift = value(mean, 0.0)
            sums = (sums + shift if absolute else sums - shift) * factor + value(offset, 0.0)
        if self.residual_blocks is not None:
            added = self.residual_blocks.double()
            sums = sums + (added.abs() if absolute else added)
        return sums

    def check(self, found: torch.Tensor, winograd: bool = False, twin: bool = False) -> None:
        assert found.shape == self.shape and found.dtype == self.dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        wanted = self.finished(self.sums(False), False).clamp(*self.bounds)
        # What is added up, without signs: K roundings of 2**-24 of partial sums that are some
        # 1/sqrt(K) of it, so about 2**-24 of it in all; the folded norm and the rest add a few.
        scale = self.finished(self.sums(True), True)
        if not scale.numel():
            error = scale
        elif winograd:
            # Points mix the pixels of a tile, which may reach beyond its block: the largest value
            # of the map counts, some ten times as much.
            sums = self.sums(True, everywhere=True).amax().expand(self.shape)
            error = 1e-5 * self.finished(sums, True).amax()
        elif twin:
            error = 1e-5 * scale.amax()  # what algorithm torch takes for it is not known
        else:
            error = 2e-6 * scale
        if self.dtype == torch.bfloat16:
            # Half a step of the result; the twin rounds the sums too.
            error = error + 2.0**-8 * (2 * scale if twin else wanted.abs())
        far = ((found.double() - wanted).abs() > error).sum()
        assert not found.isnan().any()
        assert far == 0, f"{far} of {found.numel()} values are off"


def table(blocks: int, block: int, padding: int, width: int, size: int) -> torch.Tensor:
    at = torch.arange(blocks)[:, None] * block - padding + torch.arange(width)
    return torch.where((at < 0) | (at >= size), -1, at).to(torch.int32)


def places(source, packed, blocks):
    """Each packed block with its pixels of the map, and the slice of it that is on the map."""
    height, width = packed.shape[2:]
    for i, (slot, y, x) in enumerate(blocks.tolist()):
        place = source[slot, :, y * height : (y + 1) * height, x * width : (x + 1) * width]
        yield packed[i], place


def written(source, packed, blocks):
    full = source.clone()
    if packed is not None:
        for block, place in places(full, packed, blocks):
            place.copy_(block[:, : place.shape[1], : place.shape[2]])
    return full


def hide(source, packed, blocks) -> None:
    """NaN where executed blocks lie in the map, and where packed blocks stick out of it."""
    for block, place in places(source, packed, blocks):
        place.fill_(math.nan)
        block[:, place.shape[1] :] = math.nan
        block[:, :, place.shape[2] :] = math.nan


def no_bytes() -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8)


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
extras = dict(
    bias=st.booleans(),
    norm=st.one_of(st.none(), st.tuples(*[st.booleans()] * 4)),
    norm_dtype=st.sampled_from(DTYPES),
    residual=st.booleans(),
    bounds=st.sampled_from(((-INF, INF), (0.0, INF), (0.0, 6.0), (-1.0, 0.5), (-INF, 0.25))),
)
geometry = dict(
    block_out=sides,
    grid=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    missing=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    slots=st.integers(1, 3),
    rate=st.sampled_from((0.0, 0.2, 0.5, 1.1)),
    packed=st.booleans(),
    wider=st.integers(0, 3),
    channels_out=st.sampled_from((1, 3, 5, 8, 15, 16, 17, 24, 25, 32, 33, 40, 48, 49, 64, 70)),
    seed=st.integers(0, 999),
)
direct = st.builds(
    dict,
    kernel=st.sampled_from(((1, 1), (3, 3), (5, 3), (1, 4), (2, 2), (7, 7))),
    stride=st.sampled_from(((1, 1), (2, 2), (1, 2), (3, 1))),
    dilation=st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2), (3, 4), (11, 12))),
    padding=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    channels=st.integers(1, 40),
    local=st.sampled_from((False, False, False, True)),
    **geometry,
    **extras,
)
by_winograd = st.builds(
    dict,
    kernel=st.sampled_from(((3, 3), (3, 3), (3, 1), (1, 3), (5, 5), (5, 1), (1, 5))),
    dilation=st.sampled_from(((1, 1), (1, 1), (2, 1), (2, 2), (3, 5), (11, 12))),
    padding=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    channels=st.sampled_from((16, 32, 48)),
    **geometry,
    **extras,
)


def check(given_values, dtype, kernels, winograd, threads=1):
    case = Case(dtype=dtype, **given_values)
    if kernels == "twin":
        arguments = case.arguments(no_bytes())
        case.check(conv_blocks.reference(*arguments, rings=case.of_rings), twin=True)
        return
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = case.run(kernels, winograd)
    finally:
        torch.set_num_threads(before)
    case.check(found, winograd)


# Windows that reach less than half a block into the blocks around.
with_rings = st.builds(
    dict,
    kernel=st.sampled_from(((3, 3), (3, 3), (3, 1), (1, 3), (5, 5), (2, 2), (4, 3))),
    stride=st.sampled_from(((1, 1), (1, 1), (2, 2), (1, 2))),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.sampled_from((3, 8, 16, 32)),
    rings=st.just(True),
    **geometry | dict(block_out=st.tuples(*[st.integers(11, 16)] * 2), packed=st.just(True)),
    **extras,
)


EXAMPLES, MANY = 30, 1000
threads = st.sampled_from((1, 1, 2, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernels", (*KERNELS, "twin"))
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY, marks=pytest.mark.slow)])
def test_direct(dtype, kernels, examples):
    @given(values=direct, threads=threads)
    @settings(max_examples=examples)
    def run(values, threads):
        check(values, dtype, kernels, False, threads)

    run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("border", [1, 2])
@pytest.mark.parametrize("winograd", [False, True])
def test_rings_as_wide_as_the_padding(dtype, kernels, border, winograd):
    """The usual convolutions: 3x3 and 5x5 with executed blocks here and there."""
    for seed in range(3):
        case = Case(
            kernel=(2 * border + 1,) * 2, padding=(border,) * 2, channels=16, block_out=(8, 8),
            grid=(3, 4), rings=True, dtype=dtype, seed=seed,
        )  # fmt: skip
        assert case.of_rings == [24, 32, border]
        case.check(case.run(kernels, winograd), winograd)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernels", (*KERNELS, "twin"))
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY // 4, marks=pytest.mark.slow)])
def test_rings(dtype, kernels, examples):
    @given(values=with_rings, threads=threads, winograd=st.booleans())
    @settings(max_examples=examples)
    def run(values, threads, winograd):
        winograd &= values["stride"] == (1, 1) and values["channels"] >= 16
        winograd &= values["kernel"] in ((3, 3), (3, 1), (1, 3), (5, 5))
        check(values, dtype, kernels, winograd, threads)

    run()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY, marks=pytest.mark.slow)])
def test_winograd(dtype, kernels, examples):
    @given(values=by_winograd, threads=threads)
    @settings(max_examples=examples)
    def run(values, threads):
        check(values, dtype, kernels, True, threads)

    run()


@native
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("grid", [(1, 2), (6, 8)])
@pytest.mark.parametrize("channels", [32, 176])
@pytest.mark.parametrize("taps", [3, 5])
def test_weights_for_winograd_in_bfloat16_serve_few_tiles_too(kernels, grid, channels, taps):
    """Fewer tiles than the weights are worth loading for, and more."""
    case = Case(
        dtype=torch.bfloat16,
        kernel=(taps, taps),
        channels=channels,
        channels_out=176,
        grid=grid,
        rate=1.1,
        bias=True,
    )
    case.check(case.run(kernels, winograd=True), winograd=True)


def test_hand_computed_sums_beside_a_fresh_block():
    """A 1x2 kernel over a row of four pixels in two blocks, of which the second one is fresh."""
    source = torch.tensor([1.0, 2.0, math.nan, math.nan]).view(1, 1, 1, 4)
    packed = torch.tensor([10.0, 20.0]).view(1, 1, 1, 2)
    blocks = torch.tensor([[0, 0, 1]], dtype=torch.int32)
    rows = torch.zeros(1, 1, dtype=torch.int32)
    cols = torch.tensor([[-1, 0, 1], [1, 2, 3]], dtype=torch.int32)
    weight = torch.tensor([100.0, 1.0]).view(1, 1, 1, 2)
    for kernels in (*KERNELS, "twin"):
        function = conv_blocks.reference if kernels == "twin" else ops.conv_blocks
        prepared = no_bytes() if kernels == "twin" else ops.conv_prepare(weight, False, kernels)
        out = function(
            source,
            packed,
            blocks,
            rows,
            cols,
            weight,
            prepared,
            torch.tensor([0.5]),
            [],
            0.0,
            (1, 1),
            (1, 1),
            (1, 2),
            None,
            -INF,
            1000.0,
            no_bytes(),
        )
        assert out.flatten().tolist() == [210.5, 1000.0]


@native
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (3, 4)])
def test_any_number_of_threads_gives_the_same_bits(kernels, dtype, winograd, grid):
    case = Case(channels=16, channels_out=70, block_out=(9, 7), grid=grid, rate=1.1, dtype=dtype)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(case.run(kernels, winograd))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    case.check(found[0], winograd)


CHANGES = {
    "in place": lambda w: w.mul_(-2),
    "data.copy_": lambda w: w.data.copy_(torch.randn_like(w)),
    "data, all zero": lambda w: w.data.zero_(),
}


@native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_changed_is_prepared_anew(dtype, winograd, change):
    case = Case(channels=16, dtype=dtype)
    case.weight = torch.nn.Parameter(case.weight)
    with torch.no_grad():
        prepared = ops.conv_prepare(case.weight, winograd)
        case.check(ops.conv_blocks(*case.arguments(prepared)), winograd)
        CHANGES[change](case.weight)
        case.check(ops.conv_blocks(*case.arguments(prepared)), winograd)


@native
@pytest.mark.parametrize("winograd", [False, True])
def test_the_workspace_grows_and_is_used_again(winograd):
    workspace = no_bytes()
    small = Case(channels=16, grid=(1, 1), rate=1.1)
    small.check(small.run("", winograd, workspace), winograd)
    first = workspace.numel()
    assert first > 0
    large = Case(channels=48, kernel=(3, 3), grid=(3, 4), block_out=(8, 8), rate=1.1)
    large.check(large.run("", winograd, workspace), winograd)
    second, place = workspace.numel(), workspace.data_ptr()
    assert second > first
    workspace.fill_(255)  # NaN in every dtype: nothing is taken for what it was
    for case in (small, large):
        case.check(case.run("", winograd, workspace), winograd)
    assert (workspace.numel(), workspace.data_ptr()) == (second, place)


@native
@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize(
    "layout",
    {
        "channels last": lambda w: w.contiguous(memory_format=torch.channels_last),
        "contiguous": lambda w: w.contiguous(),
        "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
        "with gaps": lambda w: torch.cat((w, torch.full_like(w, 9)), 1)[:, : w.shape[1]],
    }.items(),
    ids=lambda item: item[0],
)
def test_weights_in_any_layout(winograd, layout):
    case = Case(channels=16, channels_out=32, bias=True)
    case.weight = layout[1](case.weight)
    prepared = ops.conv_prepare(case.weight, winograd)
    case.check(ops.conv_blocks(*case.arguments(prepared)), winograd)
    case.weight.mul_(-2)
    case.check(ops.conv_blocks(*case.arguments(prepared)), winograd)


@native
@pytest.mark.parametrize("kernels", (*KERNELS, "twin"))
def test_source_packed_and_residual_in_any_layout(kernels):
    case = Case(residual=True)
    for name in ("source", "packed_blocks", "residual_blocks"):
        setattr(case, name, getattr(case, name).contiguous())
    if kernels == "twin":
        case.check(conv_blocks.reference(*case.arguments(no_bytes())), twin=True)
    else:
        case.check(case.run(kernels))


@native
@pytest.mark.parametrize("kernels", (*KERNELS, "twin"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels_out", [5, 16])
@pytest.mark.parametrize("bounds", [(0.0, INF), (0.0, 6.0), (-INF, INF), (2.0, 1.0)])
def test_nan_and_infinity_pass_as_in_torch(kernels, dtype, channels_out, bounds):
    values = torch.tensor([math.nan, INF, -INF, -1.0, 7.0, 0.0], dtype=dtype)
    source = values.repeat_interleave(2).view(6, 2, 1, 1).contiguous()
    source[:, 1] = 0
    weight = torch.zeros(channels_out, 2, 1, 1, dtype=dtype)
    weight[:, 0] = 1
    twin = kernels == "twin"
    out = (conv_blocks.reference if twin else ops.conv_blocks)(
        source,
        None,
        None,
        None,
        None,
        weight,
        no_bytes() if twin else ops.conv_prepare(weight, False, kernels),
        None,
        [],
        0.0,
        (1, 1),
        (1, 1),
        (1, 1),
        None,
        *bounds,
        no_bytes(),
    )
    wanted = values.clamp(*bounds).view(6, 1, 1, 1).expand(6, channels_out, 1, 1)
    assert torch.equal(out.nan_to_num(nan=99.0), wanted.nan_to_num(nan=99.0))
    assert out[0].isnan().all()


def change(**changes):
    def make():
        case = Case(channels=16, norm=(True,) * 4, bias=True, residual=True, rate=1.1)
        for name, value in changes.items():
            setattr(case, name, value(case) if callable(value) else value)
        return case

    return make


ERRORS = {
    "source of other channels": (ValueError, change(source=lambda c: c.source[:, :8])),
    "source of three dimensions": (ValueError, change(source=lambda c: c.source[0])),
    "source of another dtype": (ValueError, change(source=lambda c: c.source.bfloat16())),
    "source of float64": (TypeError, change(source=lambda c: c.source.double())),
    "packed of other channels": (
        ValueError,
        change(packed_blocks=lambda c: c.packed_blocks[:, :8]),
    ),
    "packed of another dtype": (TypeError, change(packed_blocks=lambda c: c.packed_blocks.half())),
    "fewer packed blocks": (ValueError, change(packed_blocks=lambda c: c.packed_blocks[:2])),
    "blocks without tables": (ValueError, change(rows=None)),
    "packed without blocks": (ValueError, change(blocks=None, rows=None, cols=None)),
    "a slot out of range": (
        IndexError,
        change(blocks=lambda c: c.blocks + c.blocks.new_tensor([1, 0, 0])),
    ),
    "a block out of range": (
        IndexError,
        change(blocks=lambda c: c.blocks + c.blocks.new_tensor([0, 0, 3])),
    ),
    "a row out of range": (IndexError, change(rows=lambda c: c.rows + 5)),
    "int64 blocks": (TypeError, change(blocks=lambda c: c.blocks.long())),
    "windows too small": (ValueError, change(cols=lambda c: c.cols[:, :-1].contiguous())),
    "stride 0": (ValueError, change(stride=(0, 1))),
    "three dilations": (ValueError, change(dilation=(1, 1, 1))),
    "block of no rows": (ValueError, change(block_out=(0, 4))),
    "norm of three": (ValueError, change(norm_values=lambda c: c.norm_values[:3])),
    "norm of other channels": (
        ValueError,
        change(norm_values=lambda c: [t[:-1] for t in c.norm_values]),
    ),
    "norm in float64": (
        TypeError,
        change(norm_values=lambda c: [t.double() for t in c.norm_values]),
    ),
    "bias of other channels": (ValueError, change(bias_values=lambda c: c.bias_values[:-1])),
    "residual of another shape": (
        ValueError,
        change(residual_blocks=lambda c: c.residual_blocks[..., :3]),
    ),
    "residual of another dtype": (
        ValueError,
        change(residual_blocks=lambda c: c.residual_blocks.half()),
    ),
}


@native
@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("name", ERRORS)
def test_errors(name, winograd):
    error, make = ERRORS[name]
    with pytest.raises(error, match=r"\w"):
        make().run("", winograd)


@native
def test_winograd_takes_no_stride():
    with pytest.raises(ValueError, match="stride 1"):
        Case(channels=16, stride=(2, 2)).run("", True)


PREPARE_ERRORS = {
    "float64": (TypeError, torch.float64, (4, 4, 3, 3), False, ""),
    "float16": (TypeError, torch.float16, (4, 4, 3, 3), False, ""),
    "empty": (ValueError, torch.float32, (0, 4, 3, 3), False, ""),
    "three dimensions": (ValueError, torch.float32, (4, 4, 3), False, ""),
    "Winograd of 5x3": (ValueError, torch.float32, (4, 16, 5, 3), True, ""),
    "Winograd of 7x1": (ValueError, torch.float32, (4, 16, 7, 1), True, ""),
    "Winograd of 4x4": (ValueError, torch.float32, (4, 16, 4, 4), True, ""),
    "Winograd of 1x1": (ValueError, torch.float32, (4, 16, 1, 1), True, ""),
    "Winograd of 12 channels": (ValueError, torch.float32, (4, 12, 3, 3), True, ""),
    "unknown kernels": (ValueError, torch.float32, (4, 4, 3, 3), False, "mmx"),
}


@native
@pytest.mark.parametrize("name", PREPARE_ERRORS)
def test_prepare_errors(name):
    error, dtype, shape, winograd, kernels = PREPARE_ERRORS[name]
    with pytest.raises(error, match="conv_prepare|conv_blocks"):
        ops.conv_prepare(torch.zeros(shape, dtype=dtype), winograd, kernels)


@native
def test_prepared_weights_may_be_copied():
    case = Case(channels=16)
    for winograd in (False, True):
        prepared = ops.conv_prepare(case.weight, winograd)
        found = ops.conv_blocks(*case.arguments(prepared.clone()))
        case.check(found, winograd)


def test_flops_are_those_of_the_convolution():
    case = Case(channels=16, rate=1.1)
    arguments = case.arguments(no_bytes())
    out = conv_blocks.reference(*arguments)
    count = ops.FLOPS[torch.ops.blockcopy.conv_blocks.default]
    assert count(*arguments, out_val=out) == 2 * case.shape[0] * 5 * 4 * 4 * 16 * 9


def test_fake_tensors_have_the_shape_and_layout():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    case = Case(channels=16, rate=1.1)
    # How much memory a prepared weight takes depends on the processor.
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        prepared = ops.conv_prepare(case.weight, False)
        out = ops.conv_blocks(*case.arguments(prepared))
    assert out.shape == case.shape and out.dtype == case.dtype
    assert out.is_contiguous(memory_format=torch.channels_last)


@native
def test_prepared_of_another_weight_is_refused():
    """In a process of its own: taken as it is it would be read and written beyond its end."""
    code = """
import torch
from blockcopy_plugins import ops
weight, source = torch.randn(64, 16, 3, 3), torch.randn(1, 16, 6, 6)
for prepared in (torch.empty(0, dtype=torch.uint8), ops.conv_prepare(weight[:5].clone(), False)):
    try:
        ops.conv_blocks(source, None, None, None, None, weight, prepared, None, [], 0.0, (1, 1),
                        (1, 1), (4, 4), None, 0.0, 1.0, torch.empty(0, dtype=torch.uint8))
    except ValueError as error:
        print('refused')
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["refused", "refused"], (found.returncode, found.stderr)
