"""Information gain of detections: boxes, and masks where there are some."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy.picture import cells_to_grid
from blockcopy_plugins.policy.task_output import Detections, TaskOutput

from .base import Geometry, InformationGain


@dataclass(frozen=True, eq=False)
class _Mask:
    """The part of a mask inside its box: bool ``(y2 - y1, x2 - x1)``, and where it lies."""

    inside: Tensor
    corner: tuple[int, int]
    resolution: tuple[int, int]
    area: int


@dataclass(frozen=True, eq=False)
class _Region:
    """The cells of one detection: rows ``top:bottom``, columns ``left:right``, and which."""

    top: int
    bottom: int
    left: int
    right: int
    covered: Tensor | None  # bool (bottom - top, right - left); None is all


@dataclass(frozen=True, eq=False)
class DetectionSummary:
    """Detections that have an area inside the image, clipped to it; on the CPU."""

    boxes: Tensor
    scores: list[float]
    labels: Tensor
    masks: list[_Mask] | None
    regions: list[_Region]


class DetectionGain(InformationGain):
    """Gain of boxes and masks: what moved, what came, what went; for each class by itself.

    For each present detection the best match is the previous one of the same label with the
    highest IoU. If the two overlap, ``(1 - IoU) x score`` is painted over both, each with its own
    score. A present detection that overlaps none has come, a previous one that is nobody's best
    match has gone: each is painted with its full score. Where paint overlaps, the larger value
    stands. If both images have masks of the same resolution, the IoU is that of the masks and the
    paint covers the masks; otherwise it is the boxes'.

    Boxes are clipped to the image; those without an area inside it are skipped. What is smaller
    than a cell is painted on the cells that it touches, so nothing vanishes.

    Args:
        reduction: Of a block's cells to its value. ``'max'`` (default): a pedestrian covers a few
            hundredths of a 128-px block, and with ``'mean'`` its gain would be lost in the cost
            term, gamma * (target - rate)^2, which is of the order of a tenth.

    Raises:
        ConfigError: If ``reduction`` is neither ``'max'`` nor ``'mean'``.
    """

    def __init__(self, reduction: str = "max") -> None:
        if reduction not in ("max", "mean"):
            raise ConfigError(f"reduction must be 'max' or 'mean', found {reduction!r}")
        self.reduction = reduction

    def summarise(self, output: TaskOutput, geometry: Geometry) -> DetectionSummary:
        """Clip the boxes, crop the masks, find the cells.

        Raises:
            FrameError: If the output is no :class:`Detections` of an image of this size.
        """
        if not isinstance(output, Detections):
            raise FrameError(
                "DetectionGain compares Detections, found "
                f"{type(output).__name__}; use information_gain='auto'"
            )
        if tuple(output.size) != tuple(geometry.size):
            raise FrameError(
                f"the detections are given for an input of {tuple(output.size)} px (H, W), but the "
                f"frame has {tuple(geometry.size)}; give boxes in the network's input pixels"
            )
        height, width = geometry.size
        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = output.boxes.detach().to("cpu", torch.float32)
        boxes = torch.minimum(boxes.clamp_min(0), limits)
        keep = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero().flatten()
        masks, regions = None, []
        corners = boxes.tolist()
        if output.masks is not None:
            masks, kept = [], []
            for index in keep.tolist():
                mask = _crop(output.masks[index], corners[index], geometry.size)
                if mask is not None:
                    masks.append(mask)
                    regions.append(_mask_region(mask, geometry))
                    kept.append(index)
            keep = torch.tensor(kept, dtype=torch.int64)
        else:
            regions = [_box_region(corners[index], geometry) for index in keep.tolist()]
        return DetectionSummary(
            boxes=boxes[keep],
            scores=output.scores.detach().to("cpu", torch.float32)[keep].tolist(),
            labels=output.labels.to("cpu")[keep],
            masks=masks,
            regions=regions,
        )

    def output_map(self, summary: DetectionSummary, geometry: Geometry) -> Tensor:
        """Paint each detection with its score."""
        return _paint(list(zip(summary.scores, summary.regions, strict=True)), geometry)

    def compare(
        self, previous: DetectionSummary, current: DetectionSummary, geometry: Geometry
    ) -> Tensor:
        """Paint the changes and reduce the paint to blocks."""
        painted = self.gain_map(previous, current, geometry)
        return cells_to_grid(painted, geometry.cells, self.reduction)

    def gain_map(
        self, previous: DetectionSummary, current: DetectionSummary, geometry: Geometry
    ) -> Tensor:
        """Return the painted changes, float32 ``(h, w)`` on cells."""
        best, match = _best_matches(previous, current)
        paint, matched = [], set()
        for index, (overlap, other) in enumerate(zip(best, match, strict=True)):
            change = 1.0 - overlap
            paint.append((change * current.scores[index], current.regions[index]))
            if overlap > 0:
                matched.add(other)
                paint.append((change * previous.scores[other], previous.regions[other]))
        for index, score in enumerate(previous.scores):
            if index not in matched:
                paint.append((score, previous.regions[index]))
        return _paint(paint, geometry)


def _best_matches(
    previous: DetectionSummary, current: DetectionSummary
) -> tuple[list[float], list[int]]:
    """Return the highest IoU of each present detection with a previous one, and which one."""
    if not previous.scores or not current.scores:
        return [0.0] * len(current.scores), [-1] * len(current.scores)
    overlaps = _box_iou(current.boxes, previous.boxes)
    overlaps[current.labels[:, None] != previous.labels[None, :]] = 0
    if (
        current.masks is not None
        and previous.masks is not None
        and current.masks[0].resolution == previous.masks[0].resolution
    ):
        # Masks lie inside their boxes, so only pairs whose boxes overlap can have a mask IoU.
        # Crops are rounded outwards, which can only add pairs that turn out to be 0.
        for one, other in overlaps.nonzero().tolist():
            overlaps[one, other] = _mask_iou(current.masks[one], previous.masks[other])
    best, match = overlaps.max(dim=1)
    return best.tolist(), match.tolist()


def _box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of boxes ``(K, 4)`` with boxes ``(L, 4)``, both with an area: ``(K, L)``."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)


def _mask_iou(first: _Mask, second: _Mask) -> float:
    """Return the IoU of two masks of the same resolution."""
    (y1, x1), (y2, x2) = first.corner, second.corner
    top, left = max(y1, y2), max(x1, x2)
    bottom = min(y1 + first.inside.shape[0], y2 + second.inside.shape[0])
    right = min(x1 + first.inside.shape[1], x2 + second.inside.shape[1])
    if bottom <= top or right <= left:
        return 0.0
    shared = int(
        (
            first.inside[top - y1 : bottom - y1, left - x1 : right - x1]
            & second.inside[top - y2 : bottom - y2, left - x2 : right - x2]
        ).count_nonzero()
    )
    return shared / (first.area + second.area - shared)


def _crop(mask: Tensor, box: list[float], size: tuple[int, int]) -> _Mask | None:
    """Cut a mask ``(h, w)`` to its box; None if nothing is set in there."""
    height, width = mask.shape
    down, across = height / size[0], width / size[1]
    # One pixel more on each side: pasting rounds a mask's edge, and so does a reduced resolution.
    left, right = max(math.floor(box[0] * across) - 1, 0), math.ceil(box[2] * across) + 1
    top, bottom = max(math.floor(box[1] * down) - 1, 0), math.ceil(box[3] * down) + 1
    inside = mask[top:bottom, left:right].detach().to("cpu", copy=True)
    area = int(inside.count_nonzero())
    return _Mask(inside, (top, left), (height, width), area) if area else None


def _box_region(box: list[float], geometry: Geometry) -> _Region:
    """Return the cells that a box touches, at least one."""
    left, right = _span(box[0], box[2], geometry.cell_size, geometry.map_size[1])
    top, bottom = _span(box[1], box[3], geometry.cell_size, geometry.map_size[0])
    return _Region(top, bottom, left, right, None)


def _span(low: float, high: float, cell: float, limit: int) -> tuple[int, int]:
    """Return the half-open range of the cells that the pixels low..high touch."""
    start = min(int(low / cell), limit - 1)
    return start, max(min(math.ceil(high / cell), limit), start + 1)


def _mask_region(mask: _Mask, geometry: Geometry) -> _Region:
    """Return the cells that a mask touches."""
    rows, row_hits = _axis(mask, 0, geometry)
    columns, column_hits = _axis(mask, 1, geometry)
    # A cell is covered if a set pixel of the mask touches it: two small matrix products.
    covered = (row_hits @ mask.inside.float() @ column_hits.T) > 0
    return _Region(rows[0], rows[1], columns[0], columns[1], covered)


def _axis(mask: _Mask, axis: int, geometry: Geometry) -> tuple[tuple[int, int], Tensor]:
    """Return the range of cells of a crop along an axis, and which of its pixels touch which.

    The latter is float ``(cells, mask pixels)``, 1 where they touch.
    """
    pixel = geometry.size[axis] / mask.resolution[axis]
    first, count = mask.corner[axis], mask.inside.shape[axis]
    start, stop = _span(
        first * pixel, (first + count) * pixel, geometry.cell_size, geometry.map_size[axis]
    )
    low = torch.arange(first, first + count, dtype=torch.float64) * pixel
    edges = torch.arange(start, stop, dtype=torch.float64) * geometry.cell_size
    # Half a thousandth of a pixel of slack keeps rounding from touching the next cell.
    touches = (low[None] + pixel > edges[:, None] + 5e-4) & (
        low[None] < edges[:, None] + geometry.cell_size - 5e-4
    )
    return (start, stop), touches.float()


def _paint(paint: list[tuple[float, _Region]], geometry: Geometry) -> Tensor:
    """Return float32 ``(h, w)`` on cells; where regions overlap, the largest value stands."""
    canvas = torch.zeros(geometry.map_size)
    # In ascending order a plain write leaves the largest on top.
    for value, region in sorted(paint, key=lambda item: item[0]):
        if value <= 0:
            continue
        window = canvas[region.top : region.bottom, region.left : region.right]
        if region.covered is None:
            window.fill_(value)
        else:
            window.masked_fill_(region.covered, value)
    return canvas
