"""Scales detections of the original image to the network's input, where policies compare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...host_transfer import to_host, upload
from ...policy import Detections

MASK_STEP = 4
"""Masks are compared at every fourth pixel of the network input: enough for blocks of 32 px."""


@dataclass(frozen=True)
class FoundObjects:
    """Detections of one image as its framework returns them, in pixels of the original image.

    Attributes:
        boxes: float ``(K, 4)``, ``x1, y1, x2, y2``.
        scores: float ``(K,)``.
        labels: int64 ``(K,)``.
        masks: bool ``(K, h, w)``, or ``None``.
        scale: Pixels of the network input per pixel of the original image, rows and columns.
        offset: Row and column of the image's upper left corner in the network input, px: the
            pipeline's padding above and on the left.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)


def at_network_scale(images: Sequence[FoundObjects], size: tuple[int, int]) -> list[Detections]:
    """Scale detections to the network input, and bring them to the host in one transfer.

    Args:
        images: Detections of each image.
        size: ``(H, W)`` of the network input.

    Returns:
        The detections in pixels of the network input, in host memory.
    """
    wanted: list[Tensor] = []
    for found in images:
        rows, columns = found.scale
        scale = upload(torch.tensor([columns, rows] * 2, dtype=torch.float32), found.boxes.device)
        boxes = found.boxes.detach().float() * scale
        if any(found.offset):
            corner = torch.tensor([*found.offset[::-1]] * 2, dtype=torch.float32)
            boxes = boxes + upload(corner, boxes.device)
        wanted += [boxes, found.scores.detach().float(), found.labels.detach()]
        if found.masks is not None:
            masks = _with_padding(found.masks.detach(), found)
            on_host = masks.device.type == "cpu"
            # Of masks on a device, only the pixels that are compared are transferred.
            wanted.append(masks if on_host else _sample_on_device(masks, boxes, size, found.scale))
    values = iter(to_host(wanted))
    detections = []
    for found in images:
        boxes, scores, labels = (next(values) for _ in range(3))
        masks = None
        if found.masks is not None:
            masks = next(values)
            if found.masks.device.type == "cpu":
                masks = masks_at_network_scale(masks, boxes, size, found.scale)
        detections.append(Detections(boxes, scores, labels, masks, size))
    return detections


def _with_padding(masks: Tensor, found: FoundObjects) -> Tensor:
    """Masks of the image with the pipeline's padding above and on the left."""
    if not any(found.offset):
        return masks
    top, left = (round(o / s) for o, s in zip(found.offset, found.scale, strict=True))
    return torch.nn.functional.pad(masks, (left, 0, top, 0))


def masks_at_network_scale(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], scale: tuple[float, float]
) -> Tensor:
    """Sample bool masks ``(K, h, w)`` of the original image on a grid of the network input.

    Args:
        masks: bool ``(K, h, w)`` in host memory; only what lies in its box is read, which saves
            nearly all of the time, unless the box is empty (SOLO has none).
        boxes: ``(K, 4)`` in pixels of the network input.
        size: ``(H, W)`` of the network input.
        scale: Pixels of the network input per pixel of the original image, rows and columns.

    Returns:
        bool ``(K, H / MASK_STEP, W / MASK_STEP)``, rounded up.
    """
    rows, columns = _sources(masks.shape[1:], size, scale)
    out = _no_masks(masks, size)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if x2 <= x1 or y2 <= y1:
            x1, y1, x2, y2 = 0, 0, size[1], size[0]
        # One more step on each side: pasting rounds a mask's edge.
        top, bottom = _steps(y1, y2, len(rows))
        left, right = _steps(x1, x2, len(columns))
        if top < bottom and left < right:
            found = masks[index].index_select(0, rows[top:bottom])
            found = found.index_select(1, columns[left:right])
            out[index, top:bottom, left:right] = found.bool()
    return out


def _sample_on_device(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], scale: tuple[float, float]
) -> Tensor:
    """As :func:`masks_at_network_scale`, without reading the boxes on the host."""
    sources = _sources(masks.shape[1:], size, scale)
    rows, columns = (upload(source, masks.device) for source in sources)
    found = masks.index_select(1, rows).index_select(2, columns).bool()
    x1, y1, x2, y2 = upload(boxes, masks.device).unbind(1)
    nothing = (x2 <= x1) | (y2 <= y1)
    for low, high, dim in ((y1, y2, 1), (x1, x2, 2)):
        step = torch.arange(found.shape[dim], device=masks.device)
        first, last = (low / MASK_STEP).trunc() - 1, (high / MASK_STEP).ceil() + 1
        inside = (step >= first[:, None]) & (step < last[:, None]) | nothing[:, None]
        found &= inside.unsqueeze(3 - dim)
    out = _no_masks(masks, size)
    out[:, : len(rows), : len(columns)] = found
    return out


@lru_cache(maxsize=64)
def _sources(
    resolution: tuple[int, int], size: tuple[int, int], scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Rows and columns of masks ``(h, w)`` at which samples are taken."""
    tables = []
    with torch.inference_mode(False):
        for axis in (0, 1):
            position = torch.arange(0, size[axis], MASK_STEP, device="cpu") + MASK_STEP / 2
            source = (position / scale[axis]).long()
            # The network input's padding lies outside the image.
            tables.append(source[source < resolution[axis]])
    return tables[0], tables[1]


def _no_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    shape = (len(masks), *(-(-side // MASK_STEP) for side in size))
    return torch.zeros(shape, dtype=torch.bool, device=masks.device)


def _steps(start: float, end: float, most: int) -> tuple[int, int]:
    first, last = int(start / MASK_STEP) - 1, math.ceil(end / MASK_STEP) + 1
    return min(max(first, 0), most), min(max(last, 0), most)
