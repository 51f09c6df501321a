"""Executed blocks and results, drawn on a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError, GridError
from blockcopy_plugins.visualization._checks import check_image, describe, to_numpy
from blockcopy_plugins.visualization.canvas import ArrayCanvas, Box, Canvas
from blockcopy_plugins.visualization.palette import key_colour
from blockcopy_plugins.visualization.text import Colour, text_colour_on


def draw_blocks(
    image: np.ndarray,
    grid: Any,
    block_size: float | tuple[float, float] = 128,
    *,
    brightness: float = 0.6,
    saturation: float = 0.25,
    line_colour: Colour | None = (255, 200, 0),
    line_width: int = 2,
) -> np.ndarray:
    """Shows which blocks were executed: skipped ones turn dark and nearly grey.

    Executed blocks keep every pixel as it is; the line around them runs through the skipped ones.

    Args:
        image (np.ndarray): uint8 (H, W, 3), any channel order (RGB is assumed for grey only).
        grid (Tensor | np.ndarray): bool (GH, GW), True = executed. It may reach beyond the image,
            as it does if the network's input was padded, but must cover it.
        block_size (float | tuple[float, float]): A block's size in pixels **of this image**, one
            number or (height, width). If the network saw the image resized by a factor s, it is the
            network's block size divided by s.
        brightness (float): Factor on skipped pixels, 0 to 1. Defaults to 0.6.
        saturation (float): How much of their colour skipped pixels keep, 0 to 1. Defaults to 0.25.
        line_colour (tuple | None): Colour of the line around executed areas, in the image's channel
            order; None draws none.
        line_width (int): Its width in px. Defaults to 2.

    Returns:
        np.ndarray: A new picture, uint8 (H, W, 3).

    Raises:
        FrameError: If the image is not uint8 (H, W, 3).
        GridError: If the grid is not bool (GH, GW) or does not cover the image.
        ConfigError: If ``block_size`` is not above 0, or a factor is not from 0 to 1.
    """
    check_image(image)
    target, source = np.empty_like(image, order="C"), np.ascontiguousarray(image)
    blocks_onto(
        ArrayCanvas(target),
        ArrayCanvas(source),
        grid,
        block_size,
        brightness=brightness,
        saturation=saturation,
        line_colour=line_colour,
        line_width=line_width,
    )
    return target


def blocks_onto(
    target: Canvas,
    source: Canvas,
    grid: Any,
    block_size: float | tuple[float, float],
    *,
    brightness: float = 0.6,
    saturation: float = 0.25,
    line_colour: Colour | None = (255, 200, 0),
    line_width: int = 2,
) -> None:
    """Like :func:`draw_blocks`, from one canvas to another one of its kind and size."""
    for name, factor in (("brightness", brightness), ("saturation", saturation)):
        if not 0 <= factor <= 1:
            raise ConfigError(f"{name} must be from 0 to 1, but got {factor}")
    executed = _executed_boxes(grid, _block_shape(block_size), source.shape)
    whole = (0, 0, *source.shape)
    if executed == [whole]:
        target.copy_from(source, whole)
        return
    target.darken(source, brightness, saturation)
    if line_colour is not None and line_width > 0:
        for top, left, bottom, right in executed:
            grown = (top - line_width, left - line_width, bottom + line_width, right + line_width)
            target.fill(grown, line_colour)
    for box in executed:
        target.copy_from(source, box)


def draw_detections(
    image: np.ndarray,
    boxes: Any,
    scores: Any | None = None,
    labels: Any | None = None,
    masks: Any | None = None,
    *,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    instance_ids: Any | None = None,
    mask_opacity: float = 0.45,
    line_width: int = 2,
    text_size: int = 13,
    bgr: bool = False,
) -> np.ndarray:
    """Draws boxes, masks and labels, the detection with the highest score on top.

    A colour belongs to a class, or to an instance if ``instance_ids`` are given, and is the same in
    every frame.

    Args:
        image (np.ndarray): uint8 (H, W, 3), RGB (BGR with ``bgr=True``).
        boxes (Tensor | np.ndarray): (K, 4), xyxy in pixels of this image.
        scores (Tensor | np.ndarray | None): (K,), 0 to 1. None draws all boxes without a number.
        labels (Tensor | np.ndarray | None): (K,) integers. None: all are class 0, unnamed.
        masks (Tensor | np.ndarray | None): bool (K, h, w), each covering the whole image; if their
            size differs from the image's, they are resized.
        class_names (Sequence[str] | None): Names by label. None, or a label beyond them, draws the
            label's number.
        score_threshold (float): Detections below are left out. Defaults to 0.3.
        instance_ids (Tensor | np.ndarray | None): (K,) integers that stay with an object over the
            frames; they determine the colours instead of the labels.
        mask_opacity (float): How much a mask covers, 0 to 1. Defaults to 0.45.
        line_width (int): Width of boxes in px. Defaults to 2.
        text_size (int): Type size in px. Defaults to 13.
        bgr (bool): The image is BGR. Defaults to False.

    Returns:
        np.ndarray: A new picture, uint8 (H, W, 3).

    Raises:
        FrameError: If the image is not uint8 (H, W, 3), or boxes, scores, labels, masks or ids have
            another shape or length.
        ConfigError: If ``mask_opacity`` is not from 0 to 1.
    """
    check_image(image)
    picture = np.array(image, order="C")
    detections_onto(
        ArrayCanvas(picture, bgr),
        boxes,
        scores,
        labels,
        masks,
        class_names=class_names,
        score_threshold=score_threshold,
        instance_ids=instance_ids,
        mask_opacity=mask_opacity,
        line_width=line_width,
        text_size=text_size,
    )
    return picture


def detections_onto(
    canvas: Canvas,
    boxes: Any,
    scores: Any | None = None,
    labels: Any | None = None,
    masks: Any | None = None,
    *,
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    instance_ids: Any | None = None,
    mask_opacity: float = 0.45,
    line_width: int = 2,
    text_size: int = 13,
) -> None:
    """Like :func:`draw_detections`, on a canvas, in place."""
    if not 0 <= mask_opacity <= 1:
        raise ConfigError(f"mask_opacity must be from 0 to 1, but got {mask_opacity}")
    boxes = to_numpy(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise FrameError(
            f"boxes must have shape (K, 4), xyxy in image pixels, but got {describe(boxes)}"
        )
    # OpenCV refuses coordinates beyond 16 bits; a box that far away is outside the picture.
    boxes = np.clip(np.nan_to_num(boxes), -30000, 30000).astype(int).tolist()
    count = len(boxes)
    scores = _per_box(scores, count, "scores")
    labels = _per_box(labels, count, "labels")
    instance_ids = _per_box(instance_ids, count, "instance_ids")
    if masks is not None:
        masks = to_numpy(masks)
        if masks.ndim != 3 or len(masks) != count:
            raise FrameError(f"masks must have shape ({count}, h, w), but got {describe(masks)}")

    order = np.arange(count) if scores is None else np.argsort(scores, kind="stable")
    shown = [int(i) for i in order if scores is None or scores[i] >= score_threshold]
    keys = instance_ids if instance_ids is not None else labels
    colours = {i: key_colour(0 if keys is None else int(keys[i])) for i in shown}

    if masks is not None:
        for i in shown:
            _tint_mask(canvas, masks[i], boxes[i], colours[i], mask_opacity)
    for i in shown:
        canvas.outline(*boxes[i], colours[i], line_width)
    taken: list[tuple[int, int, int, int]] = []
    # After all boxes, so that no line crosses a text; the best first, as it has the first choice.
    for i in reversed(shown):
        words = [] if labels is None else [_class_name(int(labels[i]), class_names)]
        if scores is not None:
            words.append(f"{float(scores[i]):.2f}")
        if words:
            foreground = text_colour_on(colours[i])
            patch = canvas.text(" ".join(words), text_size, foreground, colours[i], (0, 3))
            place = _label_place(patch[0].shape, canvas.shape, boxes[i], line_width, taken)
            canvas.paste(patch, place[0], place[1])
            taken.append(place)


def _block_shape(block_size: float | tuple[float, float]) -> tuple[float, float]:
    if isinstance(block_size, (tuple, list)):
        sizes = tuple(float(size) for size in block_size)
    else:
        sizes = (float(block_size),) * 2
    if len(sizes) != 2 or not all(size > 0 and math.isfinite(size) for size in sizes):
        raise ConfigError(
            "block_size must be a number of image pixels above 0, or (height, width), "
            f"but got {block_size}"
        )
    return sizes


def _executed_boxes(grid: Any, block: tuple[float, float], size: tuple[int, int]) -> list[Box]:
    """Rectangles of the pixels whose centres lie in executed blocks, largest runs together."""
    grid = to_numpy(grid)
    if grid.ndim != 2 or grid.dtype != np.bool_ or grid.size == 0:
        raise GridError(
            f"grid must be bool of shape (GH, GW), one image's, but got {describe(grid)}; "
            "for a batch pass grid[i] with image i"
        )
    edges = []
    for axis, name in ((0, "rows"), (1, "columns")):
        # The half pixel allows for the rounding of a resized image.
        if grid.shape[axis] * block[axis] < size[axis] - 0.5:
            raise GridError(
                f"the grid has {grid.shape[axis]} {name} of {block[axis]:g} px, which do not cover "
                f"an image of {size[axis]} px; block_size is counted in pixels of this image: "
                "divide the network's block size by the factor that the image was resized with"
            )
        edges.append(_edges(size[axis], grid.shape[axis], block[axis]))
    rows, columns = edges
    boxes: list[Box] = []
    begun: dict[tuple[int, int], int] = {}  # first row of the runs of blocks that go on
    framed = np.pad(grid.astype(np.int8), ((0, 1), (1, 1)))
    for row, changes in enumerate(framed[:, 1:] != framed[:, :-1]):
        ends = np.flatnonzero(changes).tolist()
        runs = list(zip(ends[::2], ends[1::2], strict=True))
        for left, right in begun.keys() - runs:
            boxes.append((rows[begun.pop((left, right))], columns[left], rows[row], columns[right]))
        for run in runs:
            begun.setdefault(run, row)
    return [box for box in boxes if box[0] < box[2] and box[1] < box[3]]


@lru_cache(maxsize=16)
def _edges(length: int, blocks: int, block: float) -> tuple[int, ...]:
    """The first pixel of each block along an axis, and the end of the axis."""
    cells = ((np.arange(length) + 0.5) / block).astype(np.int64)
    return (*np.searchsorted(cells, np.arange(blocks)).tolist(), length)


def _per_box(values: Any | None, count: int, name: str) -> np.ndarray | None:
    if values is None:
        return None
    values = to_numpy(values)
    if values.shape != (count,):
        raise FrameError(
            f"{name} must have shape ({count},), one for each box, but got {describe(values)}"
        )
    return values


def _class_name(label: int, class_names: Sequence[str] | None) -> str:
    if class_names is not None and 0 <= label < len(class_names):
        return str(class_names[label])
    return str(label)


def _tint_mask(
    canvas: Canvas, mask: np.ndarray, box: Sequence[int], colour: Colour, opacity: float
) -> None:
    """Tints the pixels of a mask and draws its outline."""
    height, width = canvas.shape
    mask = mask.view(np.uint8) if mask.dtype == np.bool_ else (mask != 0).view(np.uint8)
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    # Only where the mask is: it is the size of the picture, and most of it is empty. Counting is
    # the quickest way to know that nothing is outside of the box.
    left, top = (max(side - 2, 0) & ~1 for side in box[:2])
    right, bottom = (max(side + 3, 0) for side in box[2:])
    inside = mask[top:bottom, left:right]
    if inside.size == 0 or cv2.countNonZero(inside) < cv2.countNonZero(mask):
        x, y, columns, rows = cv2.boundingRect(mask)
        left, top = x & ~1, y & ~1
        inside = mask[top : y + rows, left : x + columns]
    if inside.size:
        canvas.tint(inside, top, left, colour, opacity)


def _label_place(
    patch: tuple[int, ...],
    picture: tuple[int, ...],
    box: Sequence[int],
    line_width: int,
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Finds a place for a label at its box: (top, left, bottom, right) in px.

    The candidates are on top of the box, below it, and inside. The first one in the picture and
    free of other labels is taken; failing that, the first one in the picture.
    """
    x0, y0, x1, y1 = box
    half = (line_width + 1) // 2
    height, width = patch[:2]
    at_left = max(min(x0 - half, picture[1] - width), 0)
    at_right = max(min(x1 + half - width + 1, picture[1] - width), 0)
    above, below, inside = y0 - half - height + 1, y1 + half, max(y0 + half, 0)
    places = [
        (top, left, top + height, left + width)
        for top, left in (
            (above, at_left),
            (above, at_right),
            (below, at_left),
            (below, at_right),
            (inside, at_left),
        )
        if top >= 0 and top + height <= picture[0]
    ]
    for place in places:
        if not any(_overlap(place, other) for other in taken):
            return place
    return places[0] if places else (0, at_left, height, at_left + width)


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )
