"""Adapts a model's ordinary test pipeline to frames of videos."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blockcopy_plugins.errors import ConfigError

_LOADERS = ("LoadImageFromFile", "LoadImageFromNDArray")
_ANNOTATIONS = ("LoadAnnotations", "LoadPanopticAnnotations", "LoadTrackAnnotations")
# Arguments of LoadImageFromFile, with the values for which it does the same as LoadVideoFrame.
_LOADER_DEFAULTS = {
    "ignore_empty": (False,),
    "color_type": ("color",),
    "imdecode_backend": ("cv2", None),
    "file_client_args": (None,),
    "backend_args": (None,),
}


def adapt_pipeline(
    pipeline: Sequence[Mapping[str, Any] | Callable],
    annotated: bool,
    has_masks: bool,
    max_open_videos: int = 64,
    labelled: bool = False,
    motion: bool = False,
) -> list[Mapping[str, Any] | Callable]:
    """Replace the image loader by our frame loader, and adapt the annotation loader.

    ``LoadImageFromFile`` (and ``LoadImageFromNDArray``) of any scope becomes
    ``blockcopy_plugins.LoadVideoFrame``. ``LoadAnnotations`` is left out if there are no
    annotations; with annotations it stays, without the kinds that they do not have (masks,
    segmentation maps); with label images it loads them for the frames that have one. A tracker's
    pipeline of clips (``TransformBroadcaster``, ``PackTrackInputs``) becomes one of single frames.
    Everything else is passed on.

    Args:
        pipeline: The transforms, as configs or callables.
        annotated: Whether there are annotations.
        has_masks: Whether they have masks.
        max_open_videos: See `LoadVideoFrame`.
        labelled: Whether there are label images.
        motion: See `LoadVideoFrame`.

    Returns:
        The adapted transforms; the arguments are not changed.

    Raises:
        ConfigError: If the loader uses an option that frames of videos do not support, nothing
            in the pipeline loads the label images, or a transform changes frames at random.
    """
    pipeline = _of_one_frame(pipeline)
    names = [_type_name(transform) for transform in pipeline]
    _check_steady(names, pipeline)
    if labelled and not any(name in _ANNOTATIONS for name in names):
        raise ConfigError(
            f"there are label images, but the pipeline ({', '.join(names)}) loads none; put "
            "dict(type='LoadAnnotations') after its Resize"
        )
    adapted: list[Mapping[str, Any] | Callable] = []
    for name, transform in zip(names, pipeline, strict=True):
        if name in _LOADERS:
            adapted.append(
                {
                    "type": "blockcopy_plugins.LoadVideoFrame",
                    "to_float32": _loader_to_float32(transform),
                    "max_open_videos": max_open_videos,
                    "motion": motion,
                }
            )
        elif name in _ANNOTATIONS:
            if labelled:
                adapted.append(
                    {
                        "type": "blockcopy_plugins.LoadFrameLabels",
                        "loader": copy.deepcopy(transform),
                    }
                )
            elif annotated:
                adapted.append(_without_missing(transform, has_masks))
        else:
            adapted.append(transform)
    return adapted


def _check_steady(names: Sequence[str], pipeline: Sequence[Mapping[str, Any] | Callable]) -> None:
    """Refuse transforms that would flip or crop each frame of a video differently."""
    for name, transform in zip(names, pipeline, strict=True):
        own = transform if isinstance(transform, Mapping) else getattr(transform, "__dict__", {})
        never = name == "RandomFlip" and not own.get("prob")
        # In test mode, RandomCenterCropPad (CenterNet, CornerNet) pads every frame alike.
        if name.startswith("Random") and not never and not own.get("test_mode"):
            raise ConfigError(
                f"the test pipeline has {name}, which changes each frame differently: skipped "
                "blocks would keep what was elsewhere in the picture, and results would not fit "
                "the frame. Leave it out; it belongs to training."
            )


def _of_one_frame(
    pipeline: Sequence[Mapping[str, Any] | Callable],
) -> list[Mapping[str, Any] | Callable]:
    """A tracker's pipeline for single frames; any other pipeline as it is."""
    found: list[Mapping[str, Any] | Callable] = []
    for transform in pipeline:
        name = _type_name(transform)
        if name == "TransformBroadcaster" and isinstance(transform, Mapping):
            found.extend(transform["transforms"])
        elif name == "PackTrackInputs" and isinstance(transform, Mapping):
            found.append({"type": "mmdet.PackDetInputs"})
        else:
            found.append(transform)
    return found


def _type_name(transform: Mapping[str, Any] | Callable) -> str:
    kind = transform.get("type") if isinstance(transform, Mapping) else type(transform)
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else getattr(kind, "__name__", "")


def _loader_to_float32(transform: Mapping[str, Any] | Callable) -> bool:
    if not isinstance(transform, Mapping):
        return bool(getattr(transform, "to_float32", False))
    for key, value in transform.items():
        if key in _LOADER_DEFAULTS and value not in _LOADER_DEFAULTS[key]:
            raise ConfigError(
                f"the pipeline's {transform['type']} has {key}={value!r}, which frames of videos "
                f"do not support (they are read by OpenCV, as BGR); leave {key} out"
            )
    return bool(transform.get("to_float32", False))


def _without_missing(
    transform: Mapping[str, Any] | Callable, has_masks: bool
) -> Mapping[str, Any] | Callable:
    if not isinstance(transform, Mapping):
        return transform
    fitted = copy.deepcopy(transform)
    if fitted.get("with_mask") and not has_masks:
        fitted["with_mask"] = False
    if fitted.get("with_seg"):
        fitted["with_seg"] = False
    return fitted
