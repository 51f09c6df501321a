"""Log-average miss rate of pedestrian detectors, by CityPersons' protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.errors import ConfigError

FPPI_POINTS = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""False positives per image at which the miss rate is read: evenly spaced in the logarithm."""

_OVERLAP = 0.5  # smallest overlap of a match
_EXPANSION = 1.25  # detections this far outside of a subset's heights still count
_MAX_DETECTIONS = 1000  # per frame
_FLOOR = 1e-10  # smallest miss rate of which the logarithm is taken


@dataclass(frozen=True)
class PedestrianSubset:
    """Which pedestrians have to be found; the others are ignored.

    Attributes:
        name: Its name.
        heights: Smallest and largest height of the full body, px, inclusive.
        visible_ratios: Smallest and largest visible share of the body, inclusive.
    """

    name: str
    heights: tuple[float, float]
    visible_ratios: tuple[float, float]


CITYPERSONS_SUBSETS = (
    PedestrianSubset("Reasonable", (50.0, np.inf), (0.65, np.inf)),
    PedestrianSubset("Reasonable_small", (50.0, 75.0), (0.65, np.inf)),
    PedestrianSubset("Heavy", (50.0, np.inf), (0.2, 0.65)),
    PedestrianSubset("All", (20.0, np.inf), (0.2, np.inf)),
)
"""The four subsets of the public evaluation, which calls ``Heavy`` ``Reasonable_occ=heavy``."""


@dataclass(frozen=True, eq=False)
class MissRateCurve:
    """Miss rate over false positives per image, as the score threshold falls.

    Attributes:
        fppi: float64 (D,), false positives per image up to each counted detection, ascending.
        miss_rate: float64 (D,), share of the subset's pedestrians not found up to there; nan if the
            subset has none.
        pedestrians: Number of pedestrians that have to be found.
    """

    fppi: np.ndarray
    miss_rate: np.ndarray
    pedestrians: int

    def at(self, points: Sequence[float] = FPPI_POINTS) -> np.ndarray:
        """Lowest miss rate with at most this many false positives per image.

        Args:
            points: False positives per image.

        Returns:
            float64, one for each point: 1 if even the detection with the best score is one false
            positive too many; nan if the subset has no pedestrian.
        """
        if self.pedestrians == 0:
            return np.full(len(points), np.nan)
        # Detections up to which the false positives do not exceed the point; if none, all missed.
        counted = np.searchsorted(self.fppi, points, side="right")
        return np.concatenate([[1.0], self.miss_rate])[counted]

    def log_average(self) -> float:
        """Geometric mean of the miss rate at `FPPI_POINTS`; nan if the subset has no pedestrian."""
        return float(np.exp(np.mean(np.log(np.maximum(self.at(), _FLOOR)))))


def log_average_miss_rate(
    ground_truth: Sequence[FrameObjects],
    predictions: Sequence[FrameObjects],
    subsets: Sequence[PedestrianSubset] = CITYPERSONS_SUBSETS,
) -> dict[str, float]:
    """Log-average miss rate MR^-2 of each subset; lower is better.

    The measure is that of Dollar et al., "Pedestrian Detection: An Evaluation of the State of the
    Art", TPAMI 2012; matching and subsets are those of the public CityPersons evaluation (Zhang et
    al., "CityPersons: A Diverse Dataset for Pedestrian Detection", CVPR 2017). On 100 images or
    more it equals that evaluation, with two exceptions:

    * No detection at or below a point of the curve (in n < 100 images, the first false positive is
      beyond 0.01 per image): the miss rate there is 1, as in the Matlab code of the first paper;
      the public Python code takes that of all detections.
    * All found at a point of the curve: a miss rate of 1e-10 enters the mean, as in the Matlab
      code; the public Python code takes 0, which makes the whole mean 0.

    See `miss_rate_curve` for the matching.

    Args:
        ground_truth: The annotated pedestrians of each frame: boxes of the full body, ``ignore``
            for all that need not be found (other persons, groups, ignore regions), ``heights`` and
            ``visible_ratios``. There is one class; labels are not read.
        predictions: The detections of that class, with scores, of each frame in the same order.
        subsets: The subsets.

    Returns:
        Miss rates by name of the subset, in [0, 1]; nan if there is nothing to find.

    Raises:
        ConfigError: The sequences' lengths differ, or there are no scores.
    """
    frames = _paired(ground_truth, predictions)
    return {s.name: _curve(frames, s).log_average() for s in subsets}


