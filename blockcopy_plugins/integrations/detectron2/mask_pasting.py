"""Masks of Detectron2's RoI heads, pasted into the image by this package's kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.modeling import GeneralizedRCNN, PanopticFPN, detector_postprocess
from detectron2.structures import BitMasks, Instances, ROIMasks
from torch import Tensor, nn

from ...ops import library
from ...ops.paste_masks import paste_masks
from ..common.kernel_inputs import is_served
from ..common.rebound_methods import StandIn, rebound, stand_in_for, with_names


class PastedMasks(ROIMasks):
    """Masks of regions that the kernel pastes."""

    def __getitem__(self, item: Any) -> PastedMasks:
        """See :meth:`ROIMasks.__getitem__`."""
        return PastedMasks(super().__getitem__(item).tensor)

    def to_bitmasks(self, boxes: Any, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """See :meth:`ROIMasks.to_bitmasks`."""
        if not (len(self) and is_served(self.tensor, boxes.tensor) and threshold >= 0):
            return super().to_bitmasks(boxes, height, width, threshold)
        return BitMasks(paste_masks(self.tensor, boxes.tensor, int(height), int(width), threshold))


def postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """See :func:`detectron2.modeling.detector_postprocess`."""
    masks = results.get_fields().get("pred_masks")
    if type(masks) is Tensor and masks.dim() == 4:
        fields = results.get_fields() | {"pred_masks": PastedMasks(masks[:, 0])}
        results = Instances(results.image_size, **fields)
    return detector_postprocess(results, output_height, output_width, mask_threshold)


class _Postprocessing(GeneralizedRCNN):
    """What :meth:`GeneralizedRCNN.inference` finds under the name of its class."""

    _postprocess = staticmethod(
        rebound(GeneralizedRCNN._postprocess, {detector_postprocess: postprocess})
    )


_INFERENCE = {
    GeneralizedRCNN.inference: with_names(
        GeneralizedRCNN.inference, {"GeneralizedRCNN": _Postprocessing}
    ),
    PanopticFPN.inference: rebound(PanopticFPN.inference, {detector_postprocess: postprocess}),
}


class PastingInference(StandIn):
    """Replaces ``inference`` of a model that pastes masks."""

    def replacement(self, *args, **kwargs) -> Any:
        """See :meth:`GeneralizedRCNN.inference`."""
        return _INFERENCE[type(self.owner).inference](self.owner, *args, **kwargs)


def paste_masks_fast(model: nn.Module) -> Iterator[StandIn]:
    """Let a model paste masks by the kernel.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if library.has_kernel("paste_masks", "cpu"):
        for method in _INFERENCE:
            yield from stand_in_for(model, "inference", method, PastingInference)
