"""Detected objects of one image, independent of their framework's own form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import FrameError


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects that a detector has found in one image, in pixels of its output.

    Args:
        boxes: ``(K, 4)``, ``x1, y1, x2, y2``; or ``(K, 5)``, ``x, y, width, height, angle`` of
            rotated boxes, ``x`` and ``y`` their centres.
        scale: Pixels of the network's input per pixel of the output, rows and columns.
        size: ``(h, w)`` of the output, px.
        scores: float ``(K,)``, or ``None``.
        labels: int ``(K,)``, or ``None``.
        masks: ``(K, h, w)``, of the whole output or of a reduced one, or ``None``.
        keypoints: ``(K, n, 2 or more)``, x and y first, or ``None``.
        others: Other data of each object, by name: tensors, arrays and lists of length K.

    Raises:
        FrameError: If the lengths differ or the boxes are of another form.
    """

    boxes: Tensor
    scale: tuple[float, float]
    size: tuple[int, int]
    scores: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    keypoints: Tensor | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.boxes.dim() != 2 or self.boxes.shape[1] not in (4, 5):
            raise FrameError(
                "boxes must be (K, 4) x1, y1, x2, y2 or (K, 5) rotated ones, found "
                f"{tuple(self.boxes.shape)}"
            )
        parts = {name: getattr(self, name) for name in ("scores", "labels", "masks", "keypoints")}
        for name, value in (parts | dict(self.others)).items():
            if value is not None and len(value) != len(self.boxes):
                raise FrameError(
                    f"{name} are of {len(value)} object(s), but there are {len(self.boxes)} boxes"
                )

    def __len__(self) -> int:
        return len(self.boxes)

    def is_like(self, other: Objects) -> bool:
        """Return whether objects of another frame can be joined with these: same parts."""

        def form(objects: Objects) -> tuple:
            parts = {name: getattr(objects, name) for name in _PARTS} | dict(objects.others)
            forms = {
                name: tuple(value.shape[1:]) if hasattr(value, "shape") else type(value)
                for name, value in parts.items()
            }
            return forms, objects.scale, objects.size

        return form(self) == form(other)

    def select(self, index: Tensor) -> Objects:
        """Some of the objects, possibly in another order; new tensors.

        Args:
            index: int64 ``(k,)`` in host memory.
        """
        return self._of_each(lambda value: _take(value, index))

    def joined(self, other: Objects) -> Objects:
        """These objects, followed by another's, which must have the same parts."""
        return replace(
            self,
            **{name: _join(getattr(self, name), getattr(other, name)) for name in _PARTS},
            others={name: _join(value, other.others[name]) for name, value in self.others.items()},
        )

    def copy(self) -> Objects:
        """The same with its own tensors."""
        return self._of_each(_copy)

    def upright_boxes(self) -> Tensor:
        """``x1, y1, x2, y2`` in pixels of the network's input, float32 ``(K, 4)`` in host memory.

        For rotated boxes, the upright boxes around them.
        """
        boxes = self.boxes.detach().float().cpu()
        if boxes.shape[1] == 5:
            centre, half = boxes[:, :2], boxes[:, 2:4] / 2
            # In whichever unit the angle is: the square around the circle that encloses the box.
            radius = half.norm(dim=1, keepdim=True)
            boxes = torch.cat((centre - radius, centre + radius), 1)
        rows, columns = self.scale
        return boxes * torch.tensor([columns, rows] * 2)

    def _of_each(self, function) -> Objects:
        return replace(
            self,
            **{name: function(getattr(self, name)) for name in _PARTS},
            others={name: function(value) for name, value in self.others.items()},
        )


_PARTS = ("boxes", "scores", "labels", "masks", "keypoints")


def _take(value: Any, index: Tensor) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value[index.to(value.device)]
    if isinstance(value, Sequence):
        return type(value)([value[i] for i in index.tolist()])
    return value[index.numpy()]


def _join(one: Any, other: Any) -> Any:
    if one is None:
        return None
    if isinstance(one, Tensor):
        return torch.cat((one, other))
    if isinstance(one, Sequence):
        return type(one)([*one, *other])
    import numpy as np

    return np.concatenate((one, other))


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if value is None:
        return None
    return type(value)(value) if isinstance(value, Sequence) else value.copy()
