"""What a test on video needs to know about a kind of model: its metric and its fidelity."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, MODELS

from ...datasets.ground_truth import LabelRules
from ...datasets.ground_truth.frame_objects import FrameObjects
from ...evaluation import (
    FrameDetectionMetric,
    FrameSegmentationMetric,
    TemporalConsistencyMetric,
    detection_fidelity,
)
from ...evaluation.frame_metric import FrameMetric

Fidelity = tuple[dict[str, float] | None, str | None]


class Task(ABC):
    """A kind of model. One object serves one test run.

    Attributes:
        consistency_type: The metric of consistency from frame to frame, if there is one.
    """

    consistency_type: type[FrameMetric] | None = None

    @property
    @abstractmethod
    def metric_type(self) -> type[FrameMetric]:
        """The metric that keeps the results of each frame."""

    def metric_config(
        self, config: Config, rules: LabelRules
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The metrics as a config's evaluator.

        Metrics of video frames in the config are kept. Others need files of their own dataset and
        are left out. If none of the former is a `metric_type`, one is added.

        Args:
            config: The model's original config.
            rules: How its dataset's label images are read.
        """
        given = [(metric, _metric_class(metric, config)) for metric in _given_metrics(config)]
        kept = [(metric, kind) for metric, kind in given if issubclass(kind, FrameMetric)]
        metrics = [metric for metric, _ in kept]
        if not any(issubclass(kind, self.metric_type) for _, kind in kept):
            metrics.insert(0, self.default_metric(config, rules))
        return metrics[0] if len(metrics) == 1 else metrics

    @abstractmethod
    def default_metric(self, config: Config, rules: LabelRules) -> dict[str, Any]:
        """Config of a `metric_type` for a config that has none.

        Args:
            config: See :meth:`metric_config`.
            rules: See :meth:`metric_config`.
        """

    @abstractmethod
    def begin(self, dataset_meta: Mapping[str, Any] | None) -> None:
        """Start a run, and drop what an earlier one recorded.

        Args:
            dataset_meta: Metainfo of the dataset.
        """

    @abstractmethod
    def compare(self, sparse: Sequence[Any], dense: Sequence[Any]) -> None:
        """Record a batch that ran both ways.

        Args:
            sparse: Data samples of the block-sparse run.
            dense: Those of the dense run, in the same order.
        """

    @abstractmethod
    def fidelity(self, evaluators: Mapping[str, Evaluator], frames: int) -> Fidelity:
        """How well block-sparse and dense outputs agree. Called in all processes.

        Args:
            evaluators: ``dense`` and ``blockcopy``, after their evaluation.
            frames: Number of frames of the dataset.

        Returns:
            The figures by name, and the reason if they mean nothing; only valid in the main
            process.
        """


class DetectionTask(Task):
    """Boxes and masks.

    Args:
        threshold: Lowest score of a dense detection that has to be found.
    """

    metric_type = FrameDetectionMetric

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def default_metric(self, config: Config, rules: LabelRules) -> dict[str, Any]:
        """See :meth:`Task.default_metric`."""
        return dict(type="blockcopy_plugins.FrameDetectionMetric")

    def begin(self, dataset_meta: Mapping[str, Any] | None) -> None:
        """Do nothing."""

    def compare(self, sparse: Sequence[Any], dense: Sequence[Any]) -> None:
        """Do nothing: the metrics keep all detections."""

    def fidelity(self, evaluators: Mapping[str, Evaluator], frames: int) -> Fidelity:
        """Average precision with the dense detections as ground truth."""
        if not is_main_process():
            return None, None
        sparse, dense = (
            next(m for m in evaluators[name].metrics if isinstance(m, self.metric_type))
            for name in ("blockcopy", "dense")
        )
        return self._agreement(
            [result.predictions for result in sparse.last_results],
            [result.predictions for result in dense.last_results],
        )

    def _agreement(self, sparse: Sequence[FrameObjects], dense: Sequence[FrameObjects]) -> Fidelity:
        found = detection_fidelity(sparse, dense, self.threshold)
        reason = None
        if all(value != value for value in found.values()):
            reason = f"the dense run has no detection of score {self.threshold} or more"
        return {**found, "score_threshold": self.threshold}, reason


