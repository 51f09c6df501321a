"""The maps that CSP's head should give for given boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Distance around a centre within which the height is learned, in pixels of the network's input.
_SCALE_REACH = 8


@dataclass(frozen=True)
class Targets:
    """Maps of one image, float32, in cells of ``stride`` pixels.

    Attributes:
        centers: ``(1, h, w)``, 1 in the cell of each box's centre.
        gaussian: ``(1, h, w)``, a Gaussian in each box, the larger one where boxes overlap.
        valid: ``(1, h, w)``, 0 in ignored regions outside boxes, where nothing is a negative.
        scale: ``(1, h, w)``, log of a box's height in cells.
        scale_known: ``(1, h, w)``, 1 where ``scale`` counts: 5 x 5 cells around a centre at
            stride 4.
        offset: ``(2, h, w)``, y and x of a centre from the middle of its cell, in cells. It counts
            where ``centers`` is 1.
    """

    centers: Tensor
    gaussian: Tensor
    valid: Tensor
    scale: Tensor
    scale_known: Tensor
    offset: Tensor


def make_targets(
    boxes: Tensor, ignored: Tensor, size: tuple[int, int], stride: int, min_height: float
) -> Targets:
    """Draw the maps of one image, as Pedestron does.

    One thing differs: if a centre is nearer than two cells to the upper or left edge, Pedestron has
    no height to learn for that box (a negative slice index); here the edge cuts the area instead.

    Args:
        boxes: float ``(K, 4)``, xyxy in pixels of the network's input.
        ignored: float ``(M, 4)``, the same for regions that are neither person nor background.
        size: ``(h, w)`` of the head's maps.
        stride: Pixels of a cell.
        min_height: In pixels. Lower boxes become ignored regions.

    Returns:
        The maps, on the CPU.
    """
    height, width = size
    limit = torch.tensor([width, height, width, height]) * stride
    boxes, ignored = (
        b.detach().float().cpu().clamp(min=0).minimum(limit) for b in (boxes, ignored)
    )
    low = boxes[:, 3] - boxes[:, 1] < min_height
    ignored = torch.cat([ignored, boxes[low]])
    targets = Targets(*(torch.zeros(channels, *size) for channels in (1, 1, 1, 1, 1, 2)))
    targets.valid.fill_(1)
    for x1, y1, x2, y2 in (ignored / stride).tolist():
        targets.valid[0, int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = 0
    for x1, y1, x2, y2 in (boxes[~low] / stride).tolist():
        y, x = (y1 + y2) / 2, (x1 + x2) / 2
        row, column = min(int(y), height - 1), min(int(x), width - 1)

        inside = (0, slice(math.ceil(y1), int(y2)), slice(math.ceil(x1), int(x2)))
        bump = _gaussian(int(y2) - math.ceil(y1))[:, None] * _gaussian(int(x2) - math.ceil(x1))
        targets.gaussian[inside] = targets.gaussian[inside].maximum(bump)
        targets.valid[inside] = 1
        targets.valid[0, row, column] = 1
        targets.centers[0, row, column] = 1

        reach = _SCALE_REACH // stride
        around = (
            0,
            slice(max(row - reach, 0), row + reach + 1),
            slice(max(column - reach, 0), column + reach + 1),
        )
        targets.scale[around] = math.log(y2 - y1)
        targets.scale_known[around] = 1
        targets.offset[:, row, column] = torch.tensor([y - row - 0.5, x - column - 0.5])
    return targets


def _gaussian(cells: int) -> Tensor:
    """A Gaussian over a box's side, ``(cells,)``, 1 in the middle cell (the latter of two)."""
    cells = max(cells, 0)
    sigma = ((cells - 1) * 0.5 - 1) * 0.3 + 0.8
    distance = torch.arange(cells, dtype=torch.float64) - cells // 2
    return torch.exp(-distance.square() / (2 * sigma**2)).float()
