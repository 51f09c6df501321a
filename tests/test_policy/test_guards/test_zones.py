"""Blocks of zones against a look at each pixel, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy.guards import Always, Ignore
from blockcopy_plugins.policy.guards.zone import Zone

CPU = torch.device("cpu")


def blocks(zone, size, block_size, whole):
    return Zone(**zone).blocks(size, block_size, whole, CPU)


def by_pixels(is_inside, size, block_size, whole):
    """Asks for each pixel of each block, row by row."""
    rows, columns = (-(-side // block_size) for side in size)
    grid = torch.zeros(rows, columns, dtype=torch.bool)
    for row in range(rows):
        for column in range(columns):
            pixels = [
                is_inside(x, y)
                for y in range(row * block_size, min((row + 1) * block_size, size[0]))
                for x in range(column * block_size, min((column + 1) * block_size, size[1]))
            ]
            grid[row, column] = all(pixels) if whole else any(pixels)
    return grid


def same_or_refused(zone, size, block_size, whole, wanted):
    if not wanted.any():
        with pytest.raises(ConfigError, match="no block"):
            blocks(zone, size, block_size, whole)
    else:
        assert torch.equal(blocks(zone, size, block_size, whole), wanted)


@settings(max_examples=60)
@given(st.data(), st.integers(4, 20), st.integers(4, 20), st.integers(4, 9), st.booleans())
def test_masks_of_the_frames_size(data, height, width, block_size, whole):
    few = st.sampled_from([True] * 6 + [False]) if whole else st.sampled_from([False] * 9 + [True])
    mask = np.array(data.draw(st.lists(few, min_size=height * width, max_size=height * width)))
    mask = mask.reshape(height, width)
    if not mask.any():
        return
    wanted = by_pixels(lambda x, y: mask[y, x], (height, width), block_size, whole)
    for given_as in (mask, torch.from_numpy(mask), mask.tolist()):
        same_or_refused(dict(mask=given_as), (height, width), block_size, whole, wanted)


@settings(max_examples=60)
@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_masks_that_are_scaled(data, up, down, whole):
    """A frame of 8 x 12 times ``up`` px, a mask of 8 x 12 times ``down``: no pixel is lost."""
    size, mask_size = (8 * up, 12 * up), (8 * down, 12 * down)
    marked = st.tuples(st.integers(0, mask_size[0] - 1), st.integers(0, mask_size[1] - 1))
    mask = torch.full(mask_size, whole)
    for place in data.draw(st.lists(marked, min_size=1, max_size=4)):
        mask[place] = not whole
    # On a raster that is finer than both, by areas.
    fine = mask.repeat_interleave(up, 0).repeat_interleave(up, 1)
    pixels = fine.view(8 * up, down, 12 * up, down).transpose(1, 2).flatten(2)
    pixels = pixels.all(2) if whole else pixels.any(2)
    block_size = 4
    # A mask's pixel that a block covers in part counts as a whole one, so blocks inside are fewer.
    wanted = by_pixels(lambda x, y: pixels[y, x], size, block_size, whole)
    if not mask.any():
        return
    try:
        found = blocks(dict(mask=mask), size, block_size, whole)
    except ConfigError:
        found = torch.zeros_like(wanted)
    if whole:
        assert not (found & ~wanted).any()
    else:
        assert not (wanted & ~found).any()
    if up % down == 0 or down % up == 0:
        assert torch.equal(found, wanted)


def crossings(polygon, x, y):
    """Edges that a ray to the left of a point meets."""
    count = 0
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y0 <= y) != (y1 <= y):
            count += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return count


corner = st.tuples(
    st.floats(0, 30, allow_nan=False).map(lambda v: round(v, 2)),
    st.floats(0, 22, allow_nan=False).map(lambda v: round(v, 2)),
).map(list)


@settings(max_examples=60)
@given(st.lists(st.lists(corner, min_size=3, max_size=6), min_size=1, max_size=3), st.booleans())
def test_polygons(polygons, whole):
    def is_inside(x, y):
        return any(crossings(polygon, x + 0.5, y + 0.5) % 2 for polygon in polygons)

    wanted = by_pixels(is_inside, (22, 30), 6, whole)
    if not any(is_inside(x, y) for x in range(30) for y in range(22)):
        with pytest.raises(ConfigError, match="thin"):
            blocks(dict(mask=polygons), (22, 30), 6, whole)
        return
    given_as = polygons[0] if len(polygons) == 1 else polygons
    same_or_refused(dict(mask=given_as), (22, 30), 6, whole, wanted)


def test_polygons_of_another_picture():
    """A camera of 300 x 200 px, a network's input of 90 x 60 px."""
    right_half = [[150, 0], [300, 0], [300, 200], [150, 200]]
    grid = blocks(dict(mask=right_half, size=(300, 200)), (60, 90), 15, True)
    assert grid.tolist() == [[False] * 3 + [True] * 3] * 4
    array = np.array(right_half, dtype=np.float32)
    assert torch.equal(blocks(dict(mask=array, size=[300, 200]), (60, 90), 15, True), grid)


