"""The best match of each box: the other box of its label with the highest IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator

# Number of pairs that the twin compares at a time, so that its memory does not grow with them.
_PAIRS = 1 << 20


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of boxes ``(n, 4)`` with others ``(m, 4)``, all with an area: ``(n, m)``."""
    width, height = (
        torch.minimum(boxes[:, None, axis + 2], others[:, axis + 2])
        .sub_(torch.maximum(boxes[:, None, axis], others[:, axis]))
        .clamp_min_(0)
        for axis in (0, 1)
    )
    shared = width.mul_(height)
    union = _areas(boxes)[:, None] + _areas(others) - shared
    # An area may be too small for its dtype, and then so may the union.
    return torch.where(shared > 0, shared / union, 0)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _check_areas(name: str, boxes: Tensor) -> None:
    good = (boxes[:, :2] < boxes[:, 2:]).all(1) & _areas(boxes).isfinite()
    if not bool(good.all()):
        index = int((~good).nonzero()[0])
        raise ValueError(
            f"blockcopy::match_boxes: {name} {index} is {boxes[index].tolist()}, expected x1 < x2 "
            "and y1 < y2 and a finite area"
        )


def _match_boxes_fake(
    boxes: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor
) -> tuple[Tensor, Tensor]:
    for name, table, kinds in (("boxes", boxes, labels), ("others", others, other_labels)):
        torch._check_type(
            table.dtype == torch.float32 and kinds.dtype == torch.int64,
            lambda name=name, table=table, kinds=kinds: (
                f"blockcopy::match_boxes: {name} have dtype {table.dtype} and labels "
                f"{kinds.dtype}, expected torch.float32 and torch.int64"
            ),
        )
        torch._check_value(
            table.dim() == 2 and table.shape[1] == 4 and kinds.shape == table.shape[:1],
            lambda name=name, table=table, kinds=kinds: (
                f"blockcopy::match_boxes: {name} have shape {tuple(table.shape)} and labels "
                f"{tuple(kinds.shape)}, expected (n, 4) and (n)"
            ),
        )
    return boxes.new_empty(boxes.shape[0]), labels.new_empty(boxes.shape[0])


@operator(
    "match_boxes(Tensor boxes, Tensor labels, Tensor others, Tensor other_labels) "
    "-> (Tensor, Tensor)",
    fake=_match_boxes_fake,
)
def match_boxes(
    boxes: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Find for each box the other box of the same label with the highest IoU.

    On a CPU the others are sorted by label and place, so that only those nearby are compared.

    Args:
        boxes: float32 ``(n, 4)``, ``x1, y1, x2, y2``, each with an area.
        labels: int64 ``(n,)``.
        others: float32 ``(m, 4)``, as ``boxes``.
        other_labels: int64 ``(m,)``.

    Returns:
        The IoU, float32 ``(n,)``, and the index of the match, int64 ``(n,)``; the first among
        several with the same IoU. If no other box overlaps, the IoU is 0 and the index -1.

    Raises:
        ValueError: If a shape does not fit, or a box is empty or not finite.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("match_boxes", boxes, others)
    overlaps, matches = _match_boxes_fake(boxes, labels, others, other_labels)
    _check_areas("boxes", boxes)
    _check_areas("others", others)
    overlaps.zero_()
    matches.fill_(-1)
    if len(boxes) == 0 or len(others) == 0:
        return overlaps, matches
    step = max(_PAIRS // len(others), 1)
    for start in range(0, len(boxes), step):
        part = slice(start, start + step)
        table = box_iou(boxes[part], others)
        table.masked_fill_(labels[part, None] != other_labels, 0)
        # Among several with the same IoU, max() takes the first.
        overlaps[part], first = table.max(1)
        matches[part] = torch.where(overlaps[part] > 0, first, -1)
    return overlaps, matches
