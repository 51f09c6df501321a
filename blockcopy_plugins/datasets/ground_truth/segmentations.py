"""Segmentations of annotation files, checked before anything decodes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from blockcopy_plugins.datasets.ground_truth.annotation_values import Entry, finite
from blockcopy_plugins.datasets.ground_truth.masks import FURTHEST, encode_segmentation

_FIELD = "segmentation"


def read_segmentation(
    entry: Entry, size: tuple[int, int] | None, scale: tuple[float, float]
) -> tuple[Any, bool]:
    """The segmentation of an annotation, in pixels of the frame.

    Args:
        entry: The annotation.
        size: Height and width of the picture that the coordinates refer to, px, if known.
        scale: Pixels of the frame per pixel of that picture, rows and columns.

    Returns:
        Polygons or a run-length code, None if there is none; and whether parts of fewer than three
        points were left out.

    Raises:
        ConfigError: It is none of these, or a run-length code is of another size or corrupt.
    """
    found = entry.values.get(_FIELD)
    if found is None or found in ([], {}):
        return None, False
    if isinstance(found, dict):
        return _run_lengths(entry, found, size, scale), False
    if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
        raise entry.error(_FIELD, "a list of polygons, [[x1, y1, x2, y2, ...], ...], or a dict")
    polygons = []
    for part in found:
        if any(isinstance(value, list) for value in part):
            raise entry.error(_FIELD, "polygons as [x1, y1, x2, y2, ...], not as [[x1, y1], ...]")
        if len(part) % 2:
            raise entry.error(_FIELD, "polygons of pairs x, y; one has an odd number of values")
        wrong = entry.error(_FIELD, "finite numbers as coordinates")
        values = [finite(value, lambda: wrong) for value in part]  # noqa: B023
        values = [v * scale[1 - i % 2] for i, v in enumerate(values)]
        if any(abs(v) > FURTHEST for v in values):
            raise entry.error(_FIELD, f"coordinates at most {FURTHEST} px from the image")
        if len(values) >= 6:
            polygons.append(values)
    return (polygons or None), len(polygons) < len(found)


def box_of_segmentation(segmentation: Any) -> list[float] | None:
    """The box around a segmentation: x, y, width, height, px, or None if it is empty.

    Args:
        segmentation: What `read_segmentation` gives.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        from pycocotools import mask as coco_mask

        box = coco_mask.toBbox(encode_segmentation(segmentation, tuple(segmentation["size"])))
        return [float(value) for value in box] if box[2] > 0 and box[3] > 0 else None
    points = np.array([v for part in segmentation for v in part], dtype=np.float64).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def _run_lengths(
    entry: Entry, code: dict[str, Any], size: tuple[int, int] | None, scale: tuple[float, float]
) -> dict[str, Any]:
    own = code.get("size")
    if (
        not isinstance(own, list)
        or len(own) != 2
        or not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in own
        )
    ):
        raise entry.error(_FIELD, "a run-length code with size [height, width]")
    if size is not None and tuple(own) != tuple(size):
        raise entry.error(_FIELD, f"a run-length code of the image's size, {list(size)}")
    runs = _runs(code.get("counts"))
    if runs is None or sum(runs) != own[0] * own[1]:
        raise entry.error(_FIELD, f"counts whose runs make up {own[0]} x {own[1]} pixels")
    if scale == (1.0, 1.0):
        return {"size": own, "counts": runs}
    mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(own[::-1]).T
    height, width = round(own[0] * scale[0]), round(own[1] * scale[1])
    rows = ((np.arange(height) + 0.5) / scale[0]).astype(int).clip(max=own[0] - 1)
    columns = ((np.arange(width) + 0.5) / scale[1]).astype(int).clip(max=own[1] - 1)
    flat = mask[rows][:, columns].T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [height, width], "counts": ([0] if flat[0] else []) + lengths}


def _runs(counts: Any) -> list[int] | None:
    """The lengths of the runs, or None if invalid: the decoder itself would read out of bounds."""
    if isinstance(counts, list):
        right = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in counts)
        return list(counts) if right else None
    if not isinstance(counts, str) or not counts.isascii():
        return None
    return _decompress(counts)


def _decompress(text: str) -> list[int] | None:
    """COCO's compressed counts, as ``rleFrString`` reads them."""
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            if at == len(text):
                return None
            digit = ord(text[at]) - 48
            at += 1
            if not 0 <= digit < 64:
                return None
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                if digit & 16:
                    value -= 1 << shift
                break
            if shift > 60:
                return None
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return None
        runs.append(value)
    return runs
