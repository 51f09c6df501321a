"""Detections of a model of Ultralytics, as policies compare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.ops import batched_nms, box_convert

from ...policy import Detections

_MOST = 300
_OVERLAP = 0.7
"""IoU above which the box with the lower score is dropped; the default of ``predict``."""
_LEAST_SCORE = 0.1
"""Lowest score that is compared; trackers read boxes down to here."""


@dataclass(frozen=True)
class FoundBoxes:
    """The boxes of one image without those that overlap a better one of their class.

    Attributes:
        index: int64 ``(k,)``, which of the head's boxes they are; the best first.
        boxes: float32 ``(k, 4)``, ``x1, y1, x2, y2`` in pixels of the network's input.
        scores: float32 ``(k,)``.
        labels: int64 ``(k,)``.
    """

    index: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


def head_tensor(outputs: Any, head: nn.Module) -> Tensor | None:
    """The tensor of boxes in a model's raw outputs; ``None`` if it has no boxes.

    Args:
        outputs: What the model returned in eval mode: a tensor ``(N, 4 + classes + more, anchors)``
            or ``(N, K, 6 + more)``, on its own or first in tuples.
        head: The model's last module.
    """
    if getattr(head, "nc", None) is None or not hasattr(head, "max_det"):
        return None
    while isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    return outputs if isinstance(outputs, Tensor) and outputs.dim() == 3 else None


def has_rows(head: nn.Module) -> bool:
    """Whether a head gives a row of numbers for each box, and not a column."""
    return _has_queries(head) or head.end2end


def boxes_of(
    given: Tensor,
    head: nn.Module,
    size: tuple[int, int],
    least_score: float = _LEAST_SCORE,
    overlap: float = _OVERLAP,
) -> FoundBoxes:
    """The best boxes of one image.

    Args:
        given: Its part of :func:`head_tensor`.
        head: The model's last module.
        size: ``(H, W)`` of the network's input, px.
        least_score: What scores must be above.
        overlap: IoU from which two boxes of a class are taken for the same.
    """
    given = given.detach().float()
    rows = has_rows(head)
    # Most boxes have no score: nothing else is computed for them.
    scores = given[:, 4] if rows else given[4 : 4 + head.nc].amax(0)
    sure = (scores > least_score).nonzero()[:, 0]
    if len(sure) > 10 * _MOST:
        sure = sure[scores[sure].topk(10 * _MOST).indices]
    chosen = given[sure] if rows else given[:, sure].T
    labels = (chosen[:, 5] if rows else chosen[:, 4 : 4 + head.nc].argmax(1)).long()
    boxes = chosen[:, :4]
    if _has_queries(head):
        boxes = box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor([*size[::-1]] * 2)
    elif not rows and not head.xyxy:
        boxes = box_convert(boxes, "cxcywh", "xyxy")
    kept = batched_nms(boxes, scores[sure], labels, overlap)[:_MOST]
    return FoundBoxes(sure[kept], boxes[kept], scores[sure][kept], labels[kept])


def detections_of(outputs: Any, head: nn.Module, frame: Tensor) -> list[Detections] | None:
    """Detections in a model's raw outputs.

    Args:
        outputs: What the model returned in eval mode.
        head: The model's last module.
        frame: ``(N, C, H, W)``, the network's input.

    Returns:
        Those of each image in pixels of the network's input; ``None`` for a head without boxes.
    """
    given = head_tensor(outputs, head)
    if given is None:
        return None
    size = tuple(frame.shape[2:])
    images = [boxes_of(image, head, size) for image in given]
    return [
        Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu(), None, size)
        for found in images
    ]


def _has_queries(head: nn.Module) -> bool:
    return hasattr(head, "dec_bbox_head") or hasattr(head, "num_queries")
