"""Moves the masks of objects by whole pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_masks(masks: Tensor, shift: Tensor) -> Tensor:
    """Shift masks; what leaves the picture goes, what comes in is empty.

    Args:
        masks: ``(K, h, w)``, any dtype.
        shift: ``(K, 2)`` in host memory, to the right and down, px of the masks; rounded.

    Returns:
        A new tensor of the same shape.
    """
    moved = torch.zeros_like(masks)
    height, width = masks.shape[1:]
    for index, (x, y) in enumerate(shift.round().long().tolist()):
        if abs(x) >= width or abs(y) >= height:
            continue
        to = moved[index, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
        to.copy_(masks[index, max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)])
    return moved
