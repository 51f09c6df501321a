"""How consistent the labels of a segmentor are from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.optical_flow import OpticalFlow


@dataclass(frozen=True, eq=False)
class WarpedAreas:
    """Agreement of a frame's labels with the warped labels of the previous frame.

    Attributes:
        intersection: int64 (n,), points that have each label in both.
        union: int64 (n,), points that have each label in either.
        counted: Number of points in the areas.
        points: Number of all points, including those left out.
    """

    intersection: np.ndarray
    union: np.ndarray
    counted: int
    points: int


def compare_with_warped(
    previous: np.ndarray, present: np.ndarray, flow: OpticalFlow
) -> WarpedAreas:
    """Compare labels with those that the flow brings from the previous frame.

    The flow's grid covers the frame; the centre of each of its pixels is a point. A point's label
    in this frame is compared with the label of the previous frame at the pixel to which its
    displacement leads. Points whose flow is not reliable or leads out of the frame are left out.

    Args:
        previous: Labels of the previous frame, int (H, W), from 0.
        present: Labels of this frame, int (H, W).
        flow: Flow from this frame to the previous one, at any size.

    Returns:
        The areas, in points.

    Raises:
        ConfigError: The label maps differ in size.
    """
    if previous.shape != present.shape:
        raise ConfigError(
            f"the labels of a frame are {present.shape}, those of the previous frame "
            f"{previous.shape}; all frames of a video must have one size"
        )
    size, grid = np.array(present.shape), np.array(flow.reliable.shape)
    y, x = (np.arange(side) + 0.5 for side in grid)
    there = np.stack(
        [y[:, None] + flow.displacement[..., 1], x[None] + flow.displacement[..., 0]], -1
    )
    there = np.floor(there * (size / grid)).astype(np.int64)
    counted = flow.reliable & (there >= 0).all(-1) & (there < size).all(-1)
    rows, columns = ((np.arange(n) + 0.5) * (s / n) for s, n in zip(size, grid, strict=True))
    now = present[np.ix_(rows.astype(np.int64), columns.astype(np.int64))][counted]
    before = previous[there[counted][:, 0], there[counted][:, 1]]
    same = now[now == before]
    labels = int(max(now.max(initial=0), before.max(initial=0))) + 1
    intersection, area_now, area_before = (
        np.bincount(labels_of, minlength=labels) for labels_of in (same, now, before)
    )
    union = area_now + area_before - intersection
    return WarpedAreas(intersection, union, len(now), counted.size)


def mean_warped_iou(areas: Sequence[WarpedAreas]) -> float:
    """Mean over the labels that occur of intersection over union, each over all pairs of frames.

    Args:
        areas: The areas of each pair of frames.

    Returns:
        From 0 to 1; nan if no point was counted.
    """
    labels = max((len(pair.union) for pair in areas), default=0)
    intersection, union = np.zeros(labels), np.zeros(labels)
    for pair in areas:
        intersection[: len(pair.intersection)] += pair.intersection
        union[: len(pair.union)] += pair.union
    occurs = union > 0
    return float((intersection[occurs] / union[occurs]).mean()) if occurs.any() else float("nan")
