"""Models that are called with images and data samples: base of detectors and segmentors."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.adapter import Call, ModelAdapter, Removable
from ...engine.output_parts import OutputParts
from ...errors import FrameError
from ..common.batched_frames import join_batches
from ..common.sample_motion import motion_of
from ..common.stream_ids import StreamIds
from .noted_preprocessing import note_preprocessing
from .preprocessor_clock import PreprocessorClock
from .sample_parts import asked_of_samples, take_samples_apart


@dataclass(frozen=True)
class SampleCall(Call):
    """A call with data samples.

    Attributes:
        samples: One for each image, or ``None``.
    """

    samples: Sequence[Any] | None = None


class SampleAdapter(ModelAdapter):
    """Any model with MMEngine's ``forward(inputs, data_samples, mode)``.

    Streams are the ``video_id`` of the data samples; a ``frame_id`` that starts again restarts the
    stream. Without ids, image i of a batch is stream i, except that the files of one folder, and
    everything that an inferencer gets, are frames of one video, in order.

    Attributes:
        in_sequence: Whether an inferencer calls the model, with the frames of one video.
    """

    graph_obstacle = (
        "a whole detector or segmentor is called with data samples, and what follows its heads "
        "(proposals, suppression, results of the image's size) depends on the picture; a backbone "
        "converted by itself (BlockCopyBackbone) can be a graph"
    )

    # Name of the model in errors.
    _KIND = "model"

    def __init__(self) -> None:
        self._ids = StreamIds()
        self._clock = PreprocessorClock()
        self._sizes: dict[Hashable, tuple[int, ...]] = {}
        self.in_sequence = False

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Measure the model's preprocessor, and let it work in one pass."""
        yield from self._clock.attach(model)
        yield from note_preprocessing(model)

    def turns(self, args: tuple, kwargs: Mapping[str, Any], named: bool) -> Sequence[Call | None]:
        """See :meth:`ModelAdapter.turns`: frames of one folder in a batch run in turn."""
        given = dict(zip(("inputs", "data_samples", "mode"), args, strict=False)) | dict(kwargs)
        samples, inputs = given.get("data_samples"), given.get("inputs")
        video = None if named or given.get("mode") == "loss" else self._video_of(samples)
        if video is None or not isinstance(inputs, Tensor) or len(inputs) != len(samples):
            return (self.read_call(args, kwargs),)
        calls = []
        for image, sample in enumerate(samples):
            part = {**given, "inputs": inputs[image : image + 1], "data_samples": [sample]}
            size = tuple(inputs.shape[1:])
            restarts = (video,) if self._sizes.get(video, size) != size else ()
            self._sizes = {video: size}
            call = self.read_call((), part)
            calls.append(replace(call, streams=(video,), restarts=restarts))
        return tuple(calls)

    def join_turns(self, outputs: Sequence[Any]) -> Any:
        """Join the data samples of all images, or their tensors to a batch."""
        if all(isinstance(x, list) and hasattr(x[0], "metainfo") for x in outputs):
            return [sample for output in outputs for sample in output]
        return join_batches(outputs)

    def _video_of(self, samples: Sequence[Any] | None) -> Hashable | None:
        """The video that all images of a batch belong to; ``None`` if each is another stream."""
        infos = [getattr(sample, "metainfo", {}) for sample in samples or ()]
        if not infos or any(info.get("video_id") is not None for info in infos):
            return None
        if self.in_sequence:
            return "inferencer"
        paths = [info.get("img_path", "") for info in infos]
        if len(paths) < 2 and os.path.dirname(paths[0] or "") not in self._sizes:
            return None
        if all(path is None for path in paths):
            raise FrameError(
                f"the {self._KIND} was called with {len(paths)} pictures in memory at once, which "
                "may be the frames of one video or of several cameras. Convert the inferencer "
                "instead of its model, bc.blockcopy_(inferencer, ...), for frames of one video; "
                "for cameras name them: with bc.streams(model, ['cam0', 'cam1'])."
            )
        if not all(isinstance(path, str) and path for path in paths):
            return None
        folders = {os.path.dirname(path) for path in paths}
        return folders.pop() if len(folders) == 1 and len(set(paths)) == len(paths) else None

    def read_call(self, args: tuple, kwargs: Mapping[str, Any]) -> Call | None:
        """See :meth:`ModelAdapter.read_call`; a loss in eval mode runs as in the plain model."""
        given = dict(zip(("inputs", "data_samples", "mode"), args, strict=False)) | dict(kwargs)
        mode = given.get("mode", "tensor")
        inputs, samples = given.get("inputs"), given.get("data_samples")
        if not isinstance(inputs, Tensor):
            raise FrameError(
                f"the {self._KIND} was called with inputs of type {type(inputs).__name__}, "
                "expected one tensor (N, 3, H, W): let its data_preprocessor stack the images of "
                "a batch."
            )
        if mode == "loss":
            if inputs.requires_grad or torch.is_grad_enabled():
                raise FrameError(
                    f"the {self._KIND} was called for its loss, but block-sparse execution is for "
                    "inference. Call restore_(model) before training."
                )
            return None
        ids, restarts = self._ids.read(samples)
        return SampleCall(
            frame=inputs,
            replace=lambda frame: ((), {**given, "inputs": frame}),
            streams=ids,
            restarts=restarts,
            motion=motion_of(samples),
            seconds_before=self._clock.take(),
            asks=asked_of_samples(mode, samples),
            samples=samples,
        )

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """See :meth:`ModelAdapter.take_apart`: results in data samples, or tensors."""
        found = take_samples_apart(outputs, call)
        return super().take_apart(outputs, call) if found is None else found
