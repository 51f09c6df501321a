"""Overlays against pixel loops and literal expectations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from blockcopy_plugins.errors import ConfigError, FrameError, GridError  # noqa: E402
from blockcopy_plugins.visualization import draw_blocks, draw_detections  # noqa: E402
from blockcopy_plugins.visualization.palette import key_colour  # noqa: E402


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def executed_pixels(grid: np.ndarray, block: tuple[float, float], size: tuple[int, int]):
    """By the definition: a pixel belongs to the block that its centre lies in."""
    mask = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            mask[y, x] = grid[math.floor((y + 0.5) / block[0]), math.floor((x + 0.5) / block[1])]
    return mask


@pytest.mark.parametrize(
    ("size", "block", "shape"),
    [
        ((40, 60), 10, (4, 6)),
        ((45, 61), 10, (5, 7)),  # a part of a block at the edges
        ((45, 61), (12.5, 7.7), (4, 8)),  # the image was resized
        ((40, 60), 16, (4, 5)),  # the grid reaches past the image
    ],
)
def test_executed_pixels_stay_and_skipped_ones_turn_dark(size, block, shape):
    image = noise(*size)
    grid = np.random.default_rng(1).random(shape) < 0.5
    before = image.copy()
    drawn = draw_blocks(image, grid, block, line_colour=None, brightness=0.5, saturation=0.0)
    np.testing.assert_array_equal(image, before)
    blocks = block if isinstance(block, tuple) else (block, block)
    executed = executed_pixels(grid, blocks, size)
    assert executed.any() and not executed.all()
    np.testing.assert_array_equal(drawn[executed], image[executed])
    luma = image.astype(float) @ (0.299, 0.587, 0.114)
    expected = 0.5 * np.repeat(luma[..., None], 3, axis=2)
    assert np.abs(drawn.astype(float) - expected)[~executed].max() <= 1.5


def test_the_line_lies_in_the_skipped_blocks_beside_executed_ones():
    image = np.full((40, 40, 3), 100, np.uint8)
    grid = torch.zeros(4, 4, dtype=torch.bool)
    grid[1, 1] = grid[1, 2] = True
    line = (1, 255, 2)
    drawn = draw_blocks(image, grid, 10, line_colour=line, line_width=2)
    expected = np.zeros((40, 40), bool)
    expected[8:22, 8:32] = True
    expected[10:20, 10:30] = False
    np.testing.assert_array_equal((drawn == line).all(axis=2), expected)
    assert (drawn[10:20, 10:30] == 100).all()


def test_a_fully_executed_frame_is_returned_as_it_is_but_not_the_same_array():
    image = noise(20, 20)
    drawn = draw_blocks(image, np.ones((2, 2), bool), 10)
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_nothing_executed_draws_no_line():
    image = np.full((20, 20, 3), 100, np.uint8)
    drawn = draw_blocks(image, np.zeros((2, 2), bool), 10, brightness=0.5)
    assert (drawn == 50).all()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.ones((3, 4), bool), "3 rows of 10 px, which do not cover an image of 40 px"),
        (np.ones((4, 3), bool), "3 columns"),
        (np.ones((4, 4), np.uint8), "must be bool"),
        (np.ones((1, 4, 4), bool), r"\(GH, GW\)"),
    ],
)
def test_a_grid_that_does_not_fit_is_an_error(grid, message):
    with pytest.raises(GridError, match=message):
        draw_blocks(noise(40, 40), grid, 10)


@pytest.mark.parametrize("block", [0, -1.0, float("nan"), (1, 2, 3)])
def test_a_block_size_that_is_none_is_an_error(block):
    with pytest.raises(ConfigError, match="block_size"):
        draw_blocks(noise(40, 40), np.ones((4, 4), bool), block)


def test_what_is_no_image_is_an_error():
    with pytest.raises(FrameError, match="float32"):
        draw_blocks(np.zeros((40, 40, 3), np.float32), np.ones((4, 4), bool), 10)
    with pytest.raises(FrameError, match=r"\(3, 40, 40\)"):
        draw_detections(np.zeros((3, 40, 40), np.uint8), np.zeros((0, 4)))
    with pytest.raises(ConfigError, match="brightness"):
        draw_blocks(noise(40, 40), np.ones((4, 4), bool), 10, brightness=1.5)


def test_no_detections_change_nothing():
    image = noise(30, 30)
    drawn = draw_detections(image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    np.testing.assert_array_equal(drawn, image)


def test_a_box_is_a_rectangle_of_its_class_colour_and_nothing_else():
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_detections(image, torch.tensor([[20.0, 10.0, 50.0, 40.0]]), line_width=1)
    expected = np.zeros((60, 80), bool)
    expected[10:41, 20:51] = True
    expected[11:40, 21:50] = False
    np.testing.assert_array_equal(drawn[expected], [key_colour(0)] * int(expected.sum()))
    assert (drawn[~expected] == 0).all()
    assert (image == 0).all()


def test_detections_below_the_threshold_are_left_out():
    boxes = np.array([[5, 5, 20, 20], [40, 40, 55, 55]], np.float32)
    image = np.zeros((60, 60, 3), np.uint8)
    kept = draw_detections(image, boxes, np.array([0.2, 0.5]), score_threshold=0.3)
    assert (kept[:22, :22] == 0).all()
    assert kept[40:, 40:].any()
    none = draw_detections(image, boxes, np.array([0.2, 0.5]), score_threshold=0.6)
    assert (none == 0).all()


def test_a_mask_tints_its_pixels_alone():
    image = noise(40, 50)
    mask = np.zeros((1, 40, 50), bool)
    mask[0, 10:30, 15:35] = True
    drawn = draw_detections(
        image, np.zeros((1, 4)) - 100, masks=torch.from_numpy(mask), mask_opacity=0.5
    )
    np.testing.assert_array_equal(drawn[~mask[0]], image[~mask[0]])
    inside = np.zeros((40, 50), bool)
    inside[11:29, 16:34] = True  # without the outline
    expected = 0.5 * image[inside] + 0.5 * np.array(key_colour(0))
    assert np.abs(drawn[inside] - expected).max() <= 1
    np.testing.assert_array_equal(drawn[10, 15:35], [key_colour(0)] * 20)


def test_a_mask_of_half_the_size_covers_the_same_place():
    image = noise(40, 60)
    full = np.zeros((1, 40, 60), bool)
    full[0, 8:20, 10:40] = True
    half = full[:, ::2, ::2]
    off = np.full((1, 4), -100.0)
    np.testing.assert_array_equal(
        draw_detections(image, off, masks=full), draw_detections(image, off, masks=half)
    )


def test_an_empty_mask_and_boxes_far_outside_draw_nothing():
    image = noise(30, 30)
    boxes = np.array([[-1e9, -1e9, -1e8, -1e8], [np.nan, 1e30, np.inf, 1e30]])
    drawn = draw_detections(image, boxes, masks=np.zeros((2, 30, 30), bool))
    np.testing.assert_array_equal(drawn[1:, 1:], image[1:, 1:])


def test_colours_belong_to_the_label_or_to_the_instance():
    image = np.zeros((80, 160, 3), np.uint8)
    boxes = np.array([[10, 40, 60, 70], [90, 40, 140, 70]], np.float32)

    def corners(**kwargs):
        drawn = draw_detections(image, boxes, line_width=1, **kwargs)
        return [tuple(int(v) for v in drawn[70, x]) for x in (60, 140)]

    assert corners(labels=np.array([3, 3])) == [key_colour(3)] * 2
    assert corners(labels=np.array([3, 8])) == [key_colour(3), key_colour(8)]
    ids = np.array([7, 11])
    assert corners(labels=np.array([3, 3]), instance_ids=ids) == [key_colour(7), key_colour(11)]
    assert corners(labels=np.array([3, 3]), bgr=True) == [key_colour(3)[::-1]] * 2


def test_the_first_colours_are_far_apart():
    colours = np.array([key_colour(i) for i in range(8)], float)
    distance = np.abs(colours[:, None] - colours[None]).max(axis=2)
    assert distance[~np.eye(8, dtype=bool)].min() >= 40


def test_labels_of_neighbours_do_not_overlap():
    """Each of two labels for nearly one place shows as many pixels as it does alone."""
    image = np.zeros((120, 240, 3), np.uint8)
    boxes = np.array([[60, 50, 90, 80], [70, 50, 100, 80]], np.float32)
    scores, labels = np.array([0.9, 0.8]), np.array([0, 4])

    def label_pixels(chosen: list[int], label: int) -> int:
        """Pixels of the label's background, which the same picture without labels lacks."""
        drawn = draw_detections(
            image,
            boxes[chosen],
            scores[chosen],
            labels=labels[chosen],
            class_names=["person"] * 5,
            line_width=1,
        )
        plain = draw_detections(image, boxes, instance_ids=labels, line_width=1)
        colour = key_colour(label)
        return int(((drawn == colour).all(axis=2) & (plain == 0).all(axis=2)).sum())

    for i, label in enumerate(labels.tolist()):
        alone = label_pixels([i], label)
        assert alone > 300
        # At another side of the box a label may cover a few more or less pixels of the box lines.
        assert label_pixels([0, 1], label) > 0.9 * alone


