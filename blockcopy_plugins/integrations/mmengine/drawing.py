"""Draws a data sample of MMDetection or MMSegmentation on its frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ...datasets.live_frame import DecodedFrame
from ...visualization import FrameCaption
from ...visualization.yuv_picture import YuvPicture
from ..common.drawing import draw_frame


def draw_sample(
    picture: np.ndarray,
    sample: Any,
    grid: Tensor,
    block_size: int,
    metainfo: Mapping[str, Any],
    caption: FrameCaption,
    score_threshold: float = 0.3,
    decoded: DecodedFrame | None = None,
) -> YuvPicture:
    """Draw what the sample contains; see also :func:`~..common.drawing.draw_frame`.

    Args:
        picture: The original frame, uint8 ``(H, W, 3)``, BGR.
        sample: The model's data sample: ``pred_sem_seg`` and/or ``pred_instances`` in pixels of the
            original frame.
        grid: bool ``(GH, GW)``, True = executed.
        block_size: Side of a block in pixels of the network input.
        metainfo: The dataset's metainfo, with ``classes`` and ``palette``.
        caption: The figures below it.
        score_threshold: Lowest score of detections that are drawn.
        decoded: The frame as FFmpeg's decoder gave it, if that is known.
    """
    scale_w, scale_h = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
    segmentation = sample.pred_sem_seg.data[0] if "pred_sem_seg" in sample else None
    found = None
    if "pred_instances" in sample:
        instances = sample.pred_instances
        masks = instances.get("masks", None)
        found = (instances.bboxes, instances.scores, instances.labels, masks)
    return draw_frame(
        picture,
        grid,
        (block_size / scale_h, block_size / scale_w),
        caption,
        segmentation,
        found,
        metainfo.get("classes"),
        metainfo.get("palette"),
        score_threshold,
        decoded,
    )
