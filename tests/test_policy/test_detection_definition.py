"""DetectionGain against its definition in plain loops, on whatever detections there may be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.policy import DetectionGain, Detections, Geometry
from tests.test_policy import detection_definition as definition

# (H, W), block size: cells of 4 px and more, of a fraction of a pixel, grids that reach over.
GEOMETRIES = [((64, 96), 32), ((50, 75), 20), ((33, 90), 16), ((128, 64), 64), ((40, 40), 40)]


def geometry_of(size, block_size):
    grid = tuple(-(-side // block_size) for side in size)
    return Geometry(size=size, grid=grid, block_size=block_size)


@st.composite
def coordinates(draw, side):
    """Inside and outside of the image; many equal ones, and any."""
    coarse = st.integers(-2, 10).map(lambda step: step * side / 8)
    return draw(coarse | coarse | st.floats(-side, 2 * side, width=32))


@st.composite
def rows(draw, size):
    """A detection; one in some is degenerate."""
    x1, y1 = draw(coordinates(size[1])), draw(coordinates(size[0]))
    x2, y2 = draw(coordinates(size[1])), draw(coordinates(size[0]))
    if draw(st.integers(0, 9)):
        x1, x2 = min(x1, x2), max(x1, x2)
        y1, y2 = min(y1, y2), max(y1, y2)
    score = draw(st.sampled_from([0.25, 0.5, 1.0, 0.0, -0.5]) | st.floats(0, 1, width=32))
    return x1, y1, x2, y2, score, draw(st.sampled_from([0, 0, 1, -7, 2**40]))


def detections_of(table, size, resolution, seed):
    boxes = torch.tensor([row[:4] for row in table], dtype=torch.float32).reshape(-1, 4)
    masks = None
    if resolution is not None:
        draw = torch.Generator().manual_seed(seed)
        density = torch.rand(len(table), 1, 1, generator=draw) ** 3
        masks = torch.rand(len(table), *resolution, generator=draw) < density
    return Detections(
        boxes=boxes,
        scores=torch.tensor([row[4] for row in table], dtype=torch.float32),
        labels=torch.tensor([row[5] for row in table], dtype=torch.int64),
        masks=masks,
        size=size,
    )


@st.composite
def scenes(draw):
    """Detections of two frames: some kept, some moved, some new; with masks or without."""
    size, block_size = draw(st.sampled_from(GEOMETRIES))
    before = draw(st.lists(rows(size), max_size=12))
    now = []
    for row in before:
        step = draw(st.sampled_from([0.0, 0.0, 1.5, size[1] / 8, None]))
        if step is not None:
            now.append((row[0] + step, row[1], row[2] + step, *row[3:]))
    now += draw(st.lists(rows(size), max_size=5))
    now = draw(st.permutations(now))
    resolutions = [None, (size[0] // 4, size[1] // 4), size, (7, 9)]
    first = draw(st.sampled_from(resolutions))
    second = draw(st.sampled_from([first, first, *resolutions]))
    outputs = [
        detections_of(table, size, resolution, draw(st.integers(0, 2**20)))
        for table, resolution in ((before, first), (now, second))
    ]
    return geometry_of(size, block_size), *outputs


def check(geometry, previous, current, reduction="max"):
    gain = DetectionGain(reduction)
    summaries = [gain.summarise(output, geometry) for output in (previous, current)]
    painted = gain.output_map(summaries[1], geometry)
    expected = definition.output_map(current, geometry)
    torch.testing.assert_close(painted, expected, atol=1e-7, rtol=1e-6)
    changes = gain.gain_map(*summaries, geometry)
    expected = definition.gain_map(previous, current, geometry)
    torch.testing.assert_close(changes, expected, atol=1e-7, rtol=1e-6)
    found = gain.compare(*summaries, geometry)
    expected = definition.gain(previous, current, geometry, reduction)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    return found


@settings(max_examples=150, deadline=None)
@given(scenes(), st.sampled_from(["max", "mean"]))
def test_any_two_frames(scene, reduction):
    check(*scene, reduction)


@pytest.mark.parametrize("resolution", [None, (24, 48)])
def test_hundreds_of_detections_of_many_classes(resolution):
    size = (96, 192)
    geometry = geometry_of(size, 32)
    draw = torch.Generator().manual_seed(3)
    count = 300 if resolution is None else 60
    corner = torch.rand(count, 2, generator=draw) * torch.tensor([180.0, 90.0])
    side = 1 + 25 * torch.rand(count, 2, generator=draw)
    labels = torch.randint(0, 20, (count,), generator=draw)
    # Scores in few steps: many are equal.
    scores = torch.randint(0, 10, (2, count), generator=draw) / 10
    outputs = []
    for time in (0, 1):
        boxes = torch.cat((corner, corner + side), 1)
        boxes = boxes + time * torch.randint(-3, 4, (count, 1), generator=draw)
        masks = None
        if resolution is not None:
            masks = torch.rand(count, *resolution, generator=draw) < 0.5
        outputs.append(Detections(boxes, scores[time], labels, masks, size))
    gain = check(geometry, *outputs)
    assert (gain > 0).all()
    # Half of them gone: in other places and in another order.
    chosen = torch.randperm(count, generator=draw)[: count // 2]
    fields = (outputs[1].boxes, outputs[1].scores, outputs[1].labels)
    masks = None if resolution is None else outputs[1].masks[chosen]
    check(geometry, outputs[0], Detections(*(f[chosen] for f in fields), masks, size))
    check(geometry, Detections(*(f[chosen] for f in fields), masks, size), outputs[0])


def test_thousands_of_boxes_that_nearly_all_fill_the_image():
    # The strongest paint, the first of equals, and pairs without end; the answer is known by hand.
    size = (64, 128)
    geometry = geometry_of(size, 32)
    count = 3000
    whole = torch.tensor([0.0, 0.0, 128.0, 64.0]).expand(count, 4).clone()
    corner = whole.clone()
    corner[-1] = torch.tensor([100.0, 40.0, 110.0, 50.0])
    ones, labels = torch.full((count,), 0.5), torch.zeros(count, dtype=torch.int64)
    before = Detections(whole, ones, labels, None, size)
    now = Detections(corner, ones, labels, None, size)
    # The first of `before` is the match of all; the others have gone.
    assert torch.equal(DetectionGain()(before, now, geometry), torch.full((2, 4), 0.5))
    # One box matches itself; the small one covers 100 of 8192 pixels.
    one = Detections(whole[:1], ones[:1], labels[:1], None, size)
    expected = torch.full((2, 4), 0.5 * (1 - 100 / 8192))
    torch.testing.assert_close(DetectionGain()(one, now, geometry), expected)
    assert not DetectionGain()(one, Detections(whole, ones, labels, None, size), geometry).any()
