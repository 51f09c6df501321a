"""Masks of boxes as masks of the image, as MMDetection and Detectron2 paste them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.library import operator


def _fake(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    torch._check_value(
        masks.dim() == 3
        and masks.shape[1] > 0
        and masks.shape[2] > 0
        and boxes.dim() == 2
        and boxes.shape[1] == 4
        and boxes.shape[0] == masks.shape[0],
        lambda: (
            f"blockcopy::paste_masks: masks have shape {tuple(masks.shape)} and boxes "
            f"{tuple(boxes.shape)}, expected (n, h, w) with pixels and (n, 4)"
        ),
    )
    torch._check_value(
        height >= 0 and width >= 0,
        lambda: (
            f"blockcopy::paste_masks: the image has {height} rows and {width} columns, expected 0 "
            "or more"
        ),
    )
    torch._check_type(
        masks.dtype == boxes.dtype == torch.float32,
        lambda: (
            f"blockcopy::paste_masks: masks have dtype {masks.dtype} and boxes {boxes.dtype}, "
            "expected torch.float32"
        ),
    )
    return masks.new_empty((masks.shape[0], height, width), dtype=torch.bool)


@operator(
    "paste_masks(Tensor masks, Tensor boxes, int height, int width, float threshold) -> Tensor",
    fake=_fake,
)
def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Stretch the mask of each box over the box and cut it at a threshold.

    Bilinear, with the corners of the mask's outer pixels on those of the box. Pixels more than one
    outside the box are False.

    Args:
        masks: float32 ``(n, h, w)``.
        boxes: float32 ``(n, 4)``, ``x1, y1, x2, y2`` in pixels of the image.
        height: Of the image, px.
        width: Of the image, px.
        threshold: Least value of a pixel of the mask. A box that is not finite has no pixels.

    Returns:
        bool ``(n, height, width)``. On a CPU, parts of a large result that hold no mask take memory
        only once they are read.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("paste_masks", masks, boxes)
    out = _fake(masks, boxes, height, width)
    places = [
        torch.arange(side, dtype=torch.float32, device=masks.device) + 0.5
        for side in (width, height)
    ]
    for mask, box, image in zip(masks, boxes, out.zero_(), strict=True):
        if not bool(box.isfinite().all()):
            continue
        grid, near = [], []
        for axis, at in enumerate(places):
            first, last = box[axis], box[axis + 2]
            near.append((at > first.floor() - 1) & (at < last.ceil() + 1))
            scaled = (at - first) / (last - first) * 2 - 1
            grid.append(torch.where(scaled.isinf(), 0.0, scaled))
        lines = torch.meshgrid(grid[1], grid[0], indexing="ij")
        points = torch.stack((lines[1], lines[0]), 2)
        values = F.grid_sample(mask[None, None], points[None], align_corners=False)[0, 0]
        image.copy_((values >= threshold) & near[1][:, None] & near[0])
    return out
