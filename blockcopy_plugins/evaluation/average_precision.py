"""COCO average precision of boxes and masks, without files and without console output."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.datasets.ground_truth.masks import mask_area
from blockcopy_plugins.errors import ConfigError

IOU_TYPES = ("bbox", "segm")


def detection_ap(
    ground_truth: Sequence[FrameObjects],
    predictions: Sequence[FrameObjects],
    iou_type: str = "bbox",
    max_detections: int = 100,
    sizes: bool = True,
) -> dict[str, float]:
    """COCO average precision over frames, by pycocotools.

    The mean is over the classes with ground truth that is not ignored. Without any, the result is
    nan, as there is nothing to measure; ground truth without predictions gives 0.

    Ignored ground truth (``FrameObjects.ignore``, such as MOTChallenge's ``conf`` 0) does not have
    to be found. A detection that matches it by ordinary IoU, and no counted object, is left out;
    each ignored object takes at most one detection. Crowd ground truth (``FrameObjects.crowd``)
    takes any number, and lying inside it is enough: COCO's rule. Ground truth without an area (an
    empty mask or box) is ignored, since nothing can match it.

    Args:
        ground_truth: The annotated objects of each frame.
        predictions: The detections of each frame, in the same order, with scores.
        iou_type: ``'bbox'`` or ``'segm'``.
        max_detections: How many detections of each frame and class count, best scores first.
        sizes: Also compute AP of small (< 32² px), medium and large (> 96² px) objects.

    Returns:
        ``AP`` (mean over IoU 0.50 to 0.95), ``AP50``, ``AP75``, and with ``sizes`` ``AP_small``,
        ``AP_medium``, ``AP_large``: each in [0, 1], or nan.

    Raises:
        ConfigError: The sequences' lengths differ, the type is unknown, or required scores or masks
            are missing.
    """
    if iou_type not in IOU_TYPES:
        raise ConfigError(f"iou_type must be 'bbox' or 'segm', but got {iou_type!r}")
    if len(ground_truth) != len(predictions):
        raise ConfigError(
            f"there is ground truth of {len(ground_truth)} frames, but predictions of "
            f"{len(predictions)}; give one entry per frame, an empty one if there is nothing"
        )
    evaluation = _InMemoryEvaluation(ground_truth, predictions, iou_type, max_detections, sizes)
    names = ["AP", "AP50", "AP75"]
    if sizes:
        names += [f"AP_{label}" for label in evaluation.params.areaRngLbl[1:]]
    if not evaluation.params.catIds or not evaluation.params.imgIds:
        return dict.fromkeys(names, float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # (IoU threshold, recall, class, area)
    thresholds = evaluation.params.iouThrs
    values = [
        _mean(precision[:, :, :, 0]),
        _mean(precision[np.isclose(thresholds, 0.5), :, :, 0]),
        _mean(precision[np.isclose(thresholds, 0.75), :, :, 0]),
    ]
    values += [_mean(precision[:, :, :, i]) for i in range(1, precision.shape[-1])]
    return dict(zip(names, values, strict=True))


class _InMemoryEvaluation(COCOeval):
    """pycocotools' evaluation, fed from memory instead of from COCO files.

    ``_prepare`` is where pycocotools fills its tables of annotations; its own version overwrites
    the ignore flag with ``iscrowd``, so that only crowds could be ignored.
    """

    def __init__(
        self,
        ground_truth: Sequence[FrameObjects],
        predictions: Sequence[FrameObjects],
        iou_type: str,
        max_detections: int,
        sizes: bool,
    ) -> None:
        super().__init__(iouType=iou_type)
        ids = itertools.count(1)  # 0 means "unmatched" to pycocotools
        self._truth = [
            entry for i, f in enumerate(ground_truth) for entry in _truth(f, i, iou_type, ids)
        ]
        # A class without ground truth has no AP; skipping it saves most of the time.
        classes = {entry["category_id"] for entry in self._truth}
        self._detections = [
            entry
            for i, f in enumerate(predictions)
            for entry in _detections(f, i, iou_type, ids)
            if entry["category_id"] in classes
        ]
        self.params.imgIds = list(range(len(ground_truth)))
        self.params.catIds = sorted(classes)
        self.params.maxDets = [max_detections]
        if not sizes:
            self.params.areaRng = self.params.areaRng[:1]
            self.params.areaRngLbl = self.params.areaRngLbl[:1]

    def _prepare(self) -> None:
        self._gts.clear()
        self._dts.clear()
        for table, entries in ((self._gts, self._truth), (self._dts, self._detections)):
            for entry in entries:
                table[entry["image_id"], entry["category_id"]].append(entry)
        self.evalImgs = []
        self.eval = {}


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]  # -1: without ground truth
    return float(valid.mean()) if valid.size else float("nan")


def _truth(
    frame: FrameObjects, image: int, iou_type: str, ids: itertools.count
) -> list[dict[str, Any]]:
    entries = _entries(frame, image, iou_type, ids, "ground truth")
    for i, entry in enumerate(entries):
        crowd = bool(frame.crowd[i])
        entry["iscrowd"] = int(crowd)
        entry["ignore"] = int(crowd or bool(frame.ignore[i]) or entry["area"] <= 0)
        if frame.areas is not None and not entry["ignore"]:
            entry["area"] = float(frame.areas[i])
    return entries


def _detections(
    frame: FrameObjects, image: int, iou_type: str, ids: itertools.count
) -> list[dict[str, Any]]:
    if frame.scores is None:
        raise ConfigError(f"the predictions of frame {image} have no scores; AP ranks by them")
    entries = _entries(frame, image, iou_type, ids, "predictions")
    for entry, score in zip(entries, frame.scores, strict=True):
        entry["score"] = float(score)
    return entries


def _entries(
    frame: FrameObjects, image: int, iou_type: str, ids: itertools.count, what: str
) -> list[dict[str, Any]]:
    if iou_type == "segm" and frame.masks is None and len(frame):
        raise ConfigError(
            f"the {what} of frame {image} have no masks, which 'segm' needs; use iou_type='bbox'"
        )
    entries = []
    for i, (x1, y1, x2, y2) in enumerate(frame.boxes.tolist()):
        entry: dict[str, Any] = {
            "id": next(ids),
            "image_id": image,
            "category_id": int(frame.labels[i]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": max(x2 - x1, 0.0) * max(y2 - y1, 0.0),
        }
        if iou_type == "segm" and frame.masks is not None:
            entry["segmentation"] = frame.masks[i]
            entry["area"] = mask_area(frame.masks[i])
        entries.append(entry)
    return entries
