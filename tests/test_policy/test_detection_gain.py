from __future__ import annotations

import warnings

import pytest
import torch

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.ops.bitmaps import unpack_bitmaps
from blockcopy_plugins.policy import DetectionGain, Detections, Geometry

GEOMETRY = Geometry(size=(256, 512), grid=(4, 8), block_size=64)
SIZE = (256, 512)


def _iou(first, second):
    """IoU of two integer boxes by counting pixels."""
    a, b = torch.zeros(SIZE, dtype=torch.bool), torch.zeros(SIZE, dtype=torch.bool)
    for canvas, (x1, y1, x2, y2) in ((a, first), (b, second)):
        canvas[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    return float((a & b).sum()) / float((a | b).sum())


def _oracle(previous, current):
    """The definition, painted pixel by pixel, for integer boxes with an area in the image."""
    canvas = torch.zeros(SIZE)

    def paint(box, value):
        x1, y1, x2, y2 = (max(side, 0) for side in box)
        canvas[y1:y2, x1:x2] = canvas[y1:y2, x1:x2].clamp_min(value)

    matched = set()
    for *box, score, label in current:
        overlaps = [_iou(box, p[:4]) if p[5] == label else 0.0 for p in previous]
        best = max(overlaps, default=0.0)
        paint(box, (1 - best) * score)
        if best > 0:
            index = overlaps.index(best)
            matched.add(index)
            paint(previous[index][:4], (1 - best) * previous[index][4])
    for index, row in enumerate(previous):
        if index not in matched:
            paint(row[:4], row[4])
    return canvas.reshape(4, 64, 8, 64).amax((1, 3))


def _expect(values):
    """A grid of zeros but for the blocks given as {(row, column): value}."""
    grid = torch.zeros(4, 8)
    for (row, column), value in values.items():
        grid[row, column] = value
    return grid


def _check(gain, expected):
    torch.testing.assert_close(gain, expected, atol=1e-6, rtol=0)


def test_a_box_that_moved(detections):
    # 20 x 40 px, moved by half its width: IoU 1/3; over two blocks after the move.
    before = detections([(40, 10, 60, 50, 0.6, 1)], SIZE)
    after = detections([(50, 10, 70, 50, 0.9, 1)], SIZE)
    gain = DetectionGain()(before, after, GEOMETRY)
    _check(gain, _expect({(0, 0): 2 / 3 * 0.9, (0, 1): 2 / 3 * 0.9}))
    # And back: the old box has the higher score and covers both.
    gain = DetectionGain()(after, before, GEOMETRY)
    _check(gain, _expect({(0, 0): 2 / 3 * 0.9, (0, 1): 2 / 3 * 0.9}))


def test_each_box_is_painted_with_its_own_score(detections):
    # IoU 1/3, the old one in block column 1, the new one in 1 and 2.
    before = detections([(100, 70, 120, 90, 0.3, 0)], SIZE)
    after = detections([(110, 70, 130, 90, 0.6, 0)], SIZE)
    expected = _expect({(1, 1): 2 / 3 * 0.6, (1, 2): 2 / 3 * 0.6})
    _check(DetectionGain()(before, after, GEOMETRY), expected)
    expected = _expect({(1, 1): 2 / 3 * 0.6, (1, 2): 2 / 3 * 0.6})
    _check(DetectionGain()(after, before, GEOMETRY), expected)
    # The other way round in space: only the low-score old box reaches block column 0.
    before = detections([(54, 70, 74, 90, 0.3, 0)], SIZE)
    after = detections([(64, 70, 84, 90, 0.6, 0)], SIZE)
    expected = _expect({(1, 0): 2 / 3 * 0.3, (1, 1): 2 / 3 * 0.6})
    _check(DetectionGain()(before, after, GEOMETRY), expected)


def test_nothing_moved(detections):
    same = detections([(40, 10, 60, 50, 0.6, 1), (300, 100, 400, 200, 0.5, 2)], SIZE)
    assert (DetectionGain()(same, same, GEOMETRY) == 0).all()
    empty = detections([], SIZE)
    assert (DetectionGain()(empty, empty, GEOMETRY) == 0).all()


def test_came_and_went(detections):
    stays = (300, 100, 320, 120, 0.5, 0)
    extra = (10, 200, 20, 220, 0.8, 0)
    one, two = detections([stays], SIZE), detections([stays, extra], SIZE)
    empty = detections([], SIZE)
    _check(DetectionGain()(one, two, GEOMETRY), _expect({(3, 0): 0.8}))
    _check(DetectionGain()(two, one, GEOMETRY), _expect({(3, 0): 0.8}))
    _check(DetectionGain()(empty, two, GEOMETRY), _expect({(3, 0): 0.8, (1, 4): 0.5}))
    _check(DetectionGain()(two, empty, GEOMETRY), _expect({(3, 0): 0.8, (1, 4): 0.5}))


def test_classes_do_not_match_each_other(detections):
    box = (300, 100, 320, 120)
    before = detections([(*box, 0.5, 0), (10, 10, 30, 30, 0.9, 1)], SIZE)
    after = detections([(*box, 0.7, 1), (10, 10, 30, 30, 0.9, 1)], SIZE)
    # Class 0 went (0.5) and class 1 came (0.7) at the same place; the larger stands.
    _check(DetectionGain()(before, after, GEOMETRY), _expect({(1, 4): 0.7}))


def test_a_previous_box_that_is_nobodys_best_match_has_gone(detections):
    before = detections([(0, 0, 40, 40, 0.9, 0), (20, 0, 60, 40, 0.4, 0)], SIZE)
    after = detections([(0, 0, 40, 40, 0.9, 0)], SIZE)
    _check(DetectionGain()(before, after, GEOMETRY), _expect({(0, 0): 0.4}))


def test_boxes_over_the_edge_are_clipped_and_do_not_vanish(detections):
    before = detections([], SIZE)
    after = detections(
        [(-30, -20, 10, 10, 0.9, 0), (500, 240, 600, 300, 0.7, 0), (-50, 5, -10, 50, 1, 0)], SIZE
    )
    _check(DetectionGain()(before, after, GEOMETRY), _expect({(0, 0): 0.9, (3, 7): 0.7}))
    # What only moved outside the image did not change: clipped, the boxes are the same.
    moved = detections([(-90, -80, 10, 10, 0.9, 0), (500, 240, 700, 900, 0.7, 0)], SIZE)
    assert (DetectionGain()(moved, after, GEOMETRY) == 0).all()


def test_collapsed_boxes_are_skipped(detections):
    flat = [(10, 10, 10, 50, 0.9, 0), (90, 50, 70, 60, 0.9, 0), (5, 7, 9, 7, 0.9, 0)]
    good = (300, 100, 320, 120, 0.5, 0)
    before, after = detections(flat, SIZE), detections([*flat, good], SIZE)
    _check(DetectionGain()(before, after, GEOMETRY), _expect({(1, 4): 0.5}))
    _check(DetectionGain()(after, before, GEOMETRY), _expect({(1, 4): 0.5}))


def test_boxes_smaller_than_a_cell_do_not_vanish(detections):
    after = detections([(100.2, 30.1, 100.4, 30.3, 0.9, 0)], SIZE)
    _check(DetectionGain()(detections([], SIZE), after, GEOMETRY), _expect({(0, 1): 0.9}))


def test_a_box_that_ends_at_a_block_border_does_not_touch_the_next_block(detections):
    after = detections([(64, 64, 128, 192, 0.9, 0)], SIZE)
    expected = _expect({(1, 1): 0.9, (2, 1): 0.9})
    _check(DetectionGain()(detections([], SIZE), after, GEOMETRY), expected)


@pytest.mark.parametrize("seed", range(8))
def test_against_pixels(detections, seed):
    generator = torch.Generator().manual_seed(seed)

    def rows(count):
        corner = torch.randint(-20, 500, (count, 2), generator=generator).clamp_max(240)
        corner[:, 0] *= 2
        side = torch.randint(21, 90, (count, 2), generator=generator)
        score = torch.randint(1, 100, (count,), generator=generator) / 100
        label = torch.randint(0, 2, (count,), generator=generator)
        return [
            (int(x), int(y), int(x + w), int(y + h), float(s), int(c))
            for (x, y), (w, h), s, c in zip(corner, side, score, label, strict=True)
        ]

    previous = rows(12)
    shift = torch.randint(-9, 9, (12, 4), generator=generator).tolist()
    current = [
        (*(int(a + b) for a, b in zip(row[:4], move, strict=True)), *row[4:])
        for row, move in zip(previous, shift, strict=True)
    ][:9] + rows(3)

    def inside(table):
        return [r for r in table if r[2] > max(r[0], 0) and r[3] > max(r[1], 0) and r[0] < 512]

    previous, current = inside(previous), inside(current)
    gain = DetectionGain()(detections(previous, SIZE), detections(current, SIZE), GEOMETRY)
    assert (gain > 0).any() and (gain == 0).any()
    _check(gain, _oracle(previous, current))


def test_mean_reduction(detections):
    after = detections([(0, 0, 32, 16, 0.8, 0)], SIZE)
    gain = DetectionGain("mean")(detections([], SIZE), after, GEOMETRY)
    _check(gain, _expect({(0, 0): 0.8 * 32 * 16 / 64**2}))
    with pytest.raises(ConfigError, match="reduction"):
        DetectionGain("sum")


def _masks(boxes, resolution):
    """Masks that fill the left half of each box, at (h, w) for the whole image."""
    down, across = resolution[0] / SIZE[0], resolution[1] / SIZE[1]
    masks = torch.zeros(len(boxes), *resolution, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        middle = (x1 + x2) / 2
        mask[round(y1 * down) : round(y2 * down), round(x1 * across) : round(middle * across)] = (
            True
        )
    return masks


@pytest.mark.parametrize("resolution", [(256, 512), (128, 256), (64, 128), (32, 64)])
def test_masks_use_the_mask_iou_and_paint_the_masks(detections, resolution):
    # 128 x 64 px boxes whose left half is set, moved right by 32: boxes' IoU 96/160 = 0.6, but
    # of the masks, 64 wide, 32/96 = 1/3. The masks end in block column 1, the boxes in 2.
    old, new = (32, 64, 160, 128), (64, 64, 192, 128)
    before = detections([(*old, 0.5, 0)], SIZE, _masks([old], resolution))
    after = detections([(*new, 0.9, 0)], SIZE, _masks([new], resolution))
    gain = DetectionGain()(before, after, GEOMETRY)
    _check(gain, _expect({(1, 0): 2 / 3 * 0.5, (1, 1): 2 / 3 * 0.9}))
    # Without masks on one side, the boxes decide, and each side paints what it has.
    plain = detections([(*old, 0.5, 0)], SIZE)
    gain = DetectionGain()(plain, after, GEOMETRY)
    _check(gain, _expect({(1, 0): 0.4 * 0.5, (1, 1): 0.4 * 0.9, (1, 2): 0.4 * 0.5}))


def _touched(mask, size, geometry):
    """The cells of which a set mask pixel covers a part, one pixel at a time."""
    down, across = size[0] / mask.shape[0], size[1] / mask.shape[1]
    cell, cells = geometry.cell_size, torch.zeros(geometry.map_size)
    for row, column in mask.nonzero().tolist():
        top, bottom = row * down + 1e-6, (row + 1) * down - 1e-6
        left, right = column * across + 1e-6, (column + 1) * across - 1e-6
        rows = slice(int(top / cell), int(bottom / cell) + 1)
        columns = slice(int(left / cell), int(right / cell) + 1)
        cells[rows, columns] = 1
    return cells


@pytest.mark.parametrize("resolution", [(256, 512), (64, 128), (100, 77), (7, 9), (300, 1000)])
@pytest.mark.parametrize(
    ("size", "block_size"), [(SIZE, 64), (SIZE, 40), ((250, 500), 128), ((250, 500), 20)]
)
def test_a_mask_covers_the_cells_that_it_touches(detections, resolution, size, block_size):
    grid = (-(-size[0] // block_size), -(-size[1] // block_size))
    geometry = Geometry(size=size, grid=grid, block_size=block_size)
    draw = torch.Generator().manual_seed(resolution[0] + block_size)
    masks = torch.rand(3, *resolution, generator=draw) < 40 / (resolution[0] * resolution[1])
    masks[:, : resolution[0] // 3] = False
    boxes = []
    for mask in masks:
        rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
        rows, columns = rows or [0], columns or [0]
        down, across = size[0] / resolution[0], size[1] / resolution[1]
        corners = (columns[0] * across, rows[0] * down)
        corners += ((columns[-1] + 1) * across, (rows[-1] + 1) * down)
        boxes.append((*corners, 1.0, 0))
    assert masks.any()
    gain = DetectionGain()
    for box, mask in zip(boxes, masks, strict=True):
        output = detections([box], size, mask[None])
        painted = gain.output_map(gain.summarise(output, geometry), geometry)
        assert torch.equal(painted, _touched(mask, size, geometry))


def test_masks_of_one_pixel_do_not_vanish_and_empty_ones_are_skipped(detections):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 70, 130] = True
    boxes = [(120, 60, 150, 80, 0.9, 0), (300, 100, 320, 120, 0.5, 0)]
    gain = DetectionGain()(detections([], SIZE), detections(boxes, SIZE, masks), GEOMETRY)
    _check(gain, _expect({(1, 2): 0.9}))


def test_no_masks_of_no_size(detections):
    # What some networks return where they find nothing.
    nothing = detections([], SIZE, torch.zeros(0, 0, 0, dtype=torch.bool))
    box = [(120, 60, 150, 80, 0.5, 0)]
    found = detections(box, SIZE, torch.ones(1, *SIZE, dtype=torch.bool))
    assert not DetectionGain()(nothing, nothing, GEOMETRY).any()
    for first, second in ((nothing, found), (found, nothing)):
        assert DetectionGain()(first, second, GEOMETRY).max() == 0.5


def test_a_mask_may_reach_one_pixel_out_of_its_box(detections):
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 60:68, 127:193] = True
    after = detections([(128, 64, 192, 68, 0.9, 0)], SIZE, masks)
    painted = DetectionGain().output_map(DetectionGain().summarise(after, GEOMETRY), GEOMETRY)
    assert painted[16].nonzero().flatten().tolist() == list(range(31, 49))


def test_coarse_masks_cover_the_cells_of_their_pixels(detections):
    # 4 x 8 mask pixels, one a block.
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, 2, 3] = True
    after = detections([(192, 128, 256, 192, 0.9, 0)], SIZE, masks)
    gain = DetectionGain("mean")(detections([], SIZE), after, GEOMETRY)
    _check(gain, _expect({(2, 3): 0.9}))


def test_summaries_share_no_memory_with_the_output(detections):
    boxes = [(0, 0, 40, 40, 0.9, 0)]
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[:, :40, :40] = True
    output = detections(boxes, SIZE, masks)
    gain = DetectionGain()
    summary = gain.summarise(output, GEOMETRY)
    for tensor in (output.boxes, output.scores, output.labels, output.masks):
        tensor.zero_()
    again = gain.summarise(
        detections(boxes, SIZE, torch.ones(1, *SIZE, dtype=torch.bool)), GEOMETRY
    )
    for name in ("boxes", "scores", "labels", "regions"):
        assert torch.equal(getattr(summary, name), getattr(again, name))
    assert summary.masks.areas.tolist() == [1600]
    (mask,) = unpack_bitmaps(summary.masks.bits, summary.masks.regions)
    assert mask[:40, :40].all() and mask.sum() == 1600
    # Eight pixels of a mask a byte, around the box only.
    assert summary.masks.bits.numel() < 2 * 1600 / 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_boxes_and_masks_each_come_from_the_gpu_in_one_transfer(detections):
    boxes = [(0, 0, 40, 40, 0.9, 0), (100, 30, 140, 70, 0.5, 2**53 + 1), (9, 9, 9, 9, 0.5, 0)]
    masks = _masks([box[:4] for box in boxes], SIZE)
    labels = torch.tensor([box[5] for box in boxes])
    host = detections([(*box[:5], 0) for box in boxes], SIZE, masks)
    gain, waits, summaries = DetectionGain(), [], []
    for kept in (None, masks):
        output = Detections(
            host.boxes.cuda(),
            host.scores.cuda(),
            labels.cuda(),
            None if kept is None else kept.cuda(),
            SIZE,
        )
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                summaries.append(gain.summarise(output, GEOMETRY))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(warning.message) for warning in seen))
    assert waits == [1, 2]
    expected = gain.summarise(Detections(host.boxes, host.scores, labels, masks, SIZE), GEOMETRY)
    assert torch.equal(summaries[1].boxes, expected.boxes)
    assert summaries[1].labels.tolist() == [0, 2**53 + 1]
    assert torch.equal(summaries[1].masks.bits, expected.masks.bits)
    assert torch.equal(summaries[1].masks.covered, expected.masks.covered)