class TrackingTask(DetectionTask):
    """Tracks, judged by the metrics of the tracker's own dataset.

    Args:
        threshold: Lowest score of a dense track's box that has to be found.
    """

    def metric_config(
        self, config: Config, rules: LabelRules
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """The config's own metrics."""
        return config.get("test_evaluator") or config.get("val_evaluator")

    def begin(self, dataset_meta: Mapping[str, Any] | None) -> None:
        """Drop the boxes of an earlier run."""
        self._boxes: list[tuple[FrameObjects, FrameObjects]] = []

    def compare(self, sparse: Sequence[Any], dense: Sequence[Any]) -> None:
        """Keep the boxes of the tracks."""
        for pair in zip(sparse, dense, strict=True):
            for frames in zip(*(clip.video_data_samples for clip in pair), strict=True):
                self._boxes.append(tuple(map(_boxes_of_tracks, frames)))

    def fidelity(self, evaluators: Mapping[str, Evaluator], frames: int) -> Fidelity:
        """Average precision with the boxes of the dense tracks as ground truth."""
        gathered = [pair for part in all_gather_object(self._boxes) for pair in part]
        if not is_main_process():
            return None, None
        return self._agreement([sparse for sparse, _ in gathered], [dense for _, dense in gathered])


def _boxes_of_tracks(sample: Any) -> FrameObjects:
    found = sample.pred_track_instances
    boxes = {name: found[name] for name in ("bboxes", "scores", "labels")}
    return FrameObjects.from_predictions(boxes, tuple(sample.ori_shape[:2]))


class SegmentationTask(Task):
    """A class for each pixel."""

    metric_type = FrameSegmentationMetric
    consistency_type = TemporalConsistencyMetric

    def __init__(self) -> None:
        self.begin(None)

    def default_metric(self, config: Config, rules: LabelRules) -> dict[str, Any]:
        """See :meth:`Task.default_metric`; it ignores what the config's own metric ignores."""
        ignored = [m["ignore_index"] for m in _given_metrics(config) if "ignore_index" in m]
        return dict(
            type="blockcopy_plugins.FrameSegmentationMetric",
            ignore_index=ignored[0] if ignored else rules.ignore_index,
        )

    def begin(self, dataset_meta: Mapping[str, Any] | None) -> None:
        """Start counting agreement."""
        # All dense labels are classes: none is ignored.
        self._agreement = Evaluator(FrameSegmentationMetric(ignore_index=-1))
        self._agreement.dataset_meta = dataset_meta

    def compare(self, sparse: Sequence[Any], dense: Sequence[Any]) -> None:
        """Count where the labels agree; the label maps of all frames would fill the memory."""
        pairs = []
        for found, wanted in zip(sparse, dense, strict=True):
            pair = found.clone()
            pair.gt_sem_seg = wanted.pred_sem_seg
            pairs.append(pair)
        self._agreement.process(data_samples=pairs)

    def fidelity(self, evaluators: Mapping[str, Evaluator], frames: int) -> Fidelity:
        """Mean IoU and share of equal pixels with the dense labels as ground truth."""
        found = self._agreement.evaluate(frames)
        return {name: found[f"video/{name}"] for name in ("mIoU", "aAcc")}, None


def task_for(kind: type | None, fidelity_threshold: float = 0.3) -> Task:
    """The task of a kind of model.

    Args:
        kind: The model's class; all but segmentors of MMSegmentation and trackers of MMDetection
            count as detectors.
        fidelity_threshold: See :class:`DetectionTask`.
    """
    # If the framework has not been imported, there is no segmentor, and no tracker.
    segmentors = sys.modules.get("mmseg.models.segmentors.base")
    trackers = sys.modules.get("mmdet.models.mot.base")
    if isinstance(kind, type):
        if segmentors is not None and issubclass(kind, segmentors.BaseSegmentor):
            return SegmentationTask()
        if trackers is not None and issubclass(kind, trackers.BaseMOTModel):
            return TrackingTask(fidelity_threshold)
    return DetectionTask(fidelity_threshold)


def task_of(config: Config) -> Task:
    """The task of a config's model, found without building it."""
    kind = config.model.get("type")
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(config.get("default_scope")) as registry:
            kind = registry.get(kind)
    return task_for(kind)


def _given_metrics(config: Config) -> list[dict[str, Any]]:
    given = config.get("test_evaluator") or []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _metric_class(metric: Mapping[str, Any], config: Config) -> type:
    """The class of a metric's config; `object` if it is not known here."""
    kind = metric.get("type")
    if isinstance(kind, str):
        with METRICS.switch_scope_and_registry(config.get("default_scope")) as registry:
            kind = registry.get(kind)
    return kind if isinstance(kind, type) else object
