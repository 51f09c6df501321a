"""paint_regions against a plain loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.ops.bitmaps import crop_masks
from blockcopy_plugins.ops.paint_regions import paint_regions

IMPLEMENTATIONS = [
    pytest.param(paint_regions, id="op"),
    pytest.param(paint_regions.reference, id="twin"),
]


def painted(values, regions, masks, size):
    """The definition, pixel by pixel."""
    picture = torch.zeros(size)
    for index, (value, (top, bottom, left, right)) in enumerate(zip(values, regions, strict=True)):
        for y in range(top, bottom):
            for x in range(left, right):
                if value > picture[y, x] and (masks is None or masks[index, y, x]):
                    picture[y, x] = value
    return picture


@st.composite
def regions_in(draw, size, most=12):
    """Up to ``most`` regions of a picture, a value for each, and a mask."""
    found = []
    for _ in range(draw(st.integers(0, most))):
        ends = []
        for side in size:
            first = draw(st.integers(0, side - 1))
            ends += [first, draw(st.integers(first + 1, side))]
        found.append(tuple(ends))
    values = draw(
        st.lists(
            st.sampled_from([0.25, 0.5, 1.0, 0.0, -1.0, math.nan]) | st.floats(0, 2, width=32),
            min_size=len(found),
            max_size=len(found),
        )
    )
    seed = draw(st.integers(0, 2**20))
    chosen = torch.Generator().manual_seed(seed)
    masks = torch.rand(len(found), *size, generator=chosen) < 0.5
    return values, found, masks


def as_tensors(values, regions):
    return torch.tensor(values, dtype=torch.float32), torch.tensor(
        regions, dtype=torch.int32
    ).reshape(-1, 4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.data())
def test_any_regions(implementation, data):
    size = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    values, regions, masks = data.draw(regions_in(size))
    found = implementation(*as_tensors(values, regions), None, size)
    assert found.dtype == torch.float32 and torch.equal(found, painted(values, regions, None, size))
    tables = as_tensors(values, regions)
    bits = crop_masks(masks, torch.arange(len(values)), tables[1])
    found = implementation(*tables, bits, list(size))
    assert torch.equal(found, painted(values, regions, masks, size))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("height", [1, 2, 3, 16, 37, 40])
def test_many_large_regions(implementation, height):
    # Together larger than eight pictures, where the native kernel paints strips.
    draw = torch.Generator().manual_seed(height)
    count, size = 1 + 8 * 40 * 24 // (20 * height), (40, 24)
    top = torch.randint(0, 41 - height, (count,), generator=draw)
    left = torch.randint(0, 5, (count,), generator=draw)
    regions = torch.stack((top, top + height, left, left + 20), 1).int()
    regions[0] = torch.tensor([3, 4, 0, 24])
    values = torch.rand(count, generator=draw)
    expected = torch.zeros(size)
    for value, (first, last, begin, end) in zip(values, regions.tolist(), strict=True):
        expected[first:last, begin:end] = expected[first:last, begin:end].clamp_min(value)
    assert torch.equal(implementation(values, regions, None, size), expected)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    values, regions = as_tensors([0.5], [(0, 2, 1, 3)])
    with pytest.raises(TypeError, match="values have dtype"):
        implementation(values.double(), regions, None, (4, 4))
    with pytest.raises(TypeError, match="regions has dtype"):
        implementation(values, regions.long(), None, (4, 4))
    with pytest.raises(ValueError, match="values have shape"):
        implementation(values[:0], regions, None, (4, 4))
    with pytest.raises(ValueError, match="regions has shape"):
        implementation(values, regions[:, :3], None, (4, 4))
    with pytest.raises(ValueError, match="size is"):
        implementation(values, regions, None, (4,))
    for bad in [
        (0, 5, 1, 3),
        (0, 2, 1, 5),
        (-1, 2, 1, 3),
        (0, 2, -1, 3),
        (2, 2, 1, 3),
        (0, 2, 3, 3),
    ]:
        with pytest.raises(IndexError, match="regions 0 is rows"):
            implementation(*as_tensors([0.5], [bad]), None, (4, 4))
    with pytest.raises(ValueError, match="bits has shape"):
        implementation(values, regions, torch.zeros(3, dtype=torch.uint8), (4, 4))
    with pytest.raises(TypeError, match="bits has dtype"):
        implementation(values, regions, torch.zeros(2), (4, 4))
    with pytest.raises(RuntimeError, match="no backward"):
        implementation(values.clone().requires_grad_(), regions, None, (4, 4))


def test_the_operator_is_well_registered():
    values, regions = as_tensors([0.5, 0.25], [(0, 2, 1, 3), (1, 4, 0, 4)])
    bits = torch.full((5,), 15, dtype=torch.uint8)
    for given_bits in (None, bits):
        torch.library.opcheck(
            torch.ops.blockcopy.paint_regions.default, (values, regions, given_bits, [4, 4])
        )
    assert paint_regions(values.to("meta"), regions.to("meta"), None, (3, 5)).shape == (3, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    values, regions = as_tensors([0.5, 0.25], [(0, 2, 1, 3), (1, 4, 0, 4)])
    found = paint_regions(values.cuda(), regions.cuda(), None, (4, 4))
    assert found.is_cuda
    assert torch.equal(found.cpu(), paint_regions(values, regions, None, (4, 4)))