def miss_rate_curve(
    ground_truth: Sequence[FrameObjects],
    predictions: Sequence[FrameObjects],
    subset: PedestrianSubset = CITYPERSONS_SUBSETS[0],
) -> MissRateCurve:
    """The curve whose mean is `log_average_miss_rate`.

    Of each frame, the 1000 detections with the best scores count, if their height is at least the
    subset's smallest divided by 1.25 and below its largest times 1.25. In the order of falling
    scores, each takes the pedestrian of the subset, not yet taken, with the largest intersection
    over union of at least 0.5. One that finds none is left out if at least half of its own area
    lies in something ignored, which may take any number of detections; otherwise it is a false
    positive. Pedestrians outside the subset are ignored. Equal scores keep their order.

    Args:
        ground_truth: See `log_average_miss_rate`.
        predictions: See `log_average_miss_rate`.
        subset: The pedestrians that have to be found.

    Returns:
        The curve over all frames.

    Raises:
        ConfigError: The sequences' lengths differ, or there are no scores.
    """
    return _curve(_paired(ground_truth, predictions), subset)


@dataclass(frozen=True, eq=False)
class _Frame:
    """What all subsets use: detections by falling score, and their overlaps.

    Attributes:
        ignore: bool (G,), ignored in every subset.
        heights: float64 (G,), px.
        visible_ratios: float64 (G,).
        scores: float64 (D,), falling.
        found_heights: float64 (D,), px.
        union: float64 (D, G), intersection over union.
        inside: float64 (D, G), intersection over the detection's area.
    """

    ignore: np.ndarray
    heights: np.ndarray
    visible_ratios: np.ndarray
    scores: np.ndarray
    found_heights: np.ndarray
    union: np.ndarray
    inside: np.ndarray


def _paired(
    ground_truth: Sequence[FrameObjects], predictions: Sequence[FrameObjects]
) -> list[_Frame]:
    if len(ground_truth) != len(predictions):
        raise ConfigError(
            f"there is ground truth of {len(ground_truth)} frames, but predictions of "
            f"{len(predictions)}; give one entry per frame, an empty one if there is nothing"
        )
    frames = []
    for index, (truth, found) in enumerate(zip(ground_truth, predictions, strict=True)):
        if found.scores is None:
            raise ConfigError(
                f"the predictions of frame {index} have no scores; the miss rate ranks by them"
            )
        best = np.argsort(-found.scores, kind="stable")[:_MAX_DETECTIONS]
        boxes = found.boxes[best]
        union, inside = _overlaps(boxes, truth.boxes)
        heights = truth.boxes[:, 3] - truth.boxes[:, 1]
        frames.append(
            _Frame(
                ignore=truth.ignore | truth.crowd,
                heights=heights if truth.heights is None else truth.heights,
                visible_ratios=(
                    np.ones(len(truth)) if truth.visible_ratios is None else truth.visible_ratios
                ),
                scores=found.scores[best],
                found_heights=boxes[:, 3] - boxes[:, 1],
                union=union,
                inside=inside,
            )
        )
    return frames


def _curve(frames: Sequence[_Frame], subset: PedestrianSubset) -> MissRateCurve:
    scores, right, pedestrians = [np.zeros(0)], [np.zeros(0, bool)], 0
    for frame in frames:
        ignore = frame.ignore | ~(
            _within(frame.heights, subset.heights)
            & _within(frame.visible_ratios, subset.visible_ratios)
        )
        pedestrians += int(np.count_nonzero(~ignore))
        low, high = subset.heights
        rows = np.flatnonzero(
            (frame.found_heights >= low / _EXPANSION) & (frame.found_heights < high * _EXPANSION)
        )
        matched = _match(frame.union[np.ix_(rows, ~ignore)])
        left_out = (frame.inside[np.ix_(rows, ignore)] >= _OVERLAP).any(1) & ~matched
        scores.append(frame.scores[rows[~left_out]])
        right.append(matched[~left_out])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right)[order]
    with np.errstate(invalid="ignore"):
        return MissRateCurve(
            fppi=np.cumsum(~hits) / max(len(frames), 1),
            miss_rate=1 - np.cumsum(hits) / np.float64(pedestrians),
            pedestrians=pedestrians,
        )


def _match(overlaps: np.ndarray) -> np.ndarray:
    """Which detections, in the order of rows, take one of the columns: bool (D,)."""
    matched = np.zeros(len(overlaps), bool)
    taken = np.zeros(overlaps.shape[1], bool)
    # Most detections do not overlap anything.
    for row in np.flatnonzero((overlaps >= _OVERLAP).any(1)):
        values = np.where(taken, -1.0, overlaps[row])
        # Of equal overlaps, the last one, as in the public evaluation.
        column = len(values) - 1 - int(np.argmax(values[::-1]))
        if values[column] >= _OVERLAP:
            matched[row] = taken[column] = True
    return matched


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _overlaps(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersections (D, G) over the unions, and over the areas of the detections."""
    upper = np.maximum(found[:, None, :2], truth[None, :, :2])
    lower = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    shared = np.clip(lower - upper, 0, None).prod(2)
    area, other = (np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1) for b in (found, truth))
    divide = np.maximum(shared, np.finfo(float).tiny)  # never less; 0 where nothing is shared
    union = np.maximum(area[:, None] + other[None] - shared, divide)
    return shared / union, shared / np.maximum(area[:, None], divide)
