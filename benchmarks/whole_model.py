"""The whole detector or segmentor, RoI heads and post-processing included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .region import data_samples, task_of


class WholeModel:
    """Runs a model's ``predict`` on a frame.

    Args:
        model: A whole model, see :func:`benchmarks.region.build_model`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, frame: Tensor) -> Any:
        """Data samples with the predictions for a frame ``(1, 3, H, W)``."""
        samples = data_samples(self.model, tuple(frame.shape[2:]))
        return self.model(frame, samples, mode="predict")

    def set_threshold(self, frame: Tensor, detections: int) -> int | None:
        """Set the score threshold to where a number of detections remains.

        Random weights find nothing or everything. So there is the work of a busy scene behind the
        dense heads.

        Args:
            frame: ``(1, 3, H, W)``, the frame that will be run.
            detections: How many should remain.

        Returns:
            How many do: fewer where the model finds no more. ``None`` for a segmentor.
        """
        if task_of(self.model) == "segmentation":
            return None
        head = getattr(self.model, "roi_head", None) or self.model.bbox_head
        options = head.test_cfg
        options.max_per_img = detections
        low, high = 0.0, 1.0
        for _ in range(12):
            options.score_thr = (low + high) / 2
            if self._count(frame) >= detections:
                low = options.score_thr
            else:
                high = options.score_thr
            if low > 0 and high - low < 0.01 * low:
                break
        options.score_thr = low
        return self._count(frame)

    def _count(self, frame: Tensor) -> int:
        with torch.inference_mode():
            return len(self(frame)[0].pred_instances)
