"""A frame with what a model found in it and the blocks that were executed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ...visualization import draw_blocks, draw_detections, draw_segmentation


def draw_sample(
    picture: np.ndarray,
    sample: Any,
    grid: Tensor,
    block_size: int,
    metainfo: Mapping[str, Any],
    score_threshold: float = 0.3,
) -> np.ndarray:
    """Draw executed blocks, classes of pixels, boxes and masks, whatever the sample has.

    Skipped blocks are dark and nearly grey.

    Args:
        picture: The original frame, uint8 ``(H, W, 3)``, BGR.
        sample: The model's data sample: ``pred_sem_seg`` and/or ``pred_instances`` in pixels of the
            original frame.
        grid: bool ``(GH, GW)``, True = executed.
        block_size: Side of a block in pixels of the network input.
        metainfo: The dataset's; ``classes`` and ``palette`` are used.
        score_threshold: Detections below are not drawn.

    Returns:
        A new picture, uint8 ``(H, W, 3)``, BGR.
    """
    scale_w, scale_h = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
    block = (block_size / scale_h, block_size / scale_w)
    picture = draw_blocks(picture, grid, block, line_colour=(0, 200, 255))
    if "pred_sem_seg" in sample:
        picture = draw_segmentation(
            picture, sample.pred_sem_seg.data[0], palette=metainfo.get("palette"), bgr=True
        )
    if "pred_instances" in sample:
        found = sample.pred_instances
        picture = draw_detections(
            picture,
            found.bboxes,
            found.scores,
            found.labels,
            found.get("masks", None),
            class_names=metainfo.get("classes"),
            score_threshold=score_threshold,
            bgr=True,
        )
    return picture
