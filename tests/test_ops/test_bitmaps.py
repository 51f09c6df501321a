"""The bitmap operators against plain loops over pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.ops import bitmaps

OPS = (bitmaps.crop_masks, bitmaps.cover_cells, bitmaps.shared_pixels)
TWINS = (
    bitmaps.crop_masks.reference,
    bitmaps.cover_cells.reference,
    bitmaps.shared_pixels.reference,
)
IMPLEMENTATIONS = [pytest.param(OPS, id="op"), pytest.param(TWINS, id="twin")]


def as_regions(regions):
    return torch.tensor(regions, dtype=torch.int32).reshape(-1, 4)


def bitmap(mask, region):
    """The bitmap of a region, as the module's docstring describes it."""
    top, bottom, left, right = region
    bits = []
    for y in range(top, bottom):
        for first in range(left // 8 * 8, right, 8):
            byte = 0
            for x in range(max(first, left), min(first + 8, right)):
                byte += int(mask[y, x]) << (x - first)
            bits.append(byte)
    return bits


def pixels(mask, region):
    """The pixels that are set inside a region."""
    top, bottom, left, right = region
    return {(y, x) for y, x in mask.nonzero().tolist() if top <= y < bottom and left <= x < right}


def draw_region(draw, size):
    ends = []
    for side in size:
        first = draw(st.integers(0, side - 1))
        ends += [first, draw(st.integers(first + 1, side))]
    return tuple(ends)


@st.composite
def pictures(draw, size, most=5):
    """Masks of a size with a region of each, of any density."""
    regions = [draw_region(draw, size) for _ in range(draw(st.integers(0, most)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    density = draw(st.sampled_from([0.05, 0.5, 0.95]))
    return torch.rand(len(regions), *size, generator=generator) < density, regions


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 90))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.data())
def test_crops(implementation, data):
    crop_masks, _, _ = implementation
    masks, regions = data.draw(SIZES.flatmap(pictures))
    order = data.draw(st.permutations(range(len(masks))))
    indices = torch.tensor(order, dtype=torch.int64)
    expected = [
        byte
        for index, region in zip(order, regions, strict=True)
        for byte in bitmap(masks[index], region)
    ]
    for given_masks in (masks, masks.mT.contiguous().mT, bitmaps.pack_columns(masks)):
        bits = crop_masks(given_masks, indices, as_regions(regions))
        assert bits.dtype == torch.uint8 and bits.tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.data())
def test_cells_with_a_pixel_in_them(implementation, data):
    crop_masks, cover_cells, _ = implementation
    size = data.draw(SIZES)
    masks, regions = data.draw(pictures(size))
    grid = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 20)))
    tables = []
    for cells, side in zip(grid, size, strict=True):
        ranges = []
        for _ in range(cells):
            begin = data.draw(st.integers(0, side - 1))
            ranges.append((begin, data.draw(st.integers(begin + 1, side))))
        tables.append(ranges)
    cells = [draw_region(data.draw, grid) for _ in regions]
    expected = []
    for mask, region, cell in zip(masks, regions, cells, strict=True):
        found = pixels(mask, region)
        covered = torch.zeros(grid, dtype=torch.bool)
        for row, (y1, y2) in enumerate(tables[0]):
            for column, (x1, x2) in enumerate(tables[1]):
                covered[row, column] = any(y1 <= y < y2 and x1 <= x < x2 for y, x in found)
        expected += bitmap(covered, cell)
    bits = crop_masks(masks, torch.arange(len(masks)), as_regions(regions))
    rows, columns = (torch.tensor(table, dtype=torch.int32) for table in tables)
    covered = cover_cells(bits, as_regions(regions), as_regions(cells), rows, columns)
    assert covered.dtype == torch.uint8 and covered.tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_single_pixel_is_found_in_a_wide_cell(implementation):
    crop_masks, cover_cells, _ = implementation
    masks = torch.eye(40, dtype=torch.bool)[:, None]
    regions, cells = as_regions([(0, 1, 0, 40)] * 40), as_regions([(0, 1, 0, 1)] * 40)
    bits = crop_masks(masks, torch.arange(40), regions)
    rows = torch.tensor([(0, 1)], dtype=torch.int32)
    for begin, end in [(0, 40), (3, 37), (8, 32), (7, 9), (12, 14)]:
        columns = torch.tensor([(begin, end)], dtype=torch.int32)
        covered = cover_cells(bits, regions, cells, rows, columns)
        assert covered.tolist() == [int(begin <= x < end) for x in range(40)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.data())
def test_shared_pixels(implementation, data):
    crop_masks, _, shared_pixels = implementation
    size = data.draw(SIZES)
    (masks, regions), (others, other_regions) = (data.draw(pictures(size)) for _ in range(2))
    pairs = [(i, j) for i in range(len(masks)) for j in range(len(others))]
    pairs = data.draw(st.permutations(pairs))
    arguments = []
    for some, where in ((masks, regions), (others, other_regions)):
        table = as_regions(where)
        arguments += [crop_masks(some, torch.arange(len(some)), table), table]
    shared = shared_pixels(*arguments, torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2))
    assert shared.dtype == torch.int64
    assert shared.tolist() == [
        len(pixels(masks[i], regions[i]) & pixels(others[j], other_regions[j])) for i, j in pairs
    ]


