"""Detectors of MMDetection: backbone, neck and dense heads on blocks, all behind them dense."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import Tensor, nn

from ...engine.adapter import Call
from ...policy import Detections
from ..mmengine.sample_adapter import SampleAdapter

MASK_STEP = 4
"""Masks are compared on every fourth pixel of the network input: enough for blocks of 32 px."""


class DetectorAdapter(SampleAdapter):
    """Any ``BaseDetector``: its ``forward(inputs, data_samples, mode)`` and its parts."""

    _KIND = "detector"
    # Parts of a detector that take or give feature maps as they are.
    _MAP_TO_MAP = ("backbone", "neck")

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a detector of MMDetection."""
        return isinstance(model, BaseDetector)

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """RoI extractors: they read maps and keep none."""
        return (module for module in model.modules() if isinstance(module, BaseRoIExtractor))

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """All heads beside the RoI head, whose decoding needs whole maps."""
        for name, child in model.named_children():
            if name not in self._MAP_TO_MAP and not hasattr(child, "bbox_roi_extractor"):
                yield child

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Detections in pixels of the network input, from data samples in pixels of the image."""
        if not isinstance(outputs, (list, tuple)) or not all(
            hasattr(sample, "pred_instances") for sample in outputs
        ):
            return super().task_outputs(outputs, call)
        size = tuple(call.frame.shape[2:])
        return [_detections(sample, size) for sample in outputs]


def _detections(sample, size: tuple[int, int]) -> Detections:
    found = sample.pred_instances
    scale_w, scale_h = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
    boxes = found.bboxes.detach().float()
    scale = torch.tensor([scale_w, scale_h] * 2, dtype=torch.float32, device=boxes.device)
    masks = found.get("masks", None)
    if masks is not None:
        masks = torch.as_tensor(masks, device=boxes.device)
        masks = _masks_at_network_scale(masks, boxes * scale, size, (scale_h, scale_w))
    return Detections(
        boxes=boxes * scale,
        scores=found.scores.detach().float(),
        labels=found.labels.detach(),
        masks=masks,
        size=size,
    )


def _masks_at_network_scale(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], scale: tuple[float, float]
) -> Tensor:
    """Sample bool masks ``(K, h, w)`` of the original image on a grid of the network input.

    Args:
        masks: bool ``(K, h, w)``; nothing outside its box is looked at, which saves nearly all of
            the time, unless the box is empty (SOLO gives none).
        boxes: ``(K, 4)`` in pixels of the network input.
        size: ``(H, W)`` of the network input.
        scale: Pixels of the network input to one of the original image, rows and columns.
    """
    tables = []
    for axis in (0, 1):
        position = torch.arange(0, size[axis], MASK_STEP) + MASK_STEP / 2
        source = (position / scale[axis]).long()
        # Padding of the network input lies beyond the image.
        tables.append(source[source < masks.shape[1 + axis]])
    rows, columns = tables
    out = torch.zeros(
        (len(masks), *(-(-side // MASK_STEP) for side in size)),
        dtype=torch.bool,
        device=masks.device,
    )
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if x2 <= x1 or y2 <= y1:
            x1, y1, x2, y2 = 0, 0, size[1], size[0]
        # One step more on each side: pasting rounds a mask's edge.
        top, bottom = _steps(y1, y2, len(rows))
        left, right = _steps(x1, x2, len(columns))
        if top < bottom and left < right:
            found = masks[index].index_select(0, rows[top:bottom].to(masks.device))
            found = found.index_select(1, columns[left:right].to(masks.device))
            out[index, top:bottom, left:right] = found.bool()
    return out


def _steps(start: float, end: float, most: int) -> tuple[int, int]:
    first, last = int(start / MASK_STEP) - 1, math.ceil(end / MASK_STEP) + 1
    return min(max(first, 0), most), min(max(last, 0), most)
