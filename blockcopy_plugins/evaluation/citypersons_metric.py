"""MMEngine metric of pedestrians in videos: average precision and CityPersons miss rates."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.frame_detection_metric import FrameDetectionMetric
from blockcopy_plugins.evaluation.frame_result import FrameResult
from blockcopy_plugins.evaluation.miss_rate import log_average_miss_rate
from blockcopy_plugins.registry import METRICS

logger = logging.getLogger(__name__)


@METRICS.register_module()
class CityPersonsMetric(FrameDetectionMetric):
    """Log-average miss rates of the four CityPersons subsets, and average precision.

    Each annotated frame is an image of the protocol, see `log_average_miss_rate`. How much of a
    pedestrian is visible comes from the ``vis_ratio`` or ``bbox_vis`` of the sample's
    ``instances``; ground truth without either (MOTChallenge, COCO) counts as fully visible, which
    leaves ``Heavy`` empty and is logged.

    Args:
        pedestrian_classes: Names of the classes that are pedestrians; detections and ground truth
            of others do not count for the miss rates. The dataset must have at least one of them.
        iou_types: See `FrameDetectionMetric`.
        max_detections: See `FrameDetectionMetric`; only for average precision, the miss rates use
            1000.
        keep_results: See `FrameMetric`.
        collect_device: See `FrameMetric`.
        prefix: See `FrameMetric`.

    Raises:
        ConfigError: An unknown iou type, or no class is named.
    """

    def __init__(
        self,
        pedestrian_classes: Sequence[str] | str = ("pedestrian", "person"),
        iou_types: Sequence[str] | str | None = None,
        max_detections: int = 100,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(iou_types, max_detections, keep_results, collect_device, prefix)
        if isinstance(pedestrian_classes, str):
            pedestrian_classes = (pedestrian_classes,)
        if not pedestrian_classes:
            raise ConfigError(
                "pedestrian_classes is empty; name the dataset's class of pedestrians"
            )
        self.pedestrian_classes = tuple(pedestrian_classes)

    def compute_metrics(self, results: Sequence[FrameResult]) -> dict[str, float]:
        """Miss rates and average precision over the annotated frames.

        Args:
            results: In the order of video and frame.

        Returns:
            The metrics of `FrameDetectionMetric` and, if there are annotated frames,
            ``MR_Reasonable``, ``MR_Reasonable_small``, ``MR_Heavy`` and ``MR_All``: from 0 to 1,
            lower is better, nan for an empty subset.

        Raises:
            ConfigError: The dataset has none of the classes, or masks were asked for and are
                missing.
        """
        metrics = super().compute_metrics(results)
        annotated = [r for r in results if r.ground_truth is not None]
        if not annotated:
            return metrics
        labels = self._labels()
        truth = [_of_labels(r.ground_truth, labels) for r in annotated]
        found = [_of_labels(r.predictions, labels) for r in annotated]
        filled = [objects for objects in truth if len(objects)]
        if filled and all(objects.visible_ratios is None for objects in filled):
            logger.warning(
                "the ground truth does not say which part of a person is visible (vis_ratio or "
                "bbox_vis); all count as fully visible for the miss rates"
            )
        rates = log_average_miss_rate(truth, found)
        return {**metrics, **{f"MR_{name}": rate for name, rate in rates.items()}}

    def _labels(self) -> list[int]:
        names = (self.dataset_meta or {}).get("classes") or ()
        labels = [label for label, name in enumerate(names) if name in self.pedestrian_classes]
        if not labels:
            raise ConfigError(
                f"none of the pedestrian_classes {self.pedestrian_classes} is among the dataset's "
                f"classes {tuple(names)}; give the metric the names of those that are pedestrians, "
                "or the dataset metainfo=dict(classes=...)"
            )
        return labels


def _of_labels(objects: FrameObjects, labels: Sequence[int]) -> FrameObjects:
    return objects.select(np.isin(objects.labels, labels))