def test_output_map_is_the_highest_score(detections):
    gain = DetectionGain()
    output = detections([(0, 0, 64, 64, 0.5, 0), (32, 32, 96, 64, 0.9, 1)], SIZE)
    painted = gain.output_map(gain.summarise(output, GEOMETRY), GEOMETRY)
    assert painted.shape == (64, 128)
    expected = torch.zeros(64, 128)
    expected[:16, :16] = 0.5
    expected[8:16, 8:24] = 0.9
    _check(painted, expected)


def test_a_grid_that_reaches_over_the_image(detections):
    geometry = Geometry(size=(100, 150), grid=(2, 3), block_size=64)
    after = detections([(140, 90, 400, 400, 0.9, 0)], (100, 150))
    gain = DetectionGain()(detections([], (100, 150)), after, geometry)
    assert gain.tolist() == [[0, 0, 0], [0, 0, pytest.approx(0.9)]]


def test_detections_of_another_size_raise(detections):
    gain = DetectionGain()
    with pytest.raises(FrameError, match="network's input"):
        gain.summarise(detections([], (480, 640)), GEOMETRY)
    with pytest.raises(FrameError, match="Tensor"):
        gain.summarise(torch.zeros(3, 4, 5), GEOMETRY)


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("masked", [(), (0,), (1,), (0, 1)])
def test_a_change_is_what_the_summaries_say(detections, reduction, masked):
    """With masks or without, and where they come and go."""
    size, outputs = (200, 300), []
    for index in range(3):
        corner = torch.tensor([260, 160]) * torch.rand(12, 2)
        boxes = torch.cat((corner, corner + 8 + 30 * torch.rand(12, 2)), 1)
        labels = torch.randint(0, 3, (12, 1))
        rows = torch.cat((boxes, torch.rand(12, 1), labels), 1).tolist()
        masks = None
        if index % 2 in masked:
            y, x = torch.arange(50)[:, None], torch.arange(75)
            x1, y1, x2, y2 = (boxes / 4).long()[:, :, None, None].unbind(1)
            masks = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        outputs.append(detections(rows, size, masks))
    geometry = Geometry(size, (4, 5), 64)
    grid = torch.ones(4, 5, dtype=torch.bool)
    gain, kept = DetectionGain(reduction), None
    for index, output in enumerate(outputs):
        change = gain.change(kept, output, grid, geometry)
        summary = gain.summarise(output, geometry)
        if index:
            whole = gain.compare(gain.summarise(outputs[index - 1], geometry), summary, geometry)
            torch.testing.assert_close(change.gain, whole)
        else:
            assert change.gain is None
        shown = gain.output_map(summary, geometry).unflatten(1, (-1, 16)).unflatten(0, (-1, 16))
        torch.testing.assert_close(
            change.shown, torch.stack((shown.mean((1, 3)), shown.amax((1, 3))))
        )
        kept = change.keep()
