"""MMEngine metric of detections on the frames of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.average_precision import IOU_TYPES, detection_ap
from blockcopy_plugins.evaluation.frame_metric import FrameMetric, require_keys
from blockcopy_plugins.evaluation.frame_result import FrameResult
from blockcopy_plugins.registry import METRICS


@METRICS.register_module()
class FrameDetectionMetric(FrameMetric):
    """COCO average precision of a detector over the frames of videos.

    Works with `VideoFrameDataset`, which puts ``video_id``, ``frame_id`` and, for annotated frames,
    ``instances`` (ground truth in pixels of the original frame) into the data samples. Frames that
    are not annotated are kept, but do not count for AP.

    Its `last_results` are `FrameResult`, by which `detection_fidelity` can compare two runs.

    Args:
        iou_types: ``'bbox'``, ``'segm'`` or both. None computes boxes, and masks if predictions and
            ground truth both have them.
        max_detections: How many detections of each frame and class count, best scores first.
        keep_results: See `FrameMetric`.
        collect_device: See `FrameMetric`.
        prefix: See `FrameMetric`.

    Raises:
        ConfigError: An unknown iou type.
    """

    def __init__(
        self,
        iou_types: Sequence[str] | str | None = None,
        max_detections: int = 100,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(keep_results, collect_device, prefix)
        if isinstance(iou_types, str):
            iou_types = (iou_types,)
        unknown = [t for t in iou_types or () if t not in IOU_TYPES]
        if unknown:
            raise ConfigError(f"iou_types must be of {IOU_TYPES}, but got {unknown}")
        self.iou_types = None if iou_types is None else tuple(iou_types)
        self.max_detections = max_detections

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the detections of a batch.

        Args:
            data_batch: Not used.
            data_samples: A dict for each image (MMEngine's ``DetDataSample.to_dict()``) with
                ``pred_instances`` in pixels of the original frame, ``video_id``, ``frame_id``,
                ``ori_shape``, and optionally ``img_id`` and ``instances``.

        Raises:
            ConfigError: One of these is missing.
        """
        for sample in data_samples:
            require_keys(sample, "pred_instances", "ori_shape")
            size = tuple(sample["ori_shape"][:2])
            instances = sample.get("instances")
            self.results.append(
                FrameResult(
                    video_id=int(sample["video_id"]),
                    frame_id=int(sample["frame_id"]),
                    img_id=sample.get("img_id"),
                    predictions=FrameObjects.from_predictions(sample["pred_instances"], size),
                    ground_truth=(
                        None if instances is None else FrameObjects.from_instances(instances, size)
                    ),
                )
            )

    def compute_metrics(self, results: Sequence[FrameResult]) -> dict[str, float]:
        """Average precision over the annotated frames.

        Args:
            results: In the order of video and frame.

        Returns:
            ``frames``, ``annotated_frames``, and, if there are annotated frames, ``bbox_AP``,
            ``bbox_AP50``, ... of `detection_ap` for each iou type.

        Raises:
            ConfigError: Masks were asked for and are missing.
        """
        annotated = [r for r in results if r.ground_truth is not None]
        metrics = {"frames": float(len(results)), "annotated_frames": float(len(annotated))}
        if not annotated:
            return metrics
        truth = [r.ground_truth for r in annotated]
        predictions = [r.predictions for r in annotated]
        iou_types = self.iou_types
        if iou_types is None:
            with_masks = all(
                any(len(f) for f in side) and all(f.masks is not None for f in side if len(f))
                for side in (truth, predictions)
            )
            iou_types = IOU_TYPES if with_masks else IOU_TYPES[:1]
        for iou_type in iou_types:
            values = detection_ap(truth, predictions, iou_type, self.max_detections)
            metrics.update({f"{iou_type}_{name}": value for name, value in values.items()})
        return metrics
