"""Information gain of detections: boxes, and masks if there are any."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.host_transfer import to_host
from blockcopy_plugins.ops.bitmaps import cover_cells, crop_masks, pack_columns, shared_pixels
from blockcopy_plugins.ops.box_change import box_change
from blockcopy_plugins.ops.match_boxes import box_iou, match_boxes
from blockcopy_plugins.ops.paint_regions import paint_regions
from blockcopy_plugins.policy.picture import cells_to_grid
from blockcopy_plugins.policy.task_output import Detections, TaskOutput

from .base import Geometry, InformationGain, OutputChange


@dataclass(frozen=True, eq=False)
class MaskSummary:
    """The part of each mask around its box, as bitmaps (see :mod:`blockcopy_plugins.ops.bitmaps`).

    Args:
        resolution: ``(h, w)`` of the masks.
        regions: int32 ``(K, 4)``, the part of each that is kept: top, bottom, left, right in mask
            pixels.
        bits: uint8, the bitmaps of ``regions``.
        areas: int64 ``(K,)``, in mask pixels, all above 0.
        covered: uint8, bitmaps of the summary's ``regions``: the cells that each mask touches.
    """

    resolution: tuple[int, int]
    regions: Tensor
    bits: Tensor
    areas: Tensor
    covered: Tensor


@dataclass(frozen=True, eq=False)
class DetectionSummary:
    """Detections that have an area inside the image, clipped to it; on the CPU.

    Args:
        boxes: float32 ``(K, 4)``, ``x1, y1, x2, y2`` in pixels of the network's input.
        scores: float32 ``(K,)``.
        labels: int64 ``(K,)``.
        regions: int32 ``(K, 4)``, the cells around each: top, bottom, left, right.
        masks: None if there are none.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    regions: Tensor
    masks: MaskSummary | None


