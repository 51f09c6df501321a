"""Blocks that stick out of the map: what lies outside need not be computed, the rest stays."""

import pytest
import torch

from blockcopy_plugins import ops
from tests.test_ops.test_conv_blocks import Case

KERNELS = ops.conv_kernels()
pytestmark = pytest.mark.skipif(not KERNELS, reason="there are no native convolutions here")

CASES = {
    "plain": Case(channels=16, channels_out=24, block_out=(8, 8), missing=(3, 5)),
    "one row is left": Case(channels=8, channels_out=20, block_out=(8, 8), missing=(7, 7)),
    "merged taps": Case(channels=3, channels_out=9, block_out=(16, 8), missing=(9, 1)),
    "dilated": Case(
        channels=16, channels_out=8, block_out=(8, 8), missing=(4, 4), dilation=(4, 2),
        padding=(4, 2),
    ),
    "strided": Case(channels=6, channels_out=70, block_out=(4, 8), missing=(4, 6), stride=(2, 2)),
    "bfloat16": Case(
        channels=16, channels_out=16, block_out=(8, 8), missing=(5, 5), dtype=torch.bfloat16
    ),
    "norm and residual": Case(
        channels=16, channels_out=16, block_out=(8, 16), missing=(5, 9), norm=(True,) * 4,
        residual=True, bounds=(0.0, float("inf")),
    ),
    "fits": Case(channels=16, channels_out=16, block_out=(8, 8), rate=1.0),
}  # fmt: skip


def size_of(case):
    """Of the result as a whole map."""
    return [case.grid[i] * case.block_out[i] - case.missing[i] // case.stride[i] for i in (0, 1)]


def inside_of(case, size):
    """bool, of the shape of the result."""
    inside = torch.zeros(case.shape, dtype=torch.bool)
    for block, (_, gy, gx) in zip(inside, case.blocks.tolist(), strict=True):
        block[:, : size[0] - gy * case.block_out[0], : size[1] - gx * case.block_out[1]] = True
    return inside


def check(case, found, everything, size):
    inside = inside_of(case, size)
    assert torch.equal(found[inside], everything[inside])
    assert found.isfinite().all()
    if inside.all():
        assert torch.equal(found, everything)
    else:
        # Some of what lies outside was left out indeed: these tiles are 0.
        assert not torch.equal(found, everything)
        assert (found[~inside] == 0).float().mean() > 0.3


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", CASES)
def test_what_lies_inside_stays_as_it_is(name, kernels):
    case = CASES[name]
    everything = case.run(kernels)
    prepared = ops.conv_prepare(case.weight, False, kernels)
    found = ops.conv_blocks(*case.arguments(prepared), size=size_of(case))
    check(case, found, everything, size_of(case))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_winograd_leaves_out_tiles(dilation, taps, kernels):
    case = Case(
        channels=32, channels_out=40, block_out=(16, 16), missing=(9, 7), rate=1.0, bias=True,
        kernel=(taps,) * 2, dilation=(dilation,) * 2, padding=(taps // 2 * dilation,) * 2,
    )  # fmt: skip
    everything = case.run(kernels, winograd=True)
    prepared = ops.conv_prepare(case.weight, True, kernels)
    found = ops.conv_blocks(*case.arguments(prepared), size=size_of(case))
    check(case, found, everything, size_of(case))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("depthwise", [False, True])
def test_blocks_without_windows(depthwise, kernels):
    """A convolution of one pixel reads the packed blocks, and is told where they lie."""
    case = Case(channels=16, channels_out=16, block_out=(8, 8), missing=(5, 3), rate=1.0)
    weight = torch.randn(16, 1 if depthwise else 16, 1, 1)
    prepared = ops.conv_prepare(weight, False, kernels)

    def run(blocks, size):
        return ops.conv_blocks(
            case.packed_blocks, None, blocks, None, None, weight, prepared, torch.ones(16), [], 0.0,
            (1, 1), (1, 1), (8, 8), None, -float("inf"), float("inf"),
            torch.empty(0, dtype=torch.uint8), size=size,
        )  # fmt: skip

    check(case, run(case.blocks, size_of(case)), run(None, None), size_of(case))


@pytest.mark.parametrize(
    ("blocks", "size", "message"),
    [
        (None, (4, 4), "size needs blocks"),
        (torch.zeros(1, 3, dtype=torch.int32), (4, 4), "size needs blocks"),
        (torch.zeros(2, 3, dtype=torch.int64), (4, 4), "size needs blocks"),
        (torch.zeros(2, 3, dtype=torch.int32), (0, 4), "expected two integers of at least 1"),
    ],
)
def test_other_sizes_and_places_are_refused(blocks, size, message):
    weight = torch.randn(4, 4, 1, 1)
    with pytest.raises(ValueError, match=message):
        ops.conv_blocks(
            torch.randn(2, 4, 3, 3), None, blocks, None, None, weight,
            ops.conv_prepare(weight, False), None, [], 0.0, (1, 1), (1, 1), (3, 3), None,
            -float("inf"), float("inf"), torch.empty(0, dtype=torch.uint8), size=size,
        )  # fmt: skip


def test_the_operator_keeps_its_promises():
    case = Case(channels=16, channels_out=8, block_out=(8, 8), missing=(3, 5))
    prepared = ops.conv_prepare(case.weight, False)
    arguments = (*case.arguments(prepared), None, "", size_of(case))
    torch.library.opcheck(ops.conv_blocks.overload, arguments)
