"""Networks in plain PyTorch, given as a factory.

``file.py:factory`` or ``package.module:factory`` names a function ``factory(checkpoint=None,
**options)`` that returns any object with

* ``module``: an ``nn.Module`` in eval mode, ``(1, 3, H, W)`` to anything;
* ``preprocess(frame)``: from a frame, uint8 ``(H, W, 3)``, BGR, to the module's input, float
  ``(1, 3, h, w)``: the whole frame, resized or not, and nothing beside it;
* ``decode(outputs)``: from what the module returned, dense, to ``(boxes, scores, labels)`` of a
  detector (float ``(K, 4)``, ``x1, y1, x2, y2`` in pixels of the module's input; float ``(K,)``;
  int64 ``(K,)``), or to the logits ``(C, h', w')`` of a segmentor, at any resolution;
* perhaps ``classes``: names by label, which ground truth is matched to.

:mod:`.models.fastestdet` is one.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blockcopy_plugins as bc
from blockcopy_plugins.datasets import open_frames
from blockcopy_plugins.datasets.ground_truth import (
    FrameObjects,
    LabelRules,
    VideoAnnotations,
    VideoReference,
    find_label_images,
    read_annotations,
)
from blockcopy_plugins.engine.adapter import Call, ModelAdapter
from blockcopy_plugins.engine.output_parts import OutputParts, Parts
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import Detections, TaskOutput
from blockcopy_plugins.propagation import Objects

from .answers import Answer, LabelMap
from .network import Network
from .plan import Clip, Model, Window


class TorchNetwork(Network):
    """A network in plain PyTorch.

    Args:
        model: Its factory, weights and options.

    Raises:
        ConfigError: If the factory cannot be loaded or what it makes is not as described above.
    """

    def __init__(self, model: Model) -> None:
        factory = _load(model.source)
        try:
            self._made = factory(checkpoint=model.weights, **model.options)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"{model.source} cannot make its network (weights {model.weights!r}, options "
                f"{dict(model.options)}): {type(error).__name__}: {error}"
            ) from error
        missing = [n for n in ("module", "preprocess", "decode") if not hasattr(self._made, n)]
        if missing or not isinstance(self._made.module, nn.Module):
            raise ConfigError(
                f"{model.source} made a {type(self._made).__name__} without {missing or 'module'}; "
                "it needs module (an nn.Module), preprocess and decode"
            )
        self.module = self._made.module
        self.adapter = _DecodingAdapter(self._made)

    def frames(self, clip: Clip, window: Window, motion: bool = False) -> _ClipFrames:
        """See :meth:`Network.frames`."""
        return _ClipFrames(clip, window, getattr(self._made, "classes", None), motion)

    def run(self, frame: _Frame) -> Answer:
        """See :meth:`Network.run`."""
        pixels = self._made.preprocess(frame.picture)
        moved = frame.motion is not None
        with bc.motion(self.module, [frame.motion]) if moved else nullcontext():
            outputs = self.module(pixels)
        decoded = _decode(self._made, outputs, tuple(pixels.shape[2:]))
        return _at_frame_size(decoded, frame.picture.shape[:2])

    def truth(self, frame: _Frame) -> Answer | None:
        """See :meth:`Network.truth`."""
        return frame.truth


@dataclass(frozen=True, eq=False)
class _Frame:
    picture: np.ndarray  # uint8 (H, W, 3), BGR
    truth: Answer | None
    motion: Any | None


class _DecodingAdapter(ModelAdapter):
    """Gives policies what the network's ``decode`` makes of its outputs."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def task_outputs(self, outputs: Any, call: Call) -> list[TaskOutput]:
        return [_decode(self._made, outputs, tuple(call.frame.shape[2:]))]

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """Boxes are moved, not the numbers of cells that they are decoded of."""
        (found,) = self.task_outputs(outputs, call)
        if isinstance(found, Tensor):
            return super().take_apart(outputs, call)
        return _DetectionParts(found)


class _DetectionParts(OutputParts):
    """Decoded detections, in place of what they were decoded of."""

    def __init__(self, found: Detections) -> None:
        objects = Objects(found.boxes, (1.0, 1.0), found.size, found.scores, found.labels)
        super().__init__([{"objects": objects}])

    def join(self, images: Sequence[Parts], call: Any) -> Detections:
        """See :meth:`OutputParts.join`."""
        found = images[0]["objects"]
        return Detections(found.boxes, found.scores, found.labels, None, found.size)


