"""Turns a framework's detected instances into objects that can be moved, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...propagation import Objects


@dataclass(frozen=True)
class InstanceNames:
    """A framework's names for the boxes, scores, classes, masks and keypoints of its instances."""

    boxes: str
    scores: str
    labels: str
    masks: str
    keypoints: str


@dataclass(frozen=True)
class InstanceForm:
    """Turns objects back into a framework's fields.

    Attributes:
        names: The fields' names.
        order: The fields in their order.
        box_type: Class that wraps the boxes' tensor, ``None`` for a plain one.
        arrays: Fields that are NumPy arrays, and tensors in the objects.
    """

    names: InstanceNames
    order: tuple[str, ...]
    box_type: type | None = None
    arrays: frozenset[str] = field(default_factory=frozenset)

    def fields(self, objects: Objects) -> dict[str, Any]:
        """The framework's fields of some objects, in their order."""
        given = dict(objects.others)
        for part, name in vars(self.names).items():
            value = getattr(objects, part)
            if value is not None:
                given[name] = value
        if self.box_type is not None:
            given[self.names.boxes] = self.box_type(given[self.names.boxes])
        for name in self.arrays:
            given[name] = given[name].cpu().numpy()
        return {name: given[name] for name in self.order}


def objects_of(
    fields: Mapping[str, Any],
    names: InstanceNames,
    scale: tuple[float, float],
    size: tuple[int, int],
) -> tuple[Objects, InstanceForm] | None:
    """Turn a framework's fields into objects.

    Args:
        fields: Fields by name, each with one entry per instance.
        names: The fields' names.
        scale: Pixels of the network's input per pixel of the output, rows and columns.
        size: ``(h, w)`` of the output, px.

    Returns:
        The objects, in the fields' own tensors, and what turns them back; ``None`` if there are no
        boxes of four or five numbers, or masks of an unknown kind.
    """
    given = dict(fields)
    boxes = given.pop(names.boxes, None)
    box_type = None
    if not isinstance(boxes, Tensor):
        box_type, boxes = type(boxes), getattr(boxes, "tensor", None)
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] not in (4, 5):
        return None
    parts: dict[str, Tensor] = {}
    arrays = set()
    for part in ("scores", "labels", "masks", "keypoints"):
        name = getattr(names, part)
        value = given.pop(name, None)
        if isinstance(value, np.ndarray):
            arrays.add(name)
            value = torch.from_numpy(np.ascontiguousarray(value))
        if value is None:
            continue
        if not isinstance(value, Tensor):
            return None
        parts[part] = value
    if "masks" in parts and parts["masks"].dim() != 3:
        return None
    if not all(hasattr(value, "__len__") for value in given.values()):
        return None
    objects = Objects(boxes, scale, size, others=given, **parts)
    return objects, InstanceForm(names, tuple(fields), box_type, frozenset(arrays))
