"""The whole detector or segmentor, RoI heads and post-processing included."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .detectron2_region import DetectionOptions, is_detectron2, predict
from .region import data_samples, task_of


def as_it_can_run(model: nn.Module, layout: torch.memory_format) -> nn.Module:
    """A dense model as it can run whole, to be timed against.

    mmcv's RoIAlign takes any map for a contiguous one, and gives other features of one that lies
    channels last: a float32 detector with RoI heads is contiguous. In bfloat16 MMDetection has
    neither RoIAlign nor suppression: dense it gets this package's, as it does on blocks.

    Args:
        model: On a CPU or GPU; is not changed.
        layout: In which its part up to the dense heads is faster.
    """
    model = copy.deepcopy(model)
    # torchvision's RoIAlign, which Detectron2 calls, makes of a map what it needs.
    if task_of(model) == "segmentation" or is_detectron2(model):
        return model.to(memory_format=layout)
    from mmcv.ops import RoIAlign

    from blockcopy_plugins.integrations.common.roi_layers import replace_roi_layers
    from blockcopy_plugins.integrations.mmdet.bfloat16_detectors import run_in_bfloat16
    from blockcopy_plugins.integrations.mmdet.roi_extraction import replace_extractors

    if next(model.parameters()).dtype == torch.bfloat16:
        layout = torch.channels_last
        for _ in run_in_bfloat16(model):
            pass
        for _ in replace_roi_layers(model, (RoIAlign,)):
            pass
        for _ in replace_extractors(model):
            pass
    elif hasattr(model, "roi_head"):
        layout = torch.contiguous_format
    return model.to(memory_format=layout)


class WholeModel:
    """Runs a model's ``predict`` on a frame.

    Args:
        model: A whole model, see :func:`benchmarks.region.build_model`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, frame: Tensor) -> Any:
        """Data samples with the predictions for a frame ``(1, 3, H, W)``."""
        if is_detectron2(self.model):
            return predict(self.model, frame)
        samples = data_samples(self.model, tuple(frame.shape[2:]))
        return self.model(frame, samples, mode="predict")

    @property
    def test_options(self) -> Any:
        """What a detector keeps of what it finds; ``None`` for a segmentor."""
        if task_of(self.model) == "segmentation":
            return None
        if is_detectron2(self.model):
            return DetectionOptions(self.model)
        head = getattr(self.model, "roi_head", None) or self.model.bbox_head
        return head.test_cfg

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
        options = self.test_options
        if options is None:
            return None
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

    def keep_as(self, other: WholeModel) -> None:
        """Keep of what is found what another model keeps."""
        if self.test_options is not None:
            self.test_options.update(other.test_options)

    def _count(self, frame: Tensor) -> int:
        with torch.inference_mode():
            found = self(frame)[0]
            return len(found["instances"] if isinstance(found, dict) else found.pred_instances)
