"""Outputs of Detectron2's models, taken apart into parts that can be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from ...engine.output_parts import OutputParts, Parts
from ...propagation import MapPart, Region
from ..common.moving_instances import InstanceForm, InstanceNames, objects_of

_FOUND = InstanceNames("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints")
# Logits of proposals are not scores that a factor could lower: they are only copied.
_PROPOSED = InstanceNames("proposal_boxes", "", "", "", "")
_INSTANCES = {"instances": _FOUND, "proposals": _PROPOSED}
_SEM_SEG, _PANOPTIC = "sem_seg", "panoptic_seg"


@dataclass(frozen=True)
class _InstancesForm:
    """How to rebuild ``Instances`` from objects."""

    form: InstanceForm
    size: tuple[int, int]

    def join(self, name: str, parts: Parts) -> Instances:
        return Instances(self.size, **self.form.fields(parts[name]))


@dataclass(frozen=True)
class _MapForm:
    """How to rebuild a map, or a map of segments with the info on each."""

    segments: tuple[dict[str, Any], ...] | None = None

    def join(self, name: str, parts: Parts) -> Any:
        value = parts[name].value
        if self.segments is None:
            return value
        return value, [dict(segment) for segment in self.segments]


class DictParts(OutputParts):
    """Detectron2's list of dicts, one for each image.

    Args:
        images: The parts of each image.
        forms: For each image, by key, how to rebuild the value from its parts.
    """

    def __init__(
        self,
        images: Sequence[Parts],
        forms: Sequence[Mapping[str, _InstancesForm | _MapForm]],
    ) -> None:
        super().__init__(images)
        self._forms = list(forms)

    def join(self, images: Sequence[Parts], call: Any) -> list[dict[str, Any]]:
        """See :meth:`~blockcopy_plugins.engine.output_parts.OutputParts.join`."""
        return [
            {name: form.join(name, parts) for name, form in forms.items()}
            for parts, forms in zip(images, self._forms, strict=True)
        ]


def take_dicts_apart(outputs: Any, sizes: Sequence[tuple[int, int]]) -> DictParts | None:
    """Take the outputs of a meta-architecture apart.

    Args:
        outputs: What the model returned.
        sizes: ``(H, W)`` of each image in the batch, px, before it was padded.

    Returns:
        The parts; ``None`` if the outputs are not a list of dicts of instances, proposals,
        semantic and panoptic segmentations.
    """
    if not isinstance(outputs, (list, tuple)) or len(outputs) != len(sizes):
        return None
    images, forms = [], []
    for given, size in zip(outputs, sizes, strict=True):
        if not isinstance(given, Mapping):
            return None
        parts: dict[str, Any] = {}
        its_forms: dict[str, Any] = {}
        for name, value in given.items():
            part, form = _part_of(name, value, size)
            if part is None:
                return None
            parts[name], its_forms[name] = part, form
        images.append(parts)
        forms.append(its_forms)
    return DictParts(images, forms)


def _part_of(name: str, value: Any, size: tuple[int, int]) -> tuple[Any, Any]:
    region = Region.whole(size)
    if name in _INSTANCES and isinstance(value, Instances):
        height, width = value.image_size
        scale = (size[0] / height, size[1] / width)
        found = objects_of(value.get_fields(), _INSTANCES[name], scale, (height, width))
        if found is None:
            return None, None
        return found[0], _InstancesForm(found[1], (height, width))
    if name == _SEM_SEG and isinstance(value, Tensor) and value.dim() == 3:
        return MapPart(value, region), _MapForm()
    if name == _PANOPTIC and isinstance(value, tuple) and isinstance(value[0], Tensor):
        if value[1] is None:
            return None, None
        segments = tuple(dict(segment) for segment in value[1])
        return MapPart(value[0], region, nearest=True), _MapForm(segments)
    return None, None
