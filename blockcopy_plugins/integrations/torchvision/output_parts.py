"""Outputs of torchvision's detectors, taken apart into objects that can be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...engine.output_parts import OutputParts, Parts
from ...propagation import Objects
from ..common.moving_instances import InstanceForm, InstanceNames, objects_of

_NAMES = InstanceNames("boxes", "scores", "labels", "masks", "keypoints")


@dataclass(frozen=True)
class _Form:
    """How to rebuild one image's dict; its masks are float ``(K, 1, h, w)``."""

    form: InstanceForm

    def join(self, objects: Objects) -> dict[str, Tensor]:
        if objects.masks is not None:
            objects = replace(objects, masks=objects.masks.unsqueeze(1))
        return self.form.fields(objects)


class DictParts(OutputParts):
    """A detector's list of dicts, one for each image.

    Args:
        images: The objects of each image.
        forms: How to rebuild each image's dict.
    """

    def __init__(self, images: Sequence[Parts], forms: Sequence[_Form]) -> None:
        super().__init__(images)
        self._forms = tuple(forms)

    def join(self, images: Sequence[Parts], call: Any) -> list[dict[str, Tensor]]:
        """See :meth:`~blockcopy_plugins.engine.output_parts.OutputParts.join`."""
        return [
            form.join(parts["objects"]) for parts, form in zip(images, self._forms, strict=True)
        ]


def take_dicts_apart(
    outputs: Any, scales: Sequence[tuple[float, float]], sizes: Sequence[tuple[int, int]]
) -> DictParts | None:
    """Take the outputs of a detector apart.

    Args:
        outputs: What the detector returned.
        scales: For each image, pixels of the network's input per own pixel, rows and columns.
        sizes: ``(h, w)`` of each image, px.

    Returns:
        The parts; ``None`` if the outputs are not dicts with ``boxes``, one for each image.
    """
    if not isinstance(outputs, (list, tuple)) or len(outputs) != len(scales):
        return None
    images, forms = [], []
    for found, scale, size in zip(outputs, scales, sizes, strict=True):
        if not isinstance(found, Mapping):
            return None
        fields = dict(found)
        masks = fields.get("masks")
        if isinstance(masks, Tensor) and masks.dim() == 4 and masks.shape[1] == 1:
            fields["masks"] = masks[:, 0]
        taken = objects_of(fields, _NAMES, scale, size)
        if taken is None:
            return None
        images.append({"objects": taken[0]})
        forms.append(_Form(taken[1]))
    return DictParts(images, forms)
