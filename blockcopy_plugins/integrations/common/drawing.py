"""Draws what a model found in a frame, and the blocks that were executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...datasets.live_frame import DecodedFrame
from ...visualization import FrameCaption
from ...visualization.caption import bar_height, caption_bar
from ...visualization.overlay import blocks_onto, detections_onto
from ...visualization.segmentation import segmentation_onto
from ...visualization.yuv_picture import YuvPicture


def draw_frame(
    frame: np.ndarray,
    grid: Tensor,
    block: tuple[float, float],
    caption: FrameCaption,
    classes_of_pixels: Tensor | None = None,
    found: Sequence[Any] | None = None,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    score_threshold: float = 0.3,
    decoded: DecodedFrame | None = None,
) -> YuvPicture:
    """Draw executed blocks, and whichever there are of classes of pixels, boxes and masks.

    Skipped blocks are dark and nearly grey. A bar of figures is below.

    Args:
        frame: The original frame, uint8 ``(H, W, 3)``, BGR.
        grid: bool ``(GH, GW)``, True = executed.
        block: Height and width of a block, px of the frame.
        caption: The figures.
        classes_of_pixels: Class numbers ``(H, W)``.
        found: Boxes, scores, labels, and masks or ``None``, in pixels of the frame, as
            :func:`~blockcopy_plugins.visualization.draw_detections` takes them.
        classes: Names of the classes of boxes.
        palette: Colours of the classes of pixels, RGB.
        score_threshold: Lowest score of detections that are drawn.
        decoded: The frame as FFmpeg's decoder gave it, if that is known: it needs no conversion.

    Returns:
        A new picture; heights and widths that are odd are rounded up.
    """
    height, width = frame.shape[:2]
    source = None if decoded is None else YuvPicture.of_decoded(decoded.frame)
    if source is None or source.shape != (height, width):
        source = YuvPicture.of_array(frame, bgr=True)
    top = source.shape[0]
    whole = YuvPicture.empty(top + bar_height(width), source.shape[1], source.matrix)
    picture = whole.part(0, height, 0, width)
    blocks_onto(picture, source.part(0, height, 0, width), grid, block)
    if classes_of_pixels is not None:
        segmentation_onto(picture, classes_of_pixels, palette=palette)
    if found is not None:
        detections_onto(picture, *found, class_names=classes, score_threshold=score_threshold)
    # What was added to make an odd size even.
    luma = whole.planes[0]
    luma[height:top] = luma[height - 1 : height]
    luma[:, width:] = luma[:, width - 1 : width]
    whole.paste(whole.in_planes(caption_bar(whole.shape[1], caption)), top, 0)
    return whole
