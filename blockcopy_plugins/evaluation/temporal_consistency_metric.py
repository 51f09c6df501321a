"""MMEngine metric of the temporal consistency of a segmentor on video frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.frame_metric import FrameMetric, require_keys
from blockcopy_plugins.evaluation.optical_flow import FrameFlows
from blockcopy_plugins.evaluation.temporal_consistency import (
    WarpedAreas,
    compare_with_warped,
    mean_warped_iou,
)
from blockcopy_plugins.registry import METRICS


@dataclass(frozen=True, eq=False)
class FrameConsistency:
    """The result that is kept for a frame.

    Attributes:
        video_id: Index of the video in its dataset.
        frame_id: Index of the frame in its video's sequence, from 0.
        areas: Agreement with the previous frame; None if there is none.
    """

    video_id: int
    frame_id: int
    areas: WarpedAreas | None

    @property
    def key(self) -> tuple[int, int]:
        """Video and frame: unique within a dataset, and the order of results."""
        return self.video_id, self.frame_id


@METRICS.register_module()
class TemporalConsistencyMetric(FrameMetric):
    """Mean IoU of each frame's labels with those of the previous one, warped by optical flow.

    The measure of Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference",
    ECCV 2020: areas are summed over all pairs of successive frames, then the mean is taken over the
    labels. They use FlowNet2 and all pixels; here OpenCV's DIS computes the flow from the frames
    at reduced size, and points where it is not reliable (hidden in the previous frame or outside of
    it) are left out, see `estimate_flow` and `compare_with_warped`. Compare these figures with each
    other, dense and block-sparse, rather than with published ones.

    The metric needs no ground truth and says nothing about correctness: wrong labels that stay are
    consistent. For that reason, a block-sparse run, whose unexecuted blocks keep their labels, can
    be more consistent than the dense one.

    It works with `VideoFrameDataset`; the frames of a video must come in order.

    Args:
        width: Width to which wider frames are reduced for the flow, px.
        keep_results: See `FrameMetric`; its results are `FrameConsistency`.
        collect_device: See `FrameMetric`.
        prefix: See `FrameMetric`.

    Attributes:
        flows: Computes the flows; metrics of several runs of the same frames may share one.

    Raises:
        ConfigError: The width is too small.
    """

    def __init__(
        self,
        width: int = 512,
        keep_results: bool = True,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(keep_results, collect_device, prefix)
        self.flows = FrameFlows(width)
        self._labels: dict[int, tuple[int, np.ndarray]] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the labels of a batch.

        Args:
            data_batch: From the data loader: ``inputs`` are the frames, uint8 (3, H, W) each.
            data_samples: A dict for each image (MMEngine's ``SegDataSample.to_dict()``) with
                ``pred_sem_seg`` of the size of the original frame, ``video_id``, ``frame_id``, and
                optionally ``scale_factor``, by which padding is cut off the frames.

        Raises:
            ConfigError: One of these is missing.
            FrameError: The frames have another form.
        """
        for sample in data_samples:
            require_keys(sample, "pred_sem_seg")
        if not isinstance(data_batch, Mapping) or "inputs" not in data_batch:
            raise ConfigError(
                "temporal consistency needs the frames, but the data batch has no inputs; leave "
                "out TemporalConsistencyMetric"
            )
        keys = [(int(sample["video_id"]), int(sample["frame_id"])) for sample in data_samples]
        frames = [
            _without_padding(frame, sample)
            for frame, sample in zip(data_batch["inputs"], data_samples, strict=True)
        ]
        labels: dict[int, tuple[int, np.ndarray]] = {}
        for (video, number), flow, sample in zip(
            keys, self.flows(keys, frames), data_samples, strict=True
        ):
            # One or two bytes per pixel: these are kept until the next frame.
            found = sample["pred_sem_seg"]["data"].squeeze(0).to(torch.int16).cpu().numpy()
            last, previous = self._labels.get(video, (None, None))
            areas = None
            if flow is not None and last is not None and last + 1 == number:
                areas = compare_with_warped(previous, found, flow)
            labels[video] = (number, found)
            self.results.append(FrameConsistency(video, number, areas))
        self._labels = labels

    def evaluate(self, size: int) -> dict[str, float]:
        """See `FrameMetric.evaluate`; the labels kept for the next frame are dropped."""
        self._labels = {}
        return super().evaluate(size)

    def compute_metrics(self, results: Sequence[FrameConsistency]) -> dict[str, float]:
        """The consistency over all pairs of frames.

        Args:
            results: In the order of video and frame.

        Returns:
            ``temporal_pairs`` (of successive frames) and, if there are any,
            ``temporal_consistency`` (from 0 to 1) and ``temporal_share``, the share of points that
            were counted.
        """
        areas = [result.areas for result in results if result.areas is not None]
        metrics = {"temporal_pairs": float(len(areas))}
        if areas:
            metrics["temporal_consistency"] = mean_warped_iou(areas)
            metrics["temporal_share"] = sum(a.counted for a in areas) / sum(a.points for a in areas)
        return metrics


def _without_padding(frame: Any, sample: Mapping[str, Any]) -> Any:
    """The part of a network input that shows the frame: pipelines pad on the right and below."""
    scale = sample.get("scale_factor")
    if scale is None:
        return frame
    height, width = sample["pred_sem_seg"]["data"].shape[-2:]
    return frame[:, : round(height * scale[1]), : round(width * scale[0])]
