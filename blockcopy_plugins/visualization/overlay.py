"""Executed blocks and results, drawn on a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError, FrameError, GridError
from blockcopy_plugins.visualization._checks import check_image, describe, to_numpy
from blockcopy_plugins.visualization.palette import key_colour
from blockcopy_plugins.visualization.text import Colour, paste, text_colour_on, text_patch


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
    for name, factor in (("brightness", brightness), ("saturation", saturation)):
        if not 0 <= factor <= 1:
            raise ConfigError(f"{name} must be from 0 to 1, but got {factor}")
    executed = _pixel_mask(grid, _block_shape(block_size), image.shape[:2])
    if executed.all():
        return image.copy()

    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture = cv2.addWeighted(
        image, saturation * brightness, grey, (1 - saturation) * brightness, 0.0
    )
    if line_colour is not None and line_width > 0:
        reach = np.ones((2 * line_width + 1, 2 * line_width + 1), np.uint8)
        line = (cv2.dilate(executed, reach) - executed).view(bool)
        # Places of the few pixels are found and written much sooner than a mask is.
        picture.reshape(-1, 3)[np.flatnonzero(line)] = line_colour
    return cv2.copyTo(image, executed, picture)


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

    def as_drawn(colour: Colour) -> Colour:
        return colour[::-1] if bgr else colour

    picture = image.copy()
    if masks is not None:
        for i in shown:
            _blend_mask(picture, masks[i], as_drawn(colours[i]), mask_opacity)
    for i in shown:
        x0, y0, x1, y1 = boxes[i]
        cv2.rectangle(picture, (x0, y0), (x1, y1), as_drawn(colours[i]), line_width)
    taken: list[tuple[int, int, int, int]] = []
    # After all boxes, so that no line crosses a text; the best first, as it has the first choice.
    for i in reversed(shown):
        words = [] if labels is None else [_class_name(int(labels[i]), class_names)]
        if scores is not None:
            words.append(f"{float(scores[i]):.2f}")
        if words:
            foreground, background = text_colour_on(colours[i]), as_drawn(colours[i])
            patch = text_patch(" ".join(words), text_size, foreground, background, padding=(0, 3))
            place = _label_place(patch.shape, picture.shape, boxes[i], line_width, taken)
            paste(picture, patch, place[0], place[1])
            taken.append(place)
    return picture


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


def _pixel_mask(grid: Any, block: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W), 1 where the pixel's centre lies in an executed block, 0 elsewhere."""
    grid = to_numpy(grid)
    if grid.ndim != 2 or grid.dtype != np.bool_ or grid.size == 0:
        raise GridError(
            f"grid must be bool of shape (GH, GW), one image's, but got {describe(grid)}; "
            "for a batch pass grid[i] with image i"
        )
    cells = []
    for axis, name in ((0, "rows"), (1, "columns")):
        # The half pixel allows for the rounding of a resized image.
        if grid.shape[axis] * block[axis] < size[axis] - 0.5:
            raise GridError(
                f"the grid has {grid.shape[axis]} {name} of {block[axis]:g} px, which do not cover "
                f"an image of {size[axis]} px; block_size is counted in pixels of this image: "
                "divide the network's block size by the factor that the image was resized with"
            )
        index = ((np.arange(size[axis]) + 0.5) / block[axis]).astype(np.int64)
        cells.append(np.minimum(index, grid.shape[axis] - 1))
    return np.ascontiguousarray(grid[cells[0]][:, cells[1]]).view(np.uint8)


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


def _blend_mask(picture: np.ndarray, mask: np.ndarray, colour: Colour, opacity: float) -> None:
    """Tints the pixels of a mask in place and draws its outline."""
    mask = np.ascontiguousarray(mask)
    mask = mask.view(np.uint8) if mask.dtype == np.bool_ else mask.astype(np.uint8)
    height, width = picture.shape[:2]
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    rows = np.flatnonzero(mask.any(1))
    if len(rows) == 0:
        return
    band = mask[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(band.any(0))
    # Only where the mask is: it is the size of the picture, and most of it is empty.
    inside = np.ascontiguousarray(band[:, columns[0] : columns[-1] + 1])
    region = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    tint = np.empty_like(region)
    tint[:] = colour
    blended = cv2.addWeighted(region, 1 - opacity, tint, opacity, 0.0)
    region[:] = cv2.copyTo(blended, inside, region.copy())
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(region, outlines, -1, colour, 1)


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
