"""MMEngine metric of segmentation on the frames of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.frame_metric import FrameMetric, require_keys
from blockcopy_plugins.registry import METRICS


@dataclass(frozen=True, eq=False)
class FrameAreas:
    """The result that is kept for a segmented frame: a few numbers per class, not the label map.

    Attributes:
        video_id: Index of the video in its dataset.
        frame_id: Index of the frame in its video's sequence, from 0.
        areas: Pixels per class of the intersection, the union, the prediction and the ground truth,
            float64 ``(n_classes,)`` each; None if the frame has no label image.
    """

    video_id: int
    frame_id: int
    areas: tuple[Tensor, Tensor, Tensor, Tensor] | None

    @property
    def key(self) -> tuple[int, int]:
        """Video and frame: unique within a dataset, and the order of results."""
        return self.video_id, self.frame_id


@METRICS.register_module()
class FrameSegmentationMetric(FrameMetric):
    """Mean IoU and accuracies of a segmentor over video frames, by mmseg's ``IoUMetric``.

    Works with `VideoFrameDataset`, whose pipeline puts ``gt_sem_seg`` into the data samples of
    frames that have a label image. Frames without one are kept, but do not count. The table of all
    classes is in the log.

    Args:
        ignore_index: Label of pixels that do not count.
        keep_results: See `FrameMetric`; its results are `FrameAreas`.
        collect_device: See `FrameMetric`.
        prefix: See `FrameMetric`.

    Raises:
        ConfigError: MMSegmentation is not installed.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(keep_results, collect_device, prefix)
        try:
            from mmseg.evaluation.metrics.iou_metric import IoUMetric
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"FrameSegmentationMetric needs MMSegmentation ({error}); install it by pip "
                "install onedl-mmsegmentation"
            ) from error
        self.ignore_index = ignore_index
        # The prefix is not used, but mmseg warns if there is none.
        self._iou = IoUMetric(ignore_index=ignore_index, prefix=self.prefix)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the labels of a batch.

        Args:
            data_batch: Not used.
            data_samples: A dict for each image (MMEngine's ``SegDataSample.to_dict()``) with
                ``pred_sem_seg`` of the size of the original frame, ``video_id``, ``frame_id``, and
                optionally ``gt_sem_seg`` of the same size.

        Raises:
            ConfigError: One of these is missing, the ground truth does not fit, or the model has
                other classes than the dataset.
        """
        for sample in data_samples:
            require_keys(sample, "pred_sem_seg")
            areas = None
            if "gt_sem_seg" in sample:
                found = sample["pred_sem_seg"]["data"].squeeze(0)
                truth = sample["gt_sem_seg"]["data"].squeeze(0).to(found.device)
                classes = self._count_classes(sample)
                self._check(truth, found, classes, sample)
                areas = tuple(
                    area.double()
                    for area in self._iou.intersect_and_union(
                        found, truth.to(found.dtype), classes, self.ignore_index
                    )
                )
            self.results.append(FrameAreas(int(sample["video_id"]), int(sample["frame_id"]), areas))

    def compute_metrics(self, results: Sequence[FrameAreas]) -> dict[str, float]:
        """Figures over all pixels of the labelled frames.

        Args:
            results: In the order of video and frame.

        Returns:
            ``frames``, ``annotated_frames``, and, if there are labelled frames, ``mIoU``, ``mAcc``
            (means over the classes that occur) and ``aAcc`` (over all pixels), each from 0 to 1.
        """
        areas = [result.areas for result in results if result.areas is not None]
        metrics = {"frames": float(len(results)), "annotated_frames": float(len(areas))}
        if areas:
            names = (self.dataset_meta or {}).get("classes")
            names = names or [str(i) for i in range(len(areas[0][0]))]
            self._iou.dataset_meta = dict(classes=names)
            # MMSegmentation returns percentages, rounded to two digits.
            percents = self._iou.compute_metrics(areas)
            for name in ("mIoU", "aAcc", "mAcc"):
                metrics[name] = round(float(percents[name]) / 100, 4)
        return metrics

    def _count_classes(self, sample: Mapping[str, Any]) -> int:
        names = (self.dataset_meta or {}).get("classes")
        if names:
            return len(names)
        if "seg_logits" not in sample:
            raise ConfigError(
                "the dataset names no classes, and the data sample has no seg_logits to count "
                "them by; give the dataset metainfo=dict(classes=...)"
            )
        # One channel is foreground against background.
        return max(2, len(sample["seg_logits"]["data"]))

    def _check(self, truth: Tensor, found: Tensor, classes: int, sample: Mapping[str, Any]) -> None:
        name = sample.get("seg_map_path", "the ground truth")
        if truth.shape != found.shape:
            raise ConfigError(
                f"{name} has the shape {tuple(truth.shape)}, but the frame is "
                f"{tuple(found.shape)}; label images hold one class index per pixel, at the size "
                "of the frames, and LoadAnnotations comes after Resize in the pipeline"
            )
        if int(found.max()) >= classes:
            raise ConfigError(
                f"the model finds the class {int(found.max())}, but the dataset names {classes} "
                "classes; give the dataset the model's, by metainfo=dict(classes=...)"
            )
        counted = truth[truth != self.ignore_index]
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
            raise ConfigError(
                f"{name} holds the labels {int(counted.min())} to {int(counted.max())}, but there "
                f"are {classes} classes and the label {self.ignore_index} is ignored; give images "
                "of class indices (of Cityscapes *_gtFine_labelTrainIds.png), set "
                "reduce_zero_label in the config's dataset if its classes count from 1, or "
                "ignore_index in its test_evaluator"
            )
