"""Draws the output of a Detectron2 model on its frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...datasets.live_frame import DecodedFrame
from ...visualization import FrameCaption
from ...visualization.yuv_picture import YuvPicture
from ..common.drawing import draw_frame
from .adapter import upright_boxes


def draw_outputs(
    picture: np.ndarray,
    outputs: Mapping[str, Any],
    grid: Tensor,
    block_size: int,
    input_size: Sequence[int],
    caption: FrameCaption,
    classes: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    score_threshold: float = 0.3,
    decoded: DecodedFrame | None = None,
) -> YuvPicture:
    """Draw what the outputs contain; see also :func:`~..common.drawing.draw_frame`.

    Args:
        picture: The original frame, uint8 ``(H, W, 3)``, BGR.
        outputs: The model's output for it, in pixels of the original frame.
        grid: bool ``(GH, GW)``, True = executed.
        block_size: Side of a block in pixels of the network input.
        input_size: ``(h, w)`` of the network input, px, without its padding.
        caption: The figures below it.
        classes: Names of the classes of things.
        palette: Colours of the classes of pixels, RGB.
        score_threshold: Lowest score of detections that are drawn.
        decoded: The frame as FFmpeg's decoder gave it, if that is known.
    """
    height, width = picture.shape[:2]
    labels = outputs["sem_seg"].argmax(0) if "sem_seg" in outputs else None
    found = None
    if "instances" in outputs:
        instances = outputs["instances"]
        masks = instances.pred_masks if instances.has("pred_masks") else None
        found = (upright_boxes(instances), instances.scores, instances.pred_classes, masks)
    return draw_frame(
        picture,
        grid,
        (block_size * height / input_size[0], block_size * width / input_size[1]),
        caption,
        labels,
        found,
        classes,
        palette,
        score_threshold,
        decoded,
    )
