"""Splits results in data samples into parts that can be moved."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ...engine.output_parts import OutputParts, Parts
from ...propagation import MapPart, Region
from ..common.moving_instances import InstanceForm, InstanceNames, objects_of

_NAMES = InstanceNames("bboxes", "scores", "labels", "masks", "keypoints")
_LOGITS = "seg_logits"

# What results depend on besides the picture: how it was scaled to the network's input, and the
# text given to a model that takes texts.
_ASKED = (
    "ori_shape",
    "img_shape",
    "pad_shape",
    "batch_input_shape",
    "scale_factor",
    "flip",
    "flip_direction",
    "padding_size",
    "img_padding_size",
    "pad_param",
    "text",
    "caption",
    "custom_entities",
    "tokens_positive",
    "prompt",
)


def asked_of_samples(mode: str, samples: Sequence[Any] | None) -> Hashable | None:
    """See :attr:`~blockcopy_plugins.engine.adapter.Call.asks`, for a call with data samples.

    It consists of what their ``metainfo`` says about the test pipeline and about texts.

    Args:
        mode: The mode of the call.
        samples: The data samples, or ``None``.
    """
    if samples is None:
        return (mode,)
    found: list[Hashable] = [mode]
    for sample in samples:
        if "proposals" in sample:
            # Given proposals differ each time.
            return None
        info = getattr(sample, "metainfo", {})
        for name in _ASKED:
            value = _plain(info.get(name))
            if value is None and info.get(name) is not None:
                return None
            found.append(value)
    return tuple(found)


def _plain(value: Any) -> Hashable | None:
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (np.ndarray, Tensor)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        items = tuple(map(_plain, value))
        pairs = zip(items, value, strict=True)
        return None if any(i is None and v is not None for i, v in pairs) else items
    if isinstance(value, Mapping):
        return _plain(sorted((str(key), item) for key, item in value.items()))
    return None


class SampleParts(OutputParts):
    """The results of a batch, in data samples.

    Args:
        outputs: Data samples with results.
        call: The call that they came from.
        images: The parts of each image.
        forms: For each image, by field, how to turn its parts into the field again.
    """

    def __init__(
        self,
        outputs: Sequence[Any],
        call: Any,
        images: Sequence[Parts],
        forms: Sequence[Mapping[str, _Instances | _Pixels]],
    ) -> None:
        super().__init__(images)
        # The samples belong to the caller; what is kept must not refer to them.
        self._outputs = [weakref.ref(sample) for sample in outputs]
        self._call = weakref.ref(call)
        self._blank = [(type(s), dict(s.metainfo)) for s in outputs]
        self._forms = list(forms)

    def join(self, images: Sequence[Parts], call: Any) -> list[Any]:
        """See :meth:`~blockcopy_plugins.engine.output_parts.OutputParts.join`.

        The call's own data samples receive the results.
        """
        samples = call.samples
        if self._call() is call:
            # For models that return other samples than they were given.
            samples = [sample() for sample in self._outputs]
        elif samples is None:
            samples = [kind(metainfo=info) for kind, info in self._blank]
        for sample, parts, forms in zip(samples, images, self._forms, strict=True):
            for name, form in forms.items():
                sample.set_field(form.join(name, parts), name)
        return list(samples)


class _Instances:
    """Turns objects into ``InstanceData`` again."""

    def __init__(self, form: InstanceForm, info: Mapping[str, Any]) -> None:
        self._form, self._info = form, dict(info)

    def join(self, name: str, parts: Parts) -> InstanceData:
        return InstanceData(metainfo=self._info, **self._form.fields(parts[name]))


class _Pixels:
    """Turns maps into ``PixelData`` again."""

    def __init__(self, names: Sequence[str], info: Mapping[str, Any]) -> None:
        self._names, self._info = tuple(names), dict(info)

    def join(self, name: str, parts: Parts) -> PixelData:
        maps = {item: parts[f"{name}.{item}"].value for item in self._names}
        return PixelData(metainfo=self._info, **maps)


def take_samples_apart(outputs: Any, call: Any) -> SampleParts | None:
    """Split results in data samples into parts.

    Args:
        outputs: What the model returned.
        call: The call that returned it, with its data samples (``samples``).

    Returns:
        The parts; ``None`` if the outputs are not data samples, were flipped, or have results of an
        unknown kind.
    """
    if not isinstance(outputs, (list, tuple)) or not outputs:
        return None
    if not all(hasattr(sample, "metainfo") and hasattr(sample, "set_field") for sample in outputs):
        return None
    images, forms = [], []
    for sample in outputs:
        parts: dict[str, Any] = {}
        its_forms: dict[str, _Instances | _Pixels] = {}
        if sample.metainfo.get("flip"):
            return None
        for name, value in sample.items():
            if not name.startswith("pred_") and name != _LOGITS:
                continue
            if isinstance(value, InstanceData):
                found = objects_of(dict(value.items()), _NAMES, *_scale_of(sample))
                if found is None:
                    return None
                parts[name] = found[0]
                its_forms[name] = _Instances(found[1], value.metainfo)
            elif isinstance(value, PixelData):
                region = _region_of(sample, tuple(call.frame.shape[2:]))
                maps = dict(value.items())
                if not all(isinstance(item, Tensor) and item.dim() == 3 for item in maps.values()):
                    return None
                for item, map_ in maps.items():
                    parts[f"{name}.{item}"] = MapPart(map_, region, nearest=name != _LOGITS)
                its_forms[name] = _Pixels(list(maps), value.metainfo)
            else:
                return None
        images.append(parts)
        forms.append(its_forms)
    if not any(forms):
        return None
    return SampleParts(outputs, call, images, forms)


def _scale_of(sample: Any) -> tuple[tuple[float, float], tuple[int, int]]:
    """Pixels of the network's input per pixel of the results, and the results' size."""
    info = sample.metainfo
    columns, rows = info.get("scale_factor", (1.0, 1.0))[:2]
    height, width = info.get("ori_shape", info.get("img_shape", (1, 1)))[:2]
    return (float(rows), float(columns)), (int(height), int(width))


def _region_of(sample: Any, size: tuple[int, int]) -> Region:
    """The part of the network's input that shows the picture; the rest is padding."""
    info = sample.metainfo
    padding = info.get("img_padding_size", info.get("padding_size"))
    if padding is not None:
        left, right, top, bottom = map(float, padding)
        return Region(top, left, size[0] - top - bottom, size[1] - left - right)
    height, width = info.get("img_shape", size)[:2]
    if height > size[0] or width > size[1]:
        height, width = size
    return Region(0.0, 0.0, float(height), float(width))