def test_a_label_at_the_edge_is_moved_into_the_picture():
    image = np.zeros((60, 60, 3), np.uint8)
    scores = np.array([0.75])
    for box in ([0, 0, 20, 59], [45, 0, 59, 20], [-30, -30, 90, 90]):
        boxes = np.array([box], np.float32)
        words = draw_detections(image, boxes, scores) != draw_detections(image, boxes)
        rows, columns, _ = np.nonzero(words)
        assert len(rows) > 50
        assert columns.max() - columns.min() >= 15  # the whole width of "0.75", not a rest


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"boxes": np.zeros((2, 5))}, r"boxes must have shape \(K, 4\)"),
        ({"scores": np.zeros(3)}, r"scores must have shape \(2,\)"),
        ({"labels": np.zeros((2, 1), int)}, "labels"),
        ({"instance_ids": np.zeros(1, int)}, "instance_ids"),
        ({"masks": np.zeros((1, 30, 30), bool)}, r"masks must have shape \(2, h, w\)"),
    ],
)
def test_shapes_that_do_not_fit_are_errors(kwargs, message):
    arguments = {"boxes": np.zeros((2, 4)), "scores": np.ones(2), **kwargs}
    with pytest.raises(FrameError, match=message):
        draw_detections(noise(30, 30), **arguments)
