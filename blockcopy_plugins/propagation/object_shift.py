"""How far objects have moved, by the motion within their boxes and masks."""

from __future__ import annotations

import torch
from torch import Tensor

from .displacement import SURE, Displacement

_SAMPLES = 7  # along each side of a box
_MARGIN = 0.15  # of a box's side: near its edge there is more of the background
_LEAST = 4  # samples that must be certain


def object_shift(
    boxes: Tensor,
    displacement: Displacement,
    masks: Tensor | None = None,
    mask_scale: tuple[float, float] = (1.0, 1.0),
    mask_shift: Tensor | None = None,
) -> Tensor:
    """Find how far objects have moved: the median motion within them.

    The displacement says where the content of a place was before, but an object's place is known
    for the frame before. So the motion is looked up where the object was, and then where it is if
    it has moved like that.

    Args:
        boxes: float32 ``(K, 4)`` in host memory, ``x1, y1, x2, y2`` in the frame before, px of the
            network's input.
        displacement: The present frame's.
        masks: ``(K, h, w)``, of numbers above 0 on the object or of probabilities (floating point),
            or ``None``. Only motion on the mask counts, if it has at least four samples.
        mask_scale: Pixels of the masks per pixel of the network's input, rows and columns.
        mask_shift: float32 ``(K, 2)``, how far the objects have moved since they had these masks,
            px of the network's input.

    Returns:
        float32 ``(K, 2)``, to the right and down, px of the network's input. 0 if fewer than four
        of 49 samples are certain.
    """
    shift = boxes.new_zeros(len(boxes), 2)
    if not len(boxes) or displacement.is_still:
        return shift
    part = _MARGIN + (1 - 2 * _MARGIN) * (torch.arange(_SAMPLES) + 0.5) / _SAMPLES
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * part
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * part
    on = torch.ones(len(boxes), _SAMPLES, _SAMPLES, dtype=torch.bool)
    if masks is not None:
        x0, y0 = (x, y) if mask_shift is None else (x - mask_shift[:, :1], y - mask_shift[:, 1:])
        row = (y0 * mask_scale[0]).long().clamp_(0, masks.shape[1] - 1)[:, :, None]
        column = (x0 * mask_scale[1]).long().clamp_(0, masks.shape[2] - 1)[:, None]
        index = torch.arange(len(masks))[:, None, None]
        index, row, column = (part.to(masks.device) for part in (index, row, column))
        found = masks[index, row, column].cpu() > (0.5 if masks.is_floating_point() else 0)
        enough = found.sum((1, 2)) >= _LEAST
        on = found | ~enough[:, None, None]
    # Twice: the second time at the place found the first time.
    for _ in range(2):
        found, known = _median(x + shift[:, :1], y + shift[:, 1:], on, displacement)
        shift = torch.where(known[:, None], found, shift)
    return shift


def _median(x: Tensor, y: Tensor, on: Tensor, displacement: Displacement) -> tuple[Tensor, Tensor]:
    rows, columns = displacement.confidence.shape
    # An object that is leaving the picture moves on like the content at the edge.
    row = (y / displacement.cell).floor().long().clamp_(0, rows - 1)[:, :, None]
    column = (x / displacement.cell).floor().long().clamp_(0, columns - 1)[:, None]
    sure = on & (displacement.confidence[row, column] >= SURE)
    vectors = displacement.vectors[row, column].masked_fill(~sure[..., None], float("nan"))
    return vectors.flatten(1, 2).nanmedian(1).values, sure.sum((1, 2)) >= _LEAST
