"""The objects of one frame: detections, or ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blockcopy_plugins.datasets.ground_truth.masks import RLE, encode_masks, encode_segmentation
from blockcopy_plugins.errors import ConfigError


@dataclass(frozen=True, eq=False)
class FrameObjects:
    """Objects of one frame, in pixels of the original image. Cheap to keep: masks are encoded.

    Attributes:
        boxes: float64 (K, 4), x1, y1, x2, y2.
        labels: int64 (K,), class index.
        size: Height and width of the image, px.
        scores: float64 (K,), or None for ground truth.
        masks: K run-length codes of the size of the image, or None.
        ignore: bool (K,), ground truth that need not be found: whatever matches it counts neither
            as right nor as wrong.
        crowd: bool (K,), ground truth that stands for many objects (COCO's ``iscrowd``): ignored
            as well, may be matched many times, and matches what lies inside it.
        areas: float64 (K,), px, or None: the area by the annotation, which decides whether an
            object is small, medium or large. None takes that of the mask or the box.
        heights: float64 (K,), px, or None: the full height by the annotation, of objects that reach
            beyond the image. None takes that of the box.
        visible_ratios: float64 (K,), from 0 to 1, or None: the share of the object that is visible.
            None says nothing.

    Raises:
        ConfigError: A field has another length or shape.
    """

    boxes: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]
    scores: np.ndarray | None = None
    masks: tuple[RLE, ...] | None = None
    ignore: np.ndarray | None = None
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    heights: np.ndarray | None = None
    visible_ratios: np.ndarray | None = None

    def __post_init__(self) -> None:
        boxes = _array(self.boxes, np.float64)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ConfigError(f"boxes must have the shape (K, 4), but got {boxes.shape}")
        count = len(boxes)
        fields: dict[str, Any] = {
            "boxes": boxes,
            "labels": _array(self.labels, np.int64),
            "size": (int(self.size[0]), int(self.size[1])),
        }
        for name in ("scores", "areas", "heights", "visible_ratios"):
            value = getattr(self, name)
            fields[name] = None if value is None else _array(value, np.float64)
        for name in ("ignore", "crowd"):
            value = getattr(self, name)
            fields[name] = np.zeros(count, bool) if value is None else _array(value, bool)
        for name, value in fields.items():
            wanted = (count,)
            if name not in ("boxes", "size") and value is not None and value.shape != wanted:
                raise ConfigError(f"{name} must have the shape {wanted}, but got {value.shape}")
        if self.masks is not None and len(self.masks) != count:
            raise ConfigError(f"there are {len(self.masks)} masks for {count} boxes")
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: np.ndarray) -> FrameObjects:
        """Some of the objects.

        Args:
            keep: bool (K,), or int indices (M,).

        Returns:
            Those objects, in the order of the indices.
        """
        indices = np.flatnonzero(keep) if keep.dtype == bool else keep
        return FrameObjects(
            boxes=self.boxes[indices],
            labels=self.labels[indices],
            size=self.size,
            scores=None if self.scores is None else self.scores[indices],
            masks=None if self.masks is None else tuple(self.masks[i] for i in indices),
            ignore=self.ignore[indices],
            crowd=self.crowd[indices],
            areas=None if self.areas is None else self.areas[indices],
            heights=None if self.heights is None else self.heights[indices],
            visible_ratios=None if self.visible_ratios is None else self.visible_ratios[indices],
        )

    @classmethod
    def from_predictions(
        cls, predictions: Mapping[str, Any] | Any, size: tuple[int, int]
    ) -> FrameObjects:
        """Take over MMDetection's ``pred_instances``.

        Args:
            predictions: ``InstanceData`` or mapping with ``bboxes`` (K, 4), ``scores`` (K,),
                ``labels`` (K,) and perhaps ``masks`` (see `encode_masks`), in pixels of the
                original image (MMDetection's default, ``rescale=True``). Tensors may be anywhere.
            size: Height and width of the original image, px.

        Raises:
            ConfigError: A field is missing or does not fit.
        """
        missing = [name for name in ("bboxes", "scores", "labels") if name not in predictions]
        if missing:
            raise ConfigError(
                f"the predictions lack {', '.join(missing)}; a detector's pred_instances with "
                "bboxes, scores and labels are needed"
            )
        read = (
            predictions.__getitem__
            if isinstance(predictions, Mapping)
            else (lambda name: getattr(predictions, name))
        )
        boxes = read("bboxes")
        return cls(
            boxes=getattr(boxes, "tensor", boxes),
            labels=read("labels"),
            size=size,
            scores=read("scores"),
            masks=encode_masks(read("masks")) if "masks" in predictions else None,
        )

    @classmethod
    def from_instances(
        cls, instances: Sequence[Mapping[str, Any]], size: tuple[int, int]
    ) -> FrameObjects:
        """Take over ground truth in the form of MMDetection's ``instances``.

        Args:
            instances: Each with ``bbox`` (x1, y1, x2, y2; px of the original image),
                ``bbox_label``, and perhaps ``ignore_flag``, ``iscrowd``, ``area`` and ``mask``
                (polygons or run-length code). An ignored instance without the key ``iscrowd``
                counts as crowd, as in MMDetection, where the flag comes from COCO's ``iscrowd``.
                Pedestrians may also have ``height`` (of the full body, px), and ``vis_ratio`` or
                ``bbox_vis`` (the visible part, x1, y1, x2, y2); without either of the two they
                count as fully visible.
            size: Height and width of the original image, px.

        Raises:
            ConfigError: A field does not fit.
        """
        has_masks = bool(instances) and all("mask" in i for i in instances)
        ignore = [bool(i.get("ignore_flag", 0)) for i in instances]
        return cls(
            boxes=[i["bbox"] for i in instances],
            labels=[i["bbox_label"] for i in instances],
            size=size,
            masks=(
                tuple(encode_segmentation(i["mask"], size) for i in instances)
                if has_masks
                else None
            ),
            ignore=ignore,
            crowd=[
                bool(i.get("iscrowd", ignored))
                for i, ignored in zip(instances, ignore, strict=True)
            ],
            areas=(
                [i["area"] for i in instances]
                if instances and all("area" in i for i in instances)
                else None
            ),
            heights=(
                [i.get("height", i["bbox"][3] - i["bbox"][1]) for i in instances]
                if any("height" in i for i in instances)
                else None
            ),
            visible_ratios=(
                [_visible_ratio(i) for i in instances]
                if any("vis_ratio" in i or "bbox_vis" in i for i in instances)
                else None
            ),
        )


def _visible_ratio(instance: Mapping[str, Any]) -> float:
    if "vis_ratio" in instance:
        return instance["vis_ratio"]
    full, visible = (
        max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
        for x1, y1, x2, y2 in (instance["bbox"], instance.get("bbox_vis", instance["bbox"]))
    )
    return visible / full if full > 0 else 1.0


def _array(values: Any, dtype: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # tensor; through float, because NumPy has no bfloat16
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values, dtype=dtype)
