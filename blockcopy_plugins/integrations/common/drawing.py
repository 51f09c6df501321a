"""Draws what a model found in a frame, and the blocks that were executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...visualization import draw_blocks, draw_detections, draw_segmentation


def draw_frame(
    picture: np.ndarray,
    grid: Tensor,
    block: tuple[float, float],
    classes_of_pixels: Tensor | None = None,
    found: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Draw executed blocks, and whichever there are of classes of pixels, boxes and masks.

    Skipped blocks are dark and nearly grey.

    Args:
        picture: The original frame, uint8 ``(H, W, 3)``, BGR.
        grid: bool ``(GH, GW)``, True = executed.
        block: Height and width of a block, px of the picture.
        classes_of_pixels: Class numbers ``(H, W)``.
        found: Boxes, scores, labels, and masks or ``None``, in pixels of the picture, as
            :func:`~blockcopy_plugins.visualization.draw_detections` takes them.
        classes: Names of the classes of boxes.
        palette: Colours of the classes of pixels, RGB.
        score_threshold: Lowest score of detections that are drawn.

    Returns:
        A new picture, uint8 ``(H, W, 3)``, BGR.
    """
    picture = draw_blocks(picture, grid, block, line_colour=(0, 200, 255))
    if classes_of_pixels is not None:
        picture = draw_segmentation(picture, classes_of_pixels, palette=palette, bgr=True)
    if found is not None:
        picture = draw_detections(
            picture, *found, class_names=classes, score_threshold=score_threshold, bgr=True
        )
    return picture
