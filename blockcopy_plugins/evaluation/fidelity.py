"""How well the block-sparse model's detections agree with those of the dense model."""

from __future__ import annotations

from collections.abc import Sequence

from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.evaluation.average_precision import IOU_TYPES, detection_ap


def detection_fidelity(
    sparse: Sequence[FrameObjects],
    dense: Sequence[FrameObjects],
    score_threshold: float = 0.3,
    iou_types: Sequence[str] | None = None,
) -> dict[str, float]:
    """Average precision of the sparse detections with the dense ones as ground truth.

    It needs no annotations, and measures what block-sparse execution changes, not how good the
    model is. Dense detections of at least ``score_threshold`` (0.3 is what MMDetection draws) are
    the ground truth; weaker ones are ignored, so that a detection that merely crosses the threshold
    is not an error. The same detections on both sides give 1.

    Args:
        sparse: Detections of each frame of the block-sparse run.
        dense: Those of the dense run, in the same order.
        score_threshold: Lowest score of a dense detection that has to be found.
        iou_types: ``'bbox'``, ``'segm'`` or both; None takes those that both sides have.

    Returns:
        ``bbox_AP``, ``bbox_AP50``, ``bbox_AP75`` and/or the same with ``segm``; nan if the dense
        run has no detection above the threshold.

    Raises:
        ConfigError: Different numbers of frames, frames of different sizes, no scores, no masks.
    """
    if len(sparse) != len(dense):
        raise ConfigError(
            f"there are sparse detections of {len(sparse)} frames, but dense ones of {len(dense)}; "
            "run both over the same frames"
        )
    truth = []
    for i, (sparse_frame, frame) in enumerate(zip(sparse, dense, strict=True)):
        if sparse_frame.size != frame.size:
            raise ConfigError(
                f"frame {i} is {sparse_frame.size} px in the sparse run, but {frame.size} in the "
                "dense run; both must be in pixels of the original image"
            )
        if frame.scores is None:
            raise ConfigError(f"the dense detections of frame {i} have no scores")
        truth.append(
            FrameObjects(
                boxes=frame.boxes,
                labels=frame.labels,
                size=frame.size,
                masks=frame.masks,
                ignore=frame.scores < score_threshold,
            )
        )
    if iou_types is None:
        filled = [frame for frame in (*sparse, *dense) if len(frame)]
        with_masks = bool(filled) and all(frame.masks is not None for frame in filled)
        iou_types = IOU_TYPES if with_masks else IOU_TYPES[:1]
    return {
        f"{iou_type}_{name}": value
        for iou_type in iou_types
        for name, value in detection_ap(truth, sparse, iou_type, sizes=False).items()
    }
