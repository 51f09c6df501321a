"""The gain of detections as it is defined, in plain loops: one detection and one pair at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Item(NamedTuple):
    box: Tensor  # float32 (4,), clipped
    score: float
    label: int
    mask: Tensor | None  # bool (h, w), what lies around the box
    cells: Tensor  # bool, on cells


def items_of(output, geometry):
    """The detections that count."""
    height, width = geometry.size
    items = []
    for index in range(len(output)):
        x1, y1, x2, y2 = output.boxes[index].float().tolist()
        x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
        if not (x1 < x2 and y1 < y2):
            continue
        mask = None
        if output.masks is None:
            cells = box_cells((x1, y1, x2, y2), geometry)
        else:
            mask, cells = crop(output.masks[index], (x1, y1, x2, y2), geometry)
            if not mask.any():
                continue
        score, label = float(output.scores[index].float()), int(output.labels[index])
        items.append(Item(torch.tensor([x1, y1, x2, y2]), score, label, mask, cells))
    return items


def box_cells(box, geometry):
    """The cells that a box touches."""
    cells = torch.zeros(geometry.map_size, dtype=torch.bool)
    ranges = []
    for low, high, count in ((box[1], box[3], len(cells)), (box[0], box[2], cells.shape[1])):
        first = min(int(low / geometry.cell_size), count - 1)
        last = max(min(math.ceil(high / geometry.cell_size), count), first + 1)
        ranges.append(slice(first, last))
    cells[ranges[0], ranges[1]] = True
    return cells


def crop(mask, box, geometry):
    """What of a mask lies in the cells of its box and one mask pixel around it, and its cells."""
    cell, slack = geometry.cell_size, 5e-4
    ranges = []  # of each cell of the box, along rows and columns: its mask pixels
    for axis, (low, high) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        side = mask.shape[axis]
        pixel = geometry.size[axis] / side
        count = min(math.ceil(geometry.size[axis] / cell), geometry.map_size[axis])
        first = max(math.floor(low / pixel) - 1, 0)
        last = min(math.ceil(high / pixel) + 1, side)
        start = min(math.floor((first * pixel + slack) / cell), count - 1)
        stop = max(min(math.ceil((last * pixel - slack) / cell), count), start + 1)
        found = {}
        for index in range(start, stop):
            begin = min(int((index * cell + slack) / pixel), side - 1)
            end = max(min(math.ceil(((index + 1) * cell - slack) / pixel), side), begin + 1)
            found[index] = (begin, end)
        ranges.append(found)
    kept = torch.zeros_like(mask)
    cells = torch.zeros(geometry.map_size, dtype=torch.bool)
    for row, (y1, y2) in ranges[0].items():
        for column, (x1, x2) in ranges[1].items():
            kept[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
            cells[row, column] = mask[y1:y2, x1:x2].any()
    return kept, cells


def iou(one, other, by_masks):
    """IoU of two detections, rounded to float32."""
    low, high = torch.maximum(one.box[:2], other.box[:2]), torch.minimum(one.box[2:], other.box[2:])
    sides = (high - low).clamp_min(0)
    shared = sides[0] * sides[1]
    if not shared > 0:
        return torch.tensor(0.0)
    if by_masks:
        both = int((one.mask & other.mask).sum())
        return torch.tensor(both / (int(one.mask.sum()) + int(other.mask.sum()) - both))
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one.box, other.box))
    return shared / (first + second - shared)


def output_map(output, geometry):
    """Each detection painted with its score."""
    return _painted([(item.score, item) for item in items_of(output, geometry)], geometry)


def gain_map(previous, current, geometry):
    """The changes, painted on cells."""
    by_masks = (
        previous.masks is not None
        and current.masks is not None
        and previous.masks.shape[1:] == current.masks.shape[1:]
    )
    before, now = items_of(previous, geometry), items_of(current, geometry)
    paint, matched = [], set()
    for item in now:
        best, match = 0.0, None
        for index, other in enumerate(before):
            overlap = float(iou(item, other, by_masks)) if other.label == item.label else 0.0
            if overlap > best:
                best, match = overlap, index
        paint.append(((1 - best) * item.score, item))
        if match is not None:
            matched.add(match)
            paint.append(((1 - best) * before[match].score, before[match]))
    for index, item in enumerate(before):
        if index not in matched:
            paint.append((item.score, item))
    return _painted(paint, geometry)


def gain(previous, current, geometry, reduction="max"):
    """The gain of each block."""
    changes = gain_map(previous, current, geometry)
    rows, columns = geometry.grid
    blocks = changes.reshape(rows, geometry.cells, columns, geometry.cells)
    return blocks.amax((1, 3)) if reduction == "max" else blocks.mean((1, 3))


def _painted(paint, geometry):
    canvas = torch.zeros(geometry.map_size)
    for value, item in paint:
        canvas[item.cells] = canvas[item.cells].clamp_min(value)
    return canvas
