"""Ground truth of videos: the objects and label images of frames, and readers of their files.

The names are loaded when they are first used: they need NumPy, and masks pycocotools.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockcopy_plugins.datasets.ground_truth.annotations import (
        VideoAnnotations,
        VideoReference,
        read_annotations,
        read_coco,
        read_mot,
    )
    from blockcopy_plugins.datasets.ground_truth.frame_objects import FrameObjects
    from blockcopy_plugins.datasets.ground_truth.label_images import LabelRules, find_label_images
    from blockcopy_plugins.datasets.ground_truth.masks import encode_masks

__all__ = [
    "FrameObjects",
    "LabelRules",
    "VideoAnnotations",
    "VideoReference",
    "encode_masks",
    "find_label_images",
    "read_annotations",
    "read_coco",
    "read_mot",
]


def __getattr__(name: str) -> Any:
    modules = {
        "FrameObjects": "frame_objects",
        "LabelRules": "label_images",
        "VideoAnnotations": "annotations",
        "VideoReference": "annotations",
        "encode_masks": "masks",
        "find_label_images": "label_images",
        "read_annotations": "annotations",
        "read_coco": "annotations",
        "read_mot": "annotations",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
