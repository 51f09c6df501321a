"""How good the outputs are: average precision, ground truth readers, fidelity to the dense model.

The names are loaded when they are first used: average precision needs NumPy and pycocotools alone,
while the metric needs MMEngine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockcopy_plugins.evaluation.annotations import (
        VideoAnnotations,
        VideoReference,
        read_annotations,
        read_coco,
        read_mot,
    )
    from blockcopy_plugins.evaluation.average_precision import detection_ap
    from blockcopy_plugins.evaluation.fidelity import detection_fidelity
    from blockcopy_plugins.evaluation.frame_detection_metric import FrameDetectionMetric
    from blockcopy_plugins.evaluation.frame_objects import FrameObjects
    from blockcopy_plugins.evaluation.frame_result import FrameResult
    from blockcopy_plugins.evaluation.frame_segmentation_metric import (
        FrameAreas,
        FrameSegmentationMetric,
    )
    from blockcopy_plugins.evaluation.label_images import LabelRules, find_label_images
    from blockcopy_plugins.evaluation.masks import encode_masks

__all__ = [
    "FrameAreas",
    "FrameDetectionMetric",
    "FrameObjects",
    "FrameResult",
    "FrameSegmentationMetric",
    "LabelRules",
    "VideoAnnotations",
    "VideoReference",
    "detection_ap",
    "detection_fidelity",
    "encode_masks",
    "find_label_images",
    "read_annotations",
    "read_coco",
    "read_mot",
]


def __getattr__(name: str) -> Any:
    modules = {
        "FrameAreas": "frame_segmentation_metric",
        "FrameDetectionMetric": "frame_detection_metric",
        "FrameObjects": "frame_objects",
        "FrameResult": "frame_result",
        "FrameSegmentationMetric": "frame_segmentation_metric",
        "LabelRules": "label_images",
        "VideoAnnotations": "annotations",
        "VideoReference": "annotations",
        "detection_ap": "average_precision",
        "detection_fidelity": "fidelity",
        "encode_masks": "masks",
        "find_label_images": "label_images",
        "read_annotations": "annotations",
        "read_coco": "annotations",
        "read_mot": "annotations",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