def test_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    grey = np.zeros((40, 60), dtype=np.uint8)
    grey[:20, :30] = 255
    grey[25:, 40:] = 100  # not white enough
    wanted = [[True, False, False]] + [[False] * 3]
    for mode in ("L", "RGB", "RGBA", "P"):
        path = tmp_path / f"zone_{mode}.png"
        image.fromarray(grey).convert(mode).save(path)
        for name in (path, str(path)):
            assert blocks(dict(mask=name), (40, 60), 20, True).tolist() == wanted
    # 16 pixels of the frame for each of the mask.
    assert blocks(dict(mask=path), (160, 240), 80, True).tolist() == wanted
    assert blocks(dict(mask=path), (160, 240), 80, False).tolist() == [[True, True, False]] + [
        [False] * 3
    ]


WRONG = {
    "no file": (dict(mask="nowhere.png"), "no mask image 'nowhere.png'"),
    "no image": (dict(mask=__file__), "cannot be read"),
    "nothing marked": (dict(mask=np.zeros((4, 4), bool)), "marks no pixel"),
    "not bool": (dict(mask=np.ones((4, 4), np.uint8)), r"found torch.uint8 \(4, 4\)"),
    "three axes": (dict(mask=np.ones((4, 4, 3), bool)), r"\(4, 4, 3\)"),
    "ragged": (dict(mask=[[True], [True, False]]), "bool array"),
    "two corners": (dict(mask=[[0, 0], [3, 3]]), "three corners"),
    "no corners": (dict(mask=[]), "found"),
    "words": (dict(mask=[["a", "b"], ["c", "d"], ["e", "f"]]), "three corners"),
    "infinite": (dict(mask=[[0, 0], [3, 3], [3, float("inf")]]), "three corners"),
    "number": (dict(mask=3), "found 3"),
    "None": (dict(mask=None), "found None"),
    "size of a mask": (dict(mask=np.ones((4, 4), bool), size=(4, 4)), "omit size"),
    "size": (dict(mask=[[0, 0], [3, 3], [3, 0]], size=(4, 0)), r"found \(4, 0\)"),
    "outside of size": (dict(mask=[[0, 0], [9, 9], [9, 0]], size=(8, 8)), r"\(9, 9\).*8x8 px"),
}


@pytest.mark.parametrize("guard", [Always, Ignore])
@pytest.mark.parametrize("name", list(WRONG))
def test_refused_where_it_is_made(name, guard):
    options, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        guard(**options)


@pytest.mark.parametrize("size", [(60, 80), (60, 116), (120, 117)])
def test_a_mask_of_another_aspect(size):
    mask = np.ones((54, 96), bool)
    with pytest.raises(ConfigError, match=rf"96x54 px.*1\.778.*{size[1]}x{size[0]} px"):
        blocks(dict(mask=mask), size, 32, False)


@pytest.mark.parametrize("size", [(750, 1333), (768, 1344), (608, 1088), (54, 96)])
def test_the_padding_of_a_resized_frame_is_no_other_aspect(size):
    assert blocks(dict(mask=np.ones((54, 96), bool)), size, 64, False).all()


@pytest.mark.parametrize("corner", [[81, 5], [5, 60.5], [-1, 5], [5, -0.1]])
def test_a_polygon_outside_of_the_frame(corner):
    zone = dict(mask=[[1, 1], [9, 9], corner])
    with pytest.raises(ConfigError, match=rf"\({corner[0]}, {corner[1]}\).*80x60 px"):
        blocks(zone, (60, 80), 16, False)


def test_a_zone_without_a_whole_block_has_no_effect_and_is_refused():
    zone = dict(mask=[[1, 1], [40, 1], [40, 40], [1, 40]])
    with pytest.raises(ConfigError, match="no block of 32 px of a frame of 80x60 px"):
        blocks(zone, (60, 80), 32, True)
    assert blocks(zone, (60, 80), 16, True).sum() == 1
    assert blocks(zone, (60, 80), 32, False).sum() == 4


def test_many_frame_sizes_do_not_add_up():
    zone = Zone([[0, 0], [20, 0], [20, 20]])
    for side in range(20, 120):
        zone.blocks((side, side), 8, False, CPU)
    assert len(zone._blocks) <= 16
