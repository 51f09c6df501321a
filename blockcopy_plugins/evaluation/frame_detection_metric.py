"""MMEngine metric of detections on the frames of videos."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric

from blockcopy_plugins.errors import ConfigError, StateError
from blockcopy_plugins.evaluation.average_precision import IOU_TYPES, detection_ap
from blockcopy_plugins.evaluation.frame_objects import FrameObjects
from blockcopy_plugins.evaluation.frame_result import FrameResult
from blockcopy_plugins.registry import METRICS

logger = logging.getLogger(__name__)


@METRICS.register_module()
class FrameDetectionMetric(BaseMetric):
    """COCO average precision of a detector over the frames of videos.

    Works with `VideoFrameDataset`, which puts ``video_id``, ``frame_id`` and, for annotated frames,
    ``instances`` (ground truth in pixels of the original frame) into the data samples. Frames that
    are not annotated are kept, but do not count for AP.

    Results of all processes are gathered whole: unlike with `BaseMetric`, nothing is cut off when
    the processes' videos have different lengths, and two results of one frame are an error.

    After an evaluation, `last_results` holds what was evaluated, in the order of video and frame,
    in every process; with it two runs can be compared by `detection_fidelity`.

    Args:
        iou_types: Of ``'bbox'`` and ``'segm'``. None computes boxes, and masks where predictions
            and ground truth both have them.
        max_detections: Of each frame and class only the best-scored so many count.
        keep_results: Keep `last_results`.
        collect_device: As for `BaseMetric`; results travel by the process group's own backend.
        prefix: Put in front of the metrics' names; ``'video'`` by default.

    Raises:
        ConfigError: An unknown iou type.
    """

    default_prefix = "video"

    def __init__(
        self,
        iou_types: Sequence[str] | str | None = None,
        max_detections: int = 100,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if isinstance(iou_types, str):
            iou_types = (iou_types,)
        unknown = [t for t in iou_types or () if t not in IOU_TYPES]
        if unknown:
            raise ConfigError(f"iou_types must be of {IOU_TYPES}, but got {unknown}")
        self.iou_types = None if iou_types is None else tuple(iou_types)
        self.max_detections = max_detections
        self.keep_results = keep_results
        self.last_results: tuple[FrameResult, ...] = ()

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Take over one batch's detections.

        Args:
            data_batch: Not used.
            data_samples: Of each image a dict (MMEngine's ``DetDataSample.to_dict()``) with
                ``pred_instances`` in pixels of the original frame, ``video_id``, ``frame_id``,
                ``ori_shape``, and perhaps ``img_id`` and ``instances``.

        Raises:
            ConfigError: One of these is missing.
        """
        for sample in data_samples:
            missing = [
                key
                for key in ("pred_instances", "video_id", "frame_id", "ori_shape")
                if key not in sample
            ]
            if missing:
                raise ConfigError(
                    f"a data sample lacks {', '.join(missing)} (it has {sorted(sample)}); load the "
                    "frames by blockcopy_plugins.VideoFrameDataset, which sets the video's and the "
                    "frame's ids, and keep ori_shape among PackDetInputs' meta_keys"
                )
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

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather the results of all processes and compute the metrics.

        Args:
            size: Number of frames of the dataset. Another number of results is logged as a warning,
                never cut.

        Returns:
            The metrics by name; the same in every process.

        Raises:
            StateError: A frame was evaluated twice.
        """
        gathered = [result for part in all_gather_object(self.results) for result in part]
        self.results.clear()
        # In every process alike: an error stops all of them instead of leaving some waiting.
        repeated = [key for key, n in Counter(r.key for r in gathered).items() if n > 1]
        if repeated:
            raise StateError(
                f"{len(repeated)} frames were evaluated more than once, the first is video "
                f"{repeated[0][0]}, frame {repeated[0][1]}; a sampler repeats frames to fill up "
                "processes or batches: use sampler=dict(type='blockcopy_plugins.VideoSampler')"
            )
        gathered.sort(key=lambda result: result.key)
        if len(gathered) != size:
            logger.warning(
                "%d frames were evaluated, but the dataset has %d; the metrics are of the former",
                len(gathered),
                size,
            )
        if self.keep_results:
            self.last_results = tuple(gathered)
        metrics: list[dict[str, float] | None] = [None]
        if is_main_process():
            computed = self.compute_metrics(gathered)
            metrics = [{f"{self.prefix}/{name}": value for name, value in computed.items()}]
        broadcast_object_list(metrics)
        return dict(metrics[0] or {})

    def compute_metrics(self, results: Sequence[FrameResult]) -> dict[str, float]:
        """Average precision over the annotated frames.

        Args:
            results: In the order of video and frame.

        Returns:
            ``frames``, ``annotated_frames``, and, if there are annotated frames, of each iou type
            ``bbox_AP``, ``bbox_AP50``, ... as `detection_ap` gives them.

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
