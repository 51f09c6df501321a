"""Masks of the original image, brought to the network's input, where policies compare them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MASK_STEP = 4
"""Masks are compared on every fourth pixel of the network input: enough for blocks of 32 px."""


def masks_at_network_scale(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], scale: tuple[float, float]
) -> Tensor:
    """Sample bool masks ``(K, h, w)`` of the original image on a grid of the network input.

    Args:
        masks: bool ``(K, h, w)``; nothing outside its box is looked at, which saves nearly all of
            the time, unless the box is empty (SOLO gives none).
        boxes: ``(K, 4)`` in pixels of the network input.
        size: ``(H, W)`` of the network input.
        scale: Pixels of the network input to one of the original image, rows and columns.

    Returns:
        bool ``(K, H / MASK_STEP, W / MASK_STEP)``, rounded up.
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
