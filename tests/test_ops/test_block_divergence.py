"""block_divergence and all_finite against loops over cells, and values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.ops.all_finite import all_finite
from blockcopy_plugins.ops.block_divergence import block_divergence

DIVERGENCES = [
    pytest.param(block_divergence, id="op"),
    pytest.param(block_divergence.reference, id="twin"),
]
LOOKS = [pytest.param(all_finite, id="op"), pytest.param(all_finite.reference, id="twin")]


def logs(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(shape, generator=draw)).log_softmax(0)


def by_loops(previous, current, size, grid, block_size, cells, clip):
    """The definition, cell by cell, in double precision."""

    def at(values, y, x):
        place = []
        for cell, pixels, source in zip((y, x), size, values.shape[1:], strict=True):
            # In doubles, as of any number of pixels a cell's middle may lie between two values.
            index = int((cell + 0.5) * (block_size / cells) * (source / pixels))
            place.append(min(index, source - 1))
        return values[:, place[0], place[1]].double()

    part = max(cells // 4, 1)
    found = torch.zeros(*grid, dtype=torch.float64)
    for by in range(grid[0]):
        for bx in range(grid[1]):
            parts: dict[tuple[int, int], list[float]] = {}
            for cell_y in range(cells):
                for cell_x in range(cells):
                    y, x = by * cells + cell_y, bx * cells + cell_x
                    p, q = at(current, y, x), at(previous, y, x)
                    value = float((p.exp() * (p - q)).sum())
                    parts.setdefault((cell_y // part, cell_x // part), []).append(value)
            most = max(sum(values) / len(values) for values in parts.values())
            found[by, bx] = min(max(most, 0.0), clip)
    return found


@pytest.mark.parametrize("implementation", DIVERGENCES)
@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    block=st.sampled_from([(4, 4), (32, 8), (40, 8), (64, 16), (128, 16), (8, 1), (9, 3)]),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    before=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    now=st.one_of(st.none(), st.tuples(st.integers(1, 20), st.integers(1, 20))),
    classes=st.integers(1, 5),
    clip=st.sampled_from([1.0, 50.0]),
)
def test_against_loops(implementation, grid, block, cut, before, now, classes, clip):
    block_size, cells = block
    size = [
        blocks * block_size - part * (block_size // 4)
        for blocks, part in zip(grid, cut, strict=True)
    ]
    arguments = (
        logs(classes, *before), logs(classes, *(now or before), seed=1), size, grid, block_size,
        cells, clip,
    )  # fmt: skip
    expected = by_loops(*arguments)
    found = implementation(*arguments)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", DIVERGENCES)
def test_the_mean_of_a_sixteenth_by_hand(implementation):
    previous = torch.tensor([0.5, 0.5]).log()[:, None, None].repeat(1, 16, 32)
    current = previous.clone()
    current[:, :2, 20:24] = torch.tensor([0.9, 0.1]).log()[:, None, None]  # half of a sixteenth
    found = implementation(previous, current, (128, 256), (1, 2), 128, 16, 5.0)
    half = (0.9 * math.log(1.8) + 0.1 * math.log(0.2)) / 2
    assert found.tolist() == [[0.0, pytest.approx(half, rel=1e-5)]]


@pytest.mark.parametrize("implementation", DIVERGENCES)
def test_what_is_no_number_shows_in_its_block(implementation):
    previous, current = logs(3, 8, 16), logs(3, 8, 16, seed=1)
    previous[1, 3, 3] = math.nan  # at the centre of a cell
    found = implementation(previous, current, (16, 32), (1, 2), 16, 4, 1.0)
    assert found.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("implementation", DIVERGENCES)
def test_errors(implementation):
    good = (logs(3, 4, 4), logs(3, 4, 4), (16, 16), (1, 1), 16, 4, 1.0)
    with pytest.raises(TypeError, match="float32"):
        implementation(good[0].double(), *good[1:])
    with pytest.raises(ValueError, match="same classes"):
        implementation(logs(2, 4, 4), *good[1:])
    with pytest.raises(ValueError, match="same classes"):
        implementation(good[0][None], *good[1:])
    with pytest.raises(ValueError, match="cells 5"):
        implementation(*good[:5], 5, 1.0)
    with pytest.raises(ValueError, match="grid"):
        implementation(*good[:3], (0, 1), *good[4:])
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(good[0].clone().requires_grad_(), *good[1:])


def test_the_operators_are_well_registered():
    arguments = (logs(3, 4, 4), logs(3, 4, 4, seed=1), (16, 16), (1, 1), 16, 4, 1.0)
    torch.library.opcheck(torch.ops.blockcopy.block_divergence.default, arguments)
    torch.library.opcheck(torch.ops.blockcopy.all_finite.default, (torch.randn(3, 4),))


@pytest.mark.parametrize("implementation", LOOKS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
def test_all_finite(implementation, dtype):
    values = torch.full((3, 5, 7), torch.finfo(dtype).max, dtype=dtype)
    found = implementation(values)
    assert found.shape == () and found.dtype == torch.bool and bool(found)
    for odd in (math.nan, math.inf, -math.inf):
        bad = values.clone()
        bad[2, 4, 6] = odd
        assert not bool(implementation(bad))
    assert bool(implementation(values[:0]))
    with pytest.raises(TypeError, match="floating point"):
        implementation(values.int())
