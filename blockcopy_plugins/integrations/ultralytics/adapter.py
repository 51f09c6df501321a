"""Models of Ultralytics: how predictors call them, on which stream, and what they find."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...engine.adapter import Call, ModelAdapter, Removable
from ...engine.convert import handle
from ...engine.output_parts import OutputParts
from ...errors import ConfigError, FrameError
from ..common.batched_frames import join_batches, split_calls
from .copies import Copies, FusedOnBlocks
from .found import detections_of
from .output_parts import take_head_apart


class YoloAdapter(ModelAdapter):
    """Any ``ultralytics.nn.tasks.BaseModel``.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.copies = Copies(model)
        self._model = weakref.ref(model)
        self._sizes: dict[Any, tuple[int, ...]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> YoloAdapter:
        # A model is copied before its parts are.
        model = memo[id(self._model())]
        other = memo[id(self)] = YoloAdapter(model)
        other.copies = self.copies.copied(model, memo)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Where a pickle is read, there are no predictors.
        return {"model": self._model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Keep the engine's hooks when the model is fused."""
        model.__dict__["fuse"] = FusedOnBlocks(model)
        yield model.__dict__["fuse"]

    def turns(self, args: tuple, kwargs: Mapping[str, Any], named: bool) -> Sequence[Call | None]:
        """See :meth:`ModelAdapter.turns`: frames of one video in a batch run in turn."""
        model = self._model()
        given = dict(zip(("x", "profile", "augment", "embed"), args, strict=False)) | dict(kwargs)
        others = [m for m in self.copies.modules() if m is not model and "_blockcopy" in vars(m)]
        if given.get("embed") or any(handle(m).is_paused for m in others):
            return (None,)
        if isinstance(given.get("x"), Mapping):
            raise FrameError(
                "the model was called for its loss, but block-sparse execution is for inference. "
                "Call bc.restore_ before training."
            )
        if given.get("augment"):
            raise ConfigError(
                "augment=True runs an image several times, flipped and resized, which would be "
                "taken for the frames of a video. Predict without it, or inside 'with "
                "bc.dense(yolo):'."
            )
        call = super().read_call(args, kwargs)
        self.copies.ran(model)
        names = next((n for m in others if (n := handle(m).named_streams) is not None), None)
        streams, begins = self._streams_of(call, model, named or names is not None)
        streams = streams if names is None else names
        return split_calls(call, streams, self._new_sizes(streams, call.frame, begins))

    def join_turns(self, outputs: Sequence[Any]) -> Any:
        """Join the outputs of the images to those of a batch."""
        return join_batches(outputs)

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Detections in pixels of the network's input; or maps of segmentation and depth."""
        model = self._model()
        found = None if model is None else detections_of(outputs, model.model[-1], call.frame)
        return super().task_outputs(outputs, call) if found is None else found

    def take_apart(self, outputs: Any, call: Call) -> OutputParts | None:
        """Boxes that suppression keeps, and all else that is in the outputs."""
        model, source = self._model(), self.copies.source
        options = {} if source is None or model is None else source.suppression(model)
        size = tuple(call.frame.shape[2:])
        found = None
        if model is not None:
            found = take_head_apart(outputs, model.model[-1], size, **options)
        return super().take_apart(outputs, call) if found is None else found

    def _streams_of(self, call: Call, model: nn.Module, named: bool) -> tuple[tuple, bool]:
        images, source = len(call.frame), self.copies.source
        if source is not None and source.runs(model):
            return source.read(images, named)
        if model is self.copies.original:
            return tuple(range(images)), False
        if source is not None:
            # A validator's batch consists of unrelated pictures.
            return tuple(range(images)), True
        if images > 1 and not named:
            raise FrameError(
                f"a predictor runs {images} images at once, and whether they are frames of one "
                "video or of several cameras cannot be told, as yolo.model was converted and not "
                "the YOLO around it. Convert that: bc.restore_(yolo.model), then "
                "bc.blockcopy_(yolo, ...); or predict with batch=1."
            )
        return tuple(range(images)), False

    def _new_sizes(self, streams: Sequence, frame: Tensor, begins: bool) -> set:
        """Streams that start again: all of them, or those of another size than before."""
        size = tuple(frame.shape[1:])
        restarts = {s for s in streams if begins or self._sizes.get(s, size) != size}
        if begins:
            self._sizes.clear()
        self._sizes.update(dict.fromkeys(streams, size))
        return restarts
