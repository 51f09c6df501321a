"""Accuracy and fidelity of a run, over all of its frames and over parts of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from blockcopy_plugins.datasets.ground_truth import FrameObjects
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation import detection_ap, detection_fidelity

from .answers import Answer, DenseAnswers, LabelMap

FIRST = 50
"""Frames at the beginning of a clip, in which a policy that starts anew has yet to learn."""


def windows(frames: int) -> dict[str, slice]:
    """The parts of a clip that have figures of their own.

    Args:
        frames: Of the whole clip.
    """
    found = {"all": slice(0, frames)}
    if frames > FIRST:
        found |= {"first_50": slice(0, FIRST), "after_50": slice(FIRST, frames)}
    return found


class Scores(ABC):
    """Takes the answers of a run, frame by frame, and compares them with dense ones and truth."""

    @abstractmethod
    def add(self, answer: Answer, truth: Answer | None) -> None:
        """Take the next frame's answer.

        Raises:
            ConfigError: If ground truth is of another kind than the answers.
        """

    @abstractmethod
    def figures(self, part: slice) -> dict[str, float | None]:
        """Figures over some frames, 0 to 1, the one that counts most first; None says nothing."""


def new_scores(dense: DenseAnswers) -> Scores:
    """Scores of the kind of a network's answers.

    Args:
        dense: Its dense answers, of each frame.
    """
    return DetectionScores(dense) if isinstance(dense[0], FrameObjects) else LabelScores(dense)


class DetectionScores(Scores):
    """AP50 against ground truth and against the dense detections.

    The latter is of all classes together, so that each detection counts alike: a dense run finds
    some classes once or twice in a clip, and in a mean over classes these would count as much as
    all the cars. That mean, which AP50 against ground truth is, is given as well.

    Args:
        dense: The dense detections of each frame.
    """

    def __init__(self, dense: DenseAnswers) -> None:
        self._dense = dense
        self._found: list[FrameObjects] = []
        self._truth: list[FrameObjects | None] = []

    def add(self, answer: Answer, truth: Answer | None) -> None:
        """See :meth:`Scores.add`."""
        _check_kind(truth, FrameObjects, "a detector", "boxes: a COCO json or a MOT gt.txt")
        self._found.append(answer)
        self._truth.append(truth)

    def figures(self, part: slice) -> dict[str, float | None]:
        """See :meth:`Scores.figures`."""
        found = self._found[part]
        dense = [self._dense[i] for i in range(*part.indices(len(self._dense)))]
        together = [[_of_one_class(frame) for frame in frames] for frames in (found, dense)]
        figures = {
            name: detection_fidelity(*frames, iou_types=["bbox"])["bbox_AP50"]
            for name, frames in (
                ("fidelity_AP50", together),
                ("fidelity_class_AP50", (found, dense)),
            )
        }
        if any(truth is not None for truth in self._truth):
            pairs = [p for p in zip(self._truth[part], found, strict=True) if p[0] is not None]
            ap50 = detection_ap([t for t, _ in pairs], [f for _, f in pairs], sizes=False)["AP50"]
            figures = {"AP50": ap50, **figures}
        return _without_nan(figures)


class LabelScores(Scores):
    """Mean IoU against ground truth, agreement and mean IoU with the dense labels.

    Args:
        dense: The dense labels of each frame.

    Raises:
        ConfigError: If MMSegmentation, whose metric this is, is not installed.
    """

    def __init__(self, dense: DenseAnswers) -> None:
        try:
            from mmseg.evaluation.metrics.iou_metric import IoUMetric
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"mean IoU is computed by MMSegmentation ({error}); pip install "
                "onedl-mmsegmentation"
            ) from error
        self._metric = IoUMetric
        self._dense = dense
        self._to_dense: list[tuple[Tensor, ...]] = []
        self._to_truth: list[tuple[Tensor, ...] | None] = []

    def add(self, answer: Answer, truth: Answer | None) -> None:
        """See :meth:`Scores.add`."""
        _check_kind(truth, LabelMap, "a segmentor", "labels: a folder of label images")
        dense = self._dense[len(self._to_dense)]
        self._to_dense.append(self._areas(answer, dense, ignore=-1))
        self._to_truth.append(
            None if truth is None else self._areas(answer, truth, ignore=truth.ignore)
        )

    def figures(self, part: slice) -> dict[str, float | None]:
        """See :meth:`Scores.figures`."""
        to_dense = self._total(self._to_dense[part])
        figures = {
            "agreement": float(to_dense["aAcc"]),
            "fidelity_mIoU": _mean(to_dense["IoU"]),
        }
        if any(areas is not None for areas in self._to_truth):
            known = [areas for areas in self._to_truth[part] if areas is not None]
            figures = {"mIoU": _mean(self._total(known)["IoU"]) if known else math.nan, **figures}
        return _without_nan(figures)

    def _areas(self, found: LabelMap, wanted: LabelMap, ignore: int) -> tuple[Tensor, ...]:
        if found.labels.shape != wanted.labels.shape:
            raise ConfigError(
                f"the labels are {found.labels.shape}, but those to compare with "
                f"{wanted.labels.shape}; both must be of the size of the frame"
            )
        labels = torch.tensor(wanted.labels, dtype=torch.int64)
        counted = labels[labels != ignore]
        if counted.numel() and int(counted.max()) >= found.classes:
            raise ConfigError(
                f"the ground truth has the label {int(counted.max())}, but the network has "
                f"{found.classes} classes and the label {ignore} is ignored; set ignore_label"
            )
        return self._metric.intersect_and_union(
            torch.tensor(found.labels, dtype=torch.int64), labels, found.classes, ignore
        )

    def _total(self, areas: list[tuple[Tensor, ...]]) -> Mapping:
        total = [torch.stack(column).double().sum(0) for column in zip(*areas, strict=True)]
        return self._metric.total_area_to_metrics(*total)


def _of_one_class(frame: FrameObjects) -> FrameObjects:
    """The same objects as one class; a box can only match boxes of the class that it was of.

    Classes are drawn so far apart that boxes of two never overlap.
    """
    apart = 4.0 * (max(frame.size) + 1)
    return FrameObjects(
        boxes=frame.boxes + apart * frame.labels[:, None],
        labels=frame.labels * 0,
        size=frame.size,
        scores=frame.scores,
    )


def _check_kind(truth: Answer | None, kind: type, network: str, expected: str) -> None:
    if truth is not None and not isinstance(truth, kind):
        raise ConfigError(
            f"the ground truth is of {type(truth).__name__}, but the network is {network}, which "
            f"needs {expected}"
        )


def _mean(values) -> float:
    known = values[~torch.isnan(torch.as_tensor(values)).numpy()]
    return float(known.mean()) if len(known) else math.nan


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
