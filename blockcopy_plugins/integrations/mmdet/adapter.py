"""Detectors of MMDetection: backbone, neck and dense heads on blocks, what follows them dense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor
from torch import nn

from ...engine.adapter import Call, Removable
from ..common.network_scale import FoundObjects, at_network_scale
from ..common.repeated_regions import repeat_regions
from ..common.roi_layers import read_channels_last, replace_roi_layers
from ..mmengine.sample_adapter import SampleAdapter
from .bfloat16_detectors import region_heads, run_in_bfloat16
from .box_selection import select_boxes_fast
from .kept_priors import keep_priors
from .mask_pasting import paste_masks_fast
from .proposals import rank_proposals
from .roi_extraction import replace_extractors

MAP_TO_MAP = ("backbone", "neck")
"""Parts of a detector that take or return feature maps."""

_READING = (BaseDenseHead._predict_by_feat_single, RPNHead._predict_by_feat_single)


class DetectorAdapter(SampleAdapter):
    """Any ``BaseDetector``: its ``forward(inputs, data_samples, mode)`` and its parts."""

    _KIND = "detector"

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a detector of MMDetection."""
        return isinstance(model, BaseDetector)

    def attach(self, model: nn.Module) -> Iterable[Removable]:
        """Let RoI extractors read channels-last maps, and run what follows the heads by kernels.

        The kernels get float32 and return what the framework's functions return.
        """
        yield from super().attach(model)
        yield from replace_roi_layers(model, (RoIAlign,))
        yield from replace_extractors(model)
        yield from run_in_bfloat16(model)
        yield from rank_proposals(model)
        yield from paste_masks_fast(model)
        yield from select_boxes_fast(model)
        yield from keep_priors(model)
        yield from repeat_regions(model, ((head, "forward") for head in region_heads(model)))

    def read_only_inputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The RoI extractors, which read maps and keep none."""
        modules = nn.Module.modules(model)
        return (module for module in modules if isinstance(module, BaseRoIExtractor))

    def reads_channels_last(self, module: nn.Module) -> bool:
        """Whether all layers of a RoI extractor do; all parts before it do anyway."""
        return read_channels_last(module.roi_layers)

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """All heads except the RoI head; their decoding needs whole maps."""
        for name, child in nn.Module.named_children(model):
            if name not in MAP_TO_MAP and not hasattr(child, "bbox_roi_extractor"):
                yield child

    def outputs_are_read(self, module: nn.Module) -> bool:
        """Whether a head's maps go to MMDetection's own decoding, which turns them into boxes."""
        kind = type(module)
        return (
            isinstance(module, BaseDenseHead)
            and kind.predict is BaseDenseHead.predict
            and kind.predict_by_feat is BaseDenseHead.predict_by_feat
            and kind._predict_by_feat_single in _READING
            # What a custom loss does with them is not known.
            and not getattr(getattr(module, "loss_cls", None), "custom_cls_channels", False)
        )

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Detections in pixels of the network input, from data samples in pixels of the image."""
        if not isinstance(outputs, (list, tuple)) or not all(
            hasattr(sample, "pred_instances") for sample in outputs
        ):
            return super().task_outputs(outputs, call)
        size = tuple(call.frame.shape[2:])
        return at_network_scale([found_in(s, s.pred_instances) for s in outputs], size)


def found_in(sample: Any, found: Any) -> FoundObjects:
    """The instances of an image, with its scale.

    Args:
        sample: The image's data sample.
        found: Its ``InstanceData``, in pixels of the image.
    """
    scale_w, scale_h = sample.metainfo.get("scale_factor", (1.0, 1.0))[:2]
    masks = found.get("masks", None)
    return FoundObjects(
        boxes=found.bboxes,
        scores=found.scores,
        labels=found.labels,
        masks=None if masks is None else torch.as_tensor(masks),
        scale=(scale_h, scale_w),
        offset=_padded_before(sample.metainfo),
    )


def _padded_before(metainfo: Mapping[str, Any]) -> tuple[float, float]:
    """Padding above and to the left of the image, px of the network input.

    CenterNet's and CornerNet's pipelines put the image in the middle (``border``), as LetterResize
    of MMYOLO does (``pad_param``); both list top, bottom, left, right.
    """
    for name in ("border", "pad_param"):
        found = metainfo.get(name)
        if found is not None:
            return float(found[0]), float(found[2])
    return 0.0, 0.0
