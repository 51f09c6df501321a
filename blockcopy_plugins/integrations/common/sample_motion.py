"""The motion of a batch's videos, as its data samples state it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...policy import MotionField


def motion_of(samples: Sequence[Any] | None) -> tuple[MotionField | None, ...] | None:
    """How far the videos of a batch have moved, at the scale of the network's input.

    Args:
        samples: Data samples with ``metainfo``, one for each image.

    Returns:
        One field for each, None for those without; None if there is none at all.
    """
    infos = [getattr(sample, "metainfo", {}) for sample in samples or ()]
    if not any("motion" in info for info in infos):
        return None
    return tuple(at_input_scale(info.get("motion"), info) for info in infos)


def at_input_scale(field: MotionField | None, info: Mapping[str, Any]) -> MotionField | None:
    """A motion field at the scale to which the test pipeline has resized the picture.

    Args:
        field: The picture's motion.
        info: ``img_shape`` and ``ori_shape``, ``(h, w)`` of the resized and the original picture.
    """
    if field is None:
        return None
    (height, width), (rows, columns) = info["img_shape"][:2], info["ori_shape"][:2]
    return field.at_scale(height / rows, width / columns)