class BoxSummary(NamedTuple):
    """Detections without masks, clipped to the image, including those without an area in it.

    Args:
        boxes: float32 ``(K, 4)``, ``x1, y1, x2, y2`` in pixels of the network's input.
        scores: float32 ``(K,)``.
        labels: int64 ``(K,)``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def with_regions(self, geometry: Geometry) -> DetectionSummary:
        """Return a summary that is comparable with detections that have masks."""
        keep = (self.boxes[:, 2:] > self.boxes[:, :2]).all(1)
        boxes = self.boxes[keep]
        regions = _touched_cells(boxes, geometry)
        return DetectionSummary(boxes, self.scores[keep], self.labels[keep], regions, None)


class DetectionGain(InformationGain):
    """Gain of boxes and masks: what moved, came or went; for each class separately.

    For each present detection, the best match is the previous one of the same label with the
    highest IoU, the first among equals. If the two overlap, ``(1 - IoU) x score`` is painted over
    both, each with its own score. A present detection that overlaps none has come, and a previous
    one that is the best match of none has gone: each is painted with its full score. Where paint
    overlaps, the larger value is kept. If both images have masks of the same resolution, the IoU is
    that of the masks and the paint covers the masks; otherwise the boxes are used.

    Boxes are clipped to the image; those without an area inside it are skipped. Objects smaller
    than a cell are painted on the cells that they touch, so nothing vanishes.

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

        For detections on a GPU, the boxes come to the CPU in one transfer, the masks in another.

        Raises:
            FrameError: If the output is not :class:`Detections` of an image of this size.
        """
        boxes, scores, labels = _read(output, geometry)
        height, width = geometry.size
        boxes = torch.minimum(boxes.clamp_min(0), torch.tensor([width, height, width, height]))
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]
        masks = None
        if output.masks is None or len(output) == 0:
            regions = _touched_cells(boxes[keep], geometry)
        else:
            keep, regions, masks = _crop_masks(output.masks.detach(), boxes, keep, geometry)
        return DetectionSummary(boxes[keep], scores[keep], labels[keep], regions, masks)

    def output_map(self, summary: DetectionSummary, geometry: Geometry) -> Tensor:
        """Paint each detection with its score."""
        return _paint(summary.scores, summary, geometry)

    def compare(
        self, previous: DetectionSummary, current: DetectionSummary, geometry: Geometry
    ) -> Tensor:
        """Paint the changes and reduce the paint to blocks."""
        painted = self.gain_map(previous, current, geometry)
        return cells_to_grid(painted, geometry.cells, self.reduction)

    def change(
        self,
        previous: DetectionSummary | BoxSummary | None,
        output: TaskOutput,
        grid: Tensor,
        geometry: Geometry,
    ) -> OutputChange:
        """See :meth:`InformationGain.change`; all blocks are looked at."""
        boxes, scores, labels = _read(output, geometry)
        masked = len(boxes) > 0 and output.masks is not None
        masked = masked or isinstance(previous, DetectionSummary)
        if masked or self.reduction != "max":
            if isinstance(previous, BoxSummary):
                previous = previous.with_regions(geometry)
            return super().change(previous, output, grid, geometry)
        before = (None,) * 3 if previous is None else previous
        boxes, found = box_change(
            boxes, scores, labels, *before, geometry.size, geometry.block_size, geometry.cells
        )
        gain = None if previous is None else found[0]
        # Scores and labels may be the output's own memory.
        kept = BoxSummary(boxes, scores.clone(), labels.clone())
        return OutputChange(kept, gain, found[1:])

    def gain_map(
        self, previous: DetectionSummary, current: DetectionSummary, geometry: Geometry
    ) -> Tensor:
        """Return the painted changes, float32 ``(h, w)`` on cells."""
        overlaps, matches = _best_matches(previous, current)
        moved = 1 - overlaps.double()
        # For a previous detection: the largest move of any detection matched to it, 1 if gone.
        matched = matches >= 0
        left = torch.full(previous.scores.shape, -1.0, dtype=torch.float64)
        left.scatter_reduce_(0, matches[matched], moved[matched], "amax")
        left = torch.where(left < 0, 1.0, left)
        return torch.maximum(
            _paint(moved * current.scores, current, geometry),
            _paint(left * previous.scores, previous, geometry),
        )


def _read(output: TaskOutput, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of detections in host memory.

    Raises:
        FrameError: If the output is not :class:`Detections` of an image of this size.
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
    found = output.boxes.float(), output.scores.float(), output.labels
    # On a GPU this waits once.
    boxes, scores, labels = to_host([value.detach() for value in found])
    return boxes, scores, labels


def _best_matches(previous: DetectionSummary, current: DetectionSummary) -> tuple[Tensor, Tensor]:
    """Find each present detection's match.

    Returns:
        The IoU with it, float32 ``(K,)``, and its index, int64 ``(K,)``, -1 if there is none.
    """
    one, other = current.masks, previous.masks
    if one is None or other is None or one.resolution != other.resolution:
        return match_boxes(current.boxes, current.labels, previous.boxes, previous.labels)
    if len(one.areas) == 0 or len(other.areas) == 0:
        return torch.zeros(len(one.areas)), torch.full((len(one.areas),), -1)
    # Masks lie inside their boxes, so only pairs whose boxes overlap can have a mask IoU.
    overlaps = box_iou(current.boxes, previous.boxes)
    overlaps.masked_fill_(current.labels[:, None] != previous.labels, 0)
    pairs = overlaps.nonzero()
    shared = shared_pixels(one.bits, one.regions, other.bits, other.regions, pairs)
    both = one.areas[pairs[:, 0]] + other.areas[pairs[:, 1]] - shared
    overlaps[pairs.unbind(1)] = (shared.double() / both).float()
    best, match = overlaps.max(1)
    return best, torch.where(best > 0, match, -1)


def _touched_cells(boxes: Tensor, geometry: Geometry) -> Tensor:
    """Return the cells that boxes with an area inside the image touch: int32 ``(K, 4)``."""
    # With 16, 8 or 4 cells a block the side is exact, so no quotient is rounded over a border.
    left, top, right, bottom = (boxes.double() / geometry.cell_size).unbind(1)
    return _as_regions(top.floor(), bottom.ceil(), left.floor(), right.ceil())


def _as_regions(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.stack((top, bottom, left, right), 1).int()


def _crop_masks(
    masks: Tensor, boxes: Tensor, keep: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, MaskSummary]:
    """Crop masks to their boxes.

    Args:
        masks: bool ``(K, h, w)``.
        boxes: float32 ``(K, 4)``, clipped to the image.
        keep: int64, which of them have an area.
        geometry: The image's.

    Returns:
        For those in ``keep`` with something set in their box: which they are, the cells around
        them, and the crops.
    """
    resolution = (masks.shape[1], masks.shape[2])
    if masks.device.type != "cpu":
        masks = pack_columns(masks).cpu()
    rows, columns = (_axis(axis, resolution[axis], geometry) for axis in (0, 1))
    left, top, right, bottom = boxes[keep].double().unbind(1)
    top, bottom = rows.cells(top, bottom)
    left, right = columns.cells(left, right)
    cells = _as_regions(top, bottom, left, right)
    regions = _as_regions(*rows.pixels(top, bottom), *columns.pixels(left, right))
    bits = crop_masks(masks, keep, regions)
    each = torch.arange(len(keep))[:, None].expand(-1, 2)
    areas = shared_pixels(bits, regions, bits, regions, each)
    if not bool(areas.all()):
        some = areas.nonzero()[:, 0]
        keep, cells, regions, areas = (kept[some] for kept in (keep, cells, regions, areas))
        bits = crop_masks(masks, keep, regions)
    covered = cover_cells(bits, regions, cells, rows.ranges, columns.ranges)
    return keep, cells, MaskSummary(resolution, regions, bits, areas, covered)


class _Axis:
    """Which pixels of a mask touch which cells, along one axis.

    Args:
        axis: 0 for rows, 1 for columns.
        resolution: Size of the masks along the axis, in mask pixels.
        geometry: The image's.
    """

    # Half a thousandth of an input pixel of slack keeps rounding from touching the next cell.
    _SLACK = 5e-4

    def __init__(self, axis: int, resolution: int, geometry: Geometry) -> None:
        self._resolution = resolution
        self._cell = geometry.cell_size
        self._pixel = geometry.size[axis] / resolution
        self._count = geometry.map_size[axis]
        edges = torch.arange(self._count, dtype=torch.float64) * self._cell
        first = ((edges + self._SLACK) / self._pixel).long().clamp_max(resolution - 1)
        stop = ((edges + self._cell - self._SLACK) / self._pixel).ceil().long()
        stop = torch.maximum(stop.clamp_max(resolution), first + 1)
        # int32 (cells, 2): the pixels that touch each cell, half-open.
        self.ranges = torch.stack((first, stop), 1).int()

    def cells(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the half-open ranges of cells that contain boxes' sides, ``low < high`` in pixels.

        One more mask pixel is taken on each side: pasting rounds a mask's edge, and so does a
        reduced resolution.
        """
        first = ((low / self._pixel).floor() - 1).clamp_min(0)
        last = ((high / self._pixel).ceil() + 1).clamp_max(self._resolution)
        start = ((first * self._pixel + self._SLACK) / self._cell).floor()
        stop = ((last * self._pixel - self._SLACK) / self._cell).ceil()
        start = start.clamp_max(self._count - 1)
        stop = torch.maximum(stop.clamp_max(self._count), start + 1)
        return start.long(), stop.long()

    def pixels(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Return the half-open ranges of mask pixels that touch the cells ``start:stop``."""
        return self.ranges[start, 0], self.ranges[stop - 1, 1]


@lru_cache(maxsize=64)
def _axis(axis: int, resolution: int, geometry: Geometry) -> _Axis:
    with torch.inference_mode(False):
        return _Axis(axis, resolution, geometry)


def _paint(values: Tensor, summary: DetectionSummary, geometry: Geometry) -> Tensor:
    """Return float32 ``(h, w)`` on cells; where detections overlap, the largest value stands."""
    covered = None if summary.masks is None else summary.masks.covered
    return paint_regions(values.float(), summary.regions, covered, geometry.map_size)
