"""Masks of MMDetection's RoI heads, pasted into the image by this package's kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from ...ops import library
from ...ops.paste_masks import paste_masks
from ..common.kernel_inputs import is_served
from ..common.rebound_methods import StandIn, stand_in_for

_METHOD = "_predict_by_feat_single"


@dataclass(eq=False)
class PastedMasks(StandIn):
    """Replaces :meth:`FCNMaskHead._predict_by_feat_single`."""

    def replacement(
        self, mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=False, activate_map=False
    ) -> Tensor:
        """See :meth:`FCNMaskHead._predict_by_feat_single`."""
        threshold = rcnn_test_cfg.mask_thr_binary
        served = is_served(mask_preds, bboxes) and len(mask_preds) > 0
        if not (served and rescale and threshold >= 0) or activate_map:
            given = (mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map)
            return self.original(*given)
        # In place, as in the class: the caller reads the boxes of the image afterwards.
        bboxes /= bboxes.new_tensor(img_meta["scale_factor"]).repeat((1, 2))
        each = torch.arange(len(labels))
        masks = mask_preds[:, 0] if self.owner.class_agnostic else mask_preds[each, labels]
        height, width = img_meta["ori_shape"][:2]
        return paste_masks(masks.sigmoid(), bboxes, int(height), int(width), threshold)


def paste_masks_fast(model: nn.Module) -> Iterator[StandIn]:
    """Let the mask heads of a detector paste by the kernel.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    if not library.has_kernel("paste_masks", "cpu"):
        return
    yield from stand_in_for(model, _METHOD, FCNMaskHead._predict_by_feat_single, PastedMasks)