def _decode(made: Any, outputs: Any, size: tuple[int, int]) -> TaskOutput:
    if isinstance(outputs, Detections):
        return outputs
    found = made.decode(outputs)
    if isinstance(found, Tensor) and found.dim() == 3 and found.is_floating_point():
        return found
    if isinstance(found, tuple) and len(found) == 3:
        boxes, scores, labels = found
        return Detections(boxes=boxes, scores=scores, labels=labels, masks=None, size=size)
    shape = f" {tuple(found.shape)}" if isinstance(found, Tensor) else ""
    raise ConfigError(
        f"decode of {type(made).__name__} returned {type(found).__name__}{shape}, expected (boxes, "
        "scores, labels), or float logits (C, h, w)"
    )


def _at_frame_size(found: TaskOutput, size: tuple[int, int]) -> Answer:
    """Detections or labels in pixels of the frame."""
    if isinstance(found, Detections):
        height, width = (side / of for side, of in zip(size, found.size, strict=True))
        return FrameObjects(
            boxes=found.boxes * torch.tensor([width, height] * 2),
            labels=found.labels,
            size=size,
            scores=found.scores,
        )
    logits = found[None].float()
    if tuple(logits.shape[2:]) != tuple(size):
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    if logits.shape[1] == 1:  # foreground against background
        return LabelMap((logits[0, 0] > 0).numpy().astype(np.uint8), 2)
    kind = np.uint8 if logits.shape[1] <= 256 else np.int16
    return LabelMap(logits[0].argmax(0).numpy().astype(kind), logits.shape[1])


class _ClipFrames:
    """Frames of a clip with their ground truth."""

    def __init__(
        self, clip: Clip, window: Window, classes: Sequence[str] | None, motion: bool
    ) -> None:
        self._source = open_frames(clip.path, **({"motion": True} if motion else {}))
        self._motion = motion
        self._start, stop = window
        self._stop = self._source.count(stop)
        if stop is not None and self._stop < stop:
            raise ConfigError(
                f"frames {self._start}-{stop} of the clip {clip.name!r} are asked for, but it has "
                f"{self._stop}"
            )
        if self._stop <= self._start:
            raise ConfigError(
                f"the clip {clip.name!r} has {self._stop} frames, so that none is left from frame "
                f"{self._start} on"
            )
        self._ignore, self._classes = clip.ignore_label, classes
        self._objects: VideoAnnotations | None = None
        self._label_images: dict[int, str] = {}
        if clip.ann is not None:
            names = getattr(self._source, "names", None)
            folder = getattr(self._source, "folder", None)
            video = VideoReference(
                clip.path, Path(clip.path).stem, names, len(self._source), folder
            )
            if Path(clip.ann).is_dir():
                (self._label_images,) = find_label_images(clip.ann, [video], LabelRules())
            else:
                (self._objects,) = read_annotations(clip.ann, [video], classes)

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[_Frame]:
        frames = self._source.frames(self._start, self._stop)
        for number, picture in enumerate(frames, self._start):
            motion = self._source.read_motion(number) if self._motion else None
            yield _Frame(picture, self._truth(number, picture.shape[:2]), motion)

    def _truth(self, number: int, size: tuple[int, int]) -> Answer | None:
        if self._objects is not None:
            return self._objects.objects(number, size)
        if number not in self._label_images:
            return None
        labels = cv2.imread(self._label_images[number], cv2.IMREAD_UNCHANGED)
        if labels is None or labels.shape != tuple(size):
            raise ConfigError(
                f"the label image {self._label_images[number]!r} is "
                f"{'none' if labels is None else labels.shape}, expected one class a pixel, {size}"
            )
        return LabelMap(labels, 0, self._ignore)


def _load(source: str) -> Any:
    place, _, name = source.rpartition(":")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise ConfigError(f"there is no file {place!r} with the model {source!r}")
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"{place!r} of the model {source!r} cannot be loaded: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ConfigError(
            f"{place!r} has no function {name!r}; write file.py:factory, where "
            "factory(checkpoint=None) makes the network"
        )
    return factory
