"""Moves the masks of objects by whole pixels."""

from __future__ import annotations

import torch
from torch import Tensor

# Pasting rounds a mask's edge: px around its box that are read too.
_AROUND = 2


def shift_masks(
    masks: Tensor, shift: Tensor, boxes: Tensor | None = None, index: Tensor | None = None
) -> Tensor:
    """Shift masks; parts that leave the picture are dropped, and the area that comes in is empty.

    Args:
        masks: ``(K, h, w)``, any dtype.
        shift: ``(k, 2)`` in host memory, to the right and down, px of the masks; rounded.
        boxes: ``(k, 4)`` in host memory, ``x1, y1, x2, y2`` in px of the masks: nothing more than
            two pixels outside a box is looked at, which saves nearly all of the time. For empty
            boxes (SOLO gives none), and by default, the whole mask is looked at.
        index: int64 ``(k,)`` in host memory: which masks are wanted; by default all.

    Returns:
        A new tensor ``(k, h, w)``.
    """
    count = len(masks) if index is None else len(index)
    height, width = masks.shape[1:]
    moved = masks.new_zeros((count, height, width))
    sources = range(count) if index is None else index.tolist()
    limits = [[0, 0, width, height]] * count if boxes is None else _limits(boxes, height, width)
    steps = shift.round().long().tolist()
    for target, (source, (x, y), (x1, y1, x2, y2)) in enumerate(
        zip(sources, steps, limits, strict=True)
    ):
        left, right = max(x1, -x, 0), min(x2, width - x, width)
        top, bottom = max(y1, -y, 0), min(y2, height - y, height)
        if left < right and top < bottom:
            moved[target, top + y : bottom + y, left + x : right + x] = masks[
                source, top:bottom, left:right
            ]
    return moved


def _limits(boxes: Tensor, height: int, width: int) -> list[list[int]]:
    low, high = boxes[:, :2].floor() - _AROUND, boxes[:, 2:].ceil() + _AROUND
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    whole = torch.tensor([0, 0, width, height])
    limits = torch.cat((low, high), 1).long()
    return torch.where(empty[:, None], whole, limits).tolist()
