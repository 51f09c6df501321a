"""Information gain of detections: boxes, and masks where there are some."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy.picture import cells_to_grid
from blockcopy_plugins.policy.task_output import Detections, TaskOutput

from .base import Geometry, InformationGain

if TYPE_CHECKING:
    # A busy frame has hundreds of boxes and masks, each handled by itself and each small. NumPy's
    # view of a tensor takes a tenth of the time that the tensor takes for such a step.
    from numpy import ndarray


class _Mask(NamedTuple):
    """The part of a mask around its box: bool ``(y2 - y1, x2 - x1)``, and where it lies."""

    inside: ndarray
    corner: tuple[int, int]
    resolution: tuple[int, int]
    area: int


class _Region(NamedTuple):
    """The cells of one detection: rows ``top:bottom``, columns ``left:right``, and which."""

    top: int
    bottom: int
    left: int
    right: int
    covered: ndarray | None  # bool (bottom - top, right - left); None is all


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
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().flatten()
        masks = None
        if output.masks is None:
            regions = _box_regions(boxes[keep], geometry)
        else:
            keep, masks, regions = _crop_masks(output.masks, boxes, keep, geometry)
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
    overlaps.masked_fill_(current.labels[:, None] != previous.labels[None, :], 0)
    if (
        current.masks is not None
        and previous.masks is not None
        and current.masks[0].resolution == previous.masks[0].resolution
    ):
        # Masks lie inside their boxes, so only pairs whose boxes overlap can have a mask IoU.
        table = overlaps.numpy()
        for one, other in overlaps.nonzero().tolist():
            table[one, other] = _mask_iou(current.masks[one], previous.masks[other])
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
    both = (
        first.inside[top - y1 : bottom - y1, left - x1 : right - x1]
        & second.inside[top - y2 : bottom - y2, left - x2 : right - x2]
    )
    shared = int(both.sum())
    return shared / (first.area + second.area - shared)


def _box_regions(boxes: Tensor, geometry: Geometry) -> list[_Region]:
    """Return the cells that each box touches, at least one."""
    scaled = boxes.double() / geometry.cell_size
    limit = torch.tensor(geometry.map_size[::-1])
    low = torch.minimum(scaled[:, :2].long(), limit - 1)
    high = torch.maximum(torch.minimum(scaled[:, 2:].ceil().long(), limit), low + 1)
    return [
        _Region(top, bottom, left, right, None)
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
    ]


def _crop_masks(
    masks: Tensor, boxes: Tensor, keep: Tensor, geometry: Geometry
) -> tuple[Tensor, list[_Mask], list[_Region]]:
    """Crop masks to their boxes.

    Args:
        masks: bool ``(K, h, w)``.
        boxes: float32 ``(K, 4)``, clipped to the image.
        keep: int64, which of them have an area.
        geometry: The image's.

    Returns:
        Of those in ``keep`` in whose box something is set: which they are, the crops and the cells
        that they touch.
    """
    resolution = (masks.shape[1], masks.shape[2])
    rows, columns = (_Axis(axis, resolution[axis], geometry) for axis in (0, 1))
    views, corners = masks.detach().cpu().numpy(), boxes.tolist()
    kept, crops, regions = [], [], []
    for index in keep.tolist():
        left, top, right, bottom = corners[index]
        top, bottom = rows.cells(top, bottom)
        left, right = columns.cells(left, right)
        y1, y2 = rows.pixels(top, bottom)
        x1, x2 = columns.pixels(left, right)
        inside = views[index, y1:y2, x1:x2].copy()
        area = int(inside.sum())
        if area:
            covered = columns.any(rows.any(inside, top, bottom), left, right)
            kept.append(index)
            crops.append(_Mask(inside, (y1, x1), resolution, area))
            regions.append(_Region(top, bottom, left, right, covered))
    return torch.tensor(kept, dtype=torch.int64), crops, regions


class _Axis:
    """Which pixels of a mask touch which cells, along one axis.

    Args:
        axis: 0 for rows, 1 for columns.
        resolution: Of the masks along the axis, in mask pixels.
        geometry: The image's.
    """

    # Half a thousandth of an input pixel of slack keeps rounding from touching the next cell.
    _SLACK = 5e-4

    def __init__(self, axis: int, resolution: int, geometry: Geometry) -> None:
        self._axis = axis
        self._resolution = resolution
        self._cell = geometry.cell_size
        self._pixel = geometry.size[axis] / resolution
        # The cells inside the image.
        self._count = min(math.ceil(geometry.size[axis] / self._cell), geometry.map_size[axis])
        edges = torch.arange(self._count, dtype=torch.float64) * self._cell
        first = ((edges + self._SLACK) / self._pixel).long().clamp_max(resolution - 1)
        last = ((edges + self._cell - self._SLACK) / self._pixel).ceil().long() - 1
        last = torch.maximum(last.clamp_max(resolution - 1), first)
        self._first, self._stop = first.tolist(), (last + 1).tolist()
        # The pixels of each cell, from its first to its last, which is repeated.
        steps = int((last - first).max()) + 1
        self._touching = [torch.minimum(first + step, last).numpy() for step in range(steps)]

    def cells(self, low: float, high: float) -> tuple[int, int]:
        """Return the half-open range of cells that hold a box's side, ``low < high`` in pixels.

        One mask pixel more on each side: pasting rounds a mask's edge, and so does a reduced
        resolution.
        """
        first = max(math.floor(low / self._pixel) - 1, 0)
        last = min(math.ceil(high / self._pixel) + 1, self._resolution)
        start = math.floor((first * self._pixel + self._SLACK) / self._cell)
        stop = math.ceil((last * self._pixel - self._SLACK) / self._cell)
        start = min(start, self._count - 1)
        return start, max(min(stop, self._count), start + 1)

    def pixels(self, start: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of mask pixels that touch the cells ``start:stop``."""
        return self._first[start], self._stop[stop - 1]

    def any(self, mask: ndarray, start: int, stop: int) -> ndarray:
        """Reduce a mask of :meth:`pixels` to cells along the axis: True where one pixel is."""
        origin = self._first[start]
        result = mask.take(self._touching[0][start:stop] - origin, self._axis)
        for touching in self._touching[1:]:
            result |= mask.take(touching[start:stop] - origin, self._axis)
        return result


def _paint(paint: list[tuple[float, _Region]], geometry: Geometry) -> Tensor:
    """Return float32 ``(h, w)`` on cells; where regions overlap, the largest value stands."""
    canvas = torch.zeros(geometry.map_size)
    view = canvas.numpy()
    # In ascending order a plain write leaves the largest on top.
    for value, (top, bottom, left, right, covered) in sorted(paint, key=itemgetter(0)):
        if value <= 0:
            continue
        if covered is None:
            view[top:bottom, left:right] = value
        else:
            view[top:bottom, left:right][covered] = value
    return canvas
