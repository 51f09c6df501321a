"""Segmentors of MMSegmentation, which run on blocks up to the logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor, nn

from ...engine.adapter import Call
from ...errors import ConfigError
from ..mmengine.sample_adapter import SampleAdapter

LOGIT_STEP = 4
"""Logits of the original image are compared at every fourth pixel of the network input."""


class SegmentorAdapter(SampleAdapter):
    """Any ``BaseSegmentor`` (``EncoderDecoder``, ``CascadeEncoderDecoder``, ...).

    Blocks end at the logits, at the resolution of the decode head: resizing them to the image and
    choosing each pixel's class are dense. In a cascade, the last head counts; the heads before it
    pass blocks on.

    Args:
        model: The segmentor.

    Raises:
        ConfigError: If its ``test_cfg`` runs it on windows of the image.
    """

    _KIND = "segmentor"

    def __init__(self, model: nn.Module) -> None:
        refuse_windows(model)
        super().__init__()

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether the model is a segmentor of MMSegmentation."""
        return isinstance(model, BaseSegmentor)

    def dense_outputs(self, model: nn.Module) -> Iterable[nn.Module]:
        """The layer that computes the logits, ``conv_seg``, of the last head that has one.

        A segmentor calls its head's ``forward`` directly, without the head's hooks, but the hooks
        of the layers inside do run. Heads after the last classifier (PointRend's) refine its logits
        at points, and heads without one (Mask2Former's) are modules of MMDetection, called as such.
        """
        heads = getattr(model, "decode_head", None)
        heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
        for head in reversed([head for head in heads if head is not None]):
            classifier = getattr(head, "conv_seg", None)
            if isinstance(classifier, nn.Module):
                yield classifier
                return
            yield head

    def task_outputs(self, outputs: Any, call: Call) -> list | None:
        """Logits ``(C, h, w)`` of each image, at the resolution of the decode head.

        If the head has no map of them, those of the data samples, at a quarter of the network
        input's resolution.
        """
        images = len(call.frame)
        for left in call.left.values():
            if isinstance(left, Tensor) and left.dim() == 4 and len(left) == images:
                return list(left.unbind(0))
        if isinstance(outputs, (list, tuple)) and all(hasattr(s, "seg_logits") for s in outputs):
            size = tuple(call.frame.shape[2:])
            return [_logits_of_input(s.seg_logits.data, s.metainfo, size) for s in outputs]
        return super().task_outputs(outputs, call)


def refuse_windows(model: nn.Module) -> None:
    """Refuse a segmentor that runs on windows of the image.

    Args:
        model: Any model; others than segmentors pass.

    Raises:
        ConfigError: If its ``test_cfg`` has another mode than ``'whole'``.
    """
    if not isinstance(model, BaseSegmentor):
        return
    mode = (getattr(model, "test_cfg", None) or {}).get("mode", "whole")
    if mode != "whole":
        raise ConfigError(
            f"the segmentor has test_cfg.mode={mode!r}: it runs on one window of the image after "
            "another, which would be taken for the frames of a video. Run it on whole images, "
            "model.test_cfg=dict(mode='whole') (on a command line: --cfg-options "
            "model.test_cfg.mode=whole)."
        )


def _logits_of_input(logits: Tensor, info: Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """Scale logits ``(C, h, w)`` of the original image to the network input with its padding."""
    left, right, top, bottom = info.get("img_padding_size", info.get("padding_size", (0,) * 4))
    logits = logits.detach().float()
    if len(logits) == 1:
        # MMSegmentation returns the probability of the foreground.
        logits = torch.logit(logits, eps=1e-6)
    inside = (size[0] - top - bottom, size[1] - left - right)
    inside = [max(side // LOGIT_STEP, 1) for side in inside]
    logits = F.adaptive_avg_pool2d(logits, inside)
    return F.pad(logits, [side // LOGIT_STEP for side in (left, right, top, bottom)])
