"""Models of transformers: how they are called, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...engine.adapter import Call, ModelAdapter, first_map
from ..common.batched_frames import join_batches, split_calls
from ..common.task_boxes import query_boxes
from ..common.task_maps import depth_logits, mask_logits

try:
    from transformers.utils import output_capturing
except ImportError:  # Before version 5 there were no such hooks.
    output_capturing = None

# Outputs that may be a map of the frame. Attentions, hidden states and what decoders compute from
# queries have four dimensions, too.
_MAPS = ("logits", "heatmaps", "reconstruction", "feature_maps", "last_hidden_state")


class PixelValuesAdapter(ModelAdapter):
    """Any ``PreTrainedModel`` that takes ``pixel_values``.

    Args:
        config: The model's configuration.

    Attributes:
        in_sequence: Whether the images of a batch are frames of one video in order, like those of a
            pipeline; a frame of another size then starts another video. By default, image i of a
            batch is the next frame of stream i.
    """

    def __init__(self, config: Any) -> None:
        self._classes = getattr(config, "num_labels", 0)
        self.in_sequence = False
        self._size: tuple[int, ...] | None = None

    def turns(self, args: tuple, kwargs: Mapping[str, Any], named: bool) -> Sequence[Call | None]:
        """See :meth:`ModelAdapter.turns`."""
        call = self.read_call(args, kwargs)
        if named or not self.in_sequence:
            return (call,)
        size, self._size = self._size, tuple(call.frame.shape[1:])
        restarts = (0,) if size != self._size else ()
        if len(call.frame) == 1:
            return split_calls(call, (0,), restarts)
        # Other arguments, such as a mask of the padding, also belong to all images.
        return tuple(
            self._one(args, kwargs, len(call.frame), image, restarts if image == 0 else ())
            for image in range(len(call.frame))
        )

    def join_turns(self, outputs: Sequence[Any]) -> Any:
        """Join the outputs of the images to those of a batch."""
        return join_batches(outputs)

    def is_inner_hook(self, hook: Callable) -> bool:
        """The hooks by which a model collects its own hidden states and attentions."""
        return (
            hasattr(output_capturing, "_active_collector")
            and getattr(hook, "__module__", None) == output_capturing.__name__
        )

    def is_observed(self) -> bool:
        """Whether a model around collects what modules inside return."""
        return bool(output_capturing._active_collector.get())

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Boxes, or maps of classes, masks' classes, keypoints, depth or features."""
        if not isinstance(outputs, Mapping):
            return super().task_outputs(outputs, call)
        logits = outputs.get("logits")
        if "pred_boxes" in outputs and logits is not None:
            return query_boxes(
                logits, outputs["pred_boxes"], self._classes, tuple(call.frame.shape[2:])
            )
        if "masks_queries_logits" in outputs:
            classes, masks = outputs["class_queries_logits"], outputs["masks_queries_logits"]
            return list(mask_logits(classes, masks).unbind(0))
        if "predicted_depth" in outputs:
            return list(depth_logits(outputs["predicted_depth"]).unbind(0))
        found = first_map([outputs[name] for name in _MAPS if name in outputs], call.frame)
        return None if found is None else list(found.unbind(0))

    def _one(
        self, args: tuple, kwargs: Mapping[str, Any], images: int, image: int, restarts: tuple
    ) -> Call:
        def pick(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.dim() > 0 and len(value) == images
            return value[image : image + 1] if batched else value

        call = self.read_call(tuple(map(pick, args)), {k: pick(v) for k, v in kwargs.items()})
        return split_calls(call, (0,), restarts)[0]
