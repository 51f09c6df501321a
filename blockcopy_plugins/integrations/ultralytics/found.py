"""Detections of a model of Ultralytics, as policies compare them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

from ...policy import Detections

_MOST = 300
_OVERLAP = 0.7
"""IoU above which the box with the lower score is dropped; the default of ``predict``."""
_LEAST_SCORE = 0.1
"""Lowest score that is compared; trackers read boxes down to here."""


def detections_of(outputs: Any, head: nn.Module, frame: Tensor) -> list[Detections] | None:
    """Detections in a model's raw outputs.

    Args:
        outputs: What the model returned in eval mode: a tensor ``(N, 4 + classes + more, anchors)``
            or ``(N, K, 6 + more)``, on its own or first in tuples.
        head: The model's last module.
        frame: ``(N, C, H, W)``, the network's input.

    Returns:
        The boxes of each image in pixels of the network's input, without those that overlap a
        better one of their class; ``None`` for a head without boxes.
    """
    classes = getattr(head, "nc", None)
    if classes is None or not hasattr(head, "max_det"):
        return None
    while isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor) or outputs.dim() != 3:
        return None
    found = outputs.detach().float()
    size = tuple(frame.shape[2:])
    if hasattr(head, "dec_bbox_head") or hasattr(head, "num_queries"):
        scale = found.new_tensor([*size[::-1], *size[::-1]])
        images = [
            (box_convert(x[:, :4], "cxcywh", "xyxy") * scale, x[:, 4], x[:, 5]) for x in found
        ]
    elif head.end2end:
        images = [(x[:, :4], x[:, 4], x[:, 5]) for x in found]
    else:
        form = "xyxy" if head.xyxy else "cxcywh"
        images = []
        for x in found:
            scores, labels = x[4 : 4 + classes].max(0)
            images.append((box_convert(x[:4].T, form, "xyxy"), scores, labels))
    return [_best(*image, size) for image in images]


def _best(boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Detections:
    sure = (scores > _LEAST_SCORE).nonzero()[:, 0]
    if len(sure) > 10 * _MOST:
        sure = sure[scores[sure].topk(10 * _MOST).indices]
    kept = sure[batched_nms(boxes[sure], scores[sure], labels[sure], _OVERLAP)[:_MOST]]
    return Detections(
        boxes[kept].cpu(), scores[kept].cpu(), labels[kept].to("cpu", torch.int64), None, size
    )
