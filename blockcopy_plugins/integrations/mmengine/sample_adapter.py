"""Models that are called with images and data samples: what detectors and segmentors share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.adapter import Call, ModelAdapter, Removable
from ...engine.output_parts import OutputParts
from ...errors import FrameError
from ..sample_motion import motion_of
from ..stream_ids import StreamIds
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

    Streams are the ``video_id`` of the data samples; a ``frame_id`` that starts again starts the
    stream again. Where data samples carry none, image i of a batch is stream i.
    """

    graph_obstacle = (
        "a whole detector or segmentor is called with data samples, and what follows its heads "
        "(proposals, suppression, results of the image's size) depends on the picture; a backbone "
        "converted by itself (BlockCopyBackbone) can be a graph"
    )

    # What errors call the model.
    _KIND = "model"

    def __init__(self) -> None:
        self._ids = StreamIds()
        self._clock = PreprocessorClock()

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Measure the model's preprocessor."""
        return self._clock.attach(model)

    def read_call(self, args: tuple, kwargs: Mapping[str, Any]) -> Call | None:
        """See :meth:`ModelAdapter.read_call`; a loss in eval mode runs as it was."""
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
