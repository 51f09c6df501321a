"""Greedy non-maximum suppression, as mmcv and torchvision do it."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _check(boxes: Tensor, order: Tensor) -> None:
    torch._check_value(
        boxes.dim() == 2 and boxes.shape[1] == 4 and order.shape == boxes.shape[:1],
        lambda: (
            f"blockcopy::suppress_boxes: boxes have shape {tuple(boxes.shape)} and order "
            f"{tuple(order.shape)}, expected (n, 4) and (n)"
        ),
    )
    torch._check_type(
        boxes.dtype == torch.float32 and order.dtype == torch.int64,
        lambda: (
            f"blockcopy::suppress_boxes: boxes have dtype {boxes.dtype} and order {order.dtype}, "
            "expected torch.float32 and torch.int64"
        ),
    )


def _fake(boxes: Tensor, order: Tensor) -> Tensor:
    _check(boxes, order)
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)


@operator(
    "suppress_boxes(Tensor boxes, Tensor order, float threshold, float offset) -> Tensor",
    fake=_fake,
)
def suppress_boxes(boxes: Tensor, order: Tensor, threshold: float, offset: float = 0.0) -> Tensor:
    """Of boxes that overlap, keep the first in an order, usually that of falling scores.

    A box is left out if its IoU with a kept one before it is above the threshold, both rounded as
    in ``nms`` of mmcv and torchvision: the same boxes are kept.

    Args:
        boxes: float32 ``(n, 4)``, ``x1, y1, x2, y2``.
        order: int64 ``(n,)``, the places of the boxes.
        threshold: IoU above which a box is left out.
        offset: Added to sides: 1 where ``x2`` and ``y2`` are the last pixels of a box.

    Returns:
        Places of the kept boxes, int64, in their order.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        IndexError: If a place does not exist.
        RuntimeError: If gradients are recorded and the boxes require grad.
    """
    check_no_grad("suppress_boxes", boxes)
    _check(boxes, order)
    wrong = ((order < 0) | (order >= len(boxes))).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise IndexError(
            f"blockcopy::suppress_boxes: order[{index}] is {int(order[index])}, expected 0 to "
            f"{len(boxes) - 1}"
        )
    boxes = boxes[order]
    size = boxes[:, 2:] - boxes[:, :2] + offset
    areas = size[:, 0] * size[:, 1]
    is_out = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if is_out[i]:
            continue
        first = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        last = torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
        across, down = (last - first + offset).clamp_min(0).unbind(1)
        shared = across * down
        overlaps = shared / (areas[i] + areas[i + 1 :] - shared)
        is_out[i + 1 :] |= overlaps.double() > threshold
    return order[~is_out]