@given(SIZES, st.integers(0, 3), st.integers(0, 2**20))
def test_unpacking_undoes_packing(size, count, seed):
    masks = torch.rand(count, *size, generator=torch.Generator().manual_seed(seed)) < 0.5
    whole = as_regions([(0, size[0], 0, size[1])] * count)
    bits = bitmaps.pack_columns(masks).flatten()
    assert all(map(torch.equal, bitmaps.unpack_bitmaps(bits, whole), masks))


def example():
    masks = torch.ones(2, 3, 12, dtype=torch.bool)
    regions = as_regions([(0, 2, 3, 12), (1, 3, 0, 8)])
    bits = torch.tensor([0xF8, 0x0F, 0xF8, 0x0F, 0xFF, 0xFF], dtype=torch.uint8)
    cells = as_regions([(0, 1, 0, 2), (0, 1, 1, 2)])
    ranges = torch.tensor([(0, 6), (6, 12)], dtype=torch.int32)
    pairs = torch.tensor([(0, 1), (1, 1)])
    return masks, torch.arange(2), regions, bits, cells, ranges, pairs


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_hand_computed(implementation):
    masks, indices, regions, bits, cells, ranges, pairs = example()
    crop_masks, cover_cells, shared_pixels = implementation
    assert crop_masks(masks, indices, regions).tolist() == bits.tolist()
    assert cover_cells(bits, regions, cells, ranges, ranges).tolist() == [3, 2]
    assert shared_pixels(bits, regions, bits, regions, pairs).tolist() == [5, 16]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    masks, indices, regions, bits, cells, ranges, pairs = example()
    crop_masks, cover_cells, shared_pixels = implementation
    with pytest.raises(TypeError, match="masks have dtype"):
        crop_masks(masks.float(), indices, regions)
    with pytest.raises(TypeError, match="indices have dtype"):
        crop_masks(masks, indices.int(), regions)
    with pytest.raises(TypeError, match="regions has dtype"):
        crop_masks(masks, indices, regions.long())
    with pytest.raises(ValueError, match="masks have shape"):
        crop_masks(masks[0], indices, regions)
    with pytest.raises(ValueError, match="masks have shape"):
        crop_masks(masks, indices[:1], regions)
    with pytest.raises(IndexError, match="index 2 is out of range"):
        crop_masks(masks, indices + 1, regions)
    for bad in [(0, 4, 0, 1), (0, 1, 0, 13), (1, 1, 0, 1), (0, 1, 3, 2), (-1, 1, 0, 1)]:
        with pytest.raises(IndexError, match="regions 1 is rows"):
            crop_masks(masks, indices, as_regions([(0, 1, 0, 1), bad]))
    with pytest.raises(IndexError, match="regions 1 is rows"):
        crop_masks(bitmaps.pack_columns(masks), indices, as_regions([(0, 1, 0, 16), (0, 1, 0, 17)]))

    with pytest.raises(TypeError, match="rows have dtype"):
        cover_cells(bits, regions, cells, ranges.long(), ranges)
    with pytest.raises(ValueError, match="columns have shape"):
        cover_cells(bits, regions, cells, ranges, ranges.flatten())
    with pytest.raises(ValueError, match="cells have shape"):
        cover_cells(bits, regions, cells[:1], ranges, ranges)
    with pytest.raises(IndexError, match="cells 0 is rows"):
        cover_cells(bits, regions, cells, ranges, ranges[:1])
    with pytest.raises(ValueError, match="bits has shape"):
        cover_cells(bits[1:], regions, cells, ranges, ranges)

    with pytest.raises(TypeError, match="pairs have dtype"):
        shared_pixels(bits, regions, bits, regions, pairs.int())
    with pytest.raises(ValueError, match="pairs have shape"):
        shared_pixels(bits, regions, bits, regions, pairs[0])
    with pytest.raises(TypeError, match="other_bits has dtype"):
        shared_pixels(bits, regions, bits.bool(), regions, pairs)
    for bad in [(0, 2), (2, 0), (-1, 0), (0, -1)]:
        with pytest.raises(IndexError, match="pair 0 is"):
            shared_pixels(bits, regions, bits, regions, torch.tensor([bad]))


def test_the_operators_are_well_registered():
    masks, indices, regions, bits, cells, ranges, pairs = example()
    ops = torch.ops.blockcopy
    torch.library.opcheck(ops.crop_masks.default, (masks, indices, regions))
    torch.library.opcheck(ops.cover_cells.default, (bits, regions, cells, ranges, ranges))
    torch.library.opcheck(ops.shared_pixels.default, (bits, regions, bits, regions, pairs))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    masks, indices, regions, bits, cells, ranges, pairs = (t.cuda() for t in example())
    assert torch.equal(bitmaps.crop_masks(masks, indices, regions), bits)
    assert bitmaps.cover_cells(bits, regions, cells, ranges, ranges).tolist() == [3, 2]
    assert bitmaps.shared_pixels(bits, regions, bits, regions, pairs).tolist() == [5, 16]
