"""The result that a detection metric keeps for a frame."""

from __future__ import annotations

from dataclasses import dataclass

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Detections of one frame, and its ground truth if it has any.

    Attributes:
        video_id: Index of the video in its dataset.
        frame_id: Index of the frame in its video's sequence, from 0.
        img_id: The dataset's id of the image, or None.
        predictions: The detections.
        ground_truth: The annotated objects; None if the frame is not annotated (which differs from
            an annotated frame without objects).
    """

    video_id: int
    frame_id: int
    img_id: int | None
    predictions: FrameObjects
    ground_truth: FrameObjects | None

    @property
    def key(self) -> tuple[int, int]:
        """Video and frame: unique within a dataset, and the order of results."""
        return self.video_id, self.frame_id
